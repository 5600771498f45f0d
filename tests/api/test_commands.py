"""What a REST client sees of commands: preferences, correlation, repeats, many at once."""

import asyncio
import re
from uuid import UUID, uuid4

import pytest

from api.app import create_app
from api.bulk.routes import MOST_TICKETS
from api.commands.handler import Handler
from api.http.correlation import outgoing
from api.http.preferences import return_preference
from api.queries.representations import Tickets
from domain.errors import REMEDIES, HistoryError
from domain.tickets import COMMANDS
from eventstore.database import Database
from eventstore.documents import EssentialUnreadable
from eventstore.failures import StoreFailed, StoreUnavailable
from eventstore.log import EventStore
from tests.api.test_api import OPEN, asking, client, is_problem, refusing, serving, ticket
from tests.callers import ADMIN, AGENT, AUDITOR, access, as_

__all__ = ["client", "refusing", "ticket"]
REPRESENTATION = {**AGENT, "Prefer": "return=representation"}
OF_REQUESTERS = ("reply", "reopen", "close", "attach", "rate", "follow", "unfollow")
MINIMAL = {**AGENT, "Prefer": "return=minimal"}


async def opened(client, n=1, **different):
    """Open tickets; return their ids."""
    answers = [await client.post("/tickets", json={**OPEN, **different}) for _ in range(n)]
    return [answer.json()["ticket_id"] for answer in answers]


async def test_a_ticket_says_which_commands_it_takes_from_whom(client, ticket):
    """And what must be filled in before one is."""
    desk = {"fields": {"cause": {"type": "text", "required_on": "resolve"}}}
    answer = await client.put("/desk", json=desk, headers={**ADMIN, "If-Match": '"0"'})
    assert answer.status_code == 200, answer.text

    async def possible(caller):
        answer = await client.get(f"{ticket}/commands", headers=caller)
        assert answer.status_code == 200, answer.text
        return answer.json()["commands"]

    bob = as_("requester", "bob")
    assert (await possible(AGENT))["resolve"] == ["fields.cause"]
    assert {"reply", "close"} <= (await possible(bob)).keys() <= {*OF_REQUESTERS}
    assert await possible(AUDITOR) == {}
    assert not {"reopen", "unmerge", "redact", "open"} & (await possible(AGENT)).keys()
    for verb, content in (
        ("set_field", {"key": "cause", "value": "paper"}),
        ("resolve", {"resolution": "Done."}),
    ):
        assert (await client.post(f"{ticket}/{verb}", json=content)).status_code == 200
    assert (await possible(AGENT))["reopen"] == []
    assert (await possible(bob))["rate"] == []
    nothing = await client.get(f"/tickets/{uuid4()}/commands")
    is_problem(nothing, 404, "ticket_not_found")


# --- Prefer: return -------------------------------------------------------------------------------


async def test_who_prefers_a_representation_gets_the_ticket_as_well(client, ticket):
    """L9: with what has just been done, and what GET would show."""
    answer = await client.post(f"{ticket}/add_note", json={"body": "x"}, headers=REPRESENTATION)
    assert answer.headers["preference-applied"] == "return=representation"
    shown = await client.get(ticket)
    assert answer.json()["ticket"] == shown.json()
    assert answer.headers["etag"] == shown.headers["etag"] == '"3"'
    opening = await client.post("/tickets", json=OPEN, headers=REPRESENTATION)
    assert opening.status_code == 201
    assert opening.json()["ticket"]["subject"] == OPEN["subject"]


async def test_who_prefers_little_gets_no_body(client, ticket):
    answer = await client.post(f"{ticket}/add_note", json={"body": "x"}, headers=MINIMAL)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["preference-applied"] == "return=minimal"
    assert answer.headers["etag"] == '"3"'
    opening = await client.post("/tickets", json=OPEN, headers=MINIMAL)
    assert opening.status_code == 201
    assert opening.json()["version"] == 1
    assert "preference-applied" not in opening.headers
    is_problem(await client.post(f"{ticket}/reopen", headers=MINIMAL), 409, "transition_refused")


async def test_preferences_are_met_together(client, ticket):
    headers = {**AGENT, "Prefer": "return=representation, wait=10"}
    answer = await client.post(f"{ticket}/unassign", headers=headers)
    assert answer.headers["preference-applied"] == "wait=10, return=representation"


_FAILURES = [
    StoreUnavailable(),
    StoreFailed("full"),
    HistoryError(next(iter(REMEDIES)), "event 3"),
    EssentialUnreadable("generations", "active"),
    ValueError("a fold has failed"),
]


@pytest.mark.parametrize("failure", _FAILURES, ids=lambda error: type(error).__name__)
async def test_a_done_command_does_not_fail_for_want_of_a_representation(
    client, ticket, monkeypatch, failure
):
    """L3: it is durable; what it cannot be shown is left out."""

    async def silent(*_):
        raise failure

    monkeypatch.setattr("api.queries.representations.Tickets.document", silent)
    answer = await client.post(f"{ticket}/add_note", json={"body": "x"}, headers=REPRESENTATION)
    assert answer.status_code == 200
    assert "preference-applied" not in answer.headers
    assert "ticket" not in answer.json()


async def test_a_done_command_does_not_fail_for_want_of_views(client, ticket, monkeypatch):
    """L3: one that waits for them is answered as done, and not as shown."""

    async def unreadable(*_):
        raise EssentialUnreadable("generations", "active")

    monkeypatch.setattr("projections.generations.Generations.ask_generation", unreadable)
    headers = {**AGENT, "Prefer": "wait=2"}
    answer = await client.post(f"{ticket}/add_note", json={"body": "x"}, headers=headers)
    assert answer.status_code == 200
    assert "preference-applied" not in answer.headers


async def test_one_ticket_that_fails_leaves_the_others_of_a_bulk_their_outcomes(
    client, ticket, monkeypatch
):
    """L12: what nobody foresaw is told for its ticket, and done is told as done."""
    handle = Handler.handle
    failing = uuid4()

    async def fails(self, ticket_id, submission):
        if ticket_id == failing:
            raise LookupError
        return await handle(self, ticket_id, submission)

    monkeypatch.setattr(Handler, "handle", fails)
    body = {"tickets": [ticket.rpartition("/")[2], str(failing)], "command": {"body": "x"}}
    answer = (await client.post("/bulk/add_note", json=body, headers=AGENT)).json()
    assert (answer["done"], answer["refused"], answer["failed"]) == (1, 0, 1)
    assert answer["outcomes"][1]["problem"]["code"] == "internal_error"


@pytest.mark.parametrize(
    ("prefer", "returned"),
    [
        ("return=minimal", "minimal"),
        ('wait=2, Return="Representation"', "representation"),
        ("return=everything", None),
        ("return", None),
        ("xreturn=minimal", None),
        (None, None),
    ],
)
def test_a_return_that_is_not_understood_is_ignored(prefer, returned):
    assert return_preference(prefer) == returned


# --- correlation ----------------------------------------------------------------------------------

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Correlation-Id": "order 77"}, "order 77"),
        ({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, TRACE),
        ({"Correlation-Id": "x", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, "x"),
        ({"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"}, None),
        ({"traceparent": f"ff-{TRACE}-00f067aa0ba902b7-01"}, None),
        ({"Correlation-Id": "x" * 201}, None),
        ({"Correlation-Id": b"\xfc\xff"}, None),
        ({}, None),
    ],
)
async def test_what_ties_requests_together_is_kept_and_given_back(client, headers, expected):
    answer = await client.post("/tickets", json=OPEN, headers=headers)
    given = answer.headers["correlation-id"]
    if expected is None:
        assert UUID(given).version == 7
    else:
        assert given == expected
    [event] = (await client.get(f"{answer.headers['location']}/timeline")).json()["events"]
    assert event["correlation_id"] == given


async def test_problems_name_the_correlation_too(client, ticket):
    headers = {"Correlation-Id": "mine"}
    for answer in (
        await client.post(f"{ticket}/reopen", headers=headers),
        await client.get("/nothing", headers=headers),
    ):
        assert answer.status_code >= 400
        assert answer.headers["correlation-id"] == "mine"


# --- idempotency ----------------------------------------------------------------------------------


async def test_fifty_at_once_with_one_key_have_one_effect_and_one_answer(client, ticket):
    """L5"""
    for path, body in ((f"{ticket}/reply", {"body": "Try the other tray."}), ("/tickets", OPEN)):
        headers = {**AGENT, "Idempotency-Key": f"once {path}"}
        answers = await asyncio.gather(
            *(client.post(path, json=body, headers=headers) for _ in range(50))
        )
        assert len({(a.status_code, a.content, a.headers["etag"]) for a in answers}) == 1
        place = f"/tickets/{answers[0].json()['ticket_id']}"
        assert (await client.get(place)).json()["version"] == answers[0].json()["version"]


async def test_a_repeat_is_answered_as_before_whatever_version_it_was_sent_for(client, ticket):
    """L5: that version has passed by its own doing."""
    headers = {**AGENT, "Idempotency-Key": "k", "If-Match": '"2"'}
    first, again = [
        await client.post(f"{ticket}/add_note", json={"body": "x"}, headers=headers)
        for _ in range(2)
    ]
    assert (first.status_code, first.content) == (200, again.content)
    other = {**headers, "Idempotency-Key": "other"}
    late = await client.post(f"{ticket}/add_note", json={"body": "x"}, headers=other)
    is_problem(late, 412, "version_mismatch")


# --- many at once ---------------------------------------------------------------------------------


async def test_one_command_on_many_tickets_has_an_outcome_for_each(client):
    """L12: those that are refused say why, and keep no other from being done."""
    one, closed, two = await opened(client, 3)
    await client.post(f"/tickets/{closed}/close", json={"reason": "spam"}, headers=AGENT)
    missing = str(uuid4())
    body = {"tickets": [one, closed, missing, two], "command": {"assignee": "alice"}}
    answer = await client.post("/bulk/assign", json=body, headers=AGENT)
    assert answer.status_code == 200
    told = answer.json()
    assert (told["done"], told["refused"]) == (2, 2)
    assert [o["ticket_id"] for o in told["outcomes"]] == body["tickets"]
    assert [o["status"] for o in told["outcomes"]] == [200, 409, 404, 200]
    first, refused, unknown, _ = told["outcomes"]
    assert (first["version"], first["events"]) == (2, [{"version": 2, "type": "TicketAssigned"}])
    assert refused["problem"]["code"] == "ticket_closed"
    assert unknown["problem"]["code"] == "ticket_not_found"
    assert first["problem"] is None
    assert (await client.get(f"/tickets/{two}")).json()["assignee"] == "alice"


async def test_many_are_waited_for_together(client):
    """L9"""
    ids = await opened(client, 20)
    headers = {**AGENT, "Prefer": "wait=10"}
    body = {"tickets": ids, "command": {"tags": ["moved"]}}
    answer = await client.post("/bulk/add_tags", json=body, headers=headers)
    assert answer.headers["preference-applied"] == "wait=10"
    listed = (await client.get("/tickets", params={"tag": "moved"})).json()["tickets"]
    assert {t["id"] for t in listed} == set(ids)


async def test_many_sent_again_with_their_key_are_done_once(client):
    """L5"""
    ids = await opened(client, 5)
    body = {"tickets": ids, "command": {"body": "We are on it."}}
    headers = {**AGENT, "Idempotency-Key": "all"}
    first, again = [await client.post("/bulk/reply", json=body, headers=headers) for _ in range(2)]
    assert first.content == again.content
    assert (await client.get(f"/tickets/{ids[0]}")).json()["agent_replies"] == 1


@pytest.mark.parametrize(
    "body",
    [
        {"tickets": [], "command": {"assignee": "a"}},
        {"tickets": [str(uuid4())] * 2, "command": {"assignee": "a"}},
        {"tickets": [str(uuid4()) for _ in range(MOST_TICKETS + 1)], "command": {"assignee": "a"}},
        {"tickets": ["x"], "command": {"assignee": "a"}},
        {"tickets": [str(uuid4())], "command": {"assignee": ""}},
        {"tickets": [str(uuid4())], "command": {}},
        {"tickets": [str(uuid4())]},
        {"tickets": [str(uuid4())], "command": {"assignee": "a"}, "more": 1},
    ],
)
async def test_a_bulk_that_makes_no_sense_does_nothing(refusing, shared_database, body):
    """L12"""
    is_problem(await refusing.post("/bulk/assign", json=body), 422, "invalid_request")
    assert await shared_database.collection("ticket_events").count_documents({}) == 0


async def test_a_bulk_without_a_database_tells_it_for_each_ticket(monkeypatch):
    """L12"""
    monkeypatch.setattr("eventstore.mongo.driver._SERVER_SELECTION_SECONDS", 0.1)
    monkeypatch.setattr("eventstore.failures.PATIENCE_SECONDS", 0.1)
    nobody = Database("mongodb://127.0.0.1:9/")
    async with asking(create_app(nobody, EventStore(nobody), access=access(nobody))) as client:
        body = {"tickets": [str(uuid4()), str(uuid4())]}
        answer = await client.post("/bulk/unassign", json=body)
        assert [o["status"] for o in answer.json()["outcomes"]] == [503, 503]
    await nobody.close()


async def test_every_command_but_open_can_be_done_to_many(client):
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert {p for p in paths if p.startswith("/bulk/")} == {
        f"/bulk/{verb}" for verb in COMMANDS if verb != "open"
    }


async def test_what_nobody_has_thought_of_is_answered_under_the_requests_id(
    database, monkeypatch, caplog
):
    """And logged under it, so that the two can be brought together."""

    async def broken(*_):
        raise RuntimeError("nobody has thought of this")

    monkeypatch.setattr(Tickets, "document", broken)
    async with serving(database, project=False) as client:
        path = (await client.post("/tickets", json=OPEN)).headers["location"]
        answer = await client.get(path, headers={"Correlation-Id": "order 77"})
    is_problem(answer, 500, "internal_error")
    assert "nobody" not in answer.text
    assert answer.headers["correlation-id"] == "order 77"
    assert "correlation id order 77" in caplog.text


def test_what_goes_out_names_what_came_in():
    assert outgoing(None) == {}
    assert outgoing("two\r\nlines") == {}
    assert outgoing("order 77") == {"Correlation-Id": "order 77"}
    traced = outgoing(TRACE)
    assert traced["Correlation-Id"] == TRACE
    assert re.fullmatch(f"00-{TRACE}-[0-9a-f]{{16}}-01", traced["traceparent"])


async def test_a_command_is_read_alike_however_it_is_spelled_and_never_by_fastapi(
    client, ticket, monkeypatch
):
    async def unwanted(**_):
        raise AssertionError("FastAPI was asked")

    monkeypatch.setattr("fastapi.routing.solve_dependencies", unwanted)
    spelled = ticket.upper().replace("/TICKETS/", "/tickets/")
    twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    body = {"body": "It was the toner."}
    for path, headers in ((ticket, {"Idempotency-Key": "x" * 200}), (spelled, {}), (ticket, twice)):
        answer = await client.post(f"{path}/add_note", json=body, headers=headers)
        assert answer.status_code == 200
        assert answer.json()["events"][0]["type"] == "NoteAdded"
    too_long = await client.post(
        f"{ticket}/add_note", json=body, headers={"Idempotency-Key": "x" * 201}
    )
    is_problem(too_long, 422, "invalid_request")

    etag = (await client.get(ticket)).headers["etag"]
    if_match = {"If-Match": etag}
    good = await client.post(f"{ticket}/add_note", json=body, headers=if_match)
    assert (good.status_code, good.headers["etag"] > etag) == (200, True)
    denied = await client.post(f"{ticket}/add_note", json=body, headers=AUDITOR)
    is_problem(denied, 403, "forbidden")
