"""Real ticket logs: what a format says about its rows, and how rows become commands.

A format is a module with `FORMAT`: which columns it needs, which commands a row stands for, and
what an independent table of expected results says about the tickets.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar

from pydantic import ValidationError

from domain.actors import Actor
from domain.tickets.command import Command
from domain.tickets.lifecycle import ResolveTicket
from projections.views.tickets import TicketRead
from scripts.cli import UsageError

T = TypeVar("T")
C = TypeVar("C", bound=Command)
Cells = Mapping[str, str]

UNKNOWN = "unknown"
RESOLUTION = "Resolved; the log holds no text."


class Row(NamedTuple):
    """One row: its line in the file, its cells by column name, and a name from its content.

    The name tells the row from its ticket's other rows, and stays when rows around it are mended,
    put in or taken out: it is a digest of the cells and a count among equal ones.
    """

    line: int
    cells: Cells
    name: str = ""


class Act(NamedTuple):
    """A command that a row stands for: when it was done, and by which actor."""

    at: datetime
    actor: Actor
    command: Command


class Step(NamedTuple):
    """An act with its row's line. `key` tells it from the ticket's other steps, in every run."""

    line: int
    key: str
    command: Command
    actor: Actor
    at: datetime


class Finding(NamedTuple):
    """Something that could not be taken over as it stands, or had to be added."""

    line: int
    kind: str
    detail: str


@dataclass(slots=True)
class History:
    """What the rows of one ticket come to. The first step opens the ticket."""

    number: str
    steps: list[Step] = field(default_factory=list)
    rejected: list[Finding] = field(default_factory=list)
    """Rows that cannot be read."""
    assumed: list[Finding] = field(default_factory=list)
    """What the log does not say and a command needs."""
    silent_rows: int = 0
    """Rows that differ in nothing that is taken over."""
    before: Cells | None = None
    """The last row that was added."""

    def last(self, *kinds: type[C]) -> C | None:
        """Return the last command of some kinds."""
        commands = (step.command for step in reversed(self.steps))
        return next((command for command in commands if isinstance(command, kinds)), None)

    def add(self, row: Row, acts: Iterable[Act]) -> None:
        """Append the acts of the next row; their keys count them within it."""
        for nth, (at, actor, command) in enumerate(acts):
            key = f"{self.number}:{row.name}:{nth}"
            self.steps.append(Step(row.line, key, command, actor, at))
            if isinstance(command, ResolveTicket):
                self.assumed.append(Finding(row.line, "resolution_text", RESOLUTION))
        self.before = row.cells


@dataclass(frozen=True, slots=True)
class Format:
    """How to read one kind of log, and a table of what should come of it."""

    name: str
    columns: frozenset[str]
    """Those that it needs; their names are told apart by their words alone."""
    number: str
    """The column that names the ticket."""
    acts: Callable[[History, Cells], Iterator[Act]]
    """Yield what the next row of a ticket stands for. Pure. Raises BadRow, ValidationError."""
    opening: Callable[[Cells], tuple[str, str] | None]
    """Return what is assumed of a ticket that a row opens: a kind and a detail."""
    expected_number: str
    """The column of the expected table that names the ticket."""
    expected_columns: frozenset[str]
    points: Callable[[Cells, TicketRead], Mapping[str, tuple[object, object]]]
    """Return what a row of the expected table says of its ticket by point, and what is found."""
    deciders: Mapping[str, frozenset[str]]
    """Which commands, refused or without effect, can explain a difference in each point."""

    def interpret(self, number: str, rows: Iterable[Row]) -> History:
        """Turn one ticket's rows, in order, into commands. Pure."""
        history = History(number)
        for row in rows:
            opens = history.before is None
            try:
                acts = list(self.acts(history, row.cells))
            except (BadRow, ValidationError) as error:
                history.rejected.append(rejected(row, error))
                continue
            history.silent_rows += not acts
            history.add(row, acts)
            if opens and (assumed := self.opening(row.cells)):
                history.assumed.append(Finding(row.line, *assumed))
        return history

    def compare(self, expected: Cells, read: TicketRead) -> dict[str, str]:
        """Say in which points a ticket differs from its row in the expected table, and how."""
        points = self.points(expected, read)
        return {what: f"expected {e}, found {f}" for what, (e, f) in points.items() if e != f}


class BadRow(Exception):
    """A row that cannot be read: raised by a format, reported with the row's line."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class UnreadableLog(UsageError):
    """A log that cannot be read at all: not there, no table, or its archive is cut off."""


def read_time(text: str, form: str) -> datetime:
    """Read a log's time; both logs give no zone, and UTC is taken. Raises BadRow."""
    try:
        return datetime.strptime(text, form).replace(tzinfo=UTC)
    except ValueError as error:
        raise BadRow("bad_time", f"cannot read the time {text!r}") from error


def chosen(choices: Mapping[str, T], text: str, what: str) -> T:
    """Return what a cell stands for. Raises BadRow."""
    if text not in choices:
        raise BadRow(f"unknown_{what}", f"there is no {what} {text!r}")
    return choices[text]


def one_line(text: str) -> str:
    """Put what is broken into lines, as cells of spreadsheets may be, into one."""
    return re.sub(r"\s*[\t\n\v\f\r\x85\u2028\u2029]\s*", " ", text).strip()


def rejected(row: Row, error: BadRow | ValidationError) -> Finding:
    """Report a row that a format could not take."""
    if isinstance(error, BadRow):
        return Finding(row.line, error.kind, str(error))
    first = error.errors()[0]
    return Finding(row.line, "bad_value", f"{first['msg']}: {first['input']!r:.80}")
