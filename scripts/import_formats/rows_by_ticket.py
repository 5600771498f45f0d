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
from scripts.import_formats import Format, History, Row

_BY_TICKET = (
    "SELECT number, line, cells FROM rows ORDER BY min(line) OVER (PARTITION BY number), line"
)


def temporary(owner: object) -> sqlite3.Connection:
    """Make a database in a file without a name, closed with its owner; the system removes it."""
    made = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    finalize(owner, made.close)
    made.execute("PRAGMA journal_mode = OFF")
    made.execute("PRAGMA synchronous = OFF")
    return made


class Gathered:
    """A log's tickets, in the order of their first rows, each with its rows in order.

    Every iteration reads them anew.
    """

    def __init__(self, format_: Format, rows: Iterable[Row]) -> None:
        self._format = format_
        self._names: Sequence[str] = ()
        self._kept = temporary(self)
        self._kept.execute("CREATE TABLE rows (number TEXT, line INTEGER, cells BLOB)")
        self._kept.execute("BEGIN")
        self._kept.executemany("INSERT INTO rows VALUES (?, ?, ?)", map(self._stored, rows))
        self._kept.execute("COMMIT")

    def _stored(self, row: Row) -> tuple[str, int, bytes]:
        self._names = self._names or tuple(row.cells)
        return row.cells[self._format.number], row.line, orjson.dumps(list(row.cells.values()))

    def __len__(self) -> int:
        """Return the number of tickets."""
        [(count,)] = self._kept.execute("SELECT count(DISTINCT number) FROM rows")
        return int(count)

    def __iter__(self) -> Iterator[History]:
        """Yield each ticket's history."""
        for number, rows in groupby(self._kept.execute(_BY_TICKET), key=itemgetter(0)):
            yield self._format.interpret(number, self._named(rows))

    def _named(self, rows: Iterable[tuple[str, int, bytes]]) -> Iterator[Row]:
        """Yield the rows of one ticket, each with a name that no other of them has."""
        alike: Counter[str] = Counter()
        for _, line, cells in rows:
            read = dict(zip(self._names, orjson.loads(cells), strict=True))
            digest = fingerprint(read)[:16]
            yield Row(line, read, f"{digest}.{alike[digest]}")
            alike[digest] += 1
