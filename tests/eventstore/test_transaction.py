"""Transactions on both drivers, case by case as the specification of the convenient API has them.

The server is made to fail by its fail point `failCommand`, which MongoDB has where test commands
are enabled.
"""

import asyncio

import pytest
from pymongo.errors import NetworkTimeout, OperationFailure, PyMongoError

from eventstore.mongo.driver import maybe_await
from eventstore.mongo.transaction import with_transaction
from tests.failing import failing

_TRANSIENT, _UNKNOWN = "TransientTransactionError", "UnknownTransactionCommitResult"


class Work:
    """Inserts one document a run, and knows how often it ran."""

    def __init__(self, database, then=None):
        self.collection, self.runs, self._then = database.collection("ones"), 0, then

    async def __call__(self, session):
        self.runs += 1
        await self.collection.insert_one({"_id": self.runs}, session=session)
        if self._then is not None:
            await self._then(session)
        return f"run {self.runs}"

    async def written(self):
        return [document["_id"] async for document in self.collection.find()]


@pytest.fixture
async def work(any_database):
    await any_database.collection("ones").insert_one({"_id": 0})  # so that the collection is there
    return Work(any_database)


async def run(database, work, seconds=60.0, **more):
    session = await maybe_await(database.client.start_session())
    try:
        return await with_transaction(session, work, seconds=seconds, **more)
    finally:
        await session.end_session()


async def test_what_the_work_returns_is_returned_and_its_writes_are_there(any_database, work):
    assert await run(any_database, work) == "run 1"
    assert await work.written() == [0, 1]


async def test_the_work_may_end_its_transaction_itself(any_database, work):
    aborting = Work(any_database, lambda session: session.abort_transaction())
    assert await run(any_database, aborting) == "run 1"
    assert await work.written() == [0]
    committing = Work(any_database, lambda session: session.commit_transaction())
    assert await run(any_database, committing) == "run 1"
    assert await work.written() == [0, 1]


async def test_an_error_of_the_work_ends_it_and_nothing_is_written(any_database, work):
    async def fail(session):
        raise LookupError

    failed = Work(any_database, fail)
    with pytest.raises(LookupError):
        await run(any_database, failed)
    assert (failed.runs, await work.written()) == (1, [0])


async def test_who_is_cancelled_leaves_no_transaction_open(any_database, work):
    waiting = asyncio.Event()

    async def wait(session):
        waiting.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(run(any_database, Work(any_database, wait)))
    await waiting.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await work.collection.insert_one({"_id": 1})  # it would wait for the transaction, or conflict
    assert await work.written() == [0, 1]


async def test_the_work_is_done_anew_after_a_transient_error(any_database, work):
    async with failing(any_database, "insert", errorCode=112, errorLabels=[_TRANSIENT], times=3):
        assert await run(any_database, work) == "run 4"
    assert await work.written() == [0, 4]


async def test_the_work_is_not_done_anew_after_another_error(any_database, work):
    async with failing(any_database, "insert", errorCode=2, times=1):
        with pytest.raises(OperationFailure):
            await run(any_database, work)
    assert (work.runs, await work.written()) == (1, [0])


@pytest.mark.parametrize(
    "how",
    [
        {"closeConnection": True},
        *({"errorCode": code, "errorLabels": ["RetryableWriteError"]} for code in (91, 10107)),
        *({"errorCode": code, "errorLabels": ["RetryableWriteError"]} for code in (189, 11602)),
        {"errorCode": 50},  # the time of one try is over
        {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}},
    ],
    ids=str,
)
async def test_a_commit_of_unknown_outcome_alone_is_sent_anew(any_database, work, how):
    twice = 2  # the driver sends it a second time by itself
    async with failing(any_database, "commitTransaction", times=twice, **how):
        assert await run(any_database, work) == "run 1"
    assert await work.written() == [0, 1]


@pytest.mark.parametrize("code", [79, 100])
async def test_a_write_concern_that_cannot_be_is_raised(any_database, work, code):
    concern = {"code": code, "errmsg": "there is no such write concern"}
    async with failing(any_database, "commitTransaction", writeConcernError=concern, times=1):
        with pytest.raises(PyMongoError) as failed:
            await run(any_database, work)
    assert not failed.value.has_error_label(_UNKNOWN)
    assert work.runs == 1


async def test_the_work_is_done_anew_if_the_commit_finds_no_transaction(any_database, work):
    how = {"errorCode": 251, "errorLabels": [_TRANSIENT]}
    async with failing(any_database, "commitTransaction", times=1, **how):
        assert await run(any_database, work) == "run 2"
    assert work.runs == 2


@pytest.mark.parametrize("command", ["insert", "commitTransaction"])
async def test_the_work_is_not_done_anew_when_its_time_is_over(any_database, work, command):
    how = {"errorCode": 251, "errorLabels": [_TRANSIENT]}
    async with failing(any_database, command, **how):
        with pytest.raises(NetworkTimeout):
            await run(any_database, work, seconds=0.2)
    assert work.runs > 1


async def test_a_commit_is_not_sent_anew_when_its_time_is_over(any_database, work):
    how = {"errorCode": 91, "errorLabels": ["RetryableWriteError"]}
    async with failing(any_database, "commitTransaction", **how):
        with pytest.raises(PyMongoError) as failed:
            await run(any_database, work, seconds=0.2)
    assert failed.value.has_error_label(_UNKNOWN)
    assert work.runs == 1


async def test_the_pauses_between_two_runs_grow_and_are_of_random_length(any_database, work):
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)

    async with failing(any_database, "insert", errorCode=112, errorLabels=[_TRANSIENT], times=13):
        await run(any_database, work, sleep=sleep, jitter=lambda: 1.0)
    assert pauses[:3] == pytest.approx([0.0075, 0.01125, 0.016875])
    assert pauses == sorted(pauses)
    assert pauses[-1] == 0.5
    async with failing(any_database, "insert", errorCode=112, errorLabels=[_TRANSIENT], times=1):
        await run(any_database, work, sleep=sleep, jitter=lambda: 0.25)
    assert pauses[-1] == pytest.approx(0.0075 / 4)
