"""Import a real ticket log: every row becomes commands that are decided like everyone else's.

Nothing is forced in. What the domain refuses and what a row does not say is counted by kind and,
with --report, listed one by one. What groups, fields and promises the desk had at the time is not
known, so all is decided for a desk without any. Every command carries a key made from its row, so
running the same import again, or after it was interrupted, adds only what is missing.
"""

import argparse
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from uuid import UUID

from api.commands.handler import (
    Handler,
    KeyReused,
    Submission,
    VersionMismatch,
    id_of_follow_up,
    new_ticket_id,
)
from api.commands.ticket_cache import Stream
from domain.actors import Actor
from domain.errors import HistoryError, Refusal
from domain.tickets.command import UNBOUNDED, Context, decide
from eventstore.background import run_all
from eventstore.database import Database
from eventstore.log import EventStore
from projections.generations import Generations
from projections.views import tickets
from scripts.catch_up import caught_up, projecting
from scripts.cli import UsageError, counting, database, screen, start
from scripts.commands import fail
from scripts.import_formats import Finding, Format, History, Row, Step, helpdesk, servicenow
from scripts.import_formats.rows_by_ticket import Gathered
from scripts.import_formats.table import read_rows, require_columns
from scripts.import_formats.tally import Reported, Tally, summarise, write_report

FORMATS = {format_.name: format_ for format_ in (servicenow.FORMAT, helpdesk.FORMAT)}
_AT_ONCE = 32
_SHOWN = 10

_IMPORTER = Actor("import", "system")
_DECIDES_STATUS = frozenset({"resolve", "close"})

Histories = Gathered | Sequence[History]
"""Tickets' histories, as often as they are iterated."""


def id_of(format_: Format, number: str) -> UUID:
    """Return the id of an imported ticket."""
    return new_ticket_id(_IMPORTER, f"{format_.name}:{number}")


class Importer:
    """Runs histories through the handler, each ticket's commands in order."""

    def __init__(self, format_: Format, store: EventStore, tally: Tally) -> None:
        self._format = format_
        self._store = store
        self._handler = Handler(store, most=UNBOUNDED)  # all of it has happened
        self._tally = tally

    async def run(self, history: History) -> None:
        """Bring one ticket about, or what is missing of it.

        A command that is in the stream already is passed over; one that is not, but stands before
        one that is, was refused or changed nothing the first time, and is decided again from what
        the ticket was then, so that it is reported the same and cannot take effect now. New ones
        are appended behind exactly the version they were decided on. A ticket that someone else has
        changed since is theirs: what is still missing is reported, not mixed in.
        """
        self._tally.interpreted(history)
        if not history.steps:
            return
        self._tally.tickets += 1
        try:
            await self._bring_about(history)
        except HistoryError as error:  # which costs this ticket only
            finding = Finding(history.steps[0].line, error.code, error.detail)
            self._tally.note("not taken", history.number, finding)

    async def _bring_about(self, history: History) -> None:
        ticket_id = id_of(self._format, history.number)
        past = await self._store.load(ticket_id)
        # Keyed, for keys of commands are stored plainly: a row can be guessed by who knows a name.
        keys: dict[str, str] = {}
        for step in history.steps:
            digest = await self._store.vault.known_by(step.key)
            keys[step.key] = f"{self._format.name}:{digest.hex()[:32]}"
        ours = set(keys.values())
        foreign = next((e.version for e in past if e.metadata.command.id not in ours), None)
        done = {e.metadata.command.id: e.version for e in past}
        last = max((done.get(key, 0) for key in ours), default=0)
        stream = Stream(ticket_id)
        for step in history.steps:
            key = keys[step.key]
            version = done.get(key)
            if version is not None:
                stream.extend(past[stream.head.version : version])
                self._tally.already_there += 1
                continue
            try:
                context = Context(
                    now=step.at,
                    actor=step.actor,
                    ticket_id=ticket_id,
                    follow_up_id=id_of_follow_up(ticket_id, step.actor, key),
                )
                if not decide(stream.ticket, step.command, context).events:
                    self._unchanged(history, step)
                elif stream.head.version < last:
                    self._note(history, step, "too_late", "later rows were imported already")
                elif foreign is not None:
                    self._note(history, step, "changed_by_others", f"since version {foreign}")
                else:
                    await self._submit(stream, step, key)
            except (VersionMismatch, KeyReused):
                self._note(history, step, "changed_by_others", "while it was imported")
            except Refusal as refusal:
                self._note(history, step, refusal.code, refusal.detail)

    async def _submit(self, stream: Stream, step: Step, key: str) -> None:
        version = stream.head.version
        submission = Submission(
            command=step.command,
            actor=step.actor,
            key=key,
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
        kind = f"{step.command.verb}: {code}"
        self._tally.note("not taken", history.number, Finding(step.line, kind, detail))

    def _unchanged(self, history: History, step: Step) -> None:
        verb = step.command.verb
        self._tally.unchanged[verb] += 1
        if verb in _DECIDES_STATUS:
            again = Finding(step.line, f"{verb}: unchanged", "happened already")
            self._tally.note("changed nothing", history.number, again)


async def import_histories(
    format_: Format, store: EventStore, histories: Histories, tally: Tally
) -> None:
    """Run all histories, some at once, with a progress bar."""
    importer = Importer(format_, store, tally)
    waiting = iter(histories)
    with counting("importing", len(histories), "tickets") as count:

        async def work() -> None:
            for history in waiting:
                await importer.run(history)
                count()

        await run_all(*(work() for _ in range(_AT_ONCE)))


async def check(format_: Format, expected: Path, db: Database, tally: Tally) -> bool:
    """Compare the views with a table of expected results; say whether all differences are known."""
    reads = (await Generations(db).shown()).collection(tickets.COLLECTION)
    equal = unexplained = 0
    for row in read_rows(expected, format_.expected_columns):
        if isinstance(row, Finding):
            raise UsageError(f"{expected}, line {row.line}: {row.detail}")
        number = row.cells[format_.expected_number]
        document = await reads.find_one({"_id": id_of(format_, number)})
        read = document and tickets.from_document(document)
        try:
            differences = format_.compare(row.cells, read) if read else {"ticket": "not there"}
        except ValueError as error:
            raise UsageError(f"{expected}, line {row.line}: {error}") from error
        if not differences:
            equal += 1
            continue
        known = tally.about(number)
        reasons = {point: _reasons(format_, known, point) for point in differences}
        unexplained += not all(reasons.values())
        said = "; ".join(f"{point}: {how}" for point, how in differences.items())
        because = sorted(set().union(*reasons.values()))
        reason = ", ".join(f"line {entry.line}: {entry.kind}" for entry in because)
        what = f"{said} ({reason or 'no reason known'})"
        tally.note("differs", number, Finding(row.line, "differs", what))
    explained = tally.count("differs") - unexplained
    print(
        f"Against {expected.name}: {equal} tickets are equal; {explained} differ for a reason that "
        f"is reported; {unexplained} differ without one."
    )
    _show(
        (f"{each.ticket}: {each.detail}" for each in tally.all("differs")), tally.count("differs")
    )
    return unexplained == 0


def _reasons(format_: Format, known: Sequence[Reported], point: str) -> set[Reported]:
    """Return the findings that can be why a ticket differs in a point.

    They are rows that could not be read, and commands that decide the point.
    """
    deciders = format_.deciders.get(point, ())
    verbs = ((entry, *entry.kind.partition(": ")) for entry in known)
    return {entry for entry, verb, _, code in verbs if not code or verb in deciders}


def _show(lines: Iterator[str], count: int) -> None:
    for line in islice(lines, _SHOWN):
        print(f"  {line}")
    if count > _SHOWN:
        print(f"  ... and {count - _SHOWN} more: --report FILE lists them all")


def show_unread(tally: Tally) -> None:
    """Say which rows could not be read, and what becomes of the others."""
    unread = tally.about("")
    if unread:
        print(f"{len(unread)} rows cannot be read and are left out:")
        _show((f"line {each.line}: {each.kind}: {each.detail}" for each in unread), len(unread))
        print(
            "All others are imported. Mend these and import again: what is there is not repeated."
        )


async def main(options: argparse.Namespace) -> int:
    format_ = FORMATS[options.format]
    tally = Tally()
    if options.check is not None:
        require_columns(options.check, format_.expected_columns)
    histories = read(format_, options.file, tally, options.encoding)
    show_unread(tally)
    if options.report is not None:
        write_report(options.report, tally)  # now, and not only after all the work

    try:
        async with database() as db:
            await import_into(db, format_, histories, tally)
            screen.print(summarise(tally))
            as_expected = options.check is None or await check(format_, options.check, db, tally)
    finally:
        if options.report is not None:
            write_report(options.report, tally)
    if not as_expected:
        fail("some tickets differ without a reason")
    return 0 if as_expected else 1


def read(format_: Format, path: Path, tally: Tally, encoding: str | None = None) -> Gathered:
    """Read a log and gather its rows by ticket. Raises UnreadableLog."""

    def rows() -> Iterator[Row]:
        for row in read_rows(path, format_.columns, encoding):
            tally.rows += 1
            if isinstance(row, Finding):
                tally.note("not taken", "", row)
            elif not row.cells[format_.number].strip():
                empty = f"the column {format_.number} is empty"
                tally.note("not taken", "", Finding(row.line, "no_ticket", empty))
            else:
                yield row

    return Gathered(format_, rows())


async def import_into(db: Database, format_: Format, histories: Histories, tally: Tally) -> None:
    """Import into a database, and bring its views up to date."""
    store = EventStore(db)
    await store.prepare()
    await Generations(db).prepare()
    async with projecting(db, store):
        await import_histories(format_, store, histories, tally)
        await caught_up(db, store, "projecting")


if __name__ == "__main__":
    start("import", main)
