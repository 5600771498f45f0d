"""A value that is kept for some seconds, and read once for all who ask."""

import asyncio

import pytest

from eventstore import failures
from eventstore.cached_value import CachedValue
from eventstore.failures import StoreUnavailable


class Reading:
    """Reads 1, 2, 3 ...; each read waits until it may go on."""

    def __init__(self):
        self.count = 0
        self.may_go_on = asyncio.Event()

    async def __call__(self):
        self.count += 1
        value = self.count
        await self.may_go_on.wait()
        return value


async def test_all_who_ask_at_once_share_one_read():
    reading = Reading()
    recent = CachedValue(reading)
    asking = [asyncio.create_task(recent.get(60.0)) for _ in range(5)]
    await asyncio.sleep(0)
    reading.may_go_on.set()
    assert await asyncio.gather(*asking) == [1] * 5
    assert await recent.get(60.0) == 1


async def test_what_must_be_of_now_was_not_read_before_it_was_asked_for():
    reading = Reading()
    recent = CachedValue(reading)
    first = asyncio.create_task(recent.get(0.0))
    await asyncio.sleep(0)
    later = [asyncio.create_task(recent.get(0.0)) for _ in range(3)]
    reading.may_go_on.set()
    assert await first == 1
    assert set(await asyncio.gather(*later)) == {2}


async def test_what_is_put_is_not_replaced_by_what_was_read_before():
    reading = Reading()
    recent = CachedValue(reading)
    asking = asyncio.create_task(recent.get(60.0))
    await asyncio.sleep(0.001)
    recent.put(7)
    reading.may_go_on.set()
    assert await asking == 7
    assert await recent.get(60.0) == 7


async def test_a_failure_is_not_kept():
    async def fail():
        raise ConnectionResetError

    recent = CachedValue(fail)
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            await recent.get(60.0)


async def test_nobody_waits_for_more_than_their_own_time(monkeypatch):
    """L12: a command that waits behind others for a silent database is told so in time."""
    monkeypatch.setattr(failures, "PATIENCE_SECONDS", 0.05)
    reads = 0

    async def silent():
        nonlocal reads
        reads += 1
        await asyncio.Event().wait()

    value = CachedValue(silent)
    found = await asyncio.gather(*(value.get(1) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(each, StoreUnavailable) for each in found)
    assert reads == 1, "all were out of time while the first was answered by nothing"
    with pytest.raises(StoreUnavailable):
        await value.get(1)
