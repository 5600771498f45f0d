"""Beside `eventsourcing`, the event sourcing library for Python: on SQLite, and on PostgreSQL too
where its programs are on the path.

All in one process, without HTTP. *Commits*: a note on tickets that have ten events at first, one
after the other, and from thirty-two tasks or threads at once, the event on disk. Each keeps the
tickets in memory: Casebook always does, the other with its aggregate cache. *Projected*: events
into one row or document for each ticket, exactly once, as each library's documentation would have
it: there one transaction for each event with its position, here a batch of them; Casebook's is
measured after the rest. Casebook seals and chains what it writes, and keeps its dashboard; the
other does neither.
"""

import asyncio
import os
import pwd
import random
import shutil
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import InfrastructureFactory, Tracking, TrackingRecorder
from eventsourcing.sqlite import SQLiteTrackingRecorder
from eventsourcing.utils import Environment

from api.commands.handler import Handler, Submission
from domain.tickets.conversation import AddNote
from eventstore.database import Database
from eventstore.log import EventStore
from scripts.bench.found import Table, ratio, told
from scripts.bench.growth import ticket_of
from scripts.bench.measuring import median, prepared, turns
from scripts.bench.projections import fold_backlogs
from scripts.console import UsageError
from scripts.testbed.promises import free_port
from scripts.testbed.services import ACTOR, NOTE, database_at

_EVENTS_EACH = 10
_TICKETS = 200
_AT_ONCE = 32
_BATCH = 500
_COMMAND = Submission(command=AddNote(body=NOTE), actor=ACTOR)
_WAYS = {1: "commits/s, one after the other", _AT_ONCE: f"commits/s, {_AT_ONCE} at once"}
_PROJECTED = "events/s projected"
_TABLE = (
    "CREATE TABLE IF NOT EXISTS ticket_reads "
    "(id TEXT PRIMARY KEY, notes INTEGER NOT NULL, preview TEXT NOT NULL)"
)
_UPSERT = (
    "INSERT INTO ticket_reads VALUES (%s, 1, %s) ON CONFLICT (id) "
    "DO UPDATE SET notes = ticket_reads.notes + 1, preview = excluded.preview"
)


class Noted(Aggregate):
    """A ticket, as that library's documentation would write it."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.notes = 0
        self.preview = ""

    @event("NoteAdded")
    def add_note(self, body: str) -> None:
        self.notes += 1
        self.preview = body[:50]


class NoteDesk(Application[UUID]):
    """Its commands."""

    def open(self) -> UUID:
        ticket = Noted("Bench")
        for _ in range(_EVENTS_EACH - 1):
            ticket.add_note(NOTE)
        self.save(ticket)
        return ticket.id

    def add_note(self, ticket_id: UUID) -> None:
        ticket: Noted = self.repository.get(ticket_id)
        ticket.add_note(NOTE)
        self.save(ticket)


async def peer(url: str, rounds: int, seconds: float) -> list[Table]:
    """Measure all in turn."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="casebook-bench-") as folder, _postgres() as postgres:
        kinds = {"eventsourcing, SQLite": _sqlite(Path(folder))}
        if postgres is not None:
            kinds["eventsourcing, PostgreSQL"] = postgres
        async with prepared(database_at(url, "peer")) as database:
            await _all(database, kinds, rounds, seconds, found)
    projected, _ = await fold_backlogs(url, rounds, receiving=False)
    found["Casebook", _PROJECTED] = projected
    names = ["Casebook", *kinds]
    whats = [*_WAYS.values(), _PROJECTED]
    rows = [
        [
            name,
            *(
                text
                for what in whats
                for text in (
                    median(found[name, what]),
                    told(ratio(found["Casebook", what], found[name, what])),
                )
            ),
        ]
        for name in names
    ]
    columns = [""]
    for what in whats:
        columns += [what, "Casebook is"]
    bars = {f"{name}: {what}": rates for (name, what), rates in found.items()}
    about = f"One-event commands on aggregates of {_EVENTS_EACH} events, and projecting"
    return [Table(about, columns, rows, "per second", bars)]


async def _all(
    database: Database,
    kinds: Mapping[str, Mapping[str, str]],
    rounds: int,
    seconds: float,
    found: dict[tuple[str, str], list[float]],
) -> None:
    handler = Handler(EventStore(database))
    ours = [await ticket_of(EventStore(database), handler, _EVENTS_EACH) for _ in range(_TICKETS)]
    desks = {
        name: NoteDesk(env={**env, "AGGREGATE_CACHE_MAXSIZE": "1000"})
        for name, env in kinds.items()
    }
    theirs = {
        name: [await asyncio.to_thread(desk.open) for _ in range(_TICKETS)]
        for name, desk in desks.items()
    }

    async def commits(name: str, at_once: int) -> float:
        if name == "Casebook":
            return await _commits(handler, ours, at_once, seconds)
        return await asyncio.to_thread(_their_commits, desks[name], theirs[name], at_once, seconds)

    ways = [*product(["Casebook", *desks], _WAYS.values()), *product(desks, [_PROJECTED])]
    at_once = {way: count for count, way in _WAYS.items()}
    for (name, way), is_counted in turns(ways, rounds, "peer"):
        if way == _PROJECTED:
            rate = await asyncio.to_thread(_their_projecting, desks[name], kinds[name], seconds)
        else:
            rate = await commits(name, at_once[way])
        if is_counted:
            found[name, way].append(rate)
    for desk in desks.values():
        desk.close()


async def _commits(
    handler: Handler, tickets: Sequence[UUID], at_once: int, seconds: float
) -> float:
    count = 0
    began = time.perf_counter()

    async def one() -> None:
        nonlocal count
        while time.perf_counter() - began < seconds:
            await handler.handle(random.choice(tickets), _COMMAND)  # noqa: S311
            count += 1

    await asyncio.gather(*(one() for _ in range(at_once)))
    return count / (time.perf_counter() - began)


def _their_commits(desk: NoteDesk, tickets: Sequence[UUID], at_once: int, seconds: float) -> float:
    began = time.perf_counter()

    def one(number: int) -> int:
        # Each thread has tickets of its own: who is second there is refused, and would try again.
        mine = tickets[number::at_once]
        count = 0
        while time.perf_counter() - began < seconds:
            desk.add_note(random.choice(mine))  # noqa: S311
            count += 1
        return count

    if at_once == 1:
        return one(0) / (time.perf_counter() - began)
    with ThreadPoolExecutor(at_once) as threads:
        count = sum(threads.map(one, range(at_once)))
    return count / (time.perf_counter() - began)


def _their_projecting(desk: NoteDesk, env: Mapping[str, str], seconds: float) -> float:
    """Go on projecting from where it was last, for a while; return events/s."""
    view = _view(env)
    position = view.max_tracking_id(desk.name) or 0
    count = 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        some = desk.recorder.select_notifications(start=position + 1, limit=_BATCH)
        if not some:
            break
        for notification in some:
            happened = desk.mapper.to_domain_event(notification)
            body = getattr(happened, "body", "")
            view.note(happened.originator_id, body, Tracking(desk.name, notification.id))
            position = notification.id
            count += 1
            if time.perf_counter() - began >= seconds:
                break
    return count / (time.perf_counter() - began)


class _View(TrackingRecorder, ABC):
    """What is kept of each ticket, with the position of the last event that is in it."""

    @abstractmethod
    def note(self, ticket_id: UUID, body: str, tracking: Tracking) -> None: ...


class _SQLiteView(SQLiteTrackingRecorder, _View):
    def construct_create_table_statements(self) -> list[str]:
        return [*super().construct_create_table_statements(), _TABLE]

    def note(self, ticket_id: UUID, body: str, tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(_UPSERT.replace("%s", "?"), (str(ticket_id), body[:50]))


def _view(env: Mapping[str, str]) -> _View:
    factory = InfrastructureFactory[TrackingRecorder].construct(Environment("view", dict(env)))
    view: object = factory.tracking_recorder(
        _SQLiteView if "SQLITE_DBNAME" in env else _postgres_view()
    )
    if not isinstance(view, _View):
        raise TypeError("the factory makes what it is told to")
    return view


def _postgres_view() -> type[TrackingRecorder]:
    # Here, because it needs PostgreSQL's client library, which not every machine has.
    from eventsourcing.postgres import PostgresTrackingRecorder  # noqa: PLC0415
    from psycopg.sql import SQL  # noqa: PLC0415

    class PostgresView(PostgresTrackingRecorder, _View):
        def create_table(self) -> None:
            super().create_table()
            with self.datastore.transaction(commit=True) as cursor:
                cursor.execute(SQL(_TABLE))

        def note(self, ticket_id: UUID, body: str, tracking: Tracking) -> None:
            with self.datastore.transaction(commit=True) as cursor:
                self._insert_tracking(cursor, tracking)
                cursor.execute(SQL(_UPSERT), (str(ticket_id), body[:50]))

    return PostgresView


def _sqlite(folder: Path) -> dict[str, str]:
    return {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(folder / "desk.db")}


@contextmanager
def _postgres() -> Iterator[dict[str, str] | None]:
    """Run PostgreSQL with its defaults on a free port; None where it is not at hand."""
    initdb, server = shutil.which("initdb"), shutil.which("postgres")
    try:
        _postgres_view()
    except ImportError:
        initdb = None
    if initdb is None or server is None:
        yield None
        return
    # It refuses to run as root.
    user = "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    with tempfile.TemporaryDirectory(prefix="casebook-bench-") as folder:
        os.chmod(folder, 0o755)  # noqa: PTH101, S103
        data = Path(folder) / "data"
        data.mkdir(mode=0o700)
        shutil.chown(data, user)
        null = subprocess.DEVNULL
        words = [initdb, "-D", str(data), "-U", "bench", "--auth=trust"]
        subprocess.run(words, check=True, user=user, cwd=folder, stdout=null, stderr=null)
        port = free_port()
        words = [server, "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(data)]
        with subprocess.Popen(words, user=user, cwd=folder, stdout=null, stderr=null) as running:
            try:
                _await_postgres(port)
                yield {
                    "PERSISTENCE_MODULE": "eventsourcing.postgres",
                    "POSTGRES_DBNAME": "postgres",
                    "POSTGRES_HOST": "127.0.0.1",
                    "POSTGRES_PORT": str(port),
                    "POSTGRES_USER": "bench",
                    "POSTGRES_PASSWORD": "bench",
                    "POSTGRES_MAX_OVERFLOW": str(_AT_ONCE),
                }
            finally:
                running.terminate()


def _await_postgres(port: int) -> None:
    import psycopg  # noqa: PLC0415

    for _ in range(100):
        with suppress(psycopg.OperationalError):
            psycopg.connect(host="127.0.0.1", port=port, user="bench", dbname="postgres").close()
            return
        time.sleep(0.1)
    raise UsageError("PostgreSQL does not come up")
