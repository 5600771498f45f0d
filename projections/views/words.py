"""The words of a text, as they are stored and as they are looked for.

Case, accents and compatibility forms (ﬁ, full-width letters) do not count, nor do vowel points of
Hebrew and Arabic and characters that do not show. Marks that make another letter do: those that
voice kana, vowel signs and tones of the scripts of India and South-East Asia.

A word is what Unicode's text segmentation (UAX 29) takes for one: letters, digits and their marks,
and what joins them: an apostrophe or a full stop, a comma between digits, and here a hyphen before
a digit. It is stored by its parts and by up to four of them together, so that `mail.example.com` is
found by `example.com` and `mail`; it is looked for as a whole, so that `3.14` finds no 3 and 14.

Chinese, Japanese, Thai, Lao, Khmer and Burmese are written without spaces. A run of such
characters is stored as all pairs of neighbours, its last character, and as a whole. What is looked
for may stand anywhere in a run: one character begins a pair or is the last, two are a pair, and of
more than two the pairs lead to a run that contains them.
"""

import re
import unicodedata
from itertools import pairwise
from typing import Literal, NamedTuple

import regex

_CHARACTERS = 64
"""So many of a word tell it from others; and what is looked for in a run is looked for by so many
at a time.
"""
_PIECE = 2 * _CHARACTERS
_SCRIPTS = ("Han", "Hiragana", "Katakana", "Bopomofo", "Thai", "Lao", "Khmer", "Myanmar")
_UNSPACED = "".join(rf"\p{{scx={script}}}" for script in _SCRIPTS)
_RUN = regex.compile(rf"(?V1)[[{_UNSPACED}]&&[\p{{L}}\p{{M}}\p{{N}}]]+")
_SPACED = rf"[[\p{{L}}\p{{M}}\p{{N}}_]--[{_UNSPACED}]]+"
_JOIN = r"(?:['.]|-(?=\p{Nd})|(?<=\p{Nd}),(?=\p{Nd}))"
_WORDS = regex.compile(rf"(?V1){_RUN.pattern}|{_SPACED}(?:{_JOIN}{_SPACED})*")
_ASCII_WORDS = re.compile(r"[a-z0-9_]+(?:(?:['.]|-(?=\d)|(?<=\d),(?=\d))[a-z0-9_]+)*")
_PART = re.compile(r"[^-'.,]+")
_PARTS_TOGETHER = 4
_NO_LETTERS = regex.compile(
    r"(?V1)[[\p{M}&&[\p{sc=Zinh}\p{sc=Hebr}\p{sc=Arab}]]--[\u3099\u309a]]"
    r"|[\p{Default_Ignorable_Code_Point}--\u200b]"
)


class QueryTerm(NamedTuple):
    """How one word is looked for: as a word, as what a word begins with, or as part of one."""

    how: Literal["is", "begins", "contains"]
    text: str


def words(text: str) -> list[str]:
    """Return the different words of a text as they are stored, as they come."""
    found: dict[str, None] = {}
    for word in dict.fromkeys(_split(text)):
        if word.isascii() and word.isalnum():  # as most are
            found[word[:_CHARACTERS]] = None
            continue
        if not _is_run(word):
            found.update(dict.fromkeys(_together(word)))
            continue
        found.update(dict.fromkeys(map("".join, pairwise(word))))
        found[word[-1]] = None
        if len(word) > 2:  # else it is a pair
            last = max(len(word) - _CHARACTERS, 1)
            pieces = (word[at : at + _PIECE] for at in range(0, last, _CHARACTERS))
            found.update(dict.fromkeys(pieces))
    return list(found)


def query_terms(text: str, *, is_prefix: bool = False) -> list[QueryTerm]:
    """Return what the words of a search look for; all of it must be found.

    `is_prefix`: words that begin with the last one are looked for.
    """
    found: dict[QueryTerm, None] = {}
    split = _split(text)
    for n, word in enumerate(split, start=1):
        if not _is_run(word):
            *others, last = _together(word, least=_PARTS_TOGETHER)
            found.update(dict.fromkeys(QueryTerm("is", each) for each in others))
            found[QueryTerm("begins" if is_prefix and n == len(split) else "is", last)] = None
        elif len(word) == 1:
            found[QueryTerm("begins", word)] = None
        else:
            found.update(dict.fromkeys(QueryTerm("is", "".join(pair)) for pair in pairwise(word)))
            if len(word) > 2:
                pieces = (word[at : at + _CHARACTERS] for at in range(0, len(word), _CHARACTERS))
                found.update(dict.fromkeys(QueryTerm("contains", piece) for piece in pieces))
    return list(found)


def _split(text: str) -> list[str]:
    """Return words, and runs of characters without spaces, as they come."""
    folded = _folded(text)
    return (_ASCII_WORDS if folded.isascii() else _WORDS).findall(folded)


def _together(word: str, least: int = 1) -> list[str]:
    """Return all that is up to four neighbouring parts of a word, and no less than `least` where
    there are so many.
    """
    if word.isalnum():
        return [word[:_CHARACTERS]]
    parts = [part.span() for part in _PART.finditer(word)]
    least = min(least, len(parts))
    return [
        word[parts[first][0] : parts[last][1]][:_CHARACTERS]
        for first in range(len(parts))
        for last in range(first + least - 1, min(first + _PARTS_TOGETHER, len(parts)))
    ]


def _is_run(word: str) -> bool:
    return not word.isascii() and _RUN.match(word) is not None


def _folded(text: str) -> str:
    """Return a text without what does not count."""
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKD", text.replace("\u2019", "'")).casefold()
    text = _NO_LETTERS.sub("", unicodedata.normalize("NFKD", text))
    return unicodedata.normalize("NFKC", text)
