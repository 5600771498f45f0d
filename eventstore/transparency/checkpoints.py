"""Signed checkpoints: what the whole log looked like at a moment.

A ticket's hash chain cannot show that its last events were cut off, or that a whole ticket is gone.
A checkpoint can: it is a Merkle root over the heads of all tickets, signed with Ed25519, appended
to `log_checkpoints`, and each holds the hash of the one before it. An operator who keeps one
elsewhere can prove later that nothing it covers was changed.

The root alone would not say which ticket is wrong, so the heads are kept too: with each checkpoint
those that are new since the one before it, in `log_checkpoint_heads`.

A checkpoint reads the whole log once, so its cost grows with it. Several processes may take them at
once: the number decides who wins, and the other's work is left out.

Whoever can write to the database can also remove all checkpoints and let them begin anew at number
0. So the last number and digest are kept beside the signing key, and in the memory of every process
that has seen them (`Witness`): nothing is signed any more once they are gone. A log that was
restored goes on with a signed statement that says so: from which checkpoint, when, and why.
"""

import asyncio
import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, cast
from uuid import UUID, uuid4

import orjson
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from domain.errors import CasebookError
from domain.values import JsonObject
from eventstore.database import Database
from eventstore.documents import CRITICAL, Reader, UnreadableDocument, strictly
from eventstore.event_document import milliseconds
from eventstore.key_files import KeyUnusable, overwrite, place
from eventstore.log import EventStore
from eventstore.mongo.errors import DuplicateKeyError
from eventstore.transparency import merkle

_log = logging.getLogger(__name__)

COLLECTION = "log_checkpoints"
HEADS_COLLECTION = "log_checkpoint_heads"
HEAD_BYTES = 16 + 8 + 32
_HEADS_A_DOCUMENT = 100_000  # 5.6 MB
_LOOK_SECONDS = 30.0
_FIRST_SECONDS = 30.0

Heads = dict[UUID, tuple[int, bytes]]
"""The last version and hash of each ticket."""


class CheckpointsGone(CasebookError):
    """Checkpoints that were seen before are not there any more: the log, or they, were put back."""

    def __init__(self, last: "Known", latest: "Known | None") -> None:
        there = "there are none" if latest is None else f"the last one is {latest.number}"
        super().__init__(
            "checkpoints_gone",
            f"checkpoint {last.number} of this log was signed, and is gone or another one now "
            f"({there}): nothing is signed. If the log was restored, say so where the signing key "
            "is: python -m scripts.checkpoint --restored WHY",
        )


class Known(NamedTuple):
    """A checkpoint by its number and the SHA-256 of its statement (hex)."""

    number: int
    digest: str

    @classmethod
    def read(cls, value: object) -> "Known | None":
        """Read one as it is stored. Raises ValueError."""
        if value is None:
            return None
        match value:
            case {"number": int(number), "digest": str(digest)}:
                return cls(number, digest)
        raise ValueError(f"no checkpoint's number and digest: {value!r}")


class Restored(NamedTuple):
    """What a statement says of a restore.

    `since`: the last checkpoint whose events are all in the restored log; what later ones stand for
    is given up. `last`: the last checkpoint that was known to who signs. `log`: the log's identity.
    """

    since: Known | None
    last: Known | None
    log: str
    why: str

    def stored(self) -> JsonObject:
        """Return it as it is stored and signed."""
        return {
            "from": None if self.since is None else self.since._asdict(),
            "last": None if self.last is None else self.last._asdict(),
            "log": self.log,
            "why": self.why,
        }


@dataclass(frozen=True, slots=True)
class Statement:
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

    def signed_bytes(self) -> bytes:
        """Return the bytes that are signed and hashed: JSON, sorted keys, no white space."""
        content: JsonObject = {
            "events": self.events,
            "format": 1,
            "number": self.number,
            "previous": self.previous,
            "root": self.root,
            "taken_at": self.taken_at,
            "tickets": self.tickets,
        }
        if self.restored is not None:
            content |= {"format": 2, "restored": self.restored.stored()}
        return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)

    @property
    def known(self) -> Known:
        """Return its number and digest."""
        return Known(self.number, self.digest())

    def digest(self) -> str:
        """Return what the next statement holds as its `previous`."""
        return hashlib.sha256(self.signed_bytes()).hexdigest()


class LogCheckpoint(NamedTuple):
    """A statement, its signature, and the heads that it stands for."""

    statement: Statement
    signature: bytes
    heads: Heads


def signing_key(path: Path) -> Ed25519PrivateKey:
    """Read the key, or make one at first: 0600, with the public key beside it as `<name>.pub`.

    Raises KeyUnusable; also if the key is gone that has signed before.
    """
    try:
        if not path.exists():
            if last_path(path).exists():
                raise KeyUnusable(f"{path} is gone, which has signed checkpoints: restore it")
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


def last_path(key: Path) -> Path:
    """Return where the last checkpoint that a key has signed is kept, beside the key."""
    return key.with_suffix(".last")


def key_id(key: Ed25519PublicKey) -> str:
    """Name a public key: the first 16 hex digits of its SHA-256."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]


def leaf(ticket_id: UUID, version: int, hash_: bytes) -> bytes:
    """Return a head as a leaf of the tree: 16 bytes of id, 8 of version (big-endian), 32 of
    hash.
    """
    return ticket_id.bytes + version.to_bytes(8, "big") + hash_


async def last_statement(database: Database) -> Statement | None:
    """Return what the last checkpoint says; None if none was taken, or it cannot be read."""
    found = database.collection(COLLECTION).find().sort("_id", -1).limit(1)
    reader = Reader(database.unreadable, COLLECTION, statement_of)
    return next(iter(reader.each(await found.to_list())), None)


class Witness:
    """Remembers the last checkpoint that was seen: for as long as it lives, and in a file if given
    one.
    """

    def __init__(
        self, database: Database, key: Ed25519PublicKey | None = None, file: Path | None = None
    ) -> None:
        """`key`: only what it has signed is remembered."""
        self._checkpoints = database.collection(COLLECTION)
        self._key = key
        self._file = file
        self._last: Known | None = None
        self._warned = False
        self._told: Known | None = None
        self._supervisor = database.supervisor
        self.missing: Known | None = None
        """The last checkpoint that was seen, if it was found to be gone."""

    def last(self) -> Known | None:
        """Return the last checkpoint that was seen. Raises KeyUnusable."""
        try:
            kept = None
            if self._file is not None and self._file.exists():
                kept = Known.read(orjson.loads(self._file.read_bytes()))
        except (OSError, ValueError) as error:
            raise KeyUnusable(f"cannot read {self._file}: {error}") from error
        seen = [each for each in (kept, self._last) if each is not None]
        return max(seen, default=None)

    async def look(self) -> Statement | None:
        """Return what the last checkpoint says, and remember it.

        Raises CheckpointsGone if the last one that was seen is not there any more, and no signed
        restore gave it up; KeyUnusable.
        """
        document = await self._checkpoints.find_one({}, sort=[("_id", -1)])
        latest = None if document is None else statement_of(document)
        last = self.last()
        if last is not None:
            there = await self._checkpoints.find_one({"_id": last.number})
            stands = there is not None and statement_of(there).digest() == last.digest
            if not stands and not await self._is_given_up(last.number):
                self.missing = last
                raise CheckpointsGone(last, None if latest is None else latest.known)
        self.missing = None
        if document is not None and latest is not None:
            self._check_signature(document, latest)
            self.remember(latest.known)
        return latest

    async def _is_given_up(self, number: int) -> bool:
        """Say whether a later statement of a restore, signed by the key, gave a checkpoint up."""
        later = {"_id": {"$gt": number}, "restored": {"$ne": None}}
        async for document in self._checkpoints.find(later):
            statement = statement_of(document)
            if statement.restored is None:
                continue
            since = statement.restored.since
            if since is None or since.number < number:
                with suppress(KeyUnusable):
                    self._check_signature(document, statement)
                    return True
        return False

    def _check_signature(self, document: Mapping[str, object], statement: Statement) -> None:
        if self._key is None:
            return
        own = key_id(self._key)
        if document["key_id"] != own:
            raise KeyUnusable(
                f"the checkpoints of this log are signed by key {document['key_id']}; this is "
                f"{own}",
                "other_key",
            )
        try:
            self._key.verify(cast("bytes", document["signature"]), statement.signed_bytes())
        except InvalidSignature as error:
            raise KeyUnusable(
                f"checkpoint {statement.number} is not as it was signed: verify the log"
            ) from error

    def remember(self, seen: Known) -> None:
        """Remember a checkpoint, unless a later one is remembered. Raises KeyUnusable."""
        last = self.last()
        if last is None or seen.number > last.number:
            self._last = seen
            self._write(seen)

    def _write(self, seen: Known) -> None:
        if self._file is None:
            return
        try:
            overwrite(self._file, orjson.dumps(seen._asdict(), option=orjson.OPT_APPEND_NEWLINE))
        except OSError as error:
            if not self._warned:
                _log.warning(
                    "the last checkpoint is kept in memory alone, for %s cannot be written: %s",
                    self._file,
                    error,
                )
            self._warned = True

    async def watch(self) -> None:
        """Look now and then until cancelled; say it once when checkpoints are gone."""
        await self._supervisor.keep(
            self._look_now, "looking at the log's checkpoints", _LOOK_SECONDS
        )

    async def _look_now(self) -> None:
        try:
            await self.look()
        except CheckpointsGone as gone:
            if self._told != self.missing:
                _log.error("%s", gone.detail)
            self._told = self.missing


class LogCheckpoints:
    """Takes and reads the checkpoints of one database's log."""

    def __init__(
        self,
        database: Database,
        store: EventStore,
        key: Ed25519PrivateKey,
        file: Path | None = None,
    ) -> None:
        """`file`: where the last checkpoint is remembered (`last_path`)."""
        self._database = database
        self._store = store
        self._key = key
        self._witness = Witness(database, key.public_key(), file)
        self._checkpoints = database.collection(COLLECTION)
        self._heads = database.collection(HEADS_COLLECTION)

    async def take(self) -> LogCheckpoint | None:
        """Take a checkpoint of the log as it is; None if nothing is new, or another was first.

        Raises KeyUnusable if the log's checkpoints are signed by another key; CheckpointsGone.
        """
        latest = await self._witness.look()
        known = await self.heads()
        # Heads only ever move on. One that is gone or went back stays what it was: a checkpoint
        # speaks for what should be there, and never covers up for a log that lost something.
        new = {
            ticket: head
            for ticket, head in (await self._store.heads()).items()
            if ticket not in known or known[ticket][0] < head[0]
        }
        if not new:
            return None
        number = 0 if latest is None else latest.number + 1
        return await self._sign({**known, **new}, new, number, latest)

    async def take_restored(self, why: str, log: UUID) -> LogCheckpoint:
        """Sign that the log was restored, and stands for what it holds now.

        Raises KeyUnusable if the log's checkpoints are signed by another key.
        """
        latest: Statement | None = None
        try:
            latest = await self._witness.look()
        except CheckpointsGone:
            document = await self._checkpoints.find_one({}, sort=[("_id", -1)])
            latest = None if document is None else statement_of(document)
        heads, since = await self._compared()
        seen = [each for each in (latest and latest.known, self._witness.last()) if each]
        last = max(seen, default=None)
        restored = Restored(since, last, str(log), why)
        number = 0 if last is None else last.number + 1
        taken = await self._sign(heads, heads, number, latest, restored)
        if taken is None:
            raise CheckpointsGone(Known(number, ""), None if latest is None else latest.known)
        return taken

    async def _compared(self) -> tuple[Heads, Known | None]:
        """Return the log's heads, and the last checkpoint whose events are all in the log."""
        claims: dict[tuple[UUID, int], list[tuple[int, bytes]]] = {}
        statements: list[Statement] = []
        async for document in self._database.scan(COLLECTION).sort("_id", 1):
            statement = statement_of(document)
            if statement.restored is not None:
                since = statement.restored.since
                upto = -1 if since is None else since.number
                statements = [each for each in statements if each.number <= upto]
            statements.append(statement)
            for ticket, (version, hash_) in (await self._parts(document)).items():
                claims.setdefault((ticket, version), []).append((statement.number, hash_))
        heads: Heads = {}
        lost: set[int] = set()
        async for ticket, version, hash_ in self._store.hashes():
            if ticket not in heads or heads[ticket][0] < version:
                heads[ticket] = (version, hash_)
            for number, claimed in claims.pop((ticket, version), ()):
                if claimed != hash_:
                    lost.add(number)
        lost |= {number for each in claims.values() for number, _ in each}
        since = None
        for statement in statements:
            if statement.number in lost:
                break
            since = statement.known
        return heads, since

    async def _sign(
        self,
        heads: Heads,
        new: Heads,
        number: int,
        latest: Statement | None,
        restored: Restored | None = None,
    ) -> LogCheckpoint | None:
        """Write a checkpoint; None if another process was first: its checkpoint is as good."""
        statement = await asyncio.to_thread(
            _state,
            heads,
            number,
            milliseconds(await self._database.server_time()),
            None if latest is None else latest.digest(),
            restored,
        )
        if await self._checkpoints.find_one({"_id": number}, {"_id": 1}) is not None:
            return None
        signature = self._key.sign(statement.signed_bytes())
        parts = [uuid4() for _ in range(0, len(new), _HEADS_A_DOCUMENT)]
        for part, packed in zip(parts, _packed(new), strict=True):
            await self._heads.insert_one({"_id": part, "heads": packed})
        content: JsonObject = {
            "_id": statement.number,
            "taken_at": statement.taken_at,
            "tickets": statement.tickets,
            "events": statement.events,
            "root": statement.root,
            "previous": statement.previous,
            "key_id": key_id(self._key.public_key()),
            "signature": signature,
            "heads": parts,
        }
        if restored is not None:
            content["restored"] = restored.stored()
        try:
            await self._checkpoints.insert_one(content)
        except DuplicateKeyError:
            # The heads stay: nobody who takes checkpoints may remove anything here.
            return None
        self._witness.remember(statement.known)
        return LogCheckpoint(statement, signature, heads)

    async def latest(self) -> LogCheckpoint | None:
        """Return the last checkpoint that was taken."""
        document = await self._checkpoints.find_one({}, sort=[("_id", -1)])
        if document is None:
            return None
        signature = cast("bytes", document["signature"])
        return LogCheckpoint(statement_of(document), signature, await self.heads())

    async def heads(self) -> Heads:
        """Return the heads that the checkpoints so far stand for."""
        heads: Heads = {}
        async for checkpoint in self._database.scan(COLLECTION).sort("_id", 1):
            if checkpoint.get("restored") is not None:
                heads = {}  # it holds all of them
            heads |= await self._parts(checkpoint)
        return heads

    async def _parts(self, checkpoint: Mapping[str, object]) -> Heads:
        """Return the heads that are stored with a checkpoint."""
        heads: Heads = {}
        for part in cast("list[UUID]", checkpoint["heads"]):
            document = await self._heads.find_one({"_id": part})
            if document is not None:
                heads.update(unpacked(cast("bytes", document["heads"])))
        return heads

    async def keep(self, seconds: float) -> None:
        """Take a checkpoint whenever the last one is so old, until cancelled.

        The first one soon after there are events: until then nothing vouches for them.
        """

        async def take_when_due() -> None:
            await asyncio.sleep(await self._seconds_until_due(seconds))
            taken = await self.take()
            if taken is not None:
                _log.info("checkpoint %d: %s", taken.statement.number, taken.statement.root)
            elif await self._checkpoints.find_one({}, {"_id": 1}) is not None:
                await asyncio.sleep(seconds)

        await self._database.supervisor.keep(
            take_when_due, "taking checkpoints of the log", min(seconds, _FIRST_SECONDS), seconds
        )

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


def _state(
    heads: Heads, number: int, taken_at: int, previous: str | None, restored: Restored | None
) -> Statement:
    root = merkle.root(leaf(ticket, *head) for ticket, head in sorted(heads.items()))
    events = sum(version for version, _ in heads.values())
    return Statement(number, taken_at, len(heads), events, root.hex(), previous, restored)


_STORED = strictly(Statement, id_field="number")


def statement_of(document: Mapping[str, object]) -> Statement:
    """Raises UnreadableDocument for one that says what this version does not know: it would be
    signed as what came before, and is not.
    """
    if document.get(CRITICAL):
        raise UnreadableDocument(COLLECTION, document["_id"])
    restored = _restored(cast("Mapping[str, object] | None", document.get("restored")))
    return replace(_STORED({**document, "restored": None}), restored=restored)


def _restored(content: Mapping[str, object] | None) -> Restored | None:
    if content is None:
        return None
    since, last = Known.read(content["from"]), Known.read(content["last"])
    return Restored(since, last, str(content["log"]), str(content["why"]))
