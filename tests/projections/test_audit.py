"""The audit finds what differs, and nothing else, while everything runs (L7)."""

import asyncio
from uuid import uuid4

import pytest

from eventstore.event_document import utc_now
from projections.views.saved_views import SavedViews, TicketFilter
from tests.processes import environment, script
from tests.projecting import add, audited, by_utc, caught_up, hasty, open_some, running, until
from tests.projections.test_saved_views import counted


async def differences(database):
    return (await audited(database))[0]


@pytest.fixture
async def views(database, store):
    """Some tickets in all views, and nobody projecting."""
    ids = await open_some(store, 12, group="print")
    async with running(hasty(database, store)):
        await caught_up(database, store)
        for ticket_id in ids[:4]:
            await add(store, ticket_id, "AgentReplied", body="x")
        await SavedViews(database).save("print", TicketFilter(group="print"))
        assert await counted(database, "print") == 12
        await caught_up(database, store)
    return ids


async def test_equal_views_have_no_differences(database, store, views):
    found, auditor = await audited(database)
    assert found == []
    assert auditor.tickets == 12
    assert auditor.numbers > 20


@pytest.mark.parametrize(
    ("collection", "change", "what", "field"),
    [
        ("ticket_reads", {"$set": {"status": "closed"}}, "ticket", "status"),
        ("ticket_reads", {"$set": {"extra": 1}}, "ticket", "extra"),
        ("ticket_reads", {"$unset": {"preview": 1}}, "ticket", "preview"),
        ("ticket_reads", {"$set": {"version": 99}}, "ticket", "version"),
        ("ticket_reads", {"$set": {"in_views": []}}, "ticket", "counted in view 'print'"),
        ("ticket_reads", {"$inc": {"counted.2026-03-01|status|print|new": 1}}, "ticket", "counted"),
        ("dashboard_counters", {"$inc": {"n.status.new": 1}}, "dashboard_counters", "status.new"),
        (
            "dashboard_counters",
            {"$set": {"n.gone": {"new": 2}}},
            "dashboard_counters",
            "gone.new",
        ),
        ("agent_weeks", {"$inc": {"n.notes": 2}}, "agent_weeks", "notes"),
        ("saved_view_counts", {"$inc": {"n": -1}}, "saved_view_counts 'print'", "count"),
        ("projections", {"$inc": {"applied": 1}}, "checkpoint", "applied"),
        ("ticket_reads", {"$unset": {"close_reason": 1}}, "ticket", "close_reason"),
        ("ticket_reads", {"$set": {"has_note": 1}}, "ticket", "has_note"),
    ],
)
async def test_what_was_changed_by_hand_is_found(
    database, store, views, collection, change, what, field
):
    await database.collection(collection).update_one({}, change)
    found = await differences(database)
    assert any(d.what.startswith(what) and d.field == field for d in found), found


async def test_documents_that_are_missing_or_too_many_are_found(
    database, store, views, monkeypatch
):
    monkeypatch.setattr("projections.replay.audit._BEHIND_SECONDS", 0.1)
    reads = database.collection("ticket_reads")
    document = await reads.find_one({"_id": views[0]})
    assert document is not None
    await reads.delete_one({"_id": views[0]})
    stranger = uuid4()
    await reads.insert_one({**document, "_id": stranger})
    found = {(d.what, d.expected, d.found) for d in await differences(database)}
    # And no sum is said to be wrong: they are as they were.
    assert found == {(f"ticket {views[0]}", "one", None), (f"ticket {stranger}", None, "one")}


async def test_what_is_moved_from_one_checkpoint_to_another_is_found(database, store, views):
    """Their sum is what it was."""
    await database.collection("projections").update_one({"_id": 3}, {"$inc": {"applied": 7}})
    await database.collection("projections").update_one({"_id": 9}, {"$inc": {"applied": -7}})
    found = [(d.what, d.field) for d in await differences(database)]
    assert found == [("checkpoint 3", "applied"), ("checkpoint 9", "applied")]


async def test_a_ticket_that_is_parked_and_shown_is_found(database, store, views):
    parked = {"_id": views[0], "partition": views[0].int % 64, "version": 3, "error": "x"}
    await database.collection("parked_tickets").insert_one({**parked, "tried_at": utc_now()})
    [found] = await differences(database)
    assert (found.field, found.expected, found.found) == ("parked at version", 5, 3)


async def test_when_very_much_is_behind_that_is_what_is_told(database, store, views, monkeypatch):
    """And not one by one, nor from memory."""
    monkeypatch.setattr("projections.replay.audit._MOST_BEHIND", 5)
    await database.collection("ticket_reads").drop()
    [found] = await differences(database)
    assert (found.what, found.expected) == ("read documents", "no more than 5")


async def test_views_that_are_behind_and_stay_so_are_told(database, store, views, monkeypatch):
    """Nobody projects; each document is right for its version, and old."""
    monkeypatch.setattr("projections.replay.audit._BEHIND_SECONDS", 0.1)
    await add(store, views[5], "AgentReplied", body="x")
    [found] = await differences(database)
    assert found == (f"ticket {views[5]}", "version", 4, 3)


async def test_parked_tickets_are_no_differences(database, store, views):
    """They show what they did before they were parked."""
    async with running(by_utc(database, store)):
        await add(store, views[0], "NobodyKnows")
        await add(store, views[0], "AgentReplied", body="x")
        await caught_up(database, store)
    assert await differences(database) == []


async def test_under_load_nothing_differs_that_does_not(database, store, views):
    """Documents, counters and checkpoints change all the time while they are compared."""
    stop = asyncio.Event()

    async def write():
        while not stop.is_set():
            for ticket_id in await open_some(store, 3, group="network"):
                await add(store, ticket_id, "PriorityChanged", priority="high")
            await add(store, views[0], "AgentReplied", body="more")

    writing = asyncio.create_task(write())
    async with running(hasty(database, store), hasty(database, store)):
        for _ in range(5):
            assert await differences(database) == []
        await database.collection("dashboard_counters").update_one(
            {"group": "", "span": "year"}, {"$inc": {"n.status.closed": 1}}
        )
        [found] = await differences(database)
        assert (found.field, found.expected, found.found) == ("status.closed", 0, 1)
        stop.set()
        await writing


async def test_the_command_says_that_all_is_equal(tmp_path):
    """And no ticket is repaired that there is not."""
    env = environment(tmp_path / "data")
    demo = await script("scripts.demo", env=env)
    assert (await demo.communicate(), demo.returncode)[1] == 0
    audit = await script("scripts.replay", "--verify", env=env)
    out, err = await audit.communicate()
    assert (audit.returncode, out.endswith(b"all equal\n")) == (0, True), err.decode()
    missing = uuid4()
    unknown = await script("scripts.replay", "--ticket", str(missing), env=env)
    _, err = await unknown.communicate()
    assert (unknown.returncode, err) == (1, f"error: there is no ticket {missing}\n".encode())


async def test_a_ticket_is_repaired_from_the_command_line(database, store, views):
    """L7: whoever projects does it; the command waits, and projects itself if nobody does."""
    reads = database.collection("ticket_reads")
    await reads.update_one({"_id": views[0]}, {"$set": {"status": "closed"}})
    env = {"CASEBOOK_MONGODB_URL": database.url}
    wrong = await script("scripts.replay", "--verify", env=env)
    out, _ = await wrong.communicate()
    assert wrong.returncode == 1
    assert f"ticket {views[0]}: status: expected 'open', found 'closed'" in out.decode()
    repaired = await script("scripts.replay", "--ticket", str(views[0]), env=env)
    out, err = await repaired.communicate()
    assert repaired.returncode == 0, err.decode()
    assert await differences(database) == []
    async with running(hasty(database, store)):
        await add(store, views[1], "NobodyKnows")
        await caught_up(database, store)

        async def lapsed():
            return (await reads.find_one({"_id": views[1]})) is not None

        await until(lapsed)
    stuck = await script("scripts.replay", "--ticket", str(views[1]), env=env)
    _, err = await stuck.communicate()
    assert stuck.returncode == 1
    assert "stays parked" in err.decode()
    assert "NobodyKnows" in err.decode()
