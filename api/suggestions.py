"""A hint for a mistyped word: the known word that is nearest to it."""

from collections.abc import Iterable
from difflib import get_close_matches

_LIKENESS = 0.7


def did_you_mean(word: str, known: Iterable[str], before: str = "") -> str:
    """Return a hint for the end of an error, or an empty text if no known word is near.

    `before`: a prefix that all these words have, and that `word` and `known` come without.
    """
    nearest = get_close_matches(word, list(known), 1, _LIKENESS)
    return f"; did you mean {before}{nearest[0]}?" if nearest else ""
