"""Processes of two versions on one database: what one does not know of the other's harms neither.

A document that a newer version has stored is one of this version with something unknown in it; the
newer version is this one, with a reader that knows it.
"""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from api.access.access_log import AccessLog
from api.access.keys import KeyOrder, Keys
from api.operations import stored_documents
from api.operations.stored_documents import readability_check
from api.people.erasure import ErasureWorker
from api.webhooks import store as webhooks
from api.webhooks.store import WebhookLease, Webhooks
from eventstore.documents import Reader, Unreadable
from eventstore.event_document import utc_now
from projections.erasure.progress import Erasures
from projections.generations import Generations
from projections.projector.checkpoints import Checkpoints
from projections.projector.parked import ParkedTickets
from projections.views import saved_views
from projections.views.saved_views import SavedViews, TicketFilter
from tests.api.test_api import client, is_problem
from tests.api.test_webhooks import arrived, dispatching, hooked, receiver, versions
from tests.callers import ADMIN, AGENT, AUDITOR, SUPERVISOR
from tests.oracle import assert_views_equal_the_log
from tests.projecting import add, audited, by_utc, caught_up, open_some, rebuilt, running, until
from tests.projections.test_saved_views import counted

__all__ = ["client", "receiver"]
CARLA = "carla@example.org"


def without_mood(document):
    known = {name: value for name, value in document["filter"].items() if name != "mood"}
    return {**document, "filter": known}


def newer(database, store):
    """A projector of a version that knows what `mood` is: it is always as it should be."""
    made = by_utc(database, store, lease_seconds=1.0)
    made._views._reader = Reader(
        Unreadable(),
        "saved_views",
        lambda document: saved_views.from_document(without_mood(document)),
    )
    return made


def older(database, store):
    return by_utc(database, store, lease_seconds=1.0)


async def of_newer(database, name):
    """Have a saved view be of a newer version."""
    await database.collection("saved_views").update_one({"_id": name}, {"$set": {"filter.mood": 1}})


async def known(database, name):
    """Have the newer version be what runs everywhere."""
    unset = {"$unset": {"filter.mood": ""}}
    await database.collection("saved_views").update_one({"_id": name}, unset)


async def is_marked(database, id_):
    return [id_ in p.views for p in (await Checkpoints(database).read()).partitions]


async def test_a_saved_view_that_is_not_known_is_not_counted_by_half(database, store):
    """L7: neither while this version goes on without it, nor when it is known again."""
    saved = SavedViews(database)
    await saved.save("alices", TicketFilter(assignee="alice"))
    await saved.save("all", TicketFilter())
    ids = await open_some(store, 12, versions=1)
    for ticket_id in ids[:6]:
        await add(store, ticket_id, "TicketAssigned", assignee="alice")
    async with running(older(database, store)):
        assert await counted(database, "alices") == 6
        view = await saved.find("alices")
        await of_newer(database, "alices")

        async def given_up():
            return not any(await is_marked(database, view.id))

        await until(given_up)
        for ticket_id in ids[:2]:
            await add(store, ticket_id, "TicketAssigned", assignee="bob")
        for ticket_id in ids[2:4]:
            await add(store, ticket_id, "NoteAdded", body="still alice's")
        for ticket_id in ids[6:9]:
            await add(store, ticket_id, "TicketAssigned", assignee="alice")
        await caught_up(database, store)
        assert await counted(database, "all") == 12
        assert (await audited(database))[0] == []
        await known(database, "alices")
        assert await counted(database, "alices") == 7
    await assert_views_equal_the_log(database)


async def test_projectors_of_two_versions_side_by_side_count_exactly(database, store):
    """L7: partitions go from one to the other and back while tickets change."""
    saved = SavedViews(database)
    await saved.save("alices", TicketFilter(assignee="alice"))
    ids = await open_some(store, 20, versions=1)
    await of_newer(database, "alices")
    made = [newer, older, newer]
    for turn, ticket_ids in enumerate((ids[:10], ids[5:15], ids)):
        async with running(made[turn](database, store), made[turn - 1](database, store)):
            for n, ticket_id in enumerate(ticket_ids):
                name = "alice" if (n + turn) % 3 else "bob"
                await add(store, ticket_id, "TicketAssigned", assignee=name)
            await caught_up(database, store)
    async with running(newer(database, store)):

        async def everywhere():
            document = await database.collection("saved_views").find_one({"_id": "alices"})
            return all(await is_marked(database, document["id"]))

        await until(everywhere)
    await known(database, "alices")
    await assert_views_equal_the_log(database)


async def test_views_built_anew_without_knowing_one_have_it_counted_once_it_is_known(
    database, store
):
    """L7"""
    saved = SavedViews(database)
    await saved.save("alices", TicketFilter(assignee="alice"))
    for ticket_id in await open_some(store, 5, versions=1):
        await add(store, ticket_id, "TicketAssigned", assignee="alice")
    async with running(older(database, store)):
        await counted(database, "alices")
    await of_newer(database, "alices")
    await rebuilt(database)
    await known(database, "alices")
    shown = await Generations(database).shown()
    async with running(older(shown, store)):
        assert await counted(shown, "alices") == 5
    await assert_views_equal_the_log(shown)


async def test_a_saved_view_that_is_not_known_is_refused_by_name_and_can_be_replaced(
    client, database
):
    await SavedViews(database).save("alices", TicketFilter(assignee="alice"))
    await SavedViews(database).save("bobs", TicketFilter(assignee="bob"))
    views = database.collection("saved_views")
    await views.update_one({"_id": "alices"}, {"$set": {"filter.mood": 1, "icon": "star"}})
    listed = (await client.get("/views")).json()
    assert [view["name"] for view in listed["views"]] == ["bobs"]
    assert listed["unreadable"] == ["alices"]
    is_problem(await client.get("/views/alices"), 409, "unreadable_document")
    # What narrows and is not understood is no reason to show more.
    is_problem(await client.get("/tickets?view=alices"), 409, "unreadable_document")
    assert (await client.get("/tickets?view=bobs")).status_code == 200
    replaced = await client.put("/views/alices", json={"assignee": "alice"})
    assert replaced.status_code == 200
    assert (await views.find_one({"_id": "alices"}))["icon"] == "star"
    await views.update_one({"_id": "bobs"}, {"$set": {"filter": {"assignee": 7}}})
    assert (await client.delete("/views/bobs")).status_code == 204
    assert "unreadable" not in (await client.get("/views")).json()


async def test_names_that_former_versions_took_are_read_although_they_are_taken_no_more(
    client, database
):
    await SavedViews(database).save("theirs", TicketFilter(requester="x"))
    odd = {"$set": {"filter.requester": "x\x01" + "y" * 300}}
    await database.collection("saved_views").update_one({"_id": "theirs"}, odd)
    assert (await client.get("/views/theirs")).status_code == 200
    assert (await client.get("/tickets?view=theirs")).status_code == 200


# --- webhooks -------------------------------------------------------------------------------------


async def test_a_webhook_that_is_not_known_is_told_later_what_it_was_not_told(
    database, store, client, receiver
):
    """At least once, for the version that can read it; and all others are told meanwhile."""
    hooks = database.collection(webhooks.WEBHOOKS)
    one, two = await hooked(client, receiver), await hooked(client, receiver)
    async with dispatching(database):
        before = await open_some(store, 2)
        await arrived(receiver, versions(before, 1, 2, 3))
        first = await hooks.find_one({"url": receiver.url})
        change = {"$set": {"filter": {"mood": 1}, "icon": "star", "types": []}}
        await hooks.update_one({"_id": first["_id"]}, change)

        async def owed():
            return (await hooks.find_one({"_id": first["_id"]}))["backfill"] is not None

        await until(owed)
        listed = (await client.get("/webhooks", headers=SUPERVISOR)).json()
        assert listed["unreadable"] == [str(first["_id"])]
        assert len(listed["webhooks"]) == 1
        pending = await database.collection(webhooks.DELIVERIES).count_documents({})
        assert pending  # what was made for it stays
        meanwhile = await open_some(store, 2)
        await arrived(receiver, versions([*before, *meanwhile], 1, 2, 3))

    made = database.collection(webhooks.DELIVERIES)
    of_first = {"webhook": first["_id"]}
    assert await made.count_documents(of_first) == 6
    await hooks.update_one({"_id": first["_id"]}, {"$set": {"filter": {}}})
    async with dispatching(database):

        async def all_told():
            return await made.count_documents({**of_first, "status": "delivered"}) == 12

        await until(all_told)
    assert (await hooks.find_one({"_id": first["_id"]}))["icon"] == "star"
    assert {one["id"], two["id"]} == {str(h.id) for h in await Webhooks(database).all()}


async def test_an_event_type_that_is_not_known_is_not_taken_for_all(
    database, store, client, receiver
):
    hook = await hooked(client, receiver, types=["NoteAdded"])
    other = await hooked(client, receiver, types=["NoteAdded"])
    hooks = database.collection(webhooks.WEBHOOKS)
    await hooks.update_many({}, {"$set": {"types": ["OfTheFuture"]}})
    await hooks.update_one({"url": receiver.url}, {"$set": {"types": ["NoteAdded", "OfTheFuture"]}})
    shown = (await client.get("/webhooks", headers=SUPERVISOR)).json()["webhooks"]
    assert sorted(len(each["types"]) for each in shown) == [1, 2]
    async with dispatching(database):
        ids = await open_some(store, 2)
        await arrived(receiver, versions(ids, 2, 3))
    made = database.collection(webhooks.DELIVERIES)
    assert await made.count_documents({}) == 4
    assert hook["id"] != other["id"]


async def test_a_delivery_that_cannot_be_read_holds_up_only_its_ticket(
    database, store, client, receiver
):
    hook = await hooked(client, receiver)
    receiver.answers = lambda _event: 500
    made = database.collection(webhooks.DELIVERIES)
    async with dispatching(database):
        bad, good = await open_some(store, 2)

        async def there():
            return await made.count_documents({}) == 6

        await until(there)
    await made.update_many({}, {"$set": {"status": "pending", "next_at": utc_now()}})
    await made.update_one({"ticket_id": bad, "version": 1}, {"$set": {"failures": "many"}})
    receiver.answers = lambda _event: 200
    async with dispatching(database):
        await arrived(receiver, versions([good], 1, 2, 3))

        async def parked():
            return await made.count_documents({"ticket_id": bad, "status": "parked"}) == 3

        await until(parked)
    path: str | None = f"/webhooks/{hook['id']}/deliveries?limit=1"
    seen = 0
    while path is not None:
        page = (await client.get(path, headers=SUPERVISOR)).json()
        seen += len(page["deliveries"])
        cursor = page["next"]
        base = f"/webhooks/{hook['id']}/deliveries"
        path = cursor and f"{base}?limit=1&cursor={cursor}"
    assert seen == 5


async def test_a_change_of_a_webhook_that_would_not_make_it_known_changes_nothing(client, database):
    hook = await client.post("/webhooks", json={"url": "http://127.0.0.1:9/x"}, headers=SUPERVISOR)
    hooks = database.collection(webhooks.WEBHOOKS)
    await hooks.update_one({}, {"$set": {"created_at": "long ago"}})
    stored = await hooks.find_one()
    path = f"/webhooks/{hook.json()['id']}"
    changed = await client.put(path, json={"url": "http://127.0.0.1:9/y"}, headers=SUPERVISOR)
    is_problem(changed, 409, "unreadable_document")
    assert await hooks.find_one() == stored
    for answer in (
        await client.get(path, headers=SUPERVISOR),
        await client.get(f"{path}/deliveries", headers=SUPERVISOR),
        await client.post(f"{path}/resume", headers=SUPERVISOR),
    ):
        is_problem(answer, 409, "unreadable_document")
    assert (await client.delete(path, headers=SUPERVISOR)).status_code == 204


async def test_a_wish_for_the_past_with_something_unknown_in_it_is_fulfilled_once(
    database, store, client, receiver
):
    await open_some(store, 1, versions=1)
    await hooked(client, receiver)
    hooks = database.collection(webhooks.WEBHOOKS)
    wish = {"since": datetime(2026, 1, 1, tzinfo=UTC), "again": False, "why": "of the future"}
    await hooks.update_one({}, {"$set": {"backfill": wish}})
    async with dispatching(database):

        async def fulfilled():
            return (await hooks.find_one())["backfill"] is None

        await until(fulfilled)
        assert len(receiver.told) <= 1


async def test_a_lease_of_a_former_version_is_taken_and_one_that_cannot_be_read_is_not(database):
    leases = database.collection(webhooks.DISPATCH)
    former = {"owner": None, "epoch": 3, "seen_at": utc_now(), "token": None, "fed_at": utc_now()}
    await leases.insert_one({"_id": "dispatch", **former})
    dispatch = WebhookLease(database)
    assert await dispatch.take("me")
    assert dispatch.looked_at is None
    taken = await leases.find_one()
    assert (taken["epoch"], taken["fed_at"]) == (4, former["fed_at"])
    await leases.update_one({}, {"$set": {"epoch": "four"}})
    assert not await WebhookLease(database).take("me")
    assert database.unreadable.counts() == {webhooks.DISPATCH: 1}


# --- what there is of views beside the views ------------------------------------------------------


async def test_a_partition_that_cannot_be_read_leaves_all_others_as_they_are(database, store):
    checkpoints = Checkpoints(database)
    partitions = database.collection("projections")
    await partitions.update_one({"_id": 7}, {"$set": {"phase": "of the future"}})
    await partitions.update_one({"_id": 8}, {"$set": {"shape": 12}})  # as a former version had it
    await database.collection("projectors").insert_many([{"_id": "garbage"}, {"_id": uuid4()}])
    ids = await open_some(store, 64, versions=1)
    async with running(older(database, store)):

        async def shown():
            reads = database.collection("ticket_reads")
            found = {d["_id"] async for d in reads.find({}, {"_id": 1})}
            return found >= {t for t in ids if t.int % 64 != 7}

        await until(shown)
        state = await checkpoints.read()
        assert [p.number for p in state.partitions if p.owner is None] == [7]
    assert (await partitions.find_one({"_id": 8}))["shape"] == 12
    assert database.unreadable.counts() == {"projections": 1, "projectors": 2}


async def test_a_parked_ticket_whose_document_cannot_be_read_is_parked_anew(database, store):
    [ticket_id] = await open_some(store, 1, versions=1)
    await add(store, ticket_id, "OfTheFuture")
    parked = database.collection("parked_tickets")
    await parked.insert_one({"_id": ticket_id, "partition": ticket_id.int % 64, "version": "two"})
    async with running(older(database, store)):

        async def readable():
            return [p for p in await ParkedTickets(database).all() if p.version == 2]

        await until(readable)
    former = {"version": 2, "seen": 3, "error": "x", "tried_at": utc_now(), "repair": False}
    await parked.replace_one({"_id": ticket_id}, {"partition": 0, **former})
    assert [p.error for p in await ParkedTickets(database).all()] == ["x"]


async def test_nothing_is_dropped_while_it_cannot_be_read_what_is_named(database, store):
    generations = Generations(database)
    await generations.begin("killed")
    documents = database.collection("generations")
    former = {"seen_at": utc_now() - timedelta(minutes=5)}
    await documents.update_one({"_id": "building"}, {"$set": former, "$unset": {"began_at": ""}})
    assert await generations.build() is not None  # as a former version has stored it
    await documents.insert_one({"numbers": "of the future", "drop_after": None})
    left = database.client[f"{database.name}_views"]["ticket_reads_99"]
    await left.insert_one({"_id": 1})
    async with running(database):
        await open_some(store, 3)
        await caught_up(database, store)
        await rebuilt(database)
    assert await left.find_one() is not None
    await documents.delete_one({"numbers": "of the future"})
    await generations.sweep()
    assert await left.find_one() is None


# --- who is erased, who was let in ----------------------------------------------------------------


async def test_an_erased_name_is_in_nothing_that_cannot_be_read(database, store):
    keys = Keys(database)
    await database.vault.prepare()
    await database.vault.of_names([CARLA])
    key, _ = await keys.make(KeyOrder(principal=CARLA, role="agent"), CARLA)
    await keys._documents.update_one({"_id": key.id}, {"$set": {"role": "overlord"}})
    await SavedViews(database).save("hers", TicketFilter(requester=CARLA))
    await of_newer(database, "hers")
    await database.collection(webhooks.WEBHOOKS).insert_one(
        {"_id": uuid4(), "filter": {"requester": CARLA, "mood": 1}}
    )
    await Erasures(database).prepare()
    forgetting = ErasureWorker(database, store)
    assert CARLA in await forgetting._names({await database.vault.known_by(CARLA)})
    await forgetting._unname({CARLA})
    [stored] = await keys._documents.find({"_id": key.id}).to_list()
    assert CARLA not in str(stored)
    assert stored["revoked_at"] is not None
    assert await database.collection("saved_views").find_one() is None
    assert await database.collection(webhooks.WEBHOOKS).find_one() is None


async def test_the_access_log_tells_words_of_other_versions_and_passes_over_garbage(
    client, database
):
    assert (await client.get("/keys", headers=ADMIN)).status_code == 200
    log = database.collection("access_log")
    [record] = await log.find({"route": "/keys"}).to_list()
    other = {"outcome": "welcomed", "mood": 1, "principal": {"id": "x", "role": "overlord"}}
    await log.insert_one({**record, "_id": UUID(int=2**127), **other})
    await log.insert_many([{"_id": UUID(int=n)} for n in range(5)])
    path: str | None = "/access_log?limit=1"
    found: list[Any] = []
    while path is not None:
        page = await client.get(path, headers=AUDITOR)
        assert page.status_code == 200, page.text
        found += page.json()["records"]
        cursor = page.json()["next"]
        path = cursor and f"/access_log?limit=1&cursor={cursor}"
    told = [each for each in found if each["outcome"] == "welcomed"]
    assert told[0]["principal"] == {"id": "x", "role": "overlord", "key": None}
    assert told[0].keys() == found[-1].keys()
    await AccessLog(database).prepare()


# --- and it is told -------------------------------------------------------------------------------


async def test_what_cannot_be_read_is_counted_in_readyz_and_logged_once(
    client, database, caplog, monkeypatch
):
    async def ready():
        return (await client.get("/readyz")).status_code == 200

    await until(ready)
    assert "unreadable" not in (await client.get("/readyz")).json()
    monkeypatch.setattr("api.operations.stored_documents.LOOK_SECONDS", 0.0)
    await SavedViews(database).save("alices", TicketFilter(assignee="alice"))
    await of_newer(database, "alices")
    await database.collection("api_keys").insert_one({"_id": "x"})
    for _ in range(3):
        answer = await client.get("/readyz")
        assert answer.status_code == 200
        assert answer.json()["status"] == "ready"
        assert answer.json()["unreadable"] == {"api_keys": 1, "saved_views": 1}
    said = [r for r in caplog.records if "alices in saved_views" in r.getMessage()]
    assert len(said) == 1
    assert said[0].levelno == logging.ERROR
    await database.collection("api_keys").delete_one({"_id": "x"})
    await known(database, "alices")
    assert "unreadable" not in (await client.get("/readyz")).json()


async def test_documents_are_looked_through_once_for_all_who_ask_at_a_time(database, monkeypatch):
    looked = 0
    look_through = stored_documents.look_through

    async def counting(database):
        nonlocal looked
        looked += 1
        async for name in look_through(database):
            yield name

    monkeypatch.setattr(stored_documents, "look_through", counting)
    await Generations(database).prepare()
    is_readable = readability_check(database)
    assert await asyncio.gather(*(is_readable() for _ in range(5))) == [True] * 5
    assert looked == 1


async def test_without_the_newest_desk_a_process_is_not_ready(client, database):
    async def ready():
        return (await client.get("/readyz")).status_code == 200

    await until(ready)
    await database.collection("desks").insert_one({"_id": 1, "desk": "of the future"})
    assert not await readability_check(database)()

    async def not_ready():
        answer = await client.get("/readyz")
        return answer.status_code == 503 and answer.json()["unreadable"] == {"desks": 1}

    await until(not_ready)
    assert (await client.get("/healthz")).status_code == 200


async def test_which_views_are_shown_is_essential(client, database):
    active = {"_id": "active"}
    documents = database.collection("generations")
    stored = await documents.find_one(active)
    await documents.update_one(active, {"$set": {"numbers": "of the future"}})
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["unreadable"]) == (503, {"generations": 1})
    is_problem(await client.get("/tickets"), 503, "essential_unreadable")
    await documents.replace_one(active, stored)
    assert (await client.get("/tickets")).status_code == 200


async def test_the_key_of_cursors_is_essential_to_them_alone(client, database):
    await database.collection("secrets").insert_one({"_id": "cursors", "key": "text"})
    for _ in range(2):
        await client.get("/keys", headers=ADMIN)
    page = await client.get("/access_log?limit=1", headers=AUDITOR)
    is_problem(page, 503, "essential_unreadable")
    assert (await client.get("/access_log", headers=AUDITOR)).status_code == 200
    assert (await client.get("/tickets", headers=AGENT)).status_code == 200
