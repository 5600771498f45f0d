"""Comparing what has been folded with the log: in the background, and on no request's way.

The log has as many events as are folded, and wait with parked tickets. What was folded before the
log was counted must be in it, or it has vanished; what it had must be folded once all until then is
said to be shown, or it is missing. So neither needs a moment in which nothing is written.

The log is estimated, which costs next to nothing. An estimate is off for long: after an unclean
shutdown, and by orphaned documents on a sharded cluster (the manual, "count"). By how much is found
by an exact count and remembered; and so is what differs. Only an estimate that says something new
is a reason to count exactly again.
"""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple

from eventstore.database import Database
from eventstore.log import EventStore
from projections.projector import health
from projections.projector.checkpoints import Checkpoints
from projections.projector.parked import ParkedTickets
from projections.projector.partitions import LogCount, State

_COUNT_SHARE = 0.02  # of the time, at most, goes into counting the log
_LOOK_SECONDS = 0.25


class _Awaited(NamedTuple):
    """How many events must be folded once all is said to be shown up to a time."""

    folded: int
    shown: datetime


class Counting:
    """Compares one generation of views with the log."""

    def __init__(
        self, database: Database, store: EventStore, checkpoints: Checkpoints, late: timedelta
    ) -> None:
        """`late`: how long after an event was recorded it must be shown where all of its time is
        said to be.
        """
        self._database = database
        self._store = store
        self._checkpoints = checkpoints
        self._parked = ParkedTickets(database)
        self._late = late
        self._pause_seconds = 0.0
        self._awaited: _Awaited | None = None

    async def compare(self) -> tuple[LogCount, LogCount]:
        """Return what was known, and what is: how many events the log has, and what differs.

        Raises what the driver raises.
        """
        state = await self._checkpoints.read()
        known, folded = state.counted, await self._folded(state)
        is_missing = self._is_missing(state, folded)
        counted = replace(known, events=await self._count() + known.drift)
        more = folded - counted.events - known.difference
        if more < 0 and self._awaited is None:
            shown = await self._database.server_time() + self._late
            self._awaited = _Awaited(folded - more, shown)
        if more <= 0 and not is_missing:
            return known, counted
        self._awaited = None
        folded = await self._folded(await self._checkpoints.read())
        estimate = await self._count()
        exact = await self._count(exact=True)
        difference = await self._difference(folded, exact)
        return known, LogCount(exact, exact - estimate, difference)

    def _is_missing(self, state: State, folded: int) -> bool | None:
        """Say whether fewer events are folded than should be by now; None if that is not known."""
        awaited, shown = self._awaited, health.as_of(state)
        if awaited is None or shown is None or shown < awaited.shown:
            return None
        self._awaited = None
        return folded < awaited.folded

    async def _difference(self, folded: int, stored: int) -> int:
        """Return how many more events were folded than are stored; fewer if it is so when all that
        was stored should be shown.
        """
        if folded >= stored:
            return folded - stored
        self._awaited = _Awaited(stored, await self._database.server_time() + self._late)
        is_missing: bool | None = None
        while is_missing is None:
            await asyncio.sleep(_LOOK_SECONDS)
            state = await self._checkpoints.read()
            folded = await self._folded(state)
            is_missing = self._is_missing(state, folded)
        return folded - stored if is_missing else 0

    async def _folded(self, state: State) -> int:
        """Return how many events are folded, or wait with parked tickets."""
        waiting = await self._parked.waiting_events(self._store, await self._parked.all())
        return sum(each.applied for each in state.partitions) + waiting.total()

    async def _count(self, *, exact: bool = False) -> int:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(self._pause_seconds)
        began = clock()
        try:
            return await self._store.count(exact=exact)
        finally:
            self._pause_seconds = (clock() - began) / _COUNT_SHARE
