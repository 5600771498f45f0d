"""What a measurement has found: tables for people, each with a picture.

`record` puts them into docs/performance.md, between the two comments that name the measurement:
so no figure of that page is written by hand.
"""

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scripts.console import UsageError

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


@dataclass(frozen=True, slots=True)
class Table:
    """A table. `bars`: what is drawn of it, round by round, by label; `unit`: in which unit."""

    about: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    unit: str
    bars: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def markdown(self) -> str:
        """Write it; the first column is text, the others are numbers."""
        rules = ["---", *("---:" for _ in self.columns[1:])]
        return "\n".join(f"| {' | '.join(row)} |" for row in (self.columns, rules, *self.rows))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios, round by round."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def told(ratio_: float) -> str:
    """Write a ratio."""
    return f"{ratio_:.0f}x" if ratio_ >= 20 else f"{ratio_:.2f}x"


def record(name: str, how: str, tables: Sequence[Table], page: Path = PAGE) -> None:
    """Put what was found into the page, and the pictures beside it. `how`: machine and rounds.

    Raises UsageError if the page has no place for it.
    """
    place = re.compile(rf"(<!-- measured: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    text = page.read_text()
    if not place.search(text):
        raise UsageError(f"{page} has no place for {name}")
    parts = [how]
    for number, table in enumerate(tables, start=1):
        parts += [f"**{table.about}**", table.markdown()]
        if table.bars:
            picture = page.parent / page.stem / f"{name}-{number}.svg"
            _draw(table, picture)
            parts.append(f"![{table.about}]({picture.relative_to(page.parent)})")
    found = "\n\n".join(parts)
    page.write_text(place.sub(lambda match: f"{match[1]}\n{found}\n\n{match[2]}", text))


def _draw(table: Table, picture: Path) -> None:
    """Draw medians as bars, and from the least to the most as a line on each."""
    # Here, because it takes a second, and a server of the benchmark needs none of it.
    try:
        import matplotlib as mpl  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(f"{error}: `make bench` sets up what is needed") from error

    names = [*table.bars]
    medians = [statistics.median(table.bars[name]) for name in names]
    below = [m - min(table.bars[name]) for name, m in zip(names, medians, strict=True)]
    above = [max(table.bars[name]) - m for name, m in zip(names, medians, strict=True)]
    with mpl.rc_context({"svg.hashsalt": picture.stem, "svg.fonttype": "none"}):
        figure = Figure(figsize=(8, 0.9 + 0.36 * len(names)), layout="constrained")
        axes = figure.add_subplot()
        axes.barh(names, medians, xerr=[below, above], color="#4c78a8", ecolor="#444", capsize=3)
        axes.invert_yaxis()
        axes.set_xlabel(table.unit)
        axes.spines[["top", "right"]].set_visible(False)
        picture.parent.mkdir(exist_ok=True)
        figure.savefig(picture, metadata={"Date": None, "Creator": None})
