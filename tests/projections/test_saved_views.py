"""Saved views: exact counts that are kept (L7)."""

import asyncio
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import StateConflict
from projections.projector import saved_view_backfill
from projections.projector.checkpoints import Checkpoints
from projections.views import saved_views, tickets
from projections.views.saved_views import SavedViews, TicketFilter
from tests.api.test_api import OPEN, WAIT, is_problem, serving
from tests.oracle import assert_views_equal_the_log
from tests.projecting import add, by_utc, caught_up, hasty, open_some, running, until, write
from tests.projections.test_projector import stories
from tests.strategies import names, priorities

filters = st.builds(
    TicketFilter,
    status=st.none() | st.sampled_from(["new", "open", "pending", "resolved", "closed"]),
    solved=st.none() | st.booleans(),
    priority=st.none() | priorities,
    group=st.none() | st.just("") | names,
    assignee=st.none() | st.just("") | names,
    requester=st.none() | names,
    tag=st.none() | st.sampled_from(["a", "b"]),
)


async def counted(database, name):
    """Return a view's count once all partitions keep it."""
    saved = SavedViews(database)

    async def is_counted():
        view = await saved.find(name)
        state = await Checkpoints(database).read()
        return all(view.id in p.views for p in state.partitions)

    await until(is_counted)
    return (await saved.counts())[(await saved.find(name)).id]


@given(story=stories, filters=st.lists(filters, min_size=1, max_size=4))
@settings(max_examples=15)
async def test_a_count_is_that_of_the_tickets_that_match(database, store, story, filters):
    """L7: saved before, or after, or in the middle; and `matches` and the database agree."""
    saved = SavedViews(database)
    async with running(hasty(database, store)):
        for n, filter_ in enumerate(filters[:2]):
            await saved.save(f"v{n}", filter_)
        await write(store, story)
        for n, filter_ in enumerate(filters[2:], start=2):
            await saved.save(f"v{n}", filter_)
        await caught_up(database, store)
        reads = database.collection(tickets.COLLECTION)
        for n, filter_ in enumerate(filters):
            found = await counted(database, f"v{n}")
            assert found == await reads.count_documents(filter_.where.condition())
    await assert_views_equal_the_log(database)


async def test_a_new_view_counts_what_is_there_while_the_log_grows(database, store, monkeypatch):
    """L7: a little at a time, beside what is written; three processes share the work."""
    monkeypatch.setattr(saved_view_backfill, "TICKETS_AT_ONCE", 10)
    ids = await open_some(store, 60)

    async def grow():
        for ticket_id in ids:
            await add(store, ticket_id, "PriorityChanged", priority="high")
            await add(store, ticket_id, "PriorityChanged", priority="normal")

    async with running(*(hasty(database, store) for _ in range(3))):
        await caught_up(database, store)
        growing = asyncio.create_task(grow())
        saved = SavedViews(database)
        await saved.save("normal", TicketFilter(priority="normal"))
        await saved.save("high", TicketFilter(priority="high"))
        await counted(database, "normal")
        await counted(database, "high")
        await growing
        await caught_up(database, store)
        assert await counted(database, "normal") == 60
        assert await counted(database, "high") == 0
    await assert_views_equal_the_log(database)


async def test_new_views_are_counted_though_nothing_comes(database, store):
    """One step after the other, without waiting for an event or for the stream to be silent."""
    await open_some(store, 3)
    async with running(hasty(database, store)):
        await caught_up(database, store)
    saved = SavedViews(database)
    for n in range(3):
        await saved.save(f"v{n}", TicketFilter(priority="normal"))
    async with running(by_utc(database, store, lease_seconds=1e4)):
        assert [await counted(database, f"v{n}") for n in range(3)] == [3, 3, 3]


async def test_a_projector_that_dies_while_it_counts_is_followed_by_one_that_begins_again(
    database, store, monkeypatch
):
    """L7"""
    monkeypatch.setattr(saved_view_backfill, "TICKETS_AT_ONCE", 10)
    await open_some(store, 100)
    async with running(hasty(database, store)):
        await caught_up(database, store)
    await SavedViews(database).save("all", TicketFilter(solved=False))
    for _ in range(3):
        dying = hasty(database, store)
        await until(partial(_has_all, dying))
        for _ in range(3):
            await dying._backfill.step(dying._owned, dying._mine)
        assert dying._backfill._current is not None  # it has not come to its end
    async with running(hasty(database, store)):
        assert await counted(database, "all") == 100
    await assert_views_equal_the_log(database)


async def _has_all(projector):
    await projector._share()
    return len(projector._mine) == 64


async def test_views_are_saved_shown_listed_and_forgotten(database, store):
    ids = await open_some(store, 3)
    async with serving(database) as client:
        saved = await client.put("/views/urgent", json={"priority": "urgent", "solved": False})
        assert saved.status_code == 201
        assert saved.headers["location"] == "/views/urgent"
        for n in range(2):
            await client.post(
                "/tickets", json={**OPEN, "priority": "urgent", "tags": [f"t{n}"]}, headers=WAIT
            )
        assert await counted(database, "urgent") == 2
        shown = (await client.get("/views/urgent")).json()
        assert (shown["name"], shown["count"]) == ("urgent", 2)
        assert shown["filter"] == {"priority": "urgent", "solved": False}
        listed = (await client.get("/tickets?view=urgent")).json()["tickets"]
        assert {t["priority"] for t in listed} == {"urgent"}
        assert len(listed) == 2
        narrower = (await client.get("/tickets?view=urgent&tag=t1")).json()["tickets"]
        assert [t["tags"] for t in narrower] == [["t1"]]
        cursor = (await client.get("/tickets?view=urgent&limit=1")).json()["next"]
        rest = await client.get("/tickets", params={"view": "urgent", "cursor": cursor})
        assert len(rest.json()["tickets"]) == 1
        same = await client.put("/views/urgent", json={"priority": "urgent", "solved": False})
        assert (same.status_code, same.json()["count"]) == (200, 2)
        other = await client.put("/views/urgent", json={"priority": "normal"})
        assert other.status_code == 200
        assert await counted(database, "urgent") == len(ids)
        assert len((await client.get("/views")).json()["views"]) == 1
        assert (await client.delete("/views/urgent")).status_code == 204
        is_problem(await client.get("/views/urgent"), 404, "view_not_found")
        is_problem(await client.get("/tickets?view=urgent"), 404, "view_not_found")
        is_problem(await client.delete("/views/urgent"), 404, "view_not_found")
        assert (await client.get("/views")).json() == {"views": []}
        await open_some(store, 1)
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


@pytest.mark.parametrize(
    "body",
    [
        {"status": "unheard of"},
        {"colour": "red"},
        {"status": {"$ne": "open"}},
        {"assignee": ["a"]},
        {"assignee": "x" * 201},
        [],
    ],
)
async def test_what_is_no_filter_is_not_saved(client_of_views, body):
    """L12"""
    is_problem(await client_of_views.put("/views/x", json=body), 422, "invalid_request")
    assert (await client_of_views.get("/views")).json() == {"views": []}


@pytest.fixture
async def client_of_views(database, store):
    async with serving(database, project=False) as client:
        yield client


@pytest.mark.parametrize("name", ["A", "a b", "$x", "a" * 65, "a.b"])
async def test_a_views_name_is_plain(client_of_views, name):
    """L12"""
    is_problem(await client_of_views.put(f"/views/{name}", json={}), 422, "invalid_request")


async def test_there_are_not_endlessly_many_views(database, store, monkeypatch):
    """Each costs something with every event."""
    monkeypatch.setattr(saved_views, "MOST_VIEWS", 2)
    saved = SavedViews(database)
    await saved.save("a", TicketFilter())
    await saved.save("b", TicketFilter())
    await saved.save("b", TicketFilter(status="new"))
    with pytest.raises(StateConflict):
        await saved.save("c", TicketFilter())


async def test_a_count_that_is_not_complete_is_not_told(database, store):
    """L7: null, never a wrong number."""
    await open_some(store, 2)
    async with serving(database, project=False) as client:
        saved = await client.put("/views/all", json={})
        assert saved.json()["count"] is None
        async with running(by_utc(database, store)):
            await until(partial(_told, client))
        assert (await client.get("/views/all")).json()["count"] == 2


async def _told(client):
    return (await client.get("/views/all")).json()["count"] is not None
