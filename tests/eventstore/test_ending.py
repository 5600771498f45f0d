"""Tasks that work for ever are ended, even where a cancellation gets lost."""

import asyncio

from eventstore.mongo import ending
from eventstore.mongo.ending import end


async def test_a_task_that_loses_a_cancellation_is_cancelled_again(monkeypatch):
    monkeypatch.setattr(ending, "_AGAIN_SECONDS", 0.01)
    lost = 0

    async def work():
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                lost += 1
                if lost == 3:
                    raise

    working = asyncio.create_task(work())
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await end(working)
    assert working.cancelled()
    assert lost == 3


async def test_what_a_task_has_raised_is_still_its_own():
    async def fail():
        raise RuntimeError

    failing = asyncio.create_task(fail())
    await asyncio.sleep(0)
    await end(failing)
    assert isinstance(failing.exception(), RuntimeError)
    await end()
