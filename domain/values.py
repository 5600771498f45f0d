"""The kinds of values that clients may send: bounded, printable, exact."""

import re
import unicodedata
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field

from domain.lines import ONE_LINE
from domain.tags import TAG_CHARACTERS, fold_tag

JsonObject = dict[str, object]
FieldValue = str | int | bool | tuple[str, ...]
Priority = Literal["low", "normal", "high", "urgent"]

ERASED = "[erased]"
"""What is read in the place of an erased person's data. It is nobody's name."""
REDACTED = "[redacted]"
"""What is read in the place of words that were redacted."""
VALUE_CHARACTERS = 5_000
VALUE_ITEMS = 50
_ITEM_CHARACTERS = 200
_CONTROLS = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"


def redacted(value: object) -> object:
    """Return a field's value with `REDACTED` in the place of all that it says."""
    if isinstance(value, dict):
        return {key: redacted(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(inner) for inner in value]
    return value if value is None or value == "" else REDACTED


def one_spelling(name: str) -> str:
    """Return the spelling that stands for all spellings of a person's name: with its letters
    composed (NFC), and the domain of a mail address in lower case.

    What is before the @ counts as it is written: what it means is for its own server to say (RFC
    5321, section 2.4).
    """
    if "@" not in name and name.isascii():
        return name
    box, at, domain = name.rpartition("@")
    return unicodedata.normalize("NFC", f"{box}{at}{domain.lower() if at else domain}")


def at_most(most: int) -> tuple[object, ...]:
    """Bound a list, or a mapping, before any item is looked at: `Annotated[T, *at_most(5)]`.

    `max_length`, which the schema says, counts items that are good, and looks at all that are not:
    a request of 200,000 bad ones would be told of each.
    """

    def check(items: object) -> object:
        if isinstance(items, list | tuple | dict) and len(items) > most:
            raise ValueError(f"there can be at most {most} of them, not {len(items)}")
        return items

    return Field(max_length=most), BeforeValidator(check)


def number_text(number: int | None) -> str | None:
    """Write a ticket's number as people read it: `C-1042`."""
    return None if number is None else f"C-{number}"


def _spelt_out(number: object) -> object:
    # People leave out the head, or write it small.
    text = number.upper() if isinstance(number, str) else number
    return f"C-{text}" if isinstance(text, str) and re.fullmatch(r"[0-9]+", text) else text


def _printable(text: str) -> str:
    # NUL and its like are no part of any name; what has tabs or line ends is judged later.
    if re.search(_CONTROLS, text):
        raise ValueError("control characters are not allowed")
    return text


def _without_controls(text: object) -> object:
    # A mail that was pasted is not lost for them; but no name is made of another in silence.
    if not isinstance(text, str):
        return text
    return re.sub(_CONTROLS, "", re.sub(r"[\x0b\x0c]", " ", text))


def _somebodys(name: str) -> str:
    if name == ERASED:
        raise ValueError(f"{ERASED} stands for those who have been erased, and is nobody's name")
    return name


def _value(value: object) -> object:
    # Here and not in the types, so that a wrong value is told in one sentence.
    if isinstance(value, str) and len(value) <= VALUE_CHARACTERS:
        return _without_controls(value)
    if isinstance(value, bool) or (isinstance(value, int) and -(2**63) <= value < 2**63):
        return value
    if isinstance(value, list | tuple) and 0 < len(value) <= VALUE_ITEMS and _are_items(value):
        return tuple(dict.fromkeys(value))
    raise ValueError(
        f"a value is text of at most {VALUE_CHARACTERS} characters, true or false, a whole number "
        f'of 64 bits (another number is text, like "12.50", to be exact), or a list of 1 to '
        f"{VALUE_ITEMS} texts of at most {_ITEM_CHARACTERS} characters"
    )


def _are_items(values: Sequence[object]) -> bool:
    return all(
        isinstance(each, str)
        and 0 < len(each) <= _ITEM_CHARACTERS
        and not re.search(_CONTROLS, each)
        for each in values
    )


def _written(time: object) -> object:
    # Pydantic would take a number for seconds since 1970.
    if isinstance(time, datetime):
        return time
    if isinstance(time, str) and re.match(r"\d{4}-\d\d-\d\d[Tt ]", time):
        return time
    raise ValueError("a time is written like 2026-03-01T12:00:00Z")


def _day(day: object) -> object:
    # Pydantic would take a number for seconds since 1970, and a time for its day.
    if isinstance(day, date) or (isinstance(day, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", day)):
        return day
    raise ValueError("a day is written like 2026-03-01")


def canonical_decimal(text: str) -> str | None:
    """Return a decimal number in the form in which it is kept: no zeros that say nothing, no plus
    sign, no exponent. None for what is none, or has more than 30 digits before or behind the point.
    """
    found = re.fullmatch(r"([+-]?)0*(\d{1,30})(?:\.(\d{1,30}?)0*)?", text, re.ASCII)
    if found is None:
        return None
    sign, whole, fraction = found[1], found[2], (found[3] or "0").rstrip("0")
    digits = f"{whole}.{fraction}" if fraction else whole
    return f"-{digits}" if sign == "-" and digits != "0" else digits


def is_day(text: str) -> bool:
    """Say whether a text is a day of the calendar, like 2026-03-01."""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _moment(time: datetime) -> datetime:
    try:
        utc = time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("there is no such time in UTC") from error
    return utc.replace(microsecond=utc.microsecond // 1000 * 1000)


_Clean = AfterValidator(_printable)
_Cleaned = BeforeValidator(_without_controls)
Name = Annotated[
    str,
    Field(min_length=1, max_length=200, examples=["alice"]),
    _Clean,
    AfterValidator(_somebodys),
    ONE_LINE,
]
"""The name of a person or a thing. Where it is new, `lines.py` says what it is made of."""
NameOfPerson = Annotated[Name, AfterValidator(one_spelling)]
"""In the one spelling. Not for commands, whose fingerprints are of what was given."""
NameOrNone = Annotated[str, Field(max_length=200, description="Empty: those without one."), _Clean]
Line = Annotated[
    str, Field(min_length=1, max_length=500, examples=["Printer jam"]), _Cleaned, ONE_LINE
]
_SAID = "It jams on every page."
Text = Annotated[str, Field(min_length=1, max_length=50_000, examples=[_SAID]), _Cleaned]
TextOrNothing = Annotated[str, Field(max_length=50_000, examples=[_SAID]), _Cleaned]
Tag = Annotated[
    str,
    Field(
        min_length=1,
        max_length=TAG_CHARACTERS,
        description="Letters and digits of any script, and `_.:-` behind the first. "
        "It is kept without case (NFKC, case-folded).",
        examples=["paper"],
    ),
    AfterValidator(fold_tag),
]
FIELD_KEY = r"^[a-z][a-z0-9_]{0,63}$"
FieldKey = Annotated[str, Field(pattern=FIELD_KEY, examples=["floor"])]
Value = Annotated[FieldValue, BeforeValidator(_value)]
Moment = Annotated[AwareDatetime, BeforeValidator(_written), AfterValidator(_moment)]
"""A time in UTC, in the whole milliseconds that are kept."""
TicketNumber = Annotated[
    str,
    BeforeValidator(_spelt_out),
    Field(pattern=r"^C-[1-9][0-9]{0,17}$", examples=["C-1042"]),
]
"""What people call a ticket by."""
Day = Annotated[date, BeforeValidator(_day)]
_MEDIA_NAME = r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}"
MediaType = Annotated[
    str,
    BeforeValidator(lambda text: text.lower() if isinstance(text, str) else text),
    Field(
        pattern=rf"^{_MEDIA_NAME}/{_MEDIA_NAME}$",
        description="As in RFC 6838.",
        examples=["image/png"],
    ),
]
Sha256 = Annotated[
    str, Field(pattern=r"^[0-9a-f]{64}$", description="In hexadecimal.", examples=["0a" * 32])
]
SizeBytes = Annotated[int, Field(ge=0, lt=2**53, strict=True, examples=[4096])]
Score = Annotated[int, Field(ge=1, le=5, strict=True, examples=[5])]
