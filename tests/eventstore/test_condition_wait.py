"""PyMongo's async client waits for a server without losing its lock."""

import asyncio
from contextlib import suppress

from pymongo.asynchronous import topology
from pymongo.lock import _async_create_condition, _async_create_lock

from eventstore.mongo import driver


async def test_who_is_cancelled_twice_while_it_waits_leaves_the_lock_free():
    """L8: else a client on which operations were given up in a failover stands still for good."""
    assert driver.MongoDatabase.__name__  # with which it is mended
    lock = _async_create_lock()
    condition = _async_create_condition(lock)

    async def look():
        async with lock:
            await vars(topology)["_async_cond_wait"](condition, 30.0)

    looking = asyncio.create_task(look())
    await asyncio.sleep(0.01)
    async with lock:  # so that the condition cannot take it again at once
        looking.cancel()
        await asyncio.sleep(0.01)
        looking.cancel()
    with suppress(asyncio.CancelledError, RuntimeError):
        await looking
    await asyncio.sleep(0.01)
    assert not lock.locked()
