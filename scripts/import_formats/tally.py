"""What has come of an import: counts, and findings.

Findings are kept on disk, for there may be as many as rows.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import orjson
from rich.table import Table

from scripts.cli import writing
from scripts.import_formats import Finding, History
from scripts.import_formats.rows_by_ticket import temporary

What = Literal["not taken", "changed nothing", "assumed", "differs"]


class Reported(NamedTuple):
    """A finding about a ticket, as the report lists it."""

    ticket: str
    line: int
    kind: str
    detail: str


class Tally:
    """What has come of an import so far. Of the findings

    - *not taken* are refused commands and rejected rows;
    - *changed nothing* are tickets resolved or closed once more: a reason for a count to differ.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.silent_rows = 0
        self.tickets = 0
        self.events = 0
        self.accepted = 0
        self.already_there = 0
        self.unchanged: Counter[str] = Counter()
        self._kinds: defaultdict[What, Counter[str]] = defaultdict(Counter)
        self._kept = temporary(self)
        self._kept.execute("CREATE TABLE findings (what, ticket, line, kind, detail)")
        self._kept.execute("CREATE INDEX by_ticket ON findings (ticket)")

    def note(self, what: What, ticket: str, finding: Finding) -> None:
        """Note something about a ticket, or, of ticket "", about a row that names none."""
        self._kinds[what][finding.kind] += 1
        self._kept.execute("INSERT INTO findings VALUES (?, ?, ?, ?, ?)", (what, ticket, *finding))

    def interpreted(self, history: History) -> None:
        """Note what was found in a ticket's rows."""
        self.silent_rows += history.silent_rows
        for finding in history.rejected:
            self.note("not taken", history.number, finding)
        for finding in history.assumed:
            self.note("assumed", history.number, finding)

    def all(self, what: What) -> Iterator[Reported]:
        """Yield findings by ticket and line."""
        order = "SELECT ticket, line, kind, detail FROM findings WHERE what = ? ORDER BY 1, 2, 3, 4"
        return map(Reported._make, self._kept.execute(order, (what,)))

    def about(self, ticket: str) -> list[Reported]:
        """Return what was not taken of a ticket, or changed nothing; of "", unreadable rows."""
        wanted = (
            "SELECT ticket, line, kind, detail FROM findings WHERE ticket = ? "
            "AND what IN ('not taken', 'changed nothing') ORDER BY 1, 2, 3, 4"
        )
        return [Reported(*row) for row in self._kept.execute(wanted, (ticket,))]

    def count(self, what: What) -> int:
        """Return how many findings there are."""
        return self._kinds[what].total()

    def kinds(self, what: What) -> Counter[str]:
        """Return how many findings there are of each kind."""
        return self._kinds[what]

    def rows_not_taken(self) -> int:
        """Return how many rows were not taken, or in part."""
        rows = "SELECT DISTINCT ticket, line FROM findings WHERE what = 'not taken'"
        return sum(1 for _ in self._kept.execute(rows))


def summarise(tally: Tally) -> Table:
    """Return what came of the import, as a table."""
    rows = tally.rows_not_taken()
    share = 100 * rows / tally.rows if tally.rows else 0.0
    counts = (
        ("rows read", "", tally.rows),
        ("tickets", "", tally.tickets),
        ("commands accepted", "", tally.accepted),
        ("commands already there", "", tally.already_there),
        ("events added", "", tally.events),
        ("rows with nothing new", "", tally.silent_rows),
        *(("changed nothing", *kind) for kind in tally.unchanged.most_common()),
        *(("not taken", *kind) for kind in tally.kinds("not taken").most_common()),
        *(("assumed", *kind) for kind in tally.kinds("assumed").most_common()),
        ("rows not taken, or in part", "", f"{rows} ({share:.2f} %)"),
    )
    table = Table("what", "kind", "count", title="Import")
    table.columns[-1].justify = "right"
    for what, kind, count in counts:
        table.add_row(what, kind, str(count))
    return table


def write_report(path: Path, tally: Tally) -> None:
    """List every finding, one JSON object a line. Raises UsageError."""
    with writing(path), path.open("wb") as report:
        for what in get_args(What):
            for entry in tally.all(what):
                report.write(orjson.dumps({"what": what, **entry._asdict()}) + b"\n")
