"""Processes that share a large piece of work on one database.

A task is a module's own coroutine function, `task(database, item)`; items and results are pickled.
Each process does two tasks at a time, so that it folds one while the database answers the other.
The processes end when the block does, and when the parent is killed: each waits for the end of a
pipe whose other end the parent alone has.
"""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, suppress
from itertools import islice
from multiprocessing.connection import Connection
from threading import Thread
from typing import TypeVar

from domain.errors import CasebookError
from eventstore.background import run_all
from eventstore.database import Database
from eventstore.gc_tuning import tune_gc
from eventstore.mongo.driver import DriverName
from eventstore.mongo.errors import DriverError, describe, is_unavailable
from eventstore.personal.master_keys import MasterKeys

Item = TypeVar("Item")
Result = TypeVar("Result")
Task = Callable[[Database, Item], Awaitable[Result]]

_TASKS_AT_ONCE = 2
_PAUSES_SECONDS = (1, 2, 4, 8, 8)  # longer than an election takes


class WorkerFailed(CasebookError):
    """A task failed in another process, or the process ended: for example for lack of memory."""

    def __init__(self, why: str) -> None:
        super().__init__("worker_failed", f"a worker process failed: {why}")


class Workers:
    """Some processes, or none: then tasks are done here, one after the other."""

    def __init__(self, database: Database, pool: ProcessPoolExecutor | None, count: int) -> None:
        self._database = database
        self._pool = pool
        self._count = count

    async def each(
        self, task: Task[Item, Result], items: Iterable[Item], took: Callable[[Result], None]
    ) -> None:
        """Do a task for each item; `took` gets the results, in any order.

        Raises WorkerFailed, or what the task raises if it is done here; the rest is then not done.
        """
        if self._pool is None:
            for item in items:
                took(await task(self._database, item))
            return
        pool, loop, waiting = self._pool, asyncio.get_running_loop(), iter(items)

        async def do_some() -> None:
            while some := [*islice(waiting, _TASKS_AT_ONCE)]:
                try:
                    results = await loop.run_in_executor(pool, _do, task, some)
                except Exception as error:
                    raise WorkerFailed(f"{type(error).__name__}: {error}") from error
                if isinstance(results, str):
                    raise WorkerFailed(results)
                for result in results:
                    took(result)

        # Twice as many as processes: one waits when another is done.
        await run_all(*(do_some() for _ in range(2 * self._count)))


async def retry_while_unavailable(work: Callable[[bool], Awaitable[Result]]) -> Result:
    """Do something, again for some time while the database is away; `work` is told if it is."""
    for seconds in _PAUSES_SECONDS:
        try:
            return await work(seconds != _PAUSES_SECONDS[0])
        except Exception as error:
            if not is_unavailable(error):
                raise
        await asyncio.sleep(seconds)
    return await work(True)


@asynccontextmanager
async def workers(database: Database, count: int) -> AsyncIterator[Workers]:
    """Have some processes at work inside the block."""
    if not count:
        yield Workers(database, None, 0)
        return
    context = multiprocessing.get_context("spawn")
    ending, end = context.Pipe(duplex=False)
    address = database.url, database.driver, database.masters
    pool = ProcessPoolExecutor(count, context, _start, (ending, *address))
    try:
        yield Workers(database, pool, count)
    finally:
        end.close()
        await asyncio.to_thread(pool.shutdown, cancel_futures=True)
        ending.close()


# --- in the process -------------------------------------------------------------------------------

_mine: tuple[asyncio.Runner, Database] | None = None


def _start(ending: Connection, url: str, driver: DriverName, masters: MasterKeys | None) -> None:
    global _mine  # noqa: PLW0603 a pool gives its tasks nothing else of what they share
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this
    Thread(target=_end_with_parent, args=[ending], daemon=True).start()
    tune_gc()
    _mine = asyncio.Runner(), Database(url, driver, masters)


def _end_with_parent(ending: Connection) -> None:
    with suppress(EOFError, OSError):
        ending.recv()
    os._exit(0)


def _do(task: Task[Item, Result], items: Sequence[Item]) -> list[Result] | str:
    """Do some tasks at once; return why one failed if one does."""
    if _mine is None:
        raise AssertionError("the process was started")
    runner, database = _mine

    async def do_all() -> list[Result]:
        return await asyncio.gather(*(task(database, item) for item in items))

    try:
        return runner.run(do_all())
    except BaseException as error:  # noqa: BLE001 the parent is told, as a line: not all errors pickle
        said = describe(error) if isinstance(error, DriverError) else error
        return f"{type(error).__name__}: {said}"
