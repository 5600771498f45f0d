"""Compared with `eventsourcing`, the event sourcing library for Python: on SQLite, and where its
programs are on the path on PostgreSQL too.

All in one process, without HTTP. *Commits*: a note on tickets that have ten events at first, one
after the other, and from thirty-two tasks or threads at once, the event on disk. Each keeps the
tickets in memory: Casebook always does, the other with its aggregate cache. *Projected*: events
into one row or document for each ticket, exactly once, as each library's documentation would have
it: there one transaction for each event with its position, here a batch of them.
Casebook seals and chains what it writes, and keeps its dashboard; the other does neither.
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
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import InfrastructureFactory, Tracking, TrackingRecorder
from eventsourcing.sqlite import SQLiteTrackingRecorder
from eventsourcing.utils import Environment

from api.commands.handler import Handler
from eventstore.log import EventStore
from scripts.bench.found import Table, median, ratio
from scripts.bench.made_up_log import COMMAND, ticket_of
from scripts.bench.measuring import Options, in_turns, prepared
from scripts.bench.projections import fold_backlog
from scripts.testbed.harness import free_port
from scripts.testbed.services import NOTE
from scripts.testbed.wire import database_at

_EVENTS_EACH = 10
_TICKETS = 200
_AT_ONCE = 32
_BATCH = 500
_WAYS = {1: "commits/s, one after the other", _AT_ONCE: f"commits/s, {_AT_ONCE} at once"}
_PROJECTED = "events/s projected"
_OURS = "Casebook"
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


async def measure(url: str, options: Options) -> list[Table]:
    """Measure all in turn."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="casebook-bench-"))
        sqlite = {
            "PERSISTENCE_MODULE": "eventsourcing.sqlite",
            "SQLITE_DBNAME": f"{folder}/desk.db",
        }
        kinds = {"eventsourcing, SQLite": sqlite, **stack.enter_context(_postgres())}
        ways: dict[tuple[str, str], Callable[[], Awaitable[float]]] = {}
        for name, env in kinds.items():
            desk = NoteDesk(env={**env, "AGGREGATE_CACHE_MAXSIZE": "1000"})
            stack.callback(desk.close)
            theirs = [await asyncio.to_thread(desk.open) for _ in range(_TICKETS)]
            for at_once, what in _WAYS.items():
                ways[name, what] = partial(
                    asyncio.to_thread, _their_commits, desk, theirs, at_once, options.seconds
                )
            ways[name, _PROJECTED] = partial(
                asyncio.to_thread, _their_projecting, desk, env, options.seconds
            )
        async with prepared(database_at(url, "bench_peer")) as database:
            store = EventStore(database)
            handler = Handler(store)
            ours = [await ticket_of(store, handler, _EVENTS_EACH) for _ in range(_TICKETS)]
            for at_once, what in _WAYS.items():
                ways[_OURS, what] = partial(_commits, handler, ours, at_once, options.seconds)
            ways[_OURS, _PROJECTED] = partial(fold_backlog, url, was_there=False)
            found = await in_turns(ways, options.rounds, "peer")
    columns = [""]
    rows = [[name] for name in (_OURS, *kinds)]
    for what in (*_WAYS.values(), _PROJECTED):
        columns += [what, "Casebook is"]
        for row in rows:
            rates = found[row[0], what]
            row += [median(rates), ratio(found[_OURS, what], rates)]
    bars = {f"{name}: {what}": rates for (name, what), rates in found.items()}
    about = f"One-event commands on aggregates of {_EVENTS_EACH} events, and projecting"
    return [Table(about, columns, rows, "per second", bars)]


async def _commits(
    handler: Handler, tickets: Sequence[UUID], at_once: int, seconds: float
) -> float:
    count = 0
    began = time.perf_counter()

    async def one() -> None:
        nonlocal count
        while time.perf_counter() - began < seconds:
            await handler.handle(random.choice(tickets), COMMAND)  # noqa: S311
            count += 1

    await asyncio.gather(*(one() for _ in range(at_once)))
    return count / (time.perf_counter() - began)


def _their_commits(desk: NoteDesk, tickets: Sequence[UUID], at_once: int, seconds: float) -> float:
    began = time.perf_counter()

    def one(number: int) -> int:
        # Each thread has tickets of its own: of two on one ticket the second would be refused.
        mine = tickets[number::at_once]
        count = 0
        while time.perf_counter() - began < seconds:
            desk.add_note(random.choice(mine))  # noqa: S311
            count += 1
        return count

    with ThreadPoolExecutor(at_once) as threads:
        count = sum(threads.map(one, range(at_once)))
    return count / (time.perf_counter() - began)


def _their_projecting(desk: NoteDesk, env: Mapping[str, str], seconds: float) -> float:
    """Go on projecting from where it was last, for a while; return events/s."""
    view = _view(env)
    position = view.max_tracking_id(desk.name) or 0
    count = 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds and (
        some := desk.recorder.select_notifications(start=position + 1, limit=_BATCH)
    ):
        for notification in some:
            happened = desk.mapper.to_domain_event(notification)
            body = getattr(happened, "body", "")
            view.note(happened.originator_id, body, Tracking(desk.name, notification.id))
        position = some[-1].id
        count += len(some)
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
    factory = InfrastructureFactory[_View].construct(Environment("view", dict(env)))
    return factory.tracking_recorder(_SQLiteView if "SQLITE_DBNAME" in env else _postgres_view())


def _postgres_view() -> type[_View]:
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


@contextmanager
def _postgres() -> Iterator[dict[str, dict[str, str]]]:
    """Run PostgreSQL with its defaults on a free port; yields nothing where it is not at hand."""
    programs = shutil.which("initdb"), shutil.which("pg_ctl")
    try:
        _postgres_view()
    except ImportError:
        programs = None, None
    initdb, pg_ctl = programs
    if initdb is None or pg_ctl is None:
        yield {}
        return
    # It refuses to run as root.
    user = "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="casebook-bench-") as folder:

        def run(*words: str) -> None:
            null = subprocess.DEVNULL
            subprocess.run(words, check=True, user=user, cwd=folder, stdout=null, stderr=null)

        os.chmod(folder, 0o755)  # noqa: PTH101, S103
        data = f"{folder}/data"
        Path(data).mkdir(mode=0o700)
        shutil.chown(data, user)
        run(initdb, "-D", data, "-U", "bench", "--auth=trust")
        run(pg_ctl, "-D", data, "-w", "-o", f"-p {port} -h 127.0.0.1 -k {data}", "start")
        try:
            yield {
                "eventsourcing, PostgreSQL": {
                    "PERSISTENCE_MODULE": "eventsourcing.postgres",
                    "POSTGRES_DBNAME": "postgres",
                    "POSTGRES_HOST": "127.0.0.1",
                    "POSTGRES_PORT": str(port),
                    "POSTGRES_USER": "bench",
                    "POSTGRES_PASSWORD": "bench",
                    "POSTGRES_MAX_OVERFLOW": str(_AT_ONCE),
                }
            }
        finally:
            run(pg_ctl, "-D", data, "-w", "-m", "fast", "stop")
