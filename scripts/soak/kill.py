"""Kill -9 at bad moments, under clients that keep a ledger (L3, L5)."""

import asyncio
import os
import random
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast
from uuid import uuid4

from api.commands import routes as commands
from eventstore.log import EventStore
from scripts.console import with_progress
from scripts.soak.views import die_at
from scripts.testbed.judging import Check, audited, caught_up, streams
from scripts.testbed.load import Answer, Connection
from scripts.testbed.patience import patience
from scripts.testbed.promises import (
    HEADERS,
    OPEN,
    READY_SECONDS,
    connected,
    database_processes,
    free_port,
    let_in,
    require,
    serving,
)
from scripts.testbed.services import serve

# A transaction whose process was killed holds its ticket until the database ends it, which takes a
# minute by default; until then that ticket's commands are answered 503.
_RETRY_SECONDS = 180

POINTS = ("random", "before append", "after append", "before to_content")


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
        """Return how many events it must have in the log."""
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

    async def send(self, connection: Connection, sent: Sent) -> Answer | None:
        """Send a command; a 503 says no more about what happened than a lost connection does.

        Return the answer, or None if the connection was lost.
        """
        headers = {**sent.headers, "Idempotency-Key": sent.key}
        try:
            answer = await connection.post(sent.path, sent.content, headers)
        except ConnectionError:
            return None
        if answer.status != 503:
            sent.answer = answer
            self.answers += 1
        return answer

    async def send_new(self, connection: Connection, tickets: Sequence[str]) -> Answer | None:
        """Send a command at random, as `send` does."""
        sent = command(random.choice(tickets))  # noqa: S311 not for secrets
        # Sent again, it is the same caller's.
        sent.headers |= connection.headers
        self.sent.append(sent)
        return await self.send(connection, sent)

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


def start_clients(
    port: int, tickets: list[str], ledger: Ledger, stop: asyncio.Event, count: int
) -> list[asyncio.Task[None]]:
    """Have clients send commands until told to stop, or until an answer says nothing."""

    async def client() -> None:
        async with Connection(port, HEADERS) as connection:
            while not stop.is_set():
                answer = await ledger.send_new(connection, tickets)
                if answer is None or answer.status == 503:
                    return

    return [asyncio.create_task(client()) for _ in range(count)]


async def open_tickets(port: int, count: int) -> list[str]:
    async with Connection(port, HEADERS) as connection:
        answers = [
            await connection.post("/tickets", OPEN.model_dump(mode="json")) for _ in range(count)
        ]
    return [str(answer.json()["ticket_id"]) for answer in answers]


async def check_acknowledged(store: EventStore, ledger: Ledger) -> None:
    """Compare the log with what was answered, before anything is sent again: once, or never."""
    found = await streams(store)
    times = Counter(e.metadata.command.id for events in found.values() for e in events)
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
                    await ledger.send(connection, sent)
        known = [sent for sent in ledger.sent if sent.events()]
        for sent in random.sample(known, min(5, len(known))):
            again = replace(sent, answer=None)
            await ledger.send(connection, again)
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


async def kill_api(url: str, rounds: int, clients: int = 8) -> Counter[str]:
    """Kill the API process in every round, at random or at a named point. Raises PromiseBroken."""
    ledger = Ledger()
    points: Counter[str] = Counter()
    async with connected(url) as database:
        for round_ in with_progress(range(rounds + 1), "killing", "rounds"):
            last = round_ == rounds
            point = "never" if last else POINTS[round_ % len(POINTS)]
            # Not before the retries and openings with which a round begins are through.
            port, nth = free_port(), random.randrange(2 * clients + 10, 70)  # noqa: S311
            words = ("scripts.soak", "_serve", url, str(port), point, str(nth))
            async with serving(*words, port=port, url=url) as api:
                await check_acknowledged(EventStore(database), ledger)
                await retry(port, ledger)
                if last:
                    break
                tickets = await open_tickets(port, 3)
                busy = start_clients(port, tickets, ledger, asyncio.Event(), clients)
                if point == "random":
                    await ledger.grown_by(random.randrange(20, 200), busy)  # noqa: S311
                    api.kill()
                code = await asyncio.wait_for(api.wait(), patience(READY_SECONDS))
                require(code == -signal.SIGKILL, f"the API ended with {code}, and not by a kill")
                await asyncio.gather(*busy)
            points[f"killed_{point}"] += 1
        return points + await settle(EventStore(database), ledger)


async def serve_and_die(url: str, port: str, point: str, nth: str) -> int:
    """Serve until the nth command reaches a point, and die there as by kill -9."""
    die_at(((EventStore, "append"), (commands, "to_content")), point, nth)
    return await serve("group", url, int(port))


async def kill_database(rounds: int, clients: int = 8, check: Check = audited) -> Counter[str]:
    """Kill the embedded database under load, while the API lives and projects.

    Raises PromiseBroken.
    """
    ledger, killed = Ledger(), 0
    async with embedded_server() as (port, api, folder):
        for _ in with_progress(range(rounds), "killing", "rounds"):
            tickets = await open_tickets(port, 3)
            stop = asyncio.Event()
            busy = start_clients(port, tickets, ledger, stop, clients)
            await ledger.grown_by(random.randrange(60, 200), busy)  # noqa: S311
            killed += kill_database_of(folder)
            await asyncio.sleep(random.uniform(0.0, 0.5))  # noqa: S311
            stop.set()
            await asyncio.gather(*busy)
            async with connected(url_of(folder)) as database:
                await check_acknowledged(EventStore(database), ledger)
            await retry(port, ledger)
        counted = await settled(url_of(folder), ledger, check)
        api.send_signal(signal.SIGTERM)
        await api.wait()
    require(killed == rounds, f"{killed} of {rounds} databases could be killed")
    return Counter(killed=killed) + counted


@asynccontextmanager
async def embedded_server(
    **settings: str,
) -> AsyncIterator[tuple[int, asyncio.subprocess.Process, Path]]:
    """Run a server with a database of its own; yield its port, its process and its folder."""
    with tempfile.TemporaryDirectory(prefix="casebook-soak-") as name:
        port, folder = free_port(), Path(name)
        settings |= {"CASEBOOK_DATA_DIR": name, "CASEBOOK_PORT": str(port)}
        async with serving("scripts.serve", port=port, **settings) as api:
            await let_in(url_of(folder))
            yield port, api, folder


def url_of(folder: Path) -> str:
    """Return the URL of the embedded database in a folder."""
    return (folder / "database.url").read_text()


async def settled(url: str, ledger: Ledger, check: Check) -> Counter[str]:
    """Compare the log with the ledger, and the views with the log once they have caught up."""
    async with connected(url) as database:
        counted = await settle(EventStore(database), ledger)
        await caught_up(database)
        await check(database)
    return counted


def kill_database_of(folder: Path) -> int:
    """Kill the embedded database of a folder; return how many processes it had."""
    pids = database_processes(folder)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return len(pids)
