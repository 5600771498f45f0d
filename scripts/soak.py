"""Put the log's promises under stress: races, kills at bad moments, consumers that come and go.

    python -m scripts.soak race             50 writers in 3 processes on one ticket and on many
    python -m scripts.soak kill-api         kill -9 of the API, at random and at named points
    python -m scripts.soak kill-database    kill -9 of the embedded database under load
    python -m scripts.soak follow           a consumer stopped and started at random under 8 writers

Each works on a database of its own in a temporary folder, checks the whole log at the end, prints
what it counted and exits 1 if a promise was broken. Short forms of all are in the test suite.
"""

import argparse
import asyncio
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, cast
from uuid import UUID, uuid4, uuid5

import uvicorn

from api import commands
from api.app import create_app
from api.handle import Handler, Outcome, Submission, TooContended
from domain.errors import CasebookError
from domain.events import Actor
from domain.ticket import AddNote, OpenTicket
from eventstore import embedded
from eventstore.driver import Database, connect
from eventstore.envelope import Envelope, chain_is_whole, to_document
from eventstore.store import EventStore, ResumeToken
from scripts.console import progress, run
from scripts.load import Answer, Connection

ACTOR = Actor("soak", "agent")
HEADERS = {"Casebook-Actor": "agent:soak"}
OPEN = OpenTicket(subject="Soak", requester="soak")

Point = Literal["random", "before_insert", "after_insert", "before_answer"]
POINTS: tuple[Point, ...] = ("random", "before_insert", "after_insert", "before_answer")
_READY_SECONDS = 60


class PromiseBroken(CasebookError):
    """The log is not what was promised. This is what a soak looks for."""

    def __init__(self, detail: str) -> None:
        super().__init__("promise_broken", detail)


def require(condition: object, detail: str) -> None:
    if not condition:
        raise PromiseBroken(detail)


@asynccontextmanager
async def scratch() -> AsyncIterator[str]:
    """Run an embedded database in a temporary folder and give its URL."""
    with tempfile.TemporaryDirectory(prefix="casebook-soak-") as folder:
        async with embedded.run(Path(folder)) as url:
            yield url


async def streams(store: EventStore) -> dict[UUID, list[Envelope]]:
    """Read the whole log and check every ticket's stream: versions 1..n, chain whole (L2, L11)."""
    found: dict[UUID, list[Envelope]] = {}
    async for event in store.scan():
        found.setdefault(event.ticket_id, []).append(event)
    for ticket, events in found.items():
        events.sort(key=lambda event: event.version)
        versions = [event.version for event in events]
        require(versions == list(range(1, len(events) + 1)), f"{ticket}: versions {versions}")
        require(chain_is_whole(map(to_document, events)), f"{ticket}: the chain is broken")
    return found


# --- race ----------------------------------------------------------------------------------------


class Attempt(NamedTuple):
    """One writer's command in a race, and the version it was told; None if it was told no."""

    ticket: UUID
    key: str
    version: int | None


def _race_in_process(
    url: str,
    number: int,
    seed: str,
    rounds: int,
    writers: int,
    together: "multiprocessing.synchronize.Barrier",
    attempts: "multiprocessing.queues.Queue[list[Attempt]]",
) -> None:
    async def race_one(database: Database) -> None:
        # A handler of its own for each writer: they are to race, not to take turns.
        stores = [EventStore(database, group_commit=writer % 2 == 0) for writer in range(writers)]
        for round_ in range(rounds):
            await asyncio.to_thread(together.wait)
            done = await asyncio.gather(
                *(write(Handler(store), round_, w) for w, store in enumerate(stores))
            )
            attempts.put(done)

    async def write(handler: Handler, round_: int, writer: int) -> Attempt:
        key = f"{number}-{writer}-{round_}"
        # Even rounds: all on one ticket. Odd rounds: on ten.
        which = 0 if round_ % 2 == 0 else writer % 10
        ticket = uuid5(UUID(int=0), f"{seed}-{round_}-{which}")
        opening = Submission(command=OPEN, actor=ACTOR, key="opening")
        note = Submission(command=AddNote(body=key), actor=ACTOR, key=key)
        with suppress(TooContended):
            await handler.handle(ticket, opening)
            return Attempt(ticket, key, (await handler.handle(ticket, note)).version)
        return Attempt(ticket, key, None)

    async def main() -> None:
        database = connect(url)
        await race_one(database)
        await database.close()

    asyncio.run(main())


async def race(url: str, rounds: int, writers: int = 50, processes: int = 3) -> Counter[str]:
    """Let writers race for the versions of tickets. Raises PromiseBroken."""
    database = connect(url)
    store = EventStore(database)
    await store.prepare()
    spawn = multiprocessing.get_context("spawn")
    together, queue = spawn.Barrier(processes), spawn.Queue()
    shares = [writers // processes + (n < writers % processes) for n in range(processes)]
    seed = uuid4().hex
    workers = [
        spawn.Process(target=_race_in_process, args=(url, n, seed, rounds, share, together, queue))
        for n, share in enumerate(shares)
    ]
    for worker in workers:
        worker.start()
    attempts: list[Attempt] = []
    with progress() as bar:
        task = bar.add_task("racing", total=rounds * processes, rate="rounds x processes")
        for _ in range(rounds * processes):
            attempts += await asyncio.to_thread(queue.get, timeout=120)
            bar.advance(task)
    for worker in workers:
        worker.join()
    found = await streams(store)
    await database.close()
    written = Counter(
        Attempt(e.ticket_id, e.metadata.command.id, e.version) for s in found.values() for e in s
    )
    keys = {(attempt.ticket, attempt.key) for attempt in written}
    for attempt in attempts:
        if attempt.version is None:
            require((attempt.ticket, attempt.key) not in keys, f"{attempt}: refused, but written")
        else:
            require(written[attempt] == 1, f"{attempt}: acknowledged, but {written[attempt]} times")
    won = sum(attempt.version is not None for attempt in attempts)
    events = sum(map(len, found.values()))
    require(events == won + len(found), f"{events} events of {won} commands")
    return Counter(
        rounds=rounds, commands=len(attempts), acknowledged=won, told_no=len(attempts) - won
    )


# --- kills ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Sent:
    """A command in the ledger: what was sent, and what is known to have come of it."""

    ticket: str
    key: str
    body: str
    answer: Answer | None = None
    """None: unknown."""


@dataclass(slots=True)
class Ledger:
    """What clients know. Kept outside of the server, so that it survives it."""

    sent: list[Sent] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)

    def unknown(self) -> list[Sent]:
        return [sent for sent in self.sent if sent.answer is None]


async def send(connection: Connection, sent: Sent) -> None:
    """Send a command; a 503 says no more about what happened than a lost connection does."""
    headers = {**HEADERS, "Idempotency-Key": sent.key}
    with suppress(ConnectionError):
        answer = await connection.post(
            f"/tickets/{sent.ticket}/add_note", {"body": sent.body}, headers
        )
        if answer.status != 503:
            sent.answer = answer


async def client(port: int, tickets: list[str], ledger: Ledger, stop: asyncio.Event) -> None:
    """Send commands one after the other until told to stop or the connection is lost."""
    async with Connection(port) as connection:
        while not stop.is_set():
            key = uuid4().hex
            # One in ten is bad: it must fail, and never be written.
            body = "" if random.random() < 0.1 else key  # noqa: S311 not for secrets
            sent = Sent(random.choice(tickets), key, body)  # noqa: S311
            ledger.sent.append(sent)
            await send(connection, sent)
            if sent.answer is None:
                return


async def open_tickets(port: int, count: int) -> list[str]:
    async with Connection(port) as connection:
        answers = [
            await connection.post("/tickets", OPEN.model_dump(mode="json"), HEADERS)
            for _ in range(count)
        ]
    return [str(answer.json()["ticket_id"]) for answer in answers]


async def retry(port: int, ledger: Ledger) -> None:
    """Send again what is unknown, and some of what is known: that must be answered as before."""
    async with Connection(port) as connection:
        for sent in ledger.unknown():
            ledger.counted["unknown_then_retried"] += 1
            async with asyncio.timeout(_READY_SECONDS):
                while sent.answer is None:
                    await send(connection, sent)
        known = [sent for sent in ledger.sent if sent.answer and sent.answer.status == 200]
        for sent in random.sample(known, min(5, len(known))):
            again = Sent(sent.ticket, sent.key, sent.body)
            await send(connection, again)
            require(again.answer == sent.answer, f"{sent}: answered otherwise: {again.answer}")
            ledger.counted["known_and_repeated"] += 1


async def settle(store: EventStore, ledger: Ledger) -> Counter[str]:
    """Compare the log with the ledger (L3, L5). Raises PromiseBroken."""
    found = await streams(store)
    times = Counter(e.metadata.command.id for events in found.values() for e in events)
    for sent in ledger.sent:
        require(sent.answer is not None, f"{sent}: never answered")
        accepted = sent.answer is not None and sent.answer.status == 200
        require(times[sent.key] == accepted, f"{sent}: {times[sent.key]} times in the log")
        ledger.counted["ok" if accepted else "failed"] += 1
    return ledger.counted


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return cast("int", listening.getsockname()[1])


@asynccontextmanager
async def process(*words: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a script of this project; kill it at the end if it still runs."""
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *words,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def ready(port: int) -> None:
    """Wait until a server answers."""
    async with asyncio.timeout(_READY_SECONDS):
        while True:
            with suppress(ConnectionError):
                async with Connection(port) as connection:
                    await connection.get("/healthz")
                    return
            await asyncio.sleep(0.02)


async def kill_api(url: str, rounds: int, clients: int = 8) -> Counter[str]:
    """Kill the API process in every round, at random or at a named point. Raises PromiseBroken."""
    database = connect(url)
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
                await retry(port, ledger)
                if last:
                    break
                tickets = await open_tickets(port, 3)
                stop = asyncio.Event()
                busy = [
                    asyncio.create_task(client(port, tickets, ledger, stop)) for _ in range(clients)
                ]
                if point == "random":
                    await asyncio.sleep(random.uniform(0.05, 0.5))  # noqa: S311
                    api.kill()
                await asyncio.wait_for(api.wait(), _READY_SECONDS)
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

    answering = commands.answer

    def answer(outcome: Outcome, *rest: object) -> object:
        reach("before_answer")
        return answering(outcome, *rest)  # type: ignore[arg-type]

    commands.answer = answer  # type: ignore[assignment]
    database = connect(url)
    app = create_app(database, Mortal(database))
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, access_log=False)
    await uvicorn.Server(config).serve()
    return 0


async def kill_database(rounds: int, clients: int = 8) -> Counter[str]:
    """Kill the embedded database under load, while the API lives. Raises PromiseBroken."""
    with tempfile.TemporaryDirectory(prefix="casebook-soak-") as folder:
        port = free_port()
        settings = {"CASEBOOK_DATA_DIR": folder, "CASEBOOK_PORT": str(port)}
        ledger, killed = Ledger(), 0
        async with process("scripts.serve", **settings) as api:
            await ready(port)
            with progress() as bar:
                task = bar.add_task("killing", total=rounds, rate="rounds")
                for _ in range(rounds):
                    tickets = await open_tickets(port, 3)
                    stop = asyncio.Event()
                    busy = [
                        asyncio.create_task(client(port, tickets, ledger, stop))
                        for _ in range(clients)
                    ]
                    await asyncio.sleep(random.uniform(0.1, 0.6))  # noqa: S311
                    for pid in database_processes(Path(folder)):
                        os.kill(pid, signal.SIGKILL)
                        killed += 1
                    await asyncio.sleep(random.uniform(0.0, 0.5))  # noqa: S311
                    stop.set()
                    await asyncio.gather(*busy)
                    await retry(port, ledger)
                    bar.advance(task)
            address = (Path(folder) / "database.url").read_text()
            database = connect(address)
            counted = await settle(EventStore(database), ledger)
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


# --- follow --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Consumer:
    """A consumer of the log as anyone would write it: a token, and a version per ticket (L8)."""

    store: EventStore
    token: ResumeToken | None = None
    versions: dict[UUID, int] = field(default_factory=dict)
    counted: Counter[str] = field(default_factory=Counter)

    async def run(self) -> None:
        """Go on from where it was, until cancelled."""
        if self.token is None:
            token = await self.store.position()
            async for event in self.store.scan():
                await self.take(event)
            self.token = token
        async with self.store.watch(self.token) as feed:
            while True:
                change = await feed.next()
                if change is not None:
                    await self.take(change.envelope)
                self.token = feed.token or self.token

    async def take(self, event: Envelope) -> None:
        """Count an event that is the ticket's next; fill a gap from the log; pass over a double."""
        have = self.versions.get(event.ticket_id, 0)
        if event.version <= have:
            self.counted["doubles"] += 1
        elif event.version == have + 1:
            self.versions[event.ticket_id] = event.version
            self.counted["events"] += 1
        else:
            self.counted["gaps_filled"] += 1
            for missing in await self.store.load(event.ticket_id, after=have):
                await self.take(missing)


async def follow(url: str, commands_: int, writers: int = 8) -> Counter[str]:
    """Stop and start a consumer at random while writers write. Raises PromiseBroken."""
    database = connect(url)
    store = EventStore(database)
    await store.prepare()
    tickets = [uuid4() for _ in range(20)]
    handler = Handler(store)
    for ticket in tickets:
        await handler.handle(ticket, Submission(command=OPEN, actor=ACTOR))
    remaining = iter(range(commands_))
    consumer, stops = Consumer(store), 0
    with progress() as bar:
        task = bar.add_task("following", total=commands_, rate="commands")

        async def write() -> None:
            own = Handler(store)
            for n in remaining:
                note = Submission(command=AddNote(body=f"{n}"), actor=ACTOR)
                with suppress(TooContended):
                    await own.handle(random.choice(tickets), note)  # noqa: S311
                bar.advance(task)

        writing = asyncio.gather(*(write() for _ in range(writers)))
        while not writing.done():
            await _run_for(consumer, random.uniform(0.0, 0.3))  # noqa: S311
            stops += 1
            await asyncio.sleep(random.uniform(0.0, 0.1))  # noqa: S311
        await writing
        expected = {t: events[-1].version for t, events in (await streams(store)).items()}
        async with asyncio.timeout(_READY_SECONDS):
            while consumer.versions != expected:
                await _run_for(consumer, 0.5)
    await database.close()
    require(consumer.counted["events"] == sum(expected.values()), "some events came not at all")
    return Counter(commands=commands_, stops=stops) + consumer.counted


async def _run_for(consumer: Consumer, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(consumer.run(), seconds)


# --- the command ---------------------------------------------------------------------------------


async def main() -> int:
    if sys.argv[1:2] == ["_serve"]:
        url, port, point, nth = sys.argv[2:]
        return await serve_and_die(url, int(port), point, int(nth))
    parser = argparse.ArgumentParser(
        prog="python -m scripts.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=["race", "kill-api", "kill-database", "follow"])
    parser.add_argument("--rounds", type=int, help="rounds, or commands to follow")
    options = parser.parse_args()
    if options.what == "kill-database":
        counted = await kill_database(options.rounds or 100)
    else:
        async with scratch() as url:
            if options.what == "race":
                counted = await race(url, options.rounds or 1000)
            elif options.what == "kill-api":
                counted = await kill_api(url, options.rounds or 300)
            else:
                counted = await follow(url, options.rounds or 20_000)
    print("held: " + ", ".join(f"{name} {n}" for name, n in counted.items()))
    return 0


if __name__ == "__main__":
    run(main)
