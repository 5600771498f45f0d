"""What a checkpoint of the log says, and the key that signs it.

A statement is signed and hashed as JSON with sorted keys and no white space, and holds the hash of
the statement before it.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field

from domain.values import JsonObject
from eventstore.documents import CRITICAL, UnreadableDocument
from eventstore.key_files import KeyUnusable, place

COLLECTION = "log_checkpoints"
HEADS_COLLECTION = "log_checkpoint_heads"


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, populate_by_name=True)


class Known(_Part):
    """A checkpoint by its number and the SHA-256 of its statement (hex)."""

    number: int
    digest: str


class Restored(_Part):
    """What a statement says of a restore.

    `since`: the last checkpoint whose events are all in the restored log; what later ones stand for
    is given up. `last`: the last checkpoint that the signer knew. `log`: the log's identity.
    """

    since: Known | None = Field(alias="from")
    last: Known | None
    log: str
    why: str


class Statement(_Part):
    """What a checkpoint says; `previous` is the SHA-256 of the statement before it (hex).

    `restored`: the log was restored, and goes on from here.
    """

    number: int
    taken_at: int
    tickets: int
    events: int
    root: str
    previous: str | None
    restored: Restored | None = None

    def content(self) -> JsonObject:
        """Return it as it is signed and stored, but for the format."""
        left_out = {"restored"} if self.restored is None else None
        return self.model_dump(by_alias=True, exclude=left_out)

    def signed_bytes(self) -> bytes:
        """Return the bytes that are signed and hashed."""
        content = {**self.content(), "format": 1 if self.restored is None else 2}
        return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)

    def digest(self) -> str:
        """Return what the next statement holds as its `previous`."""
        return hashlib.sha256(self.signed_bytes()).hexdigest()

    @property
    def known(self) -> Known:
        """Return its number and digest."""
        return Known(number=self.number, digest=self.digest())


def statement_of(document: Mapping[str, object]) -> Statement:
    """Read a stored checkpoint.

    Raises UnreadableDocument for one that says what this version does not know: it would be signed
    as what came before, and is not; ValueError for what is no checkpoint.
    """
    if document.get(CRITICAL):
        raise UnreadableDocument(COLLECTION, document["_id"])
    return Statement.model_validate({**document, "number": document["_id"]})


def leaf(ticket_id: UUID, version: int, hash_: bytes) -> bytes:
    """Return a head as a leaf of the tree: 16 bytes of id, 8 of version (big-endian), 32 of
    hash.
    """
    return ticket_id.bytes + version.to_bytes(8, "big") + hash_


def signing_key(path: Path) -> Ed25519PrivateKey:
    """Read the key, or make one at first: 0600, with the public key beside it as `<name>.pub`.

    Raises KeyUnusable; also if the key is gone that has signed before.
    """
    try:
        if not path.exists():
            if last_path(path).exists():
                raise KeyUnusable(f"{path} is gone, which has signed checkpoints: restore it")
            private = Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            place(path, private)
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyUnusable(f"{path} holds no Ed25519 key")
        pem = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        if not path.with_suffix(".pub").exists():
            place(path.with_suffix(".pub"), pem, 0o644)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyUnusable(f"cannot use the key {path}: {error}") from error
    return key


def last_path(key: Path) -> Path:
    """Return where the last checkpoint that a key has signed is kept, beside the key."""
    return key.with_suffix(".last")


def key_id(key: Ed25519PublicKey) -> str:
    """Name a public key: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]
