"""A wait of PyMongo's async client that must not lose its lock, on Python 3.11.

While no server is found, each operation waits for news of the servers on one condition, by
`asyncio.wait_for`. In Python 3.11 that is a task of its own, which takes the condition's lock again
when it ends; who is cancelled twice meanwhile goes on without it. Then the lock is nobody's and
never free again, and the client stands still for good. Later versions wait in the same task.
"""

import asyncio
import sys

from pymongo.asynchronous import pool, topology


async def wait(condition: asyncio.Condition, seconds: float | None) -> bool:
    """Wait for a condition whose lock is held; return False after so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            return await condition.wait()
    except TimeoutError:
        return False


def mend() -> None:
    """Have PyMongo's async client wait so, where it is needed."""
    if sys.version_info < (3, 12):
        for module in (pool, topology):
            setattr(module, "_async_cond_wait", wait)  # noqa: B010 it is none of its type's names
