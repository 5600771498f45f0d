"""Do the views equal the log? Compared while everything runs, and without writing anything.

A read document of version n must be what the ticket's first n events fold to, at any time: so the
documents can be compared one by one while they change. Counters are sums over all tickets, and need
a moment at which both are known. So the audit adds up what it folds, and follows the log meanwhile,
to know which tickets may have changed since it looked at them. In the end it reads in one snapshot
the counters, the checkpoints, and the versions of only those tickets. That nothing else has changed
shows in the number of events: that of all documents is that of all checkpoints.

Keeps some 400 bytes for each ticket in memory.
"""

import asyncio
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NamedTuple, cast
from uuid import UUID

import bson

from domain.errors import CasebookError
from domain.events import JsonObject
from eventstore.driver import Database, Session
from eventstore.envelope import EventDocument, from_document, is_event
from eventstore.store import EventStore, Feed
from projections import counters, dashboard, saved_views, tickets
from projections.checkpoints import COLLECTION as CHECKPOINTS
from projections.checkpoints import Checkpoints
from projections.parked import ParkedTickets
from projections.saved_views import SavedView, SavedViews
from projections.tickets import TicketRead

_EVENTS_AT_ONCE = 5_000
_TRIES = 50
_PAUSE_SECONDS = 0.2
_BEHIND_SECONDS = 15.0
_RECENT_SECONDS = 10.0

Document = Mapping[str, object]
Number = tuple[str, str]
"""Where a number of a counter stands: the counter without its shard, and the path in it."""


class Difference(NamedTuple):
    """One thing that is not as it should be. `expected`: what the log says."""

    what: str
    field: str
    expected: object
    found: object

    def __str__(self) -> str:
        return f"{self.what}: {self.field}: expected {self.expected!r}, found {self.found!r}"


class NeverStill(CasebookError):
    """The counters changed faster than they could be compared."""

    def __init__(self) -> None:
        super().__init__(
            "never_still", "the views change too fast for the counters to be compared; try again"
        )


@dataclass(slots=True)
class Sums:
    """What the tickets looked at come to, at the versions that were seen of them."""

    versions: dict[UUID, int] = field(default_factory=dict)
    entries: Counter[str] = field(default_factory=Counter)
    in_views: Counter[str] = field(default_factory=Counter)

    def see(
        self,
        ticket_id: UUID,
        stream: Sequence[EventDocument],
        version: int,
        views: Sequence[SavedView],
    ) -> TicketRead | None:
        """Take a ticket at a version, in the place of that at which it was seen before.

        Raises HistoryError, and whatever a fold does.
        """
        before = _fold(stream[: self.versions.get(ticket_id, 0)])
        after = _fold(stream[:version])
        for read, times in ((before, -1), (after, 1)):
            if read is not None:
                for key, n in read.counted.items():
                    self.entries[key] += times * n
                for view in saved_views.counting(views, read):
                    self.in_views[view] += times
        self.versions[ticket_id] = version
        return after


class _Snapshot(NamedTuple):
    """What the database held at one moment."""

    applied: int
    numbers: Mapping[Number, int]
    counts: Mapping[str, int]
    versions: Mapping[UUID, int]


class Auditor:
    """Audits the views of one database.

    `tickets` and `numbers` tell how much was compared; `waiting`, how many events wait with which
    parked tickets, which are compared as far as they are shown.
    """

    def __init__(
        self,
        database: Database,
        store: EventStore,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        """`progress` is told how many tickets have been compared, of how many."""
        self._database = database
        self._store = store
        self._progress = progress
        self._reads = database.collection(tickets.COLLECTION)
        self._views: Sequence[SavedView] = ()
        self._patient_until: float | None = None
        self._sums = Sums()
        self.waiting: Mapping[UUID, int] = {}
        self.tickets = 0
        self.numbers = 0

    async def differences(self) -> AsyncIterator[Difference]:
        """Compare everything; give what differs. Raises NeverStill, StoreUnavailable."""
        state = await Checkpoints(self._database).read()
        complete = frozenset.intersection(*(p.views for p in state.partitions))
        self._views = [v for v in await SavedViews(self._database).all() if v.id in complete]
        await self._see_parked()
        async with self._store.watch(None) as feed, _following(feed) as appended:
            heads = await self._store.heads()
            versions = {ticket_id: version for ticket_id, (version, _) in heads.items()}
            for ids in _chunks(versions):
                for difference in await self._compare(ids, versions):
                    yield difference
                self.tickets += len(ids)
                self._progress(self.tickets, len(heads))
            for difference in await self._unknown_to_the_log():
                yield difference
            for difference in await self._compare_sums(appended):
                yield difference

    async def _see_parked(self) -> None:
        parked = ParkedTickets(self._database)
        stopped = [ticket for ticket in await parked.all() if ticket.version is not None]
        self.waiting = await parked.waiting_events(self._store, stopped)

    async def _compare(
        self, ids: Collection[UUID], versions: Mapping[UUID, int]
    ) -> list[Difference]:
        """Compare read documents with what the log folds to, and add that up.

        Those that do not show the log's `versions` get some time to: once for the whole audit.
        """
        stored = await self._documents(ids)
        behind = self._behind_the_log(ids, stored, versions)
        clock = asyncio.get_running_loop().time
        if behind and self._patient_until is None:
            self._patient_until = clock() + _BEHIND_SECONDS
        while behind and clock() < (self._patient_until or 0.0):
            await asyncio.sleep(_PAUSE_SECONDS)
            await self._see_parked()
            stored |= await self._documents(behind)
            behind = self._behind_the_log(behind, stored, versions)
        found = [
            Difference(f"ticket {i}", "read document", "one", None)
            if i not in stored
            else Difference(f"ticket {i}", "version", versions[i], stored[i].get("version"))
            for i in behind
        ]
        streams = await self._streams(stored)
        for ticket_id, document in stored.items():
            found += self._difference(ticket_id, document, streams.get(ticket_id, []))
            await asyncio.sleep(0)
        return found

    def _behind_the_log(
        self, ids: Iterable[UUID], stored: Mapping[UUID, Document], versions: Mapping[UUID, int]
    ) -> list[UUID]:
        def shown(ticket_id: UUID) -> int:
            version = stored.get(ticket_id, {}).get("version")
            return version if isinstance(version, int) else 0

        return [i for i in ids if shown(i) < versions.get(i, 0) and i not in self.waiting]

    def _difference(
        self, ticket_id: UUID, stored: Document, stream: Sequence[EventDocument]
    ) -> list[Difference]:
        """Compare one document with the fold of as many events as it says that it has."""
        ticket, version = f"ticket {ticket_id}", stored.get("version")
        if not isinstance(version, int) or not 0 < version <= len(stream):
            return [Difference(ticket, "version", f"1 to {len(stream)}", version)]
        try:
            read = self._sums.see(ticket_id, stream, version, self._views)
        except Exception as error:  # noqa: BLE001 that is what is to be told
            return [Difference(ticket, "events", "what can be folded", repr(error))]
        if read is None:
            raise AssertionError("a fold of events is a ticket")
        codec = self._reads.codec_options
        expected = bson.decode(bson.encode(tickets.to_document(read), codec_options=codec), codec)
        differences = [
            Difference(ticket, name, expected.get(name), stored.get(name))
            for name in sorted(expected.keys() | stored.keys())
            if name != "in_views" and expected.get(name) != stored.get(name)
        ]
        matching = set(saved_views.counting(self._views, read))
        in_views = set(cast("list[str]", stored.get("in_views", [])))
        differences += [
            Difference(ticket, f"counted in view {v.name!r}", v.id in matching, v.id in in_views)
            for v in self._views
            if (v.id in matching) != (v.id in in_views)
        ]
        return differences

    async def _unknown_to_the_log(self) -> list[Difference]:
        """Find read documents of tickets that the log does not have."""
        found = []
        async for document in self._reads.find({}, {"_id": 1}):
            ticket_id = cast("UUID", document["_id"])
            known = ticket_id in self._sums.versions or ticket_id in self.waiting
            if not known and not await self._store.stored(ticket_id, limit=1):
                found.append(Difference(f"ticket {ticket_id}", "read document", None, "one"))
        return found

    async def _compare_sums(self, appended: Mapping[UUID, int]) -> list[Difference]:
        """Compare counters and checkpoints with the sums over all tickets.

        `appended`: the versions that the log has got since the audit began, growing on.
        """
        found: list[Difference] = []
        former: tuple[int, int] | None = None
        for _ in range(_TRIES):
            # First what has changed is compared again, so that little is left for the snapshot.
            found += await self._compare(self._behind(appended), {})
            snapshot = await self._snapshot(self._behind(appended))
            streams = await self._streams(snapshot.versions)
            for ticket_id, version in snapshot.versions.items():
                self._sums.see(ticket_id, streams[ticket_id], version, self._views)
            folded = sum(self._sums.versions.values())
            if folded == snapshot.applied:
                return found + self._different_numbers(snapshot)
            if former == (folded, snapshot.applied):
                # Nothing moves, and still: then it is no matter of when one looks.
                wrong = Difference("checkpoints", "applied events", folded, snapshot.applied)
                return [*found, wrong, *self._different_numbers(snapshot)]
            former = (folded, snapshot.applied)
            await asyncio.sleep(_PAUSE_SECONDS)
        raise NeverStill

    def _behind(self, appended: Mapping[UUID, int]) -> list[UUID]:
        """Give the tickets whose documents may have changed since they were looked at."""
        seen = self._sums.versions
        return [t for t, version in appended.items() if seen.get(t, 0) < version]

    def _different_numbers(self, snapshot: _Snapshot) -> list[Difference]:
        expected: Counter[Number] = Counter()
        for (metric, _, period, _), paths in dashboard.increments(self._sums.entries).items():
            expected.update({(f"{metric}/{period}", path): n for path, n in paths.items()})
        numbers = expected.keys() | snapshot.numbers.keys()
        self.numbers = len(numbers) + len(self._views)
        found = [
            Difference(f"counter {where}", path, expected[where, path], is_)
            for where, path in sorted(numbers)
            if (is_ := snapshot.numbers.get((where, path), 0)) != expected[where, path]
        ]
        return found + [
            Difference(f"saved view {view.name!r}", "count", self._sums.in_views[view.id], is_)
            for view in self._views
            if (is_ := snapshot.counts.get(view.id, 0)) != self._sums.in_views[view.id]
        ]

    async def _snapshot(self, ids: Sequence[UUID]) -> _Snapshot:
        """Read counters, checkpoints and versions as of one moment.

        The versions of some tickets, and of all that were written to just now.
        """

        async def all_of(name: str, session: Session) -> list[JsonObject]:
            return await self._database.collection(name).find({}, session=session).to_list()

        before = await self._database.server_time()
        just_now = before - timedelta(seconds=_RECENT_SECONDS)

        async def work(session: Session) -> _Snapshot:
            # What the stream has not brought yet was written a moment ago.
            recent = await self._store.since(just_now, 0, session)
            wanted = list({*ids, *(event.ticket_id for event in recent)})
            checkpoints = await all_of(CHECKPOINTS, session)
            numbers: Counter[Number] = Counter()
            for counter in await all_of(counters.COLLECTION, session):
                where = f"{counter['metric']}/{counter['period']}"
                for path, n in _numbers(cast("JsonObject", counter["n"])):
                    numbers[where, path] += n
            counts: Counter[str] = Counter()
            for count in await all_of(saved_views.COUNTS, session):
                counts[str(count["view"])] += cast("int", count["n"])
            found = self._reads.find({"_id": {"$in": wanted}}, {"version": 1}, session=session)
            versions = {
                cast("UUID", d["_id"]): version
                async for d in found
                if isinstance(version := d.get("version"), int)
            }
            applied = sum(cast("int", c.get("applied", 0)) for c in checkpoints)
            return _Snapshot(applied, numbers, counts, versions)

        return await self._database.in_transaction(work, snapshot=True)

    async def _documents(self, ids: Collection[UUID]) -> dict[UUID, Document]:
        found = self._reads.find({"_id": {"$in": list(ids)}})
        return {cast("UUID", document["_id"]): document async for document in found}

    async def _streams(self, ids: Iterable[UUID]) -> dict[UUID, list[EventDocument]]:
        """Give the events of some tickets, as far as they follow each other."""
        streams: dict[UUID, list[EventDocument]] = {i: [] for i in ids}
        for event in await self._store.of_tickets(list(streams)):
            if event["version"] == len(streams[event["ticket_id"]]) + 1:
                streams[event["ticket_id"]].append(event)
        return streams


@asynccontextmanager
async def _following(feed: Feed) -> AsyncIterator[Mapping[UUID, int]]:
    """Give the versions that the log gets while the block runs, by ticket, growing on."""
    appended: dict[UUID, int] = {}

    async def follow() -> None:
        while True:
            change = await feed.next()
            if change is not None and is_event(change.document):
                event = change.document
                known = appended.get(event["ticket_id"], 0)
                appended[event["ticket_id"]] = max(known, event["version"])

    following = asyncio.create_task(follow())
    try:
        yield appended
    finally:
        following.cancel()
        [ended] = await asyncio.gather(following, return_exceptions=True)
    if isinstance(ended, Exception):  # the audit has missed something, and cannot say what
        raise ended


def _fold(stream: Sequence[EventDocument]) -> TicketRead | None:
    return tickets.fold(None, map(from_document, stream))


def _chunks(versions: Mapping[UUID, int]) -> Iterator[list[UUID]]:
    """Give tickets in parts of some thousand events each."""
    ids: list[UUID] = []
    events = 0
    for ticket_id, version in versions.items():
        ids.append(ticket_id)
        events += version
        if events >= _EVENTS_AT_ONCE:
            yield ids
            ids, events = [], 0
    if ids:
        yield ids


def _numbers(counter: JsonObject, path: str = "") -> Iterator[tuple[str, int]]:
    """Give the numbers in a counter by their paths."""
    for step, inside in counter.items():
        if isinstance(inside, dict):
            yield from _numbers(inside, f"{path}{step}.")
        else:
            yield f"{path}{step}", cast("int", inside)
