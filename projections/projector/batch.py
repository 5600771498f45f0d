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
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import inf
from typing import NamedTuple, TypeVar, cast
from uuid import UUID

from prometheus_client import Counter as Metric
from prometheus_client import Histogram
from pydantic import ValidationError

from domain.days import Zones
from domain.errors import CasebookError, faults_of
from domain.values import JsonObject
from eventstore.database import Database
from eventstore.event_document import Envelope, EventDocument, from_document
from eventstore.log import EventStore
from eventstore.mongo.driver import (
    BSONError,
    CodecOptions,
    DeleteOne,
    InsertOne,
    RawBSONDocument,
    ReplaceOne,
    Session,
    UpdateOne,
    Write,
    encode_bson,
)
from eventstore.mongo.errors import DriverError, DuplicateKeyError, describe
from eventstore.partition import partition_of
from eventstore.personal.sealing import MissingKey
from eventstore.reading import read_events
from eventstore.redactions import redacts
from eventstore.subscription import Position
from projections.projector.checkpoints import Applied, Checkpoints
from projections.projector.parked import ParkedTickets
from projections.projector.tracing import trace_folding
from projections.views import sums, tickets
from projections.views.saved_views import SavedView, SavedViews, counting
from projections.views.sums import Contributions
from projections.views.tickets import TicketRead

T = TypeVar("T")
_log = logging.getLogger(__name__)

_FOLDS_AT_A_TIME = 50  # then others have a turn: the API may live in the same process
_MOST_BYTES = 16 * 2**20 - 64 * 2**10  # of a document, with room for what goes around it
_KEY_MISSING = "HistoryError: a key is missing, and somebody else on the ticket was erased"


_BATCHES = Histogram(
    "casebook_projection_batch_events",
    "Events that were folded into the views as one transaction.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000),
)
_FOLDED = Metric("casebook_projection_folded_events", "Events that are new in the views.")


class TooLarge(CasebookError):
    """A read document would be larger than the database takes: for example with 50,000 tags."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__("too_large", f"the read document would have {size_bytes} bytes")


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


class Stored(NamedTuple):
    """A read document as it is: what stands in it, and what it has added to the sums.

    `read` is None if it cannot be read: then `damage` says why. `damaged`: the field that no longer
    says what was added, if one does not.
    """

    read: TicketRead | None
    damage: str | None
    version: int
    added: Contributions
    damaged: str | None


class Change(NamedTuple):
    """What becomes of one ticket's read document; `document` is None if it is to go.

    `changed`: the fields of it that may differ from what is stored; None if all may.
    """

    ticket_id: UUID
    before: Stored | None
    after: TicketRead | None
    document: RawBSONDocument | None
    last: Envelope | None
    changed: JsonObject | None = None


class FoldFailure(NamedTuple):
    """A ticket that could not be folded, and the version it stopped at."""

    ticket_id: UUID
    version: int
    error: str


class FoldResult(NamedTuple):
    """What events of one ticket come to: both, if only the later ones could not be taken."""

    change: Change | None
    failure: FoldFailure | None


async def fold_ticket(
    zones: Zones,
    views: Sequence[SavedView],
    ticket_id: UUID,
    before: Stored | None,
    events: Sequence[EventDocument],
    codec: CodecOptions,
    also_in: Collection[str] = (),
) -> FoldResult:
    """Fold events into a ticket's view as far as they can be, ready to be written.

    `zones`: by whose days it is counted. `also_in`: ids of saved views that count it beside those
    of `views` that it matches.
    Whatever goes wrong with one ticket is no reason to keep the others waiting.
    """
    read = None if before is None else before.read
    after, folded, error, change = None if read is None else tickets.copy(read), 0, "", None
    last: Envelope | None = None
    try:
        for event in events:
            last = from_document(event)
            after = tickets.apply(after, last, zones)
            folded += 1
            if folded % _FOLDS_AT_A_TIME == 0:
                await asyncio.sleep(0)
    except Exception as caught:  # noqa: BLE001 a bug in a fold may raise anything
        error = describe_error(caught)
        # The fold has changed it in place, nobody knows how far.
        after, last = read, None
        for event in events[:folded]:
            last = from_document(event)
            after = tickets.evolve(after, last, zones)
    if after is not None and (last is not None or not error):
        try:
            in_views = {*counting(views, after), *also_in}
            after = replace(after, in_views=tuple(sorted(in_views)))
            document = tickets.to_document(after)
            changed = None if read is None else tickets.changed(read, after, document)
            change = Change(ticket_id, before, after, _encoded(document, codec), last, changed)
        except Exception as caught:  # noqa: BLE001 as may what cannot be encoded
            after, error = read, describe_error(caught)
    version = 1 if after is None else after.version + 1
    return FoldResult(change, FoldFailure(ticket_id, version, error) if error else None)


def _encoded(document: JsonObject, codec: CodecOptions) -> RawBSONDocument:
    data = encode_bson(document, codec_options=codec)
    if len(data) > _MOST_BYTES:
        raise TooLarge(len(data))
    return RawBSONDocument(data)


class BatchWriter:
    """Writes batches of one process into the views of one database, which count by days in `zones`
    (`Generation.zones`).
    """

    def __init__(
        self, database: Database, store: EventStore, checkpoints: Checkpoints, zones: Zones
    ) -> None:
        self._database = database
        self._zones = zones
        self._store = store
        self._checkpoints = checkpoints
        self._reads = database.collection(tickets.COLLECTION)
        self._sums = sums.of(database)
        self._parked = ParkedTickets(database)

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
        return {cast("UUID", document["_id"]): _stored(document) async for document in found}

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
            if n % _FOLDS_AT_A_TIME == 0:
                await asyncio.sleep(0)
        return results

    async def _fold_anew(
        self, owned: OwnedPartitions, before: Stored, ticket_id: UUID
    ) -> FoldResult:
        """Fold a ticket from its first event, for what its document says may be redacted."""
        self._store.vault.look_again()  # others may have been redacted just before
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

    async def _fold_ticket(
        self,
        views: Sequence[SavedView],
        ticket_id: UUID,
        before: Stored | None,
        events: Sequence[EventDocument],
        also_in: Collection[str] = (),
    ) -> FoldResult:
        codec = self._reads.codec_options
        return await fold_ticket(self._zones, views, ticket_id, before, events, codec, also_in)

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
                for name, entries in sums.contributed(after).items():
                    added[name].update(entries)
            if before is not None:
                for name, entries in before.added.items():
                    added[name].subtract(entries)
        for gone in added[SavedViews.field].keys() - {*views}:
            del added[SavedViews.field][gone]
        writes = [_write_of(change, self._reads.full_name) for change in changes]
        for view in self._sums:
            writes += view.writes(added[view.field], shard)
        return writes


def _write_of(change: Change, namespace: str) -> Write:
    document = cast("JsonObject", change.document)
    if change.before is None:
        return InsertOne(document, namespace=namespace)
    gate = {"_id": change.ticket_id, "version": change.before.version}
    if change.document is None:
        return DeleteOne(gate, namespace=namespace)
    if change.changed is not None:
        return UpdateOne(gate, {"$set": change.changed}, namespace=namespace)
    return ReplaceOne(gate, document, namespace=namespace)


def _stored(document: Mapping[str, object]) -> Stored:
    """Read a document as far as it can be read."""
    version, read, damage = document.get("version"), None, None
    added, damaged = sums.stored(document)
    try:
        read = tickets.from_document(document)
        if read is None:
            damage = "the read document is of another shape"
        elif damaged is not None:
            read, damage = None, f"the read document is damaged: {damaged}"
    except (KeyError, ValidationError) as error:
        damage = f"the read document is damaged: {describe_error(error)}"
    return Stored(read, damage, version if isinstance(version, int) else 0, added, damaged)


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


def describe_error(error: Exception) -> str:
    """Say what went wrong, and what kind of error it was; nothing of what is in a ticket.

    What others' errors say may be of it: of them, the kind and where it was.
    """
    if isinstance(error, DriverError):
        detail = describe(error)
    elif isinstance(error, CasebookError | BSONError):
        detail = str(error)
    elif isinstance(error, ValidationError):
        detail = faults_of(error)
    else:
        [*_, last] = traceback.extract_tb(error.__traceback__) or [None]
        detail = "" if last is None else f"in {last.name}, line {last.lineno}"
    return f"{type(error).__name__}: {detail}".rstrip(": ")
