"""Business hours: which time counts for what was promised.

An instant counts if a clock on the wall of the calendar's zone then shows business hours, of a date
that is no holiday. That is the whole definition: an hour that the clock leaves out in spring is not
counted, one that it shows twice in autumn counts twice, and a date that a country skips is never
shown. What is counted is time that really passed.

Pure, as the Unicode tables are: the zones' rules are read from the pinned package `tzdata`, never
from the system, and once. So all machines count alike (law L7); `TZDATA` is part of the views'
shape. What counts is kept by year in sorted arrays, so counting and finding a due time are binary
searches, however long the time.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from importlib.metadata import version
from itertools import accumulate, groupby
from typing import ClassVar, Literal, NamedTuple
from zoneinfo import ZoneInfo, available_timezones, reset_tzpath

from pydantic import ConfigDict

reset_tzpath(())  # in this process, zones are those of the package alone
NEVER = datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)
TZDATA = version("tzdata")
"""The release of the zones' rules: `2026.6`."""
YEARS = range(1970, 2101)
"""Outside these years nothing counts: a promise that reaches beyond them is due NEVER."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_MILLISECOND = timedelta(milliseconds=1)
DAY_MS = 86_400_000
_MINUTE_MS, _DAY_SECONDS = 60_000, 86_400

Why = Literal["open", "closed", "holiday"]


@dataclass(frozen=True, slots=True)
class Calendar:
    """A version of a calendar of the desk.

    `version`: of the desk that made it so; `zone`: its name in the IANA's database; `hours`: spans
    as (weekday, 0 for Monday; first minute of the day; the minute behind its last), in order, none
    touching another; `holidays`: dates like 2026-12-25, in order.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    name: str
    version: int
    zone: str
    hours: tuple[tuple[int, int, int], ...]
    holidays: tuple[str, ...]


class Stretch(NamedTuple):
    """Time in which a calendar says the same, and its clock runs evenly: from `start` to before
    `end`, `offset_ms` ahead of UTC. Milliseconds since 1970, UTC.
    """

    start: int
    end: int
    why: Why
    offset_ms: int


def counted_ms(calendar: Calendar | None, start: datetime, end: datetime) -> int:
    """Return how many milliseconds count from `start` to `end`; none if it is not later. Without a
    calendar all do, and are fewer than none then.
    """
    if calendar is None:
        return (end - start) // _MILLISECOND
    first, last = _inside(start), _inside(end)
    if first >= last:
        return 0
    year, last_year = _year_of(first), _year_of(last)
    counted = _prefix_sums(calendar, last_year).until(last)
    counted -= _prefix_sums(calendar, year).until(first)
    return counted + sum(_prefix_sums(calendar, each).total for each in range(year, last_year))


def later(calendar: Calendar | None, start: datetime, milliseconds: int) -> datetime:
    """Return the first time by which so much more has counted than by `start`, or so much less if
    it is negative; NEVER if it never has. Without a calendar all time counts.
    """
    if calendar is None:
        try:
            return min(start + timedelta(milliseconds=milliseconds), NEVER)
        except OverflowError:
            return NEVER
    now = _inside(start)
    year = _year_of(now)
    wanted = _prefix_sums(calendar, year).until(now) + milliseconds
    while wanted > (total := _prefix_sums(calendar, year).total):
        wanted, year = wanted - total, year + 1
        if year not in YEARS:
            return NEVER
    while wanted <= 0:
        year -= 1
        if year not in YEARS:
            return _EPOCH
        wanted += _prefix_sums(calendar, year).total
    return _EPOCH + _prefix_sums(calendar, year).find(wanted) * _MILLISECOND


def stretches(calendar: Calendar, start: datetime, end: datetime) -> Iterator[Stretch]:
    """Yield all stretches from `start` to `end`, in order, each as long as it can be."""
    first, last = _inside(start), _inside(end)
    years = range(_year_of(first), _year_of(last) + 1)
    whole = (stretch for year in years for stretch in _stretches(calendar, year))
    cut = (each._replace(start=max(each.start, first), end=min(each.end, last)) for each in whole)
    for _, same in groupby((each for each in cut if each.start < each.end), lambda each: each[2:]):
        parts = [*same]
        yield parts[0]._replace(end=parts[-1].end)


def to_ms(time: datetime) -> int:
    """Return a time in milliseconds since 1970."""
    return (time - _EPOCH) // _MILLISECOND


def from_ms(milliseconds: int) -> datetime:
    """Return the time so long after 1970."""
    return _EPOCH + milliseconds * _MILLISECOND


class _PrefixSums(NamedTuple):
    """What counts in a year: the starts and ends of its times, and what has counted by each end."""

    starts: "array[int]"
    ends: "array[int]"
    sums: "array[int]"

    @property
    def total(self) -> int:
        return self.sums[-1] if self.sums else 0

    def until(self, time: int) -> int:
        """Return what has counted in the year by a time."""
        n = bisect_right(self.starts, time) - 1
        return self.sums[n] - max(0, self.ends[n] - time) if n >= 0 else 0

    def find(self, counted: int) -> int:
        """Return the first time by which so much has counted in the year: 1 to `total`."""
        n = bisect_left(self.sums, counted)
        return self.ends[n] - (self.sums[n] - counted)


@lru_cache(maxsize=256)
def _prefix_sums(calendar: Calendar, year: int) -> _PrefixSums:
    """Return what counts in a year of UTC. Some milliseconds of work, and 20 kB, the first time."""
    counting = [each for each in _stretches(calendar, year) if each.why == "open"]
    return _PrefixSums(
        array("q", [each.start for each in counting]),
        array("q", [each.end for each in counting]),
        array("q", accumulate(each.end - each.start for each in counting)),
    )


def _stretches(calendar: Calendar, year: int) -> Iterator[Stretch]:
    """Yield a year of UTC by days of the wall's clock and their hours, without a gap."""
    off = {date.fromisoformat(day).toordinal() - _EPOCH_DAY for day in calendar.holidays}
    spans: list[list[tuple[int, int, Why]]] = [[] for _ in range(7)]
    for weekday, start, end in calendar.hours:
        spans[weekday].append((start * _MINUTE_MS, end * _MINUTE_MS, "open"))
    days = [[*_with_closed(each)] for each in spans]
    for first, last, offset in offsets(calendar.zone, year):
        for day in range((first + offset) // DAY_MS, (last + offset - 1) // DAY_MS + 1):
            midnight = day * DAY_MS - offset
            whole: list[tuple[int, int, Why]] = [(0, DAY_MS, "holiday")]
            # The first day of 1970 was a Thursday.
            for start, end, why in whole if day in off else days[(day + 3) % 7]:
                cut = max(first, midnight + start), min(last, midnight + end)
                if cut[0] < cut[1]:
                    yield Stretch(*cut, why, offset)


def _with_closed(spans: list[tuple[int, int, Why]]) -> Iterator[tuple[int, int, Why]]:
    """Yield a day's spans and what is between them."""
    done = 0
    for start, end, why in [*spans, (DAY_MS, DAY_MS, "closed")]:
        if done < start:
            yield done, start, "closed"
        if start < end:
            yield start, end, why
        done = end


@lru_cache(maxsize=1024)
def offsets(zone: str, year: int) -> tuple[tuple[int, int, int], ...]:
    """Return when in a year of UTC the zone's clock runs evenly, and how far ahead: (from, to,
    offset), in milliseconds. No zone's clock is changed twice within a day (a test looks).
    """
    rules = load_zone(zone)

    def offset(second: int) -> int:
        ahead = datetime.fromtimestamp(second, rules).utcoffset()
        return 0 if ahead is None else ahead // timedelta(seconds=1)

    start, end = (_start_of(each) // 1000 for each in (year, year + 1))
    found: list[tuple[int, int, int]] = []
    ahead = offset(start)
    for day in range(start, end, _DAY_SECONDS):
        if (changed := offset(day + _DAY_SECONDS)) != ahead:
            seconds = range(day, day + _DAY_SECONDS + 1)
            at = seconds[bisect_left(seconds, True, key=lambda s: offset(s) != ahead)]
            found.append((start * 1000, at * 1000, ahead * 1000))
            start, ahead = at, changed
    return *(each for each in found if each[0] < each[1]), (start * 1000, end * 1000, ahead * 1000)


@lru_cache(maxsize=1)
def zones() -> frozenset[str]:
    """Return the names of all zones."""
    return frozenset(available_timezones())


@lru_cache(maxsize=1024)
def load_zone(name: str) -> ZoneInfo:
    """Return a zone by its name in the pinned database. Raises KeyError if there is none."""
    if name not in zones():
        raise KeyError(name)
    return ZoneInfo.no_cache(name)


def _inside(time: datetime) -> int:
    return min(max(to_ms(time), 0), _start_of(YEARS.stop) - 1)


def _year_of(milliseconds: int) -> int:
    return from_ms(milliseconds).year


def _start_of(year: int) -> int:
    return (date(year, 1, 1).toordinal() - _EPOCH_DAY) * DAY_MS
