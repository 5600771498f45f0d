"""The keys that wrap the keys of persons: kept apart from every database.

A master key is 32 random bytes, written as base64. Where several are given, the first wraps what is
new and the others still unwrap: so one takes another's place while everything runs
(`scripts/persons.py rewrap`).
"""

import base64
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from eventstore.key_files import KeyUnusable

_KEY_BYTES = 32
_NONCE_BYTES = 12
_TEXT, _FILE = "CASEBOOK_MASTER_KEY", "CASEBOOK_MASTER_KEY_FILE"


class Wrapped(NamedTuple):
    """A secret, encrypted, and which master key opens it."""

    master: str
    secret: bytes


def new_master_key() -> str:
    """Make one, as it is written."""
    return base64.b64encode(os.urandom(_KEY_BYTES)).decode()


@dataclass(frozen=True, repr=False)
class MasterKeys:
    """The master keys at hand; the first one wraps."""

    secrets: tuple[bytes, ...]

    @classmethod
    def read(cls, text: str) -> "MasterKeys":
        """Read them as they are written, with white space or commas between. Raises KeyUnusable."""
        try:
            words = [word for word in re.split(r"[\s,]+", text) if word]
            secrets = tuple(base64.b64decode(word, validate=True) for word in words)
        except ValueError as error:
            raise KeyUnusable("a master key is no base64") from error
        if not secrets or any(len(secret) != _KEY_BYTES for secret in secrets):
            raise KeyUnusable(f"a master key is {_KEY_BYTES} bytes, written as base64")
        return cls(secrets)

    @classmethod
    def in_file(cls, path: Path) -> "MasterKeys":
        """Read those of a file. Raises KeyUnusable."""
        try:
            return cls.read(path.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise KeyUnusable(f"cannot read the master key {path}: {error}") from error
        except KeyUnusable as error:
            raise KeyUnusable(f"{path}: {error.detail}") from error

    @classmethod
    def given(cls, environment: Mapping[str, str] = os.environ) -> "MasterKeys | None":
        """Read those that the environment gives, if it does. Raises KeyUnusable."""
        if text := environment.get(_TEXT, "").strip():
            return cls.read(text)
        file = environment.get(_FILE, "").strip()
        return cls.in_file(Path(file)) if file else None

    @property
    def first(self) -> str:
        """Name the one that wraps."""
        return _name(self.secrets[0])

    def named(self, name: str) -> bytes | None:
        """Return the secret of the key of a name; None if it is not at hand."""
        return next((secret for secret in self.secrets if _name(secret) == name), None)

    def wrap(self, secret: bytes, of: bytes) -> Wrapped:
        """Encrypt a secret, so that it opens as that of `of` alone."""
        nonce = os.urandom(_NONCE_BYTES)
        return Wrapped(self.first, nonce + AESGCM(self.secrets[0]).encrypt(nonce, secret, of))

    def unwrap(self, wrapped: Wrapped, of: bytes) -> bytes:
        """Decrypt it again. Raises KeyUnusable."""
        secret = self.named(wrapped.master)
        if secret is None:
            raise KeyUnusable(f"the keys of persons need master key {wrapped.master}, not at hand")
        nonce, sealed = wrapped.secret[:_NONCE_BYTES], wrapped.secret[_NONCE_BYTES:]
        try:
            return AESGCM(secret).decrypt(nonce, sealed, of)
        except InvalidTag as error:
            raise KeyUnusable("a key of a person was tampered with") from error


def _name(secret: bytes) -> str:
    return hashlib.sha256(b"casebook master key" + secret).hexdigest()[:16]
