"""The log is followed without a gap, whatever its stream does (L7, L8)."""

import asyncio
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from eventstore.event_document import to_document
from eventstore.failures import HistoryLost, StoreUnavailable
from eventstore.log import EventStore
from eventstore.partition import PARTITIONS, partition_of
from eventstore.subscription import (
    LateEventCheck,
    Seen,
    Step,
    Subscription,
    beginning,
    present,
    read_ahead,
)
from scripts.testbed.patience import patience
from tests.eventstore.test_log import happened
from tests.projecting import add, open_some
from tests.streams import leaving_out

SOON = LateEventCheck(0.05, timedelta(seconds=0.1), timedelta(seconds=5))


@pytest.fixture
def database(memory):
    return memory


def which(event):
    return event["ticket_id"], event["version"]


async def read(subscription, events):
    """Read so many events, and then to a quiet moment."""
    found = []
    async with asyncio.timeout(patience(30)), aclosing(subscription.steps()) as steps:
        async for step in steps:
            if step.event is not None:
                found.append(which(step.event))
            elif len(found) >= events and step.from_stream:
                return found
    return found


async def test_all_of_the_log_comes_and_then_what_is_written(store):
    """L8: from the beginning, by ticket and version."""
    ids = sorted(await open_some(store, 3))
    log = Subscription(store, await beginning(store))
    assert await read(log, 9) == [(t, n) for t in ids for n in (1, 2, 3)]
    [new] = await open_some(store, 1)
    assert await read(log, 3) == [(new, n) for n in (1, 2, 3)]


async def test_a_consumer_can_stop_anywhere_and_go_on(store, monkeypatch):
    """L8: in the scan, in a gap of the stream, and behind it."""
    monkeypatch.setattr("eventstore.subscription._RANGE_EVENTS", 4)
    ids = sorted(await open_some(store, 3))
    store = leaving_out(store._database, lambda event: event["version"] in (5, 6))
    log = Subscription(store, await beginning(store))
    found = []

    async def one():
        async with asyncio.timeout(patience(30)), aclosing(log.steps()) as steps:
            async for step in steps:
                if step.event is not None:
                    found.append(which(step.event))
                    return

    for _ in range(9):
        await one()
    for _ in range(4):
        await add(store, ids[1], "NoteAdded", body="more")
    for _ in range(4):
        await one()
    assert found == [(t, n) for t in ids for n in (1, 2, 3)] + [(ids[1], n) for n in (4, 5, 6, 7)]


async def test_only_events_of_some_partitions_come(store):
    """Asked of the server in the stream, and of what is read from the log."""
    wanted = {*range(0, PARTITIONS, 3), 63}
    log = Subscription(store, await beginning(store), wanted)
    expected = set()
    for _ in range(2):
        ids = await open_some(store, 40, versions=1)
        expected |= {(t, 1) for t in ids if t.int % PARTITIONS in wanted}
        found = {*await read(log, 1)}
        while len(found) < sum(t in ids for t, _ in expected):
            found |= {*await read(log, 0)}
        assert found == {(t, 1) for t in ids if t.int % PARTITIONS in wanted}


async def test_the_server_finds_a_partition_by_its_bits(quick_database):
    """The last six bits of the id, as `partition_of` reads them."""
    store = EventStore(quick_database)
    token = await store.position()
    ids = [UUID(int=(uuid4().int & ~63) | number) for number in range(PARTITIONS)]
    documents = [{"ticket_id": each, "version": 1} for each in ids]
    await quick_database.collection(store.name).insert_many(documents)
    for number in range(PARTITIONS):
        async with store.watch(token, {number}) as stream, asyncio.timeout(patience(30)):
            while (change := await stream.next()) is None:
                pass
            assert change.document["ticket_id"] == ids[number]
            assert await stream.next() is None
        assert partition_of(ids[number]) == number


async def test_what_the_stream_leaves_out_at_the_end_of_a_ticket_is_found_late(store, caplog):
    """L8: nothing comes behind it that would show the gap."""
    store = leaving_out(store._database, lambda event: event["version"] > 1)
    log = Subscription(store, await present(store), late=SOON)
    [ticket] = await open_some(store, 1)
    assert await read(log, 3) == [(ticket, n) for n in (1, 2, 3)]
    assert f"an event of ticket {ticket} has not arrived" in caplog.text
    await asyncio.sleep(0.2)
    assert await read(log, 0) == []  # and not again


async def test_nothing_is_late_that_has_come(store, caplog):
    """L8: however often the log is looked at."""
    log = Subscription(store, await present(store), late=SOON)
    for _ in range(3):
        ids = await open_some(store, 2)
        assert await read(log, 6) == [(t, n) for t in ids for n in (1, 2, 3)]
        await asyncio.sleep(0.15)
        assert await read(log, 0) == []
    assert not caplog.text


async def test_what_is_late_is_not_forgotten_by_a_look_that_is_cut_off(store):
    """L8: the next look goes on from there."""
    fails = True

    async def missing(events):
        if events and fails:
            raise StoreUnavailable
        return [event for event in events if event.version == 3]

    log = Subscription(store, await present(store), late=SOON, missing=missing)
    [ticket] = await open_some(store, 1)
    with pytest.raises(StoreUnavailable):
        await read(log, 10)
    fails = False
    assert (await read(log, 1))[-1] == (ticket, 3)


async def test_a_lost_place_is_said_and_the_log_is_read(store, caplog):
    """L8: the token is not known any more."""
    position = await present(store)
    ids = await open_some(store, 2)
    lost = position._replace(token={"_data": "00" * 20})
    log = Subscription(store, lost)
    found = await read(log, 6)
    assert {*found} == {(t, n) for t in ids for n in (1, 2, 3)}
    assert "has lost its place" in caplog.text
    with pytest.raises(HistoryLost):
        async with aclosing(Subscription(store, lost).stream()) as steps:
            await anext(steps)


async def test_what_gathers_while_a_consumer_works_is_the_next_batch(store):
    """Quiet moments in between do not divide it."""
    [ticket] = await open_some(store, 1, versions=1)
    async with read_ahead(Subscription(store, await present(store))) as buffer:
        assert (await buffer.take()).events == []
        for n in range(4):
            await add(store, ticket, "AgentReplied", body=f"{n}")
            await asyncio.sleep(0.4)  # longer than a stream is waited for
        batch = await buffer.take()
        assert [event["version"] for event in batch.events] == [2, 3, 4, 5]


async def test_a_batch_and_what_is_read_ahead_of_it_have_a_size(store):
    """Or a thousand long replies would not fit into memory, nor into a transaction's time."""
    position, read = await present(store), 0

    async def steps():
        nonlocal read
        for n in range(40):
            read += 1
            event = to_document(happened(uuid4())[0])
            event["version"], event["data"] = n, {"body": "x" * 2**20}
            yield Step(position, event)

    async with read_ahead(Subscription(store, position), steps()) as buffer:
        taken: list[int] = []
        while len(taken) < 40:
            batch = await buffer.take()
            assert len(batch.events) <= 8
            taken += [event["version"] for event in batch.events]
            await asyncio.sleep(0)
            assert read <= len(taken) + 9
        assert taken == [*range(40)]


async def test_a_consumer_gets_what_fails(store):
    lost = (await present(store))._replace(token={"_data": "00" * 20})
    log = Subscription(store, lost)
    async with read_ahead(log, log.stream()) as buffer:
        with pytest.raises(HistoryLost):
            await buffer.take()


async def test_a_subscription_outlives_a_database_that_does_not_answer(store):
    """L8: it goes on where it was."""
    fails = True

    class Silent(EventStore):
        @asynccontextmanager
        async def watch(self, *args, **options):
            if fails:
                raise ConnectionError
            async with super().watch(*args, **options) as stream:
                yield stream

    silent = Silent(store._database)
    log = Subscription(silent, await present(store))
    with pytest.raises(ConnectionError):
        await read(log, 0)
    fails = False
    [ticket] = await open_some(store, 1)
    assert await read(log, 3) == [(ticket, n) for n in (1, 2, 3)]


class FailsOnce(EventStore):
    """A log of which one question is not answered the first time."""

    fails = ""

    async def _answer(self, name, *args, **options):
        if self.fails == name:
            self.fails = ""
            raise StoreUnavailable
        return await getattr(super(), name)(*args, **options)

    async def stored(self, *args, **options):
        return await self._answer("stored", *args, **options)

    async def since(self, *args, **options):
        return await self._answer("since", *args, **options)


async def test_what_fails_while_a_gap_is_filled_loses_nothing(store, caplog):
    """L8: neither the gap nor what has shown it."""
    leaky = leaving_out(store._database, lambda event: event["version"] == 2)

    class Failing(FailsOnce):
        watch = leaky.watch

    failing = Failing(store._database)
    failing.fails = "stored"
    log = Subscription(failing, await present(store))
    [ticket] = await open_some(store, 1)
    async with aclosing(log.steps(0.01)) as steps:
        found = [step.event["version"] async for step in islice_events(steps, 3)]
    assert (found, failing.fails) == ([1, 2, 3], "")
    assert log.seen.last(ticket) == 3


async def test_what_arrives_does_not_wait_for_the_look_for_late_events(store, caplog):
    """L8: nor is it lost, or called late, when that look fails."""
    failing = FailsOnce(store._database)
    failing.fails = "since"
    log = Subscription(failing, await present(store), late=SOON)
    await open_some(store, 1)
    async with aclosing(log.steps(0.01)) as steps:
        found = [step.event["version"] async for step in islice_events(steps, 3)]
    assert found == [1, 2, 3]
    assert "has not arrived" not in caplog.text


async def test_what_comes_while_late_events_are_looked_for_does_not_wait_for_it(store):
    """L8: the look reads all of a minute, and may take long."""
    begun, never = asyncio.Event(), asyncio.Event()

    class Slow(EventStore):
        async def since(self, *args, **options):
            begun.set()
            await never.wait()

    log = Subscription(Slow(store._database), await present(store), late=SOON)
    async with asyncio.timeout(patience(30)), aclosing(log.steps()) as steps:
        while not begun.is_set():
            await anext(steps)
            await asyncio.sleep(0)
        [ticket] = await open_some(store, 1)
        found = [which(step.event) async for step in islice_events(steps, 3)]
    assert found == [(ticket, n) for n in (1, 2, 3)]


async def islice_events(steps, count):
    """The first steps with events."""
    async for step in steps:
        if step.event is not None:
            yield step
            count -= 1
            if count == 0:
                return


def test_what_has_been_seen_is_a_span_of_versions():
    """L8: what is before the first or behind the last is not taken for seen."""
    seen, ticket = Seen(2), uuid4()
    assert seen.last(ticket) is None
    assert not seen.includes(ticket, 0)
    for version, first, last in ((5, 5, 5), (6, 5, 6), (4, 4, 6), (2, 4, 6), (9, 4, 9)):
        seen.add(ticket, version)
        assert [n for n in range(1, 12) if seen.includes(ticket, n)] == [*range(first, last + 1)]
        assert seen.last(ticket) == last
    for _ in range(2):
        seen.add(uuid4(), 1)
    assert not seen.includes(ticket, 5)
