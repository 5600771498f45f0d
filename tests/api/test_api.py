"""What a REST client sees."""

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import httpx
import pytest
import pytest_asyncio
from bson.decimal128 import Decimal128
from pymongo.errors import ConnectionFailure

from api.app import create_app
from api.http.preferences import WAIT_SECONDS, wait_seconds
from api.queries.watermark import ReadModels
from domain.tickets import COMMANDS
from eventstore.database import Database
from eventstore.log import EventStore
from projections.generations import Generations
from tests.callers import ADMIN, AGENT, REQUESTER, SOMEBODY, access
from tests.oracle import assert_views_equal_the_log
from tests.projecting import by_utc, caught_up, open_some, running

OPEN = {"subject": "Printer jam", "requester": "bob", "body": "It jams."}
NOBODY = "0192f0c4-0000-7000-8000-000000000001"


@asynccontextmanager
async def serving(database, *, project=True):
    store = EventStore(database)
    await Generations(database).prepare()  # which who projects what is shown does, and no API
    beside = [by_utc(database, store).run] if project else []
    app = create_app(database, store, beside, access=access(database))
    async with app.router.lifespan_context(app), asking(app) as client:
        yield client


def asking(app):
    """A client of an application that is not served to anybody else."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://casebook", headers=SOMEBODY)


@pytest_asyncio.fixture
async def client(database):
    """The API with its projector."""
    async with serving(database) as one:
        yield one


@pytest_asyncio.fixture(scope="module")
async def refusing(shared_database):
    """The API, which the tests of a module share: it refuses all that they ask, and L12 says that
    nothing is changed by that.
    """
    async with serving(shared_database, project=False) as one:
        yield one


@pytest_asyncio.fixture
async def ticket(client):
    """The path of a ticket that was opened by bob and assigned to alice: version 2."""
    answer = await client.post("/tickets", json=OPEN, headers=REQUESTER)
    path = answer.headers["location"]
    await client.post(f"{path}/assign", json={"assignee": "alice"}, headers=AGENT)
    return path


def is_problem(answer, status, code):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == code
    assert problem["status"] == status
    assert problem["type"] == f"urn:casebook:problem:{code}"
    assert problem["title"]
    assert problem["detail"]
    return problem


async def test_opening_answers_with_place_version_and_events(client):
    answer = await client.post("/tickets", json=OPEN, headers=REQUESTER)
    assert answer.status_code == 201
    body = answer.json()
    assert answer.headers["location"] == f"/tickets/{body['ticket_id']}"
    assert answer.headers["etag"] == '"1"'
    assert body["events"] == [{"version": 1, "type": "TicketOpened"}]


async def test_a_ticket_shows_what_was_just_done_to_it(client, ticket):
    shown = (await client.get(ticket)).json()
    assert (shown["status"], shown["assignee"], shown["version"]) == ("open", "alice", 2)
    assert shown["preview"] == "It jams."
    assert shown["last_actor"] == "alice"


async def test_a_ticket_is_current_without_any_projector(database):
    """L9: read your own writes, with every projector stopped."""
    async with serving(database, project=False) as client:
        path = (await client.post("/tickets", json=OPEN)).headers["location"]
        for n in range(5):
            await client.post(f"{path}/reply", json={"body": f"reply {n}"}, headers=AGENT)
            shown = (await client.get(path)).json()
            assert (shown["version"], shown["agent_replies"]) == (n + 2, n + 1)
            assert shown["preview"] == f"reply {n}"
        assert (await client.get("/tickets")).json()["tickets"] == []


async def test_a_ticket_is_current_on_top_of_a_stale_view(database, store):
    """L9: the view stopped at some version; the events behind it are folded in."""
    async with serving(database) as client:
        path = (await client.post("/tickets", json=OPEN)).headers["location"]
        await caught_up(database, store)
    async with serving(database, project=False) as client:
        await client.post(f"{path}/add_note", json={"body": "odd"})
        shown = (await client.get(path)).json()
        assert (shown["version"], shown["has_note"]) == (2, True)
        [listed] = (await client.get("/tickets")).json()["tickets"]
        assert (listed["version"], listed["has_note"]) == (1, False)


async def test_every_command_has_a_route_and_a_place_in_the_document(client):
    """Adding a command class is enough."""
    paths = (await client.get("/openapi.json")).json()["paths"]
    for verb in COMMANDS:
        path = "/tickets" if verb == "open" else f"/tickets/{{ticket_id}}/{verb}"
        operation = paths[path]["post"]
        assert operation["description"]
        assert "requestBody" in operation


async def test_a_repeat_with_its_key_is_answered_the_same(client):
    """L5: for opening too."""
    headers = {**REQUESTER, "Idempotency-Key": "k-1"}
    answers = await asyncio.gather(
        *(client.post("/tickets", json=OPEN, headers=headers) for _ in range(10))
    )
    assert {a.status_code for a in answers} == {201}
    assert len({a.content for a in answers}) == 1
    other = await client.post("/tickets", json={**OPEN, "subject": "Other"}, headers=headers)
    is_problem(other, 422, "idempotency_key_reused")


async def test_a_repeat_that_my_client_indents_otherwise_is_still_the_same(client):
    """L5"""
    headers = {**REQUESTER, "Idempotency-Key": "k", "Content-Type": "application/json"}
    answers = [
        await client.post("/tickets", content=json.dumps(OPEN, indent=indent), headers=headers)
        for indent in (None, 4)
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].content == answers[1].content


async def test_a_ticket_is_found_by_its_id_however_a_library_writes_it(client, ticket):
    """And what is no id is refused."""
    id_ = UUID(ticket.rpartition("/")[2])
    for written in (f"{id_}", f"{id_}".upper(), id_.hex, f"{{{id_}}}", id_.urn):
        answer = await client.get(f"/tickets/{written}")
        assert (answer.status_code, answer.json().get("id")) == (200, f"{id_}"), written
    for wrong in (f"{id_}"[:-1], f"{id_}0", f"({id_})", f"x{id_}", f"{id_.int}"):
        assert (await client.get(f"/tickets/{wrong}")).status_code in (404, 422), wrong


async def test_if_match_guards_against_what_the_client_has_not_seen(client, ticket):
    note = {"body": "odd"}
    stale = await client.post(f"{ticket}/add_note", json=note, headers={"If-Match": '"1"'})
    is_problem(stale, 412, "version_mismatch")
    fresh = await client.post(f"{ticket}/add_note", json=note, headers={"If-Match": '"2"'})
    assert fresh.status_code == 200
    for written_otherwise in ("3", 'W/"4"', "*"):
        headers = {"If-Match": written_otherwise}
        answer = await client.post(f"{ticket}/add_note", json=note, headers=headers)
        assert answer.status_code == 200
    for rubbish in ('"x"', "-1", '"1', "9" * 5000, "³"):
        raw = [(b"if-match", rubbish.encode())]
        answer = await client.post(f"{ticket}/add_note", json=note, headers=raw)
        assert answer.status_code in (412, 422)


async def test_commands_without_content_need_no_body(client, ticket):
    assert (await client.post(f"{ticket}/unassign")).status_code == 200
    assert (await client.post(f"{ticket}/unassign", json={})).json()["events"] == []


async def test_refusals_say_what_to_do_instead(client, ticket):
    """L12: a 4xx problem document, and nothing has changed."""
    before = (await client.get(f"{ticket}/timeline")).json()
    close = await client.post(f"{ticket}/update_status", json={"status": "closed"})
    problem = is_problem(close, 422, "cannot_close_by_status")
    assert problem["detail"] == "cannot close by status; use close"
    is_problem(await client.post(f"{ticket}/reopen"), 409, "transition_refused")
    unknown = f"/tickets/{uuid4()}"
    is_problem(await client.get(unknown), 404, "ticket_not_found")
    is_problem(await client.get(f"{unknown}/timeline"), 404, "ticket_not_found")
    is_problem(await client.post(f"{unknown}/unassign"), 404, "ticket_not_found")
    assert (await client.get(f"{ticket}/timeline")).json() == before


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{bad", 400, "bad_json"),
        (b"", 422, "invalid_request"),
        (b"[]", 422, "invalid_request"),
        (b'"x"', 422, "invalid_request"),
        (b"null", 422, "invalid_request"),
        (b'{"subject": "x"}', 422, "invalid_request"),
        (b'{"subject": "x", "requester": "b", "extra": 1}', 422, "invalid_request"),
        (
            b'{"subject": "x", "requester": "b", "occurred_at": "2026-03-01T12:00:00Z"}',
            422,
            "invalid_request",
        ),
        (b'{"subject": {"$ne": 1}, "requester": "b"}', 422, "invalid_request"),
        (b'{"subject": NaN, "requester": "b"}', 400, "bad_json"),
        (b'{"subject": "\\ud800", "requester": "b"}', 422, "invalid_request"),
        (b'{"subject": "b", "requester": "a\\u0000b"}', 422, "invalid_request"),
        (b'{"subject": "x", "requester": "b", "fields": {"n": 1e400}}', 422, "invalid_request"),
        (
            b'{"subject": "x", "requester": "b", "fields": {"n": 99999999999999999999}}',
            422,
            "invalid_request",
        ),
        (b"\xff\xfe", 400, "bad_json"),
        (b"[" * 100_000, 400, "bad_json"),
        (b'{"subject": ' + b"1" * 5000 + b"}", 400, "bad_json"),
        (b'{"subject": "' + b"x" * 5 * 2**20 + b'"}', 413, "request_entity_too_large"),
    ],
)
async def test_bad_bodies_are_refused_with_a_reason(
    refusing, shared_database, content, status, code
):
    """L12: never a 5xx, and nothing is written."""
    headers = {"content-type": "application/json"}
    answer = await refusing.post("/tickets", content=content, headers=headers)
    is_problem(answer, status, code)
    assert await shared_database.collection("ticket_events").count_documents({}) == 0


async def test_a_fault_is_pointed_at(client):
    fields = {"ok": 1, "NOT/OK": 1, "half": 0.5}
    answer = await client.post("/tickets", json={**OPEN, "fields": fields, "priority": "huge"})
    pointers = {e["pointer"] for e in is_problem(answer, 422, "invalid_request")["errors"]}
    assert "/priority" in pointers
    assert "/fields/half" in pointers
    assert any(pointer.startswith("/fields/NOT~1OK") for pointer in pointers)


@pytest.mark.parametrize(
    "path",
    [
        "/tickets?status=broken",
        "/tickets?limit=0",
        "/tickets?limit=x",
        "/tickets?cursor=rubbish",
        "/tickets?cursor=W10",
        "/tickets?assignee[$ne]=x",
        "/tickets?asignee=alice",
        "/tickets?cursor=WyI5OTk5LTEyLTMxVDIzOjU5OjU5LTEyOjAwIiwiMDAwMDAwMDAtMDAwMC0wMDAwLTAwMDAtMDAwMDAwMDAwMDAwIl0",
        "/tickets?cursor=WyIwMDAxLTAxLTAxVDAwOjAwOjAwKzEyOjAwIiwiMDAwMDAwMDAtMDAwMC0wMDAwLTAwMDAtMDAwMDAwMDAwMDAwIl0",
        "/tickets/not-a-uuid",
        "/tickets?after=x",
        f"/tickets?after={NOBODY}",
        f"/tickets?after={NOBODY}@0",
        f"/tickets?after={NOBODY}@1.5",
        f"/tickets?after={NOBODY}@99999999999",
        "/tickets?view=No%20Name",
        "/tickets?solved=perhaps",
        "/tickets?tag=A%20B",
        "/dashboard?date=yesterday",
        "/dashboard?date=86400",
        "/dashboard?date=2026-03-05T00:00:00",
        "/dashboard?group=%00",
        "/tickets?assignee=a%00b",
        "/dashboard?day=2026-01-01",
        "/dashboard?after=1@2",
        "/dashboard/series",
        "/dashboard/series?metric=weather",
        "/dashboard/series?metric=created&from=yesterday",
        "/dashboard/series?metric=created&from=2026-01-02&to=2026-01-01",
        "/dashboard/series?metric=created&from=0001-01-01&to=9999-01-01",
        "/dashboard/series?metric=created&form=2026-01-01",
        "/views?limit=3",
        f"/tickets/{NOBODY}/timeline?after=99999999999999999999999",
        f"/tickets/{NOBODY}/timeline?after=-1",
    ],
)
async def test_bad_queries_are_refused(refusing, path):
    """L12"""
    answer = await refusing.get(path)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("day", ["0001-01-01", "0001-01-10", "9999-12-31"])
async def test_the_first_and_last_days_there_are_can_be_asked_for(client, day):
    """L12"""
    assert (await client.get(f"/dashboard?date={day}")).status_code == 200
    for metric in ("created", "backlog", "resolution"):
        shown = await client.get(f"/dashboard/series?metric={metric}&to={day}")
        assert shown.status_code == 200
        assert shown.json()["days"][-1]["date"] == day


async def test_head_is_answered_like_get_without_the_body(client, ticket):
    page = f"/tickets?after={ticket.rpartition('/')[2]}@2"  # which changes no more
    for path in (ticket, page, f"{ticket}/timeline", "/tickets/x", "/healthz", "/events"):
        got, head = await client.get(path), await client.head(path)
        own = {"correlation-id", "casebook-views-age"}
        assert head.status_code == got.status_code, path
        assert head.content == b""
        assert {k: v for k, v in head.headers.items() if k not in own} == {
            k: v for k, v in got.headers.items() if k not in own
        }
    assert (await client.head("/events/stream")).status_code == 200  # and ends
    is_problem(await client.get("/tickets/1/reply"), 405, "method_not_allowed")
    assert (await client.head("/tickets/1/reply")).status_code == 405


async def test_paths_and_methods_that_are_not_there(client):
    is_problem(await client.get("/nothing"), 404, "not_found")
    is_problem(await client.delete("/tickets"), 405, "method_not_allowed")


async def test_the_timeline_tells_who_did_what_when(client, ticket):
    await client.post(f"{ticket}/add_note", json={"body": "odd"}, headers=AGENT)
    timeline = (await client.get(f"{ticket}/timeline", headers=AGENT)).json()
    assert timeline["chain"] == "whole"
    told = [(e["version"], e["type"], e["actor"]["id"]) for e in timeline["events"]]
    assert told == [
        (1, "TicketOpened", "bob"),
        (2, "TicketAssigned", "alice"),
        (3, "NoteAdded", "alice"),
    ]


async def test_requesters_are_not_told_internal_notes(client, ticket):
    await client.post(f"{ticket}/add_note", json={"body": "secret"}, headers=AGENT)
    answer = await client.get(f"{ticket}/timeline", headers=REQUESTER)
    assert "secret" not in answer.text
    assert [e["version"] for e in answer.json()["events"]] == [1, 2]


@pytest.mark.parametrize(
    "change",
    [
        {"$unset": {"actor": 1}},
        {"$unset": {"hash": 1}},
        {"$set": {"hash": "rubbish"}},
        {"$set": {"data.assignee": Decimal128("1.5")}},
        {"$set": {"occurred_at": "yesterday"}},
        {"$set": {"approved": True}},
    ],
    ids=str,
)
async def test_a_timeline_tells_what_can_no_longer_be_read(client, ticket, database, change):
    """L11: an auditor sees that it is broken, and the rest of it."""
    await database.collection("ticket_events").update_one({"version": 2}, change)
    answer = await client.get(f"{ticket}/timeline")
    assert answer.status_code == 200
    assert answer.json()["chain"] == "broken"
    assert [e["version"] for e in answer.json()["events"]] == [1, 2]


async def test_a_hundred_at_once_on_one_ticket_all_get_through(client, ticket):
    """Commands for one ticket take turns within a process."""
    answers = await asyncio.gather(
        *(client.post(f"{ticket}/add_note", json={"body": f"{n}"}) for n in range(100))
    )
    assert {a.status_code for a in answers} == {200}
    assert sorted(a.json()["version"] for a in answers) == list(range(3, 103))


async def test_times_are_kept_as_they_are_shown(client, ticket, database, store):
    """L7, L12: any zone and precision is taken in UTC and milliseconds, or refused."""
    waits = {"status": "pending", "reason": "holiday"}
    for resume_at in ("9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00", "never"):
        answer = await client.post(
            f"{ticket}/update_status", json={**waits, "resume_at": resume_at}
        )
        is_problem(answer, 422, "invalid_request")
    resume_at = "2100-01-01T00:00:00.123456+01:00"
    await client.post(f"{ticket}/update_status", json={**waits, "resume_at": resume_at})
    shown = (await client.get(ticket)).json()["resume_at"]
    assert shown == "2099-12-31T23:00:00.123000+00:00"
    await caught_up(database, store)
    assert (await client.get(ticket)).json()["resume_at"] == shown
    await assert_views_equal_the_log(database)


async def test_without_a_database_everything_says_so_and_nothing_hangs(monkeypatch):
    """L12: 503 with Retry-After, never a 500."""
    monkeypatch.setattr("eventstore.mongo.driver._SERVER_SELECTION_SECONDS", 0.1)
    monkeypatch.setattr("eventstore.failures.PATIENCE_SECONDS", 0.1)
    nobody = Database("mongodb://127.0.0.1:9/")
    async with asking(create_app(nobody, EventStore(nobody), access=access(nobody))) as client:
        path = f"/tickets/{uuid4()}"
        lists = ("/tickets", "/dashboard", "/dashboard/series?metric=backlog", "/views")
        for get in (*lists, "/views/x", "/projections", path, f"{path}/timeline"):
            answer = await client.get(get)
            is_problem(answer, 503, "store_unavailable")
            assert answer.headers["retry-after"]
        for post in ("/tickets", f"{path}/unassign"):
            is_problem(
                await client.post(post, json=OPEN if post == "/tickets" else {}),
                503,
                "store_unavailable",
            )
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/healthz")).status_code == 200
    await nobody.close()


async def test_who_waits_is_told_no_error_by_a_database_that_stands_still(
    database, store, monkeypatch
):
    """L9: a command that has been done is answered; who still waits is told once it is shown."""
    monkeypatch.setattr("eventstore.failures.PATIENCE_SECONDS", 0.1)
    moves, real = asyncio.Event(), Generations.active

    async def active(generations):
        await moves.wait()
        return await real(generations)

    monkeypatch.setattr(Generations, "active", active)
    views, [ticket] = ReadModels(database), await open_some(store, 1, versions=1)
    assert not await views.show({ticket: 1}, 0.3)
    waiting = asyncio.create_task(views.show({ticket: 1}, 30))
    await asyncio.sleep(0.5)
    moves.set()
    async with running(by_utc(database, store)):
        assert await waiting


async def test_a_long_timeline_comes_in_pages_that_check(client, ticket):
    for n in range(5):
        await client.post(f"{ticket}/add_note", json={"body": f"{n}"})
    path, versions = f"{ticket}/timeline?limit=3", []
    while path:
        page = await client.get(path)
        assert page.json()["chain"] == "whole"
        versions += [e["version"] for e in page.json()["events"]]
        path = page.links.get("next", {}).get("url")
    assert versions == [1, 2, 3, 4, 5, 6, 7]


async def test_an_edited_event_shows_in_the_timeline(client, ticket, database):
    """L11"""
    await database.collection("ticket_events").update_one(
        {"version": 2}, {"$set": {"data.assignee": "mallory"}}
    )
    assert (await client.get(f"{ticket}/timeline")).json()["chain"] == "broken"
    assert (await client.get(f"{ticket}/timeline?after=1")).json()["chain"] == "broken"


async def test_lists_are_filtered_and_paged_newest_first(client, database, store):
    ids = []
    for n in range(7):
        more = {"group": "print"} if n % 2 else {}
        answer = await client.post("/tickets", json={**OPEN, **more, "subject": f"{n}"})
        ids.append(answer.json()["ticket_id"])
    await client.post(f"/tickets/{ids[0]}/assign", json={"assignee": "alice"})
    await caught_up(database, store)
    path, seen = "/tickets?limit=3", []
    while path:
        page = await client.get(path)
        seen += [t["id"] for t in page.json()["tickets"]]
        path = page.links.get("next", {}).get("url")
        assert (path is None) == (page.json()["next"] is None)
    assert seen == ids[::-1]

    async def subjects(query):
        return [t["subject"] for t in (await client.get(f"/tickets?{query}")).json()["tickets"]]

    assert await subjects("group=print") == ["5", "3", "1"]
    assert await subjects("group=") == ["6", "4", "2", "0"]
    assert await subjects("assignee=alice") == ["0"]
    assert await subjects("status=new&group=&assignee=") == ["6", "4", "2"]
    assert await subjects("requester=nobody") == []


async def test_a_reply_to_a_closed_ticket_is_answered_with_the_new_one(client, ticket):
    """L5, L9: named in the answer, shown at once, linked both ways; a retry makes no second."""
    await client.post(f"{ticket}/close", json={"reason": "invalid"}, headers=AGENT)
    key = {**REQUESTER, "Idempotency-Key": "k"}
    first, again = [
        await client.post(f"{ticket}/reply", json={"body": "Again!"}, headers=key) for _ in range(2)
    ]
    assert first.status_code == 200
    assert first.content == again.content
    follow_up = (await client.get(f"/tickets/{first.json()['follow_up']}")).json()
    old = (await client.get(ticket)).json()
    assert (follow_up["status"], follow_up["preview"]) == ("new", "Again!")
    assert follow_up["links"] == [{"relation": "follows_up", "ticket": old["id"]}]
    assert old["links"] == [{"relation": "followed_up_by", "ticket": follow_up["id"]}]
    other = await client.post(f"{ticket}/add_tags", json={"tags": ["x"]}, headers=AGENT)
    assert other.json()["follow_up"] is None


async def test_merged_tickets_show_each_other(client, ticket):
    """L9"""
    other = (await client.post("/tickets", json=OPEN)).json()["ticket_id"]
    merged = await client.post(f"{ticket}/merge", json={"into": other}, headers=AGENT)
    assert merged.json()["events"] == [{"version": 3, "type": "TicketMergedInto"}]
    one, two = [(await client.get(path)).json() for path in (ticket, f"/tickets/{other}")]
    assert (one["status"], one["close_reason"]) == ("closed", "merged")
    assert one["links"] == [{"relation": "merged_into", "ticket": two["id"]}]
    assert two["links"] == [{"relation": "merged_from", "ticket": one["id"]}]
    back = await client.post(f"/tickets/{other}/merge", json={"into": one["id"]}, headers=AGENT)
    is_problem(back, 409, "merge_target_solved")


DESK = {
    "groups": {"print": ["alice"]},
    "fields": {"floor": {"type": "integer", "required_on": "open"}},
    "sla": {"normal": {"first_response_minutes": 30, "resolution_minutes": 60}},
    "close_resolved_after_days": 7,
}


async def test_the_desk_is_set_up_as_a_whole_and_remembers(client):
    empty = await client.get("/desk")
    assert (empty.headers["etag"], empty.json()["desk"]["groups"]) == ('"0"', {})
    done = await client.put("/desk", json=DESK, headers={**ADMIN, "If-Match": '"0"'})
    assert (done.status_code, done.headers["etag"]) == (200, '"1"')
    shown = (await client.get("/desk")).json()
    assert shown == done.json()
    assert shown["desk"]["groups"] == DESK["groups"]
    assert shown["changed_by"] == {"id": "ada", "role": "agent"}
    stale = await client.put("/desk", json={}, headers={**ADMIN, "If-Match": '"0"'})
    is_problem(stale, 412, "version_mismatch")
    assert (await client.get("/desk", params={"version": 0})).json() == empty.json()
    is_problem(await client.get("/desk", params={"version": 2}), 404, "desk_version_not_found")
    wrong = await client.put("/desk", json={"fields": {"floor": {"type": "float"}}}, headers=ADMIN)
    problem = is_problem(wrong, 422, "invalid_request")
    assert problem["errors"][0]["pointer"] == "/fields/floor/type"


async def test_a_ticket_shows_what_is_promised_for_it(client):
    await client.put("/desk", json=DESK, headers=ADMIN)
    is_problem(await client.post("/tickets", json=OPEN), 422, "needs_fields")
    opening = {**OPEN, "fields": {"floor": 3}, "group": "print"}
    path = (await client.post("/tickets", json=opening)).headers["location"]
    shown = (await client.get(path)).json()
    opened_at = datetime.fromisoformat(shown["opened_at"])
    for target, minutes in (("first_response", 30), ("resolution", 60)):
        due_at = datetime.fromisoformat(shown[f"{target}_due_at"])
        assert due_at - opened_at == timedelta(minutes=minutes)
    assert shown["sla_breached"] == []
    assert not shown.keys() & {"sla", "next_due_at"}
    mallory = await client.post(f"{path}/assign", json={"assignee": "mallory"}, headers=AGENT)
    is_problem(mallory, 422, "unknown_agent")
    too_soon = await client.post(f"{path}/mark_sla_breach", json={"target": "resolution"})
    is_problem(too_soon, 409, "sla_not_due")
    waiting = {"status": "pending", "reason": "a photo"}
    await client.post(f"{path}/update_status", json=waiting, headers=AGENT)
    shown = (await client.get(path)).json()
    assert shown["first_response_due_at"] is shown["resolution_due_at"] is None


WAIT = {**AGENT, "Prefer": "wait=10"}


async def test_who_prefers_to_wait_finds_the_change_in_lists_and_dashboard(client):
    """L9: a list shows what was done once the answer is there."""
    for n in range(1, 6):
        opened = await client.post("/tickets", json=OPEN, headers=WAIT)
        assert opened.headers["preference-applied"] == "wait=10"
        path = opened.headers["location"]
        noted = await client.post(f"{path}/add_note", json={"body": "odd"}, headers=WAIT)
        assert noted.headers["preference-applied"] == "wait=10"
        listed = (await client.get("/tickets", params={"limit": 1})).json()["tickets"]
        assert [(t["version"], t["has_note"]) for t in listed] == [(2, True)]
        dashboard = (await client.get("/dashboard")).json()
        assert dashboard["until_date"]["created"] == n


async def test_many_may_wait_at_once_and_each_is_answered(client):
    """L9"""
    answers = await asyncio.gather(
        *(client.post("/tickets", json=OPEN, headers=WAIT) for _ in range(50))
    )
    assert {a.headers.get("preference-applied") for a in answers} == {"wait=10"}
    listed = (await client.get("/tickets", params={"limit": 200})).json()["tickets"]
    assert {t["id"] for t in listed} == {a.json()["ticket_id"] for a in answers}


async def test_a_follow_up_is_waited_for_too(client, ticket):
    """L9"""
    await client.post(f"{ticket}/close", json={"reason": "invalid"}, headers=AGENT)
    headers = {**REQUESTER, "Prefer": "wait=10"}
    answer = await client.post(f"{ticket}/reply", json={"body": "Again!"}, headers=headers)
    listed = (await client.get("/tickets", params={"status": "new"})).json()["tickets"]
    assert [t["id"] for t in listed] == [answer.json()["follow_up"]]


async def test_nobody_waits_longer_than_he_prefers(database):
    """L12: the command is done, and its answer does not say that it was waited for."""
    async with serving(database, project=False) as client:
        for prefer in ("wait=0", "wait=1"):
            answer = await client.post("/tickets", json=OPEN, headers={"Prefer": prefer})
            assert answer.status_code == 201
            assert "preference-applied" not in answer.headers


async def test_a_database_that_falls_silent_while_one_waits_fails_nothing(client, monkeypatch):
    """L3, L12: the command has been acknowledged by the log; only its visibility is unknown."""

    async def silent(*_):
        raise ConnectionFailure("silent")

    monkeypatch.setattr(Generations, "ask_generation", silent)
    answer = await client.post("/tickets", json=OPEN, headers={"Prefer": "wait=1"})
    assert answer.status_code == 201
    assert "preference-applied" not in answer.headers
    monkeypatch.undo()
    path = answer.headers["location"]
    again = await client.post(f"{path}/assign", json={"assignee": "alice"}, headers=WAIT)
    assert again.headers["preference-applied"] == "wait=10"


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("wait=2", 2),
        ("respond-async, Wait = 3", 3),
        ('return=minimal, wait="4"; x=y', 4),
        ("wait=999999999", WAIT_SECONDS),
        ("wait=soon", None),
        ("wait", None),
        ("wait=-1", None),
        ("return=minimal", None),
        ("", None),
        (None, None),
    ],
)
def test_a_preference_that_is_not_understood_is_ignored(prefer, seconds):
    assert wait_seconds(prefer) == seconds


async def test_a_value_that_is_refused_is_refused_in_our_own_words(client, ticket):
    """L12"""
    answer = await client.post(f"{ticket}/assign", json={"assignee": "a\x00b"}, headers=AGENT)
    problem = is_problem(answer, 422, "invalid_request")
    assert problem["errors"] == [
        {"pointer": "/assignee", "detail": "control characters are not allowed"}
    ]
    wait = {"status": "pending", "reason": "x", "resume_at": 1999999999}
    answer = await client.post(f"{ticket}/update_status", json=wait, headers=AGENT)
    problem = is_problem(answer, 422, "invalid_request")
    assert problem["detail"] == "/resume_at: a time is written like 2026-03-01T12:00:00Z"
    set_up = await client.put("/desk", json={"groups": {" ": []}}, headers=ADMIN)
    assert is_problem(set_up, 422, "invalid_request")["errors"][0]["pointer"] == "/groups/ "
