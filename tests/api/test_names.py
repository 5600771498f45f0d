"""One person, one name: for sight, search and erasure, however it is spelled."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from api.commands.handler import Handler, Submission, new_ticket_id
from domain.actors import Actor
from domain.tickets.opening import OpenTicket
from domain.values import one_spelling
from tests.api.test_api import is_problem, serving
from tests.api.test_visibility import done, listed, opened
from tests.callers import ADMIN, SUPERVISOR, as_
from tests.oracle import assert_views_equal_the_log
from tests.projecting import caught_up, until

COMPOSED, DECOMPOSED = "Zoë@example.org", unicodedata.normalize("NFD", "Zoë@Example.ORG")
ZOE = as_("requester", DECOMPOSED)


def test_a_name_has_one_spelling():
    for name, spelled in (
        ("Bob", "Bob"),
        ("bob@EXAMPLE.org", "bob@example.org"),
        ("Bob@example.org", "Bob@example.org"),
        (DECOMPOSED, COMPOSED),
        ("@", "@"),
        ("a@b@C", "a@b@c"),
        ("[erased]", "[erased]"),
    ):
        assert one_spelling(name) == spelled


@given(st.text())
def test_a_spelling_is_spelled_like_itself(name):
    spelled = one_spelling(name)
    assert one_spelling(spelled) == spelled
    assert one_spelling(unicodedata.normalize("NFD", name)) == spelled


async def test_a_requester_has_their_tickets_however_they_are_spelled(database, store):
    """Zoë writes from a telephone that spells her name in its own way."""
    async with serving(database) as client:
        groups = {"groups": {"print": ["AL@EXAMPLE.org"], "network": []}}
        await client.put("/desk", json=groups, headers=ADMIN)
        mine = await opened(client, requester=COMPOSED, group="print")
        hers = await opened(client, ZOE, requester=DECOMPOSED)
        theirs = await opened(client, requester="zoë@example.org")
        both = {mine, hers}
        for headers in (ZOE, as_("requester", COMPOSED)):
            assert await listed(client, headers) == both
            assert (await client.get(f"/tickets/{mine}", headers=headers)).status_code == 200
            answer = await client.get(f"/tickets/{theirs}", headers=headers)
            is_problem(answer, 404, "ticket_not_found")
        for query in (f"requester={DECOMPOSED}", f'q=requester:"{COMPOSED}"'):
            assert await listed(client, SUPERVISOR, f"&{query}") == both
        await client.put("/views/zoe", json={"requester": DECOMPOSED}, headers=SUPERVISOR)

        async def counted():
            return (await client.get("/views/zoe")).json()["count"] == 2

        await until(counted)
        agent = as_("agent", "AL@example.org")
        assert mine in await listed(client, agent)
        await done(client, mine, "assign", {"assignee": "AL@Example.org"}, agent)
        again = await done(client, mine, "assign", {"assignee": "AL@EXAMPLE.ORG"}, agent)
        assert again["events"] == []
        assert await listed(client, SUPERVISOR, "&assignee=AL@eXample.org") == {mine}
        await done(client, mine, "follow", {"follower": COMPOSED})
        again = await done(client, mine, "follow", {"follower": DECOMPOSED})
        assert again["events"] == []
        await done(client, mine, "resolve", {"resolution": "paper"}, agent)
        await done(client, mine, "rate", {"score": 5}, ZOE)
        await caught_up(database, store)
        await assert_views_equal_the_log(database)


async def test_an_idempotency_key_is_of_the_name_as_it_was_given(store):
    """L5: what was sent before names had one spelling is found when it is sent again."""
    handler, actor = Handler(store), Actor("bob@EXAMPLE.org", "requester")
    command = OpenTicket(subject="x", requester="bob@EXAMPLE.org")
    assert new_ticket_id(actor, "k") != new_ticket_id(Actor("bob@example.org", "requester"), "k")
    submission = Submission(command=command, actor=actor, key="k")
    first = await handler.handle(new_ticket_id(actor, "k"), submission)
    again = await Handler(store).handle(new_ticket_id(actor, "k"), submission)
    assert (again.version, again.replayed) == (first.version, True)
    [event] = await store.load(first.ticket_id)
    assert event.data["requester"] == "bob@EXAMPLE.org"
    assert event.metadata.actor == actor


async def test_erasing_a_person_takes_all_spellings_and_tells_of_those_alike(
    database, store, monkeypatch
):
    """Also of a spelling that had a key of its own before all were one."""
    with monkeypatch.context() as before:
        before.setattr("eventstore.personal.vault.one_spelling", lambda name: name)
        await database.vault.of_names([DECOMPOSED])
    async with serving(database) as client:
        first = await opened(client, requester=COMPOSED, body="canary")
        second = await opened(client, ZOE, requester=DECOMPOSED, body="canary")
        await opened(client, requester="ZOË@example.org")
        await opened(client, requester="Ｚoë@example.org")
        asked = {"name": DECOMPOSED}
        found = (await client.post("/persons/find", json=asked, headers=ADMIN)).json()
        assert found["name"] == COMPOSED
        alike = {"ZOË@example.org", "Ｚoë@example.org"}
        assert {each["name"] for each in found["alike"]} == alike
        held = (await client.get(f"/persons/{found['id']}/data", headers=ADMIN)).text
        assert first in held
        assert second in held
        path = f"/persons/{found['id']}/erase"
        erased = (await client.post(path, json={"reason": "asked"}, headers=ADMIN)).json()
        assert {each["name"] for each in erased["alike"]} == alike
        assert [step["step"] for step in erased["erasure"]] == ["PersonErased", "KeyDestroyed"]
        same, others = await database.vault.persons_of(COMPOSED)
        assert (same, {person.name for person in others}) == ([], alike)
        for spelled in (COMPOSED, DECOMPOSED, "Zoë@EXAMPLE.org"):
            order = {"subject": "x", "requester": spelled}
            answer = await client.post("/tickets", json=order, headers=SUPERVISOR)
            is_problem(answer, 409, "person_erased")

        for ticket in (first, second):
            told = await client.get(f"/tickets/{ticket}/timeline", headers=SUPERVISOR)
            assert told.status_code == 200
            assert "canary" not in told.text


async def test_who_was_erased_by_a_spelling_stays_erased(database, monkeypatch):
    """Before all spellings were one, each was a person by itself: it is refused as it was."""
    async with serving(database) as client:
        with monkeypatch.context() as before:
            for module in ("eventstore.personal.vault", "api.people.store", "api.people.erasure"):
                before.setattr(f"{module}.one_spelling", lambda name: name)
            await opened(client, requester=DECOMPOSED)
            asked = {"name": DECOMPOSED}
            found = (await client.post("/persons/find", json=asked, headers=ADMIN)).json()
            path = f"/persons/{found['id']}/erase"
            answer = await client.post(path, json={"reason": "asked"}, headers=ADMIN)
            assert answer.status_code == 202
        order = {"subject": "x", "requester": DECOMPOSED}
        answer = await client.post("/tickets", json=order, headers=SUPERVISOR)
        is_problem(answer, 409, "person_erased")
        found = (await client.post("/persons/find", json=asked, headers=ADMIN)).json()
        assert (found["name"], found["alike"]) == (None, [])
