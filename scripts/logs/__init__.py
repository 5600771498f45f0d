"""Real ticket logs, each format a small mapping of its own from rows to commands.

A format is a module with `FORMAT`: which columns it needs, how the rows of one ticket become
commands, and what an independent table of expected results says about the tickets.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import takewhile
from typing import NamedTuple

from pydantic import ValidationError

from domain.actors import Actor
from domain.errors import CasebookError
from domain.tickets.command import Command
from projections.views.tickets import TicketRead

Cells = Mapping[str, str]


class Row(NamedTuple):
    """One row: its line in the file, its cells by column name, and a name from its content.

    The name tells it from its ticket's other rows, and stays when rows around it are mended, put in
    or taken out: it is a digest of the cells and a count among equal ones.
    """

    line: int
    cells: Cells
    name: str = ""


class Step(NamedTuple):
    """One command that a row stands for. `key` tells it from the ticket's others, in every run."""

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

    def add(self, row: Row, at: datetime, actor: Actor, *commands: Command) -> None:
        """Append commands of `row`; their keys count them within the ticket's rows."""
        for command in commands:
            mine = takewhile(lambda step: step.line == row.line, reversed(self.steps))
            nth = sum(1 for _ in mine)
            key = f"{self.number}:{row.name}:{nth}"
            self.steps.append(Step(row.line, key, command, actor, at))


@dataclass(frozen=True, slots=True)
class Format:
    """How to read one kind of log, and a table of what should come of it."""

    name: str
    columns: frozenset[str]
    """Those that it needs; their names are told apart by their words alone."""
    number: str
    """The column that names the ticket."""
    interpret: Callable[[str, Sequence[Row]], History]
    """Turn one ticket's rows, in order, into commands. Pure."""
    expected_number: str
    """The column of the expected table that names the ticket."""
    expected_columns: frozenset[str]
    compare: Callable[[Cells, TicketRead], dict[str, str]]
    """Say in which points a ticket differs from its row in the expected table, and how."""
    deciders: Mapping[str, frozenset[str]]
    """Which commands, refused or without effect, can explain a difference in each point."""


class BadRow(Exception):
    """A row that cannot be read: raised by a mapping, reported with the row's line."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class UnreadableLog(CasebookError):
    """A log that cannot be read at all: not there, no table, or its archive is cut off."""


UNKNOWN = "unknown"


def read_time(text: str, form: str) -> datetime:
    """Read a log's time; both logs give no zone, and UTC is taken. Raises BadRow."""
    try:
        return datetime.strptime(text, form).replace(tzinfo=UTC)
    except ValueError as error:
        raise BadRow("bad_time", f"cannot read the time {text!r}") from error


def one_line(text: str) -> str:
    """Put what is broken into lines, as cells of spreadsheets may be, into one."""
    return re.sub(r"\s*[\t\n\v\f\r\x85\u2028\u2029]\s*", " ", text).strip()


def rejected(row: Row, error: BadRow | ValidationError) -> Finding:
    """Report a row that a mapping could not take."""
    if isinstance(error, BadRow):
        return Finding(row.line, error.kind, str(error))
    first = error.errors()[0]
    return Finding(row.line, "bad_value", f"{first['msg']}: {first['input']!r:.80}")
