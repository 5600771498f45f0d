"""Old backups of keys and of the log, restored after an erasure: it holds, or is done again."""

from uuid import UUID

import pytest

from api.access.keys import KeyOrder, Keys
from api.people.erasure import ErasureWorker
from domain.errors import PersonGone
from eventstore.key_files import KeyUnusable
from eventstore.personal.sealing import ErasedKey
from projections.erasure.progress import Erasures
from scripts.testbed.judging import documents_with
from tests.api.test_api import is_problem, serving
from tests.callers import AGENT, SUPERVISOR
from tests.eventstore.test_missing_keys import opened_by, persons_of
from tests.eventstore.test_sealing import another, erase
from tests.projecting import caught_up
from tests.projections.test_erasure import (  # noqa: F401
    CARLA,
    OF_CARLA,
    OPEN,
    completed,
    erased,
    erasing_in,
    person_named,
    quick,
)


async def test_after_old_backups_erasures_are_done_again(database, store):
    """Of the keys, and of the log."""
    persons = database.client[f"{database.name}_keys"]["persons"]
    async with serving(database) as client, erasing_in(database):
        await client.post("/tickets", json=OPEN, headers=OF_CARLA)
        await caught_up(database, store)
        person = UUID(await person_named(client, CARLA))
        backup = await persons.find_one({"_id": person})
        reads = await database.collection("ticket_reads").find().to_list()
        await erased(client, str(person))
        await completed(client, str(person))
        await persons.replace_one({"_id": person}, backup)
        await ErasureWorker(database, store).reconcile()
        assert "key" not in await persons.find_one({"_id": person})
        # The log's database, as it was before.
        await database.collection("person_events").delete_many({})
        for read in reads:
            await database.collection("ticket_reads").replace_one({"_id": read["_id"]}, read)
        await ErasureWorker(database, store).reconcile()
        await ErasureWorker(database, store).forget(person)
        done = await completed(client, str(person))
        assert done["erasure"][0]["data"]["reason"] == "erased before a backup was restored"
        assert await documents_with(database, "canary") == []


async def test_a_log_from_before_an_erasure_names_the_erased_no_more(database, store):
    """Nor does what is beside it: their name is known to nobody by then."""
    _, text = await Keys(database).make(KeyOrder(principal=CARLA, role="requester"), "ada")
    async with serving(database) as client, erasing_in(database):
        await client.post("/tickets", json=OPEN, headers=AGENT)
        await client.put("/views/hers", json={"requester": CARLA}, headers=SUPERVISOR)
        await client.get("/dashboard", headers=OF_CARLA)  # denied, and on record
        await caught_up(database, store)
        names = ("api_keys", "access_log", "saved_views", "ticket_reads")
        places = map(database.collection, names)
        backup = [(place, await place.find().to_list()) for place in places]
        person = await person_named(client, CARLA)
        await erased(client, person)
        await completed(client, person)
        await database.collection("person_events").delete_many({})
        for place, documents in backup:
            await place.delete_many({})
            await place.insert_many(documents)
        assert await documents_with(database, CARLA)
        forgetting = ErasureWorker(database, store)
        await forgetting.reconcile()
        await forgetting.forget(UUID(person))
        await completed(client, person)
        assert await documents_with(database, "canary") == []
        answer = await client.get("/tickets", headers={"Authorization": f"Bearer {text}"})
        is_problem(answer, 401, "unauthenticated")


async def test_a_key_that_is_back_under_another_id_is_of_no_use(database, store):
    """The keys were restored to before somebody was known, and later to when they were."""
    persons = persons_of(database)
    _, first = await opened_by(store, "bob")
    backup = await persons.find_one_and_delete({"_id": first})
    there = another(database)
    second = (await there.of_names(["bob"]))["bob"].person
    assert second != first
    await erase(database, "bob")
    forgetting = ErasureWorker(database, store)
    await forgetting.forget(second)
    await persons.delete_one({"_id": second})
    await persons.insert_one(backup)
    for _ in range(2):
        there = another(database)
        assert isinstance((await there.of_ids([first]))[first], ErasedKey)
        with pytest.raises(PersonGone):
            await there.of_names(["bob"])
        await forgetting.reconcile()
        assert await persons.find_one({"key": {"$ne": None}}) is None


async def test_keys_that_are_gone_as_a_whole_are_not_begun_anew(database, store):
    """Or whoever was erased could be named again, and what is sealed would never be missed."""
    await opened_by(store, "bob")
    await database.client.drop_database(f"{database.name}_keys")
    there = another(database)
    for attempt in (there.prepare(), there.check(), there.is_new()):
        with pytest.raises(KeyUnusable, match="restore the database of keys"):
            await attempt
    await database.collection("ticket_events").delete_many({})
    assert await another(database).is_new()
    await Erasures(database).prepare()
    await database.collection("person_events").insert_one({"ticket_id": UUID(int=1), "version": 1})
    with pytest.raises(KeyUnusable):
        await another(database).is_new()
