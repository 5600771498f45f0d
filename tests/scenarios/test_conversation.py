"""What users expect of a conversation, over the API: each test is a sentence that one would say."""

import pytest
import pytest_asyncio

from tests.api.test_api import is_problem, serving
from tests.api.test_visibility import done, listed, opened
from tests.callers import AGENT, REQUESTER, SUPERVISOR, as_

PROMISES = {"sla": {"normal": {"first_response_minutes": 60}}}
OUT_OF_OFFICE = {"body": "I am out of office.", "automatic": True}
SELF = as_("agent", "bob")


@pytest_asyncio.fixture
async def desk(database):
    """The API with its projector."""
    async with serving(database) as client:
        yield client


async def shown(desk, ticket, headers=SUPERVISOR):
    answer = await desk.get(f"/tickets/{ticket}", headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def told(desk, ticket, headers=SUPERVISOR):
    """What the timeline tells: types of events, and what was said."""
    answer = await desk.get(f"/tickets/{ticket}/timeline", headers=headers)
    assert answer.status_code == 200, answer.text
    return [(event["type"], event["data"].get("body")) for event in answer.json()["events"]]


async def put_desk(desk, **set_up):
    answer = await desk.put("/desk", json=set_up, headers=as_("admin", "ada"))
    assert answer.status_code == 200, answer.text


# --- automatic replies ----------------------------------------------------------------------------


async def test_my_out_of_office_notice_does_not_open_the_ticket_again(desk):
    for verb, body in (
        ("update_status", {"status": "pending", "reason": "a photo"}),
        ("resolve", {"resolution": "toner"}),
    ):
        ticket = await opened(desk)
        await done(desk, ticket, "assign", {"assignee": "alice"})
        before = (await done(desk, ticket, verb, body), await shown(desk, ticket))[1]
        answer = await done(desk, ticket, "reply", OUT_OF_OFFICE, REQUESTER)
        assert [event["type"] for event in answer["events"]] == ["RequesterReplied"]
        after = await shown(desk, ticket)
        assert after["status"] == before["status"]
        assert (after["waiting_reason"], after["resolution"]) == (
            before["waiting_reason"],
            before["resolution"],
        )
        assert (await told(desk, ticket, REQUESTER))[-1] == (
            "RequesterReplied",
            OUT_OF_OFFICE["body"],
        )


async def test_an_automatic_receipt_is_not_the_first_response(desk):
    await put_desk(desk, **PROMISES)
    ticket = await opened(desk)
    due = (await shown(desk, ticket))["first_response_due_at"]
    await done(desk, ticket, "reply", {"body": "We have got it.", "automatic": True}, AGENT)
    after = await shown(desk, ticket)
    assert (after["status"], after["first_response_at"]) == ("new", None)
    assert after["first_response_due_at"] == due is not None
    weeks = (await desk.get("/agents")).json()["agents"]
    assert [week for week in weeks if week["replies"]] == []
    await done(desk, ticket, "reply", {"body": "Look at tray 2."}, AGENT)
    after = await shown(desk, ticket)
    assert (after["status"], after["first_response_due_at"]) == ("open", None)
    assert after["first_response_at"] is not None


async def test_an_out_of_office_loop_opens_no_ticket(desk):
    ticket = await opened(desk)
    await done(desk, ticket, "close", {"reason": "invalid"})
    for _ in range(3):
        answer = await desk.post(f"/tickets/{ticket}/reply", json=OUT_OF_OFFICE, headers=REQUESTER)
        problem = is_problem(answer, 409, "ticket_closed")
        assert "automatic" in problem["detail"]
    assert await listed(desk, SUPERVISOR) == {ticket}
    await done(desk, ticket, "reply", {"body": "Again!"}, REQUESTER)
    [follow_up] = await listed(desk, SUPERVISOR) - {ticket}
    answer = await done(desk, ticket, "reply", OUT_OF_OFFICE, REQUESTER)
    assert answer["follow_up"] == follow_up
    assert await listed(desk, SUPERVISOR) == {ticket, follow_up}


async def test_all_that_i_send_to_my_closed_ticket_is_in_one_new_ticket(desk):
    ticket = await opened(desk)
    await done(desk, ticket, "close", {"reason": "invalid"})
    answers = [await done(desk, ticket, "reply", {"body": f"{n}"}, REQUESTER) for n in range(3)]
    [follow_up] = {answer["follow_up"] for answer in answers}
    assert await listed(desk, REQUESTER) == {ticket, follow_up}
    said = [body for _, body in await told(desk, follow_up, REQUESTER) if body]
    assert said == ["0", "1", "2"]
    assert [kind for kind, _ in await told(desk, ticket, REQUESTER)][-2:] == ["ReplyForwarded"] * 2
    assert (await shown(desk, follow_up))["requester_replies"] == 2
    bulk = {"tickets": [ticket], "command": {"body": "3"}}
    [outcome] = (await desk.post("/bulk/reply", json=bulk, headers=REQUESTER)).json()["outcomes"]
    assert outcome["follow_up"] == follow_up
    await done(desk, follow_up, "close", {"reason": "invalid"})
    later = (await done(desk, ticket, "reply", {"body": "4"}, REQUESTER))["follow_up"]
    assert later not in (ticket, follow_up)
    links = (await shown(desk, later))["links"]
    assert links == [{"relation": "follows_up", "ticket": follow_up}]


# --- who the requester is decides -----------------------------------------------------------------


async def test_when_i_write_on_my_own_ticket_i_am_its_requester_although_i_am_an_agent(desk):
    await put_desk(desk, **PROMISES)
    ticket = await opened(desk, SELF)
    await done(desk, ticket, "reply", {"body": "It jams again."}, SELF)
    own = await shown(desk, ticket)
    assert (own["status"], own["first_response_at"]) == ("new", None)
    assert (own["agent_replies"], own["requester_replies"]) == (0, 1)
    assert own["first_response_due_at"] is not None
    await done(desk, ticket, "assign", {"assignee": "alice"})
    await done(desk, ticket, "update_status", {"status": "pending", "reason": "a photo"})
    await done(desk, ticket, "reply", {"body": "Here it is."}, SELF)
    assert (await shown(desk, ticket))["status"] == "open"
    await done(desk, ticket, "resolve", {"resolution": "toner"})
    await done(desk, ticket, "rate", {"score": 2}, SELF)
    await done(desk, ticket, "reply", {"body": "No."}, SELF)
    assert (await shown(desk, ticket))["status"] == "open"
    await done(desk, ticket, "close", {"reason": "invalid"})
    assert (await done(desk, ticket, "reply", {"body": "Again!"}, SELF))["follow_up"]


async def test_my_colleague_who_writes_on_my_ticket_answers_me(desk):
    ticket = await opened(desk, SELF)
    await done(desk, ticket, "reply", {"body": "Look at tray 2."}, AGENT)
    assert (await shown(desk, ticket))["first_response_at"] is not None
    await done(desk, ticket, "close", {"reason": "invalid"})
    answer = await desk.post(f"/tickets/{ticket}/reply", json={"body": "x"}, headers=AGENT)
    is_problem(answer, 409, "ticket_closed")


@pytest.mark.parametrize("headers", [AGENT, as_("requester", "eve")])
async def test_nobody_but_me_rates_my_ticket(desk, headers):
    ticket = await opened(desk)
    await done(desk, ticket, "assign", {"assignee": "alice"})
    await done(desk, ticket, "resolve", {"resolution": "toner"})
    answer = await desk.post(f"/tickets/{ticket}/rate", json={"score": 1}, headers=headers)
    assert answer.status_code in (404, 422)
