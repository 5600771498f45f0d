"""Days of time zones: they follow one another without a gap, whatever is done to the clock."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from domain import days
from domain.calendars import NEVER, zones
from tests.domain.test_calendars import CHANGES
from tests.oracle import shown_day

HOUR = timedelta(hours=1)
MILLISECOND = timedelta(milliseconds=1)
FAR = ("UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago", "Asia/Kolkata")
SOME = (*CHANGES, *FAR)


def utc(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


around_changes = st.builds(
    lambda day, ms: utc(day) + timedelta(milliseconds=ms),
    st.sampled_from([day for two in CHANGES.values() for day in two]),
    st.integers(-2 * 86_400_000, 2 * 86_400_000),
)
times = around_changes | st.datetimes(
    datetime(1970, 1, 3),  # noqa: DTZ001 zones are drawn
    datetime(2100, 12, 29),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@given(times, st.sampled_from(SOME))
@example(utc("2006-10-29T02:30:30"), "America/St_Johns")  # it was midnight, and is 23:01
@example(utc("2006-10-29T03:00"), "America/St_Johns")
@example(utc("2011-12-30T09:59"), "Pacific/Apia")
@example(utc("2011-12-30T10:00"), "Pacific/Apia")
@example(utc("1994-12-31T10:00"), "Pacific/Kiritimati")  # as a year begins
def test_an_instant_is_of_the_last_day_that_the_clock_has_shown(at, zone):
    day = days.day_of(zone, at)
    assert day == shown_day(zone, at)
    assert days.begins(zone, day) <= at < days.ends(zone, day)


@given(times.map(datetime.date), st.sampled_from(SOME))
def test_days_follow_one_another_without_a_gap(day, zone):
    begins, ends = days.begins(zone, day), days.ends(zone, day)
    assert ends == days.begins(zone, day + timedelta(days=1))
    assert begins <= ends <= begins + 26 * HOUR
    assert days.day_of(zone, begins) == day or begins == ends
    assert days.day_of(zone, begins - MILLISECOND) < day


@pytest.mark.parametrize(
    ("zone", "day", "begins", "hours"),
    [
        ("Europe/Berlin", "2026-03-29", "2026-03-28T23:00", 23),
        ("Europe/Berlin", "2026-10-25", "2026-10-24T22:00", 25),
        ("Australia/Lord_Howe", "2026-10-04", "2026-10-03T13:30", 23.5),
        ("Africa/Cairo", "2026-04-24", "2026-04-23T22:00", 23),  # there was no midnight
        ("Pacific/Apia", "2011-12-29", "2011-12-29T10:00", 24),
        ("Pacific/Apia", "2011-12-30", "2011-12-30T10:00", 0),  # nor that date
        ("Pacific/Apia", "2011-12-31", "2011-12-30T10:00", 24),
        ("Pacific/Kiritimati", "2026-01-01", "2025-12-31T10:00", 24),
        ("Pacific/Pago_Pago", "2026-01-01", "2026-01-01T11:00", 24),
        ("America/St_Johns", "2006-10-29", "2006-10-29T02:30", 25),
    ],
)
def test_a_day_begins_when_its_date_is_shown_first(zone, day, begins, hours):
    day = date.fromisoformat(day)
    assert days.begins(zone, day) == utc(begins)
    assert days.ends(zone, day) - days.begins(zone, day) == hours * HOUR


@given(times, st.lists(st.sampled_from(SOME), min_size=1, max_size=6, unique=True))
def test_days_of_zones_are_read_as_they_were_written(at, named):
    text = days.written(tuple(named), at)
    assert [*days.read(text)] == [str(days.day_of(zone, at)) for zone in named]
    mondays = [str(days.monday(days.day_of(zone, at))) for zone in named]
    assert [*days.read(days.weeks(text))] == mondays


def test_of_one_zone_a_day_is_written_as_ever():
    assert days.written(days.UTC_ONLY, utc("2026-03-01T23:59")) == "2026-03-01"
    assert days.written(("UTC", "UTC", "Asia/Tokyo"), utc("2026-03-01T23:59")) == (
        "2026-03-01,,2026-03-02"
    )


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_days_before_1970_and_after_2100_are_those_of_utc(zone):
    """L12: the first and last there are, too."""
    for day in (date.min, date(1969, 12, 31), date(2101, 1, 2), date.max):
        noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
        assert days.day_of(zone, noon) == day
        assert days.begins(zone, day) == noon - 12 * HOUR
        assert noon < days.ends(zone, day) <= NEVER
    for seam in (utc("1970-01-01"), utc("2101-01-01")):
        found = [days.day_of(zone, seam + n * HOUR) for n in range(-30, 31)]
        assert found == sorted(found)


def test_there_are_days_of_every_zone():
    for zone in zones():
        day = days.day_of(zone, utc("2026-03-01T12:00"))
        assert days.begins(zone, day) <= utc("2026-03-01T12:00") < days.ends(zone, day)
