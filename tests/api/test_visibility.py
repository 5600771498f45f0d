"""Who sees what: requesters their own, agents their groups', and nobody what is not for them."""

import json
import random
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from api.access.principals import Principal
from api.access.rights import RIGHTS
from api.queries.visibility import INTERNAL_FIELDS, Visibility
from domain.errors import Forbidden
from domain.tickets import COMMANDS, EVENT_TYPES, is_public
from projections.views import tickets
from projections.views.filter import AnyOf, Filter, Is, Not, all_of
from tests.api.test_api import is_problem, serving
from tests.callers import ADMIN, AGENT, AUDITOR, REQUESTER, SUPERVISOR, as_
from tests.oracle import INTERNAL
from tests.projecting import until

EVE = as_("requester", "eve")
FILE = {"name": "CANARY.png", "media_type": "image/png", "size_bytes": 1, "sha256": "0a" * 32}
BODIES = {
    "update_status": {"status": "pending", "reason": "CANARY"},
    "resolve": {"resolution": "CANARY"},
    "reopen": {},
    "close": {"reason": "spam"},
    "merge": {"into": "{other}"},
    "unmerge": {},
    "assign": {"assignee": "CANARY"},
    "unassign": {},
    "number": {},
    "move_to_group": {"group": "CANARY"},
    "change_priority": {"priority": "high"},
    "change_subject": {"subject": "CANARY"},
    "change_requester": {"requester": "CANARY"},
    "reply": {"body": "CANARY"},
    "add_note": {"body": "CANARY"},
    "add_tags": {"tags": ["canary"]},
    "remove_tags": {"tags": ["canary"]},
    "set_field": {"key": "canary", "value": "CANARY"},
    "follow": {"follower": "CANARY"},
    "unfollow": {"follower": "CANARY"},
    "attach": FILE,
    "link": {"relation": "blocks", "ticket": "{other}"},
    "unlink": {"relation": "blocks", "ticket": "{other}"},
    "rate": {"score": 1, "comment": "CANARY"},
    "redact": {"version": 1, "reason": "CANARY"},
    "mark_sla_breach": {"target": "resolution"},
}
GROUPS = {"groups": {"print": ["alice", "paula"], "network": ["nora"]}}
PAULA, NORA = as_("agent", "paula"), as_("agent", "nora")


@pytest_asyncio.fixture
async def desk(database):
    """The API with its projector, on a desk with two groups."""
    async with serving(database) as client:
        await client.put("/desk", json=GROUPS, headers=ADMIN)
        yield client


async def opened(client, headers=SUPERVISOR, **content):
    """Open a ticket and wait until lists show it: its id."""
    order = {"subject": "Printer jam", "requester": "bob", **content}
    answer = await client.post("/tickets", json=order, headers={**headers, "Prefer": "wait=10"})
    assert answer.status_code == 201, answer.text
    return answer.json()["ticket_id"]


async def done(client, ticket, verb, body, headers=SUPERVISOR):
    """Do a command and wait until lists show it."""
    path, wait = f"/tickets/{ticket}/{verb}", {"Prefer": "wait=10"}
    answer = await client.post(path, json=body, headers={**headers, **wait})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def listed(client, headers, query=""):
    answer = await client.get(f"/tickets?limit=200{query}", headers=headers)
    assert answer.status_code == 200, answer.text
    return {ticket["id"] for ticket in answer.json()["tickets"]}


def test_every_command_is_tried_here():
    assert BODIES.keys() == COMMANDS.keys() - {"open"}


# --- requesters -----------------------------------------------------------------------------------


async def test_a_requester_gets_nothing_of_anothers_ticket_by_any_route(desk):
    """Every route with a ticket in it, every command, alone and in bulk; lists and searches."""
    mine = await opened(desk, requester="eve", subject="mine")
    other = await opened(desk, requester="bob", subject="CANARY", body="CANARY", tags=["canary"])
    await done(desk, other, "attach", FILE)
    await done(desk, other, "add_note", {"body": "CANARY"})
    await done(desk, other, "set_field", {"key": "canary", "value": "CANARY"})
    before = (await desk.get(f"/tickets/{other}")).json()["version"]
    answers = []
    for route in RIGHTS:
        method, _, path = route.partition(" ")
        verb = path.rpartition("/")[2]
        if "{ticket_id}" in path and method == "POST":
            body = json.loads(json.dumps(BODIES[verb]).replace("{other}", mine))
            answers.append(
                await desk.post(path.replace("{ticket_id}", other), json=body, headers=EVE)
            )
            # Nor may one of two be another's.
            if "{other}" in str(BODIES[verb]):
                body = json.loads(json.dumps(BODIES[verb]).replace("{other}", other))
                path = path.replace("{ticket_id}", mine)
                answers.append(await desk.post(path, json=body, headers=EVE))
        elif path.startswith("/bulk/"):
            command = json.loads(json.dumps(BODIES[verb]).replace("{other}", mine))
            answer = await desk.post(
                path, json={"tickets": [other], "command": command}, headers=EVE
            )
            if answer.status_code == 200:
                [outcome] = answer.json()["outcomes"]
                assert (outcome["status"], outcome["problem"]["code"]) == (404, "ticket_not_found")
            answers.append(answer)
        elif "{ticket_id}" in path:
            path = path.replace("{ticket_id}", other)
            asked = ("", "?version=1", "?as_of=2100-01-01T00:00:00Z", "?from=1&to=2")
            answers += [await desk.get(path + query, headers=EVE) for query in asked]
    allowed = 0
    for answer in answers:
        assert answer.status_code in (200, 403, 404, 422), answer.text
        allowed += answer.status_code == 200
        assert "canary" not in answer.text.lower()
    assert allowed == 7  # in bulk, with a problem each
    for query in (
        "",
        "&q=canary",
        "&q=CANARY",
        "&q=tag:canary",
        "&q=requester:bob",
        "&requester=bob",
        "&tag=canary",
        "&field=canary:CANARY",
        "&group=&count=true",
        f"&after={mine}@1",
        "&sort=updated_at",
        "&q=-requester:eve",
        "&q=-nothing",
    ):
        answer = await desk.get(f"/tickets?limit=200{query}", headers=EVE)
        assert answer.status_code == 200
        assert "canary" not in answer.text.lower()
        assert {t["id"] for t in answer.json()["tickets"]} <= {mine}
        assert answer.json()["total"] in (None, 1)
    assert await listed(desk, EVE, "&q=-requester:bob") == {mine}
    assert (await desk.get(f"/tickets/{other}")).json()["version"] == before


async def test_what_a_requester_may_not_ask_is_refused(desk):
    ticket = await opened(desk, requester="bob")
    for query in (
        "q=has:note",
        "q=is:breached",
        "q=-has:note",
        "q=due<2030-01-01",
        "breached=true",
    ):
        answer = await desk.get(f"/tickets?{query}", headers=EVE)
        is_problem(answer, 403, "forbidden")
    is_problem(await desk.get("/tickets?due_before=2030-01-01", headers=EVE), 403, "forbidden")
    is_problem(await desk.get("/tickets?view=any", headers=EVE), 403, "forbidden")
    is_problem(await desk.get("/tickets?as_of_view=any", headers=EVE), 403, "forbidden")
    is_problem(await desk.get(f"/tickets?after={ticket}@1", headers=EVE), 404, "ticket_not_found")
    order = {"subject": "x", "requester": "bob"}
    is_problem(await desk.post("/tickets", json=order, headers=EVE), 403, "forbidden")
    for path in ("/events", "/events/stream", "/webhooks", "/dashboard", "/agents", "/views"):
        is_problem(await desk.get(path, headers=EVE), 403, "forbidden")


async def test_a_requester_sees_nothing_internal_of_their_own(desk):
    ticket = await opened(desk, REQUESTER, body="It jams.")
    other = await opened(desk, requester="carol", subject="another's")
    await done(desk, ticket, "add_note", {"body": "CANARY"}, AGENT)
    await done(desk, ticket, "follow", {"follower": "CANARY"})
    await done(desk, ticket, "link", {"relation": "blocks", "ticket": other})
    await done(desk, ticket, "reply", {"body": "Try the other tray."}, AGENT)
    answers = [
        await desk.get(f"/tickets/{ticket}", headers=REQUESTER),
        await desk.get(f"/tickets/{ticket}?version=2", headers=REQUESTER),
        await desk.get(f"/tickets/{ticket}/timeline", headers=REQUESTER),
        await desk.get(f"/tickets/{ticket}/diff?from=1", headers=REQUESTER),
        await desk.get("/tickets", headers=REQUESTER),
        await desk.post(
            f"/tickets/{ticket}/reply",
            json={"body": "It still jams."},
            headers={**REQUESTER, "Prefer": "return=representation"},
        ),
    ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert "CANARY" not in answer.text
        assert other not in answer.text
    shown, then, timeline, diff, page, replied = (answer.json() for answer in answers)
    [in_list] = page["tickets"]
    for told in (shown, then, in_list, replied["ticket"]):
        assert {told[name] for name in INTERNAL_FIELDS} == {None}
        assert told["requester"] == "bob"
    assert [e["type"] for e in timeline["events"]] == ["TicketOpened", "AgentReplied"]
    assert INTERNAL_FIELDS.isdisjoint(change["field"] for change in diff["changes"])


async def test_a_requester_is_told_what_their_ticket_was_merged_into(desk):
    ticket = await opened(desk, REQUESTER)
    other = await opened(desk, requester="carol", subject="another's")
    await done(desk, ticket, "merge", {"into": other}, AGENT)
    timeline = await desk.get(f"/tickets/{ticket}/timeline", headers=REQUESTER)
    last = timeline.json()["events"][-1]
    assert (last["type"], last["data"]) == ("TicketMergedInto", {"ticket": other})
    bulk = {"tickets": [ticket], "command": FILE}
    for answer in (
        await desk.post(f"/tickets/{ticket}/attach", json=FILE, headers=REQUESTER),
        await desk.post(f"/tickets/{ticket}/reopen", headers=REQUESTER),
        await desk.post("/bulk/attach", json=bulk, headers=REQUESTER),
    ):
        assert f"merged into {other}" in answer.text
    keys = {event["command"] for event in timeline.json()["events"]}
    assert keys == {None}


def test_what_is_public_is_said_and_not_what_is_internal():
    assert {name for name in EVENT_TYPES if not is_public(name, {})} == INTERNAL


async def test_a_ticket_goes_to_a_new_requester_with_all_that_is_public(desk):
    ticket = await opened(desk, REQUESTER)
    await done(desk, ticket, "change_requester", {"requester": "eve"})
    is_problem(await desk.get(f"/tickets/{ticket}", headers=REQUESTER), 404, "ticket_not_found")
    for asked in ("", "?version=1", "/timeline", "/diff?from=0"):
        assert (await desk.get(f"/tickets/{ticket}{asked}", headers=EVE)).status_code == 200
        answer = await desk.get(f"/tickets/{ticket}{asked}", headers=REQUESTER)
        is_problem(answer, 404, "ticket_not_found")
    assert await listed(desk, REQUESTER) == set()
    assert await listed(desk, EVE) == {ticket}


# --- agents ---------------------------------------------------------------------------------------


async def test_agents_see_their_groups_and_what_is_nobodys_or_their_own(desk):
    print_, network = await opened(desk, group="print"), await opened(desk, group="network")
    nobodys = await opened(desk)
    followed = await opened(desk, group="network")
    await done(desk, followed, "follow", {"follower": "paula"})
    own = await opened(desk, PAULA, group="network", requester="paula")
    seen = {print_, nobodys, followed, own}
    assert await listed(desk, PAULA) == seen
    assert await listed(desk, NORA) == {network, nobodys, followed, own}
    everything = {print_, network, nobodys, followed, own}
    for headers in (SUPERVISOR, AUDITOR):
        assert await listed(desk, headers) == everything
    assert await listed(desk, as_("agent", "newcomer")) == {nobodys}
    for asked in ("", "?version=1", "/timeline", "/diff?from=0"):
        for ticket in everything:
            answer = await desk.get(f"/tickets/{ticket}{asked}", headers=PAULA)
            assert (answer.status_code == 200) == (ticket in seen), answer.text
            if ticket not in seen:
                is_problem(answer, 404, "ticket_not_found")
    note = {"body": "odd"}
    answer = await desk.post(f"/tickets/{network}/add_note", json=note, headers=PAULA)
    is_problem(answer, 404, "ticket_not_found")
    bulk = {"tickets": [network, print_], "command": note}
    told = (await desk.post("/bulk/add_note", json=bulk, headers=PAULA)).json()["outcomes"]
    assert [outcome["status"] for outcome in told] == [404, 200]
    for path in ("/dashboard", "/dashboard/series?metric=backlog"):
        joint = "&" if "?" in path else "?"
        for group, status in (("print", 200), ("", 200), ("network", 403), (None, 403)):
            of = "" if group is None else f"{joint}group={group}"
            assert (await desk.get(f"{path}{of}", headers=PAULA)).status_code == status, group
        assert (await desk.get(path, headers=AUDITOR)).status_code == 200
    await desk.put("/views/all", json={})

    async def counted():
        shown = (await desk.get("/views/all", headers=SUPERVISOR)).json()
        return shown["count"] == len(everything)

    await until(counted)
    assert (await desk.get("/views/all", headers=PAULA)).json()["count"] is None
    for path in (
        "/dashboard?group=print",
        "/views",
        "/dashboard/series?metric=backlog&group=print",
    ):
        joint = "&" if "?" in path else "?"
        answer = await desk.get(f"{path}{joint}after={network}@1", headers=PAULA)
        is_problem(answer, 404, "ticket_not_found")
    answer = await desk.get("/dashboard?as_of_view=any", headers=PAULA)
    is_problem(answer, 403, "forbidden")


async def test_of_two_tickets_both_must_be_there(desk):
    print_, network = await opened(desk, group="print"), await opened(desk, group="network")
    for verb, body in (
        ("link", {"relation": "blocks", "ticket": network}),
        ("unlink", {"relation": "blocks", "ticket": network}),
        ("merge", {"into": network}),
    ):
        told = []
        for other in (network, str(uuid4())):
            named = json.loads(json.dumps(body).replace(network, other))
            answer = await desk.post(f"/tickets/{print_}/{verb}", json=named, headers=PAULA)
            told.append((answer.status_code, answer.json()))
        assert told[0] == told[1]  # nobody is told that there is one
        assert told[0][1].get("code", "unknown_ticket") == "unknown_ticket"
    for ticket in (print_, network):
        assert (await desk.get(f"/tickets/{ticket}")).json()["version"] == 1


async def test_a_ticket_that_is_moved_away_is_shown_no_more_and_a_repeat_is_answered(desk):
    """L5: the same key is answered as the first time, though the ticket has become hidden."""
    ticket = await opened(desk, group="print")
    headers = {**PAULA, "Idempotency-Key": "move", "Prefer": "return=representation"}
    move = {"group": "network"}
    first = await desk.post(f"/tickets/{ticket}/move_to_group", json=move, headers=headers)
    assert first.status_code == 200
    assert "ticket" not in first.json()
    assert "return=representation" not in first.headers.get("preference-applied", "")
    again = await desk.post(f"/tickets/{ticket}/move_to_group", json=move, headers=headers)
    assert again.json() == first.json()
    headers = {**headers, "Idempotency-Key": "another"}
    other = await desk.post(f"/tickets/{ticket}/move_to_group", json=move, headers=headers)
    is_problem(other, 404, "ticket_not_found")


async def test_a_ticket_that_has_just_come_into_sight_is_there_for_commands(desk, database):
    """What a process remembers of a ticket is not believed when it would keep somebody out."""
    ticket = await opened(desk, group="network")
    async with serving(database, project=False) as elsewhere:
        await done(elsewhere, ticket, "move_to_group", {"group": "print"})
    answer = await desk.post(f"/tickets/{ticket}/add_note", json={"body": "x"}, headers=PAULA)
    assert answer.status_code == 200


async def test_on_a_desk_without_groups_agents_see_all(database):
    async with serving(database) as client:
        ticket = await opened(client, group="anything")
        assert await listed(client, PAULA) == {ticket}


# --- the same said twice --------------------------------------------------------------------------


def principals():
    for role in ("requester", "agent", "supervisor", "auditor"):
        for id_ in ("alice", "bob", "carol"):
            yield Principal(id_, role)


def is_seen(principal, groups, document):
    """The rule, said a second time."""
    if principal.role == "requester":
        return principal.id in (document["requester"], *document["followers"])
    named = {document["assignee"], document["requester"], *document["followers"]}
    return groups is None or document["group"] in {None, *groups} or principal.id in named


async def test_lists_hold_exactly_what_is_seen_one_by_one(database):
    chance = random.Random(7)  # noqa: S311 not for secrets
    names, groups = [None, "alice", "bob", "carol"], [None, "print", "network", "desk"]
    documents: list[dict[str, Any]] = [
        {
            "_id": uuid4(),
            "requester": chance.choice(names[1:]),
            "group": chance.choice(groups),
            "assignee": chance.choice(names),
            "followers": chance.sample(names[1:], chance.randrange(3)),
        }
        for _ in range(300)
    ]
    for document in documents:
        document["participants"] = [document["requester"], *document["followers"]]
    reads = database.collection(tickets.COLLECTION)
    await reads.insert_many(documents)

    some = set()
    for principal in principals():
        for own in (None, frozenset(), frozenset({"print"}), frozenset({"network", "desk"})):
            visibility = Visibility(principal, own if principal.role == "agent" else None)
            found = await reads.find(visibility.within(Filter()).condition()).to_list()
            expected = {d["_id"] for d in documents if is_seen(principal, visibility.groups, d)}
            assert {d["_id"] for d in found} == expected
            assert {d["_id"] for d in documents if visibility.tickets.matches(d)} == expected
            some.add(len(expected))
    assert len(some) > 5


@pytest.mark.parametrize("name", sorted(INTERNAL_FIELDS | {"next_due_at"}))
def test_a_requester_asks_by_no_internal_field_however_it_is_put(name):
    visibility = Visibility(Principal("bob", "requester"))
    internal, plain = Is(name, (True,)), all_of(Is("status", ("open",)))
    hidden = all_of(Not(all_of(internal)))
    for asked in (all_of(internal), hidden, all_of(AnyOf((plain, hidden)))):
        with pytest.raises(Forbidden):
            visibility.within(plain & asked)
    assert Visibility(Principal("al", "agent")).within(all_of(internal)) == all_of(internal)


def test_a_requester_sorts_by_nothing_internal():
    visibility = Visibility(Principal("bob", "requester"))
    assert visibility.sort("-updated_at") == "-public_updated_at"
    with pytest.raises(Forbidden):
        visibility.sort("due_at")
    assert Visibility(Principal("al", "agent")).sort("due_at") == "due_at"


async def test_a_cursor_of_somebody_elses_list_shows_ones_own(desk):
    """A cursor is a place and no right: whoever goes on from it sees what is theirs."""
    for n in range(3):
        await opened(desk, requester="bob", subject=f"{n}")
    mine = await opened(desk, requester="eve")
    await opened(desk, requester="bob")
    first = (await desk.get("/tickets?limit=1", headers=SUPERVISOR)).json()
    answer = await desk.get(f"/tickets?limit=1&cursor={first['next']}", headers=EVE)
    assert {t["id"] for t in answer.json()["tickets"]} == {mine}
