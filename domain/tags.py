"""What tags are made of: letters, digits and marks of any script, and `_.:-`.

Tags that differ in case, or in how Unicode writes the same letters, are one tag: each is folded, as
Unicode folds identifiers (NFKC and full case folding, UAX 15 and 31), where it is typed. Variation
selectors, which only choose the form of a letter, are left out. Nothing else that shows nothing is
taken (`lines.py`), but the joiners where scripts need them. Code points that are not assigned are
refused: how they fold is not known yet.
"""

from typing import Final
from unicodedata import category, normalize

from domain.lines import VARIANTS, is_refused, joins

TAG_CHARACTERS: Final = 64
_OTHERS = frozenset("_.:-")


def fold_tag(text: str) -> str:
    """Return a tag as it is kept. Raises ValueError for what is none."""
    folded = text.lower() if text.isascii() else _fold(text)
    if not 0 < len(folded) <= TAG_CHARACTERS:
        raise ValueError(f"a tag has at least 1 and at most {TAG_CHARACTERS} characters")
    if category(folded[0])[0] not in "LN" or not all(
        _is_part(folded, n) for n in range(len(folded))
    ):
        raise ValueError(
            "a tag is letters and digits of any script, and behind the first of them also _ . : -"
        )
    return folded


def _fold(text: str) -> str:
    folded = normalize("NFD", "".join(c for c in text if c not in VARIANTS))
    for _ in range(2):  # what the first leaves may be folded again: see UAX 15 and D146
        folded = normalize("NFKC", folded.casefold())
    return folded


def _is_part(text: str, n: int) -> bool:
    character = text[n]
    if character in _OTHERS or joins(text, n):
        return True
    return category(character)[0] in "LMN" and not is_refused(character)
