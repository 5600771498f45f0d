"""Do the views equal the log? Compared while everything runs, and without writing anything.

A read document of version n must be what the ticket's first n events fold to, at any time: so the
documents can be compared one by one while they change, by several processes. Sums over all tickets
need a moment at which both are known. So the audit adds up what it folds, and follows the log
meanwhile, to know which tickets may have changed since it looked at them. In the end it reads in
one snapshot the sums, the checkpoints, and the versions of only those tickets. That nothing else
has changed shows in the number of events: that of all documents is that of all checkpoints.

Memory is bounded whatever the size of the log: kept are the sums, and the versions of those tickets
that are written to while the audit runs, or were within the minute before. Of all others the
version that was looked at is the last before that minute, whenever it is asked for. (Should a clock
be wrong by more than that, the audit finds a difference in a sum where there is none.)
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import (
    Callable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import NamedTuple, cast
from uuid import UUID

from domain.errors import CasebookError
from domain.people import KeyDestroyed, PersonErased
from domain.values import JsonObject
from eventstore.background import background
from eventstore.database import Database
from eventstore.documents import uuid_of
from eventstore.event_document import EventDocument
from eventstore.log import EventStore
from eventstore.mongo.driver import Session
from eventstore.partition import partition_of
from eventstore.subscription import LateEventCheck, Subscription, present
from projections.erasure.progress import Erasures
from projections.generations import Generation
from projections.projector.checkpoints import COLLECTION as CHECKPOINTS
from projections.projector.checkpoints import Checkpoints
from projections.projector.parked import COLLECTION as PARKED
from projections.projector.parked import ParkedTickets
from projections.replay.comparing import (
    Asked,
    Checked,
    CheckedRange,
    Difference,
    by_partition,
    check,
    check_range,
    contiguous,
    contributed,
    documents_of,
    fold,
)
from projections.views import saved_views, sums
from projections.views.saved_views import SavedViews
from projections.views.shown_versions import TICKETS_AT_ONCE, all_versions, versions_of
from projections.views.sum_view import Number
from projections.workers import Workers

_MOST_BEHIND = 10_000
_TRIES = 50
_PAUSE_SECONDS = 0.2
_BEHIND_SECONDS = 15.0
_ERASING_SECONDS = 30.0
_RECENT_SECONDS = 15.0
_CLOCKS_DIFFER_SECONDS = 60.0


class ViewsKeptChanging(CasebookError):
    """The counters changed faster than they could be compared."""

    def __init__(self) -> None:
        super().__init__(
            "never_still", "the views change too fast for the counters to be compared; try again"
        )


class _FarBehind(Exception):
    pass


class _Snapshot(NamedTuple):
    """What the database held at one moment; `applied` by partition."""

    applied: Counter[int]
    numbers: Mapping[Number, int]
    versions: Mapping[UUID, int]
    parked: Mapping[UUID, int]


class Auditor:
    """Audits one generation of views.

    `tickets` and `numbers` tell how much was compared; `differences`, how many things differ, and
    `first` the first of them; `waiting`, how many events wait with which parked tickets, which are
    compared as far as they are shown.
    """

    def __init__(
        self,
        database: Database,
        generation: Generation,
        workers: Workers,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
        most: int = 1000,
    ) -> None:
        """`progress` is told how many events' tickets have been compared, of how many; `most`: how
        many differences are kept.
        """
        self._database = database
        self._generation = generation
        self._shown = generation.of(database)
        self._workers = workers
        self._store = EventStore(database)
        self._erasures = Erasures(database)
        self._progress = progress
        self._asked = Asked(generation, (), (), datetime.max.replace(tzinfo=UTC))
        self._versions: dict[UUID, int] = {}
        self._shown_events: Counter[int] = Counter()
        self._added: dict[str, Counter[str]] = defaultdict(Counter)
        self.waiting: Mapping[UUID, int] = {}
        self.tickets = 0
        self.numbers = 0
        self.differences = 0
        self.first: list[Difference] = []
        self._most = most

    async def compare(self) -> None:
        """Compare everything. Raises ViewsKeptChanging, StoreUnavailable."""
        state = await Checkpoints(self._shown).read()
        complete = frozenset.intersection(*(p.views for p in state.partitions))
        views = [v for v in await SavedViews(self._shown).all() if v.id in complete]
        recent = state.now - timedelta(seconds=_CLOCKS_DIFFER_SECONDS)
        self._asked = Asked(self._generation, views, (), recent)
        await self._see_parked()
        appended: dict[UUID, int] = {}
        log = Subscription(self._store, await present(self._store), late=LateEventCheck())
        async with background(_note(log, appended)):
            total, done = await self._store.count(), 0
            behind: dict[UUID, int] = {}
            differing: list[Difference] = []

            def took(found: CheckedRange) -> None:
                nonlocal done
                done += found.log_events
                self.tickets += found.tickets
                self._take(found.checked, found.shown_events)
                behind.update(found.checked.behind)
                differing.extend(found.checked.differences)
                self._progress(done, max(done, total))
                if len(behind) > _MOST_BEHIND:
                    raise _FarBehind

            ranges = await self._store.ranges()
            asked = [(self._asked, part) for part in ranges]
            try:
                await self._workers.each(check_range, asked, took)
            except _FarBehind:
                await self._tell_what_stays(differing)
                few = f"no more than {_MOST_BEHIND}"
                self._tell(
                    Difference("read documents", "behind the log", few, "more; the rest unseen")
                )
                return
            await self._tell_what_stays(differing)
            await self._wait_for(behind)
            await self._tell_unknown_to_the_log()
            await self._compare_sums(appended)

    def _tell(self, difference: Difference) -> None:
        self.differences += 1
        if len(self.first) < self._most:
            self.first.append(difference)

    async def _tell_what_stays(self, found: Sequence[Difference]) -> None:
        """Tell what differs; but while a person is being erased look again first, for some seconds:
        what is read of the log is erased before it is in the views.
        """
        clock = asyncio.get_running_loop().time
        patient_until = clock() + _ERASING_SECONDS
        while found and clock() < patient_until and await self._is_erasing():
            await asyncio.sleep(_PAUSE_SECONDS)
            ids = {each.ticket_id for each in found if each.ticket_id is not None}
            others = [each for each in found if each.ticket_id is None]
            found = [*others, *await self._look_again(sorted(ids))]
        for difference in found:
            self._tell(difference)

    async def _is_erasing(self) -> bool:
        return bool(await self._erasures.at(PersonErased) or await self._erasures.at(KeyDestroyed))

    def _take(self, checked: Checked, events: Counter[int]) -> None:
        self._versions |= checked.versions
        self._shown_events.update(events)
        sums.add(self._added, checked.added)

    async def _see_parked(self) -> None:
        parked = ParkedTickets(self._shown)
        stopped = await parked.all()
        self.waiting = await parked.waiting_events(self._store, stopped)
        self._asked = self._asked._replace(waiting=frozenset(t.ticket_id for t in stopped))

    def _seen(self, ticket_id: UUID, stream: Sequence[EventDocument]) -> int:
        """Return the version at which a ticket is part of the sums."""
        if ticket_id in self._versions:
            return self._versions[ticket_id]
        return sum(1 for _ in takewhile(lambda e: e["recorded_at"] < self._asked.recent, stream))

    async def _look_again(self, ids: Sequence[UUID]) -> list[Difference]:
        """Compare tickets again, in the place of what was seen of them; return what differs."""
        differing: list[Difference] = []
        for start in range(0, len(ids), TICKETS_AT_ONCE):
            streams = await self._streams(ids[start : start + TICKETS_AT_ONCE])
            checked = await check(self._shown, self._store, self._asked, streams)
            for ticket_id in streams.keys() | checked.versions.keys():
                self._replace(ticket_id, streams.get(ticket_id, []), None)
                self._versions[ticket_id] = checked.versions.get(ticket_id, 0)
            self._take(checked, by_partition(checked.versions))
            differing += checked.differences
        return differing

    async def _streams(self, ids: Sequence[UUID]) -> dict[UUID, list[EventDocument]]:
        return contiguous(await self._store.open(await self._store.of_tickets(ids), command=False))

    async def _wait_for(self, behind: Mapping[UUID, int]) -> None:
        """Return those that did not show what the log had some time; tell which still do not."""
        clock = asyncio.get_running_loop().time
        patient_until = clock() + _BEHIND_SECONDS
        while behind and clock() < patient_until:
            await asyncio.sleep(_PAUSE_SECONDS)
            await self._see_parked()
            await self._look_again(list(behind))
            behind = {
                ticket_id: version
                for ticket_id, version in behind.items()
                if self._versions.get(ticket_id, 0) < version and ticket_id not in self.waiting
            }
        found = await documents_of(self._shown, behind)
        for ticket_id, stream in (await self._streams(list(behind))).items():
            what, document = f"ticket {ticket_id}", found.get(ticket_id)
            if document is None:
                self._tell(Difference(what, "read document", "one", None))
                # What it has added to the sums is not gone with it.
                self._replace(ticket_id, stream, behind[ticket_id])
            elif isinstance(document.get("version"), int):
                self._tell(Difference(what, "version", behind[ticket_id], document["version"]))

    def _replace(
        self, ticket_id: UUID, stream: Sequence[EventDocument], version: int | None
    ) -> None:
        """Have a ticket be part of the sums at another version; None: not at all."""
        seen = self._seen(ticket_id, stream)
        for until, times in ((seen, -1), (version or 0, 1)):
            read = fold(stream[:until], self._generation.zones)
            if read is not None:
                sums.add(self._added, contributed(read, self._asked.views), times)
                self._shown_events[partition_of(ticket_id)] += times * read.version
        self._versions[ticket_id] = version or 0

    async def _tell_unknown_to_the_log(self) -> None:
        """Find read documents of tickets that the log does not have."""
        async for versions in all_versions(self._shown):
            known = {ticket_id for ticket_id, _ in await self._store.versions(versions)}
            for ticket_id in versions.keys() - known:
                self._tell(Difference(f"ticket {ticket_id}", "read document", None, "one"))

    # --- sums ------------------------------------------------------------------------------------

    async def _compare_sums(self, appended: Mapping[UUID, int]) -> None:
        """Compare counters and checkpoints with the sums over all tickets.

        `appended`: the versions that the log has got since the audit began, growing on.
        """
        former: tuple[Counter[int], Counter[int]] | None = None
        for _ in range(_TRIES):
            # First what has changed is compared again, so that little is left for the snapshot.
            await self._tell_what_stays(await self._look_again(self._behind(appended)))
            snapshot = await self._snapshot([*self._behind(appended), *self.waiting])
            streams = await self._streams(list(snapshot.versions))
            for ticket_id, version in snapshot.versions.items():
                self._replace(ticket_id, streams.get(ticket_id, []), version)
            # Where nothing moves, and still they differ, it is no matter of when one looks.
            now = self._shown_events.copy(), snapshot.applied
            if self._shown_events == snapshot.applied or former == now:
                for number, events in sorted(snapshot.applied.items()):
                    if events != self._shown_events[number]:
                        what = f"checkpoint {number}"
                        self._tell(Difference(what, "applied", self._shown_events[number], events))
                self._tell_different_numbers(snapshot)
                return
            former = now
            await asyncio.sleep(_PAUSE_SECONDS)
        raise ViewsKeptChanging

    def _behind(self, appended: Mapping[UUID, int]) -> list[UUID]:
        """Return the tickets whose documents may have changed since they were looked at."""
        return [t for t, version in appended.items() if self._versions.get(t, 0) < version]

    def _tell_different_numbers(self, snapshot: _Snapshot) -> None:
        expected: Counter[Number] = Counter()
        for view in sums.of(self._shown):
            for where, path, n in view.numbers(self._added.get(view.field, {})):
                expected[Number(f"{view.collection} {where}", path)] += n
        # Those that are not counted everywhere yet, and those that are gone, are nobody's number.
        names = {f"{saved_views.COUNTS} {v.id}": repr(v.name) for v in self._asked.views}
        numbers = {
            number
            for number in expected.keys() | snapshot.numbers.keys()
            if number[0] in names or not number[0].startswith(saved_views.COUNTS)
        }
        self.numbers = len(numbers)
        for ticket_id, version in snapshot.parked.items():
            stops = snapshot.versions.get(ticket_id, 0) + 1
            if version != stops:
                self._tell(Difference(f"ticket {ticket_id}", "parked at version", stops, version))
        for where, path in sorted(numbers):
            is_, ought = snapshot.numbers.get(Number(where, path), 0), expected[Number(where, path)]
            if is_ != ought:
                what = f"{saved_views.COUNTS} {names[where]}" if where in names else where
                self._tell(Difference(what, path or "count", ought, is_))

    async def _snapshot(self, ids: Sequence[UUID]) -> _Snapshot:
        """Read sums, checkpoints and versions as of one moment.

        The versions of some tickets, and of all that were written to just now.
        """

        async def all_of(name: str, session: Session) -> list[JsonObject]:
            return await self._shown.collection(name).find({}, session=session).to_list()

        before = await self._database.server_time()
        just_now = before - timedelta(seconds=_RECENT_SECONDS)

        async def work(session: Session) -> _Snapshot:
            # What the stream has not brought yet was written a moment ago.
            recent = await self._store.since(just_now, 0, session)
            parked = {
                uuid_of(ticket): version
                for ticket in await all_of(PARKED, session)
                if isinstance(version := ticket["version"], int)
            }
            wanted = list({*ids, *parked, *(event.ticket_id for event in recent)})
            checkpoints = await all_of(CHECKPOINTS, session)
            numbers: Counter[Number] = Counter()
            for view in sums.of(self._shown):
                for document in await all_of(view.collection, session):
                    for (where, path), n in view.kept(document):
                        numbers[Number(f"{view.collection} {where}", path)] += n
            versions = await versions_of(self._shown, wanted, session)
            of_partitions = [c for c in checkpoints if isinstance(c["_id"], int)]
            applied = Counter(
                {cast("int", c["_id"]): cast("int", c.get("applied", 0)) for c in of_partitions}
            )
            return _Snapshot(applied, numbers, versions, parked)

        return await self._database.in_transaction(work, snapshot=True)


async def _note(log: Subscription, appended: dict[UUID, int]) -> None:
    """Note the versions that the log gets, by ticket, until cancelled."""
    async with aclosing(log.steps()) as steps:
        async for _, event, _ in steps:
            if event is not None:
                known = appended.get(event["ticket_id"], 0)
                appended[event["ticket_id"]] = max(known, event["version"])
