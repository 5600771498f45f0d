"""Small questions go to the database together, and each gets its own answer."""

import asyncio

import pytest
from pymongo.errors import OperationFailure

from eventstore.database import Database
from eventstore.mongo.coalesced_reads import CoalescedReads
from scripts.testbed.wire import Fate, Refused, through


@pytest.fixture
async def heard(database):
    """A database through a wire, and the names of the commands that reach two collections of it."""
    names: list[str] = []

    def hear(command):
        name = next(iter(command))
        if name in ("find", "aggregate"):
            names.append(name)
        return Fate.PASSED

    await database.collection("few").insert_many([{"_id": n, "of": "few"} for n in range(3)])
    await database.collection("others").insert_many([{"_id": n, "n": n % 2} for n in range(5)])
    async with through(database.url, hear) as (url, wire):
        there = Database(url, database.driver)
        await there.check()
        names.clear()
        yield there, names, wire
        await there.close()


async def test_what_is_asked_at_the_same_moment_is_one_command(heard):
    there, names, _ = heard
    few, last, some, none = await asyncio.gather(
        there.small("few"),
        there.small("others", order={"_id": -1}, limit=1),
        there.small("others", {"n": 1}, order={"_id": 1}),
        there.small("not_there"),
    )
    assert few == [{"_id": n, "of": "few"} for n in range(3)]
    assert last == [{"_id": 4, "n": 0}]
    assert some == [{"_id": 1, "n": 1}, {"_id": 3, "n": 1}]
    assert none == []
    assert names == ["aggregate"]


async def test_what_can_wait_goes_along_with_what_cannot(heard):
    there, names, _ = heard
    waiting = asyncio.create_task(there.small("others", {"n": 1}, within_seconds=1000.0))
    await asyncio.sleep(0)
    assert len(await there.small("few")) == 3
    assert len(await waiting) == 2
    assert names == ["aggregate"]


async def test_who_asks_for_the_same_shares_an_answer(heard):
    there, names, _ = heard
    gone, *others = [asyncio.create_task(there.small("few")) for _ in range(3)]
    await asyncio.sleep(0)
    gone.cancel()
    assert [len(found) for found in await asyncio.gather(*others)] == [3, 3]
    assert names == ["find"]


async def test_what_waits_is_asked_by_itself_when_its_time_is_up(heard):
    there, names, _ = heard
    assert len(await there.small("few", within_seconds=0.01)) == 3
    assert names == ["find"]


async def test_what_cannot_be_answered_together_is_asked_one_by_one(heard):
    there, names, wire = heard
    passed = wire.heard

    def refuse(command):
        passed(command)
        is_bad = "aggregate" in command or command.get("find") == "others"
        error = {"ok": 0.0, "errmsg": "not so", "code": 40, "codeName": "ConflictingUpdate"}
        return Refused(error) if is_bad else Fate.PASSED

    wire.heard = refuse
    answers = await asyncio.gather(
        there.small("few"), there.small("others"), return_exceptions=True
    )
    assert answers[0] == await there.small("few")
    assert isinstance(answers[1], OperationFailure)
    assert names == ["aggregate", "find", "find", "find"]


async def test_what_is_not_answered_together_is_asked_one_by_one(heard):
    there, _, wire = heard
    passed = wire.heard

    def lose(command):
        passed(command)
        return Fate.ANSWER_LOST if "aggregate" in command else Fate.PASSED

    wire.heard = lose
    few, others = await asyncio.gather(there.small("few"), there.small("others"))
    assert (len(few), len(others)) == (3, 5)


async def test_who_asked_and_has_gone_keeps_nobody_waiting(heard):
    there, names, _ = heard
    gone = asyncio.create_task(there.small("others", within_seconds=1000.0))
    await asyncio.sleep(0)
    gone.cancel()
    assert len(await there.small("few")) == 3
    assert names == ["find"]


async def test_of_large_collections_one_is_asked_in_a_command(heard):
    there, names, _ = heard
    reads = CoalescedReads(there.client[there.name])
    found = await asyncio.gather(
        *(reads.find("others", {"n": n}, is_large=True) for n in (0, 1)), reads.find("few")
    )
    assert [len(each) for each in found] == [3, 2, 3]
    assert sorted(names) == ["aggregate", "find"]


async def test_a_large_collection_is_asked_first_and_by_its_index(heard):
    """The embedded server reads a collection whole that is joined, and where no index has all
    fields of a stage: of a log of a million events that took seconds, every second.
    """
    there, _, wire = heard
    asked = []

    def hear(command):
        asked.append(command)
        return Fate.PASSED

    wire.heard = hear
    reads = CoalescedReads(there.client[there.name])
    condition = {"n": {"$gt": 0}, "_id": {"$nin": [1]}}
    few, found = await asyncio.gather(
        reads.find("few"), reads.find("others", condition, is_large=True)
    )
    assert (len(few), found) == (3, [{"_id": 3, "n": 1}])
    [command] = [each for each in asked if "aggregate" in each]
    assert command["aggregate"] == "others"
    assert command["pipeline"][0] == {"$match": {"n": {"$gt": 0}}}
