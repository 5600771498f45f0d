"""What clients may send, at its bounds."""

import unicodedata
from datetime import UTC, datetime

import pytest
from pydantic import TypeAdapter, ValidationError

from domain.tags import fold_tag
from domain.values import (
    VALUE_CHARACTERS,
    Line,
    MediaType,
    Moment,
    Name,
    Tag,
    Text,
    Value,
    canonical_decimal,
)

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
    "value",
    [2**63, -(2**63) - 1, "x" * (VALUE_CHARACTERS + 1), 1.0, None, [], [1], [""], ["x" * 201], {}],
)
def test_what_is_no_value_is_told_in_one_sentence(value):
    """L12"""
    with pytest.raises(ValidationError) as wrong:
        VALUE.validate_python(value)
    [error] = wrong.value.errors()
    assert error["msg"] == (
        "Value error, a value is text of at most 5000 characters, true or false, a whole number "
        'of 64 bits (another number is text, like "12.50", to be exact), or a list of 1 to 50 '
        "texts of at most 200 characters"
    )


@pytest.mark.parametrize("character", ["\x00", "\x08", "\x0e", "\x1b", "\x1f", "\x7f"])
def test_a_pasted_mail_is_not_lost_for_its_control_characters(character):
    """They are left out of texts and lines, and refused in names, which would be others' names."""
    pasted = f"It{character} jams."
    for taken in (VALUE, TypeAdapter(Line), TypeAdapter(Text)):
        assert taken.validate_python(pasted) == "It jams."
        assert taken.validate_python("page\x0ctwo") == "page two"
    with pytest.raises(ValidationError, match="at least 1 character"):
        TypeAdapter(Text).validate_python(character)
    for refused in (TypeAdapter(Name), TypeAdapter(Tag), VALUE):
        with pytest.raises(ValidationError):
            refused.validate_python([pasted] if refused is VALUE else f"a{character}")


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("floor-3_a.b:c", "floor-3_a.b:c"),
        ("VIP", "vip"),
        ("Straße", "strasse"),
        ("E\u0301tage", "étage"),
        ("ＡＢＣ１", "abc1"),
        ("プリンター", "プリンター"),
        ("ﾌﾟﾘﾝﾀｰ", "プリンター"),
        ("葛\U000e0100", "葛"),
        ("принтер", "принтер"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("हिन्दी", "हिन्दी"),
        ("²", "2"),
        ("a" * 64, "a" * 64),
    ],
)
def test_a_tag_is_one_however_it_is_typed(typed, kept):
    tag: TypeAdapter[str] = TypeAdapter(Tag)
    assert tag.validate_python(typed) == kept
    assert tag.validate_python(kept) == kept


def test_what_a_letter_is_folded_to_is_folded_already():
    """So that a tag that was read from a ticket finds it."""
    changed = 0
    for character in map(chr, range(0x110000)):
        if unicodedata.category(character) in ("Cn", "Co", "Cs"):
            continue  # nobody's letter
        try:
            kept = fold_tag(f"a{character}")
        except ValueError:
            continue
        assert fold_tag(kept) == kept
        changed += kept != f"a{character}"
    assert changed > 5_000


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "-a",
            "a b",
            "a\u00a0b",
            "a\u200bb",
            "a\u200cb",
            "a\u202eb",
            "a\u00adb",
            "a,b",
            "a/b",
        ),
        *("\u0301a", "a\u034f", "ㅤ", "\ufdfa" * 5, "a" * 65, "😀", "a\ue000", "a\u0378", "ﷺ"),
    ],
)
def test_what_is_no_tag_is_refused(text):
    """L12"""
    with pytest.raises(ValidationError):
        TypeAdapter(Tag).validate_python(text)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        *(("12.50", "12.5"), ("+012.0", "12"), ("-0.00", "0"), ("-3", "-3"), ("0.10", "0.1")),
        *(
            ("000", "0"),
            ("0" * 5_000, "0"),
            ("1" * 30, "1" * 30),
            ("0." + "1" * 30, "0." + "1" * 30),
        ),
        *(("1" * 31, None), ("0." + "1" * 31, None), ("1e3", None), (".5", None), ("5.", None)),
        *(("", None), ("12,5", None), ("١", None), ("NaN", None), ("1\n", None)),
    ],
)
def test_a_decimal_is_exact_and_has_one_form(text, kept):
    assert canonical_decimal(text) == kept


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
