"""Tables as spreadsheets and trackers export them: read row by row, or refused by name.

Read: commas, semicolons, tabs and bars between cells, whichever gives the header its columns;
quoted cells with line breaks; UTF-8, and UTF-16 or 32 that say so by a byte order mark; any other
encoding that is named; any line ends; headers in any case, with blanks, `_` or `-` between words;
Excel's first line `sep=;`; and what is packed by gzip or xz. Nothing is guessed from what stands in
the rows: a file of bytes that are not UTF-8 is refused until its encoding is named.

A row that cannot be read is a `Finding` with its line, and the others are read. So a quote that is
never closed spoils its own line: what it takes to its end is believed only if that makes a row.
"""

import codecs
import csv
import re
import zlib
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from gzip import GzipFile
from io import BufferedReader, TextIOWrapper
from lzma import LZMAError, LZMAFile
from pathlib import Path

from scripts.import_formats import Finding, Row, UnreadableLog

_SEPARATORS = ",;\t|"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NO_TABLES = (
    (b"PK\x03\x04", "a spreadsheet or an archive"),
    (b"\xd0\xcf\x11\xe0", "a spreadsheet"),
    (b"%PDF", "a PDF"),
    (b"BZh", "packed by bzip2"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd"),
)
_GZIP, _XZ = b"\x1f\x8b", b"\xfd7zXZ\x00"
_HEAD_BYTES = 4096
_MOST_LINES = 1000  # of one row
_MOST_CHARACTERS = 2**18
_UNCLOSED = "a quote is never closed, or closed where it should not be"


def read_rows(
    path: Path, columns: Collection[str] = (), encoding: str | None = None
) -> Iterator[Row | Finding]:
    """Read a table that has some columns, by their names as they are given here.

    `encoding`: its name, unless it is one that is known without; rows that are not in it are then
    reported, and the others read. Raises UnreadableLog.
    """
    try:
        with _open(path, encoding) as text:
            lines = _Lines(text)
            separator, header = _header(lines, path, columns)
            while (first := lines.ahead(0)) is not None:
                line = lines.number + 1
                if not first.strip():
                    lines.take(1)
                    continue
                cells = _record(lines, separator, len(header))
                if isinstance(cells, str):
                    yield Finding(line, "not_csv", cells)
                elif not any(cell.strip() for cell in cells):
                    continue  # spreadsheets end so
                elif len(cells) != len(header):
                    wrong = f"{len(cells)} cells where the header has {len(header)}"
                    yield Finding(line, "wrong_number_of_cells", wrong)
                elif not _is_text(cells):
                    yield _not_text(path, line, encoding)
                else:
                    yield Row(line, dict(zip(header, map(_with_line_feeds, cells), strict=True)))
    except (OSError, EOFError, UnicodeError, LZMAError, zlib.error) as error:
        raise UnreadableLog(f"cannot read {path}: {error}") from error


def require_columns(path: Path, columns: Collection[str]) -> None:
    """Raise UnreadableLog unless a file is a table that has some columns."""
    next(read_rows(path, columns), None)


class _Lines:
    """Lines of a text, some of which can be looked at before they are taken."""

    def __init__(self, text: Iterable[str]) -> None:
        self._text = iter(text)
        self._ahead: deque[str] = deque()
        self.number = 0
        """How many have been taken."""

    def ahead(self, n: int) -> str | None:
        """Return the line behind the next `n`, or None."""
        while len(self._ahead) <= n:
            line = next(self._text, None)
            if line is None:
                return None
            self._ahead.append(line)
        return self._ahead[n]

    def take(self, n: int) -> None:
        for _ in range(n):
            self._ahead.popleft()
        self.number += n


def _record(lines: _Lines, separator: str, width: int) -> list[str] | str:
    """Take a row's lines and give its cells, or what is wrong with the first line, taken alone."""
    taken, cells = _parsed(lines, separator)
    if isinstance(cells, str) or (taken > 1 and len(cells) != width):
        cells, taken = cells if isinstance(cells, str) and taken == 1 else _UNCLOSED, 1
    lines.take(taken)
    return cells


def _parsed(lines: _Lines, separator: str) -> tuple[int, list[str] | str]:
    """Return how many lines the next row has, and its cells, or what is wrong; take nothing."""
    taken = characters = 0

    def feed() -> Iterator[str]:
        nonlocal taken, characters
        while taken < _MOST_LINES and characters < _MOST_CHARACTERS:
            line = lines.ahead(taken)
            if line is None:
                return
            taken += 1
            characters += len(line)
            yield line

    try:
        cells = next(csv.reader(feed(), delimiter=separator, strict=True))
    except csv.Error as error:
        return taken, str(error)
    return taken, cells


def _header(lines: _Lines, path: Path, columns: Collection[str]) -> tuple[str, list[str]]:
    """Take the header; return what separates its cells, and the columns' names."""
    separators = _SEPARATORS
    while (first := lines.ahead(0)) is not None:
        if named := re.fullmatch(r"sep=(.)", first.strip("\r\n"), re.IGNORECASE):
            separators = named[1]
        elif first.strip():
            break
        lines.take(1)
    wanted = {_key(column): column for column in columns}
    best: tuple[int, int, int, str, list[str]] = (-1, 0, 0, separators[0], [])
    for separator in separators if first is not None else "":
        taken, cells = _parsed(lines, separator)
        if not isinstance(cells, str):
            names = [wanted.get(_key(cell), cell) for cell in cells]
            found = len(wanted.keys() & set(map(_key, cells)))
            best = max(best, (found, len(cells), taken, separator, names), key=lambda b: b[:2])
    _, _, taken, separator, names = best
    missing = sorted(set(columns) - set(names))
    if missing:
        has = f"; it has: {', '.join(filter(None, names[:40]))}" if names else ""
        raise UnreadableLog(f"{path} lacks the columns: {', '.join(missing)}{has:.500}")
    twice = sorted(column for column in columns if names.count(column) > 1)
    if twice:
        raise UnreadableLog(f"{path} has columns twice: {', '.join(twice)}")
    lines.take(taken)
    return separator, names


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _is_text(cells: list[str]) -> bool:
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:  # what could not be decoded
        return False
    return True


def _not_text(path: Path, line: int, encoding: str | None) -> Finding:
    if encoding is not None:
        return Finding(line, "not_in_its_encoding", f"there are bytes that are not {encoding}")
    raise UnreadableLog(
        f"{path}, line {line}: this is not UTF-8; name its encoding, as --encoding cp1252, which "
        "Excel writes on Windows (with --encoding utf-8, rows that are not are left out)",
    )


def _with_line_feeds(cell: str) -> str:
    return cell.replace("\r\n", "\n").replace("\r", "\n") if "\r" in cell else cell


@contextmanager
def _open(path: Path, encoding: str | None) -> Iterator[TextIOWrapper]:
    with path.open("rb") as stored:
        unpacked: BufferedReader | LZMAFile | GzipFile = stored
        magic = stored.peek(len(_XZ))
        if path.suffix == ".xz" or magic.startswith(_XZ):
            unpacked = LZMAFile(stored)  # noqa: SIM115 ends with `stored`
        elif path.suffix == ".gz" or magic.startswith(_GZIP):
            unpacked = GzipFile(fileobj=stored)
        head = unpacked.peek(_HEAD_BYTES)[:_HEAD_BYTES]
        yield TextIOWrapper(
            unpacked, _encoding(path, head, encoding), errors="surrogateescape", newline=_end(head)
        )


def _encoding(path: Path, head: bytes, given: str | None) -> str:
    for magic, what in _NO_TABLES:
        if head.startswith(magic):
            raise UnreadableLog(f"{path} is {what}: export it as a csv file")
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if marked is not None:
        return marked
    if given is not None:
        try:
            b" ".decode(given, "replace")
        except LookupError as error:
            raise UnreadableLog(f"there is no encoding {given!r}") from error
        return given
    if b"\x00" in head:
        raise UnreadableLog(
            f"{path} is no text in UTF-8; name its encoding, as --encoding utf-16-le",
        )
    return "utf-8"


def _end(head: bytes) -> str:
    """Tell what ends lines: a lone carriage return only where nothing else does."""
    return "\r" if b"\r" in head[:-1] and b"\n" not in head else "\n"
