"""Parts of a page, in Markdown."""

import re
from collections.abc import Iterable, Sequence

_MADE = "*This page is made from the code by `casebook reference`.*"


def page(title: str, introduction: str, *parts: str) -> str:
    """Return a whole page; empty parts are left out."""
    return "\n\n".join([f"# {title}", _MADE, introduction.strip(), *filter(None, parts)]) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; a cell's lines become one, and what has no row is empty."""
    lines = [_row(["---"] * len(head) if cells is None else cells) for cells in (head, None, *rows)]
    return "\n".join(lines) if len(lines) > 2 else ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"


def fenced(language: str, text: str) -> str:
    """Return a block of code."""
    return f"```{language}\n{text.rstrip()}\n```"


def listed(words: Iterable[str]) -> str:
    """Return words as code, with commas between."""
    return ", ".join(f"`{word}`" for word in words)


def first_paragraph(text: str | None) -> str:
    """Return what a docstring says first, on one line."""
    return " ".join((text or "").partition("\n\n")[0].split())


def slug(heading: str) -> str:
    """Return the anchor that GitHub and the site give a heading, as plain text."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
