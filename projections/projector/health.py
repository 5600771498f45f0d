"""How the views are: judged by how far they have come in the log, not by what runs.

A process that lives, and even renews its lease, may do nothing. So a partition counts as *current*
only while everything up to some seconds ago is applied to it; as *slow* while it is further behind
and its projector gets on; and as *stuck* when it is behind and nothing moves, for whatever reason.

And a projector may believe to have seen everything where a stream has silently left something out.
So what is folded is counted against the log, and the events of some seconds ago are looked up: one
that is said to be shown and is not is *overdue*. If that lasts, the views are stuck, whatever
anyone says.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextvars import Context
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, cast, get_args
from uuid import UUID

from eventstore.database import Database
from eventstore.log import EventStore, Recorded
from eventstore.mongo.errors import is_unavailable
from eventstore.partition import partition_of
from projections.projector.checkpoints import Checkpoints
from projections.projector.parked import Parked, ParkedTickets
from projections.projector.partitions import Partition, State
from projections.views import tickets
from projections.views.shown import versions_of

STUCK_SECONDS = 15.0
"""Longer than a lease: what a takeover mends is not stuck."""
OVERDUE_SECONDS = 5.0
"""How long ago an event must be said to be shown before anyone looks whether it is."""
_LOOKED_AT_EVENTS = 5_000
_CLOCKS_DIFFER_SECONDS = 5.0
_COUNTED_SECONDS = 60.0
_COUNT_SECONDS = 2.0
"""For how long a look waits for an exact count."""

Condition = Literal["current", "slow", "stuck"]


@dataclass(frozen=True, slots=True)
class Lag:
    """What of the log is not in a partition's views: how many events, the oldest of how long ago.

    `at_least`: there may be more, for there is more than was looked at.
    """

    events: int
    seconds: float
    at_least: bool


@dataclass(frozen=True, slots=True)
class Report:
    """How the views are. `missing_events`: in the log, and neither folded nor waiting (parked).

    `waiting`: how many events wait with which parked ticket; `overdue`: some events that are said
    to be shown and are not; `vanished_events`: folded, and in the log no more.
    """

    condition: Condition
    state: State
    conditions: Sequence[Condition]
    log_events: int
    parked: Sequence[Parked]
    waiting: Counter[UUID]
    overdue: Sequence[Recorded]
    vanished_events: int = 0

    @property
    def folded_events(self) -> int:
        """Return how many events the views contain."""
        return sum(partition.applied for partition in self.state.partitions)

    @property
    def missing_events(self) -> int:
        """Return how many events are not folded yet that could be."""
        return self.log_events - self.folded_events - self.waiting.total()


def as_of(state: State) -> datetime | None:
    """Return the time before which everything is in the views; None if that is not known."""
    times = [state.as_of(partition) for partition in state.partitions]
    return None if None in times else min(cast("list[datetime]", times))


def age_seconds(state: State) -> float | None:
    """Return how old the views are at most; None if that is not known."""
    shown = as_of(state)
    return None if shown is None else max(0.0, (state.now - shown).total_seconds())


def condition(state: State, partition: Partition) -> Condition:
    """Judge one partition by what the checkpoints say."""
    patience = timedelta(seconds=STUCK_SECONDS)
    shown = state.as_of(partition)
    is_recent = shown is not None and abs(state.now - shown) < patience
    if not state.is_alive(partition.owner):
        return "slow" if is_recent else "stuck"  # another will take it
    if is_recent:
        return "current"
    progressed_at = state.members[partition.owner or ""].progressed_at
    gets_on = progressed_at is not None and abs(state.now - progressed_at) < patience
    return "slow" if gets_on else "stuck"


def worst(conditions: Iterable[Condition]) -> Condition:
    """Return the worst of some conditions."""
    return max(conditions, key=get_args(Condition).index, default="current")


class Health:
    """Looks at the views over one log, and remembers what it saw."""

    def __init__(self, store: EventStore, *, count_seconds: float = _COUNT_SECONDS) -> None:
        """`count_seconds`: how long a report waits for an exact count of the log."""
        self._store = store
        self._count_seconds = count_seconds
        self._unmoved: tuple[int, float] | None = None  # folded while behind, and since when
        self._counting: tuple[str, asyncio.Task[Report]] | None = None
        self._vanished = (float("-inf"), 0)  # when it was counted, and how many events

    async def look(self, database: Database, *, exact: bool = False) -> Report:
        """Look at the checkpoints and at the log; `exact`: count it, and do not estimate.

        `database`: as it is with the views in question.
        """
        waiting = ParkedTickets(database)
        state, parked = await asyncio.gather(Checkpoints(database).read(), waiting.all())
        conditions = [condition(state, partition) for partition in state.partitions]
        stuck = timedelta(seconds=STUCK_SECONDS)
        lately = await self._store.since(
            state.now - 2 * stuck, _LOOKED_AT_EVENTS, before=state.now - stuck
        )
        # Before the log is counted: what is folded or waits is in it then, unless it has vanished.
        behind = await waiting.waiting_events(self._store, parked)
        report = Report(
            worst(conditions),
            state,
            conditions,
            await self._store.count(exact=exact),
            parked,
            behind,
            await overdue(database, state, parked, lately),
        )
        if report.overdue:
            return replace(report, condition="stuck")
        if exact:
            self._vanished = (time.monotonic(), max(0, -report.missing_events))
        if report.missing_events < 0:
            self._unmoved = None
            return await self._with_vanished(report, database)
        if report.missing_events == 0:
            self._unmoved = None
        elif self._does_not_move(report.folded_events):
            # The estimate may be wrong for long, after a crash.
            if exact:
                return replace(report, condition="stuck")
            return await self._counted(database) or report
        return report

    async def _with_vanished(self, report: Report, database: Database) -> Report:
        """Say how many events have vanished, by a count that is no estimate, made now and then."""
        counted_at, vanished = self._vanished
        if time.monotonic() - counted_at > _COUNTED_SECONDS and (
            counted := await self._counted(database)
        ):
            return counted
        return replace(report, condition="stuck", vanished_events=vanished) if vanished else report

    async def _counted(self, database: Database) -> Report | None:
        """Look with the log counted exactly; None if that takes longer than a moment.

        The count goes on then, and the next look gets it. There is never more than one: requests
        must not have the log counted over and over.
        """
        shown = database.collection(tickets.COLLECTION).full_name
        if self._counting is None or self._counting[0] != shown:
            if self._counting is not None:
                self._counting[1].cancel()
            looking = asyncio.create_task(self.look(database, exact=True), context=Context())
            self._counting = (shown, looking)
        counting = _, looking = self._counting
        done, _ = await asyncio.wait({looking}, timeout=self._count_seconds)
        if not done:
            return None
        if self._counting is counting:
            self._counting = None
        if looking.cancelled():  # other views are shown by now
            return None
        try:
            return looking.result()
        except Exception as error:
            if not is_unavailable(error):
                raise
            return None

    def _does_not_move(self, folded: int) -> bool:
        now = time.monotonic()
        if self._unmoved is None or self._unmoved[0] != folded:
            self._unmoved = (folded, now)
        return now - self._unmoved[1] >= STUCK_SECONDS

    async def lags(self, database: Database, report: Report) -> dict[int, Lag]:
        """Find what of the log is not in the views, by partition; parked tickets left out.

        Partitions of which it is not known how far they are are left out too.
        """
        known = {
            p.number: shown
            for p in report.state.partitions
            if (shown := report.state.as_of(p)) is not None
        }
        if not known:
            return {}
        first = min(known.values()) - timedelta(seconds=_CLOCKS_DIFFER_SECONDS)
        events = await self._store.since(first, _LOOKED_AT_EVENTS)
        waiting = {ticket.ticket_id for ticket in report.parked}
        behind: Counter[int] = Counter()
        oldest: dict[int, datetime] = {}
        awaited = [event for event in events if event.ticket_id not in waiting]
        for event in await _not_applied(database, awaited):
            number = partition_of(event.ticket_id)
            behind[number] += 1
            oldest.setdefault(number, event.recorded_at)
        return {
            number: Lag(
                events=behind[number],
                seconds=_age(report.state.now, oldest[number]) if number in oldest else 0.0,
                at_least=len(events) == _LOOKED_AT_EVENTS,
            )
            for number in known
        }


async def overdue(
    database: Database, state: State, parked: Iterable[Parked], events: Iterable[Recorded]
) -> list[Recorded]:
    """Return those of some events that are said to be shown, and are not."""
    claimed = timedelta(seconds=OVERDUE_SECONDS)
    waiting = {ticket.ticket_id for ticket in parked}
    found = [
        event
        for event in events
        if event.ticket_id not in waiting
        and (shown := state.as_of(state.partitions[partition_of(event.ticket_id)])) is not None
        and shown - event.recorded_at > claimed
    ]
    return await _not_applied(database, found)


async def _not_applied(database: Database, events: Sequence[Recorded]) -> list[Recorded]:
    versions = await versions_of(database, {event.ticket_id for event in events}) if events else {}
    return [event for event in events if event.version > versions.get(event.ticket_id, 0)]


def _age(now: datetime, then: datetime) -> float:
    return max(0.0, (now - then).total_seconds())
