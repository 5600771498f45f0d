"""Tables as spreadsheets and trackers export them: read right, or refused by name."""

import gzip
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.import_formats import Row, UnreadableLog
from scripts.import_formats.table import read_rows, require_columns
from scripts.import_formats.tally import Tally
from scripts.import_log import read
from tests.processes import environment, script
from tests.scripts.test_import import CASES, HELPDESK

COLUMNS = ("Case ID", "Text")


def table(tmp_path, content, **options):
    path = tmp_path / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_rows(path, COLUMNS, **options))


def texts(rows):
    return [row.cells["Text"] if isinstance(row, Row) else (row.line, row.kind) for row in rows]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_separator_and_any_line_ends(tmp_path, separator, end):
    lines = ["Case ID,Text,More", '1,"a, b; c\td|e",x', '2,"say ""hi""",', "3,plain,"]
    quoted = [line.replace(",", separator) for line in (lines[0], lines[2], lines[3])]
    quoted.insert(1, separator.join(["1", '"a, b; c\td|e"', "x"]))
    rows = table(tmp_path, end.join(quoted) + end)
    assert texts(rows) == ["a, b; c\td|e", 'say "hi"', "plain"]
    assert [row.line for row in rows] == [2, 3, 4]


@pytest.mark.parametrize(
    "header",
    ["case id,text", "CASE_ID,TEXT", " Case  ID , Text ", '"Case-Id","text"', "case\xa0id,Text"],
)
def test_columns_are_known_by_their_words(tmp_path, header):
    assert texts(table(tmp_path, f"{header}\n1,x\n")) == ["x"]


def test_excel_says_its_separator_in_a_line_of_its_own(tmp_path):
    assert texts(table(tmp_path, "\ufeffsep=;\r\nCase ID;Text\r\n1;a,b\r\n")) == ["a,b"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_that_say_so_are_read(tmp_path, encoding):
    content = "Case ID\tText\r\n1\tZoë 山\r\n".encode(encoding)
    assert texts(table(tmp_path, content)) == ["Zoë 山"]
    assert texts(table(tmp_path, gzip.compress(content))) == ["Zoë 山"]


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16-le", "shift_jis"])
def test_other_encodings_are_named_or_refused(tmp_path, encoding):
    text = "山" if encoding == "shift_jis" else "Zoë"
    content = f"Case ID;Text\n1;x\n2;{text}\n".encode(encoding)
    with pytest.raises(UnreadableLog, match="--encoding"):
        table(tmp_path, content)
    assert texts(table(tmp_path, content, encoding=encoding)) == ["x", text]


def test_a_row_that_is_not_in_the_encoding_that_was_named_is_left_out(tmp_path):
    content = b"Case ID,Text\n1,a\n" + b"2,\xff\n" + b"3,c\n"
    rows = table(tmp_path, content, encoding="utf-8")
    assert texts(rows) == ["a", (3, "not_in_its_encoding"), "c"]


def test_quoted_cells_have_line_breaks(tmp_path):
    content = 'Case ID,Text\r\n1,"two\r\nlines"\r\n2,"\n\nfour\n"\r\n3,last\r\n'
    rows = table(tmp_path, content)
    assert texts(rows) == ["two\nlines", "\n\nfour\n", "last"]
    assert [row.line for row in rows] == [2, 4, 8]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ('2,"never closed', (3, "not_csv")),
        ('2,"never closed, but the next has "quotes"', (3, "not_csv")),
        ('2,"x" y', (3, "not_csv")),
        ("2", (3, "wrong_number_of_cells")),
        ("2,x,y", (3, "wrong_number_of_cells")),
    ],
)
def test_a_damaged_row_spoils_no_other(tmp_path, damage, told):
    """Wherever a quote that was never closed may seem to end."""
    for more in ("3,c", '3,"c"', '3,"c', '3,"c\nd"'):
        rows = table(tmp_path, f"Case ID,Text\n1,a\n{damage}\n{more}\n4,d\n")
        assert texts(rows)[:2] == ["a", told]
        assert texts(rows)[-1] == "d"
        if more != '3,"c':
            assert texts(rows)[2].startswith("c")


def test_a_quote_that_is_never_closed_costs_no_more_than_some_lines(tmp_path):
    lines = "".join(f'{n},"x\n' for n in range(3000))
    rows = table(tmp_path, f"Case ID,Text\n{lines}1,a\n")
    assert texts(rows)[-1] == "a"
    assert len(rows) == 3001


def test_blank_rows_of_spreadsheets_are_passed_over(tmp_path):
    assert texts(table(tmp_path, "\nCase ID;Text;\n\n1;a;\n;;\n;  ;\n2;b;\n")) == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "lacks the columns: Case ID, Text"),
        ("Case ID,Other\n", "lacks the columns: Text; it has: Case ID, Other"),
        ("Case ID,Text,TEXT\n1,a,b\n", "has columns twice: Text"),
        (b"PK\x03\x04....", "a spreadsheet or an archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "is a spreadsheet"),
        (b"%PDF-1.7", "is a PDF"),
        (b"\xff\xfeC\x00a", "cannot read"),
        ('{"Case ID": 1}', "lacks the columns"),
    ],
)
def test_what_is_no_such_table_is_refused_by_name(tmp_path, content, why):
    with pytest.raises(UnreadableLog, match=why):
        table(tmp_path, content)
    with pytest.raises(UnreadableLog, match=why):
        require_columns(tmp_path / "table.csv", COLUMNS)


def test_an_encoding_that_there_is_not_is_told(tmp_path):
    for name in ("klingon", "base64"):
        with pytest.raises(UnreadableLog, match=f"no encoding '{name}'"):
            table(tmp_path, "Case ID,Text\n1,a\n", encoding=name)


def test_rows_are_gathered_by_ticket_whatever_their_order(tmp_path):
    header, *rows = CASES.splitlines()
    mixed = [row for n in range(9) for ticket in "ABC" for row in _of(rows, ticket)[n : n + 1]]
    path = tmp_path / "log.csv"
    path.write_text("\n".join([header, *rows]))
    straight = list(read(HELPDESK, path, Tally()))
    path.write_text("\n".join([header, *mixed]))
    gathered = read(HELPDESK, path, Tally())
    assert len(gathered) == 3
    for _ in range(2):  # as often as it is asked
        for before, after in zip(straight, gathered, strict=True):
            assert before.number == after.number
            assert [s.key for s in before.steps] == [s.key for s in after.steps]


def _of(rows, ticket):
    return [row for row in rows if row.startswith(f"{ticket},")]


def test_a_row_that_names_no_ticket_is_told(tmp_path):
    header, first, second, *_ = CASES.splitlines()
    path = tmp_path / "log.csv"
    path.write_text("\n".join([header, first, second.replace("A,", " ,", 1)]))
    tally = Tally()
    [history] = read(HELPDESK, path, tally)
    assert len(history.steps) == 2
    [told] = tally.about("")
    assert (told.line, told.kind) == (3, "no_ticket")


async def test_the_command_line_tells_what_it_leaves_out_and_what_becomes_of_the_rest(tmp_path):
    """As Excel exports it: semicolons, CRLF, cp1252, a note of two lines, a damaged row."""
    header, first, *rest = CASES.replace(",", ";").splitlines()
    german = first.replace("Value 1", '"Mü\r\nller"', 1)
    damaged = [header, german, "A;too;short", *rest]
    path = tmp_path / "log.csv"
    path.write_bytes("\r\n".join(damaged).encode("cp1252"))
    env = environment(tmp_path)
    words = ("scripts.import_log", "helpdesk", str(path))
    refused = await script(*words, env=env)
    _, err = await refused.communicate()
    [line] = err.decode().splitlines()
    assert (refused.returncode, line.startswith("error: ")) == (1, True)
    assert f"{path}, line 2" in line
    assert "--encoding cp1252" in line
    report = tmp_path / "report.ndjson"
    more = ("--encoding", "cp1252", "--report", str(report))
    taken = await script(*words, *more, env=env)
    out, err = await taken.communicate()
    assert taken.returncode == 0, err.decode()
    assert "1 rows cannot be read and are left out:" in out.decode()
    assert "line 4: wrong_number_of_cells: 3 cells where the header has 12" in out.decode()
    assert "All others are imported." in out.decode()
    assert '"line":4' in report.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes there")
def test_a_long_log_takes_no_more_memory_than_a_short_one(tmp_path):
    """Rows are gathered on disk."""
    peaks = [_peak_bytes(tmp_path, rows) for rows in (2_000, 120_000)]
    assert (
        peaks[1] - peaks[0] < 12 * 2**20
    )  # the rows alone have 14 MB, and ten times that in memory


def _peak_bytes(tmp_path, rows):
    header, first, *_ = CASES.splitlines()
    path = tmp_path / f"{rows}.csv"
    with path.open("w") as log:
        log.write(header + "\n")
        for n in range(rows):
            log.write(f"T{n % (rows // 5)}" + first[1:] + "\n")
    code = (
        "import resource, sys; from pathlib import Path; from scripts.import_log import *;"
        "tally = Tally(); found = read(FORMATS['helpdesk'], Path(sys.argv[1]), tally);"
        "n = sum(len(h.steps) for h in found);"
        "print(tally.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
    )
    words = [sys.executable, "-c", code, str(path)]
    out = subprocess.run(words, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    read_, peak = map(int, out.split())
    assert read_ == rows
    return peak


ROOT = Path(__file__).parents[2]
