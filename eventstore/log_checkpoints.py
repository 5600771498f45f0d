"""Signed checkpoints: what the whole log looked like at a moment.

A ticket's hash chain cannot show that its last events were cut off, or that a whole ticket is gone.
A checkpoint can: it is a Merkle root over the heads of all tickets, signed with Ed25519, appended
to `log_checkpoints`, and each holds the hash of the one before it. An operator who keeps one
elsewhere can prove later that nothing it covers was changed.

The root alone would not say which ticket is wrong, so the heads are kept too: with each checkpoint
those that are new since the one before it, in `log_checkpoint_heads`.

A checkpoint reads the whole log once, so its cost grows with it. Several processes may take them at
once: the number decides who wins, and the other's work is left out.
"""

import asyncio
import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast
from uuid import UUID, uuid4

import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pymongo.errors import DuplicateKeyError

from eventstore import merkle
from eventstore.documents import CRITICAL, Reader, UnreadableDocument, strictly
from eventstore.driver import Database
from eventstore.envelope import milliseconds
from eventstore.key_files import KeyUnusable, place
from eventstore.store import EventStore

_log = logging.getLogger(__name__)

COLLECTION = "log_checkpoints"
HEADS_COLLECTION = "log_checkpoint_heads"
HEAD_BYTES = 16 + 8 + 32
_HEADS_A_DOCUMENT = 100_000  # 5.6 MB

Heads = dict[UUID, tuple[int, bytes]]
"""The last version and hash of each ticket."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What a checkpoint says; `previous` is the SHA-256 of the statement before it (hex)."""

    number: int
    taken_at: int
    tickets: int
    events: int
    root: str
    previous: str | None

    def signed_bytes(self) -> bytes:
        """Give the bytes that are signed and hashed: JSON, sorted keys, no white space."""
        content = {
            "events": self.events,
            "format": 1,
            "number": self.number,
            "previous": self.previous,
            "root": self.root,
            "taken_at": self.taken_at,
            "tickets": self.tickets,
        }
        return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)

    def digest(self) -> str:
        """Give what the next statement holds as its `previous`."""
        return hashlib.sha256(self.signed_bytes()).hexdigest()


class LogCheckpoint(NamedTuple):
    """A statement, its signature, and the heads that it stands for."""

    statement: Statement
    signature: bytes
    heads: Heads


def signing_key(path: Path) -> Ed25519PrivateKey:
    """Read the key, or make one at first: 0600, with the public key beside it as `<name>.pub`.

    Raises KeyUnusable.
    """
    try:
        if not path.exists():
            _make_key(path)
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyUnusable(f"{path} holds no Ed25519 key")
        public = path.with_suffix(".pub")
        if not public.exists():
            pem = key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            place(public, pem, 0o644)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyUnusable(f"cannot use the key {path}: {error}") from error
    return key


def _make_key(path: Path) -> None:
    private = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    place(path, private)


def key_id(key: Ed25519PublicKey) -> str:
    """Name a public key: the first 16 hex digits of its SHA-256."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]


def leaf(ticket_id: UUID, version: int, hash_: bytes) -> bytes:
    """Give a head as a leaf of the tree: 16 bytes of id, 8 of version (big-endian), 32 of hash."""
    return ticket_id.bytes + version.to_bytes(8, "big") + hash_


async def last_statement(database: Database) -> Statement | None:
    """Return what the last checkpoint says; None if none was taken, or it cannot be read."""
    found = database.collection(COLLECTION).find().sort("_id", -1).limit(1)
    reader = Reader(database.unreadable, COLLECTION, statement_of)
    return next(iter(reader.each(await found.to_list())), None)


class LogCheckpoints:
    """Takes and reads the checkpoints of one database's log."""

    def __init__(self, database: Database, store: EventStore, key: Ed25519PrivateKey) -> None:
        self._database = database
        self._store = store
        self._key = key
        self._checkpoints = database.collection(COLLECTION)
        self._heads = database.collection(HEADS_COLLECTION)

    async def take(self) -> LogCheckpoint | None:
        """Take a checkpoint of the log as it is; None if nothing is new, or another was first.

        Raises KeyUnusable if the log's checkpoints are signed by another key.
        """
        latest = await self._checkpoints.find_one({}, sort=[("_id", -1)])
        own = key_id(self._key.public_key())
        if latest is not None and latest["key_id"] != own:
            raise KeyUnusable(
                f"the checkpoints of this log are signed by key {latest['key_id']}; this is {own}",
                "other_key",
            )
        known = await self.heads()
        # Heads only ever move on. One that is gone or went back stays what it was: a checkpoint
        # speaks for what should be there, and never covers up for a log that lost something.
        new = {
            ticket: head
            for ticket, head in (await self._store.heads()).items()
            if ticket not in known or known[ticket][0] < head[0]
        }
        if latest is not None and not new:
            return None
        heads = {**known, **new}
        statement = await asyncio.to_thread(
            _state,
            heads,
            0 if latest is None else cast("int", latest["_id"]) + 1,
            milliseconds(await self._database.server_time()),
            None if latest is None else statement_of(latest).digest(),
        )
        signature = self._key.sign(statement.signed_bytes())
        parts = [uuid4() for _ in range(0, len(new), _HEADS_A_DOCUMENT)]
        for part, packed in zip(parts, _packed(new), strict=True):
            await self._heads.insert_one({"_id": part, "heads": packed})
        try:
            await self._checkpoints.insert_one(
                {
                    "_id": statement.number,
                    "taken_at": statement.taken_at,
                    "tickets": statement.tickets,
                    "events": statement.events,
                    "root": statement.root,
                    "previous": statement.previous,
                    "key_id": own,
                    "signature": signature,
                    "heads": parts,
                }
            )
        except DuplicateKeyError:  # another process was first: its checkpoint is as good
            await self._heads.delete_many({"_id": {"$in": parts}})
            return None
        return LogCheckpoint(statement, signature, heads)

    async def latest(self) -> LogCheckpoint | None:
        """Give the last checkpoint that was taken."""
        document = await self._checkpoints.find_one({}, sort=[("_id", -1)])
        if document is None:
            return None
        signature = cast("bytes", document["signature"])
        return LogCheckpoint(statement_of(document), signature, await self.heads())

    async def heads(self) -> Heads:
        """Give the heads that the checkpoints so far stand for."""
        heads: Heads = {}
        async for checkpoint in self._database.scan(COLLECTION).sort("_id", 1):
            for part in cast("list[UUID]", checkpoint["heads"]):
                document = await self._heads.find_one({"_id": part})
                if document is not None:
                    heads.update(unpacked(cast("bytes", document["heads"])))
        return heads

    async def keep(self, seconds: float) -> None:
        """Take a checkpoint whenever the last one is so old, until cancelled."""
        while True:
            try:
                await asyncio.sleep(await self._seconds_until_due(seconds))
                taken = await self.take()
                if taken is not None:
                    _log.info("checkpoint %d: %s", taken.statement.number, taken.statement.root)
            except Exception:  # noqa: BLE001
                # Whatever it is, and be it an event that cannot be read: the next one may work.
                _log.exception("no checkpoint of the log was taken")
            await asyncio.sleep(seconds)

    async def _seconds_until_due(self, seconds: float) -> float:
        latest = await self._checkpoints.find_one({}, sort=[("_id", -1)])
        if latest is None:
            return 0.0
        now = milliseconds(await self._database.server_time())
        return max(0.0, seconds - (now - cast("int", latest["taken_at"])) / 1000)


def write_file(path: Path, checkpoint: LogCheckpoint, public: Ed25519PublicKey) -> None:
    """Write a checkpoint with all its heads, for keeping elsewhere.

    JSON lines: the signed statement, then [ticket id, version, hash] for each ticket. A later
    `verify --checkpoint FILE` needs nothing of the database's own checkpoints.
    """
    with path.open("wb") as file:
        header = {
            **orjson.loads(checkpoint.statement.signed_bytes()),
            "key_id": key_id(public),
            "signature": checkpoint.signature.hex(),
        }
        file.write(orjson.dumps(header, option=orjson.OPT_SORT_KEYS) + b"\n")
        for ticket, (version, hash_) in sorted(checkpoint.heads.items()):
            file.write(orjson.dumps([str(ticket), version, hash_.hex()]) + b"\n")


def unpacked(packed: bytes) -> Iterator[tuple[UUID, tuple[int, bytes]]]:
    """Read heads from their stored bytes."""
    for start in range(0, len(packed), HEAD_BYTES):
        one = packed[start : start + HEAD_BYTES]
        yield UUID(bytes=one[:16]), (int.from_bytes(one[16:24], "big"), one[24:])


def _packed(heads: Heads) -> Iterator[bytes]:
    leaves = [leaf(ticket, *head) for ticket, head in sorted(heads.items())]
    for start in range(0, len(leaves), _HEADS_A_DOCUMENT):
        yield b"".join(leaves[start : start + _HEADS_A_DOCUMENT])


def _state(heads: Heads, number: int, taken_at: int, previous: str | None) -> Statement:
    root = merkle.root(leaf(ticket, *head) for ticket, head in sorted(heads.items()))
    events = sum(version for version, _ in heads.values())
    return Statement(number, taken_at, len(heads), events, root.hex(), previous)


_STORED = strictly(Statement, id_field="number")


def statement_of(document: Mapping[str, object]) -> Statement:
    """Raises UnreadableDocument for one that says what this version does not know: it would be
    signed as what came before, and is not.
    """
    if document.get(CRITICAL):
        raise UnreadableDocument(COLLECTION, document["_id"])
    return _STORED(document)
