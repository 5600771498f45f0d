"""`asyncio.wait_for` as PyMongo's async client needs it, on Python 3.11.

There it runs what it waits for as a task of its own. Who is cancelled in the moment in which that
is done goes on as if nothing had been (github.com/python/cpython/issues/86296), and the client
sends each message so: a task that works for ever would never end, and a time limit not hold. Who
is cancelled twice while no server is found goes on without the lock under which the client waits
for one: it would never be free again. Later versions wait in the same task.
"""

import asyncio
import sys
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import TypeVar

from pymongo import lock, network_layer, pool_shared

T = TypeVar("T")


async def wait_for(work: Awaitable[T], timeout: float | None) -> T:  # noqa: ASYNC109 as asyncio's
    """Wait for something in the same task. Raises TimeoutError after so many seconds."""
    async with asyncio.timeout(timeout):
        return await work


def mend() -> None:
    """Have PyMongo's async client wait so, where it is needed."""
    if sys.version_info < (3, 12):
        mended = SimpleNamespace(**(vars(asyncio) | {"wait_for": wait_for}))
        for module in (network_layer, pool_shared):
            setattr(module, "asyncio", mended)  # noqa: B010 it is none of its type's names
        setattr(lock, "wait_for", wait_for)  # noqa: B010
