"""A file of documents that only a passphrase or a master key opens.

    header    JSON: format, what opens it ("passphrase" or "master"), salt, and what belongs to that
    chunks    one a line: base64 of 12 random bytes and of what AES-256-GCM makes of some documents,
              in MongoDB's extended JSON, one a line

The header, the number of a chunk and whether it is the last one are what GCM calls associated data:
a chunk that was changed, moved, left out or cut off at the end does not open. The key is made by
scrypt from a passphrase, or by HMAC-SHA-256 from a master key, with the salt.
"""

import base64
import hashlib
import hmac
import os
from collections.abc import Iterator
from typing import IO, cast

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from domain.values import JsonObject
from eventstore.key_files import KeyUnusable
from eventstore.personal.master_keys import MasterKeys

FORMAT = 1
_CHUNK_BYTES = 2**20
_MOST_CHUNK_BYTES = 64 * 2**20  # a document has 16 MB at most, and base64 and JSON take their share
_NONCE_BYTES, _SALT_BYTES = 12, 16
_SCRYPT_COST, _MOST_COST = 2**16, 2**20


def new_header(masters: MasterKeys | None, passphrase: str | None) -> JsonObject:
    """Return the header of a new file, sealed by a passphrase if one is given."""
    salt = base64.b64encode(os.urandom(_SALT_BYTES)).decode()
    if passphrase is not None:
        return {"format": FORMAT, "by": "passphrase", "salt": salt, "cost": _SCRYPT_COST}
    if masters is None:
        raise KeyUnusable("neither a master key nor a passphrase is at hand", "no_master_key")
    return {"format": FORMAT, "by": "master", "salt": salt, "master": masters.first}


def key_for(header: JsonObject, masters: MasterKeys | None, passphrase: str | None) -> bytes:
    """Return what opens a file. Raises KeyUnusable if it is not at hand."""
    try:
        salt = base64.b64decode(str(header["salt"]), validate=True)
        if header["format"] != FORMAT:
            raise KeyUnusable(f"the keys are sealed in format {header['format']}")
        if header["by"] == "passphrase":
            if passphrase is None:
                raise KeyUnusable("the keys are sealed by a passphrase: name its file")
            cost = cast("int", header["cost"])
            if not 2 <= cost <= _MOST_COST:
                raise KeyUnusable("the keys are sealed at a cost that nobody would choose")
            return Scrypt(salt, 32, cost, 8, 1).derive(passphrase.encode())
        name = str(header["master"])
    except (KeyError, TypeError, ValueError) as error:
        raise KeyUnusable(f"the file of keys cannot be read: {error!r}") from error
    secret = None if masters is None else masters.named(name)
    if secret is None:
        raise KeyUnusable(f"the keys are sealed under master key {name}, not at hand")
    return hmac.digest(secret, b"casebook backup" + salt, hashlib.sha256)


class Writer:
    """Seals lines into a file. It opens only after `end`."""

    def __init__(self, file: IO[bytes], header: JsonObject, key: bytes) -> None:
        self._file = file
        self._first = orjson.dumps(header, option=orjson.OPT_SORT_KEYS)
        self._key = key
        self._number = 0
        self._chunk = bytearray()
        file.write(self._first + b"\n")

    def add(self, line: bytes) -> None:
        """Seal a line, which ends with a line feed."""
        if self._chunk and len(self._chunk) + len(line) > _CHUNK_BYTES:
            self._write(last=False)
        self._chunk += line

    def end(self) -> None:
        """Seal the end."""
        self._write(last=True)

    def _write(self, *, last: bool) -> None:
        nonce = os.urandom(_NONCE_BYTES)
        about = _about(self._first, self._number, last=last)
        sealed = AESGCM(self._key).encrypt(nonce, bytes(self._chunk), about)
        self._file.write(base64.b64encode(nonce + sealed) + b"\n")
        self._number += 1
        self._chunk.clear()


def read_header(file: IO[bytes]) -> JsonObject:
    """Read what opens a file. Raises KeyUnusable."""
    try:
        header: object = orjson.loads(file.readline(_CHUNK_BYTES))
        if isinstance(header, dict):
            return header
    except ValueError as error:
        raise KeyUnusable(f"the file of keys cannot be read: {error}") from error
    raise KeyUnusable("the file of keys cannot be read: it has no header")


def read(file: IO[bytes], header: JsonObject, key: bytes) -> Iterator[bytes]:
    """Yield the lines of a file whose header was just read. Raises KeyUnusable."""
    first = orjson.dumps(header, option=orjson.OPT_SORT_KEYS)
    cipher = AESGCM(key)
    number, ended = 0, False
    while line := file.readline(_MOST_CHUNK_BYTES):
        try:
            sealed = base64.b64decode(line.rstrip(b"\n"), validate=True)
        except ValueError as error:
            raise KeyUnusable("the file of keys is damaged") from error
        nonce, text = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        chunk = None
        for last in (False, True):
            try:
                chunk = cipher.decrypt(nonce, text, _about(first, number, last=last))
                if ended:
                    raise KeyUnusable("the file of keys is damaged: it goes on behind its end")
                ended = last
                break
            except (InvalidTag, ValueError):
                continue
        if chunk is None:
            raise KeyUnusable(
                "the file of keys is damaged"
                if number
                else "the file of keys does not open: another passphrase, another master key, or "
                "it is damaged"
            )
        number += 1
        yield from chunk.splitlines(keepends=True)
    if not ended:
        raise KeyUnusable("the file of keys was cut off")


def _about(first: bytes, number: int, *, last: bool) -> bytes:
    return first + b" %d %s" % (number, b"last" if last else b"more")
