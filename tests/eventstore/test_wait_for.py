"""PyMongo's async client loses neither a cancellation nor its lock, on Python 3.11 either."""

import asyncio
from contextlib import suppress

import pytest
from pymongo.asynchronous import topology
from pymongo.lock import _async_create_condition, _async_create_lock

from eventstore.mongo import driver
from scripts.testbed.patience import patience


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # of one that was to connect
async def test_who_is_cancelled_at_any_moment_of_a_question_does_not_go_on(quick_database):
    """L8: else a projector that is to end goes on, and who waits for its end does so for ever."""
    asked = quick_database.collection("things")

    async def ask_on_and_on():
        while True:
            await asked.find_one()

    await asked.find_one()  # so that it is connected
    for moment in range(60):
        asking = asyncio.create_task(ask_on_and_on())
        for _ in range(moment):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking], timeout=patience(2))
        assert asking.cancelled(), moment


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
