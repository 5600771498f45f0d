"""What users expect of a conversation, over the API: each test is a sentence that one would say."""

from asyncio import gather
from itertools import pairwise

import pytest
import pytest_asyncio

from eventstore.log import EventStore
from tests.api.test_api import is_problem, serving
from tests.api.test_visibility import FILE, done, listed, opened
from tests.callers import AGENT, REQUESTER, SUPERVISOR, as_
from tests.oracle import assert_views_equal_the_log
from tests.projecting import caught_up

PROMISES = {"sla": {"normal": {"first_response_minutes": 60}}}
OUT_OF_OFFICE = {"body": "I am out of office.", "automatic": True}
SELF = as_("agent", "bob")
CAROL = as_("requester", "carol")


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


async def test_an_automatic_receipt_is_not_the_first_response(desk, database):
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
    await caught_up(database, EventStore(database))
    await assert_views_equal_the_log(database)


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


async def test_all_that_i_send_to_my_closed_ticket_is_in_one_new_ticket(desk, database):
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
    await caught_up(database, EventStore(database))
    await assert_views_equal_the_log(database)


async def test_solving_my_ticket_without_a_word_to_me_is_no_first_response(desk):
    await put_desk(desk, **PROMISES)
    ticket = await opened(desk)
    due = (await shown(desk, ticket))["first_response_due_at"]
    await done(desk, ticket, "assign", {"assignee": "alice"})
    await done(desk, ticket, "resolve", {"resolution": "toner"})
    solved = await shown(desk, ticket)
    assert (solved["first_response_at"], solved["first_response_due_at"]) == (None, None)
    await done(desk, ticket, "reply", {"body": "No."}, REQUESTER)
    again = await shown(desk, ticket)
    assert again["first_response_due_at"] > due
    assert again["first_response_at"] is None


async def test_who_solved_my_ticket_is_still_named_after_my_out_of_office_notice(desk):
    ticket = await opened(desk)
    await done(desk, ticket, "assign", {"assignee": "alice"})
    await done(desk, ticket, "resolve", {"resolution": "toner"})
    await done(desk, ticket, "reply", OUT_OF_OFFICE, REQUESTER)
    assert (await shown(desk, ticket))["assignee"] == "alice"
    await done(desk, ticket, "close", {})
    answer = await desk.post(f"/tickets/{ticket}/reply", json=OUT_OF_OFFICE, headers=REQUESTER)
    is_problem(answer, 409, "ticket_closed")
    assert (await shown(desk, ticket))["assignee"] == "alice"


async def test_i_was_answered_also_when_i_am_asked_something_at_the_same_moment(desk):
    await put_desk(desk, **PROMISES)
    ticket = await opened(desk)
    await gather(
        done(desk, ticket, "reply", {"body": "Which tray?"}, AGENT),
        done(desk, ticket, "update_status", {"status": "pending", "reason": "which tray"}, AGENT),
    )
    asked = await shown(desk, ticket)
    assert (asked["status"], asked["first_response_at"] is None) == ("pending", False)
    await done(desk, ticket, "reply", {"body": "Tray 2."}, REQUESTER)
    assert (await shown(desk, ticket))["first_response_at"] == asked["first_response_at"]


async def test_the_clock_runs_again_once_i_have_said_what_was_waited_for(desk):
    await put_desk(desk, **PROMISES)
    ticket = await opened(desk)
    await done(desk, ticket, "update_status", {"status": "pending", "reason": "which tray"})
    assert (await shown(desk, ticket))["first_response_due_at"] is None
    await done(desk, ticket, "reply", {"body": "Tray 2."}, REQUESTER)
    assert (await shown(desk, ticket))["first_response_due_at"] is not None


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


# --- followers ------------------------------------------------------------------------------------


async def test_whom_i_put_in_copy_sees_my_ticket_as_i_do(desk):
    ticket = await opened(desk, REQUESTER, body="It jams.")
    assert (await desk.get(f"/tickets/{ticket}", headers=CAROL)).status_code == 404
    await done(desk, ticket, "follow", {"follower": "carol"}, REQUESTER)
    await done(desk, ticket, "add_note", {"body": "secret"})
    await done(desk, ticket, "reply", {"body": "Look at tray 2."}, AGENT)
    for path in (
        f"/tickets/{ticket}",
        f"/tickets/{ticket}/timeline",
        f"/tickets/{ticket}/diff?from=1&to=2",
        "/tickets",
        "/tickets?q=printer",
        "/tickets?requester=bob",
    ):
        theirs, mine = [await desk.get(path, headers=who) for who in (CAROL, REQUESTER)]
        assert theirs.status_code == 200, (path, theirs.text)
        assert theirs.json() == mine.json(), path
        assert "secret" not in theirs.text
    assert (await shown(desk, ticket, CAROL))["followers"] is None
    await done(desk, ticket, "reply", {"body": "It is tray 1."}, CAROL)
    await done(desk, ticket, "attach", FILE, CAROL)
    assert (await shown(desk, ticket, REQUESTER))["requester_replies"] == 1
    await done(desk, ticket, "unfollow", {}, CAROL)
    assert (await desk.get(f"/tickets/{ticket}", headers=CAROL)).status_code == 404
    assert await listed(desk, CAROL) == set()


async def test_whom_i_put_in_copy_is_not_the_one_who_decides(desk):
    ticket = await opened(desk, REQUESTER)
    await done(desk, ticket, "follow", {"follower": "carol"}, REQUESTER)
    for verb, body, headers in (
        ("follow", {"follower": "eve"}, CAROL),
        ("unfollow", {"follower": "bob"}, CAROL),
        ("unfollow", {"follower": "carol"}, REQUESTER),
    ):
        answer = await desk.post(f"/tickets/{ticket}/{verb}", json=body, headers=headers)
        is_problem(answer, 403, "forbidden")
    await done(desk, ticket, "assign", {"assignee": "alice"})
    await done(desk, ticket, "resolve", {"resolution": "toner"})
    answer = await desk.post(f"/tickets/{ticket}/rate", json={"score": 1}, headers=CAROL)
    is_problem(answer, 422, "not_the_requester")
    await done(desk, ticket, "unfollow", {"follower": "carol"}, AGENT)
    assert await listed(desk, CAROL) == set()


async def test_whose_ticket_it_is_no_more_does_not_see_it_by_following_it(desk):
    ticket = await opened(desk, REQUESTER)
    await done(desk, ticket, "follow", {}, REQUESTER)
    await done(desk, ticket, "follow", {"follower": "eve"}, REQUESTER)
    await done(desk, ticket, "change_requester", {"requester": "carol"}, AGENT)
    assert await listed(desk, REQUESTER) == set()
    assert (await desk.get(f"/tickets/{ticket}", headers=REQUESTER)).status_code == 404
    assert await listed(desk, CAROL) == await listed(desk, as_("requester", "eve")) == {ticket}


async def test_whoever_was_put_in_copy_by_mistake_is_taken_off_also_when_it_is_closed(desk):
    ticket = await opened(desk, REQUESTER)
    for wrong in ("carol", "eve"):
        await done(desk, ticket, "follow", {"follower": wrong}, REQUESTER)
    await done(desk, ticket, "close", {}, REQUESTER)
    await done(desk, ticket, "unfollow", {"follower": "carol"}, AGENT)
    await done(desk, ticket, "unfollow", {}, as_("requester", "eve"))
    assert await listed(desk, CAROL) == await listed(desk, as_("requester", "eve")) == set()
    assert await listed(desk, REQUESTER) == {ticket}


async def test_an_agent_puts_anybody_in_copy(desk):
    ticket = await opened(desk, REQUESTER)
    await done(desk, ticket, "follow", {"follower": "carol"}, AGENT)
    assert await listed(desk, CAROL) == {ticket}


async def test_who_is_in_copy_stays_so_when_it_goes_on_in_a_new_ticket(desk):
    ticket = await opened(desk, REQUESTER)
    await done(desk, ticket, "follow", {"follower": "carol"}, REQUESTER)
    await done(desk, ticket, "close", {"reason": "invalid"})
    follow_up = (await done(desk, ticket, "reply", {"body": "Again!"}, CAROL))["follow_up"]
    assert (await shown(desk, follow_up))["requester"] == "carol"
    answer = await done(desk, ticket, "reply", {"body": "Yes, again."}, REQUESTER)
    assert answer["follow_up"] == follow_up
    for headers in (CAROL, REQUESTER):
        assert await listed(desk, headers) == {ticket, follow_up}
        said = [body for _, body in await told(desk, follow_up, headers) if body]
        assert said == ["Again!", "Yes, again."]


async def test_what_i_wrote_in_copy_is_gone_when_i_am_erased(desk):
    ticket = await opened(desk, REQUESTER)
    await done(desk, ticket, "follow", {"follower": "carol"}, REQUESTER)
    await done(desk, ticket, "reply", {"body": "mine"}, CAROL)
    await done(desk, ticket, "reply", {"body": "his"}, REQUESTER)
    admin = as_("admin", "ada")
    person = (await desk.post("/persons/find", json={"name": "carol"}, headers=admin)).json()["id"]
    path = f"/persons/{person}/erase"
    answer = await desk.post(path, json={"reason": "asked"}, headers=admin)
    assert answer.status_code < 300, answer.text
    said = [body for kind, body in await told(desk, ticket) if kind == "RequesterReplied"]
    assert said == ["[erased]", "his"]


# --- closing --------------------------------------------------------------------------------------


async def test_i_close_my_own_ticket_when_i_do_not_need_it_any_more(desk):
    for headers in (REQUESTER, SELF):
        ticket = await opened(desk)
        await done(desk, ticket, "close", {}, headers)
        closed = await shown(desk, ticket, headers)
        assert (closed["status"], closed["close_reason"]) == ("closed", "withdrawn")
        again = await done(desk, ticket, "close", {}, headers)
        assert again["events"] == []
    solved = await opened(desk)
    await done(desk, solved, "assign", {"assignee": "alice"})
    await done(desk, solved, "resolve", {"resolution": "toner"})
    await done(desk, solved, "close", {}, REQUESTER)
    assert (await shown(desk, solved))["close_reason"] is None


async def test_nobody_but_me_and_the_desk_closes_my_ticket(desk):
    ticket = await opened(desk)
    await done(desk, ticket, "follow", {"follower": "carol"})
    for headers, body in ((CAROL, {}), (REQUESTER, {"reason": "spam"})):
        answer = await desk.post(f"/tickets/{ticket}/close", json=body, headers=headers)
        is_problem(answer, 403, "forbidden")
    answer = await desk.post(f"/tickets/{ticket}/close", headers=AGENT)
    is_problem(answer, 409, "needs_resolution_or_reason")
    await done(desk, ticket, "close", {"reason": "withdrawn"}, AGENT)


async def test_closing_the_parent_leaves_its_children_to_their_requesters(desk):
    parent, child = await opened(desk), await opened(desk, requester="carol")
    await done(desk, child, "link", {"relation": "parent", "ticket": parent})
    await done(desk, parent, "close", {"reason": "invalid"})
    assert (await shown(desk, child))["status"] == "new"
    assert {"relation": "parent", "ticket": parent} in (await shown(desk, child))["links"]
    await done(desk, child, "reply", {"body": "Still there?"}, CAROL)


# --- merging --------------------------------------------------------------------------------------


async def test_when_my_ticket_is_merged_away_i_am_still_in_the_conversation(desk):
    """However often it is merged on: I see it, hear what is said, and what I write is heard."""
    mine = await opened(desk, REQUESTER, subject="Mine")
    second, last = [
        await opened(desk, requester=who, subject="Theirs") for who in ("carol", "dave")
    ]
    await done(desk, mine, "merge", {"into": second}, AGENT)
    answer = await done(desk, mine, "reply", {"body": "first"}, REQUESTER)
    assert (answer["follow_up"], answer["events"][0]["type"]) == (second, "ReplyForwarded")
    await done(desk, second, "merge", {"into": last}, AGENT)
    await done(desk, last, "assign", {"assignee": "alice"})
    await done(desk, last, "update_status", {"status": "pending", "reason": "a photo"})
    headers = {**REQUESTER, "Idempotency-Key": "k", "Prefer": "wait=10"}
    sent = [
        await desk.post(f"/tickets/{mine}/reply", json={"body": "second"}, headers=headers)
        for _ in range(2)
    ]
    assert sent[0].json() == sent[1].json()
    assert sent[0].json()["follow_up"] == last
    assert "wait=10" in sent[1].headers["Preference-Applied"]
    await done(desk, last, "reply", {"body": "An answer."}, AGENT)
    assert (await shown(desk, last, REQUESTER))["status"] == "open"
    assert await listed(desk, REQUESTER) == {mine, second, last}
    assert await listed(desk, REQUESTER, "&q=theirs") == {second, last}
    said = [body for _, body in await told(desk, last, REQUESTER) if body]
    assert said == ["second", "An answer."]
    for who, sees in ((CAROL, {second, last}), (as_("requester", "dave"), {last})):
        assert await listed(desk, who) == sees
    timeline = (await desk.get(f"/tickets/{mine}/timeline", headers=REQUESTER)).json()["events"]
    assert [event["data"]["ticket"] for event in timeline[1:]] == [second, second, last]


async def test_a_merged_ticket_tells_an_agent_where_to_write(desk):
    mine, other = await opened(desk), await opened(desk, requester="carol")
    await done(desk, mine, "merge", {"into": other})
    for verb in ("reply", "add_note"):
        answer = await desk.post(f"/tickets/{mine}/{verb}", json={"body": "x"}, headers=AGENT)
        assert other in is_problem(answer, 409, "ticket_closed")["detail"]


async def test_a_merge_keeps_what_stood_on_my_ticket(desk, database):
    mine = await opened(desk, subject="Mine", tags=["vip"], priority="urgent")
    other, third = await opened(desk, subject="Theirs", requester="carol"), await opened(desk)
    await done(desk, mine, "attach", FILE)
    await done(desk, mine, "follow", {"follower": "dave"})
    await done(desk, mine, "link", {"relation": "blocks", "ticket": third})
    await done(desk, mine, "merge", {"into": other})
    merged = await shown(desk, other)
    assert (merged["subject"], merged["priority"]) == ("Theirs", "normal")
    assert merged["tags"] == ["vip"]
    assert [file["name"] for file in merged["attachments"]] == [FILE["name"]]
    assert merged["followers"] == ["bob", "dave"]
    assert {"relation": "blocks", "ticket": third} in merged["links"]
    assert other in await listed(desk, SUPERVISOR, "&tag=vip")
    await caught_up(database, EventStore(database))
    await assert_views_equal_the_log(database)


async def test_who_works_on_a_ticket_keeps_it_when_another_is_merged_into_it(desk):
    mine, other = await opened(desk), await opened(desk, requester="carol")
    await done(desk, mine, "assign", {"assignee": "alice"})
    await done(desk, other, "assign", {"assignee": "dave"})
    await done(desk, mine, "merge", {"into": other})
    assert (await shown(desk, other))["assignee"] == "dave"


async def test_what_i_was_promised_holds_also_when_my_ticket_is_merged_away(desk, database):
    await put_desk(
        desk,
        sla={
            "urgent": {"first_response_minutes": 30, "resolution_minutes": 600},
            "normal": {"first_response_minutes": 60, "resolution_minutes": 90},
        },
    )
    mine, other = await opened(desk, priority="urgent"), await opened(desk, requester="carol")
    before, promised = await shown(desk, other), await shown(desk, mine)
    await done(desk, mine, "merge", {"into": other})
    for headers in (SUPERVISOR, CAROL, REQUESTER):
        merged = await shown(desk, other, headers)
        assert merged["first_response_due_at"] == promised["first_response_due_at"]
        assert merged["resolution_due_at"] == before["resolution_due_at"]
        timeline = (await desk.get(f"/tickets/{other}/timeline", headers=headers)).json()
        [taken] = [e["data"] for e in timeline["events"] if e["type"] == "PromiseTakenOver"]
        assert taken["ticket"] == (mine if headers is SUPERVISOR else None)
    await caught_up(database, EventStore(database))
    await assert_views_equal_the_log(database)
    await done(desk, mine, "unmerge", {})
    again = await shown(desk, other)
    assert again["first_response_due_at"] == before["first_response_due_at"]
    await caught_up(database, EventStore(database))
    await assert_views_equal_the_log(database)


async def test_a_merge_by_mistake_is_undone(desk, database):
    mine = await opened(desk, subject="Mine", tags=["vip"])
    other = await opened(desk, requester="carol", tags=["paper"])
    await done(desk, mine, "attach", FILE)
    await done(desk, mine, "assign", {"assignee": "alice"})
    await done(desk, mine, "update_status", {"status": "pending", "reason": "a photo"})
    before = [await shown(desk, ticket) for ticket in (mine, other)]
    await done(desk, mine, "merge", {"into": other})
    assert (await shown(desk, mine))["closed_at"] is not None
    await done(desk, mine, "unmerge", {}, AGENT)
    changes = {"version", "updated_at", "last_actor"}
    for was in before:
        is_ = await shown(desk, was["id"])
        assert {name for name in was if was[name] != is_[name]} <= changes
    assert await listed(desk, REQUESTER) == {mine}
    assert await listed(desk, SUPERVISOR, "&status=pending") == {mine}
    await caught_up(database, EventStore(database))
    await assert_views_equal_the_log(database)
    await done(desk, mine, "reply", {"body": "Here it is."}, REQUESTER)
    assert (await shown(desk, mine))["status"] == "open"


async def test_a_merge_is_not_undone_once_its_customer_was_answered(desk):
    mine, other = await opened(desk), await opened(desk, requester="carol")
    await done(desk, mine, "merge", {"into": other})
    await done(desk, other, "reply", {"body": "Look at tray 2."}, AGENT)
    for headers in (CAROL, SUPERVISOR):  # how it would have been undone is nobody's to see
        for path in (f"/tickets/{other}/timeline", f"/tickets/{other}/diff?from=1&to=2"):
            assert "last_merge" not in (await desk.get(path, headers=headers)).text
    for _ in range(2):
        answer = await desk.post(f"/tickets/{mine}/unmerge", headers=AGENT)
        assert other in is_problem(answer, 409, "merge_is_settled")["detail"]
    is_problem(await desk.post(f"/tickets/{other}/unmerge", headers=AGENT), 409, "not_merged")
    answer = await desk.post(f"/tickets/{mine}/unmerge", headers=REQUESTER)
    is_problem(answer, 403, "forbidden")


async def test_what_a_merge_took_along_of_me_is_gone_when_i_am_erased(desk):
    mine, other = await opened(desk), await opened(desk, requester="carol")
    await done(desk, mine, "attach", FILE)
    await done(desk, mine, "merge", {"into": other})
    await done(desk, mine, "reply", {"body": "mine"}, REQUESTER)
    admin = as_("admin", "ada")
    person = (await desk.post("/persons/find", json={"name": "bob"}, headers=admin)).json()["id"]
    answer = await desk.post(f"/persons/{person}/erase", json={"reason": "asked"}, headers=admin)
    assert answer.status_code < 300, answer.text
    timeline = await desk.get(f"/tickets/{other}/timeline", headers=SUPERVISOR)
    assert FILE["name"] not in timeline.text
    assert "mine" not in timeline.text
    assert '"bob"' not in timeline.text


async def test_a_merge_by_mistake_is_undone_also_when_i_have_been_erased(desk):
    mine, other = await opened(desk), await opened(desk, requester="carol")
    await done(desk, mine, "attach", FILE)
    await done(desk, mine, "update_status", {"status": "pending", "reason": "bob's photo"})
    await done(desk, mine, "merge", {"into": other})
    admin = as_("admin", "ada")
    person = (await desk.post("/persons/find", json={"name": "bob"}, headers=admin)).json()["id"]
    answer = await desk.post(f"/persons/{person}/erase", json={"reason": "asked"}, headers=admin)
    assert answer.status_code < 300, answer.text
    await done(desk, mine, "unmerge", {}, AGENT)
    assert (await shown(desk, mine))["status"] == "pending"
    at = f"{other}?version={len(await told(desk, other))}"  # as the log says: views take a moment
    is_ = await shown(desk, at)
    assert (is_["followers"], is_["attachments"], is_["links"]) == ([], [], [])
    await done(desk, mine, "merge", {"into": other})  # with a file of nobody's


# --- links ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("relation", ["blocks", "duplicates", "parent"])
async def test_tickets_do_not_wait_for_each_other_in_a_ring(desk, relation):
    """Of any length, and past a merge."""
    chain = [await opened(desk) for _ in range(5)]
    for here, there in pairwise(chain):
        await done(desk, here, "link", {"relation": relation, "ticket": there})
    for n in (1, 2, 3):
        closing = {"relation": relation, "ticket": chain[n - 1]}
        answer = await desk.post(f"/tickets/{chain[4]}/link", json=closing)
        is_problem(answer, 409, "link_cycle")
    merged = await opened(desk)
    await done(desk, chain[4], "merge", {"into": merged})
    closing = {"relation": relation, "ticket": chain[0]}
    is_problem(await desk.post(f"/tickets/{merged}/link", json=closing), 409, "link_cycle")
    await done(desk, chain[0], "link", {"relation": "relates", "ticket": merged})
    await done(desk, merged, "link", {"relation": "relates", "ticket": chain[1]})
