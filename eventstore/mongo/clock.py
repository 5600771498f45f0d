"""The database's clock, as a process keeps it.

What is written for good is dated by one clock, whichever process writes it: a process whose own
clock is an hour slow would open tickets that are an hour old, and whose promises ran out at once.

Now and then the database is asked for its time; in between the process's monotonic clock counts on,
which nobody sets. So the process's own clock dates nothing. It is compared, because a clock that is
far off is a sign that one of the two is wrong, and nobody can tell which.

A measurement is as good as half of the time that its answer took (as in NTP, RFC 5905, section 8).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import NamedTuple

from prometheus_client import Gauge
from pymongo.errors import PyMongoError

from eventstore.event_document import utc_now, whole_milliseconds

FAR_OFF_SECONDS = 5.0
"""More than clocks differ that are kept right."""
_OLD_SECONDS = 10.0
_LOOK_SECONDS = 1.0
_ASK_SECONDS = 2.0
_VAGUE_SECONDS = 0.5  # a measurement that may be wrong by more replaces only one that is old
_KEPT_SECONDS = 60.0
_SET_SECONDS = 1.0
_SAID_AGAIN_SECONDS = 600.0

_OFF = Gauge(
    "casebook_clock_off_seconds", "By how much this process's clock is ahead of the database's."
)
_log = logging.getLogger(__name__)

_STANDS_STILL = timedelta(seconds=1)
"""By so much the clock is not put back, but stands still."""

Ask = Callable[[], Awaitable[datetime]]


class _Measured(NamedTuple):
    """What the clocks showed at one moment. `vague`: by how many seconds that may be wrong."""

    at: datetime
    own: datetime
    ticks: float
    vague: float


class DatabaseClock:
    """The clock of one database. Bound to the event loop in which it is first used."""

    def __init__(
        self,
        ask: Ask,
        own: Callable[[], datetime] = utc_now,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ask` reads the database's clock; `own` is the process's, and `ticks` counts seconds."""
        self.ask = ask
        self._own = own
        self._ticks = ticks
        self._measured: _Measured | None = None
        self._tried_at: float | None = None
        self._asking = asyncio.Lock()
        self._told_at: float | None = None
        self._latest: datetime | None = None

    def now(self) -> datetime:
        """Return the database's time by the last measurement (UTC, whole milliseconds); the
        process's own before the first one.
        """
        last = self._measured
        if last is None:
            return self._own()
        now = whole_milliseconds(last.at + timedelta(seconds=self._ticks() - last.ticks))
        # A correction by some milliseconds dates no event before the one that was dated last.
        if self._latest is not None and timedelta() < self._latest - now < _STANDS_STILL:
            now = self._latest
        self._latest = now
        return now

    async def time(self) -> datetime:
        """Return the database's time, asked for if the last measurement is old.

        A database that does not answer delays this by two seconds at most, and once in ten.
        """
        if self._is_due():
            async with self._asking:
                if self._is_due():
                    self._tried_at = self._ticks()
                    with suppress(PyMongoError, TimeoutError):
                        async with asyncio.timeout(_ASK_SECONDS):
                            await self.measure()
        return self.now()

    async def measure(self) -> datetime:
        """Ask the database for its time and return it. Raises what the driver raises."""
        began = self._ticks()
        at = await self.ask()
        ended = self._ticks()
        self._tried_at = None
        vague = (ended - began) / 2
        last = self._measured
        if (
            last is None
            or vague <= max(last.vague, _VAGUE_SECONDS)
            or ended - last.ticks > _KEPT_SECONDS
            or self._was_set()
        ):
            midway = timedelta(seconds=vague)
            self._measured = _Measured(at + midway, self._own(), ended, vague)
            self._tell()
        return at

    async def keep(self) -> None:
        """Keep measuring until cancelled, so that nobody has to wait for it."""
        while True:
            await self.time()
            await asyncio.sleep(_LOOK_SECONDS)

    @property
    def off_seconds(self) -> float:
        """By how many seconds the process's clock is ahead of the database's; 0 until measured."""
        return 0.0 if self._measured is None else (self._own() - self.now()).total_seconds()

    @property
    def is_far_off(self) -> bool:
        """Whether the two clocks differ by more than clocks do that are kept right."""
        vague = 0.0 if self._measured is None else self._measured.vague
        return abs(self.off_seconds) - vague > FAR_OFF_SECONDS

    def _is_due(self) -> bool:
        if self._measured is None or self._was_set():
            since = self._tried_at
            return since is None or self._ticks() - since > _ASK_SECONDS
        since = max(self._measured.ticks, self._tried_at or 0.0)
        return self._ticks() - since > _OLD_SECONDS

    def _was_set(self) -> bool:
        """Whether the process's clock was set since, or its machine has slept."""
        if self._measured is None:
            return False
        passed = (self._own() - self._measured.own).total_seconds()
        return abs(passed - (self._ticks() - self._measured.ticks)) > _SET_SECONDS

    def _tell(self) -> None:
        _OFF.set(self.off_seconds)
        told_at, now = self._told_at, self._ticks()
        if self.is_far_off:
            if told_at is None or now - told_at > _SAID_AGAIN_SECONDS:
                self._told_at = now
                off = self.off_seconds
                way = "ahead of" if off > 0 else "behind"
                _log.error(
                    "this machine's clock is %.0f seconds %s the database's: "
                    "set right whichever is wrong; until then this process keeps no time",
                    abs(off),
                    way,
                )
        elif told_at is not None:
            self._told_at = None
            _log.info("this machine's clock agrees with the database's again")
