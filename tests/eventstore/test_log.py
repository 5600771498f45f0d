"""The store's contract: on a real database by each driver, and on the one in memory for tests."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from bson.decimal128 import Decimal128
from pymongo.monitoring import CommandListener, register

from api.commands.handler import Handler, Submission
from domain.actors import Actor
from domain.codec import EventData, Personal
from domain.errors import CasebookError
from domain.tickets.assignment import AssignTicket, MoveToGroup
from domain.tickets.details import AddTags
from domain.tickets.opening import OpenTicket
from eventstore.database import Database
from eventstore.event_document import (
    EMPTY,
    CommandRef,
    Envelope,
    Head,
    Metadata,
    chained,
    from_document,
    utc_now,
)
from eventstore.failures import (
    HistoryLost,
    NothingToAppend,
    OutcomeUnknown,
    StoreUnavailable,
    VersionConflict,
)
from eventstore.log import COLLECTION, Change, EventStore
from eventstore.log_identity import LogReplaced
from projections.generations import Generations
from scripts.testbed.patience import patience
from scripts.testbed.wire import database_at
from tests.conftest import fresh
from tests.memory import MemoryDatabase
from tests.mongodb_rules import statements
from tests.projecting import caught_up, open_some, rebuilt, running
from tests.spec import ALICE

OPENING = OpenTicket(subject="x", requester="bob")
ABOUT = Metadata(Actor("alice", "agent"), CommandRef("k", "f"))


def happened(ticket_id: UUID, n: int = 1, after: Head = EMPTY) -> list[Envelope]:
    now = utc_now()
    events = [EventData("Happened", 1, {"n": i}) for i in range(n)]
    return chained(ticket_id, after, events, ABOUT, now, now)


def head(events: list[Envelope]) -> Head:
    return Head(events[-1].version, events[-1].hash)


@pytest.fixture(params=["memory", "motor", "pymongo"])
def databases(request):
    """A factory of empty databases that are to keep the contract."""
    if request.param == "memory":
        return in_memory
    return partial(fresh, request.getfixturevalue("server_url"), request.param)


async def in_memory():
    yield MemoryDatabase()


@pytest_asyncio.fixture
async def log(databases) -> AsyncIterator[EventStore]:
    async for database in databases():
        made = EventStore(database)
        await made.prepare()
        yield made


# --- the contract ---------------------------------------------------------------------------------


async def test_no_events_are_refused_by_name(log):
    with pytest.raises(NothingToAppend) as refused:
        await log.append([])
    assert refused.value.code == "nothing_to_append"
    assert await log.count(exact=True) == 0


async def test_what_is_appended_is_read_back_in_order(log):
    ticket = uuid4()
    first = happened(ticket, 3)
    second = happened(ticket, 1, head(first))
    await log.append(first)
    await log.append(second)
    assert await log.load(ticket) == [*first, *second]
    assert await log.load(ticket, after=2) == [first[2], *second]
    assert await log.load(ticket, after=1, limit=2) == [first[1], first[2]]
    assert await log.load(uuid4()) == []


async def test_a_version_is_taken_once(log):
    """L2: the second writer of a version is told so, and nothing of his is stored."""
    ticket = uuid4()
    mine = happened(ticket)
    await log.append(mine)
    for theirs in (happened(ticket), happened(ticket, 2)):
        with pytest.raises(VersionConflict):
            await log.append(theirs)
    assert await log.load(ticket) == mine


async def test_the_events_of_a_command_are_stored_all_or_not_at_all(log):
    """L4: the second of three collides, and the first and third are not there."""
    ticket = uuid4()
    first = happened(ticket)
    await log.append(first)
    colliding = happened(ticket, 3)
    with pytest.raises(VersionConflict):
        await log.append(colliding)
    late = happened(ticket, 3, Head(5, b""))
    await log.append(happened(ticket, 1, Head(6, b"")))
    with pytest.raises(VersionConflict):
        await log.append(late)
    assert [e.version for e in await log.load(ticket)] == [1, 7]


async def test_of_many_writers_one_wins_each_version(log):
    """L2: 20 writers race for 10 versions; each version is written by exactly one."""
    ticket = uuid4()
    won: list[int] = []

    async def write() -> None:
        while True:
            stream = await log.load(ticket)
            if len(stream) >= 10:
                return
            mine = happened(ticket, 1, head(stream) if stream else EMPTY)
            try:
                await log.append(mine)
            except VersionConflict:
                continue
            won.append(mine[0].version)

    await asyncio.gather(*(write() for _ in range(20)))
    versions = [e.version for e in await log.load(ticket)]
    assert versions == list(range(1, len(versions) + 1))
    assert sorted(won) == versions


async def test_a_scan_gives_every_event_once(log):
    tickets = [uuid4() for _ in range(5)]
    for ticket in tickets:
        await log.append(happened(ticket, 3))
    seen = [(e.ticket_id, e.version) async for e in log.scan()]
    assert sorted(seen) == sorted((t, v) for t in tickets for v in (1, 2, 3))
    assert await log.count() == await log.count(exact=True) == 15


async def test_watching_brings_what_is_written_after_the_token(log):
    """L8: a token taken before, then writes, then a watch: nothing is missing, order holds."""
    ticket = uuid4()
    before = happened(ticket)
    await log.append(before)
    token = await log.position()
    later = happened(ticket, 3, head(before))
    await log.append(later)
    async with log.watch(token) as feed:
        got = await _take(feed, 2)
        assert [from_document(c.document) for c in got] == later[:2]
    async with log.watch(got[-1].token) as feed:
        assert [from_document(c.document) for c in await _take(feed, 1)] == later[2:]
        assert feed.token is not None


async def _take(feed, n):
    got: list[Change] = []
    async with asyncio.timeout(patience(20)):
        while len(got) < n:
            change = await feed.next()
            if change is not None:
                got.append(change)
    return got


async def test_a_token_that_nobody_knows_is_history_lost(log):
    """L8: never a silent start from now."""
    with pytest.raises(HistoryLost):
        async with log.watch({"_data": "00" * 20}) as feed:
            await feed.next()


async def test_a_stream_brings_the_partitions_that_it_is_asked_for(log):
    tickets = [UUID(int=n) for n in range(5, 9)]
    token = await log.position()
    for ticket in tickets:
        await log.append(happened(ticket))
    async with log.watch(token, [6, 8]) as feed:
        got = await _take(feed, 2)
        assert [change.document["ticket_id"].int for change in got] == [6, 8]
        assert await feed.next() is None


async def test_parts_of_a_stream_are_its_events_in_order_however_long_they_are(log):
    ticket = uuid4()
    await log.append(happened(ticket, 11))
    for after, upto in ((0, None), (3, None), (0, 3), (0, 4), (2, 9), (10, 11), (11, None)):
        parts = [part async for part in log.parts(ticket, 4, after=after, upto=upto)]
        versions = [event["version"] for part in parts for event in part]
        assert versions == list(range(after + 1, (upto or 11) + 1))
        assert all(len(part) <= 4 for part in parts)


async def test_the_log_by_ranges_and_in_order_is_all_of_it(log):
    for _ in range(9):
        await log.append(happened(uuid4(), 3))
    scanned = sorted([(e.ticket_id.int, e.version) async for e in log.scan()])
    ranges = [e for part in await log.ranges(5) for e in await log.of_range(part)]
    in_order = [event async for event in log.in_order()]
    for events in (ranges, in_order):
        assert [(e["ticket_id"].int, e["version"]) for e in events] == scanned
    assert {t.int: v for t, (v, _) in (await log.heads()).items()} == dict(scanned)


async def test_events_are_found_by_when_they_were_recorded(log):
    ticket, last = uuid4(), EMPTY
    for seconds in range(4):
        at = utc_now().replace(microsecond=0, second=0) + timedelta(seconds=seconds)
        event = EventData("Happened", 1, {"n": seconds})
        [envelope] = chained(ticket, last, [event], ABOUT, at, at)
        await log.append([envelope])
        last = head([envelope])
    times = [e["recorded_at"] for e in await log.stored(ticket)]
    [second, third] = await log.since(times[1], 2)
    assert (second.version, third.version, third.recorded_at) == (2, 3, times[2])
    found = await log.recorded(times[1], 9, before=times[3])
    assert [event["version"] for event in found] == [2, 3]
    assert sorted(await log.versions([ticket, uuid4()])) == [(ticket, n) for n in (1, 2, 3, 4)]


async def test_what_is_personal_is_stored_sealed_and_found_by_its_person(log):
    """An event that is older than sealing is found by the name that it has."""
    ticket, old, now = uuid4(), uuid4(), utc_now()
    event = EventData("Happened", 1, {"who": "bob"}, (Personal("/data/who", "bob"),))
    await log.append(await log.chain(ticket, EMPTY, [event], ABOUT, now, now))
    await log.append(chained(old, EMPTY, [event], ABOUT, now, now))
    [stored] = await log.stored(ticket)
    assert "bob" not in str(stored)
    [opened] = await log.load(ticket)
    assert opened.data == {"who": "bob"}
    assert await log.tickets_of((await log.vault.find("bob")).id) == [ticket]
    assert await log.unsealed_naming("bob", ["to", "who"], [ticket, old, uuid4()]) == {old}


async def test_what_is_restored_twice_is_there_once(log):
    ticket = uuid4()
    await log.append(happened(ticket, 2))
    stored = await log.stored(ticket)
    await log.restore(stored)
    assert await log.stored(ticket) == stored


async def test_what_was_sent_before_is_written_or_was_or_never_will_be(log):
    """L5: only whoever sends it for the first time takes it for another's."""
    ticket = uuid4()
    mine, theirs = happened(ticket), happened(ticket)
    for _ in range(2):
        await log.append(mine, sent_before=True)
    assert await log.load(ticket) == mine
    for events, sent_before in ((mine, False), (theirs, True)):
        with pytest.raises(VersionConflict):
            await log.append(events, sent_before=sent_before)


async def test_nothing_is_sent_again_into_another_log(memory):
    """L2: the process may have been frozen since it was sent last, and the log been restored."""

    class Replaced(EventStore):
        writes = 0

        async def check_log(self):
            if self.writes:
                raise LogReplaced

        async def _write(self, documents):
            self.writes += 1
            raise StoreUnavailable

    replaced = Replaced(memory, patience_seconds=0.5)
    with pytest.raises((LogReplaced, OutcomeUnknown)):
        await replaced.append(happened(uuid4()))
    assert replaced.writes == 1


# --- what only databases have ---------------------------------------------------------------------


async def test_a_database_that_does_not_answer_is_said_to_be_unavailable(monkeypatch):
    monkeypatch.setattr("eventstore.mongo.driver._SERVER_SELECTION_SECONDS", 0.1)
    nobody = Database("mongodb://127.0.0.1:9/")
    log = EventStore(nobody)
    with pytest.raises(StoreUnavailable):
        await log.append(happened(uuid4()))
    with pytest.raises(StoreUnavailable):
        await log.load(uuid4())
    await nobody.close()


@pytest.mark.parametrize("url", ["http://x", "mongodb://", "mongodb://h:99999", "mongodb://h/?x"])
@pytest.mark.parametrize("driver", ["motor", "pymongo"])
def test_a_bad_url_is_an_error_that_says_so(url, driver):
    with pytest.raises(CasebookError, match="database URL"):
        Database(url, driver)


class Overheard(CommandListener):
    """Every command that the drivers send about the log."""

    def __init__(self):
        self.about_the_log: set[str] = set()

    def started(self, event):
        if event.command.get(event.command_name) == COLLECTION or (
            event.command_name == "getMore" and event.command.get("collection") == COLLECTION
        ):
            self.about_the_log.add(event.command_name)
        if event.command_name == "bulkWrite":
            written = statements(dict(event.command))
            self.about_the_log |= {each.verb for each in written if each.name == COLLECTION}

    def succeeded(self, event): ...

    def failed(self, event): ...


async def test_the_log_is_only_ever_found_and_inserted_into(server_url, tmp_path):
    """L1: what goes over the wire, through commands, conflicts, projection, rebuild and export."""
    overheard = Overheard()
    register(overheard)
    database = Database(database_at(server_url, "test_overheard"))
    made = EventStore(database)
    await made.prepare()
    database = (await Generations(database).prepare()).of(database)
    handler, other, ticket = Handler(made), Handler(made), uuid4()
    await handler.handle(ticket, Submission(command=OPENING, actor=ALICE))
    for n in range(3):
        for one in (handler, other):
            tags = AddTags(tags=(f"t{n}", f"u{id(one)}"))
            await one.handle(ticket, Submission(command=tags, actor=ALICE))
    await handler.handle(ticket, Submission(command=AssignTicket(assignee="a"), actor=ALICE))
    await handler.handle(ticket, Submission(command=MoveToGroup(group="g"), actor=ALICE))
    async with running(database):
        await caught_up(database, made)
        await rebuilt(database)
    async with made.watch(None) as feed:
        await feed.next()
    documents = [document async for document in made.in_order()]
    await made.restore(documents)
    await made.heads()
    await database.client.drop_database("test_overheard")
    await database.close()
    reading = {
        "find",
        "getMore",
        "aggregate",
        "count",
        "killCursors",
        "listIndexes",
        "createIndexes",
    }
    assert "insert" in overheard.about_the_log
    assert overheard.about_the_log - reading <= {"insert", "createIndexes"}


async def test_the_log_has_no_second_unique_index_to_trip_over(any_database):
    await EventStore(any_database).prepare()
    indexes = await any_database.collection(COLLECTION).index_information()
    unique = {name for name, index in indexes.items() if index.get("unique")}
    sparse = {"sealed.person_1", "data.redacts_1"}
    assert set(indexes) == {"_id_", "ticket_id_1_version_1", "recorded_at_1", *sparse}
    assert unique - {"_id_"} == {"ticket_id_1_version_1"}
    assert indexes["ticket_id_1_version_1"]["unique"]


async def test_heads_of_short_streams_are_told_where_they_can_be(store, database):
    """Law L9: whoever is told nothing reads the events themselves."""
    ids = await open_some(store, 5, versions=3)
    stranger = uuid4()
    assert await store.short_heads([*ids, stranger], 3) == {**dict.fromkeys(ids, 3), stranger: 0}
    for ticket, version in zip(ids, (3.0, Decimal128("3"), "3"), strict=False):
        await database.collection("ticket_events").update_one(
            {"ticket_id": ticket, "version": 3}, {"$set": {"version": version}}
        )
    assert await store.short_heads(ids, 3) == dict.fromkeys(ids[3:], 3)
    assert await store.short_heads(ids[3:], 2) == {}
