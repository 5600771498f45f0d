"""What runs beside something else: for as long as a block does, or until it is cancelled."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager

from pymongo.errors import PyMongoError

from domain.errors import CasebookError
from eventstore.failures import describe
from eventstore.mongo.ending import end

_log = logging.getLogger(__name__)


async def again_and_again(
    step: Callable[[], Awaitable[None]], what: str, pause_seconds: float
) -> None:
    """Do a step, and after a pause the same again, until cancelled.

    A failure is logged, as that of `what`, and tried again: giving up would leave it undone. The
    same failure again is not logged again.
    """
    logged: str | None = None
    while True:
        try:
            await step()
            logged = None
        except (PyMongoError, CasebookError) as error:
            if logged != describe(error):
                _log.warning("%s is held up; trying again: %s", what, describe(error))
            logged = describe(error)
        except Exception as error:  # noqa: BLE001 whatever it is, it may be over by then
            if logged != repr(error):
                _log.exception("%s failed; trying again", what)
            logged = repr(error)
        await asyncio.sleep(pause_seconds)


@asynccontextmanager
async def beside(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
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
