"""The nearest known word to one that is not known: a hint for whoever has mistyped it."""

from collections.abc import Iterable
from difflib import get_close_matches

_LIKENESS = 0.7


def did_you_mean(word: str, known: Iterable[str], before: str = "") -> str:
    """Return what to say behind that a word is not known: nothing if none is like it.

    `before`: what all these words begin with, and are not given with.
    """
    nearest = get_close_matches(word, list(known), 1, _LIKENESS)
    return f"; did you mean {before}{nearest[0]}?" if nearest else ""
