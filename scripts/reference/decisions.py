"""The index of docs/decisions, from what each page says of itself."""

import re
from pathlib import Path

from scripts.reference.markdown import page, table

FOLDER = Path(__file__).parents[2] / "docs" / "decisions"
_HEAD = re.compile(r"# (?P<number>\d+)\. (?P<title>.+)\n\n\*\*State\.\*\* (?P<state>.+)\n\n")
_INTRODUCTION = """
Each page says why something is as it is: what the question was, what was decided, and what follows.
A page is not rewritten when it no longer holds. Its state changes: *accepted*, *amended* by a later
decision in the part that is named, or *superseded*. Numbers that are missing were never given.
"""


def made() -> str:
    """Return the page."""
    rows = []
    for path in sorted(FOLDER.glob("0*.md")):
        head = _HEAD.match(path.read_text())
        if head is None:
            raise ValueError(f"{path}: begins with '# <number>. <title>' and '**State.** ...'")
        rows.append([head["number"], f"[{head['title']}]({path.name})", head["state"].rstrip(".")])
    return page("Decisions", _INTRODUCTION, table(["", "decision", "state"], rows))
