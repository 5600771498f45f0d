"""What a soak works with: a database, processes, callers; and how a broken promise is told."""

import asyncio
import os
import secrets
import socket
import sys
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from api.access.keys import KeyOrder, Keys, new_key
from domain.actors import Actor, PrincipalRole
from domain.errors import CasebookError
from domain.tickets.opening import OpenTicket
from eventstore.database import Database
from eventstore.event_document import utc_now
from eventstore.failures import VersionConflict
from eventstore.log import EventStore
from eventstore.mongo import embedded
from eventstore.mongo.driver import DriverName
from eventstore.personal.master_keys import new_master_key
from scripts.testbed.load import Answer, Connection
from scripts.testbed.patience import patience

ACTOR = Actor("soak", "agent")
OPEN = OpenTicket(subject="Soak", requester="soak")

READY_SECONDS = 60
_ENDING_SECONDS = 15
_MOST_RESERVED = 64  # ports of one process

_KEY, _TEXT = new_key(ACTOR.id, "supervisor", "a soak", utc_now())
HEADERS = {"Authorization": f"Bearer {_TEXT}"}
"""Of a caller whom servers know after `let_in`."""


class PromiseBroken(CasebookError):
    """The log is not what was promised. This is what a soak looks for."""

    def __init__(self, detail: str) -> None:
        super().__init__("promise_broken", detail)


def require(condition: object, detail: str) -> None:
    if not condition:
        raise PromiseBroken(detail)


async def until(holds: Callable[[], Awaitable[bool] | bool], seconds: float, what: str) -> None:
    """Wait until something holds; `what` says it in words.

    Raises PromiseBroken if that takes longer than an idle machine does in so many seconds.
    """
    try:
        async with asyncio.timeout(patience(seconds)):
            while True:
                held = holds()
                if held if isinstance(held, bool) else await held:
                    return
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise PromiseBroken(f"not so after {seconds} s: {what}") from None


def accepted(answer: Answer) -> Answer:
    """Return an answer of 200 or 201. Raises PromiseBroken for any other."""
    require(answer.status in (200, 201), f"{answer.status}: {answer.body[:300]!r}")
    return answer


@asynccontextmanager
async def scratch(*, durable: bool = True) -> AsyncIterator[str]:
    """Run an embedded database in a temporary folder; yield its URL.

    Processes that are started meanwhile keep their files there, unless their settings differ, and
    all have one master key.
    """
    with tempfile.TemporaryDirectory(prefix="casebook-soak-") as folder:
        os.environ["CASEBOOK_DATA_DIR"] = folder
        os.environ.setdefault("CASEBOOK_MASTER_KEY", new_master_key())
        async with embedded.run(Path(folder), durable=durable) as url:
            yield url


@asynccontextmanager
async def connected(url: str, driver: DriverName = "motor") -> AsyncIterator[Database]:
    """Connect to a database while the block runs."""
    database = Database(url, driver)
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def log_at(url: str) -> AsyncIterator[tuple[Database, EventStore]]:
    """Connect to a database and prepare its log."""
    async with connected(url) as database:
        store = EventStore(database)
        await store.prepare()
        yield database, store


async def let_in(url: str) -> None:
    """Make the caller with HEADERS known to the servers of a database."""
    async with connected(url) as database:
        with suppress(VersionConflict):
            await Keys(database).add(_KEY)


async def callers(url: str, *roles: PrincipalRole) -> list[dict[str, str]]:
    """Return the headers of new callers, one for each role: of what is bounded each has a share."""
    async with connected(url) as database:
        names = [f"{ACTOR.id}-{role}{n or ''}" for n, role in enumerate(roles)]
        orders = [KeyOrder(principal=n, role=r) for n, r in zip(names, roles, strict=True)]
        made = [await Keys(database).make(order, "a soak") for order in orders]
    return [{"Authorization": f"Bearer {text}"} for _, text in made]


# --- processes ------------------------------------------------------------------------------------


_reserved: deque[int] = deque()


def free_port() -> int:
    """Return a port of this machine that nobody listens on, and that nobody else is given before a
    server does: the datagram port of the same number is kept for some time.

    It is below those that systems give to whoever connects: one of these may be in use again before
    a server that was killed is started anew.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        reserving = socket.socket(type=socket.SOCK_DGRAM)
        try:
            reserving.bind(("127.0.0.1", port))
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            reserving.close()
            continue
        _reserved.append(reserving.detach())
        if len(_reserved) > _MOST_RESERVED:
            os.close(_reserved.popleft())
        return port


@asynccontextmanager
async def process(*words: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a module of this project; kill it at the end if it still runs."""
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *words),
        env={**os.environ, "CASEBOOK_RATE_LIMIT": "1000000/second", **environment},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def code_of(*words: str, seconds: float = READY_SECONDS, **environment: str) -> int | None:
    """Run a module to its end and return its exit code; None if it takes longer than that."""
    async with process(*words, **environment) as running:
        with suppress(TimeoutError):
            await asyncio.wait_for(running.wait(), patience(seconds))
        return running.returncode


@asynccontextmanager
async def serving(
    *words: str, port: int, url: str | None = None, **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a server until the block ends, once it answers.

    `url`: of the database that it uses, where HEADERS become known; else it finds one for itself.
    """
    settings = {"CASEBOOK_PORT": str(port), "CASEBOOK_LOG_REQUESTS": "no"}
    if url is not None:
        settings["CASEBOOK_MONGODB_URL"] = url
    async with process(*words, **(settings | environment)) as server:
        await ready(port)
        if url is not None:
            await let_in(url)
        yield server
        await stop(server)


async def stop(process: asyncio.subprocess.Process) -> None:
    """Have a process end, if it still runs, as its supervisor does; wait for that for a while.

    One that is killed may leave a transaction open, and for as long as it is, no stream of the
    embedded server brings anything.
    """
    with suppress(ProcessLookupError, TimeoutError):
        process.terminate()
        await asyncio.wait_for(process.wait(), patience(_ENDING_SECONDS))


async def ready(port: int) -> None:
    """Wait until a server answers."""

    async def answers() -> bool:
        with suppress(ConnectionError):
            async with Connection(port) as connection:
                await connection.get("/healthz")
                return True
        return False

    await until(answers, READY_SECONDS, f"a server answers at port {port}")


@asynccontextmanager
async def listening(
    take: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None],
) -> AsyncIterator[int]:
    """Listen on a free port, which is yielded; `take` gets each connection."""
    async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


def database_processes(folder: Path) -> list[int]:
    """Find the embedded database's process by its folder (Linux)."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if str(folder / "database").encode() in words and words[0].endswith(b"secantusd-rs"):
                found.append(int(entry.name))
    return found


def memory_bytes(pid: int) -> int:
    """Return what a process has in memory (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024
