"""One answer of the database gets lost, of each command that a server sends (L3, L5, L7).

A server works for clients, behind a proxy on the way to its database that loses one answer and
leaves the connection open. No later than 15 seconds after that the server has given the connection
up and is as before: a command is taken, lists show it, and it is ready. This is done for one kind
of command after the other, on each driver: its name, the collection, whether it is part of a
transaction or a change stream's. Some are only sent while a server starts: those are lost then.

In the end each command is in the log once, as its client was told, and the views equal the log.
"""

import asyncio
import re
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import httpx

from domain.values import JsonObject
from eventstore.background import background, run_all
from eventstore.mongo.driver import DriverName
from scripts.console import counting, screen
from scripts.soak.clients import Clients, until_well
from scripts.testbed.judging import Check, audited
from scripts.testbed.promises import (
    HEADERS,
    PromiseBroken,
    free_port,
    let_in,
    process,
    ready,
    require,
    until,
)
from scripts.testbed.wire import Fate, Heard, Wire, through

BACK_SECONDS = 15.0
DRIVERS: Sequence[DriverName] = ("motor", "pymongo")
_LEARNING_SECONDS = 20.0
_SLACK = 10
_STUCK_SECONDS = 60.0  # after which it will not come back
_ASKED_SECONDS = 2.0
_SEEN_SECONDS = 60.0  # until a command of a kind is sent again
_CLIENTS = 3
_TICKETS = 120  # more than come in the first answer to a list
_PAUSE_SECONDS = 0.05
_READ = ("/tickets?limit=200", "/dashboard", "/projections", "/events")

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

Told = Callable[[str, float], None]
"""Gets what was lost, and how many seconds later all was as before."""


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


class _Loss:
    """Loses the first answer to a command of one kind, and counts what is sent."""

    def __init__(self, kind: str | None = None) -> None:
        self.seen: Counter[str] = Counter()
        self._losing = kind
        self._lost_at: float | None = None

    def heard(self, sent: JsonObject) -> Fate:
        kind = kind_of(sent)
        self.seen[kind] += 1
        if kind != self._losing or self._lost_at is not None:
            return Fate.PASSED
        self._lost_at = time.monotonic()
        return Fate.ANSWER_LOST

    async def happen(self, port: int) -> None:
        """Wait until the answer is lost. Raises PromiseBroken if no such command is sent."""

        async def lost() -> bool:
            with suppress(PromiseBroken):
                await until_well(port, _ASKED_SECONDS)  # which sends what is not sent otherwise
            return self._lost_at is not None

        await until(lost, _SEEN_SECONDS, f"{self._losing} is sent, and not only {self.seen.keys()}")

    async def mended(self, port: int, wire: Wire) -> float:
        """Wait until all is as before; return how many seconds after the loss that is."""
        if self._lost_at is None:
            raise AssertionError("it has happened")
        await until(lambda: not wire.waiting, _STUCK_SECONDS, f"{self._losing} is given up")
        await until_well(port, _STUCK_SECONDS)
        took = time.monotonic() - self._lost_at
        began = time.monotonic()
        await until_well(port, _STUCK_SECONDS)
        # What takes long when nothing is lost is the machine, which others may use as well.
        most = BACK_SECONDS + _SLACK * (time.monotonic() - began)
        require(took < most, f"{self._losing}: back only after {took:.1f} s")
        return took


async def _lose_at_start(url: str, driver: DriverName, kind: str, told: Told) -> None:
    """Start a server on an empty database, and lose an answer meanwhile."""
    loss = _Loss(kind)
    async with _server(url, driver, loss.heard) as (port, wire):
        await loss.happen(port)
        told(f"{driver}, at the start: {kind}", await loss.mended(port, wire))


async def _lose_at_work(
    url: str, driver: DriverName, kinds: Collection[str] | None, most: int, told: Told, check: Check
) -> Counter[str]:
    """Have a server work, and lose one answer after the other; judge log and views."""
    clients, learning = Clients(), _Loss()
    async with _server(url, driver, learning.heard) as (port, wire):
        await until_well(port, _STUCK_SECONDS)
        async with (
            clients.sending(port, _CLIENTS, _TICKETS, _PAUSE_SECONDS),
            background(_read(port, clients)),
        ):
            if kinds is None:
                learning.seen.clear()
                await asyncio.sleep(_LEARNING_SECONDS)
            for kind in [*(kinds or sorted(learning.seen))][:most]:
                loss = _Loss(kind)
                wire.heard = loss.heard
                try:
                    await loss.happen(port)
                except PromiseBroken:
                    if kinds is None:
                        continue  # it was seen once, and may not be again
                    raise
                told(f"{driver}: {kind}", await loss.mended(port, wire))
        return await clients.judge(port, url, check)


async def _read(port: int, clients: Clients) -> None:
    """Read lists and the log, until cancelled."""
    base = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=base, headers=HEADERS, timeout=60.0) as client:
        while True:
            for path in _READ:
                await asyncio.sleep(_PAUSE_SECONDS)
                with suppress(httpx.TransportError):
                    answer = await client.get(path)
                    clients.note(answer.status_code, answer.content)


@asynccontextmanager
async def _server(url: str, driver: DriverName, heard: Heard) -> AsyncIterator[tuple[int, Wire]]:
    """Run a server on a driver; yield its port, and the wire to its database."""
    with tempfile.TemporaryDirectory(prefix="casebook-soak-") as folder:
        async with through(url, heard) as (reached_by, wire):
            port = free_port()
            serve_again = _serve_again_and_again(
                CASEBOOK_DATA_DIR=folder,
                CASEBOOK_MONGODB_URL=reached_by,
                CASEBOOK_MONGO_DRIVER=driver,
                CASEBOOK_PORT=str(port),
                CASEBOOK_LOG_REQUESTS="no",
            )
            async with background(serve_again):
                await ready(port)
                await let_in(url)
                yield port, wire


async def _serve_again_and_again(**settings: str) -> None:
    """Run a server until cancelled, as a supervisor does: one that finds no database when it
    starts ends with a line, and is started again.
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
    base = parts.path.strip("/") or "soak"

    def database_at(name: str) -> str:
        return parts._replace(path=f"/{base}_{name}").geturl()

    async def lose_on(driver: DriverName, told: Told) -> None:
        for number, kind in enumerate(at_start, 1):
            await _lose_at_start(database_at(f"{driver}_{number}"), driver, kind, told)
        own = database_at(driver)
        counted.update(await _lose_at_work(own, driver, kinds, rounds, told, check))

    with counting("losing answers", None, "answers") as count:

        def told(what: str, seconds: float) -> None:
            count()
            screen.print(f"{seconds:6.1f} s  {what}")
            counted["lost"] += 1
            counted["slowest_ms"] = max(counted["slowest_ms"], round(1000 * seconds))

        await run_all(*(lose_on(driver, told) for driver in DRIVERS))
    return counted
