"""What names and one-line values are made of: one line, all of it seen, in the order it is read.

By Unicode's general categories (UAX 44). Refused are

- what breaks a line: control characters (Cc, tabs and line ends among them), Zl, Zp;
- what turns text, or hides: format characters (Cf): marks, overrides and isolates of direction,
  spaces of no width, soft hyphens, tags;
- letters and marks that show nothing, code points that are none (Cs, noncharacters), and those that
  are kept for what shows nothing.

Two format characters are needed where scripts have no case, and between the parts of an emoji: the
joiner and the non-joiner. Each is taken there alone; between letters that have case it would only
make one name of two that look the same. Some others are seen: signs that stand before numbers.

Unassigned code points are taken, for each year some of them become letters; so is private use.

This is asked of what is new. What was stored before stays as it is, and is read.
"""

import unicodedata
from functools import cache
from typing import Final, get_args, get_type_hints

from pydantic import BaseModel

from domain.errors import Unacceptable

ONE_LINE: Final = "one line"
"""Marks the types of values that are names or one line: `Annotated[str, ONE_LINE]`."""

_REFUSED = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs"})
_SEEN = frozenset(
    "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
)
"""Format characters that are signs (Prepended_Concatenation_Mark)."""
_JOINERS = frozenset("\u200c\u200d")
_JOINED = frozenset({"Lo", "Mn", "Mc", "Me", "So", "Sk"})
VARIANTS = frozenset(
    chr(code)
    for codes in ((0x180B, 0x180C, 0x180D, 0x180F), range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0))
    for code in codes
)
"""Variation selectors: marks that show nothing by themselves, and choose the form of what is before
them. Taken there alone, once: behind a letter that has no variants they make another name of one.
"""
_HAVE_VARIANTS = frozenset({"Lo", "So", "Sk", "Sm"})
_SEEN_AS_EMOJI = frozenset("\u203c\u2049\u2139\u3030")
_KEYCAP = "\u20e3"
_SHOWS_NOTHING = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2065\u2800\u3164\uffa0")
_KEPT_FOR_NOTHING = (range(0xFFF0, 0xFFF9), range(0xE0080, 0xE0100), range(0xE01F0, 0xE1000))


def check_line(what: str, text: str) -> None:
    """Raise Unacceptable if a name or a one-line value holds what those may not."""
    if text.isascii() and text.isprintable():
        return
    for n, character in enumerate(text):
        is_stray = character in VARIANTS and not _is_variant(text, n)
        if is_stray or (is_refused(character) and not joins(text, n)):
            raise Unacceptable(
                "not_one_line",
                f"{what} must not hold {_named(character)} here: names and one-line values take "
                "nothing that breaks a line, hides, or turns text",
            )


def check_lines(command: BaseModel) -> None:
    """Raise Unacceptable if a command's name or one-line value holds what those may not."""
    for field in _lines_of(type(command)):
        text = getattr(command, field)
        if text is not None:
            check_line(field, text)


@cache
def _lines_of(kind: type[BaseModel]) -> tuple[str, ...]:
    hints = get_type_hints(kind, include_extras=True)
    return tuple(field for field, hint in hints.items() if _is_line(hint))


def _is_line(hint: object) -> bool:
    marked = ONE_LINE in getattr(hint, "__metadata__", ())
    return marked or any(_is_line(part) for part in get_args(hint))


def _is_variant(text: str, n: int) -> bool:
    """Say whether a variation selector stands behind what has variants, and alone."""
    if n == 0:
        return False
    before, after = text[n - 1], text[n + 1 : n + 2]
    if before.isascii():
        return after == _KEYCAP
    return before in _SEEN_AS_EMOJI or unicodedata.category(before) in _HAVE_VARIANTS


def is_refused(character: str) -> bool:
    """Say whether a character breaks a line, turns text or shows nothing."""
    if character in _SEEN:
        return False
    code = ord(character)
    return (
        unicodedata.category(character) in _REFUSED
        or character in _SHOWS_NOTHING
        or code & 0xFFFE == 0xFFFE
        or 0xFDD0 <= code <= 0xFDEF
        or any(code in kept for kept in _KEPT_FOR_NOTHING)
    )


def joins(text: str, n: int) -> bool:
    """Say whether a joiner stands between what it can join."""
    if text[n] not in _JOINERS or not 0 < n < len(text) - 1:
        return False
    return all(unicodedata.category(text[m]) in _JOINED for m in (n - 1, n + 1))


def _named(character: str) -> str:
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".strip()
