"""Signed checkpoints: what the whole log looked like at a moment.

A ticket's hash chain cannot show that its last events were cut off, or that a whole ticket is gone.
A checkpoint can: it is a Merkle root over the heads of all tickets, signed with Ed25519, appended
to `log_checkpoints`, and each holds the hash of the one before it. An operator who keeps one
elsewhere can prove later that nothing it covers was changed.

The root alone would not say which ticket is wrong, so the heads are kept too: with each checkpoint
those that are new since the one before it, in `log_checkpoint_heads`.

A process reads the whole log for the first checkpoint that it takes, and again once a day; for
others, what was recorded since it last did, and the checkpoints that others have taken. How far it
has read is in its memory alone: in the database it would be another place where a part of the log
could be left out unseen. The heads stay in memory too (`heads.py`), for the tree is over all of
them. Several processes may take checkpoints at once: the number decides who wins, and the other's
work is left out.

A user who can write to the database can also remove all checkpoints and let them begin anew at
number 0. So the last number and digest are kept beside the signing key, and in the memory of every
process that has seen them (`CheckpointMemory`): nothing is signed any more once they are gone. A
log that was restored goes on with a signed statement that says so: from which checkpoint, when, and
why.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from random import random
from typing import NamedTuple, cast
from uuid import UUID, uuid4

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from domain.errors import CasebookError
from domain.values import JsonObject
from eventstore.database import Database
from eventstore.documents import Reader
from eventstore.event_document import milliseconds
from eventstore.key_files import KeyUnusable, overwrite
from eventstore.log import EventStore, Heads
from eventstore.mongo.driver import Collection
from eventstore.mongo.errors import DuplicateKeyError
from eventstore.subscription import LOOK_BACK
from eventstore.transparency.heads import PackedHeads
from eventstore.transparency.statements import (
    COLLECTION,
    HEADS_COLLECTION,
    Known,
    Restored,
    Statement,
    key_id,
    statement_of,
)

_log = logging.getLogger(__name__)

_READ_WHOLE = timedelta(days=1)
_HEADS_A_DOCUMENT = 100_000  # 5.6 MB
_LOOK_SECONDS = 30.0
_FIRST_SECONDS = 30.0


class CheckpointsGone(CasebookError):
    """Checkpoints that were seen before are not there any more: the log, or they, were put back."""

    def __init__(self, last: int, latest: Statement | None) -> None:
        there = "there are none" if latest is None else f"the last one is {latest.number}"
        super().__init__(
            "checkpoints_gone",
            f"checkpoint {last} of this log was signed, and is gone or another one now "
            f"({there}): nothing is signed. If the log was restored, say so where the signing key "
            "is: casebook checkpoint --restored WHY",
        )


class LogCheckpoint(NamedTuple):
    """A statement, its signature, and the heads that it stands for."""

    statement: Statement
    signature: bytes
    heads: PackedHeads


async def last_statement(database: Database) -> Statement | None:
    """Return what the last checkpoint says; None if none was taken, or it cannot be read."""
    document = await _latest(database.collection(COLLECTION))
    reader = Reader(database.unreadable, COLLECTION, statement_of)
    return next(iter(reader.each([document] if document else [])), None)


async def _latest(checkpoints: Collection) -> JsonObject | None:
    return await checkpoints.find_one({}, sort=[("_id", -1)])


def _later(*known: Known | None) -> Known | None:
    return max((each for each in known if each), key=lambda each: each.number, default=None)


class CheckpointMemory:
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
        self._logged: Known | None = None
        self._supervisor = database.supervisor
        self.missing: Known | None = None
        """The last checkpoint that was seen, if it was found to be gone."""

    def last(self) -> Known | None:
        """Return the last checkpoint that was seen. Raises KeyUnusable."""
        try:
            kept = None
            if self._file is not None and self._file.exists():
                kept = Known.model_validate_json(self._file.read_bytes())
        except (OSError, ValueError) as error:
            raise KeyUnusable(f"cannot read {self._file}: {error}") from error
        return _later(kept, self._last)

    async def look(self) -> Statement | None:
        """Return what the last checkpoint says, and remember it.

        Raises CheckpointsGone if the last one that was seen is not there any more, and no signed
        restore gave it up; KeyUnusable.
        """
        document, last = await _latest(self._checkpoints), self.last()
        latest = None if document is None else statement_of(document)
        if last is not None:
            there = await self._checkpoints.find_one({"_id": last.number})
            stands = there is not None and statement_of(there).digest() == last.digest
            if not stands and not await self._is_given_up(last.number):
                self.missing = last
                raise CheckpointsGone(last.number, latest)
        self.missing = None
        if document is not None and latest is not None:
            self._check_signature(document, latest)
            self.remember(latest.known)
        return latest

    async def _is_given_up(self, number: int) -> bool:
        """Say whether a later statement of a restore, signed by the key, gave a checkpoint up."""
        later = {"_id": {"$gt": number}, "restored": {"$ne": None}}
        async for document in self._checkpoints.find(later):
            restored = (statement := statement_of(document)).restored
            if restored and (restored.since is None or restored.since.number < number):
                with suppress(KeyUnusable):
                    self._check_signature(document, statement)
                    return True
        return False

    def _check_signature(self, document: Mapping[str, object], statement: Statement) -> None:
        if self._key is None:
            return
        if document["key_id"] != (own := key_id(self._key)):
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
        if last is not None and seen.number <= last.number:
            return
        self._last = seen
        try:
            if self._file is not None:
                overwrite(self._file, f"{seen.model_dump_json()}\n".encode())
        except OSError as error:
            if not self._warned:
                _log.warning(
                    "the last checkpoint is kept in memory alone, for %s cannot be written: %s",
                    self._file,
                    error,
                )
            self._warned = True

    async def watch(self) -> None:
        """Look now and then until cancelled; log it once when checkpoints are gone."""
        what = "looking at the log's checkpoints"
        await self._supervisor.keep(self._look_now, what, _LOOK_SECONDS)

    async def _look_now(self) -> None:
        try:
            await self.look()
        except CheckpointsGone as gone:
            if self._logged != self.missing:
                _log.error("%s", gone.detail)
            self._logged = self.missing


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
        self._witness = CheckpointMemory(database, key.public_key(), file)
        self._checkpoints = database.collection(COLLECTION)
        self._heads = database.collection(HEADS_COLLECTION)
        self._covered = PackedHeads()
        self._last_number = -1  # of the checkpoints that cover them
        self._uncovered: Heads = {}
        self._read_at: datetime | None = None
        self._read_whole_at: datetime | None = None

    async def take(self) -> LogCheckpoint | None:
        """Take a checkpoint of the log as it is; None if nothing is new, or another was first.

        Raises KeyUnusable if the log's checkpoints are signed by another key; CheckpointsGone.
        """
        latest = await self._witness.look()
        covered = await self.heads()
        await self._read_on()
        # Heads only ever move on. One that is gone or went back stays what it was: a checkpoint
        # speaks for what should be there, and never covers up for a log that lost something.
        new = self._uncovered = await asyncio.to_thread(covered.newer, self._uncovered)
        if not new:
            return None
        number = 0 if latest is None else latest.number + 1
        return await self._sign(await asyncio.to_thread(covered.updated, new), new, number, latest)

    async def _read_on(self) -> None:
        """Find the heads of what was recorded since this was called before; once a day, of all."""
        now, read_at, whole_at = self._store.clock.now(), self._read_at, self._read_whole_at
        since = None
        # A clock that was ahead, and was put back, tells nothing of what has been read.
        if read_at and whole_at and read_at <= now < whole_at + _READ_WHOLE:
            since = read_at - LOOK_BACK
        self._uncovered |= await self._store.heads(since)
        self._read_at, self._read_whole_at = now, whole_at if since else now

    async def take_restored(self, why: str, log: UUID) -> LogCheckpoint:
        """Sign that the log was restored, and stands for what it holds now.

        Raises KeyUnusable if the log's checkpoints are signed by another key.
        """
        try:
            latest = await self._witness.look()
        except CheckpointsGone:
            document = await _latest(self._checkpoints)
            latest = None if document is None else statement_of(document)
        heads, since = await self._compared()
        last = _later(latest.known if latest else None, self._witness.last())
        restored = Restored(since=since, last=last, log=str(log), why=why)
        number = 0 if last is None else last.number + 1
        packed = await asyncio.to_thread(PackedHeads().updated, heads)
        taken = await self._sign(packed, heads, number, latest, restored)
        if taken is None:
            raise CheckpointsGone(number, latest)
        return taken

    async def _compared(self) -> tuple[Heads, Known | None]:
        """Return the log's heads, and the last checkpoint whose events are all in the log."""
        claims: dict[tuple[UUID, int, bytes], list[int]] = {}
        statements: list[Statement] = []
        async for document in self._database.scan(COLLECTION).sort("_id", 1):
            statement = statement_of(document)
            if restored := statement.restored:
                upto = -1 if restored.since is None else restored.since.number
                statements = [each for each in statements if each.number <= upto]
            statements.append(statement)
            for ticket, head in (await self._parts(document)).items():
                claims.setdefault((ticket, *head), []).append(statement.number)
        heads: Heads = {}
        async for ticket, version, hash_ in self._store.hashes():
            if ticket not in heads or heads[ticket][0] < version:
                heads[ticket] = (version, hash_)
            claims.pop((ticket, version, hash_), None)
        lost = min((number for numbers in claims.values() for number in numbers), default=None)
        whole = [each for each in statements if lost is None or each.number < lost]
        return heads, whole[-1].known if whole else None

    async def _sign(
        self,
        heads: PackedHeads,
        new: Heads,
        number: int,
        latest: Statement | None,
        restored: Restored | None = None,
    ) -> LogCheckpoint | None:
        """Write a checkpoint; None if another process was first: its checkpoint is as good."""
        statement = Statement(
            number=number,
            taken_at=milliseconds(await self._database.server_time()),
            tickets=len(heads),
            events=heads.events,
            root=(await asyncio.to_thread(heads.root)).hex(),
            previous=None if latest is None else latest.digest(),
            restored=restored,
        )
        if await self._checkpoints.find_one({"_id": number}, {"_id": 1}) is not None:
            return None
        signature = self._key.sign(statement.signed_bytes())
        parts: list[UUID] = []
        for packed in PackedHeads().updated(new).parts(_HEADS_A_DOCUMENT):
            parts.append(uuid4())
            await self._heads.insert_one({"_id": parts[-1], "heads": packed})
        content = statement.content()
        signed_by = {"key_id": key_id(self._key.public_key()), "signature": signature}
        try:
            await self._checkpoints.insert_one(
                {"_id": content.pop("number"), **content, **signed_by, "heads": parts}
            )
        except DuplicateKeyError:
            # The heads stay: a process that takes checkpoints may remove nothing here.
            return None
        self._witness.remember(statement.known)
        return LogCheckpoint(statement, signature, heads)

    async def latest(self) -> LogCheckpoint | None:
        """Return the last checkpoint that was taken."""
        document = await _latest(self._checkpoints)
        if document is None:
            return None
        signature = cast("bytes", document["signature"])
        return LogCheckpoint(statement_of(document), signature, await self.heads())

    async def heads(self) -> PackedHeads:
        """Return the heads that the checkpoints so far stand for. Reads those that are new."""
        covered, last, new = self._covered, self._last_number, Heads()
        later = self._database.scan(COLLECTION, {"_id": {"$gt": last}})
        async for checkpoint in later.sort("_id", 1):
            if checkpoint.get("restored") is not None:
                covered, new = PackedHeads(), {}  # it holds all of them
                self._read_at, self._uncovered = None, {}  # and the log may be another
            new |= await self._parts(checkpoint)
            last = cast("int", checkpoint["_id"])
        self._covered = await asyncio.to_thread(covered.updated, new)
        self._last_number = last
        return self._covered

    async def _parts(self, checkpoint: Mapping[str, object]) -> Heads:
        """Return the heads that are stored with a checkpoint."""
        heads: Heads = {}
        for part in cast("list[UUID]", checkpoint["heads"]):
            document = await self._heads.find_one({"_id": part})
            if document is not None:
                heads.update(PackedHeads(cast("bytes", document["heads"])).items())
        return heads

    async def keep(self, seconds: float) -> None:
        """Take a checkpoint whenever the last one is so old, until cancelled.

        The first one soon after there are events: until then nothing vouches for them.
        """

        async def take_when_due() -> None:
            await asyncio.sleep(await self._seconds_until_due(seconds))
            # Not all at once: who comes later finds that it has been done.
            await asyncio.sleep(random() * min(_LOOK_SECONDS, seconds / 10))  # noqa: S311
            if await self._seconds_until_due(seconds) > 0:
                return
            taken = await self.take()
            if taken is not None:
                _log.info("checkpoint %d: %s", taken.statement.number, taken.statement.root)
            elif await _latest(self._checkpoints) is not None:
                await asyncio.sleep(seconds)

        await self._database.supervisor.keep(
            take_when_due, "taking checkpoints of the log", min(seconds, _FIRST_SECONDS), seconds
        )

    async def _seconds_until_due(self, seconds: float) -> float:
        latest = await _latest(self._checkpoints)
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
        for ticket, (version, hash_) in checkpoint.heads.items():
            file.write(orjson.dumps([str(ticket), version, hash_.hex()]) + b"\n")
