"""The process that keeps the views current: log in, `ticket_reads` and dashboard counters out.

The idea: a batch of events becomes one transaction that reads the documents of their tickets, folds
the events in, writes the documents back (each on condition that it still has the version that was
read), adds the counters' deltas and moves the checkpoint on. So views, counters and checkpoint can
never disagree, and an event that comes twice, or through two projectors at once, finds its version
taken and changes nothing (law L7).

The feed is trusted for speed, not for completeness (L8). An event whose version is not the next
shows a gap, which is filled from the log. An event that is missing at the end of its ticket shows
in the count: the checkpoint counts what has been folded, and when that differs from the log's count
while nothing is on its way, the whole log is scanned again. Scanning is always safe: what is there
already is passed over.

Where to start: with a token, from the token. Without one, or when the database has forgotten it,
take the stream's present token first, scan the log, then follow the stream from that token; doubles
cost nothing. There is no other way in, so a rebuild is nothing special: it starts by emptying.

Cost: one transaction per batch, whose size is what has gathered while the last one was written.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import groupby
from typing import NamedTuple
from uuid import UUID

from pymongo import InsertOne, ReplaceOne, UpdateOne
from pymongo.errors import ConnectionFailure, PyMongoError

from domain.events import JsonObject
from eventstore.driver import Collection, Database, Session
from eventstore.envelope import Envelope
from eventstore.failures import HistoryLost, StoreUnavailable
from eventstore.store import EventStore, Feed, ResumeToken
from projections import dashboard, tickets
from projections.checkpoint import LEASE_SECONDS, Checkpoint, Checkpoints, Fenced, Phase
from projections.tickets import SHAPE, TicketRead

_log = logging.getLogger(__name__)

BATCH_EVENTS = 500
_EMPTIED_AT_ONCE = 2000
BATCH_SECONDS = 0.05
RENEW_SECONDS = LEASE_SECONDS / 5
STANDBY_SECONDS = 1.0
RETRY_SECONDS = 1.0
SWEEP_SECONDS = 5.0
_SWEEP_SHARE = 0.02  # of the time, at most, goes into counting the log

Progress = Callable[[int], None]
"""Told after each batch how many more events the views contain."""


class _Applied(NamedTuple):
    """What a batch comes to: documents to write, counters to change, events folded."""

    changes: list[tuple[TicketRead | None, TicketRead]]
    events: int


class _OtherShape(Exception):
    """A read document was folded by another version, which had the lease meanwhile."""


async def prepare(database: Database) -> None:
    """Make the views' collections and indexes and the checkpoint. Safe to repeat."""
    reads = database.collection(tickets.COLLECTION)
    # For the gate on the version, which makes the embedded server scan all documents without it.
    await reads.create_index([("_id", 1), ("version", 1)])
    await reads.create_index([("opened_at", -1), ("_id", -1)])
    for name in ("status", "priority", "group", "assignee", "requester"):
        await reads.create_index([(name, 1), ("opened_at", -1), ("_id", -1)])
    await reads.create_index([("next_due_at", 1)])  # the timekeeper's two questions
    await reads.create_index([("status", 1), ("resolved_at", 1)])
    counters = database.collection(dashboard.COLLECTION)
    await counters.create_index([("metric", 1), ("label", 1)], unique=True)
    await Checkpoints(database).prepare()


class Projector:
    """Keeps the views of one database current for as long as `run` runs and holds the lease."""

    def __init__(
        self, database: Database, store: EventStore, progress: Progress = lambda _: None
    ) -> None:
        self._database = database
        self._store = store
        self._progress = progress
        self._checkpoints = Checkpoints(database)
        self._reads = database.collection(tickets.COLLECTION)
        self._counters = database.collection(dashboard.COLLECTION)
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{id(self):x}"

    async def run(self, *, steal: bool = False) -> None:
        """Take the lease, or stand by until it is free, and follow the log until cancelled.

        A failure is logged and tried again from the checkpoint; the lease is given back at the end.
        """
        failure = ""
        while True:
            held: Checkpoint | None = None
            try:
                held = await self._checkpoints.acquire(self._owner, steal=steal)
                if held is None:
                    await asyncio.sleep(STANDBY_SECONDS)
                    continue
                steal = False
                await self._follow(held)
            except Fenced:
                _log.warning("another projector has taken over; standing by")
            except (ConnectionFailure, StoreUnavailable) as error:
                _log.warning("the database does not answer; trying again: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
            except Exception as error:  # noqa: BLE001
                # Whatever it is, giving up would leave the views stale for good. The log has
                # everything, and the checkpoint tells the world that we fail, and why.
                if held is not None:
                    with suppress(PyMongoError, Fenced):
                        await self._checkpoints.fail(held.epoch, repr(error))
                again, failure = failure == repr(error), repr(error)
                _log.error(
                    "projection failed; trying again: %s",
                    failure,
                    exc_info=None if again else error,
                )
                await asyncio.sleep(RETRY_SECONDS)
            finally:
                if held is not None:
                    with suppress(PyMongoError):
                        await self._checkpoints.release(held.epoch)

    async def rebuild(self) -> None:
        """Empty the views and fold the whole log into them; return when they are current.

        Takes the lease from whoever has it. Interrupted anywhere, the next projector goes on.
        """
        held = await self._checkpoints.acquire(self._owner, steal=True)
        if held is None:
            raise Fenced
        try:
            await self._checkpoints.enter(held.epoch, "reset", None)
            await self._scan(held.epoch, "reset")
        finally:
            await self._checkpoints.release(held.epoch)

    async def _follow(self, held: Checkpoint) -> None:
        """Bring the views up to date and keep them so, for as long as the lease is held."""
        epoch, phase, token = held.epoch, held.phase, held.token
        if held.shape != SHAPE or await self._is_of_another_shape():
            phase = await self._begin_again(epoch)
        while True:
            if phase != "live" or token is None:
                token = await self._scan(epoch, phase)
            try:
                async with self._store.watch(token) as feed:
                    phase = await self._tail(epoch, feed)
            except _OtherShape:
                phase = await self._begin_again(epoch)
            except HistoryLost as error:
                _log.warning("the change stream lost its place: %s; scanning", error.detail)
                phase = "scan"

    async def _is_of_another_shape(self) -> bool:
        """Look at one read document: a former version may have folded all of them anew."""
        some = await self._reads.find_one()
        return some is not None and tickets.from_document(some) is None

    async def _begin_again(self, epoch: int) -> Phase:
        _log.info("the views are of another version's shape; folding them again")
        await self._checkpoints.enter(epoch, "reset", None)
        return "reset"

    async def _scan(self, epoch: int, phase: Phase) -> ResumeToken:
        """Fold the whole log, passing over what is there; give the token from before the scan.

        The token comes first: what is written during the scan is then found behind it.
        """
        if phase == "reset":
            await self._empty(epoch, self._reads)
            await self._empty(epoch, self._counters)
        await self._checkpoints.enter(epoch, "scan", None)
        token = await self._store.position()
        batch: list[Envelope] = []
        async for envelope in self._store.scan():
            batch.append(envelope)
            if len(batch) == BATCH_EVENTS:
                await self._write(epoch, batch, None)
                batch = []
        await self._write(epoch, batch, None)
        await self._checkpoints.enter(epoch, "live", token)
        return token

    async def _empty(self, epoch: int, view: Collection) -> None:
        """Remove a view's documents, some at a time, each time on condition of the epoch.

        Dropping the collection would be faster, and would be done by a projector that was replaced
        while it was about to: nothing about a drop depends on the epoch.
        """

        async def work(session: Session) -> int:
            found = view.find({}, {"_id": 1}, session=session).limit(_EMPTIED_AT_ONCE)
            ids = [document["_id"] async for document in found]
            await view.delete_many({"_id": {"$in": ids}}, session=session)
            await self._checkpoints.advance(epoch, 0, None, session)
            return len(ids)

        while await self._database.in_transaction(work):
            pass

    async def _tail(self, epoch: int, feed: Feed) -> Phase:
        """Follow the stream until the log turns out to hold something else than the views.

        Gives the phase that mends it.
        """
        clock = asyncio.get_running_loop().time
        renewed = swept = clock()
        pause = SWEEP_SECONDS
        suspicion: tuple[int, int] | None = None
        while True:
            batch, token = await _gather(feed)
            now = clock()
            if batch:
                await self._write(epoch, batch, token)
                renewed = clock()
            elif now - renewed > RENEW_SECONDS:
                await self._checkpoints.advance(epoch, 0, feed.token)
                await self._database.clear_abandoned_transactions()
                renewed = now
            if not batch and now - swept > pause:
                applied = (await self._checkpoints.read()).applied
                counts = (applied, await self._store.count())
                swept = clock()
                pause = max(SWEEP_SECONDS, (swept - now) / _SWEEP_SHARE)
                if applied == counts[1]:
                    suspicion = None
                elif counts != suspicion:
                    suspicion = counts  # something may be on its way: look again
                else:
                    stored = await self._store.count(exact=True)
                    if stored != applied:
                        _log.error("views hold %d events, the log %d", applied, stored)
                        # More in the views than in the log: it was cut off, and they show what
                        # is not there.
                        phase: Phase = "scan" if stored > applied else "reset"
                        await self._checkpoints.enter(epoch, phase, None)
                        return phase

    async def _write(
        self, epoch: int, batch: Sequence[Envelope], token: ResumeToken | None
    ) -> None:
        """Fold a batch into views, counters and checkpoint in one transaction. Raises Fenced."""

        async def work(session: Session) -> int:
            applied = await self._fold(batch, session)
            await self._replace(applied.changes, session)
            await self._count(applied.changes, session)
            await self._checkpoints.advance(epoch, applied.events, token, session)
            return applied.events

        self._progress(await self._database.in_transaction(work))

    async def _fold(self, batch: Sequence[Envelope], session: Session) -> _Applied:
        ids = list({envelope.ticket_id for envelope in batch})
        found = self._reads.find({"_id": {"$in": ids}}, session=session)
        before: dict[UUID, TicketRead] = {}
        async for document in found:
            read = tickets.from_document(document)
            if read is None:
                raise _OtherShape
            before[read.id] = read
        changes: list[tuple[TicketRead | None, TicketRead]] = []
        events = 0
        ordered = sorted(batch, key=lambda e: (e.ticket_id, e.version))
        for ticket_id, arrived in groupby(ordered, key=lambda e: e.ticket_id):
            old = before.get(ticket_id)
            have = 0 if old is None else old.version
            new = [e for e in arrived if e.version > have]
            if not new:
                continue
            if not _is_next(have, new):
                new = await self._store.load(ticket_id, after=have)
            after = tickets.fold(old, new)
            if after is not None:
                changes.append((old, after))
                events += after.version - have
        return _Applied(changes, events)

    async def _replace(
        self, changes: Sequence[tuple[TicketRead | None, TicketRead]], session: Session
    ) -> None:
        if not changes:
            return
        writes: list[InsertOne[JsonObject] | ReplaceOne[JsonObject]] = []
        for before, after in changes:
            document = tickets.to_document(after)
            if before is None:
                writes.append(InsertOne(document))
            else:
                gate = {"_id": after.id, "version": before.version}
                writes.append(ReplaceOne(gate, document))
        result = await self._reads.bulk_write(writes, ordered=False, session=session)
        if result.inserted_count + result.matched_count != len(writes):
            raise Fenced  # a document changed under us: someone else is writing

    async def _count(
        self, changes: Sequence[tuple[TicketRead | None, TicketRead]], session: Session
    ) -> None:
        deltas = dashboard.total(dashboard.delta(before, after) for before, after in changes)
        if not deltas:
            return
        writes = [
            UpdateOne({"metric": metric, "label": label}, {"$inc": {"n": n}}, upsert=True)
            for (metric, label), n in sorted(deltas.items())
        ]
        await self._counters.bulk_write(writes, ordered=False, session=session)


def _is_next(have: int, events: Sequence[Envelope]) -> bool:
    """Say whether the events continue behind version `have` without gap or double."""
    return all(e.version == have + n for n, e in enumerate(events, start=1))


async def _gather(feed: Feed) -> tuple[list[Envelope], ResumeToken | None]:
    """Give what comes within a moment of the first event, and the token behind the last."""
    batch: list[Envelope] = []
    token: ResumeToken | None = None
    clock = asyncio.get_running_loop().time
    deadline = clock() + BATCH_SECONDS
    while len(batch) < BATCH_EVENTS and (not batch or clock() < deadline):
        change = await feed.next()
        if change is None:
            break
        if not batch:
            deadline = clock() + BATCH_SECONDS
        batch.append(change.envelope)
        token = change.token
    return batch, token
