"""Comparing what has been folded with the log: in the background, and on no request's way.

The log has as many events as are folded, and wait with parked tickets. What was folded before the
log was counted must be in it, or it has vanished; what it had must be folded once all until then is
said to be shown, or it is missing. So nothing that is on its way is taken for either. It may hide
as much of what is, for as long as it goes on: then the look for late events is what finds it.

The log is estimated, which costs MongoDB next to nothing; the embedded server counts all events for
it, so there it is not done so often if there are many. An estimate is off for long: after an
unclean shutdown, and by orphaned documents on a sharded cluster (the manual, "count"). By how much
is found by an exact count and remembered; and so is what differs. Only an estimate that says
something new is a reason to count exactly again.
"""

import asyncio
import logging
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple

from eventstore.database import Database
from eventstore.log import EventStore
from eventstore.partition import PARTITIONS
from projections.projector import health
from projections.projector.checkpoints import Checkpoints
from projections.projector.parked import ParkedTickets
from projections.projector.partitions import LogCount

_COUNT_SHARE = 0.02  # of the time, at most, goes into estimating the log, and into counting it
_log = logging.getLogger(__name__)


class _Awaited(NamedTuple):
    """How many events must be folded once all is said to be shown up to a time; by an exact count,
    or by an estimate.
    """

    events: int
    shown: datetime
    is_exact: bool


class LogCountCheck:
    """Compares one generation of views with the log."""

    def __init__(
        self,
        database: Database,
        store: EventStore,
        checkpoints: Checkpoints,
        late: timedelta,
        me: str | None = None,
    ) -> None:
        """`late`: how long after an event was recorded it must be shown where all of its time is
        said to be. `me`: the member that counts, by whose last sign of life it is now.
        """
        self._me = me
        self._database = database
        self._store = store
        self._checkpoints = checkpoints
        self._parked = ParkedTickets(database)
        self._late = late
        self._clock = asyncio.get_running_loop().time
        self._next_look = self._next_count = 0.0
        self._awaited: _Awaited | None = None
        self._scanned = 0

    @property
    def is_due(self) -> bool:
        """Whether the log may be looked at again."""
        return self._clock() >= self._next_look

    async def compare(self) -> tuple[LogCount, LogCount]:
        """Return what was known, and what is: how many events the log has, and what differs.

        What is missing is scanned for, and told only if that does not mend it. Raises what the
        driver raises.
        """
        state = await self._checkpoints.read(self._me)
        known, shown = state.counted, health.as_of(state)
        folded = await self._folded()  # later than what is said to be shown: that must be in it
        began = self._clock()
        counted = replace(known, events=await self._store.count() + known.drift)
        self._next_look = self._clock() + (self._clock() - began) / _COUNT_SHARE
        more = folded - counted.events - known.difference
        if more == 0:
            self._scanned = 0
        awaited, is_missing = self._awaited, False
        if awaited is not None and shown is not None and shown >= awaited.shown:
            self._awaited = None
            if awaited.is_exact:
                # What has come meanwhile is no sign that something is lost, nor that it is not.
                difference = min(max(0, known.difference), folded - awaited.events)
                difference = await self._scan_for(difference, known)
                return known, replace(counted, difference=difference)
            is_missing = folded < awaited.events
        elif awaited is None and more < 0:
            await self._await(folded - more, is_exact=False)
        is_known = more <= 0 and not is_missing
        if is_known or (awaited and awaited.is_exact) or self._clock() < self._next_count:
            return known, counted
        folded = await self._folded()
        counted = await self._counted()
        if folded < counted.events:
            await self._await(counted.events, is_exact=True)
            return known, replace(counted, difference=known.difference)
        self._awaited = None
        return known, replace(counted, difference=folded - counted.events)

    async def _await(self, events: int, *, is_exact: bool) -> None:
        shown = await self._database.server_time() + self._late
        self._awaited = _Awaited(events, shown, is_exact)

    async def _scan_for(self, difference: int, known: LogCount) -> int:
        """Have the log scanned if more is missing than is known; return what is to be told."""
        if difference >= min(known.difference, self._scanned):
            return difference
        _log.error("the log holds %d events that the views do not", -difference)
        self._scanned = difference
        await self._checkpoints.scan_all()
        return known.difference

    async def _counted(self) -> LogCount:
        """Count the log exactly; the estimate comes after it.

        What is written between the two makes the drift too small: then the log seems to have less
        than it has, and is counted again. One that is too large would hide as many lost events.
        """
        began = self._clock()
        try:
            exact = await self._store.count(exact=True)
        finally:
            now = self._clock()
            self._next_count = now + (now - began) / _COUNT_SHARE
        return LogCount(exact, exact - await self._store.count())

    async def _folded(self) -> int:
        """Return how many events are folded, or wait with parked tickets."""
        state, parked = await asyncio.gather(
            self._checkpoints.read(self._me), self._parked.of(range(PARTITIONS))
        )
        waiting = await self._parked.waiting_events(self._store, parked)
        return sum(each.applied for each in state.partitions) + waiting.total()
