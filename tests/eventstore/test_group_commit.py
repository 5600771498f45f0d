"""Group commit: many writers share a write, and each learns its own fate."""

import asyncio
from uuid import uuid4

import pytest
from pymongo.errors import AutoReconnect, BulkWriteError, OperationFailure

from api.app import create_app
from eventstore import group_commit as commit
from eventstore.event_document import to_document
from eventstore.failures import StoreBusy, StoreFailed, StoreUnavailable, VersionConflict
from eventstore.group_commit import GroupCommit
from eventstore.log import COLLECTION, EventStore
from tests.api.test_api import asking
from tests.callers import access
from tests.eventstore.test_log import happened


@pytest.fixture
def database(memory):
    return memory


class Slow:
    """The log's collection, slow enough for others to queue; counts its writes, fails on demand."""

    def __init__(self, database, failure=None, *, written=True):
        self.collection = database.collection(COLLECTION)
        self.groups: list[int] = []
        self.failure, self.written = failure, written

    async def insert_many(self, documents, ordered):
        assert not ordered
        self.groups.append(len(documents))
        await asyncio.sleep(0.02)
        failure, self.failure = self.failure, None
        if self.written or failure is None:
            await self.collection.insert_many(documents, ordered=False)
        if failure is not None:
            raise failure


def one(ticket_id=None):
    return to_document(happened(ticket_id or uuid4())[0])


async def test_whoever_waits_while_a_write_is_in_flight_goes_out_with_the_next(store, database):
    slow = Slow(database)
    group = GroupCommit(slow)  # type: ignore[arg-type]
    await asyncio.gather(*(group.insert(one()) for _ in range(100)))
    assert slow.groups == [100] or (slow.groups[0] < 100 and sum(slow.groups) == 100)
    first = asyncio.create_task(group.insert(one()))
    await asyncio.sleep(0.01)
    await asyncio.gather(first, *(group.insert(one()) for _ in range(50)))
    assert slow.groups[-2:] == [1, 50]
    assert await store.count(exact=True) == 151


async def test_large_documents_go_in_groups_that_a_message_holds(store, database):
    """L3: and in the time that an operation has."""
    slow = Slow(database)
    group = GroupCommit(slow)  # type: ignore[arg-type]
    large = [one() for _ in range(20)]
    for each in large:
        each["data"] = {"body": "x" * 2**20}
    await asyncio.gather(*(group.insert(each) for each in large))
    assert max(slow.groups) < 8
    assert await store.count(exact=True) == 20


async def test_a_conflict_is_its_own_and_nobody_elses(store, database):
    """L2: in one group, each document's fate is its own."""
    group = GroupCommit(Slow(database))  # type: ignore[arg-type]
    taken = uuid4()
    await store.append(happened(taken))
    outcomes = await asyncio.gather(
        *(group.insert(one(taken if n % 3 == 0 else None)) for n in range(30)),
        return_exceptions=True,
    )
    told = [isinstance(outcome, VersionConflict) for outcome in outcomes]
    assert told == [n % 3 == 0 for n in range(30)]
    assert await store.count(exact=True) == 21


@pytest.mark.parametrize("written", [True, False])
async def test_a_lost_connection_leaves_all_of_a_group_unsure_and_the_next_go_on(
    store, database, written
):
    """L3: nobody is told that he succeeded or failed when nobody knows."""
    slow = Slow(database, AutoReconnect("gone"), written=written)
    group = GroupCommit(slow)  # type: ignore[arg-type]
    outcomes = await asyncio.gather(
        *(group.insert(one()) for _ in range(5)), return_exceptions=True
    )
    assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
    await group.insert(one())
    assert await store.count(exact=True) == (6 if written else 1)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (OperationFailure("not authorized", 13), StoreFailed),
        (OperationFailure("stepped down", 189), StoreUnavailable),
        (
            BulkWriteError({"writeErrors": [], "writeConcernErrors": [{"code": 64}]}),
            StoreUnavailable,
        ),
    ],
    ids=str,
)
async def test_every_waiter_is_told_whatever_happens(store, database, failure, expected):
    group = GroupCommit(Slow(database, failure, written=False))  # type: ignore[arg-type]
    outcomes = await asyncio.gather(
        *(group.insert(one()) for _ in range(3)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [expected] * 3
    await group.insert(one())


async def test_a_document_that_cannot_be_sent_fails_alone(store, database):
    group = GroupCommit(database.collection(COLLECTION))
    culprit = one()
    culprit["data"] = {"n": 2**63}
    outcomes = await asyncio.gather(
        *(group.insert(d) for d in (one(), one(), culprit, one())), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes].count(StoreFailed) == 1
    assert outcomes.count(None) == 3
    assert await store.count(exact=True) == 3


async def test_a_waiter_who_goes_away_disturbs_nobody(store, database):
    group = GroupCommit(Slow(database))  # type: ignore[arg-type]
    tasks = [asyncio.create_task(group.insert(one())) for _ in range(10)]
    await asyncio.sleep(0.01)
    tasks[3].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(asyncio.CancelledError) == 1
    assert outcomes.count(None) == 9
    assert await store.count(exact=True) == 10


async def test_a_full_queue_turns_away_and_writes_nothing(store, database, monkeypatch):
    monkeypatch.setattr(commit, "QUEUE_DOCUMENTS", 5)
    group = GroupCommit(Slow(database))  # type: ignore[arg-type]
    outcomes = await asyncio.gather(
        *(group.insert(one()) for _ in range(20)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes].count(StoreBusy) == 15
    assert await store.count(exact=True) == 5


@pytest.mark.parametrize(
    "target", ["eventstore.group_commit.QUEUE_DOCUMENTS", "api.commands.handler.COMMANDS_AT_ONCE"]
)
async def test_a_full_queue_is_a_503_that_says_when_to_come_back(
    quick_database, monkeypatch, target
):
    """L12: load is shed before memory grows."""
    monkeypatch.setattr(target, 0)
    store = EventStore(quick_database)
    app = create_app(quick_database, store, access=access(quick_database))
    async with asking(app) as client:
        answer = await client.post("/tickets", json={"subject": "x", "requester": "bob"})
    assert answer.status_code == 503
    assert answer.json()["code"] == "store_busy"
    assert int(answer.headers["retry-after"]) > 0
    assert await store.count(exact=True) == 0
