"""A client that has an answer by its `ETag` gets 304, and never where it has something else."""

import pytest

from domain.values import ERASED
from projections.views import tickets
from tests.api.test_api import OPEN, is_problem, serving
from tests.callers import AGENT, AUDITOR, REQUESTER, SUPERVISOR, as_
from tests.projecting import caught_up

NORA = as_("agent", "nora")


def having(etag, who=SUPERVISOR):
    return {**who, "If-None-Match": etag}


@pytest.fixture
async def client(database):
    async with serving(database) as one:
        yield one


@pytest.fixture
async def path(client, database, store):
    """Where a ticket is that was opened by bob, and is shown."""
    path = (await client.post("/tickets", json=OPEN)).headers["location"]
    await caught_up(database, store)
    return path


@pytest.mark.parametrize("who", [AGENT, AUDITOR, REQUESTER])
async def test_a_ticket_is_sent_again_once_it_has_changed(client, path, who):
    """L9: by the log, whatever the views show."""
    first = await client.get(path, headers=who)
    assert first.headers["etag"] == '"1"'
    for etag in ('"1"', 'W/"1"', '"0", "1"', "*"):
        same = await client.get(path, headers=having(etag, who))
        assert (same.status_code, same.content) == (304, b"")
        assert same.headers["etag"] == '"1"'
        assert same.headers["cache-control"] == "no-store"
    assert (await client.get(path, headers=having('"11"', who))).content == first.content
    await client.post(f"{path}/add_tags", json={"tags": ["paper"]}, headers=AGENT)
    changed = await client.get(path, headers=having('"1"', who))
    assert (changed.status_code, changed.json()["tags"]) == (200, ["paper"])
    then = await client.get(f"{path}?version=1", headers=having('"1"', who))
    assert then.status_code == 304


async def test_a_ticket_of_somebody_else_is_not_there(client, path):
    for etag in ('"1"', "*"):
        answer = await client.get(path, headers=having(etag, as_("requester", "carla")))
        is_problem(answer, 404, "ticket_not_found")


async def test_what_has_been_erased_is_sent_again(client, path, database):
    """A client may have the ticket of the same version as it was before."""
    erased = {"$set": {"requester": ERASED, "body": ERASED}}
    await database.collection(tickets.COLLECTION).update_one({}, erased)
    answer = await client.get(path, headers=having('"1"'))
    assert (answer.status_code, answer.json()["body"]) == (200, ERASED)


async def test_a_page_is_sent_again_once_it_has_changed(client, path, database, store):
    first = await client.get("/tickets", headers=SUPERVISOR)
    etag = first.headers["etag"]
    same = await client.get("/tickets", headers=having(etag))
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    assert "casebook-views-age" in same.headers
    bobs = await client.get("/tickets", headers=having(etag, REQUESTER))
    assert (bobs.status_code, bobs.json()["tickets"][0]["has_note"]) == (200, None)
    await client.post(f"{path}/add_note", json={"body": "x"}, headers=AGENT)
    await caught_up(database, store)
    changed = await client.get("/tickets", headers=having(etag))
    assert (changed.status_code, changed.json()["tickets"][0]["has_note"]) == (200, True)


async def test_a_page_that_others_see_is_not_taken_for_ones_own(client, path, database, store):
    """Whoever sees something else gets it, whatever they say they have."""
    desk = {"groups": {"print": ["alice"], "net": ["nora"]}}
    admin = as_("admin", "ada")
    await client.put("/desk", json=desk, headers=admin)
    await client.post(f"{path}/move_to_group", json={"group": "print"}, headers=AGENT)
    await caught_up(database, store)
    alices = await client.get("/tickets", headers=AGENT)
    noras = await client.get("/tickets", headers=having(alices.headers["etag"], NORA))
    assert (noras.status_code, noras.json()["tickets"]) == (200, [])
