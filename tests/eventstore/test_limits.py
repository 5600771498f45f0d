"""An answer that gets lost on a connection that stays open holds nothing up for long."""

import asyncio
import os
import time
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymongo import InsertOne
from pymongo.errors import ConnectionFailure

from eventstore.database import Database
from eventstore.event_document import to_document
from eventstore.log import EventStore
from eventstore.mongo.driver import encode_bson
from eventstore.mongo.errors import is_unavailable
from eventstore.mongo.limits import (
    ANSWER_SECONDS,
    BATCH_BYTES,
    OPERATION_SECONDS,
    Index,
    count,
    in_batches,
    in_parts,
    make_indexes,
    size_of,
)
from scripts.testbed.wire import Fate, through
from tests.eventstore.test_log import happened
from tests.mongodb_rules import unlimited
from tests.projecting import until

pytestmark = pytest.mark.skipif("CASEBOOK_TEST_MONGODB_URL" in os.environ, reason="one host only")
_SLACK_SECONDS = 15.0  # for a machine that others use
_DOCUMENTS = 1500


@given(st.lists(st.integers(0, 20 * 2**20), max_size=30), st.integers(1, 5))
def test_batches_hold_all_in_order_and_each_no_more_than_it_may(sizes, most):
    batches = [*in_batches(sizes, most, lambda size: size)]
    assert [size for batch in batches for size in batch] == sizes
    assert all(0 < len(batch) <= most for batch in batches)
    assert all(sum(batch) <= BATCH_BYTES for batch in batches if len(batch) > 1)


def test_what_cannot_be_sent_has_no_size():
    event = to_document(happened(uuid4())[0])
    assert 300 < size_of(event) < 1000
    assert size_of({"n": 2**70}) == 0


@pytest.mark.parametrize("value", [0, None, "", [], {}, True, "\u00e9", 10**18, {"": 0}])
def test_what_is_sent_has_less_than_eight_times_the_bytes_of_its_json(value):
    """So whoever has room for eight times that knows that a document is not too large."""
    document = {"": [value] * 200_000}
    assert len(encode_bson(document)) < 8 * size_of(document)


class Losing:
    """Hears what is asked, and loses the answers of the first commands of one name."""

    def __init__(self, name=None, most=1):
        self.name = name
        self.left = most
        self.commands = []

    def __call__(self, command):
        self.commands.append(command)
        lost = next(iter(command)) == self.name and self.left > 0
        self.left -= lost
        return Fate.ANSWER_LOST if lost else Fate.PASSED


@pytest.fixture
async def filled(any_database):
    """A database by each driver with some documents."""
    documents = [{"_id": n, "n": n} for n in range(_DOCUMENTS)]
    await things(any_database).insert_many(documents)
    return any_database


@asynccontextmanager
async def losing(database, *lost):
    """The same database on a way of its own, and what hears all that is asked of it."""
    listening = Losing(*lost)
    async with through(database.url, listening) as (url, _):
        own = Database(url, database.driver)
        try:
            yield own, listening
        finally:
            await own.close()


def things(database):
    return database.collection("things")


async def in_a_transaction(database):
    async def work(session):
        await things(database).insert_one({"_id": uuid4()}, session=session)

    await database.in_transaction(work)


async def aborted(database):
    class NoGood(Exception):
        pass

    async def work(session):
        await things(database).insert_one({"_id": uuid4()}, session=session)
        raise NoGood

    with pytest.raises(NoGood):
        await database.in_transaction(work)


async def stream(database):
    watched = database.watch(things(database), [], resume_after=None, wait_milliseconds=50)
    async with watched as changes:
        for _ in range(3):
            await changes.try_next()


async def scan(database):
    assert len([each async for each in database.scan("things")]) >= _DOCUMENTS


OPERATIONS = {
    "insert": lambda db: things(db).insert_one({"_id": uuid4()}),
    "update": lambda db: things(db).update_one({"_id": 1}, {"$set": {"n": 1}}),
    "delete": lambda db: things(db).delete_one({"_id": -1}),
    "find": lambda db: things(db).find({}).to_list(),
    "getMore": lambda db: things(db).find({}).to_list(),
    "findAndModify": lambda db: things(db).find_one_and_delete({"_id": -1}),
    "aggregate to open a stream": stream,
    "getMore of a stream": stream,
    "bulkWrite": lambda db: db.write([InsertOne({"_id": uuid4()}, namespace=things(db).full_name)]),
    "insert in a transaction": in_a_transaction,
    "commitTransaction": in_a_transaction,
    "abortTransaction": aborted,
    "hello": lambda db: db.server_time(),
    "buildInfo": lambda db: db.client.admin.command("buildInfo"),
    "killSessions": lambda db: db.kill_session(uuid4().bytes),
    "listCollections": lambda db: db.collections(db.name),
    "listIndexes": lambda db: things(db).index_information(),
    "count": lambda db: things(db).estimated_document_count(),
}


async def test_an_operation_whose_answer_is_lost_ends_and_the_next_is_answered(filled):
    async def lose(what, operation):
        async with losing(filled, what.split()[0]) as (database, listening):
            began = time.monotonic()
            try:
                await operation(database)
            except Exception as error:
                if not is_unavailable(error):
                    raise
            took = time.monotonic() - began
            assert listening.left == 0, f"{what}: not asked"
            assert took < OPERATION_SECONDS + _SLACK_SECONDS, f"{what}: {took} s"
            async with asyncio.timeout(_SLACK_SECONDS):
                await operation(database)

    async with asyncio.TaskGroup() as group:
        for what, operation in OPERATIONS.items():
            group.create_task(lose(what, operation))


async def test_a_scan_whose_answer_is_lost_ends(filled):
    async def lose(what):
        async with losing(filled, what) as (database, listening):
            began = time.monotonic()
            with suppress(ConnectionFailure):
                await scan(database)
            assert time.monotonic() - began < ANSWER_SECONDS + _SLACK_SECONDS
            assert listening.left == 0
            await scan(database)

    await asyncio.gather(lose("find"), lose("getMore"))


async def test_a_scan_lasts_longer_than_an_operation_may(filled):
    seen = 0
    async for _ in filled.scan("things"):
        seen += 1
        if seen in (1, _DOCUMENTS):
            await asyncio.sleep(0.6 * OPERATION_SECONDS)
    assert seen == _DOCUMENTS


async def test_what_takes_long_is_asked_again_until_it_is_answered(filled):
    async def lose(what, name, ask):
        async with losing(filled, what) as (database, listening):
            async with asyncio.timeout(OPERATION_SECONDS + _SLACK_SECONDS):
                await ask(database, name)
            names = [next(iter(command)) for command in listening.commands]
            assert names.count(what) == 2
            found = await database.collection(name).index_information()
            assert found.keys() == ({"_id_", "n_1"} if what == "createIndexes" else set())

    for name in ("some", "others"):
        await filled.collection(name).insert_one({"n": 1})
    await asyncio.gather(
        lose(
            "createIndexes",
            "some",
            lambda db, name: make_indexes(db.collection(name), Index([("n", 1)])),
        ),
        lose("drop", "others", lambda db, name: db.drop(db.name, name)),
    )


async def test_as_many_lost_answers_as_there_are_threads_leave_nobody_waiting(filled):
    async with losing(filled, "find", 40) as (database, listening):
        asked = [things(database).find_one({"_id": n}) for n in range(40)]
        async with asyncio.timeout(4 * OPERATION_SECONDS + _SLACK_SECONDS):
            await asyncio.gather(*asked, return_exceptions=True)
            while listening.left > 0:  # those that were waited for no longer, and not asked yet
                again = [things(database).find_one({}) for _ in range(listening.left)]
                await asyncio.gather(*again, return_exceptions=True)
        async with asyncio.timeout(_SLACK_SECONDS):
            assert await things(database).find_one({"_id": 7}) == {"_id": 7, "n": 7}


async def test_the_one_writer_goes_on_behind_an_answer_that_is_lost(filled):
    """L5: its own event is sent again and is there once; the next ones are written."""
    await EventStore(filled).prepare()
    async with losing(filled, "insert") as (database, listening):
        store = EventStore(database)
        unknown, known = uuid4(), uuid4()
        lost = asyncio.create_task(store.append(happened(unknown)))

        async def losing_it():
            return listening.left == 0

        await until(losing_it)
        behind = asyncio.create_task(store.append(happened(known)))  # it waits for the writer

        async def told():
            return database.watchdog.held_up() == ["writing to the log"] or behind.done()

        async with asyncio.timeout(OPERATION_SECONDS + _SLACK_SECONDS):
            await until(told)
            await lost  # it was sent again
            await behind
        assert [len(await store.load(ticket)) for ticket in (unknown, known)] == [1, 1]
        assert database.watchdog.held_up() == []


async def test_the_database_is_told_how_long_it_may_work(filled):
    async with losing(filled) as (database, listening):
        for operation in (*OPERATIONS.values(), scan):
            await operation(database)
        assert await count(things(database)) > _DOCUMENTS
        await make_indexes(things(database), Index([("n", 1)]))
    assert unlimited(listening.commands) == set()


async def test_many_are_changed_and_deleted_in_parts_that_each_have_a_limit(filled):
    """However many there are, no command is without a limit, and none is left out."""
    async with losing(filled) as (database, listening):
        even = {"n": {"$mod": [2, 0]}}
        assert await in_parts(things(database), {"done": None}, {"$set": {"done": True}}) == 1500
        assert await in_parts(things(database), even) == 750
        assert await count(things(database)) == 750
        assert await things(database).count_documents({"done": True}) == 750
    sent = [next(iter(command)) for command in listening.commands]
    assert sent.count("update") == 2
    assert unlimited(listening.commands) == set()
