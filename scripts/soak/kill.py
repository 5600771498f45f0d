"""Kill -9 at bad moments, under clients that keep a ledger (L3, L5)."""

import asyncio
import os
import random
import signal
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast
from uuid import uuid4

import uvicorn

from api.app import access_by, create_app
from api.commands import routes as commands
from api.commands.handler import Outcome
from api.settings import Settings
from domain.values import JsonObject
from eventstore.event_document import Envelope
from eventstore.log import EventStore
from eventstore.mongo.driver import connect
from scripts.console import progress
from scripts.load import Answer, Connection
from scripts.soak.patience import patience
from scripts.soak.promises import (
    HEADERS,
    OPEN,
    READY_SECONDS,
    free_port,
    let_in,
    process,
    ready,
    require,
    streams,
)
from scripts.soak.views import Check, audited, caught_up

# A transaction whose process was killed holds its ticket until the database ends it, which takes a
# minute by default; until then that ticket's commands are answered 503.
_RETRY_SECONDS = 180

Point = Literal["random", "before_insert", "after_insert", "before_answer"]
POINTS: tuple[Point, ...] = ("random", "before_insert", "after_insert", "before_answer")


@dataclass(slots=True)
class Sent:
    """A command in the ledger: what was sent, and what is known to have come of it."""

    path: str
    key: str
    content: dict[str, str]
    headers: dict[str, str] = field(default_factory=dict)
    answer: Answer | None = None
    """None: unknown."""

    def events(self) -> int:
        """Give how many events it must have in the log."""
        if self.answer is None or self.answer.status != 200:
            return 0
        return len(cast("list[object]", self.answer.json()["events"]))


@dataclass(slots=True)
class Ledger:
    """What clients know. Kept outside of the server, so that it survives it."""

    sent: list[Sent] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)
    answers: int = 0

    def unknown(self) -> list[Sent]:
        return [sent for sent in self.sent if sent.answer is None]

    async def grown_by(self, answers: int, clients: Sequence[asyncio.Task[None]]) -> None:
        """Wait until clients have been answered so often, however quick the machine is."""
        wanted = self.answers + answers
        while self.answers < wanted and any(not each.done() for each in clients):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def command(ticket: str) -> Sent:
    """Make a command at random: of one event, of two, or one that must be refused."""
    key = uuid4().hex
    kind = random.choices(  # noqa: S311 not for secrets
        ["add_note", "assign", "move_to_group", "empty", "stale", "not_resolved"],
        weights=[5, 2, 3, 1, 1, 1],
    )[0]
    base = f"/tickets/{ticket}"
    match kind:
        case "assign":
            return Sent(f"{base}/assign", key, {"assignee": key})
        case "move_to_group":  # takes the assignee off as well: two events, all or none (L4)
            return Sent(f"{base}/move_to_group", key, {"group": key})
        case "empty":
            return Sent(f"{base}/add_note", key, {"body": ""})
        case "stale":
            return Sent(f"{base}/add_note", key, {"body": key}, {"If-Match": '"999999999"'})
        case "not_resolved":
            return Sent(f"{base}/reopen", key, {})
        case _:
            return Sent(f"{base}/add_note", key, {"body": key})


async def send(connection: Connection, sent: Sent) -> None:
    """Send a command; a 503 says no more about what happened than a lost connection does."""
    headers = {**sent.headers, "Idempotency-Key": sent.key}
    with suppress(ConnectionError):
        answer = await connection.post(sent.path, sent.content, headers)
        if answer.status != 503:
            sent.answer = answer


async def client(port: int, tickets: list[str], ledger: Ledger, stop: asyncio.Event) -> None:
    """Send commands one after the other until told to stop or the connection is lost."""
    async with Connection(port, HEADERS) as connection:
        while not stop.is_set():
            sent = command(random.choice(tickets))  # noqa: S311
            ledger.sent.append(sent)
            await send(connection, sent)
            if sent.answer is None:
                return
            ledger.answers += 1


async def open_tickets(port: int, count: int) -> list[str]:
    async with Connection(port, HEADERS) as connection:
        answers = [
            await connection.post("/tickets", OPEN.model_dump(mode="json")) for _ in range(count)
        ]
    return [str(answer.json()["ticket_id"]) for answer in answers]


async def check_acknowledged(store: EventStore, ledger: Ledger) -> None:
    """Compare the log with what was answered, before anything is sent again: once, or never."""
    times = await _times(store)
    for sent in ledger.sent:
        if sent.answer is not None:
            told = f"{sent}: {times[sent.key]} events in the log"
            require(times[sent.key] == sent.events(), told)


async def retry(port: int, ledger: Ledger) -> None:
    """Send again what is unknown, and some of what is known: that must be answered as before."""
    async with Connection(port, HEADERS) as connection:
        for sent in ledger.unknown():
            ledger.counted["unknown_then_retried"] += 1
            async with asyncio.timeout(patience(_RETRY_SECONDS)):
                while sent.answer is None:
                    await send(connection, sent)
        known = [sent for sent in ledger.sent if sent.events()]
        for sent in random.sample(known, min(5, len(known))):
            again = Sent(sent.path, sent.key, sent.content, sent.headers)
            await send(connection, again)
            require(again.answer == sent.answer, f"{sent}: answered otherwise: {again.answer}")
            ledger.counted["known_and_repeated"] += 1


async def settle(store: EventStore, ledger: Ledger) -> Counter[str]:
    """Compare the log with the whole ledger (L3, L4, L5). Raises PromiseBroken."""
    await check_acknowledged(store, ledger)
    for sent in ledger.sent:
        require(sent.answer is not None, f"{sent}: never answered")
        what = {0: "failed", 1: "ok"}.get(sent.events(), "ok_of_several_events")
        ledger.counted[what] += 1
    return ledger.counted


async def _times(store: EventStore) -> Counter[str]:
    found = await streams(store)
    return Counter(e.metadata.command.id for events in found.values() for e in events)


async def kill_api(url: str, rounds: int, clients: int = 8) -> Counter[str]:
    """Kill the API process in every round, at random or at a named point. Raises PromiseBroken."""
    database = connect(url)
    await let_in(url)
    ledger = Ledger()
    points: Counter[str] = Counter()
    with progress() as bar:
        task = bar.add_task("killing", total=rounds, rate="rounds")
        for round_ in range(rounds + 1):
            last = round_ == rounds
            point = "never" if last else POINTS[round_ % len(POINTS)]
            # Not before the retries and openings with which a round begins are through.
            port, nth = free_port(), random.randrange(2 * clients + 10, 70)  # noqa: S311
            async with process("scripts.soak", "_serve", url, str(port), point, str(nth)) as api:
                await ready(port)
                await check_acknowledged(EventStore(database), ledger)
                await retry(port, ledger)
                if last:
                    break
                tickets = await open_tickets(port, 3)
                stop = asyncio.Event()
                busy = [
                    asyncio.create_task(client(port, tickets, ledger, stop)) for _ in range(clients)
                ]
                if point == "random":
                    await ledger.grown_by(random.randrange(20, 200), busy)  # noqa: S311
                    api.kill()
                code = await asyncio.wait_for(api.wait(), patience(READY_SECONDS))
                require(code == -signal.SIGKILL, f"the API ended with {code}, and not by a kill")
                await asyncio.gather(*busy)
            points[f"killed_{point}"] += 1
            bar.advance(task)
    counted = await settle(EventStore(database), ledger)
    await database.close()
    return points + counted


async def serve_and_die(url: str, port: int, point: str, nth: int) -> int:
    """Serve until the nth command reaches a point, and die there as by kill -9."""
    reached = 0

    def reach(name: str) -> None:
        nonlocal reached
        if name == point:
            reached += 1
            if reached == nth:
                os.kill(os.getpid(), signal.SIGKILL)

    class Mortal(EventStore):
        async def append(self, events: "list[Envelope]") -> None:  # type: ignore[override]
            reach("before_insert")
            await super().append(events)
            reach("after_insert")

    telling = commands.told

    def told(outcome: Outcome) -> JsonObject:
        reach("before_answer")
        return telling(outcome)

    commands.told = told
    database = connect(url)
    access = access_by(database, Settings.from_environment())
    app = create_app(database, Mortal(database), access=access)
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, access_log=False)
    await uvicorn.Server(config).serve()
    return 0


async def kill_database(rounds: int, clients: int = 8, check: Check = audited) -> Counter[str]:
    """Kill the embedded database under load, while the API lives and projects.

    Raises PromiseBroken.
    """
    with tempfile.TemporaryDirectory(prefix="casebook-soak-") as folder:
        port = free_port()
        settings = {"CASEBOOK_DATA_DIR": folder, "CASEBOOK_PORT": str(port)}
        ledger, killed = Ledger(), 0
        async with process("scripts.serve", **settings) as api:
            await ready(port)
            await let_in((Path(folder) / "database.url").read_text())
            with progress() as bar:
                task = bar.add_task("killing", total=rounds, rate="rounds")
                for _ in range(rounds):
                    tickets = await open_tickets(port, 3)
                    stop = asyncio.Event()
                    busy = [
                        asyncio.create_task(client(port, tickets, ledger, stop))
                        for _ in range(clients)
                    ]
                    await ledger.grown_by(random.randrange(60, 200), busy)  # noqa: S311
                    for pid in database_processes(Path(folder)):
                        os.kill(pid, signal.SIGKILL)
                        killed += 1
                    await asyncio.sleep(random.uniform(0.0, 0.5))  # noqa: S311
                    stop.set()
                    await asyncio.gather(*busy)
                    database = connect((Path(folder) / "database.url").read_text())
                    await check_acknowledged(EventStore(database), ledger)
                    await database.close()
                    await retry(port, ledger)
                    bar.advance(task)
            database = connect((Path(folder) / "database.url").read_text())
            counted = await settle(EventStore(database), ledger)
            await caught_up(database, EventStore(database))
            await check(database)
            await database.close()
            api.send_signal(signal.SIGTERM)
            await api.wait()
    require(killed == rounds, f"{killed} of {rounds} databases could be killed")
    return Counter(killed=killed) + counted


def database_processes(folder: Path) -> list[int]:
    """Find the embedded database's process by its folder (Linux)."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if str(folder / "database").encode() in words and words[0].endswith(b"secantusd-rs"):
                found.append(int(entry.name))
    return found
