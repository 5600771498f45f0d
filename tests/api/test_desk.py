"""The desk as those who set it up and work at it meet it."""

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from uuid import UUID, uuid4

import pytest

from api.access.principals import TIMEKEEPER
from api.commands.handler import Handler, Submission
from api.desk.store import Desks
from api.timekeeper.timekeeper import Timekeeper
from domain.tickets.assignment import MoveToGroup
from domain.tickets.opening import OpenTicket
from eventstore.log import EventStore
from tests.api.test_api import OPEN, is_problem, serving
from tests.callers import ADMIN, AGENT, SUPERVISOR, as_
from tests.oracle import assert_views_equal_the_log
from tests.projecting import caught_up, until
from tests.spec import BOB

WAIT = {"Prefer": "wait=9"}
FIELDS = {
    "due": {"type": "date"},
    "price": {"type": "decimal"},
    "causes": {"type": "choices", "choices": ["paper", "toner", "紙"], "required_on": "resolve"},
}


@pytest.fixture
async def client(database):
    """The API with its projector."""
    async with serving(database) as one:
        yield one


async def opened(client, **more):
    answer = await client.post("/tickets", json={**OPEN, **more}, headers={**AGENT, **WAIT})
    assert answer.status_code == 201, answer.text
    assert answer.headers["preference-applied"]
    return answer.json()["ticket_id"]


async def sent(client, ticket, verb, **content):
    path = f"/tickets/{ticket}/{verb}"
    return await client.post(path, json=content, headers={**AGENT, **WAIT})


async def listed(client, **asked):
    answer = await client.get("/tickets", params=asked, headers=SUPERVISOR)
    assert answer.status_code == 200, answer.text
    return {ticket["id"] for ticket in answer.json()["tickets"]}


async def test_i_tag_in_my_own_script_and_find_it_however_i_type_it(client):
    ticket = await opened(client, tags=["プリンター", "Straße", "vip"])
    shown = (await client.get(f"/tickets/{ticket}", headers=AGENT)).json()
    assert shown["tags"] == ["strasse", "vip", "プリンター"]
    found = partial(listed, client)
    for typed in ("ﾌﾟﾘﾝﾀｰ", "プリンター", "STRASSE", "straße", "VIP"):
        assert await found(tag=typed) == await found(q=f"tag:{typed}") == {ticket}, typed
    assert await found(tag="Dr\u0075cker") == await found(q="-tag:STRASSE") == set()
    view = {"tag": "ﾌﾟﾘﾝﾀｰ"}
    saved = await client.put("/views/printers", json=view, headers=SUPERVISOR)
    assert saved.json()["filter"]["tag"] == "プリンター"
    assert await found(view="printers") == {ticket}
    bulk = {"tickets": [ticket], "command": {"tags": ["ＶＩＰ", "STRASSE"]}}
    answer = await client.post("/bulk/remove_tags", json=bulk, headers={**AGENT, **WAIT})
    assert answer.json()["done"] == 1
    assert await found(tag="vip") == set()
    again = await sent(client, ticket, "add_tags", tags=["プリンター"])
    assert again.json()["events"] == []


async def test_my_desk_asks_for_a_date_a_price_and_several_causes(client, database):
    await client.put("/desk", json={"fields": FIELDS}, headers=ADMIN)
    ticket = await opened(client, fields={"price": "012.50", "due": "2026-03-01"})
    other = await opened(client, fields={"price": 12})
    chosen = await sent(client, ticket, "set_field", key="causes", value=["toner", "paper"])
    assert chosen.status_code == 200
    shown = (await client.get(f"/tickets/{ticket}", headers=AGENT)).json()
    assert shown["fields"] == {"price": "12.5", "due": "2026-03-01", "causes": ["paper", "toner"]}
    found = partial(listed, client)
    assert await found(q="field.price:12.500") == await found(field="price:+12.5") == {ticket}
    assert await found(q="field.price:12.0") == await found(q="-field.due:2026-03-01") == {other}
    assert await found(q="field.causes:paper field.causes:toner") == {ticket}
    assert await found(q="field.causes:紙") == set()
    for when, which in (
        (">=2026-03-01", {ticket}),
        ("<2026-03-02", {ticket}),
        (">2026-03-01", set()),
    ):
        assert await found(q=f"field.due{when}") == which, when
    exported = await client.get("/events", headers=SUPERVISOR)
    assert '"value":["paper","toner"]' in exported.text
    await assert_views_equal_the_log(database)
    wrong = await sent(client, ticket, "set_field", key="price", value=12.5)
    [fault] = is_problem(wrong, 422, "invalid_request")["errors"]
    assert 'another number is text, like "12.50", to be exact' in fault["detail"]
    wrong = await sent(client, ticket, "set_field", key="causes", value=["prayer"])
    assert (
        "a list of some of: paper, toner, 紙"
        in is_problem(wrong, 422, "wrong_field_value")["detail"]
    )


async def test_i_am_told_which_choice_is_gone_that_keeps_my_ticket_from_being_resolved(client):
    await client.put("/desk", json={"fields": FIELDS}, headers=ADMIN)
    ticket = await opened(client, fields={"causes": ["paper"]})
    fewer = {
        **FIELDS,
        "causes": {"type": "choices", "choices": ["toner"], "required_on": "resolve"},
    }
    kept = {"choices": {"causes": {"paper": "paper"}}}
    changed = await client.put("/desk", json={"fields": fewer, "retired": kept}, headers=ADMIN)
    assert changed.status_code == 200
    await sent(client, ticket, "assign", assignee="alice")
    refused = await sent(client, ticket, "resolve", resolution="dried it")
    assert is_problem(refused, 409, "fields_missing")["detail"] == (
        "set before it is resolved: causes (it says paper, and takes a list of some of: toner)"
    )


async def test_the_mail_that_i_pasted_is_kept_without_its_control_characters(client):
    ticket = await opened(client, subject="Fax\x00 12", body="Page 1\x0cPage 2\x1b[0m\r\n")
    shown = (await client.get(f"/tickets/{ticket}", headers=AGENT)).json()
    assert (shown["subject"], shown["body"]) == ("Fax 12", "Page 1 Page 2[0m")


# --- the desk changes under living tickets --------------------------------------------------------

CAROL, DAVE = as_("agent", "carol"), as_("agent", "dave")
GROUPS = {"print": ["alice"], "network": ["carol", "dave"]}
NO_PRINT = {"groups": {"network": ["carol", "dave"]}}


async def put(client, desk, **headers):
    return await client.put("/desk", json=desk, headers={**ADMIN, **headers})


@asynccontextmanager
async def keeping(database):
    """A timekeeper at work."""
    keeper = Timekeeper(database, EventStore(database), Desks(database), look_seconds=0.02)
    task = asyncio.create_task(keeper.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def all_changed(client):
    async def none_is_left():
        return (await client.get("/desk?count=true", headers=ADMIN)).json()["left"] == 0

    await until(none_is_left)


async def shown(client, ticket, who=SUPERVISOR):
    answer = await client.get(f"/tickets/{ticket}", headers=who)
    return answer.json() if answer.status_code == 200 else None


async def test_when_i_take_a_group_away_i_am_told_who_is_in_it_and_its_tickets_go_where_i_say(
    client, database
):
    await put(client, {"groups": GROUPS})
    jam, other, done = [await opened(client, group="print") for _ in range(3)]
    await sent(client, jam, "assign", assignee="alice")
    await sent(client, done, "close", reason="invalid")
    refused = is_problem(await put(client, NO_PRINT), 409, "desk_in_use")
    assert "the group 'print' (2 tickets)" in refused["detail"]
    group, agent = refused["errors"]
    assert group["pointer"] == "/retired/groups/print"
    assert jam in group["detail"]
    assert agent["pointer"] == "/retired/agents/alice"  # who belongs to no group any more
    assert (await client.get("/desk", headers=ADMIN)).json()["version"] == 1
    retired = {"groups": {"print": "network"}, "agents": {"alice": "carol"}}
    assert (await put(client, {**NO_PRINT, "retired": retired})).json()["version"] == 2
    async with keeping(database):
        await all_changed(client)
    groups = [(await shown(client, ticket))["group"] for ticket in (jam, other, done)]
    assert groups == ["network", "network", "print"]
    assert (await shown(client, jam))["assignee"] == "carol"
    timeline = (await client.get(f"/tickets/{jam}/timeline", headers=SUPERVISOR)).json()
    moved = timeline["events"][-1]
    assert (moved["type"], moved["causation_id"]) == ("TicketMovedToGroup", "desk@2")
    assert (moved["actor"]["id"], moved["actor"]["role"]) == (TIMEKEEPER.id, TIMEKEEPER.role)
    await caught_up(database, EventStore(database))
    await assert_views_equal_the_log(database)


async def test_the_tickets_of_a_group_that_goes_are_seen_by_those_who_get_them_at_every_moment(
    client, database
):
    """No timekeeper is at work: nothing has been moved yet."""
    await put(client, {"groups": GROUPS})
    jam, done = [await opened(client, group="print") for _ in range(2)]
    await sent(client, done, "close", reason="invalid")
    assert await shown(client, jam, CAROL) is None
    await put(client, {**NO_PRINT, "retired": {"groups": {"print": "network"}}})
    for who in (CAROL, DAVE):
        assert (await shown(client, jam, who))["group"] == "print"
        assert await shown(client, done, who) is None
        found = await client.get("/tickets", headers=who)
        assert [ticket["id"] for ticket in found.json()["tickets"]] == [jam]
    assert await shown(client, jam, as_("agent", "erin")) is None
    assert (await client.get("/desk?count=true", headers=ADMIN)).json()["left"] == 1


class AsItWas:
    """The desk for a process that has not heard of a later one."""

    def __init__(self, desk):
        self._desk = desk

    async def current(self, *, sure=False):
        return self._desk


async def test_a_ticket_that_comes_into_a_group_as_it_is_taken_away_is_not_lost(client, database):
    """Another process has not heard of it yet, as may be for some seconds."""
    await put(client, {"groups": GROUPS})
    elsewhere = AsItWas(await Desks(database).current())
    there = await opened(client)
    assert (await put(client, NO_PRINT)).status_code == 200  # nothing is in it
    handler = Handler(EventStore(database), elsewhere)
    late = uuid4()
    command = OpenTicket(subject="Jam", requester="bob", group="print")
    await handler.handle(late, Submission(command=command, actor=BOB))
    move = Submission(command=MoveToGroup(group="print"), actor=BOB)
    await handler.handle(UUID(there), move)
    for ticket in (late, there):
        assert (await shown(client, ticket, CAROL))["group"] == "print"
    async with keeping(database):
        for ticket in (late, there):
            await until(partial(is_in, client, ticket, None))
    assert await shown(client, late, CAROL) is not None


async def is_in(client, ticket, group):
    return (await shown(client, ticket))["group"] == group


async def test_when_an_agent_leaves_i_say_whose_their_tickets_are(client, database):
    desk = {"groups": {"print": ["alice", "erin"], "network": ["carol", "erin"]}}
    await put(client, desk)
    hers = {group: await opened(client, group=group) for group in ("print", "network")}
    for ticket in hers.values():
        await client.post(
            f"/tickets/{ticket}/assign", json={"assignee": "erin"}, headers=SUPERVISOR
        )
    await caught_up(database, EventStore(database))
    without = {"groups": {"print": ["alice"], "network": ["carol"]}}
    refused = is_problem(await put(client, without), 409, "desk_in_use")
    assert [each["pointer"] for each in refused["errors"]] == ["/retired/agents/erin"]
    told = await put(client, {**without, "retired": {"agents": {"erin": "alice"}}})
    assert told.status_code == 200
    async with keeping(database):
        await all_changed(client)
    # alice gets what she may have; the rest is nobody's, and seen by the group
    assert (await shown(client, hers["print"]))["assignee"] == "alice"
    assert (await shown(client, hers["network"], CAROL))["assignee"] is None


async def test_when_i_take_a_field_or_a_choice_away_i_say_what_becomes_of_it(client, database):
    fields = {
        "floor": {"type": "integer"},
        "room": {"type": "text"},
        "cause": {"type": "choice", "choices": ["paper", "toner"], "required_on": "resolve"},
        "parts": {"type": "choices", "choices": ["drum", "belt", "fuser"]},
    }
    await put(client, {"fields": fields})
    filled = {"floor": 3, "room": "B2", "cause": "toner", "parts": ["drum", "belt"]}
    ticket = await opened(client, fields=filled)
    fewer = {
        "cause": {"type": "choice", "choices": ["paper", "ink"], "required_on": "resolve"},
        "parts": {"type": "choices", "choices": ["fuser", "belt"]},
    }
    refused = is_problem(await put(client, {"fields": fewer}), 409, "desk_in_use")
    assert {each["pointer"] for each in refused["errors"]} == {
        "/retired/fields/floor",
        "/retired/fields/room",
        "/retired/choices/cause/toner",
        "/retired/choices/parts/drum",
    }
    retired = {
        "fields": {"floor": "clear", "room": "keep"},
        "choices": {"cause": {"toner": "ink"}, "parts": {"drum": None}},
    }
    answer = await put(client, {"fields": fewer, "retired": retired})
    assert answer.status_code == 200, answer.text
    async with keeping(database):
        await all_changed(client)
    left = (await shown(client, ticket))["fields"]
    assert left == {"room": "B2", "cause": "ink", "parts": ["belt"]}
    required = {"fields": fewer, "retired": {"choices": {"cause": {"toner": None}}}}
    assert (
        "cause is required"
        in is_problem(await put(client, required), 422, "invalid_request")["detail"]
    )


async def test_what_was_chosen_stays_when_i_offer_one_choice_more(client, database):
    await put(client, {"fields": FIELDS})
    ticket = await opened(client, fields={"causes": ["paper", "紙"]})
    more = {"type": "choices", "choices": ["dust", "paper", "toner", "紙"]}
    assert (await put(client, {"fields": {**FIELDS, "causes": more}})).status_code == 200
    async with keeping(database):
        await all_changed(client)
    assert (await shown(client, ticket))["fields"] == {"causes": ["paper", "紙"]}
    assert await listed(client, q="field.causes:紙") == {ticket}


async def test_what_stands_in_a_field_that_is_gone_is_found_until_i_take_it_away(client, database):
    await put(client, {"fields": {"room": {"type": "text"}}})
    ticket = await opened(client, fields={"room": "B2"})
    without = {"fields": FIELDS, "retired": {"fields": {"room": "keep"}}}
    assert (await put(client, without)).status_code == 200
    async with keeping(database):
        await all_changed(client)
    assert (await shown(client, ticket))["fields"] == {"room": "B2"}
    assert await listed(client, q="field.room:B2") == {ticket}
    refused = await sent(client, ticket, "set_field", key="room", value="B3")
    is_problem(refused, 422, "unknown_field")
    assert (await sent(client, ticket, "set_field", key="room", value=None)).status_code == 200
    assert (await shown(client, ticket))["fields"] == {}
    assert await listed(client, q="field.room:B2") == set()


async def test_what_a_crash_has_left_half_done_is_finished_once(client, database):
    """L5: however many timekeepers there were, and wherever they were stopped."""
    await put(client, {"groups": GROUPS})
    tickets = [await opened(client, group="print") for _ in range(12)]
    await put(client, {**NO_PRINT, "retired": {"groups": {"print": "network"}}})
    store, others = EventStore(database), []
    for steps in (3, 40, 200):  # it is stopped in the middle of its work, at some step or other
        keeper = Timekeeper(database, store, Desks(database))
        others.append(task := asyncio.create_task(keeper.look()))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    async with keeping(database), keeping(database):
        await all_changed(client)
    for ticket in tickets:
        events = [event.type for event in await store.load(UUID(ticket))]
        assert events == ["TicketOpened", "TicketMovedToGroup"]


async def test_i_cannot_leave_a_group_with_tickets_without_anybody_to_see_them(client):
    await put(client, {"groups": {**GROUPS, "void": []}})
    await opened(client, group="void")  # which only supervisors were to see
    await opened(client, group="print")
    refused = is_problem(
        await put(client, {"groups": {**GROUPS, "print": [], "void": []}}), 409, "desk_in_use"
    )
    pointers = {each["pointer"] for each in refused["errors"]}
    assert pointers == {"/groups/print"}


async def test_my_group_that_is_called_none_is_not_taken_for_no_group(client):
    await put(client, {"groups": {**GROUPS, "none": ["erin"]}})
    theirs, nobodys = await opened(client, group="none"), await opened(client)
    assert await listed(client, q='group:"none"') == await listed(client, group="none") == {theirs}
    assert await listed(client, q="group:none") == await listed(client, group="") == {nobodys}


async def test_when_i_first_set_up_groups_i_am_told_of_tickets_in_others(client):
    """What was taken from an import, or while the desk took any group."""
    await opened(client, group="Drucker")
    refused = is_problem(await put(client, {"groups": GROUPS}), 409, "desk_in_use")
    assert [each["pointer"] for each in refused["errors"]] == ["/retired/groups/Drucker"]
    told = {"groups": GROUPS, "retired": {"groups": {"Drucker": "print"}}}
    assert (await put(client, told)).status_code == 200


async def test_what_is_said_of_a_group_stays_said_until_it_is_there_again(client):
    await put(client, {"groups": GROUPS})
    told = {**NO_PRINT, "retired": {"groups": {"print": "network"}}}
    versions = [(await put(client, desk)).json()["version"] for desk in (told, told, NO_PRINT)]
    assert versions == [2, 2, 2]
    again = await put(client, told, **{"If-Match": '"1"'})
    assert again.json()["version"] == 2
    renamed = {"groups": {"net": ["carol"]}, "retired": {"groups": {"network": "net"}}}
    desk = (await put(client, renamed)).json()["desk"]
    assert desk["retired"]["groups"] == {"print": "net", "network": "net"}
    assert (await put(client, desk)).json()["version"] == 3  # as it was shown
    both = is_problem(
        await put(client, {**desk, "groups": {**GROUPS, "net": []}}), 422, "invalid_request"
    )
    assert "the desk has the group 'print'" in both["detail"]
    back = (await put(client, {"groups": {**GROUPS, "net": ["carol"]}})).json()["desk"]
    assert back["retired"]["groups"] == {}
