"""Which time counts, around what clocks and dates do."""

import itertools
import struct
from datetime import UTC, datetime, timedelta
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.calendars import NEVER, Calendar, counted_ms, later, load_zone, stretches, to_ms, zones
from tests import business_hours

NINE_TO_FIVE = tuple((day, 540, 1020) for day in range(5))
WITH_LUNCH = tuple((day, *span) for day in range(5) for span in ((540, 720), (780, 1020)))
ALWAYS = tuple((day, 0, 1440) for day in range(7))
NIGHTS = tuple((day, *span) for day in range(7) for span in ((0, 150), (1350, 1440)))
HOUR = 3_600_000

CHANGES = {
    "Europe/Berlin": ("2026-03-29", "2026-10-25"),  # an hour left out, an hour twice
    "America/New_York": ("2026-03-08", "2026-11-01"),
    "Australia/Lord_Howe": ("2026-04-05", "2026-10-04"),  # half an hour
    "Africa/Casablanca": ("2026-02-15", "2026-03-22"),  # Ramadan
    "Pacific/Apia": ("2011-12-30", "2011-09-24"),  # a date that there never was
    "Africa/Cairo": ("2026-04-24", "2026-10-30"),  # at midnight
    "America/Havana": ("2026-03-08", "2026-11-01"),
    "Asia/Beirut": ("2026-03-29", "2026-10-25"),
    "Asia/Kathmandu": ("1986-01-01", "2026-01-01"),  # a quarter of an hour
    "America/St_Johns": ("2026-03-08", "2011-03-13"),
}
"""Ten zones, and dates on which their clocks are changed."""


def calendar(zone="Europe/Berlin", hours=NINE_TO_FIVE, holidays=()):
    return Calendar("office", 1, zone, hours, holidays)


def utc(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_only_business_hours_count():
    office = calendar("UTC", WITH_LUNCH)
    monday = utc("2026-03-02T08:00")
    assert counted_ms(office, monday, monday + timedelta(days=7)) == 5 * 7 * HOUR
    assert counted_ms(office, monday, monday) == counted_ms(office, monday, utc("2026-01-01")) == 0
    assert later(office, monday, HOUR) == utc("2026-03-02T10:00")
    assert later(office, monday, 3 * HOUR) == utc("2026-03-02T12:00")  # and not when lunch is over
    assert later(office, monday, 3 * HOUR + 1) == utc("2026-03-02T13:00:00.001")
    assert later(office, utc("2026-03-06T16:00"), 2 * HOUR) == utc("2026-03-09T10:00")


def test_holidays_do_not_count():
    office = calendar("UTC", holidays=("2026-12-25", "2027-01-01"))
    assert later(office, utc("2026-12-24T16:00"), 2 * HOUR) == utc("2026-12-28T10:00")
    assert counted_ms(office, utc("2026-12-24"), utc("2027-01-04")) == 5 * 8 * HOUR


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2026-03-28", 47),
        ("Europe/Berlin", "2026-10-24", 49),
        ("Australia/Lord_Howe", "2026-10-03", 47.5),
        ("Australia/Lord_Howe", "2026-04-04", 48.5),
        ("Pacific/Apia", "2011-12-29", 24),  # the day behind it never was
        ("Africa/Cairo", "2026-04-23", 47),
    ],
)
def test_what_passes_counts_and_not_what_the_clock_shows(zone, day, hours):
    start = datetime.fromisoformat(day).replace(tzinfo=load_zone(zone))
    end = start + timedelta(days=2)  # by the wall's clock
    round_the_clock = calendar(zone, ALWAYS)
    found = counted_ms(round_the_clock, start.astimezone(UTC), end.astimezone(UTC))
    assert found == hours * HOUR


def test_an_hour_that_is_left_out_is_not_counted_and_one_that_comes_twice_is_twice():
    early = calendar(hours=((6, 90, 210),))  # Sundays, half past one to half past three
    assert counted_ms(early, utc("2026-03-28"), utc("2026-03-30")) == HOUR
    assert counted_ms(early, utc("2026-10-24"), utc("2026-10-26")) == 3 * HOUR
    half = calendar(hours=((6, 150, 180),))  # half past two to three
    assert counted_ms(half, utc("2026-03-28"), utc("2026-03-30")) == 0
    [_, first, between, second, _] = [
        s.why for s in stretches(half, utc("2026-10-25"), utc("2026-10-25T03:00"))
    ]
    assert (first, between, second) == ("open", "closed", "open")


def test_less_than_nothing_is_counted_backwards():
    """As when another priority promises what is over already."""
    office = calendar("UTC")
    assert later(office, utc("2026-03-09T10:00"), -2 * HOUR) == utc("2026-03-06T16:00")
    assert later(office, utc("2026-03-09T08:00"), 0) == utc("2026-03-06T17:00")


def test_the_ends_of_the_calendar_are_no_error():
    office = calendar()
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    assert later(office, last, HOUR) == later(office, utc("2026-03-02"), 10**14) == NEVER
    assert counted_ms(office, first, last) == counted_ms(office, utc("1970-01-01"), last) > 0
    assert later(office, first, -HOUR) == utc("1970-01-01")


def test_zones_are_read_from_the_pinned_package_alone():
    assert "Europe/Berlin" in zones()
    for name in ("Europe/Nowhere", "../zones", "zone.tab", "/etc/localtime"):
        with pytest.raises(KeyError):
            load_zone(name)


def changes_of(name):
    """The times at which a zone's file says that its clock is changed (TZif, RFC 9636)."""
    data = files("tzdata").joinpath("zoneinfo", *name.split("/")).read_bytes()
    utc_, standard, leaps, times, types, letters = struct.unpack_from(">6l", data, 20)
    # The second header stands behind the data of the first, whose times have 32 bits.
    second = 44 + times * 5 + types * 6 + letters + leaps * 8 + standard + utc_
    [times] = struct.unpack_from(">l", data, second + 32)
    return struct.unpack_from(f">{times}q", data, second + 44)


def test_no_clock_is_changed_twice_within_a_day():
    """Which is how changes are looked for."""
    for name in zones():
        changed = [at for at in changes_of(name) if at >= 0]
        assert all(b - a > 86_400 for a, b in itertools.pairwise(changed)), name
    assert datetime(1981, 3, 29, 1, tzinfo=UTC).timestamp() in changes_of("Europe/Berlin")


@st.composite
def windows(draw):
    """A calendar, and two times within days of a change of its clock."""
    zone = draw(st.sampled_from(sorted(CHANGES)))
    day = utc(draw(st.sampled_from(CHANGES[zone])))
    hours = draw(st.sampled_from([NINE_TO_FIVE, WITH_LUNCH, ALWAYS, NIGHTS]))
    holidays = draw(st.sampled_from([(), (f"{day:%Y-%m-%d}",)]))
    start, end = sorted(
        day + timedelta(milliseconds=draw(st.integers(-36 * HOUR, 36 * HOUR))) for _ in range(2)
    )
    return calendar(zone, hours, holidays), start, end


@settings(max_examples=60, deadline=None)
@given(window=windows(), minutes=st.integers(-900, 900))
def test_it_is_as_minutes_looked_up_one_by_one_say(window, minutes):
    office, start, end = window
    plain = business_hours.as_stored(office)
    counted = business_hours.counted(plain, start, end)
    assert counted_ms(office, start, end) == counted // timedelta(milliseconds=1)
    open_ = [s for s in stretches(office, start, end) if s.why == "open"]
    assert sum(s.end - s.start for s in open_) == counted_ms(office, start, end)
    left = timedelta(minutes=minutes)
    assert later(office, start, minutes * 60_000) == business_hours.later(plain, start, left)
    whole = [*stretches(office, start, end)]
    ends = [to_ms(start), *(s.end for s in whole)]
    assert [s.start for s in whole] == ends[:-1]
    assert ends[-1] == to_ms(end)
