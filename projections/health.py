"""How the views are: judged by how far they have come in the log, not by what runs.

A process that lives, and even renews its lease, may do nothing. So a partition counts as *current*
only while everything up to a moment ago is applied to it; as *slow* while it is further behind and
its projector gets on; and as *stuck* when it is behind and nothing moves, for whatever reason. And
since a projector may believe to have seen everything where a stream has silently left something
out, what is folded is also counted against the log: when that differs and does not change for a
while, the views are stuck, whatever anyone says.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, cast
from uuid import UUID

from eventstore.driver import Database
from eventstore.store import EventStore
from projections import tickets
from projections.checkpoints import Checkpoints
from projections.parked import Parked, ParkedTickets
from projections.partitions import Partition, State, partition_of

STUCK_SECONDS = 15.0
"""Longer than a lease: what a takeover mends is not stuck."""
_LOOKED_AT_EVENTS = 5_000
_CLOCKS_DIFFER_SECONDS = 60.0

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
    """How the views are. `missing_events`: in the log, and neither folded nor waiting (parked)."""

    condition: Condition
    state: State
    conditions: Sequence[Condition]
    log_events: int
    folded_events: int
    parked: Sequence[Parked]

    @property
    def missing_events(self) -> int:
        """Give how many events are not folded yet that could be."""
        return self.log_events - self.folded_events - sum(p.waiting_events for p in self.parked)


def as_of(state: State) -> datetime | None:
    """Give the time before which everything is in the views; None if that is not known."""
    times = [state.as_of(partition) for partition in state.partitions]
    return None if None in times else min(cast("list[datetime]", times))


def age_seconds(state: State) -> float | None:
    """Give how old the views are at most; None if that is not known."""
    shown = as_of(state)
    return None if shown is None else max(0.0, (state.now - shown).total_seconds())


def condition(state: State, partition: Partition) -> Condition:
    """Judge one partition by what the checkpoints say."""
    patience = timedelta(seconds=STUCK_SECONDS)
    shown = state.as_of(partition)
    is_recent = shown is not None and abs(state.now - shown) < patience
    if not state.is_alive(partition.owner):
        return "slow" if is_recent else "stuck"  # someone will take it
    if is_recent:
        return "current"
    progressed_at = state.members[partition.owner or ""].progressed_at
    gets_on = progressed_at is not None and abs(state.now - progressed_at) < patience
    return "slow" if gets_on else "stuck"


def worst(conditions: Iterable[Condition]) -> Condition:
    """Give the worst of some conditions."""
    found = set(conditions)
    return "stuck" if "stuck" in found else "slow" if "slow" in found else "current"


class Health:
    """Looks at the views of one database, and remembers what it saw."""

    def __init__(self, database: Database, store: EventStore) -> None:
        self._store = store
        self._checkpoints = Checkpoints(database)
        self._parked = ParkedTickets(database)
        self._reads = database.collection(tickets.COLLECTION)
        self._unmoved: tuple[int, float] | None = None  # folded while behind, and since when

    async def look(self) -> Report:
        """Look at the checkpoints and at the log."""
        state, parked = await asyncio.gather(self._checkpoints.read(), self._parked.all())
        log_events = await self._store.count()
        folded = sum(partition.applied for partition in state.partitions)
        conditions = [condition(state, partition) for partition in state.partitions]
        report = Report(worst(conditions), state, conditions, log_events, folded, parked)
        if report.missing_events > 0 and await self._does_not_move(folded):
            return Report("stuck", state, conditions, log_events, folded, parked)
        if report.missing_events <= 0:
            self._unmoved = None
        return report

    async def _does_not_move(self, folded: int) -> bool:
        now = time.monotonic()
        if self._unmoved is None or self._unmoved[0] != folded:
            self._unmoved = (folded, now)
        return now - self._unmoved[1] >= STUCK_SECONDS

    async def lags(self, report: Report) -> dict[int, Lag]:
        """Find what of the log is not in the views, by partition; parked tickets left out.

        Checkpoints of which it is not known how far they are are left out too.
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
        waiting = {p.ticket_id for p in report.parked}
        events = [e for e in events if e.ticket_id not in waiting]
        versions = await self._versions({event.ticket_id for event in events})
        behind: Counter[int] = Counter()
        oldest: dict[int, datetime] = {}
        for event in events:
            if event.version > versions.get(event.ticket_id, 0):
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

    async def _versions(self, ids: set[UUID]) -> dict[UUID, int]:
        found = self._reads.find({"_id": {"$in": list(ids)}}, {"version": 1})
        return {cast("UUID", d["_id"]): cast("int", d["version"]) async for d in found}


def _age(now: datetime, then: datetime) -> float:
    return max(0.0, (now - then).total_seconds())
