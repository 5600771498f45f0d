"""What signed checkpoints say should be in the log, and whether they are as they were signed.

Written from docs/explanation/proof.md alone, as `scripts/hash_chains.py` is from hash-chain.md.
A checkpoint is read from the database, or from a file that was kept elsewhere.
"""

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, Field, ValidationError

from domain.errors import faults_of
from eventstore.database import Database
from scripts.hash_chains import CannotVerify, Fault, Head, Kind, Verification, canonical

_LEAF = struct.Struct(">16sQ32s")
_SIGNED = {"events", "number", "previous", "root", "taken_at", "tickets"}


class Known(BaseModel, strict=True, frozen=True):
    """A checkpoint by its number and the SHA-256 of its statement (hex)."""

    number: int
    digest: str


class Restored(BaseModel, strict=True, frozen=True):
    """What a statement says of a restore: the checkpoint that the log goes on from, the last that
    was known, the log's identity, and why.
    """

    since: Known | None = Field(alias="from")
    last: Known | None
    log: str
    why: str


class Checkpoint(BaseModel, strict=True, frozen=True):
    """A signed statement, as it is stored."""

    number: int = Field(alias="_id")
    taken_at: int
    tickets: int
    events: int
    root: str
    previous: str | None
    restored: Restored | None = None
    signature: bytes
    heads: list[UUID]
    """Which documents hold the heads that are new in it."""

    def checked_digest(self, key: Ed25519PublicKey) -> str:
        """Return the SHA-256 of the signed bytes (hex). Raises InvalidSignature."""
        content = {**self.model_dump(include=_SIGNED), "format": 1}
        if self.restored is not None:
            content |= {"format": 2, "restored": self.restored.model_dump(by_alias=True)}
        signed = canonical(content)
        key.verify(self.signature, signed)
        return hashlib.sha256(signed).hexdigest()


@dataclass(slots=True)
class Signed:
    """What the signed checkpoints of a log say, one after the other."""

    digests: dict[int, str] = field(default_factory=dict)
    """By number: the SHA-256 of the statement (hex)."""
    claims: dict[int, Mapping[str, Head]] = field(default_factory=dict)
    """By number: the heads that are new in it; not of those that a restore gave up."""
    restores: dict[int, Restored] = field(default_factory=dict)
    latest: Checkpoint | None = None

    def follow(self, checkpoint: Checkpoint, digest: str, heads: Mapping[str, Head]) -> None:
        """Take the next statement, whose signature was checked, with the heads that are new in it.

        Raises ValueError if it does not follow the one before it.
        """
        number, restored = checkpoint.number, checkpoint.restored
        before = max(self.digests, default=-1)
        last = _number(restored.last) if restored else before
        if (
            checkpoint.previous != self.digests.get(before)
            or number != last + 1
            or number <= before
        ):
            raise ValueError("it does not follow the one before it")
        if restored is not None:
            since = restored.since
            if since and self.digests.get(since.number) != since.digest:
                raise ValueError("the checkpoint is not there from which it goes on")
            kept = {n: claim for n, claim in self.claims.items() if n <= _number(since)}
            self.claims = kept
            self.restores[number] = restored
        self.digests[number] = digest
        self.claims[number] = heads
        self.latest = checkpoint

    def heads(self) -> dict[str, Head]:
        """Return the heads that the last checkpoint stands for."""
        first = max(self.restores, default=0)  # which has all heads, and not only new ones
        heads: dict[str, Head] = {}
        for number, claim in self.claims.items():
            if number >= first:
                heads |= claim
        return heads

    def given_up_by(self, number: int) -> int | None:
        """Return the number of the restore that gave a checkpoint up; None if none did."""
        for restore, restored in self.restores.items():
            if _number(restored.since) < number < restore:
                return restore
        return None


def _number(known: Known | None) -> int:
    return -1 if known is None else known.number


def root_of(heads: Mapping[str, Head]) -> str:
    """Return the Merkle root (RFC 6962) over heads, in hex."""
    leaves = sorted(
        _LEAF.pack(UUID(ticket).bytes, version, bytes.fromhex(hash_))
        for ticket, (version, hash_) in heads.items()
    )
    return _tree([hashlib.sha256(b"\x00" + leaf).digest() for leaf in leaves]).hex()


def _tree(nodes: Sequence[bytes]) -> bytes:
    if not nodes:
        return hashlib.sha256(b"").digest()
    while len(nodes) > 1:
        pairs = zip(nodes[0::2], nodes[1::2], strict=False)
        joined = [hashlib.sha256(b"\x01" + left + right).digest() for left, right in pairs]
        nodes = [*joined, nodes[-1]] if len(nodes) % 2 else joined
    return nodes[0]


async def expect_database_checkpoints(
    db: Database, key: Ed25519PublicKey | None, verification: Verification
) -> Signed:
    """Check the signed checkpoints in the database; take note of their heads; return what they say.

    Raises CannotVerify if there are some and the key is not the one that they name.
    """
    signed = Signed()
    async for document in db.scan("log_checkpoints").sort("_id", 1):
        if key is None:
            raise CannotVerify("there are checkpoints, but no public key: name it with --key")
        if document.get("key_id") != key_id(key):
            raise CannotVerify(
                f"checkpoint {document.get('_id')} is signed by key {document.get('key_id')}, and "
                f"the key at hand is {key_id(key)}: name the right one with --key"
            )
        try:
            checkpoint = Checkpoint.model_validate(document)
            digest = checkpoint.checked_digest(key)
            signed.follow(checkpoint, digest, await _heads_of(db, checkpoint))
        except (InvalidSignature, ValueError, struct.error) as error:
            reason = faults_of(error) if isinstance(error, ValidationError) else str(error)
            at = max(signed.digests, default=-1) + 1
            reason = reason or "its signature is not of this content"
            verification.add(_fault(at, "edited", reason))
            break
    for claim in signed.claims.values():
        verification.expect(claim)
    # The last root stands for all heads. One that was altered before is found in the log itself.
    if signed.latest and root_of(signed.heads()) != signed.latest.root:
        detail = "its heads are not those of its root"
        verification.add(_fault(signed.latest.number, "edited", detail))
    return signed


def _fault(number: int, kind: Kind, detail: str) -> Fault:
    return Fault(f"(checkpoint {number})", number, kind, detail)


async def _heads_of(db: Database, checkpoint: Checkpoint) -> dict[str, Head]:
    heads: dict[str, Head] = {}
    for part in checkpoint.heads:
        match await db.collection("log_checkpoint_heads").find_one({"_id": part}):
            case {"heads": bytes(packed)}:
                for ticket, version, hash_ in _LEAF.iter_unpack(packed):
                    heads[str(UUID(bytes=ticket))] = (version, hash_.hex())
            case _:
                raise ValueError("some of its heads are gone")
    return heads


def compare_kept(kept: Known, signed: Signed, verification: Verification) -> str | None:
    """Compare a checkpoint that was kept elsewhere with that of the same number in the database.

    Return what is to be said of it, if it is not a fault.
    """
    number = kept.number
    restore = signed.given_up_by(number)
    if number in signed.digests:
        if signed.digests[number] != kept.digest:
            verification.add(_fault(number, "edited", "the database has another one"))
    elif restore is None:
        verification.add(_fault(number, "deleted", "the database has it no more"))
    else:
        return f"checkpoint {number}, which was kept, was given up by the restore of {restore}"
    return None


def read_last(path: Path) -> Known | None:
    """Read which checkpoint was last seen beside the signing key; None if none is kept there.

    Raises CannotVerify.
    """
    try:
        return Known.model_validate_json(path.read_bytes()) if path.exists() else None
    except (OSError, ValueError) as error:
        raise CannotVerify(f"cannot read {path}: {error}") from error


def expect_checkpoint_file(
    path: Path, key: Ed25519PublicKey | None, verification: Verification
) -> Known:
    """Check a checkpoint that was kept elsewhere; take note of its heads; return which it is.

    Raises CannotVerify.
    """
    if key is None:
        raise CannotVerify("a checkpoint is checked with its public key: name it with --key")
    try:
        statement, *lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        signature = bytes.fromhex(statement["signature"])
        stored = {**statement, "_id": statement["number"], "signature": signature, "heads": []}
        checkpoint = Checkpoint.model_validate(stored)
        digest = checkpoint.checked_digest(key)
        heads = {ticket: (version, hash_) for ticket, version, hash_ in lines}
        if root_of(heads) != checkpoint.root:
            raise CannotVerify(f"{path}: its heads are not those of its root")
    except InvalidSignature as error:
        raise CannotVerify(f"{path}: its signature is not by this key") from error
    except (OSError, KeyError, TypeError, ValueError, struct.error) as error:
        raise CannotVerify(f"cannot read the checkpoint {path}: {error}") from error
    verification.expect(heads)
    return Known(number=checkpoint.number, digest=digest)


def read_key(path: Path, *, needed: bool) -> Ed25519PublicKey | None:
    """Read a public key; None if it is not there and not needed. Raises CannotVerify."""
    if not needed and not path.exists():
        return None
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise CannotVerify(f"cannot read the key {path}: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise CannotVerify(f"{path} holds no Ed25519 key")
    return key


def key_id(key: Ed25519PublicKey) -> str:
    """Name a public key: the first 16 hex digits of its SHA-256."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]
