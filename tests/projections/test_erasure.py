"""A person is erased: their words are nowhere any more, and all else is as it was.

What is looked for are canaries, words that stand nowhere else, in every document of every
collection of both databases, in exports and answers, and in what processes write to files.
"""

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from api.access.keys import KeyOrder, Keys, new_key
from api.access.principals import Principal
from api.commands.handler import Handler, Submission
from api.feed.format import Writer
from api.feed.hub import CutOff, Hub
from api.people.erasure import ErasureWorker
from api.people.store import Persons
from domain.actors import Actor
from domain.errors import HistoryError, PersonGone
from domain.people import ErasePerson, ErasureCompleted, KeyDestroyed, PersonErased, decode, erase
from domain.tickets.assignment import FollowTicket
from domain.tickets.conversation import AddNote
from domain.tickets.opening import OpenTicket
from domain.values import ERASED
from eventstore.archive import ManifestBuilder, lines
from eventstore.background import background
from eventstore.event_document import chain_is_whole, utc_now
from eventstore.log import EventStore
from eventstore.subscription import Subscription
from projections import generations
from projections.erasure import eraser as erasing
from projections.erasure.eraser import Eraser
from projections.erasure.progress import Erasures
from projections.generations import Generations
from projections.replay.rebuild import Rebuild
from projections.views.saved_views import SavedViews, TicketFilter
from projections.workers import workers
from scripts.hash_chains import Verification
from scripts.testbed.judging import documents_with
from scripts.verify import verify_database
from tests.api.test_api import is_problem, serving
from tests.api.test_webhooks import count, dispatching, hooked, receiving
from tests.callers import ADMIN, AGENT, AUDITOR, SUPERVISOR, as_
from tests.oracle import assert_views_equal_the_log
from tests.projecting import add, audited, caught_up, rebuilt, running, until
from tests.spec import ALICE

CARLA = "canarycarla@example.org"
OF_CARLA = as_("requester", CARLA)
OPEN = {
    "subject": "canarysubject",
    "requester": CARLA,
    "body": "canarybody",
    "fields": {"phone": "canaryphone"},
}
OTHERS = {"subject": "Printer jam", "requester": "bob", "body": "Bob's own words."}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(erasing, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr("api.people.erasure._LOOK_SECONDS", 0.5)
    monkeypatch.setattr(erasing, "_STALE_SECONDS", 0.1)
    monkeypatch.setattr(generations, "DROP_SECONDS", 0.2)


@asynccontextmanager
async def erasing_in(database, settled_seconds=0.2):
    """Have erasures be completed, as whoever projects does."""
    async with background(Eraser(database, EventStore(database), settled_seconds).run()):
        yield Generations(database)


async def person_named(client, name):
    found = await client.post("/persons/find", json={"name": name}, headers=ADMIN)
    assert found.status_code == 200, found.text
    return found.json()["id"]


async def erased(client, person):
    answer = await client.post(
        f"/persons/{person}/erase", json={"reason": "asked for it"}, headers=ADMIN
    )
    assert answer.status_code == 202, answer.text
    return answer.json()


async def completed(client, person):
    async def complete():
        shown = (await client.get(f"/persons/{person}", headers=ADMIN)).json()
        return shown if shown["erasure"][-1]["step"] == "ErasureCompleted" else None

    return await until(complete)


async def say(client, path, verb, by=AGENT, **body):
    answer = await client.post(f"{path}/{verb}", json=body, headers=by)
    assert answer.status_code == 200, answer.text


async def test_after_an_erasure_nothing_of_it_is_anywhere(database, store, tmp_path):
    """L1, L7, L11: in no document, export or answer; log, views and other people are whole."""
    key, _ = await Keys(database).make(KeyOrder(principal=CARLA, role="requester"), "ada")
    told: list[bytes] = []
    async with (
        serving(database) as client,
        receiving() as receiver,
        dispatching(database),
        erasing_in(database) as sweeper,
    ):
        await hooked(client, receiver)
        only_hers = {"url": receiver.url, "filter": {"requester": CARLA}}
        assert (
            await client.post("/webhooks", json=only_hers, headers=SUPERVISOR)
        ).status_code == 201
        await client.put("/views/hers", json={"requester": CARLA}, headers=SUPERVISOR)
        await client.get("/dashboard", headers=OF_CARLA)  # denied, and on record
        hers = (await client.post("/tickets", json=OPEN, headers=OF_CARLA)).headers["location"]
        his = (await client.post("/tickets", json=OTHERS, headers=AGENT)).headers["location"]
        await say(client, hers, "assign", assignee="alice")
        await say(client, hers, "reply", body="canaryreply from the desk")
        await say(client, hers, "reply", OF_CARLA, body="canaryanswer of hers")
        await say(client, hers, "add_note", body="canarynote about her")
        await say(client, hers, "set_field", key="email", value="canarymail")
        await say(
            client,
            hers,
            "attach",
            name="canaryfile.pdf",
            media_type="application/pdf",
            size_bytes=9,
            sha256="ca" * 32,
        )
        await say(client, hers, "update_status", status="pending", reason="canaryreason")
        await say(client, hers, "resolve", resolution="canaryresolution")
        await say(client, hers, "rate", OF_CARLA, score=1, comment="canarycomment")
        await say(client, his, "follow", follower=CARLA)
        await say(client, his, "change_requester", requester=CARLA)
        await say(client, his, "add_note", body="canarynote on his")
        await say(client, his, "change_requester", requester="bob")
        other = (await client.post("/tickets", json=OPEN, headers=AGENT)).headers["location"]
        await say(client, other, "merge", into=his.rpartition("/")[2])
        parked = (await client.post("/tickets", json=OPEN, headers=AGENT)).headers["location"]
        await add(store, UUID(parked.rpartition("/")[2]), "NeverHeardOf")
        await caught_up(database, store)
        listed = (await client.get("/tickets?q=canarysubject", headers=SUPERVISOR)).json()
        assert len(listed["tickets"]) == 3
        exported = (await client.get("/events", headers=AUDITOR)).text
        for word in ("canarysubject", "canaryreply", "canaryfile", CARLA):
            assert word in exported

        async def all_sent():
            return len(receiver.told) >= 20

        await until(all_sent)
        summing = ManifestBuilder()
        told = [line async for line in lines(store, summing)]  # an export from before
        before = (await client.get("/dashboard", headers=SUPERVISOR)).json()
        assert await documents_with(database, "canary")

        person = await person_named(client, CARLA)
        shown = await erased(client, person)
        assert [step["step"] for step in shown["erasure"]] == ["PersonErased", "KeyDestroyed"]
        assert shown["name"] is None
        assert shown["erasure"][1]["data"] == {"plain_tickets": 0}
        done = await completed(client, person)
        assert done["erasure"][2]["data"] == {"tickets": 4}
        await sweeper.sweep()

        assert await documents_with(database, "canary") == []
        assert [line for line in told if b"canary" in line.lower()] == []
        ticket = (await client.get(hers, headers=AGENT)).json()
        assert (ticket["subject"], ticket["requester"]) == (ERASED, ERASED)
        assert (ticket["fields"], ticket["rating"]["comment"]) == (
            {"phone": ERASED, "email": ERASED},
            ERASED,
        )
        assert (ticket["status"], ticket["assignee"], ticket["rating"]["score"]) == (
            "resolved",
            "alice",
            1,
        )
        for path in (f"{hers}/timeline", f"{his}/timeline", "/events", "/tickets?limit=50"):
            answer = await client.get(path, headers=AUDITOR if path == "/events" else SUPERVISOR)
            assert answer.status_code == 200
            assert "canary" not in answer.text.lower()
        timeline = (await client.get(f"{hers}/timeline", headers=AUDITOR)).json()
        assert timeline["chain"] == "whole"
        assert [e["type"] for e in timeline["events"]][:3] == [
            "TicketOpened",
            "TicketAssigned",
            "AgentReplied",
        ]
        listed = (await client.get("/tickets?q=canarysubject", headers=SUPERVISOR)).json()
        assert listed["tickets"] == []
        kept = (await client.get(his, headers=AGENT)).json()
        assert (kept["subject"], kept["body"], kept["requester"]) == tuple(
            OTHERS[name] for name in ("subject", "body", "requester")
        )
        assert (await client.get("/dashboard", headers=SUPERVISOR)).json() == before
        webhooks = (await client.get("/webhooks", headers=SUPERVISOR)).json()
        assert len(webhooks["webhooks"]) == 1
        assert "canary" not in (await client.get("/access_log", headers=AUDITOR)).text
        revoked = [k for k in (await Keys(database).all_apart())[0] if k.id == key.id]
        assert revoked[0].revoked_at is not None
        found = await client.post("/persons/find", json={"name": CARLA}, headers=ADMIN)
        assert (found.json()["id"], found.json()["name"]) == (person, None)
        [listed] = (await client.get("/persons", headers=ADMIN)).json()["erasures"]
        assert (listed["id"], len(listed["steps"])) == (person, 3)
        verification = Verification()
        await verify_database(database, verification)
        assert verification.finish() == []
        waiting = {UUID(parked.rpartition("/")[2]): 2}
        await assert_views_equal_the_log(database, waiting)
        assert (await audited(database))[0] == []


async def test_nobody_is_told_again_of_what_somebody_did_who_is_erased(database, store):
    async with (
        serving(database) as client,
        receiving() as receiver,
        dispatching(database),
        erasing_in(database),
    ):
        await hooked(client, receiver)
        hers = (await client.post("/tickets", json=OPEN, headers=OF_CARLA)).headers["location"]
        await say(client, hers, "assign", assignee="alice")
        await until(lambda: count(receiver, 2))
        person = await person_named(client, CARLA)
        await erased(client, person)
        await completed(client, person)
        await say(client, hers, "add_tags", tags=["x"])
        await until(lambda: count(receiver, 3))
        assert [version for _, version in receiver.told] == [1, 2, 3]
        assert receiver.requests == 3


async def test_who_is_erased_says_nothing_more_and_nothing_is_said_of_them(database, store):
    async with serving(database) as client:
        hers = (await client.post("/tickets", json=OPEN, headers=OF_CARLA)).headers["location"]
        await say(client, hers, "assign", assignee="alice")
        await erased(client, await person_named(client, CARLA))
        is_problem(
            await client.post("/tickets", json=OPEN, headers=OF_CARLA), 401, "unauthenticated"
        )
        for path, by, body in (
            ("/tickets", AGENT, OPEN),
            (f"{hers}/add_note", AGENT, {"body": "canary"}),
            (f"{hers}/resolve", AGENT, {"resolution": "canary"}),
            (f"{hers}/follow", AGENT, {"follower": CARLA}),
        ):
            is_problem(await client.post(path, json=body, headers=by), 409, "person_erased")
        answer = await client.post("/tickets", json={**OPEN, "requester": ERASED}, headers=AGENT)
        is_problem(answer, 422, "invalid_request")
        # Facts go on.
        await say(client, hers, "add_tags", tags=["x"])
        await say(client, hers, "close", reason="invalid")


async def test_a_key_of_a_command_that_an_erased_person_has_words_in_still_means_once(store):
    """L5: an agent's command is not done twice because its content can no longer be compared."""
    handler, carla = Handler(store), uuid4()
    order = OpenTicket(subject="s", requester=CARLA)
    await handler.handle(carla, Submission(command=order, actor=ALICE))
    note = Submission(command=AddNote(body="canary"), actor=ALICE, key="k")
    first = await handler.handle(carla, note)
    vault = store._database.vault
    person = await vault.find(CARLA)
    erasures = Erasures(store._database)
    await erasures.prepare()
    await erasures.take(person.id, PersonErased("r", (await vault.known_as(person.id)).hex()))
    await vault.destroy(person.id, await vault.known_as(person.id))
    again = await Handler(store).handle(carla, note)
    assert (again.replayed, again.version) == (True, first.version)
    with pytest.raises(PersonGone):
        await handler.handle(carla, Submission(command=AddNote(body="more"), actor=ALICE))


async def test_merging_an_erased_persons_ticket_names_nobody(database, store):
    async with serving(database) as client:
        hers = (await client.post("/tickets", json=OPEN, headers=AGENT)).headers["location"]
        his = (await client.post("/tickets", json=OTHERS, headers=AGENT)).headers["location"]
        await erased(client, await person_named(client, CARLA))
        await say(client, hers, "merge", into=his.rpartition("/")[2])
        assert (await client.get(his, headers=AGENT)).json()["followers"] == []


async def test_all_that_is_held_on_somebody_is_given_out_before(database, store):
    await Keys(database).make(KeyOrder(principal=CARLA, role="requester"), "ada")
    async with serving(database) as client:
        hers = (await client.post("/tickets", json=OPEN, headers=OF_CARLA)).headers["location"]
        await say(client, hers, "assign", assignee="alice")
        await say(client, hers, "add_note", body="canarynote")
        his = (await client.post("/tickets", json=OTHERS, headers=AGENT)).headers["location"]
        await say(client, his, "follow", follower=CARLA)
        await say(client, his, "add_note", body="nothing of hers")
        two = await client.post("/tickets", json={**OPEN, "requester": "dora"}, headers=AGENT)
        await say(client, two.headers["location"], "merge", into=his.rpartition("/")[2])
        await caught_up(database, store)
        await client.put("/views/hers", json={"requester": CARLA}, headers=SUPERVISOR)
        person = await person_named(client, CARLA)
        answer = await client.get(f"/persons/{person}/data", headers=ADMIN)
        assert answer.headers["content-type"].startswith("application/x-ndjson")
        told = [json.loads(line) for line in answer.text.splitlines()]
        assert told[0]["person"]["name"] == CARLA
        assert told[-1] == {"end": {"tickets": 2}}
        events = [t for t in told if "version" in t]
        on_hers = [e for e in events if hers.endswith(e["ticket_id"])]
        assert [(e["type"], e["data"].get("body")) for e in on_hers] == [
            ("TicketOpened", "canarybody"),
            ("TicketAssigned", None),
            ("NoteAdded", "canarynote"),
        ]
        assert [e["type"] for e in events if his.endswith(e["ticket_id"])] == ["FollowerAdded"]
        assert "nothing of hers" not in answer.text
        assert {k for t in told for k in t} >= {"api_key", "saved_view"}
        assert "hash" not in next(t["api_key"] for t in told if "api_key" in t)
        await erased(client, person)
        gone = await client.get(f"/persons/{person}/data", headers=ADMIN)
        is_problem(gone, 404, "person_is_erased")


async def test_another_persons_words_in_the_same_event_are_withheld(database, store):
    async with serving(database) as client:
        his = (await client.post("/tickets", json=OTHERS, headers=AGENT)).headers["location"]
        hers = (await client.post("/tickets", json=OPEN, headers=AGENT)).headers["location"]
        await say(client, hers, "follow", follower="dora")
        await say(client, hers, "merge", into=his.rpartition("/")[2])
        person = await person_named(client, CARLA)
        text = (await client.get(f"/persons/{person}/data", headers=ADMIN)).text
        merged = [json.loads(t) for t in text.splitlines() if "TicketMergedFrom" in t]
        assert sorted(merged[0]["data"]["followers"]) == ["[withheld]", CARLA]
        assert "dora" not in text


@pytest.mark.parametrize("who", [AGENT, SUPERVISOR, AUDITOR, OF_CARLA])
async def test_persons_are_for_administrators(database, store, who):
    async with serving(database, project=False) as client:
        person = uuid4()
        for method, path in (
            ("POST", "/persons/find"),
            ("GET", f"/persons/{person}"),
            ("GET", f"/persons/{person}/data"),
            ("POST", f"/persons/{person}/erase"),
        ):
            answer = await client.request(method, path, headers=who)
            assert answer.status_code == 403


async def test_who_is_not_known_is_not_found(database, store):
    async with serving(database, project=False) as client:
        for method, path, body in (
            ("POST", "/persons/find", {"name": "nobody"}),
            ("GET", f"/persons/{uuid4()}", None),
            ("GET", f"/persons/{uuid4()}/data", None),
            ("POST", f"/persons/{uuid4()}/erase", {"reason": "x"}),
        ):
            answer = await client.request(method, path, json=body, headers=ADMIN)
            is_problem(answer, 404, "person_not_found")
        hers = await client.post("/tickets", json=OPEN, headers=AGENT)
        assert hers.status_code == 201
        person = await person_named(client, CARLA)
        answer = await client.post(f"/persons/{person}/erase", json={}, headers=ADMIN)
        is_problem(answer, 422, "invalid_request")
        first = await erased(client, person)
        assert (await erased(client, person))["erasure"] == first["erasure"]


async def test_views_that_are_kept_are_folded_anew_too(database, store):
    """L7: what was shown before, and as of a time."""
    async with serving(database, project=False) as client, running(database):
        await client.post("/tickets", json=OPEN, headers=OF_CARLA)
        await client.post("/tickets", json=OTHERS, headers=AGENT)
        await client.put("/views/hers", json={"requester": CARLA}, headers=SUPERVISOR)
        await client.put("/views/new", json={"status": "new"}, headers=SUPERVISOR)
        await caught_up(database, store)
        async with workers(database, 0) as here:
            await Rebuild(database, here, lambda _: None).as_of(
                "then", await database.server_time() + timedelta(hours=1), "recorded"
            )
        await rebuilt(database, keep_former=True)
        assert len({c for c, _ in await documents_with(database, "canarysubject")}) > 3
        person = await person_named(client, CARLA)
        await erased(client, person)
        async with erasing_in(database):
            await completed(client, person)
        assert await documents_with(database, "canarysubject") == []
        async with workers(database, 0) as here:
            await Rebuild(database, here, lambda _: None).go_back()  # proved before it is shown
        assert (await audited(database))[0] == []
        shown = (await client.get("/tickets?as_of_view=then", headers=SUPERVISOR)).json()
        assert {t["subject"] for t in shown["tickets"]} == {ERASED, "Printer jam"}


async def test_a_build_that_had_begun_before_is_waited_for(database, store):
    """What it has read may be written until it ends."""
    async with serving(database) as client:
        await client.post("/tickets", json=OPEN, headers=OF_CARLA)
        await caught_up(database, store)
        kept = Generations(database)
        await kept.begin("builder")
        person = await person_named(client, CARLA)
        await erased(client, person)
        async with erasing_in(database):
            for _ in range(20):
                await kept.beat("builder", "scan", 0, 0)
                await asyncio.sleep(0.05)
            shown = (await client.get(f"/persons/{person}", headers=ADMIN)).json()
            assert shown["erasure"][-1]["step"] == "KeyDestroyed"
            # But what is shown is clean already.
            assert "ticket_reads_1" not in {c for c, _ in await documents_with(database, "canary")}
            await kept.give_up("builder")
            await completed(client, person)


@pytest.mark.parametrize("other", [{"shape": 1}, {"log": UUID(int=7)}])
async def test_views_of_another_version_or_log_are_dropped(database, store, other):
    """They cannot be folded anew: and nobody is shown them."""
    async with serving(database, project=False) as client, running(database):
        await client.post("/tickets", json=OPEN, headers=OF_CARLA)
        await caught_up(database, store)
        await rebuilt(database, keep_former=True)
        await database.collection("generations").update_one({"_id": "former"}, {"$set": other})
        person = await person_named(client, CARLA)
        await erased(client, person)
        async with erasing_in(database) as sweeper:
            dropping = asyncio.create_task(sweep_often(sweeper))
            await completed(client, person)
            dropping.cancel()
        assert await documents_with(database, "canary") == []


async def sweep_often(sweeper):
    while True:
        await sweeper.sweep()
        await asyncio.sleep(0.1)


async def test_what_was_written_before_anything_was_sealed_still_reads(database, store):
    """L10: and whoever erases its person is told that it names them still."""
    plain = EventStore(database, sealing=False)
    handler = Handler(plain)
    old = uuid4()
    order = OpenTicket(subject="canaryold", requester=CARLA, body="canaryold")
    await handler.handle(old, Submission(command=order, actor=Actor(CARLA, "requester")))
    assert "sealed" not in (await store.stored(old))[0]
    async with serving(database) as client, erasing_in(database):
        await caught_up(database, store)
        assert (await client.get(f"/tickets/{old}", headers=AGENT)).json()["subject"] == "canaryold"
        # Only what is older has no key; to be asked for it takes one.
        person = await person_named(client, CARLA)
        text = (await client.get(f"/persons/{person}/data", headers=ADMIN)).text
        assert "canaryold" in text
        shown = await erased(client, person)
        assert shown["erasure"][1]["data"]["plain_tickets"] == 1
        await completed(client, person)
        assert chain_is_whole(await store.stored(old))
        await assert_views_equal_the_log(database)


async def test_of_tickets_that_are_older_than_sealing_those_that_name_somebody_are_counted(
    database, store
):
    """Also one that was written to since, and one that they only follow."""
    plain, handler = Handler(EventStore(database, sealing=False)), Handler(store)
    hers, his, new = uuid4(), uuid4(), uuid4()
    for by, ticket, command in (
        (plain, hers, OpenTicket(subject="canaryold", requester=CARLA)),
        (handler, hers, AddNote(body="canarynew")),
        (plain, his, OpenTicket(subject="old", requester="bob")),
        (plain, his, FollowTicket(follower=CARLA)),
        (handler, new, OpenTicket(subject="canarynew", requester=CARLA)),
    ):
        await by.handle(ticket, Submission(command=command, actor=ALICE))
    async with serving(database) as client:
        await caught_up(database, store)
        shown = await erased(client, await person_named(client, CARLA))
        assert shown["erasure"][1]["data"] == {"plain_tickets": 2}


async def test_what_names_somebody_after_their_erasure_has_begun_does_so_no_more(database, store):
    """As from another process, which has not heard of it yet. And nothing takes the name anew."""
    keys, views = Keys(database), SavedViews(database)
    async with serving(database) as client, erasing_in(database, settled_seconds=1.5):
        await client.post("/tickets", json=OPEN, headers=AGENT)
        await caught_up(database, store)
        person = await person_named(client, CARLA)
        late, text = new_key(CARLA, "requester", "ada", utc_now())
        await erased(client, person)
        await keys.add(late)
        await views.save("late", TicketFilter(requester=CARLA))
        records = database.collection("access_log")
        await records.insert_one({"at": utc_now(), "principal": {"id": CARLA, "role": "requester"}})
        async with background(ErasureWorker(database, store, again_seconds=0.1).run()):
            await completed(client, person)
        assert await documents_with(database, "canary") == []
        answer = await client.get("/tickets", headers={"Authorization": f"Bearer {text}"})
        is_problem(answer, 401, "unauthenticated")
        order = {"principal": CARLA, "role": "requester"}
        asked = {"requester": CARLA}
        hook = {"url": "https://example.org/", "filter": asked}
        for answer in (
            await client.post("/keys", json=order, headers=ADMIN),
            await client.put("/views/again", json=asked, headers=SUPERVISOR),
            await client.post("/webhooks", json=hook, headers=SUPERVISOR),
        ):
            is_problem(answer, 409, "person_erased")
        is_problem(await client.get("/dashboard", headers=OF_CARLA), 401, "unauthenticated")
        await asyncio.sleep(0.3)  # the access log is written a moment later
        assert await documents_with(database, "canary") == []


async def test_two_who_take_the_same_step_do_not_stand_in_each_others_way(database, store):
    async with serving(database, project=False) as client:
        await client.post("/tickets", json=OPEN, headers=AGENT)
        await client.put("/views/hers", json={"requester": CARLA}, headers=SUPERVISOR)
        person = UUID(await person_named(client, CARLA))
        known_by = await database.vault.known_as(person)
        await Erasures(database).take(person, PersonErased("r", known_by.hex()))
        await asyncio.gather(*(ErasureWorker(database, store).forget(person) for _ in range(3)))
        steps = [type(step.event) for step in await Erasures(database).steps(person)]
        assert steps == [PersonErased, KeyDestroyed]
        assert await SavedViews(database).all() == []


async def test_who_is_killed_before_the_step_is_on_record_leaves_what_nobody_knows(
    database, store, monkeypatch
):
    async with serving(database, project=False) as client:
        await client.post("/tickets", json=OPEN, headers=AGENT)
        person = UUID(await person_named(client, CARLA))
        known_by = await database.vault.known_as(person)
        erasures = Erasures(database)
        await erasures.take(person, PersonErased("r", known_by.hex()))
        await Keys(database).add(new_key(CARLA, "requester", "ada", utc_now())[0])
        await database.vault.destroy(person, known_by)
        await ErasureWorker(database, store).forget(person)
        assert (await erasures.steps(person))[1].event == KeyDestroyed(None)
        [key] = [k for k in (await Keys(database).all_apart())[0] if k.created_by == "ada"]
        assert key.principal == ERASED
        assert key.revoked_at is not None


async def test_who_is_erased_while_all_that_is_held_on_them_is_given_is_given_no_more(
    database, store
):
    handler = Handler(store)
    for _ in range(3):
        order = OpenTicket(subject="canarysubject", requester=CARLA)
        await handler.handle(uuid4(), Submission(command=order, actor=ALICE))
    await Erasures(database).prepare()
    person = (await database.vault.find(CARLA)).id
    persons = Persons(database, store)
    given = await persons.data(person)
    assert b"canary" in await anext(given)
    assert b"canarysubject" in await anext(given)
    await persons.erase(person, ErasePerson(reason="r"), Principal("ada", "admin"))
    rest = b"".join([line async for line in given])
    assert b"canary" not in rest
    assert b"person_is_erased" in rest


async def test_an_audit_waits_for_views_that_are_still_to_be_folded_anew(database, store):
    """L7: what is read of the log is erased before it is in the views, and that is no damage."""
    async with serving(database) as client:
        await client.post("/tickets", json=OPEN, headers=OF_CARLA)
        await caught_up(database, store)
        await erased(client, await person_named(client, CARLA))
        assert await documents_with(database, "canarysubject")  # the views are still as they were
        audit = asyncio.create_task(audited(database))
        await asyncio.sleep(0.5)
        assert not audit.done()
        async with erasing_in(database):
            assert (await audit)[0] == []


async def test_who_follows_the_log_is_sent_away_when_somebody_is_erased(database, store):
    """Their words may be in what is kept for all clients; who comes back reads them erased."""
    hub = Hub(store, Writer(database, store).block)
    store.vault.news.on_news(hub)
    joined = await hub.join()
    first = hub.place(joined.token)
    handler, ticket = Handler(store), uuid4()
    order = OpenTicket(subject="canarysubject", requester=CARLA)
    await handler.handle(ticket, Submission(command=order, actor=ALICE))

    async def there():
        return [entry.written for entry in (await hub.behind(first, 0.1))[0]]

    [written] = await until(there)
    assert b"canarysubject" in written
    async with serving(database, project=False) as client:
        await erased(client, await person_named(client, CARLA))
    with pytest.raises(CutOff):
        await hub.behind(first, 0)
    assert (await hub.behind(hub.end, 0))[0] == ()
    assert not hub.reaches(Subscription(store, joined))
    hub.leave()
    again = await Writer(database, store).line((await store.stored(ticket))[0])
    assert b"canarysubject" not in again
    assert ERASED.encode() in again
    await hub.closed()


async def test_nobody_is_let_in_by_the_name_of_the_erased(database, store):
    """Or they would see the tickets of all of them."""
    async with serving(database, project=False) as client:
        answer = await client.get("/tickets", headers=as_("requester", ERASED))
        is_problem(answer, 401, "unauthenticated")
        order = {"principal": ERASED, "role": "requester"}
        is_problem(await client.post("/keys", json=order, headers=ADMIN), 422, "invalid_request")


async def test_each_step_is_completed_by_whoever_comes_next(database, store):
    """However it was cut off: fence alone; or fence, and a key that is gone."""
    async with serving(database) as client:
        for name in ("one", "two", "three"):
            await client.post("/tickets", json={**OPEN, "requester": name}, headers=AGENT)
        await caught_up(database, store)
        ids = [UUID(await person_named(client, name)) for name in ("one", "two", "three")]
        erasures, vault = Erasures(database), database.vault
        for person in ids:
            known_by = await vault.known_as(person)
            await erasures.take(person, PersonErased("r", known_by.hex()))
        await vault.destroy(ids[1], await vault.known_as(ids[1]))
        await ErasureWorker(database, store).forget(ids[2])
        forgetting = asyncio.create_task(ErasureWorker(database, store).run())
        async with erasing_in(database):
            for person in ids:
                await completed(client, person)
        forgetting.cancel()
        await asyncio.gather(forgetting, return_exceptions=True)
        assert await documents_with(database, "canary") == []
        await assert_views_equal_the_log(database)


def test_who_is_erased_already_is_not_erased_again():
    command = ErasePerson(reason="asked for it")
    assert erase(0, command, "ab") == (PersonErased("asked for it", "ab"),)
    assert erase(1, command, "ab") == erase(3, command, "ab") == ()


async def test_steps_follow_each_other(database):
    erasures, person = Erasures(database), uuid4()
    await erasures.prepare()
    with pytest.raises(HistoryError):
        await erasures.take(person, ErasureCompleted(1))
    assert await erasures.take(person, PersonErased("r", "ab"))
    assert not await erasures.take(person, PersonErased("again", "ab"))
    assert await erasures.at(PersonErased) == [person]
    assert await erasures.take(person, KeyDestroyed(0))
    assert (await erasures.at(PersonErased), await erasures.at(KeyDestroyed)) == ([], [person])
    events: Any = [s.event for s in await erasures.steps(person)]
    assert events == [PersonErased("r", "ab"), KeyDestroyed(0)]
    stored = await EventStore(database, "person_events").stored(person)
    assert chain_is_whole(stored)  # L11
    with pytest.raises(HistoryError):
        decode("SomethingElse", 1, {})
    with pytest.raises(HistoryError):
        decode("PersonErased", 1, {"reason": 1})
    # L10: as it was written at first.
    first = {"access_records": 1, "api_keys": 2, "saved_views": 3, "webhooks": 4}
    assert decode("KeyDestroyed", 1, {**first, "plain_tickets": 5}) == KeyDestroyed(5)
    with pytest.raises(HistoryError):
        decode("KeyDestroyed", 1, first)
