"""Too many clients, and a database that stops: 503s and nothing else, then as before (L3, L5, L12).

`overload`: hundreds of connections send as fast as they can. No answer is a 5xx but a 503 with
`Retry-After`, the server's memory stays bounded, and it is itself again within seconds.

`outage`: the database is reached through a proxy that cuts connections off with the answer to a
write, and that passes nothing on for a while. No answer is a 5xx but a 503; then the server
recovers by itself.

Clients keep a ledger: what was acknowledged is in the log once, all else is sent again and is then.
"""

import asyncio
import math
import random
import resource
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import NamedTuple

from domain.values import JsonObject
from scripts.console import counting
from scripts.soak.feed import memory_bytes
from scripts.soak.kill import Ledger, embedded_server, open_tickets, retry, settled, url_of
from scripts.testbed.judging import Check, audited
from scripts.testbed.load import Answer, Connection
from scripts.testbed.patience import patience
from scripts.testbed.promises import HEADERS, free_port, let_in_many, require, serving
from scripts.testbed.wire import Fate, through

CONNECTIONS = 500
_BEYOND = 1300  # more than a process serves at once
_BEYOND_SECONDS = 5
_CALLERS = 20
_TICKETS = 100
_MOST_BYTES = 700 * 2**20  # of the server's memory
_RECOVERY_SECONDS = 20.0
_CLIENTS = 16
_CUT_EVERY = 200  # so-many-th answer of the database
_ENOUGH = 200  # answers, to say that it goes on as before


class _Load(NamedTuple):
    """Clients that send commands and reads, and what they have been told."""

    port: int
    tickets: list[str]
    callers: list[dict[str, str]]
    ledger: Ledger
    counted: Counter[str]

    async def client(self, number: int, stop: asyncio.Event) -> None:
        """Send until told to stop."""
        caller = self.callers[number % len(self.callers)]
        async with Connection(self.port, caller) as connection:
            while not stop.is_set():
                answer: Answer | None = None
                if random.random() < 0.2:  # noqa: S311 not for secrets
                    with suppress(ConnectionError):
                        path = f"/tickets/{random.choice(self.tickets)}"  # noqa: S311
                        answer = await connection.get(path)
                else:
                    answer = await self.ledger.send_new(connection, self.tickets)
                if answer is None:
                    self.counted["lost"] += 1
                    continue
                note(answer, self.counted)
                if answer.status == 503:
                    require(answer.retry_after, f"no Retry-After: {answer.body[:300]!r}")
                    await asyncio.sleep(answer.retry_after or 1)


def note(answer: Answer, counted: Counter[str]) -> None:
    """Count an answer by its status. Raises PromiseBroken for a 5xx other than 503 (L12)."""
    counted[f"answered_{answer.status}"] += 1
    told = f"{answer.status}: {answer.body[:300]!r}"
    require(answer.status < 500 or answer.status == 503, told)


async def overload(
    seconds: int, check: Check = audited, clients: int = CONNECTIONS
) -> Counter[str]:
    """Send more than can be served. Raises PromiseBroken."""
    _have_files(2 * _BEYOND)
    counted: Counter[str] = Counter()
    async with embedded_server(CASEBOOK_LOG_REQUESTS="no") as (port, api, folder):
        callers = await let_in_many(url_of(folder), _CALLERS)
        load = _Load(port, await open_tickets(port, _TICKETS), callers, Ledger(), counted)
        before = await _seconds_of_one(port)
        for connections, stretch in ((clients, seconds), (_BEYOND, _BEYOND_SECONDS)):
            await _at_once(load, connections, stretch, api.pid)
        began = time.perf_counter()
        await _recovered(port, 5 * before + 0.5, _RECOVERY_SECONDS)
        counted["recovered_after_ms"] = round(1000 * (time.perf_counter() - began))
        await retry(port, load.ledger)
        counted += await settled(url_of(folder), load.ledger, check)
        api.send_signal(signal.SIGTERM)
        await api.wait()
    return counted


async def _at_once(load: _Load, connections: int, seconds: int, pid: int) -> None:
    """Have so many clients send, and look at the server's memory meanwhile."""
    until, stop = time.perf_counter() + seconds, asyncio.Event()
    with counting(f"{connections} connections", seconds, "seconds") as count:
        sending = asyncio.gather(*(load.client(n, stop) for n in range(connections)))
        while not sending.done():
            if time.perf_counter() >= until:
                stop.set()
            await asyncio.wait([sending], timeout=1)
            count()
            held = memory_bytes(pid)
            load.counted["most_mb"] = max(load.counted["most_mb"], held // 2**20)
            require(held < _MOST_BYTES, f"the server holds {held} bytes")
        stop.set()  # if one of them has failed
        await sending


async def _seconds_of_one(port: int) -> float:
    """Return how long a command takes that nobody is in the way of: the median of some."""
    [ticket] = await open_tickets(port, 1)
    taken = []
    async with Connection(port, HEADERS) as connection:
        for _ in range(15):
            began = time.perf_counter()
            answer = await connection.post(f"/tickets/{ticket}/add_note", {"body": "x"})
            require(answer.status == 200, f"{answer.status}: {answer.body[:300]!r}")
            taken.append(time.perf_counter() - began)
    return sorted(taken)[len(taken) // 2]


async def _recovered(port: int, seconds_of_one: float, patience_seconds: float) -> None:
    """Wait until a command takes no longer than that again, until lists show it.

    Both are seconds of a machine that nobody else uses.
    """
    most = patience(patience_seconds)
    async with asyncio.timeout(most), Connection(port, HEADERS) as connection:
        while True:
            began, seconds = time.perf_counter(), patience(seconds_of_one)
            with suppress(ConnectionError):
                opening = {"subject": "Soak", "requester": "soak"}
                wait = {"Prefer": f"wait={math.ceil(max(seconds, 1))}"}
                answer = await connection.post("/tickets", opening, wait)
                quick = time.perf_counter() - began < seconds
                if answer.status == 201 and answer.applied and quick:
                    return
            await asyncio.sleep(0.1)


def _have_files(wanted: int) -> None:
    """Have the process, and those that it starts, be given so many open files at least."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


# --- a database that stops ------------------------------------------------------------------------


class _Cutting:
    """Cuts a client off, each so many commands, when it should be told that one has been done."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()
        self.active = False

    def __call__(self, _: JsonObject) -> Fate:
        self.counted["asked"] += 1
        if not self.active or self.counted["asked"] % _CUT_EVERY:
            return Fate.PASSED
        self.counted["cut_off"] += 1
        return Fate.CUT_OFF


async def _pause(
    seconds: int,
    sending: asyncio.Future[list[None]],
    advance: Callable[[], None],
    seen: Callable[[], bool],
) -> None:
    """Let clients send for a while, and until something has been seen, however slow they are."""
    most, waited = patience(10 * seconds), 0
    while waited < seconds or not seen():
        require(waited < most, f"not seen within {waited} seconds")
        await asyncio.wait([sending], timeout=1)
        if sending.done():
            sending.result()
        waited += 1
        advance()


async def outage(url: str, seconds: int, check: Check = audited) -> Counter[str]:
    """Let the database stand still for so long under load, and cut it off again and again.

    Raises PromiseBroken.
    """
    counted: Counter[str] = Counter()
    port, cutting = free_port(), _Cutting()
    async with AsyncExitStack() as stack:
        reached_by, wire = await stack.enter_async_context(through(url, cutting))
        settings = {"CASEBOOK_MONGODB_URL": reached_by, "CASEBOOK_PORT": str(port)}
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="casebook-soak-"))
        settings["CASEBOOK_DATA_DIR"] = folder
        await stack.enter_async_context(serving("scripts.serve", port=port, url=url, **settings))
        load = _Load(port, await open_tickets(port, 20), [HEADERS], Ledger(), counted)
        stop = asyncio.Event()
        stack.callback(stop.set)
        sending = asyncio.gather(*(load.client(n, stop) for n in range(_CLIENTS)))
        with counting("cutting off, standing still, going on", None, "seconds") as count:
            cutting.active = True
            await _pause(seconds, sending, count, lambda: bool(cutting.counted["cut_off"]))
            cutting.active = False
            wire.moving.clear()
            await _pause(seconds, sending, count, lambda: bool(counted["answered_503"]))
            wire.moving.set()
            began = time.perf_counter()
            enough = _ENOUGH + counted["answered_200"]
            await _pause(1, sending, count, lambda: counted["answered_200"] >= enough)
            stop.set()
            await sending
            # Lists lag behind clients that send as fast as they can; without them, they catch up.
            await _recovered(port, 1.0, seconds + _RECOVERY_SECONDS)
            counted["recovered_after_ms"] = round(1000 * (time.perf_counter() - began))
        await retry(port, load.ledger)
        counted += await settled(url, load.ledger, check) + cutting.counted
    require(counted["answered_503"], "the outage was not felt")
    return counted
