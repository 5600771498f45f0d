"""Ending tasks that work with the database."""

import asyncio

_AGAIN_SECONDS = 3.0


async def end(*tasks: asyncio.Task[object]) -> None:
    """Cancel tasks and wait until they have ended, whatever they raise.

    They are cancelled again if that takes long. PyMongo's async client waits for its sockets by
    `asyncio.wait_for`, which in Python 3.11 loses a cancellation that comes in the moment in which
    what it waits for is done: then a task that works for ever goes on, and who waits for its end
    waits for ever as well (github.com/python/cpython/issues/86296).
    """
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=_AGAIN_SECONDS)
    await asyncio.gather(*tasks, return_exceptions=True)
