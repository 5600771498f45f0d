"""Work in the background: for as long as a block runs, or for as long as the process does.

What a process is to do all the time is done by its `Supervisor`: a failure is logged once, and
tried again after a pause that grows, for giving up would leave the work undone. What has failed
within the last minute shows in `/readyz`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager

from cachetools import TTLCache

from domain.errors import CasebookError
from eventstore.mongo.errors import DriverError, describe

LONGEST_PAUSE_SECONDS = 5.0
_CANCEL_AGAIN_SECONDS = 3.0
_FAILING_SECONDS = 60.0
_MOST_TASKS = 100

_log = logging.getLogger(__name__)


class Supervisor:
    """Does the background work of one process on one database, and knows what of it fails."""

    def __init__(self) -> None:
        self._failing: TTLCache[str, str] = TTLCache(_MOST_TASKS, _FAILING_SECONDS)

    def failing(self) -> list[str]:
        """Return what has failed within the last minute and has not succeeded since."""
        return sorted(self._failing)

    async def keep(
        self,
        step: Callable[[], Awaitable[None]],
        what: str,
        pause_seconds: float,
        longest_seconds: float = LONGEST_PAUSE_SECONDS,
    ) -> None:
        """Do a step, and after a pause the same again, until cancelled. The pause doubles while the
        step fails, up to `longest_seconds`. `what`: its name in the log and in `/readyz`.
        """
        failures = 0
        while True:
            try:
                await step()
                failures = 0
                self._failing.pop(what, None)
            except Exception as error:  # noqa: BLE001 whatever it is, it may be over by then
                failures += 1
                self._note(what, error)
            doubled = pause_seconds * 2 ** min(max(failures - 1, 0), 10)
            await asyncio.sleep(min(doubled, max(pause_seconds, longest_seconds)))

    def _note(self, what: str, error: Exception) -> None:
        expected = isinstance(error, DriverError | CasebookError)
        why = describe(error) if expected else repr(error)
        if self._failing.get(what) == why:
            pass  # it has been logged
        elif expected:
            _log.warning("%s is held up; trying again: %s", what, why)
        else:
            _log.error("%s failed; trying again", what, exc_info=error)
        self._failing[what] = why


async def end(*tasks: asyncio.Task[object]) -> None:
    """Cancel tasks and wait until they have ended, whatever they raise.

    They are cancelled again if that takes long: in Python 3.11 `asyncio.wait_for` loses a
    cancellation that comes in the moment in which what it waits for is done. Then a task that works
    for ever goes on, and waiting for its end lasts for ever as well
    (github.com/python/cpython/issues/86296). PyMongo's client is mended (`mongo/wait_for.py`);
    others may use it.
    """
    cancelled: asyncio.CancelledError | None = None
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        try:
            await asyncio.wait(running, timeout=_CANCEL_AGAIN_SECONDS)
        except asyncio.CancelledError as error:  # by who ends the caller: not before these have
            cancelled = error
    await asyncio.gather(*tasks, return_exceptions=True)
    if cancelled is not None:
        raise cancelled


async def run_all(*works: Coroutine[None, None, None]) -> None:
    """Run coroutines at once. The first that fails cancels the others, and its error is raised.

    A TaskGroup would cancel them once, and wait for ever for one that loses it: see `end`.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            if not task.cancelled():
                task.result()
    finally:
        await end(*tasks)


@asynccontextmanager
async def background(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Do something else while the block runs; if that fails, so does the block, with its error."""
    inside = asyncio.current_task()
    if inside is None:
        raise AssertionError("it runs in a task")
    cancelled_before = inside.cancelling()
    running = asyncio.create_task(work)
    failed = over = False

    def ended(task: asyncio.Task[None]) -> None:
        nonlocal failed
        # It may be called once more when the block has failed in the same moment.
        if not over and not task.cancelled() and task.exception() is not None:
            failed = True
            inside.cancel()

    running.add_done_callback(ended)
    try:
        yield
        await asyncio.sleep(0)  # so that it is not in what comes behind that one is cancelled
    except asyncio.CancelledError:
        # Someone else may want it to end as well, and that is what counts.
        if failed and inside.uncancel() == cancelled_before and (error := running.exception()):
            raise error from None
        raise
    finally:
        over = True
        await end(running)
