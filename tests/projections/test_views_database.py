"""The database that the views are in: what becomes of it, and of the layout before it."""

import asyncio
from functools import partial

import pytest

from eventstore.background import background
from eventstore.database import Database
from eventstore.event_document import utc_now
from eventstore.log import COLLECTION as EVENTS
from eventstore.log import EventStore
from projections import daemon, generations
from projections.generations import (
    OF_FORMER_LAYOUT,
    VIEWS,
    FormerLayout,
    Generations,
    views_database,
)
from projections.views.tickets import SHAPE
from scripts.testbed.patience import patience
from tests.oracle import assert_views_equal_the_log
from tests.projecting import add, by_utc, caught_up, open_some, running, until


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(daemon, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(daemon, "_SWEEP_SECONDS", 0.1)
    monkeypatch.setattr(generations, "DROP_SECONDS", patience(1.0))


async def active(database):
    return await Generations(database).active()


async def shown_tickets(database):
    return (await Generations(database).shown()).collection("ticket_reads")


async def built_anew(database, store):
    """Wait until views of this version and log are shown, and equal it."""
    async with running(database):

        async def anew():
            return (await active(database)).shape == SHAPE

        await until(anew)
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_views_of_another_log_are_built_anew_wherever_they_came_from(database, store):
    """L7: the database of the views was left as it was when that of the log was restored."""
    ids = await open_some(store, 4)
    async with running(database):
        await caught_up(database, store)
    await database.collection(EVENTS).delete_many({"ticket_id": ids[0]})
    await database.collection("log_identity").delete_many({})
    await built_anew(database, store)


@pytest.mark.parametrize("stopped", [False, True])
async def test_the_database_of_the_views_can_be_dropped(database, store, stopped):
    """L7: they are made again, by who projects or by who begins to."""
    await open_some(store, 4)
    async with running(database):
        await caught_up(database, store)
        if not stopped:
            await database.client.drop_database(f"{database.name}_views")
            await caught_up(database, store)
    if stopped:
        await database.client.drop_database(f"{database.name}_views")
    async with running(database):
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_what_is_made_first_is_not_swept_before_it_is_named(database, monkeypatch):
    """L7: another that begins to project sweeps at the same time. Its indexes would be missing."""
    making = generations.prepare
    await database.client.drop_database(f"{database.name}_views")

    async def while_another_sweeps(views):
        await making(views)
        await Generations(database).sweep()

    monkeypatch.setattr(generations, "prepare", while_another_sweeps)
    first = await Generations(database).prepare()
    assert {*first.names.values()} <= {*await database.collections(views_database(database.name))}


async def former_version(database) -> Database:
    """Have the views of a version that kept them beside the log; return the database with them."""
    shown = FormerLayout(dict.fromkeys(VIEWS, 4), SHAPE - 1)
    pointer = {"_id": "active", "numbers": shown.numbers, "shape": shown.shape, "next": 5}
    beside = database.client[database.name]
    await beside["generations"].insert_one({**pointer, "since": utc_now()})
    await generations.prepare(shown.of(database))
    await database.show(database.name, "ticket_reads", "ticket_reads_4")
    return shown.of(database)


async def beside_the_log(database):
    there = await database.collections(database.name)
    return {name for name in there if OF_FORMER_LAYOUT.fullmatch(name)}


async def test_a_former_versions_views_are_shown_until_there_are_others_and_then_dropped(database):
    """L7, L9: its processes go on with them for as long as there are any."""
    store, beside = EventStore(database), database.client[database.name]
    await store.prepare()
    former = await former_version(database)
    ids = await open_some(store, 3)

    async def show_life():
        while True:
            life = {"kind": "serve", "seen_at": utc_now()}
            await beside["processes"].replace_one({"_id": "old:1:ab"}, life, upsert=True)
            await asyncio.sleep(0.05)

    async def switched():
        return not isinstance(await active(database), FormerLayout)

    async def both_show(version):
        found = [
            await each.find_one({"_id": ids[0]})
            for each in (former.collection("ticket_reads"), await shown_tickets(database))
        ]
        return all(each and each["version"] == version for each in found)

    async with running(by_utc(former, store)):
        await caught_up(database, store)
        assert not await switched()
        assert await (await shown_tickets(database)).count_documents({}) == 3
        async with background(show_life()), running(database, database):
            await until(switched)
            await add(store, ids[0], "AgentReplied", body="while both project")
            await until(partial(both_show, 4))
            [pointer] = await database.collection("generations").find({"_id": "active"}).to_list()

            async def long_ago():
                gone = await database.server_time() - pointer["since"]
                return gone.total_seconds() > 2 * generations.DROP_SECONDS

            await until(long_ago)
            await Generations(database).sweep()
            assert {"generations", "ticket_reads", "ticket_reads_4"} <= await beside_the_log(
                database
            )
            assert await Generations(database).leftovers()
    async with running(database):

        async def dropped():
            return not await beside_the_log(database)

        await until(dropped)
        assert not await Generations(database).leftovers()
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_what_a_former_version_shows_of_a_log_that_was_restored_is_built_anew(database):
    """L7: events that it shows are gone, and that was meant."""
    store = EventStore(database)
    await store.prepare()
    former = await former_version(database)
    ids = await open_some(store, 3)
    async with running(by_utc(former, store)):
        await caught_up(database, store)
    await database.collection(EVENTS).delete_many({"ticket_id": ids[0]})
    await Generations(database).discredit_former_layout()
    await built_anew(database, store)


async def test_what_a_version_before_generations_left_is_no_hindrance(database):
    """L7: it kept its views under their own names, with indexes of another form."""
    store, beside = EventStore(database), database.client[database.name]
    await store.prepare()
    await beside["projections"].insert_one({"_id": "tickets", "epoch": 7})
    counters = beside["dashboard_counters"]
    await counters.create_index([("metric", 1), ("label", 1)], unique=True)
    await counters.insert_one({"metric": "status", "label": "new", "n": 3})
    ids = await open_some(store, 3)
    await beside["ticket_reads"].insert_one({"_id": ids[0], "version": 3, "shape": 2})
    async with running(database):
        await caught_up(database, store)

        async def dropped():
            return not await beside_the_log(database)

        await until(dropped)
    await assert_views_equal_the_log(database)
