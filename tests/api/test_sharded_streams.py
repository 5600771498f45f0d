"""A stream that is held back, and silent, until every shard has written: nothing that is only on
its way is missed, and nothing is said to be shown that is not.
"""

import asyncio
import logging
from collections import defaultdict
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID

import pytest

from eventstore.background import background
from eventstore.log import EventStore
from eventstore.mongo.resume_tokens import token_time
from eventstore.subscription import LateEventCheck, Subscription, present
from projections.projector.checkpoints import Checkpoints
from scripts.testbed.patience import patience
from tests.api.test_api import serving
from tests.api.test_feed import exported, following, listening
from tests.callers import ADMIN
from tests.oracle import assert_views_equal_the_log
from tests.projecting import LEASE_SECONDS, add, by_utc, caught_up, open_some, until
from tests.streams import sharded, token_at

HELD_BACK_SECONDS = 1.5
SOON = LateEventCheck(0.05, timedelta(seconds=0.2))


@pytest.fixture
async def cluster(database, store):
    async with sharded(database, HELD_BACK_SECONDS) as one:
        yield one


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("8263502A2C000000012B042C0100296E5A1004", datetime(2022, 10, 19, 16, 47, 40, tzinfo=UTC)),
        ("8263502A2C00000001", datetime(2022, 10, 19, 16, 47, 40, tzinfo=UTC)),
        ("8263502A2C000000", None),
        ("8463502A2C000000012B042C0100296E5A1004", None),
        ("82 3502A2C000000012B", None),
        ("memory-0000000000001", None),
    ],
)
def test_a_token_tells_its_time_or_nothing(data, expected):
    assert token_time({"_data": data}) == expected


async def test_what_is_held_back_is_neither_late_nor_said_to_be_behind(store, cluster, caplog):
    """L8: however long the stream is silent."""
    log = Subscription(store, await present(store), late=SOON)
    written = defaultdict(list)
    delivered = set()

    async def write():
        while True:
            [ticket] = await open_some(store, 1, versions=1)
            [event] = await store.stored(ticket)
            written[event["recorded_at"]].append(ticket)
            await asyncio.sleep(0.2)

    held_back = 0
    async with background(write()), asyncio.timeout(patience(30)), aclosing(log.steps()) as steps:
        async for position, event, _ in steps:
            if event is not None:
                delivered.add(event["ticket_id"])
            else:
                held_back += any(not {*ids} <= delivered for ids in written.values())
                behind = {t for at, ids in written.items() if at < position.at for t in ids}
                assert behind <= delivered
                if len(delivered) > 15:
                    break
    assert held_back > 0
    assert "has not arrived" not in caplog.text


async def test_no_clock_of_a_cluster_says_that_what_will_be_written_has_come(memory):
    """L9: one of its clocks is ahead, and the cluster's time is the latest of all."""
    store = EventStore(memory)
    log = Subscription(store, await present(store))
    asked = store.clock.now()
    for seconds in (-8, 30):
        time = asked.replace(microsecond=0) + timedelta(seconds=seconds)
        assert log._silence(silent(token_at(time, 1, "01")), asked).at == min(time, asked)


def silent(token):
    """Make a stream of a cluster that has brought nothing."""
    return SimpleNamespace(token=token, is_merged=True)


async def test_where_tokens_tell_no_time_only_events_do(memory, monkeypatch, caplog):
    """Silence says nothing then; and that is told once."""

    async def is_router():
        return True

    monkeypatch.setattr(memory, "is_router", is_router)
    store = EventStore(memory)
    start = await present(store)
    log = Subscription(store, start)
    silent = 0
    async with aclosing(log.steps()) as steps:
        async for position, event, _ in steps:
            if event is not None:
                assert position.at == event["recorded_at"] > start.at
                break
            assert position.at == start.at
            silent += 1
            if silent == 3:
                await open_some(store, 1)
    assert caplog.text.count("tokens tell no time") == 1


async def test_views_are_as_old_as_they_say(database, store, cluster, monkeypatch, caplog):
    """L9: no event is missed, nothing is scanned again or counted, and it stays ready."""
    monkeypatch.setattr("projections.projector.projector.SWEEP_SECONDS", 0.1)
    caplog.set_level(logging.WARNING)
    scans, counts = [], []
    shown: list[int] = []

    async def scan_all(self):
        scans.append(self)

    class Counted(EventStore):
        async def count(self, *, exact=False):
            counts.append(exact)
            return await super().count(exact=exact)

    monkeypatch.setattr(Checkpoints, "scan_all", scan_all)
    projector = by_utc(database, Counted(database), lease_seconds=LEASE_SECONDS, late=SOON)
    [ticket] = await open_some(store, 1, versions=1)
    written = []

    async def write():
        while True:
            await add(store, ticket, "NoteAdded", body="x")
            written.append((await store.stored(ticket))[-1]["recorded_at"])
            await asyncio.sleep(0.1)

    async with serving(database, project=False) as client, background(projector.run()):
        await caught_up(database, store)
        assert await is_ready(client)
        async with background(write()):
            while len(shown) < 40:
                asked, before = database.clock.now(), len(written)
                answer = await client.get("/tickets")
                age = answer.headers["casebook-views-age"]
                [found] = answer.json()["tickets"]
                shown.append(before - found["version"] + 1)
                if age != "unknown":
                    known = asked - timedelta(seconds=float(age) + 0.4)
                    assert all(at >= known for at in written[found["version"] - 1 : before])
                assert await is_ready(client)
                health = (await client.get("/projections", headers=ADMIN)).json()
                assert (health["parked"], health["overdue_events"]) == ([], 0)
                await asyncio.sleep(0.1)
        await caught_up(database, store)
    assert max(shown) > 3  # so much was held back
    assert scans == []
    assert len(counts) > 3
    assert not any(counts)
    assert "has not arrived" not in caplog.text
    assert "vanished" not in caplog.text
    await assert_views_equal_the_log(database)


async def is_ready(client):
    return (await client.get("/readyz")).status_code == 200


async def test_an_export_ends_where_the_log_did(database, store, cluster):
    """L8: all that was acknowledged before it began is in it, held back or not."""
    ids = await open_some(store, 2, versions=1)
    async with serving(database, project=False) as client:
        events, [cursor] = await exported(client)
        for n in range(3):
            assert sorted((UUID(e["ticket_id"]), e["version"]) for e in events) == sorted(
                (ticket, n + 1) for ticket in ids
            )
            for ticket in ids:
                await add(store, ticket, "NoteAdded", body="x")
            events, [cursor] = await exported(client, f"?cursor={cursor}")
        assert len(events) == 2


async def test_who_comes_back_waits_on_one_stream(database, store, cluster):
    """Until it has reached where the shared one began: no other is opened every moment."""
    async with listening(database) as (client, *_):
        _, [cursor] = await exported(client)
        ids = await open_some(store, 2)
        opened = cluster.opened
        async with following(client, last_event_id=cursor) as seen:
            await open_some(store, 1)
            await until(lambda: told(seen, 9))
    assert {*seen.told[:6]} == {(ticket, n) for ticket in ids for n in (1, 2, 3)}
    assert cluster.opened - opened <= 4  # to see where it is, the shared one, and one or two turns


async def told(seen, events):
    return len(set(seen.told)) == events
