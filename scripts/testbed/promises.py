"""What a soak works with, and how it tells that a promise was broken."""

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast

from api.access.keys import KeyOrder, Keys, new_key
from domain.actors import Actor, PrincipalRole
from domain.errors import CasebookError
from domain.tickets.opening import OpenTicket
from eventstore.database import Database
from eventstore.event_document import utc_now
from eventstore.failures import VersionConflict
from eventstore.mongo import embedded
from eventstore.mongo.driver import DriverName
from scripts.testbed.load import Answer, Connection
from scripts.testbed.patience import patience

ACTOR = Actor("soak", "agent")
OPEN = OpenTicket(subject="Soak", requester="soak")

READY_SECONDS = 60

_KEY, _TEXT = new_key(ACTOR.id, "supervisor", "a soak", utc_now())
HEADERS = {"Authorization": f"Bearer {_TEXT}"}
"""By what servers know who asks, once `let_in` has told them."""


@asynccontextmanager
async def connected(url: str, driver: DriverName = "motor") -> AsyncIterator[Database]:
    """Connect to a database while the block runs."""
    database = Database(url, driver)
    try:
        yield database
    finally:
        await database.close()


async def let_in(url: str, role: PrincipalRole = "supervisor") -> dict[str, str]:
    """Make who asks with HEADERS known to servers of a database; or return others, for a role."""
    async with connected(url) as database:
        if role != "supervisor":
            return await _headers(database, f"{ACTOR.id}-{role}", role)
        with suppress(VersionConflict):
            await Keys(database).add(_KEY)
    return HEADERS


async def let_in_many(url: str, count: int) -> list[dict[str, str]]:
    """Return the headers of so many callers, each another: of what is bounded each has a share."""
    async with connected(url) as database:
        names = [f"{ACTOR.id}-{n}" for n in range(count)]
        return [await _headers(database, name, "supervisor") for name in names]


async def _headers(database: Database, principal: str, role: PrincipalRole) -> dict[str, str]:
    _, text = await Keys(database).make(KeyOrder(principal=principal, role=role), "a soak")
    return {"Authorization": f"Bearer {text}"}


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
    """Run an embedded database in a temporary folder and give its URL.

    What is started meanwhile keeps its files there as well, unless told otherwise.
    """
    with tempfile.TemporaryDirectory(prefix="casebook-soak-") as folder:
        os.environ["CASEBOOK_DATA_DIR"] = folder
        async with embedded.run(Path(folder), durable=durable) as url:
            yield url


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
    """Run a script to its end, and return its exit code: None if it takes longer than that."""
    async with process(*words, **environment) as running:
        with suppress(TimeoutError):
            await asyncio.wait_for(running.wait(), patience(seconds))
        return running.returncode


@asynccontextmanager
async def serving(
    *words: str, port: int, url: str | None = None, **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a server until the block ends, once it answers; HEADERS are known to it, if `url` is."""
    async with process(*words, **environment) as server:
        await ready(port)
        if url is not None:
            await let_in(url)
        yield server


@asynccontextmanager
async def service(kind: str, url: str) -> AsyncIterator[int]:
    """Run one of the services of `scripts.testbed.services` on a free port, which is yielded."""
    port = free_port()
    async with serving("scripts.bench", "_serve", kind, url, str(port), port=port, url=url):
        yield port


async def ready(port: int) -> None:
    """Wait until a server answers."""
    async with asyncio.timeout(patience(READY_SECONDS)):
        while True:
            with suppress(ConnectionError):
                async with Connection(port) as connection:
                    await connection.get("/healthz")
                    return
            await asyncio.sleep(0.02)


def database_processes(folder: Path) -> list[int]:
    """Find the embedded database's process by its folder (Linux)."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if str(folder / "database").encode() in words and words[0].endswith(b"secantusd-rs"):
                found.append(int(entry.name))
    return found
