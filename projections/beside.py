"""Something that runs for as long as a block does, and takes the block down with it if it fails."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager


@asynccontextmanager
async def beside(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Do something else while the block runs; if that fails, so does the block, with its error."""
    inside = asyncio.current_task()
    if inside is None:
        raise AssertionError("it runs in a task")
    cancelled_before = inside.cancelling()
    running = asyncio.create_task(work)
    failed = False

    def ended(task: asyncio.Task[None]) -> None:
        nonlocal failed
        if not task.cancelled() and task.exception() is not None:
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
        running.remove_done_callback(ended)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
