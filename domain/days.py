"""Days as the clocks of time zones show them: to which day an instant belongs, and when a day is.

A day begins when its zone's clock first shows its date, and ends when the next one begins. So days
follow one another without a gap: one on which the clock is changed has 23 hours or 25, one whose
date a country skips has none, and a clock that is set back over midnight brings no day back.

Pure, by the rules of the pinned package (`calendars.py`). Outside the years for which calendars
count, days are those of UTC. What is looked up is kept by year in sorted arrays: of several zones
together as well, so that one search finds the days of all.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from domain.calendars import DAY_MS, NEVER, YEARS, from_ms, offsets, to_ms

Zones = tuple[str, ...]
"""Names of time zones, of which there is at least one."""
UTC_ONLY: Zones = ("UTC",)
DAYS = r"\d{4}-\d\d-\d\d(?:,(?:\d{4}-\d\d-\d\d)?)*"
"""What `written` writes, as a pattern."""
_EPOCH_DAY = date(1970, 1, 1).toordinal()


def written(zones: Zones, time: datetime) -> str:
    """Return the days of an instant of UTC, zone by zone, with commas between: `2026-03-01`, or
    `2026-03-01,,2026-03-02`, in which nothing stands for the first one again.
    """
    if zones == UTC_ONLY:  # sooner than by a search
        return time.date().isoformat()
    if time.year not in YEARS:
        return time.date().isoformat() + "," * (len(zones) - 1)
    starts, texts = _together(zones, time.year)
    return texts[bisect_right(starts, to_ms(time)) - 1]


def read(text: str) -> list[str]:
    """Return the days that `written` has written, each in full."""
    first, *others = text.split(",")
    return [first, *(each or first for each in others)]


@lru_cache(maxsize=4096)
def weeks(text: str) -> str:
    """Return the Mondays of days, both as `written` writes days."""
    return _joined([monday(date.fromisoformat(day)).isoformat() for day in read(text)])


def monday(day: date) -> date:
    """Return the first day of a day's week."""
    return day - timedelta(days=day.weekday())


def day_of(zone: str, time: datetime) -> date:
    """Return the day of an instant of UTC."""
    return date.fromisoformat(written((zone,), time))


def begins(zone: str, day: date) -> datetime:
    """Return when a day begins, or the next one if its date was skipped: an instant of UTC."""
    wanted = day.isoformat()
    for year in (day.year - 1, day.year):  # the first of January may begin in the year before
        if year in YEARS:
            starts, days = _days(zone, year)
            if wanted <= days[-1]:
                return from_ms(starts[bisect_left(days, wanted)])
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def ends(zone: str, day: date) -> datetime:
    """Return when a day is over and the next begins; NEVER of the last there is."""
    return begins(zone, day + timedelta(days=1)) if day < date.max else NEVER


class _Starts(NamedTuple):
    """From when on it is which day, in a year of UTC, in order: milliseconds since 1970, and days,
    or the days of several zones as they are written.
    """

    starts: "array[int]"
    days: list[str]


@lru_cache(maxsize=256)
def _days(zone: str, year: int) -> _Starts:
    """Return the days of a zone. The first begins with the year, or before it."""
    found = _Starts(array("q"), [])
    shown = -2  # 1970 may begin with the day before it
    for first, last, offset in offsets(zone, year):
        for day in range((first + offset) // DAY_MS, (last + offset - 1) // DAY_MS + 1):
            if day > shown:
                shown = day
                found.starts.append(max(first, day * DAY_MS - offset))
                found.days.append(date.fromordinal(_EPOCH_DAY + day).isoformat())
    return found


@lru_cache(maxsize=64)
def _together(zones: Zones, year: int) -> _Starts:
    """Return the days of zones. Some milliseconds of work the first time."""
    each = [_days(zone, year) for zone in zones]
    starts = array("q", sorted({start for of_zone, _ in each for start in of_zone}))
    of_zones = ([days[bisect_right(of, start) - 1] for of, days in each] for start in starts)
    return _Starts(starts, [*map(_joined, of_zones)])


def _joined(days: Sequence[str]) -> str:
    return ",".join([days[0], *("" if day == days[0] else day for day in days[1:])])
