"""One answer of the database gets lost, of each command that a server sends (L3, L5, L7).

A server works for clients, behind a proxy on the way to its database that swallows one answer and
leaves the connection open. No later than 15 seconds after that the server has given the connection
up and is as before: a command is taken, lists show it, and it is ready. This is done for one kind
of command after the other, on each driver: its name, the collection, whether it is part of a
transaction or a change stream's. Some are only sent while a server starts: those are lost then.

Clients keep a ledger: whatever an answer said nothing about is sent again in the end, with its key,
and is in the log once. The views equal the log.
"""

import asyncio
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import AsyncExitStack, suppress
from urllib.parse import urlsplit

from domain.values import JsonObject
from eventstore.background import background
from eventstore.log import EventStore
from eventstore.mongo.driver import DriverName
from scripts.console import progress
from scripts.soak.kill import Ledger, open_tickets, retry, settle
from scripts.soak.outage import note
from scripts.testbed.judging import Check, audited, caught_up
from scripts.testbed.load import Answer, Connection, request
from scripts.testbed.promises import (
    HEADERS,
    PromiseBroken,
    connected,
    free_port,
    let_in,
    process,
    ready,
    require,
)
from scripts.testbed.wire import Fate, Wire, through

BACK_SECONDS = 15.0
DRIVERS: Sequence[DriverName] = ("motor", "pymongo")
_LEARNING_SECONDS = 20.0
_SLACK = 10
_PATIENCE_SECONDS = 60.0  # after which it is stuck for good
_SEEN_SECONDS = 60.0  # until a command of a kind is sent again
_CLIENTS = 3
_TICKETS = 120  # more than come in the first answer to a list
_PAUSE_SECONDS = 0.05

SOME: Collection[str] = (
    "aggregate stream ticket_events",
    "bulkWrite",
    "bulkWrite in transaction",
    "commitTransaction",
    "find generations",
    "find ticket_events",
    "getMore stream ticket_events",
    "getMore ticket_reads",
    "insert in transaction ticket_events",
    "insert ticket_events",
)
"""Kinds that differ in what waits for them."""
AT_START: Collection[str] = (
    "aggregate stream ticket_events",
    "buildInfo",
    "bulkWrite",
    "create ticket_reads",
    "createIndexes ticket_events",
    "drop ticket_reads",
    "hello",
    "hello of the driver",
    "insert projections",
    "listIndexes ticket_events",
)
"""Of those that are sent while a server starts on an empty database."""


def kind_of(sent: JsonObject) -> str:
    """Name the kind of a command: for example `insert in transaction ticket_events`."""
    name = next(iter(sent))
    words = [name]
    if sent.get("autocommit") is False and not name.endswith("Transaction"):
        words.append("in transaction")
    is_stream = name == "aggregate" and "$changeStream" in str(sent["pipeline"])
    if is_stream or (name == "getMore" and "maxTimeMS" in sent):
        words.append("stream")
    on = sent.get("collection") if name == "getMore" else sent[name]
    if isinstance(on, str):
        words.append(re.sub(r"_\d+$", "", on))
    if name in ("hello", "ismaster") and "maxTimeMS" not in sent:
        return "hello of the driver"
    return " ".join(words)


class NotSent(PromiseBroken):
    """No command of a kind was sent whose answer could get lost."""


class _Losing:
    """Counts what is sent, and loses the first answer to a command of one kind."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.losing: str | None = None
        self.lost = asyncio.Event()
        self.lost_at = 0.0

    def __call__(self, sent: JsonObject) -> Fate:
        kind = kind_of(sent)
        self.seen[kind] += 1
        if kind != self.losing:
            return Fate.PASSED
        self.losing = None
        self.lost_at = time.monotonic()
        self.lost.set()
        return Fate.ANSWER_LOST

    def lose(self, kind: str) -> None:
        self.lost.clear()
        self.losing = kind


class _Clients:
    """Send commands, and read lists and the log, until cancelled."""

    def __init__(
        self, port: int, tickets: list[str], ledger: Ledger, statuses: Counter[str]
    ) -> None:
        self._port = port
        self._tickets = tickets
        self._ledger = ledger
        self._statuses = statuses

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(_CLIENTS):
                group.create_task(self._write())
            group.create_task(self._read())

    async def _write(self) -> None:
        async with Connection(self._port, HEADERS) as connection:
            while True:
                await asyncio.sleep(_PAUSE_SECONDS)
                answer = await self._ledger.send_new(connection, self._tickets)
                if answer is not None:
                    note(answer, self._statuses)

    async def _read(self) -> None:
        async with Connection(self._port, HEADERS) as connection:
            while True:
                for path in ("/tickets?limit=200", "/dashboard", "/projections", "/events"):
                    await asyncio.sleep(_PAUSE_SECONDS)
                    if path == "/events":
                        await self._export()
                        continue
                    with suppress(ConnectionError):
                        note(await connection.get(path), self._statuses)

    async def _export(self) -> None:
        """Read the whole log; it is answered in chunks, until the connection ends."""
        with suppress(OSError, EOFError):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                headers = {**HEADERS, "connection": "close"}
                writer.write(request("GET", "/events", b"", headers))
                status = await reader.readline()
                rest = await reader.read(-1)
                note(Answer(int(status[9:12]), rest), self._statuses)
            finally:
                writer.close()


class _Server:
    """A server on a driver, the way to its database, and those who use it."""

    def __init__(self, url: str, driver: DriverName) -> None:
        self.url = url
        self.ledger = Ledger()
        self.statuses: Counter[str] = Counter()
        self._driver = driver
        self._losing = _Losing()

    async def lose_at_start(self, kind: str) -> float:
        """Start it and lose an answer meanwhile; return how many seconds later it is as it was."""
        self._losing.lose(kind)
        async with AsyncExitStack() as stack:
            port, wire = await self._start(stack)
            return await self._back(port, wire, kind)

    async def lose(
        self, kinds: Collection[str] | None, most: int, took: Callable[[str, float], None]
    ) -> None:
        """Have it work, and lose one answer after the other. `took` is told what it took."""
        async with AsyncExitStack() as stack:
            port, wire = await self._start(stack)
            tickets = await open_tickets(port, _TICKETS)
            await _until_well(port)
            clients = _Clients(port, tickets, self.ledger, self.statuses)
            async with background(clients.run()):
                if kinds is None:
                    self._losing.seen.clear()
                    await asyncio.sleep(_LEARNING_SECONDS)
                    kinds = sorted(self._losing.seen)
                    rare: tuple[type[NotSent], ...] = (NotSent,)
                else:
                    rare = ()
                for kind in [*kinds][:most]:
                    self._losing.lose(kind)
                    with suppress(*rare):  # it was seen once, and may not be again
                        took(kind, await self._back(port, wire, kind))
            await retry(port, self.ledger)
            database = await stack.enter_async_context(connected(self.url, self._driver))
            await caught_up(database)  # while there is a projector

    async def _start(self, stack: AsyncExitStack) -> tuple[int, Wire]:
        own, wire = await stack.enter_async_context(through(self.url, self._losing))
        port = free_port()
        settings = {
            "CASEBOOK_DATA_DIR": stack.enter_context(
                tempfile.TemporaryDirectory(prefix="casebook-soak-")
            ),
            "CASEBOOK_MONGODB_URL": own,
            "CASEBOOK_MONGO_DRIVER": self._driver,
            "CASEBOOK_PORT": str(port),
            "CASEBOOK_LOG_REQUESTS": "no",
        }
        await stack.enter_async_context(background(_serve_again_and_again(settings)))
        await ready(port)
        await let_in(self.url)
        return port, wire

    async def _back(self, port: int, wire: Wire, kind: str) -> float:
        """Wait until an answer got lost, is waited for no longer, and all is as before."""
        try:
            async with asyncio.timeout(_SEEN_SECONDS):
                while not self._losing.lost.is_set():
                    await _lacking(port)  # which sends what is not sent otherwise
        except TimeoutError:
            seen = ", ".join(sorted(self._losing.seen))
            raise NotSent(f"{kind} was not sent in {_SEEN_SECONDS} s, but {seen}") from None
        lacking = ["the connection is given up"]
        try:
            async with asyncio.timeout(self._losing.lost_at + _PATIENCE_SECONDS - time.monotonic()):
                while wire.waiting:  # noqa: ASYNC110
                    await asyncio.sleep(_PAUSE_SECONDS)
                await _until_well(port, lacking)
        except TimeoutError:
            late = f"{kind}: it is not so after {_PATIENCE_SECONDS:.0f} s that {lacking[0]}"
            raise PromiseBroken(late) from None
        took = time.monotonic() - self._losing.lost_at
        began = time.monotonic()
        await _until_well(port)
        # What takes long when nothing is lost is the machine, which others may use as well.
        most = BACK_SECONDS + _SLACK * (time.monotonic() - began)
        require(took < most, f"{kind}: back only after {took:.1f} s")
        return took


async def _serve_again_and_again(settings: dict[str, str]) -> None:
    """Run a server until cancelled, as whoever supervises it does: one that finds no database when
    it starts ends with a line, and is started anew.
    """
    while True:
        async with process("scripts.serve", **settings) as server:
            try:
                await server.wait()
            except asyncio.CancelledError:
                with suppress(ProcessLookupError, TimeoutError):  # killed if it does not end
                    server.terminate()
                    await asyncio.wait_for(server.wait(), BACK_SECONDS)
                raise
        await asyncio.sleep(_PAUSE_SECONDS)


async def _until_well(port: int, lacking: list[str] | None = None) -> None:
    """Wait until a command is taken, a list shows it, and the server is ready.

    `lacking` is told what is not so.
    """
    while what := await _lacking(port):
        if lacking is not None:
            lacking[:] = [what]
        await asyncio.sleep(_PAUSE_SECONDS)


async def _lacking(port: int) -> str:
    """Return what is not as it should be; nothing if all is."""
    try:
        async with Connection(port, HEADERS) as connection:
            opening = {"subject": "Soak", "requester": "soak"}
            answer = await connection.post("/tickets", opening, {"Prefer": "wait=2"})
            if answer.status != 201:
                return f"a command is taken, but {answer.status}: {answer.body[:300]!r}"
            if not answer.applied:
                shown = await connection.get("/projections")
                return f"views show a command within 2 s, but {shown.body[:1000]!r}"
            ticket = answer.json()["ticket_id"]
            for path in (f"/tickets?after={ticket}@1", "/dashboard", "/readyz"):
                answer = await connection.get(path)
                if answer.status != 200:
                    return f"{path} is answered, but {answer.status}: {answer.body[:300]!r}"
    except ConnectionError as error:
        return f"the server answers, but {error}"
    return ""


async def vanish(
    url: str,
    rounds: int,
    check: Check = audited,
    kinds: Collection[str] | None = None,
    at_start: Collection[str] = AT_START,
) -> Counter[str]:
    """Lose one answer of each kind, at most `rounds` on each driver; both drivers at once.

    `kinds`: those that are to be lost while the server works, all that it is seen to send unless
    given; `at_start`: those while it starts. Raises PromiseBroken.
    """
    counted: Counter[str] = Counter()
    parts = urlsplit(url)
    with progress() as bar:
        task = bar.add_task("losing answers", total=None, rate="answers")

        def took(kind: str, seconds: float) -> None:
            bar.advance(task)
            bar.console.print(f"{seconds:6.1f} s  {kind}")
            counted["lost"] += 1
            counted["slowest_ms"] = max(counted["slowest_ms"], round(1000 * seconds))

        async def on(driver: DriverName) -> None:
            name = f"{parts.path.strip('/') or 'soak'}_{driver}"
            for number, kind in enumerate(at_start, 1):
                empty = parts._replace(path=f"/{name}_{number}").geturl()
                seconds = await _Server(empty, driver).lose_at_start(kind)
                took(f"{driver}, at the start: {kind}", seconds)
            own = parts._replace(path=f"/{name}").geturl()
            server = _Server(own, driver)
            await server.lose(kinds, rounds, lambda kind, s: took(f"{driver}: {kind}", s))
            async with connected(own, driver) as database:
                settled = await settle(EventStore(database), server.ledger)
                await check(database)
            counted.update(settled + server.statuses)

        try:
            async with asyncio.TaskGroup() as group:
                for driver in DRIVERS:
                    group.create_task(on(driver))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
    return counted
