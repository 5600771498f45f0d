"""The rows of a log by their tickets, whatever order they come in.

They are gathered on disk, in a temporary SQLite database that is gone with the process: a log of
millions of rows takes no more memory than the rows of its longest ticket.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from weakref import finalize

import orjson

from eventstore.event_document import fingerprint
from scripts.logs import Finding, Format, History, Row

_AT_ONCE = 1000


def temporary() -> sqlite3.Connection:
    """Make a database in a file that has no name: the system removes it with its last user."""
    made = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    made.execute("PRAGMA journal_mode = OFF")
    made.execute("PRAGMA synchronous = OFF")
    return made


class Gathered:
    """A log's tickets, in the order of their first rows, each with its rows in order.

    Goes through them as often as it is asked to, and reads each anew.
    """

    def __init__(self, format_: Format, rows: Iterable[Row]) -> None:
        self._format = format_
        self._names: Sequence[str] = ()
        self._kept = temporary()
        finalize(self, self._kept.close)
        self._kept.execute("CREATE TABLE tickets (nth INTEGER PRIMARY KEY, number TEXT UNIQUE)")
        self._kept.execute("CREATE TABLE rows (nth INTEGER, line INTEGER, cells BLOB)")
        self._kept.execute("BEGIN")
        self._keep(rows)
        self._kept.execute("COMMIT")

    def _keep(self, rows: Iterable[Row]) -> None:
        some: list[tuple[str, int, bytes]] = []
        for row in rows:
            self._names = self._names or tuple(row.cells)
            number = row.cells[self._format.number]
            some.append((number, row.line, orjson.dumps(list(row.cells.values()))))
            if len(some) == _AT_ONCE:
                self._insert(some)
                some = []
        self._insert(some)

    def _insert(self, rows: Sequence[tuple[str, int, bytes]]) -> None:
        numbers = [(number,) for number in dict.fromkeys(number for number, _, _ in rows)]
        self._kept.executemany("INSERT OR IGNORE INTO tickets (number) VALUES (?)", numbers)
        self._kept.executemany(
            "INSERT INTO rows SELECT nth, ?2, ?3 FROM tickets WHERE number = ?1", rows
        )

    def __len__(self) -> int:
        """Return the number of tickets."""
        [(count,)] = self._kept.execute("SELECT count(*) FROM tickets")
        return int(count)

    def __iter__(self) -> Iterator[History]:
        """Yield each ticket's history."""
        found = self._kept.execute(
            "SELECT number, line, cells FROM rows JOIN tickets USING (nth) ORDER BY nth, line"
        )
        for number, rows in groupby(found, key=itemgetter(0)):
            yield self._format.interpret(number, list(self._named(rows)))

    def _named(self, rows: Iterable[tuple[str, int, bytes]]) -> Iterator[Row]:
        """Yield the rows of one ticket, each with a name that no other of them has."""
        alike: Counter[str] = Counter()
        for _, line, cells in rows:
            read = dict(zip(self._names, orjson.loads(cells), strict=True))
            digest = fingerprint(read)[:16]
            yield Row(line, read, f"{digest}.{alike[digest]}")
            alike[digest] += 1


def readable(format_: Format, rows: Iterable[Row | Finding]) -> Iterator[Row | Finding]:
    """Yield the same, with a finding for each row that names no ticket."""
    for row in rows:
        if isinstance(row, Row) and not row.cells[format_.number].strip():
            yield Finding(row.line, "no_ticket", f"the column {format_.number} is empty")
        else:
            yield row
