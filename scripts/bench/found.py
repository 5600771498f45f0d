"""What a measurement has found: tables for people, each with a picture.

`record` puts them into docs/explanation/performance.md, between the two comments that name the
measurement:
so no figure of that page is written by hand.
"""

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scripts.cli import UsageError

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "performance.md"


@dataclass(frozen=True, slots=True)
class Table:
    """A table. `bars`: what is drawn of it, round by round, by label; `unit`: in which unit."""

    about: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    unit: str
    bars: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def markdown(self) -> str:
        """Return it as Markdown; the first column is text, the others are numbers."""
        rules = ["---", *("---:" for _ in self.columns[1:])]
        return "\n".join(f"| {' | '.join(row)} |" for row in (self.columns, rules, *self.rows))


def median(found: Sequence[float], digits: int = 0) -> str:
    """Return the median, as a cell of a table."""
    return f"{statistics.median(found):.{digits}f}"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return the median of the ratios, round by round, as a cell of a table."""
    return times(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)))


def times(factor: float) -> str:
    """Return a factor, as a cell of a table."""
    return f"{factor:.0f}x" if factor >= 20 else f"{factor:.2f}x"


def record(name: str, how: str, tables: Sequence[Table]) -> None:
    """Put what was found into the page, with its pictures. `how`: machine and rounds.

    Raises UsageError if the page has no place for it.
    """
    place = re.compile(rf"(<!-- measured: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    text = PAGE.read_text()
    if not place.search(text):
        raise UsageError(f"{PAGE} has no place for {name}")
    parts = [how]
    for number, table in enumerate(tables, start=1):
        parts += [f"**{table.about}**", table.markdown()]
        if table.bars:
            picture = PAGE.parent / PAGE.stem / f"{name}-{number}.svg"
            _draw(table, picture)
            parts.append(f"![{table.about}]({picture.relative_to(PAGE.parent)})")
    found = "\n\n".join(parts)
    PAGE.write_text(place.sub(lambda match: f"{match[1]}\n{found}\n\n{match[2]}", text))


def _draw(table: Table, picture: Path) -> None:
    """Draw medians as bars, and from the least to the most as a line on each."""
    # Imported here because it takes a second, and only recording needs it.
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    found = table.bars.values()
    medians = [statistics.median(each) for each in found]
    below = [m - min(each) for m, each in zip(medians, found, strict=True)]
    above = [max(each) - m for m, each in zip(medians, found, strict=True)]
    with mpl.rc_context({"svg.hashsalt": picture.stem, "svg.fonttype": "none"}):
        figure = Figure(figsize=(8, 0.9 + 0.36 * len(medians)), layout="constrained")
        axes = figure.add_subplot()
        error = [below, above]
        axes.barh([*table.bars], medians, xerr=error, color="#4c78a8", ecolor="#444", capsize=3)
        axes.invert_yaxis()
        axes.set_xlabel(table.unit)
        axes.spines[["top", "right"]].set_visible(False)
        picture.parent.mkdir(exist_ok=True)
        figure.savefig(picture, metadata={"Date": None, "Creator": None})
