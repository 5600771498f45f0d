"""More processes that answer requests, on the socket of the one that starts them.

Each is a `scripts.serve` of its own that projects nothing, keeps no time and sends nothing. Its
standard input is a pipe from the process that has started it. It ends when that is closed, so that
nothing is left behind even by a parent that is killed.
"""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

from api.settings import Settings
from domain.errors import CasebookError
from eventstore.background import background
from eventstore.database import Database
from eventstore.personal.master_keys import MasterKeys

_AGAIN_SECONDS = 1.0
_ENDING_SECONDS = 20.0


class WorkerEnded(CasebookError):
    """A process that answers requests has ended by itself: for example because it was killed."""


@asynccontextmanager
async def http_workers(
    count: int, listening: socket.socket, database: Database, settings: Settings
) -> AsyncIterator[None]:
    """Have so many processes answer on a socket; one that ends is started again."""
    async with AsyncExitStack() as stack:
        for number in range(1, count + 1):
            environment = _environment(database, settings, number)
            worker = partial(_run, listening.fileno(), environment)
            keep = database.supervisor.keep(worker, f"HTTP worker {number}", _AGAIN_SECONDS)
            await stack.enter_async_context(background(keep))
        yield


def _environment(database: Database, settings: Settings, number: int) -> Mapping[str, str]:
    environment = {**os.environ, "CASEBOOK_MONGODB_URL": database.url}
    if MasterKeys.given() is None and settings.master_key_path.exists():
        environment["CASEBOOK_MASTER_KEY_FILE"] = str(settings.master_key_path.resolve())
    if settings.metrics_port is not None:
        environment["CASEBOOK_METRICS_PORT"] = str(settings.metrics_port + number)
    return environment


async def _run(descriptor: int, environment: Mapping[str, str]) -> None:
    """Run a process until cancelled. Raises WorkerEnded if it ends before."""
    words = ("-m", "scripts.serve", "--listening", str(descriptor))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *words,
        env=environment,
        pass_fds=[descriptor],
        stdin=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the process that has started it
    )
    try:
        code = await process.wait()
        raise WorkerEnded("worker_ended", f"it has ended with {code}")
    finally:
        if process.stdin is not None:
            process.stdin.close()
        with suppress(TimeoutError):  # it answers what it has begun with
            await asyncio.wait_for(process.wait(), _ENDING_SECONDS)
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def end_with_parent() -> AsyncIterator[None]:
    """Cancel the block when standard input is closed."""
    inside = asyncio.current_task()

    async def watch() -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        await reader.read()
        if inside is not None:
            inside.cancel()

    async with background(watch()):
        yield
