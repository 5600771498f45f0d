"""One batch of events into the views: one transaction, all of it or nothing.

The read documents of the batch's tickets are read and the events folded in; the checkpoint of each
partition is moved on, on condition of its epoch; of the documents what has changed is written back,
each on condition of the version that was read; the difference is added to the views that are sums
(`sums.py`). So views, counters and checkpoint never disagree, and an event that comes twice, or
through two projectors at once, finds its version taken and changes nothing (law L7).

An event whose version is not the next shows a gap, which is filled from the log (L8).

A ticket that cannot be folded, or whose document cannot be written, is parked, and its batch goes
on without it.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from math import inf
from typing import TypeVar, cast
from uuid import UUID

from prometheus_client import Counter as Metric
from prometheus_client import Histogram

from domain.days import Zones
from domain.values import JsonObject
from eventstore.database import Database
from eventstore.documents import uuid_of
from eventstore.event_document import EventDocument
from eventstore.log import EventStore
from eventstore.mongo.driver import DeleteOne, InsertOne, ReplaceOne, Session, UpdateOne, Write
from eventstore.mongo.errors import DuplicateKeyError
from eventstore.partition import partition_of
from eventstore.personal.sealing import MissingKey
from eventstore.reading import read_events
from eventstore.redactions import redacts
from eventstore.subscription import Position
from projections.folding import (
    FOLDS_AT_A_TIME,
    Change,
    FoldFailure,
    FoldResult,
    Stored,
    fold_ticket,
    stored_as,
)
from projections.projector.checkpoints import Applied, Checkpoints
from projections.projector.parked import ParkedTickets
from projections.projector.tracing import trace_folding
from projections.views import sums, tickets
from projections.views.saved_views import SavedView, SavedViews

T = TypeVar("T")
_log = logging.getLogger(__name__)

_KEY_MISSING = "HistoryError: a key is missing, and somebody else on the ticket was erased"

_BATCHES = Histogram(
    "casebook_projection_batch_events",
    "Events that were folded into the views as one transaction.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000),
)
_FOLDED = Metric("casebook_projection_folded_events", "Events that are new in the views.")


@dataclass(slots=True)
class OwnedPartitions:
    """What one process holds: its partitions' epochs, and what it must know of their tickets.

    `uncounted`: ids of saved views that cannot be read; what it writes is in the count of none.
    `slot`: which shard of the sums it writes.
    """

    me: str
    epochs: Mapping[int, int]
    views: Sequence[SavedView] = ()
    parked: set[UUID] = field(default_factory=set)
    uncounted: Collection[str] = ()
    slot: int = 0


class BatchWriter:
    """Writes batches of one process into the views of one database, which count by days in `zones`
    (`Generation.zones`).
    """

    def __init__(
        self, database: Database, store: EventStore, checkpoints: Checkpoints, zones: Zones
    ) -> None:
        self._database = database
        self._store = store
        self._checkpoints = checkpoints
        self._reads = database.collection(tickets.COLLECTION)
        self._sums = sums.of(database)
        self._parked = ParkedTickets(database)
        self._fold_ticket = partial(fold_ticket, zones)

    async def write(
        self,
        owned: OwnedPartitions,
        batch: Sequence[EventDocument],
        behind: Position | None = None,
    ) -> int:
        """Fold stored events in, of the process's partitions only; return how many were new.

        `behind`: the position behind them, if the stream has brought them. Raises Fenced,
        StoreUnavailable and what the driver raises; then nothing has been written.
        """
        ordered = sorted(batch, key=lambda e: (e["ticket_id"].int, e["version"]))
        arrived = {t: list(events) for t, events in groupby(ordered, key=lambda e: e["ticket_id"])}
        wanted = {t: events for t, events in arrived.items() if t not in owned.parked}
        touched = {partition_of(ticket_id) for ticket_id in arrived}

        async def work(session: Session) -> tuple[int, list[FoldFailure]]:
            new = await self._opened(wanted)
            results = await self._fold(owned, new, await self._read(new, session))
            changes = [each.change for each in results if each.change is not None]
            failures = [each.failure for each in results if each.failure is not None]
            applied = _applied(changes, touched)
            await self._store_all(owned, changes, applied, session, behind)
            for failure in failures:
                await self._parked.park(*failure, session)
            return sum(each.events for each in applied.values()), failures

        began_ns = time.time_ns()
        events, failures = await self._in_transaction(work)
        if events:
            trace_folding(batch, began_ns)
        _BATCHES.observe(len(batch))
        _FOLDED.inc(events)
        for failure in failures:
            _log.error("ticket %s is parked at version %d: %s", *failure)
        owned.parked.update(failure.ticket_id for failure in failures)
        return events

    async def refold(self, owned: OwnedPartitions, ticket_id: UUID) -> str | None:
        """Fold one ticket again from its first event, whatever its document holds.

        Return None, or why it could not be done: then the document stays as it is, and the ticket
        is parked. Raises as `write` does.
        """
        # Before the transaction: what is read and folded for long must not hold it open.
        events = await self._read_log(ticket_id)
        result = await self._fold_ticket(owned.views, ticket_id, None, events)

        async def work(session: Session) -> str | None:
            nonlocal result
            stored = (await self._read([ticket_id], session)).get(ticket_id)
            if stored is not None:
                if stored.version > len(events):
                    events.extend(await self._read_log(ticket_id, after=len(events)))
                    result = await self._fold_ticket(owned.views, ticket_id, None, events)
                if stored.version > len(events):
                    what = "ticket %s was shown at version %d, and the log has %d events of it"
                    _log.error(what, ticket_id, stored.version, len(events))
                stored = await self._undamaged(owned.views, ticket_id, stored, events)
            change, failure = result
            # Without events the log has no such ticket: a document of it goes.
            change = change or Change(ticket_id, None, None, None, None)
            changes = [change._replace(before=stored)]
            if failure is not None or (stored is None and change.after is None):
                changes = []
            applied = _applied(changes, {partition_of(ticket_id)})
            await self._store_all(owned, changes, applied, session)
            if failure is None:
                await self._parked.free(ticket_id, session)
                return None
            version = 1 if stored is None else stored.version + 1
            await self._parked.park(ticket_id, version, failure.error, session)
            return failure.error

        error = await self._in_transaction(work)
        if error is None:
            owned.parked.discard(ticket_id)
        else:
            owned.parked.add(ticket_id)
        return error

    async def renew(
        self, views: Sequence[SavedView], ticket_id: UUID, unreadable: Collection[str] = ()
    ) -> bool:
        """Fold a ticket anew up to the version that its document has: what its events say may have
        changed, for a person has been erased. Return whether that could be done.

        Projectors may go on meanwhile: the checkpoints stand as they are. What
        another's missing key hides is not left as it was either: it cannot be told from what is to
        go. The ticket is parked then. `unreadable`: ids of saved views that cannot be read, and go
        on to count it if they do: it is no other ticket, and others may know what they ask for.
        """

        async def work(session: Session) -> bool:
            stored = (await self._read([ticket_id], session)).get(ticket_id)
            if stored is None:
                return True
            sealed = await self._read_log(ticket_id, upto=stored.version, sealed=True)
            events = await self._store.open(sealed, command=False)
            if any("sealed" in event for event in events):
                events = await self._store.open(sealed, missing=MissingKey(), command=False)
                # Behind what it shows: that is counted as folded, and would be as waiting too.
                await self._parked.park(ticket_id, stored.version + 1, _KEY_MISSING, session)
            stored = await self._undamaged(views, ticket_id, stored, events)
            # Only views that count it already: a new one's is counted by those that project.
            counted = [v for v in views if v.id in stored.added.get(SavedViews.field, ())]
            also_in = stored.added.get(SavedViews.field, {}).keys() & {*unreadable}
            change, failure = await self._fold_ticket(counted, ticket_id, None, events, also_in)
            if change is None or failure is not None or len(events) != stored.version:
                return False
            changes = [change._replace(before=stored)]
            known = {view.id for view in views}
            await self._write(self._writes(known, 0, changes), session, {})
            return True

        return await self._in_transaction(work)

    async def _undamaged(
        self,
        views: Sequence[SavedView],
        ticket_id: UUID,
        stored: Stored,
        events: Sequence[EventDocument],
    ) -> Stored:
        """Return what a document must have added, where it does not say so itself any more."""
        if stored.damaged is None:
            return stored
        change, _ = await self._fold_ticket(views, ticket_id, None, events[: stored.version])
        if change is None or change.after is None:
            return stored
        ought = sums.contributed(change.after)
        return stored._replace(added={**stored.added, stored.damaged: ought[stored.damaged]})

    async def recount(self, owned: OwnedPartitions, ids: Collection[UUID]) -> None:
        """Find anew which saved views count some tickets. Raises as `write` does."""

        async def work(session: Session) -> None:
            changes = []
            for ticket_id, stored in (await self._read(ids, session)).items():
                if stored.read is None:
                    continue  # it will be folded again, and counted then
                change, _ = await self._fold_ticket(owned.views, ticket_id, stored, ())
                after = None if change is None else change.after
                if change and after and after.in_views != stored.read.in_views:
                    changes.append(change)
            applied = _applied(changes, {partition_of(ticket_id) for ticket_id in ids})
            await self._store_all(owned, changes, applied, session)

        await self._in_transaction(work)

    async def _in_transaction(self, work: Callable[[Session], Awaitable[T]]) -> T:
        with suppress(DuplicateKeyError):
            return await self._database.in_transaction(work)
        # Two have made the same document at the same time; now it is there.
        return await self._database.in_transaction(work)

    async def _read(self, ids: Collection[UUID], session: Session) -> dict[UUID, Stored]:
        found = self._reads.find({"_id": {"$in": list(ids)}}, session=session)
        return {uuid_of(document): stored_as(document) async for document in found}

    async def _opened(
        self, arrived: Mapping[UUID, Sequence[EventDocument]]
    ) -> dict[UUID, list[EventDocument]]:
        """Return events opened, by ticket. Each time anew: a person may be erased meanwhile."""
        events = await self._store.open(
            [e for stream in arrived.values() for e in stream], command=False
        )
        return {t: list(stream) for t, stream in groupby(events, key=lambda e: e["ticket_id"])}

    async def _fold(
        self,
        owned: OwnedPartitions,
        arrived: Mapping[UUID, Sequence[EventDocument]],
        stored: Mapping[UUID, Stored],
    ) -> list[FoldResult]:
        results: list[FoldResult] = []
        for n, (ticket_id, events) in enumerate(arrived.items(), start=1):
            before = stored.get(ticket_id)
            have = 0 if before is None else before.version
            new: Sequence[EventDocument] = [e for e in events if e["version"] > have]
            if not new:
                continue
            if before is not None and before.damage is not None:
                failure = FoldFailure(ticket_id, have + 1, before.damage)
                results.append(FoldResult(None, failure))
                continue
            if before is not None and any(redacts(event) is not None for event in new):
                results.append(await self._fold_anew(owned, before, ticket_id))
                continue
            if not _is_next(have, new):
                new = await self._read_log(ticket_id, after=have)
            results.append(await self._fold_ticket(owned.views, ticket_id, before, new))
            if n % FOLDS_AT_A_TIME == 0:
                await asyncio.sleep(0)
        return results

    async def _fold_anew(
        self, owned: OwnedPartitions, before: Stored, ticket_id: UUID
    ) -> FoldResult:
        """Fold a ticket from its first event, for what its document says may be redacted."""
        self._store.vault.news.look_again()  # others may have been redacted just before
        events = await self._read_log(ticket_id)
        change, failure = await self._fold_ticket(owned.views, ticket_id, None, events)
        if failure is not None or change is None:
            error = "the log has no such ticket" if failure is None else failure.error
            return FoldResult(None, FoldFailure(ticket_id, before.version + 1, error))
        return FoldResult(change._replace(before=before), None)

    async def _read_log(
        self, ticket_id: UUID, *, after: int = 0, upto: int | None = None, sealed: bool = False
    ) -> list[EventDocument]:
        """Read a ticket's events, opened unless they are to stay sealed."""
        # Nobody waits for an answer, and a ticket that takes long now takes as long the next time.
        read = read_events(
            self._store, ticket_id, after=after, upto=upto, longest_seconds=inf, command=False
        )
        async with aclosing(read) as events:
            return [stored if sealed else event async for stored, event in events]

    async def _store_all(
        self,
        owned: OwnedPartitions,
        changes: Sequence[Change],
        applied: Mapping[int, Applied],
        session: Session,
        behind: Position | None = None,
    ) -> None:
        """Write checkpoints, documents and sums at once. Raises Fenced."""
        writes = self._checkpoints.moves(owned.me, owned.epochs, applied, behind=behind)
        known = {*(view.id for view in owned.views), *owned.uncounted}
        writes += self._writes(known, owned.slot, changes)
        await self._write(writes, session, {number: owned.epochs[number] for number in applied})

    async def _write(
        self, writes: Sequence[Write], session: Session, epochs: Mapping[int, int]
    ) -> None:
        """Write all of it. Raises Fenced if another has taken one of the partitions."""
        if await self._database.write(writes, session) != len(writes):
            await self._checkpoints.require_held(epochs, session)
            raise AssertionError("a document has changed within a transaction")

    def _writes(self, views: Collection[str], shard: int, changes: Sequence[Change]) -> list[Write]:
        """Return what is to be written of documents and sums. `views`: ids of all that are
        there.
        """
        added: dict[str, Counter[str]] = {view.field: Counter() for view in self._sums}
        for _, before, after, *_ in changes:
            if after is not None:
                sums.add(added, sums.contributed(after))
            if before is not None:
                sums.add(added, before.added, -1)
        for gone in added[SavedViews.field].keys() - {*views}:
            del added[SavedViews.field][gone]
        writes = [_write_of(change, self._reads.full_name) for change in changes]
        for view in self._sums:
            writes += view.writes(added[view.field], shard)
        return writes


def _write_of(change: Change, namespace: str) -> Write:
    # The driver takes raw ones too.
    written = cast("JsonObject", change.written)
    if change.before is None:
        return InsertOne(written, namespace=namespace)
    gate = {"_id": change.ticket_id, "version": change.before.version}
    if change.written is None:
        return DeleteOne(gate, namespace=namespace)
    if change.is_whole:
        return ReplaceOne(gate, written, namespace=namespace)
    return UpdateOne(gate, {"$set": written}, namespace=namespace)


def _applied(changes: Iterable[Change], partitions: Iterable[int]) -> dict[int, Applied]:
    """Return what changes do to the checkpoints of partitions."""
    applied = dict.fromkeys(partitions, Applied())
    for ticket_id, before, after, _, last, _ in changes:
        events = 0 if after is None else after.version
        if before is not None:  # one that was changed by hand may say anything
            events -= before.version if after is None else min(before.version, after.version)
        number = partition_of(ticket_id)
        applied[number] = applied[number].and_more(events, last)
    return applied


def _is_next(have: int, events: Sequence[EventDocument]) -> bool:
    """Return whether the events continue behind version `have` without gap or double."""
    return all(e["version"] == have + n for n, e in enumerate(events, start=1))
