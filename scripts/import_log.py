"""Import a real ticket log: every row becomes commands that are decided like everyone else's.

Nothing is forced in. What the domain refuses and what a row does not say is counted by kind and,
with --report, listed one by one. What groups, fields and promises the desk had at the time is not
known, so all is decided for a desk without any. Every command carries a key made from its row, so
running the same import again, or after it was interrupted, adds only what is missing.
"""

import argparse
import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import orjson
from rich.table import Table

from api.handle import (
    Handler,
    KeyReused,
    Submission,
    VersionMismatch,
    id_of_follow_up,
    new_ticket_id,
)
from api.settings import Settings
from api.streams import Stream
from domain.commands import verb
from domain.decisions import UNBOUNDED, Context, decide
from domain.errors import Refusal
from domain.events import Actor
from eventstore.driver import Database
from eventstore.envelope import fingerprint
from eventstore.store import EventStore
from projections import tickets
from projections.generations import Generations
from scripts import logs
from scripts.catch_up import caught_up, projecting
from scripts.console import UsageError, database, fail, progress, run, screen
from scripts.logs import Finding, Format, History, Row, Step, helpdesk, servicenow

FORMATS = {format_.name: format_ for format_ in (servicenow.FORMAT, helpdesk.FORMAT)}
_AT_ONCE = 32
_SHOWN = 10

_IMPORTER = Actor("import", "system")
_DECIDES_STATUS = frozenset({"resolve", "close"})


class Reported(NamedTuple):
    """A finding about a ticket, as the report lists it."""

    ticket: str
    line: int
    kind: str
    detail: str


@dataclass(slots=True)
class Tally:
    """What has come of an import so far."""

    rows: int = 0
    silent_rows: int = 0
    tickets: int = 0
    events: int = 0
    accepted: int = 0
    already_there: int = 0
    unchanged: Counter[str] = field(default_factory=Counter)
    not_taken: list[Reported] = field(default_factory=list)
    """Refused commands and rejected rows."""
    assumed: list[Reported] = field(default_factory=list)
    repeats: list[Reported] = field(default_factory=list)
    """Resolved or closed once more, which changes nothing here: a reason for a count to differ."""
    differing: list[Reported] = field(default_factory=list)


def interpret(format_: Format, rows: Iterator[Row | Finding], tally: Tally) -> list[History]:
    """Gather rows by ticket, keeping the order of both, and turn them into commands."""
    by_ticket: dict[str, list[Row]] = {}
    for row in rows:
        tally.rows += 1
        if isinstance(row, Finding):
            tally.not_taken.append(Reported("", *row))
            continue
        mine = by_ticket.setdefault(row.cells[format_.number], [])
        digest = fingerprint(row.cells)[:16]
        nth = sum(other.name.startswith(digest) for other in mine)
        mine.append(Row(row.line, row.cells, f"{digest}.{nth}"))
    histories = [format_.interpret(number, mine) for number, mine in by_ticket.items()]
    for history in histories:
        tally.silent_rows += history.silent_rows
        tally.not_taken += [Reported(history.number, *finding) for finding in history.rejected]
        tally.assumed += [Reported(history.number, *finding) for finding in history.assumed]
    return histories


class Importer:
    """Runs histories through the handler, each ticket's commands in order."""

    def __init__(self, format_: Format, store: EventStore, tally: Tally) -> None:
        self._format = format_
        self._store = store
        self._handler = Handler(store, most=UNBOUNDED)  # all of it has happened
        self._tally = tally
        self._keys: dict[str, str] = {}
        self.ticket_ids: dict[str, UUID] = {}

    async def run(self, history: History) -> None:
        """Bring one ticket about, or what is missing of it.

        A command that is in the stream already is passed over; one that is not, but stands before
        one that is, was refused or changed nothing the first time, and is decided again from what
        the ticket was then, so that it is reported the same and cannot take effect now. New ones
        are appended behind exactly the version they were decided on. A ticket that someone else has
        changed since is theirs: what is still missing is reported, not mixed in.
        """
        if not history.steps:
            return
        ticket_id = new_ticket_id(_IMPORTER, f"{self._format.name}:{history.number}")
        self.ticket_ids[history.number] = ticket_id
        self._tally.tickets += 1
        past = await self._store.load(ticket_id)
        # Keyed, for keys of commands are stored plainly: a row can be guessed by who knows a name.
        for step in history.steps:
            digest = await self._store.vault.known_by(step.key)
            self._keys[step.key] = f"{self._format.name}:{digest.hex()[:32]}"
        keys = {self._key(step) for step in history.steps}
        foreign = next((e.version for e in past if e.metadata.command.id not in keys), None)
        done = {e.metadata.command.id: e.version for e in past}
        last = max((done.get(key, 0) for key in keys), default=0)
        stream = Stream(ticket_id)
        for step in history.steps:
            version = done.get(self._key(step))
            if version is not None:
                stream.extend(past[stream.head.version : version])
                self._tally.already_there += 1
                continue
            try:
                context = Context(
                    now=step.at,
                    actor=step.actor,
                    ticket_id=ticket_id,
                    follow_up_id=id_of_follow_up(ticket_id, step.actor, self._key(step)),
                )
                if not decide(stream.ticket, step.command, context).events:
                    self._unchanged(history, step)
                elif stream.head.version < last:
                    self._note(history, step, "too_late", "later rows were imported already")
                elif foreign is not None:
                    self._note(history, step, "changed_by_others", f"since version {foreign}")
                else:
                    await self._submit(stream, step)
            except (VersionMismatch, KeyReused):
                self._note(history, step, "changed_by_others", "while it was imported")
            except Refusal as refusal:
                self._note(history, step, refusal.code, refusal.detail)

    async def _submit(self, stream: Stream, step: Step) -> None:
        version = stream.head.version
        submission = Submission(
            command=step.command,
            actor=step.actor,
            key=self._key(step),
            occurred_at=step.at,
            expected_version=version,
        )
        outcome = await self._handler.handle(stream.ticket_id, submission)
        # Up to this command's events and no further: another import may be ahead of this one.
        limit = outcome.version - version
        stream.extend(await self._store.load(stream.ticket_id, after=version, limit=limit))
        if outcome.replayed:
            self._tally.already_there += 1
        else:
            self._tally.accepted += 1
            self._tally.events += len(outcome.events)

    def _note(self, history: History, step: Step, code: str, detail: str) -> None:
        kind = f"{verb(type(step.command))}: {code}"
        self._tally.not_taken.append(Reported(history.number, step.line, kind, detail))

    def _unchanged(self, history: History, step: Step) -> None:
        word = verb(type(step.command))
        self._tally.unchanged[word] += 1
        if word in _DECIDES_STATUS:
            again = Reported(history.number, step.line, f"{word}: unchanged", "happened already")
            self._tally.repeats.append(again)

    def _key(self, step: Step) -> str:
        return self._keys[step.key]


async def import_histories(
    format_: Format, store: EventStore, histories: Sequence[History], tally: Tally
) -> dict[str, UUID]:
    """Run all histories, some at once, with a progress bar; give the tickets' ids by number."""
    importer = Importer(format_, store, tally)
    waiting = iter(histories)
    with progress() as bar:
        task = bar.add_task("importing", total=len(histories), rate="")

        async def work() -> None:
            for history in waiting:
                await importer.run(history)
                bar.advance(task)
                bar.update(task, rate=f"{tally.events} events")

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_AT_ONCE):
                    group.create_task(work())
        except ExceptionGroup as failures:  # one is enough to say why
            raise failures.exceptions[0] from failures
    return importer.ticket_ids


async def check(
    format_: Format, expected: Path, db: Database, ids: dict[str, UUID], tally: Tally
) -> bool:
    """Compare the views with a table of expected results; say whether all differences are known."""
    reads = (await Generations(db).shown()).collection(tickets.COLLECTION)
    known: dict[str, list[Reported]] = {}
    for entry in sorted((*tally.not_taken, *tally.repeats)):
        known.setdefault(entry.ticket, []).append(entry)
    equal = 0
    unexplained = 0
    for row in logs.read_rows(expected):
        if isinstance(row, Finding):
            raise UsageError(f"{expected}, line {row.line}: {row.detail}")
        number = row.cells[format_.expected_number]
        document = await reads.find_one({"_id": ids[number]}) if number in ids else None
        read = None if document is None else tickets.from_document(document)
        try:
            differences = (
                {"ticket": "not there"} if read is None else format_.compare(row.cells, read)
            )
        except ValueError as error:
            raise UsageError(f"{expected}, line {row.line}: {error}") from error
        if not differences:
            equal += 1
            continue
        reasons = [
            entry
            for entry in known.get(number, [])
            if any(_explains(format_, entry, point) for point in differences)
        ]
        unexplained += not all(
            any(_explains(format_, entry, point) for entry in reasons) for point in differences
        )
        said = "; ".join(f"{point}: {how}" for point, how in differences.items())
        reason = ", ".join(f"line {entry.line}: {entry.kind}" for entry in reasons)
        what = f"{said} ({reason or 'no reason known'})"
        tally.differing.append(Reported(number, row.line, "differs", what))
    explained = len(tally.differing) - unexplained
    print(
        f"Against {expected.name}: {equal} tickets are equal; {explained} differ for a reason that "
        f"is reported; {unexplained} differ without one."
    )
    for entry in tally.differing[:_SHOWN]:
        print(f"  {entry.ticket}: {entry.detail}")
    if len(tally.differing) > _SHOWN:
        print(f"  ... and {len(tally.differing) - _SHOWN} more: --report FILE lists them all")
    return unexplained == 0


def _explains(format_: Format, entry: Reported, point: str) -> bool:
    """Say whether a finding can be why a ticket differs in a point."""
    word, _, code = entry.kind.partition(": ")
    row_is_unreadable = not code
    return row_is_unreadable or word in format_.deciders.get(point, ())


def summarise(tally: Tally) -> Table:
    """Show what came of the import."""
    table = Table("what", "kind", "count", title="Import")
    table.columns[-1].justify = "right"
    for what, n in (
        ("rows read", tally.rows),
        ("tickets", tally.tickets),
        ("commands accepted", tally.accepted),
        ("commands already there", tally.already_there),
        ("events added", tally.events),
        ("rows with nothing new", tally.silent_rows),
    ):
        table.add_row(what, "", str(n))
    for what, kinds in (
        ("changed nothing", tally.unchanged),
        ("not taken", Counter(entry.kind for entry in tally.not_taken)),
        ("assumed", Counter(entry.kind for entry in tally.assumed)),
    ):
        for kind, n in kinds.most_common():
            table.add_row(what, kind, str(n))
    rows = len({(entry.ticket, entry.line) for entry in tally.not_taken})
    share = 100 * rows / tally.rows if tally.rows else 0.0
    table.add_row("rows not taken, or in part", "", f"{rows} ({share:.2f} %)")
    return table


def write_report(path: Path, tally: Tally) -> None:
    """List every finding, one JSON object a line. Raises UsageError."""
    lines = [
        orjson.dumps({"what": what, **entry._asdict()}) + b"\n"
        for what, entries in (
            ("not taken", tally.not_taken),
            ("changed nothing", tally.repeats),
            ("assumed", tally.assumed),
            ("differs", tally.differing),
        )
        for entry in sorted(entries)
    ]
    try:
        path.write_bytes(b"".join(lines))
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error}") from error


async def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.import_log", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("format", choices=sorted(FORMATS))
    parser.add_argument("file", type=Path, help="a csv file; .xz and .gz are unpacked")
    parser.add_argument("--report", type=Path, metavar="FILE", help="list all findings there")
    parser.add_argument(
        "--check", type=Path, metavar="EXPECTED", help="compare with a table of expected results"
    )
    options = parser.parse_args()
    format_ = FORMATS[options.format]
    tally = Tally()
    histories = read(format_, options.file, tally)
    if options.check is not None:
        _require_columns(options.check, format_.expected_columns)
    if options.report is not None:
        write_report(options.report, tally)  # now, and not only after all the work

    async with database(Settings.from_environment()) as db:
        ids = await import_into(db, format_, histories, tally)
        screen.print(summarise(tally))
        as_expected = options.check is None or await check(format_, options.check, db, ids, tally)
    if options.report is not None:
        write_report(options.report, tally)
    if not as_expected:
        fail("some tickets differ without a reason")
    return 0 if as_expected else 1


def read(format_: Format, path: Path, tally: Tally) -> list[History]:
    """Read a log and turn its rows into commands. Raises UsageError, UnreadableLog."""
    _require_columns(path, format_.columns)
    return interpret(format_, logs.read_rows(path), tally)


async def import_into(
    db: Database, format_: Format, histories: Sequence[History], tally: Tally
) -> dict[str, UUID]:
    """Import into a database, bring its views up to date, give the tickets' ids by number."""
    store = EventStore(db)
    await store.prepare()
    await Generations(db).prepare()
    async with projecting(db, store):
        ids = await import_histories(format_, store, histories, tally)
        await caught_up(db, store, "projecting")
    return ids


def _require_columns(path: Path, needed: frozenset[str]) -> None:
    missing = needed - logs.read_header(path)
    if missing:
        raise UsageError(f"{path} lacks the columns: {', '.join(sorted(missing))}")


if __name__ == "__main__":
    run(main)
