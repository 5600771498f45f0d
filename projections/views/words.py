"""The words of a text, as they are stored and as they are looked for.

Case, accents and compatibility forms (ﬁ, full-width letters) do not count, nor do vowel points of
Hebrew and Arabic and characters that do not show. Marks that make another letter do: those that
voice kana, vowel signs and tones of the scripts of India and South-East Asia.

A word is what Unicode's text segmentation (UAX 29) takes for one: letters, digits and their marks,
and what joins them: an apostrophe or a full stop, or a comma between digits. Its parts are stored
beside it, so that `report.pdf` is found by `report`; it is looked for as a whole, so that nothing
else is found.

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
_JOIN = r"(?:['.]|(?<=\p{Nd}),(?=\p{Nd}))"
_WORDS = regex.compile(rf"(?V1){_RUN.pattern}|{_SPACED}(?:{_JOIN}{_SPACED})*")
_ASCII_WORDS = re.compile(r"[a-z0-9_]+(?:(?:['.]|(?<=\d),(?=\d))[a-z0-9_]+)*")
_PARTS = regex.compile(r"['.,]")
_NO_LETTERS = regex.compile(
    r"(?V1)[[\p{M}&&[\p{sc=Zinh}\p{sc=Hebr}\p{sc=Arab}]]--[\u3099\u309a]]"
    r"|[\p{Default_Ignorable_Code_Point}--\u200b]"
)


class Asked(NamedTuple):
    """How one word is looked for: as a word, as what a word begins with, or as part of one."""

    how: Literal["is", "begins", "contains"]
    text: str


def words(text: str) -> list[str]:
    """Return the different words of a text as they are stored, as they come."""
    found: dict[str, None] = {}
    for word in dict.fromkeys(_split(text)):
        if not _is_run(word):
            found[word[:_CHARACTERS]] = None
            if not word.isalnum():
                found.update((part[:_CHARACTERS], None) for part in _PARTS.split(word))
            continue
        found.update(dict.fromkeys(map("".join, pairwise(word))))
        found[word[-1]] = None
        if len(word) > 2:  # else it is a pair
            last = max(len(word) - _CHARACTERS, 1)
            pieces = (word[at : at + _PIECE] for at in range(0, last, _CHARACTERS))
            found.update(dict.fromkeys(pieces))
    return list(found)


def asked(text: str, *, is_prefix: bool = False) -> list[Asked]:
    """Return what the words of a search look for; all of it must be found.

    `is_prefix`: words that begin with the last one are looked for.
    """
    found: dict[Asked, None] = {}
    split = _split(text)
    for n, word in enumerate(split, start=1):
        if not _is_run(word):
            begins = is_prefix and n == len(split)
            found[Asked("begins" if begins else "is", word[:_CHARACTERS])] = None
        elif len(word) == 1:
            found[Asked("begins", word)] = None
        else:
            found.update(dict.fromkeys(Asked("is", "".join(pair)) for pair in pairwise(word)))
            if len(word) > 2:
                pieces = (word[at : at + _CHARACTERS] for at in range(0, len(word), _CHARACTERS))
                found.update(dict.fromkeys(Asked("contains", piece) for piece in pieces))
    return list(found)


def _split(text: str) -> list[str]:
    """Return words, and runs of characters without spaces, as they come."""
    folded = _folded(text)
    return (_ASCII_WORDS if folded.isascii() else _WORDS).findall(folded)


def _is_run(word: str) -> bool:
    return not word.isascii() and _RUN.match(word) is not None


def _folded(text: str) -> str:
    """Return a text without what does not count."""
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKD", text.replace("\u2019", "'")).casefold()
    text = _NO_LETTERS.sub("", unicodedata.normalize("NFKD", text))
    return unicodedata.normalize("NFKC", text)
