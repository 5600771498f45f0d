"""How the views are: judged by how far they have come in the log, not by what runs.

A process that lives, and even renews its lease, may do nothing. So a partition counts as *current*
only while everything up to some seconds ago is applied to it; as *slow* while it is further behind
and its projector gets on; and as *stuck* when it is behind and nothing moves, for whatever reason.

And a projector may believe to have seen everything where a stream has silently left something out.
So the events of some seconds ago are looked up: one that is said to be shown and is not is
*overdue*. And what is folded is counted against the log, in the background (`log_count.py`). If
either differs, the views are stuck, whatever anyone says.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, get_args
from uuid import UUID

from eventstore.database import Database
from eventstore.log import EventStore, Recorded
from eventstore.partition import partition_of
from projections.projector.checkpoints import Checkpoints
from projections.projector.parked import Parked, ParkedTickets
from projections.projector.partitions import Partition, State
from projections.views.shown_versions import versions_of

STUCK_SECONDS = 15.0
"""Longer than a lease: what a takeover mends is not stuck."""
OVERDUE_SECONDS = 5.0
"""How long ago an event must be said to be shown before anyone looks whether it is."""
_LOOKED_AT_EVENTS = 5_000
_CLOCKS_DIFFER_SECONDS = 5.0

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
    folded_events: int
    parked: Sequence[Parked]
    waiting: Counter[UUID]
    overdue: Sequence[Recorded]
    vanished_events: int

    @property
    def missing_events(self) -> int:
        """Return how many events are not folded yet that could be."""
        return self.log_events - self.folded_events - self.waiting.total()


def as_of(state: State) -> datetime | None:
    """Return the time before which everything is in the views; None if that is not known."""
    times = [time for each in state.partitions if (time := state.as_of(each)) is not None]
    return min(times) if len(times) == len(state.partitions) else None


def age_seconds(state: State) -> float | None:
    """Return how old the views are at most; None if that is not known."""
    shown = as_of(state)
    if shown is None or _age(shown, state.now) > _CLOCKS_DIFFER_SECONDS:  # a clock was put back
        return None
    return _age(state.now, shown)


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


async def look(
    database: Database, store: EventStore, count: Callable[[], Awaitable[int]] | None = None
) -> Report:
    """Look at the checkpoints, and at what was recorded lately.

    `database`: as it is with the views in question. `count` counts the log; without one it is told
    as it was counted last, in the background: no request counts it.
    """
    waiting = ParkedTickets(database)
    state, parked = await asyncio.gather(Checkpoints(database).read(), waiting.all())
    conditions = [condition(state, partition) for partition in state.partitions]
    stuck = timedelta(seconds=STUCK_SECONDS)
    lately = await store.since(state.now - 2 * stuck, _LOOKED_AT_EVENTS, before=state.now - stuck)
    # Before the log is counted: what is folded or waits is in it then, unless it has vanished.
    behind = await waiting.waiting_events(store, parked)
    late = await overdue(database, state, parked, lately)
    folded = sum(partition.applied for partition in state.partitions)
    difference = state.counted.difference
    log_events = max(state.counted.events, folded + behind.total() - difference)
    return Report(
        "stuck" if late or difference else worst(conditions),
        state,
        conditions,
        log_events if count is None else await count(),
        folded,
        parked,
        behind,
        late,
        max(0, difference),
    )


async def lags(database: Database, store: EventStore, report: Report) -> dict[int, Lag]:
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
    events = await store.since(first, _LOOKED_AT_EVENTS)
    waiting = {ticket.ticket_id for ticket in report.parked}
    behind: Counter[int] = Counter()
    oldest: dict[int, datetime] = {}
    awaited = [event for event in events if event.ticket_id not in waiting]
    for event in await not_applied(database, awaited):
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
    return await not_applied(database, found)


async def not_applied(database: Database, events: Sequence[Recorded]) -> list[Recorded]:
    """Return those of some events that the views do not show."""
    versions = await versions_of(database, {event.ticket_id for event in events}) if events else {}
    return [event for event in events if event.version > versions.get(event.ticket_id, 0)]


def _age(now: datetime, then: datetime) -> float:
    return max(0.0, (now - then).total_seconds())
