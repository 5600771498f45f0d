"""A person's key that is missing or damaged, without an erasure: an error, and only theirs."""

import json
from uuid import UUID, uuid4

import pytest

from api.commands.handler import Handler, Submission
from domain.errors import HistoryError
from domain.tickets import encode
from domain.tickets.assignment import AssignTicket
from domain.tickets.conversation import AddNote, NoteAdded
from domain.tickets.opening import OpenTicket
from eventstore.event_document import CommandRef, Head, Metadata, utc_now
from eventstore.key_files import KeyUnusable
from projections.generations import Generations
from projections.projector.parked import ParkedTickets
from scripts.testbed.judging import documents_with
from tests.api.test_api import is_problem, serving
from tests.api.test_webhooks import dispatching, hooked, receiving
from tests.callers import AGENT, AUDITOR, SUPERVISOR
from tests.projecting import caught_up, running, until
from tests.projections.test_erasure import (  # noqa: F401
    CARLA,
    OF_CARLA,
    OPEN,
    completed,
    erased,
    erasing_in,
    person_named,
    quick,
    say,
)
from tests.spec import ALICE


def persons_of(database):
    return database.client[f"{database.name}_keys"]["persons"]


async def opened_by(store, requester):
    """A ticket, and its requester's id."""
    ticket = uuid4()
    order = OpenTicket(subject=f"of {requester}", requester=requester)
    await Handler(store).handle(ticket, Submission(command=order, actor=ALICE))
    return ticket, (await store.vault.find(requester)).id


async def test_a_missing_key_parks_the_ticket_and_is_never_taken_for_erased(database, store):
    """Only a fence says that somebody is erased."""
    async with serving(database) as client:
        hers = (await client.post("/tickets", json=OPEN, headers=OF_CARLA)).headers["location"]
        await caught_up(database, store)
        person = await person_named(client, CARLA)
        await database.client[f"{database.name}_keys"]["persons"].delete_one({"_id": UUID(person)})
        database.vault.invalidate()
        answer = await client.get(f"{hers}?version=1", headers=AGENT)
        is_problem(answer, 500, "event_sealed")
        timeline = (await client.get(f"{hers}/timeline", headers=AUDITOR)).json()
        assert timeline["chain"] == "whole"
        assert timeline["events"][0]["data"]["body"] is None
        with pytest.raises(HistoryError, match="the key of person"):
            await Handler(store).handle(
                UUID(hers.rpartition("/")[2]),
                Submission(command=AssignTicket(assignee="alice"), actor=ALICE),
            )


async def test_a_key_that_cannot_be_read_keeps_nobody_else_waiting(database, store):
    """Their ticket is parked, others' are shown; and what is said of them is refused."""
    hers, carla = await opened_by(store, "carla")
    his, _ = await opened_by(store, "bob")
    await persons_of(database).update_one({"_id": carla}, {"$set": {"key": b"x" * 60}})
    database.vault.invalidate()
    async with running(database):
        shown = await Generations(database).shown()

        async def there():
            return await shown.collection("ticket_reads").find().to_list()

        assert [read["_id"] for read in await until(there)] == [his]

        async def parked():
            return await ParkedTickets(shown).all()

        assert [one.ticket_id for one in await until(parked)] == [hers]
    with pytest.raises(KeyUnusable):
        await database.vault.of_names(["carla"])
    note = Submission(command=AddNote(body="x"), actor=ALICE)
    with pytest.raises(HistoryError, match=str(carla)):
        await Handler(store).handle(hers, note)


async def test_an_erasure_is_completed_beside_anothers_missing_key(database, store):
    """What cannot be told from what is to go is not left as it was; the ticket waits, parked."""
    async with serving(database) as client:
        hers = (await client.post("/tickets", json=OPEN, headers=AGENT)).headers["location"]
        await say(client, hers, "follow", follower="dora")
        await caught_up(database, store)
        carla, dora = await person_named(client, CARLA), await person_named(client, "dora")
        backup = await persons_of(database).find_one_and_delete({"_id": UUID(dora)})
        database.vault.invalidate()
        await erased(client, carla)
        async with erasing_in(database):
            await completed(client, carla)
        assert await documents_with(database, "canary") == []
        found = (await client.get("/tickets?q=canarysubject", headers=SUPERVISOR)).json()
        assert found["tickets"] == []
        shown = (await client.get("/projections", headers=AUDITOR)).json()
        [parked] = shown["parked"]
        assert parked["ticket_id"] == hers.rpartition("/")[2]
        assert parked["waiting_events"] == 0  # all that it has are counted as folded
        await persons_of(database).insert_one(backup)
        database.vault.invalidate()
        ticket = (await client.get(f"{hers}?version=2", headers=AGENT)).json()
        assert (ticket["subject"], ticket["followers"]) == ("[erased]", ["dora"])


async def test_a_webhook_is_not_sent_what_cannot_be_opened(database, store):
    """It is tried again, until the key is back: nulls would be taken for what was said."""
    async with serving(database) as client, receiving() as receiver, dispatching(database):
        await hooked(client, receiver)
        ticket, bob = await opened_by(store, "bob")

        async def first():
            return receiver.told

        await until(first)
        [head] = await store.load(ticket)
        about = Metadata(ALICE, CommandRef("k", "f"))
        note, now = encode(NoteAdded("hello"), "bob"), utc_now()
        events = await store.chain(ticket, Head(1, head.hash), [note], about, now, now)
        backup = await persons_of(database).find_one_and_delete({"_id": bob})
        database.vault.invalidate()
        await store.append(events)

        async def tried():
            found = database.collection("webhook_deliveries").find({"version": 2})
            return [d for d in await found.to_list() if d["attempts"]]

        [delivery] = await until(tried)
        assert "key is missing" in delivery["attempts"][-1]["error"]
        assert len(receiver.told) == 1
        await persons_of(database).insert_one(backup)
        database.vault.invalidate()

        async def second():
            return len(receiver.told) > 1

        await until(second)
        assert json.loads(receiver.got[-1][1])["data"] == {"body": "hello"}
