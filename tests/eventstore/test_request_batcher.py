"""Questions that are asked together: of now, each with its own answer, and no one's failure."""

import asyncio
import gc

import pytest
from pymongo.errors import AutoReconnect

from eventstore import failures
from eventstore.failures import StoreUnavailable
from eventstore.mongo import request_batcher as module
from eventstore.mongo.request_batcher import MOST_AT_ONCE, RequestBatcher, SingleFlight
from scripts.testbed.patience import patience


class Asked:
    """Answers from `values` when it is let; remembers what it was asked at once."""

    def __init__(self, values=None):
        self.values = values or {}
        self.questions = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.failures = {}

    async def __call__(self, keys):
        self.questions.append(sorted(keys))
        await self.may_answer.wait()
        for key in keys:
            if key in self.failures:
                raise self.failures[key]
        return {key: self.values[key] for key in keys if key in self.values}


async def waiting_for(together, *keys):
    """Tasks that wait for keys, each begun."""
    tasks = [asyncio.create_task(together.get(key)) for key in keys]
    await asyncio.sleep(0.01)
    return tasks


async def test_who_is_alone_waits_for_nobody():
    asked = Asked({"a": 1})
    together = RequestBatcher(asked)
    assert await together.get("a") == 1
    assert await together.get("b") is None
    assert asked.questions == [["a"], ["b"]]
    await asyncio.sleep(0)
    assert not together._asked


async def test_what_gathers_meanwhile_is_asked_as_one():
    asked = Asked({"a": 1, "b": 2, "c": 3})
    asked.may_answer.clear()
    together = RequestBatcher(asked)
    tasks = await waiting_for(together, "a")
    tasks += await waiting_for(together, "b", "c", "b", "d")
    asked.may_answer.set()
    assert await asyncio.gather(*tasks) == [1, 2, 3, 2, None]
    assert asked.questions == [["a"], ["b", "c", "d"]]


async def test_no_answer_is_older_than_its_question():
    """Law L9: what is acknowledged before a question is asked is in its answer."""
    asked = Asked({"a": 1})
    asked.may_answer.clear()
    together = RequestBatcher(asked)
    [early] = await waiting_for(together, "a")
    asked.values["a"] = 2  # acknowledged now
    [late] = await waiting_for(together, "a")
    asked.may_answer.set()
    await early
    assert await late == 2
    assert asked.questions == [["a"], ["a"]]


async def test_so_many_are_asked_at_once_and_no_more():
    asked = Asked()
    asked.may_answer.clear()
    together = RequestBatcher(asked)
    tasks = await waiting_for(together, *range(2 * MOST_AT_ONCE + 1))
    asked.may_answer.set()
    await asyncio.gather(*tasks)
    assert [len(question) for question in asked.questions] == [MOST_AT_ONCE, MOST_AT_ONCE, 1]


async def test_what_cannot_be_read_fails_nobody_else():
    asked = Asked({"a": 1, "b": 2})
    asked.failures["broken"] = ValueError("a year of 20,000")
    asked.may_answer.clear()
    together = RequestBatcher(asked)
    tasks = await waiting_for(together, "a", "b", "broken")
    asked.may_answer.set()
    first, second, third = await asyncio.gather(*tasks, return_exceptions=True)
    assert (first, second) == (1, 2)
    assert isinstance(third, ValueError)


@pytest.mark.parametrize("failure", [AutoReconnect("gone"), StoreUnavailable()])
async def test_when_the_database_is_away_each_is_told_and_later_answered(failure):
    asked = Asked({"a": 1})
    asked.failures = dict.fromkeys(("b", "c"), failure)
    asked.may_answer.clear()
    together = RequestBatcher(asked)
    tasks = await waiting_for(together, "a")
    tasks += await waiting_for(together, "b", "c", "c")
    asked.may_answer.set()
    first, *others = await asyncio.gather(*tasks, return_exceptions=True)
    assert first == 1
    assert others == [failure] * 3
    assert sorted(map(len, asked.questions)) == [1, 1, 1, 2]
    asked.failures.clear()
    assert await together.get("a") == 1


async def test_a_shard_that_is_silent_holds_up_nobody_else_for_long(monkeypatch):
    """Whoever was asked about together with what is there, and whoever asks later."""
    monkeypatch.setattr(module, "SOON_SECONDS", 0.05)
    monkeypatch.setattr(failures, "PATIENCE_SECONDS", patience(0.5))
    asked = Asked({"here": 1, "there": 2})

    async def ask(keys):
        if "silent" in keys:
            await asyncio.Event().wait()
        return await asked(keys)

    together = RequestBatcher(ask)
    silent, here = await waiting_for(together, "silent", "here")
    [alone] = await waiting_for(together, "silent")
    assert await here == 1
    assert await together.get("there") == 2
    assert not silent.done()
    assert not alone.done()
    for lost in (silent, alone):
        with pytest.raises(StoreUnavailable):
            await lost
    assert not together._asked


async def test_a_question_that_is_never_answered_is_given_up(monkeypatch):
    monkeypatch.setattr(failures, "PATIENCE_SECONDS", 0.05)
    asked = Asked({"a": 1})
    asked.may_answer.clear()
    together = RequestBatcher(asked)
    with pytest.raises(StoreUnavailable):
        await together.get("a")
    asked.may_answer.set()
    assert await together.get("a") == 1


async def test_who_goes_away_takes_nobody_along():
    asked = Asked({"a": 1})
    asked.may_answer.clear()
    together = RequestBatcher(asked)
    gone, stays, later = await waiting_for(together, "a", "b", "a")
    gone.cancel()
    stays.cancel()
    asked.may_answer.set()
    assert await later == 1
    assert await together.get("a") == 1


async def test_the_same_is_asked_once_for_all_and_others_do_not_wait():
    shared: SingleFlight[str, str] = SingleFlight()
    slow, asked = asyncio.Event(), []

    async def ask(what, until=None):
        asked.append(what)
        if until is not None:
            await until.wait()
        return what

    tasks = []
    for some in (1, 4):
        tasks += [asyncio.create_task(shared.get("x", lambda: ask("x", slow))) for _ in range(some)]
        await asyncio.sleep(0.01)
    assert await shared.get("y", lambda: ask("y")) == "y"
    slow.set()
    assert await asyncio.gather(*tasks) == ["x"] * 5
    assert asked == ["x", "y", "x"]  # the first, and once for those who came while it was asked
    assert not shared._asked


async def test_what_the_same_question_fails_with_each_is_told():
    shared: SingleFlight[str, str] = SingleFlight()

    async def ask():
        raise ValueError("no")

    found = await asyncio.gather(*(shared.get("x", ask) for _ in range(3)), return_exceptions=True)
    assert [str(error) for error in found] == ["no"] * 3
    del found  # its tracebacks hold all that was at work
    await asyncio.sleep(0.01)
    gc.collect()
    assert not shared._asked


async def test_nothing_is_kept_of_a_question_that_all_have_turned_away_from():
    shared: SingleFlight[str, str] = SingleFlight()
    may_answer = asyncio.Event()

    async def ask():
        await may_answer.wait()
        return "late"

    waiting = asyncio.create_task(shared.get("x", ask))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    del waiting
    may_answer.set()
    await asyncio.sleep(0.01)
    gc.collect()
    assert not shared._asked
