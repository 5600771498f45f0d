"""Tasks that work for ever are ended, even where a cancellation gets lost."""

import asyncio
from contextlib import suppress

import pytest

from eventstore import background as module
from eventstore.background import Supervisor, background, end, run_all
from eventstore.failures import StoreUnavailable
from tests.projecting import until


async def test_a_task_that_loses_a_cancellation_is_cancelled_again(monkeypatch):
    monkeypatch.setattr(module, "_CANCEL_AGAIN_SECONDS", 0.01)
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


async def test_who_ends_a_task_that_loses_a_cancellation_may_be_cancelled_again(monkeypatch):
    """Else it would work on for ever, known to nobody: a change stream that nobody reads."""
    monkeypatch.setattr(module, "_CANCEL_AGAIN_SECONDS", 0.01)
    left = 3

    async def lose_some():
        nonlocal left
        while left:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                left -= 1

    async def work():
        async with background(lose_some()):
            await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await asyncio.sleep(0.01)
    async with asyncio.timeout(30):
        await end(working)
    assert working.cancelled()
    assert left == 0


async def test_one_of_several_loses_its_cancellation_when_another_fails(monkeypatch):
    """L8: else what was to be begun again would stand still for ever, and nothing would show it."""
    monkeypatch.setattr(module, "_CANCEL_AGAIN_SECONDS", 0.01)

    async def lose_it():
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    async def fail():
        await asyncio.sleep(0)
        raise StoreUnavailable

    async with asyncio.timeout(30):
        with pytest.raises(StoreUnavailable):
            await run_all(lose_it(), fail())


async def test_what_a_task_has_raised_is_still_its_own():
    async def fail():
        raise RuntimeError

    failing = asyncio.create_task(fail())
    await asyncio.sleep(0)
    await end(failing)
    assert isinstance(failing.exception(), RuntimeError)
    await end()


async def test_a_step_that_fails_is_done_again_and_is_named_until_it_succeeds(caplog):
    supervisor, failures = Supervisor(), iter([StoreUnavailable(), StoreUnavailable(), KeyError()])
    seen: list[list[str]] = []

    async def step():
        seen.append(supervisor.failing())
        for failure in failures:
            raise failure

    async with background(supervisor.keep(step, "folding", 0.001)):
        await until(lambda: asyncio.sleep(0, len(seen) >= 5))
    assert seen[:5] == [[], ["folding"], ["folding"], ["folding"], []]
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"], "once each"


async def test_what_failed_long_ago_in_a_step_that_lasts_is_not_named(monkeypatch):
    # Long enough for a busy machine to see it.
    monkeypatch.setattr("eventstore.background._FAILING_SECONDS", 2.0)
    supervisor, failures = Supervisor(), iter([KeyError()])

    async def follow():
        for failure in failures:
            raise failure
        await asyncio.Event().wait()

    async with background(supervisor.keep(follow, "following", 0.001)):
        await until(lambda: asyncio.sleep(0, supervisor.failing()))
        await until(lambda: asyncio.sleep(0, not supervisor.failing()))
