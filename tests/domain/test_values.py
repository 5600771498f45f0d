"""What clients may send, at its bounds."""

from datetime import UTC, datetime

import pytest
from pydantic import TypeAdapter, ValidationError

from domain.values import VALUE_CHARACTERS, Line, MediaType, Moment, Value

VALUE: TypeAdapter[object] = TypeAdapter(Value)
MOMENT: TypeAdapter[datetime] = TypeAdapter(Moment)


@pytest.mark.parametrize(
    "value", [0, 2**63 - 1, -(2**63), True, False, "", "x" * VALUE_CHARACTERS, "tab\tand\nline"]
)
def test_a_value_is_taken_as_it_is(value):
    taken = VALUE.validate_python(value)
    assert taken == value
    assert type(taken) is type(value)


@pytest.mark.parametrize(
    "value", [2**63, -(2**63) - 1, "x" * (VALUE_CHARACTERS + 1), 1.0, None, [], {}]
)
def test_what_is_no_value_is_told_in_one_sentence(value):
    """L12"""
    with pytest.raises(ValidationError) as wrong:
        VALUE.validate_python(value)
    [error] = wrong.value.errors()
    assert error["msg"] == (
        "Value error, a value is text of at most 5000 characters, true or false, or a whole "
        "number of 64 bits"
    )


@pytest.mark.parametrize("character", ["\x00", "\x08", "\x0b", "\x0c", "\x0e", "\x1f", "\x7f"])
def test_control_characters_are_part_of_no_text(character):
    """L12"""
    for adapter in (VALUE, TypeAdapter(Line)):
        with pytest.raises(ValidationError, match="control characters are not allowed"):
            adapter.validate_python(f"a{character}b")


def test_a_moment_is_kept_in_utc_and_whole_milliseconds():
    taken = MOMENT.validate_python("2026-03-01T13:30:00.999999+01:30")
    assert taken == datetime(2026, 3, 1, 12, 0, 0, 999_000, tzinfo=UTC)
    assert taken.tzinfo is UTC
    assert MOMENT.validate_python("2026-03-01T12:00:00.001Z").microsecond == 1000


def test_a_media_type_is_any_that_can_be_registered():
    media_type: TypeAdapter[str] = TypeAdapter(MediaType)
    excel = "application/vnd.ms-excel.sheet.macroEnabled.12"
    assert media_type.validate_python(excel) == excel.lower()
    for wrong in ("jpeg", "a/b/c", "a/", "a/b; charset=utf-8", 3):
        with pytest.raises(ValidationError):
            media_type.validate_python(wrong)


def test_a_moment_has_a_zone_and_a_place_in_the_calendar():
    """L12"""
    with pytest.raises(ValidationError):
        MOMENT.validate_python("2026-03-01T13:30:00")
    with pytest.raises(ValidationError, match="there is no such time in UTC"):
        MOMENT.validate_python("9999-12-31T23:59:59-01:00")
