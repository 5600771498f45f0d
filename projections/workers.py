"""Processes that share a large piece of work on one database.

Each is a Python of its own that reads tasks from a pipe, two at a time, so that it folds one while
it waits for the database over the other. It ends when the pipe does: nothing is left behind even by
a parent that is killed.

A task is a module's own coroutine function, `task(database, item)`; items and results are pickled.
"""

import asyncio
import os
import pickle
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import cycle, islice
from typing import BinaryIO, TypeVar, cast

from domain.errors import CasebookError
from eventstore.database import Database
from eventstore.garbage import tune_gc
from eventstore.mongo.driver import DriverName
from eventstore.mongo.errors import UNANSWERED, DriverError, describe
from eventstore.personal.master_keys import MasterKeys

Item = TypeVar("Item")
Result = TypeVar("Result")
Task = Callable[[Database, Item], Awaitable[Result]]

_TASKS_AT_ONCE = 2
_LENGTH = struct.Struct("!Q")


class WorkerFailed(CasebookError):
    """A task failed in another process, or the process ended: for example for lack of memory."""

    def __init__(self, why: str) -> None:
        super().__init__("worker_failed", f"a worker process failed: {why}")


class Workers:
    """Some processes, or none: then tasks are done here, one after the other."""

    def __init__(self, database: Database, processes: Sequence["_Process"]) -> None:
        self._database = database
        self._processes = processes

    async def each(
        self, task: Task[Item, Result], items: Iterable[Item], took: Callable[[Result], None]
    ) -> None:
        """Do a task for each item; `took` gets the results, in any order.

        Raises WorkerFailed, or what the task does if it is done here; the rest is then not done.
        """
        waiting = iter(items)

        async def lane(process: _Process | None) -> None:
            for item in waiting:
                if process is None:
                    took(await task(self._database, item))
                else:
                    took(await process.do(task, item))

        count = _TASKS_AT_ONCE * len(self._processes)
        lanes: list[_Process | None] = [*islice(cycle(self._processes), count)] or [None]
        try:
            async with asyncio.TaskGroup() as group:
                for process in lanes:
                    group.create_task(lane(process))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None


async def patiently(work: Callable[[bool], Awaitable[Result]]) -> Result:
    """Do something, again for some time while the database is away; `work` is told if it is."""
    for seconds in (1, 2, 4, 8, 0):
        try:
            return await work(seconds != 1)
        except UNANSWERED:
            if not seconds:
                raise
        await asyncio.sleep(seconds)
    raise AssertionError("it has returned or raised")


@asynccontextmanager
async def workers(database: Database, count: int) -> AsyncIterator[Workers]:
    """Have some processes at work inside the block."""
    async with AsyncExitStack() as stack:
        started = [await stack.enter_async_context(_process(database)) for _ in range(count)]
        yield Workers(database, started)


class _Process:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._asked: dict[int, asyncio.Future[object]] = {}
        self._number = 0
        self._listening = asyncio.create_task(self._listen())

    async def do(self, task: Task[Item, Result], item: Item) -> Result:
        if self._listening.done():
            raise WorkerFailed("it has ended")
        self._number += 1
        answer = self._asked[self._number] = asyncio.get_running_loop().create_future()
        await self.send((self._number, task, item))
        return cast("Result", await answer)

    async def send(self, content: object) -> None:
        pipe = self._process.stdin
        if pipe is None:
            raise AssertionError("it was started with a pipe")
        with suppress(ConnectionError):  # then it has ended, which whoever waits is told
            pipe.write(_packed(content))
            await pipe.drain()

    async def _listen(self) -> None:
        pipe = self._process.stdout
        if pipe is None:
            raise AssertionError("it was started with a pipe")
        why = "it has ended"
        try:
            while True:
                [length] = _LENGTH.unpack(await pipe.readexactly(_LENGTH.size))
                number, done, result = pickle.loads(await pipe.readexactly(length))  # noqa: S301
                answer = self._asked.pop(number)
                if answer.cancelled():
                    continue
                if done:
                    answer.set_result(result)
                else:
                    answer.set_exception(WorkerFailed(result))
        except asyncio.IncompleteReadError:
            pass
        except Exception as error:  # noqa: BLE001 whoever waits is told
            why = repr(error)
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(WorkerFailed(why))

    async def end(self) -> None:
        self._listening.cancel()
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.wait()


@asynccontextmanager
async def _process(database: Database) -> AsyncIterator[_Process]:
    process = _Process(
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            __name__,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
            start_new_session=True,  # Ctrl-C is for the parent, which then ends it
        )
    )
    try:
        await process.send((database.url, database.driver, database.masters))
        yield process
    finally:
        await process.end()


def _packed(content: object) -> bytes:
    data = pickle.dumps(content)
    return _LENGTH.pack(len(data)) + data


# --- in the process -------------------------------------------------------------------------------


async def _work(requests: BinaryIO, answers: BinaryIO) -> None:
    address = await asyncio.to_thread(_read, requests)
    if address is None:
        return
    database = Database(*cast("tuple[str, DriverName, MasterKeys | None]", address))
    async with asyncio.TaskGroup() as group:
        while (request := await asyncio.to_thread(_read, requests)) is not None:
            group.create_task(_answer(database, request, answers))
    await database.close()


def _read(requests: BinaryIO) -> object:
    head = requests.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    return cast("object", pickle.loads(requests.read(*_LENGTH.unpack(head))))  # noqa: S301


async def _answer(database: Database, request: object, answers: BinaryIO) -> None:
    number, task, item = cast("tuple[int, Task[object, object], object]", request)
    try:
        answer = _packed((number, True, await task(database, item)))
    except Exception as error:  # noqa: BLE001 whoever asked is told
        answer = _packed((number, False, f"{type(error).__name__}: {_said(error)}"))
    with suppress(BrokenPipeError):  # nobody is there any more
        answers.write(answer)
        answers.flush()


def _said(error: Exception) -> object:
    return describe(error) if isinstance(error, DriverError) else error


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "wb") as pipe:
        os.dup2(2, 1)  # what anything prints is no answer
        tune_gc()
        asyncio.run(_work(sys.stdin.buffer, pipe))
