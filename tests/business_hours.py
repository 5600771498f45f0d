"""Which time counts, looked up minute by minute: what `domain/calendars.py` must say.

Written apart from it, as slow and plain as can be: each minute asks the zone what a clock on its
wall shows. A calendar is as an event stores it.
"""

from datetime import datetime, timedelta
from functools import lru_cache
from importlib.resources import files
from typing import Any
from zoneinfo import ZoneInfo

Document = dict[str, Any]
_MINUTE = timedelta(minutes=1)


@lru_cache
def zone(name: str) -> ZoneInfo:
    with files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file)


@lru_cache(maxsize=2**18)
def wall(name: str, minute: datetime) -> tuple[str, int, int]:
    """The date, weekday and minute of the day that a wall in the zone shows."""
    shown = minute.astimezone(zone(name))
    return f"{shown:%Y-%m-%d}", shown.weekday(), shown.hour * 60 + shown.minute


def counts(calendar: Document | None, minute: datetime) -> bool:
    if calendar is None:
        return True
    day, weekday, shown = wall(calendar["zone"], minute)
    if day in calendar["holidays"]:
        return False
    return any(on == weekday and start <= shown < end for on, start, end in calendar["hours"])


def counted(calendar: Document | None, start: datetime, end: datetime) -> timedelta:
    """How much counts between two times."""
    found = timedelta()
    while start < end:
        minute = start.replace(second=0, microsecond=0)
        upto = min(end, minute + _MINUTE)
        if counts(calendar, minute):
            found += upto - start
        start = upto
    return found


def later(calendar: Document | None, start: datetime, left: timedelta) -> datetime:
    """The first time by which so much more has counted, or less."""
    if calendar is None:
        return start + left
    while left > timedelta():
        minute = start.replace(second=0, microsecond=0)
        upto = minute + _MINUTE
        if counts(calendar, minute):
            if left <= upto - start:
                return start + left
            left -= upto - start
        start = upto
    while True:
        minute = (start - timedelta(microseconds=1)).replace(second=0, microsecond=0)
        if counts(calendar, minute):
            if -left < start - minute:
                return start + left
            left += start - minute
        start = minute


def as_stored(calendar: object) -> Document | None:
    """A calendar of the domain in the form that is looked at here."""
    names = ("name", "version", "zone", "hours", "holidays")
    return None if calendar is None else {name: getattr(calendar, name) for name in names}
