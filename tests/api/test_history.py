"""A ticket as it was, event by event, and what differs between two versions."""

from dataclasses import fields
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from api.queries.history import past
from domain.codec import EventData
from domain.tickets import encode
from domain.tickets.ticket import Ticket
from eventstore.event_document import EMPTY, CommandRef, Metadata, chained, to_document, utc_now
from projections.views import tickets
from tests.api.test_api import OPEN, is_problem, serving
from tests.callers import AGENT, REQUESTER
from tests.projecting import add, open_some
from tests.spec import ALICE, NOW, opened

DAY = timedelta(days=1)


@pytest_asyncio.fixture
async def client(database):
    """The API without a projector: all of this is read from the log."""
    async with serving(database, project=False) as one:
        yield one


@pytest_asyncio.fixture
async def lived(store):
    """A ticket whose five events happened a day apart, and were recorded just now."""
    [ticket] = await open_some(store, 1, versions=1)
    await add(store, ticket, "TicketAssigned", NOW + DAY, assignee="alice")
    await add(store, ticket, "NoteAdded", NOW + 2 * DAY, body="odd")
    await add(
        store,
        ticket,
        "StatusUpdated",
        NOW + 3 * DAY,
        status="pending",
        reason="asked",
        resume_at=None,
    )
    await add(store, ticket, "TicketResolved", NOW + 4 * DAY, resolution="paper")
    return ticket


def at(time):
    return time.isoformat().replace("+00:00", "Z")


async def test_a_ticket_is_shown_as_it_was_at_any_time(client, store, lived):
    """L7: by the fold that the views are made with."""
    events = await store.load(lived)
    for n in range(5):
        for moment in (NOW + n * DAY, NOW + n * DAY + DAY / 2):
            answer = await client.get(f"/tickets/{lived}", params={"as_of": at(moment)})
            then = await client.get(f"/tickets/{lived}?version={n + 1}")
            assert answer.headers["etag"] == then.headers["etag"] == f'"{n + 1}"'
            assert answer.json() == then.json()
            read = tickets.fold(None, events[: n + 1])
            assert read is not None
            assert answer.json()["status"] == read.ticket.status
            assert answer.json()["assignee"] == read.ticket.assignee
            assert answer.json()["has_note"] == read.has_note
    now = await client.get(f"/tickets/{lived}")
    assert now.json() == (await client.get(f"/tickets/{lived}?version=5")).json()


async def test_links_that_lead_back_to_a_ticket_are_pointed_out_until_one_is_taken_away(
    client, store
):
    """Two that were made at once, behind each other's back; and a merge has closed the ring."""
    a, merged, b, c = await open_some(store, 4, versions=1)
    for blocks, blocked in ((a, b), (b, c), (c, merged)):
        await add(store, blocks, "TicketLinked", relation="blocks", ticket=str(blocked))
        await add(store, blocked, "TicketLinked", relation="blocked_by", ticket=str(blocks))
    path = f"/tickets/{a}"
    assert (await client.get(path)).json()["rings"] is None
    etag = (await client.get(path)).headers["etag"]
    await client.post(f"/tickets/{merged}/merge", json={"into": str(a)})
    found = await client.get(path)
    assert found.json()["rings"] == ["blocks"]
    for each in (b, c):
        assert (await client.get(f"/tickets/{each}")).json()["rings"] == ["blocks"]
    again = await client.get(path, headers={"If-None-Match": found.headers["etag"]})
    assert (again.status_code, etag != found.headers["etag"]) == (200, True)
    assert (await client.get(path, headers=REQUESTER)).json()["rings"] is None
    await client.post(f"/tickets/{c}/unlink", json={"relation": "blocks", "ticket": str(merged)})
    for each in (a, b, c):
        assert (await client.get(f"/tickets/{each}")).json()["rings"] is None


async def test_before_it_was_opened_there_is_no_ticket(client, lived):
    early = {"as_of": at(NOW - timedelta(milliseconds=1))}
    for path in (f"/tickets/{lived}", f"/tickets/{lived}/timeline"):
        is_problem(await client.get(path, params=early), 404, "ticket_not_found")
    for path in ("", "?version=1", f"?as_of={at(NOW)}", "/timeline", "/diff"):
        is_problem(await client.get(f"/tickets/{uuid4()}{path}"), 404, "ticket_not_found")
    for query in ("?version=6", "/diff?from=6", "/diff?to=6"):
        is_problem(await client.get(f"/tickets/{lived}{query}"), 404, "version_not_reached")


async def test_what_was_known_is_not_what_had_happened(client, lived, store):
    recorded = (await store.load(lived))[2].recorded_at
    asked = {"as_of": at(recorded), "by": "recorded"}
    assert (await client.get(f"/tickets/{lived}", params=asked)).json()["has_note"]
    then = {"as_of": at(NOW + DAY), "by": "recorded"}
    is_problem(await client.get(f"/tickets/{lived}", params=then), 404, "ticket_not_found")


async def test_an_event_that_was_dated_back_comes_after_those_before_it(client, lived, store):
    """As in views as of a time: the first later event ends it."""
    await add(store, lived, "TicketReopened", NOW + DAY, reason="dated back")
    for moment, version in ((NOW + DAY, 2), (NOW + 4 * DAY, 6)):
        answer = await client.get(f"/tickets/{lived}", params={"as_of": at(moment)})
        assert answer.headers["etag"] == f'"{version}"'
        timeline = await client.get(f"/tickets/{lived}/timeline", params={"as_of": at(moment)})
        assert len(timeline.json()["events"]) == version


@pytest.mark.parametrize(
    "query",
    [
        "?version=1&as_of=2026-03-01T12:00:00Z",
        "?version=0",
        "?version=99999999999",
        "?as_of=yesterday",
        "?as_of=1",
        "?as_of=2026-03-01T12:00:00",
        "?as_of=0001-01-01T00:00:00%2B12:00",
        "?as_of=2026-03-01T12:00:00Z&by=hearsay",
        "/timeline?as_of=never",
        "/timeline?limit=0",
        "/diff?from=-1",
        "/diff?to=0",
        "/diff?from=3&to=2",
        "/diff?from=x",
    ],
)
async def test_pasts_that_cannot_be_are_refused(client, lived, query):
    """L12"""
    answer = await client.get(f"/tickets/{lived}{query}")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


async def test_the_timeline_tells_what_each_event_changed(client, lived):
    timeline = (await client.get(f"/tickets/{lived}/timeline")).json()
    assert timeline["chain"] == "whole"
    opening, assigned, noted, waiting, resolved = (e["changes"] for e in timeline["events"])
    named = {change["field"]: change for change in opening}
    assert named["subject"] == {"field": "subject", "before": None, "after": "Printer jam"}
    assert "tags" not in named
    assert "assignee" not in named
    assert assigned == [
        {"field": "status", "before": "new", "after": "open"},
        {"field": "assignee", "before": None, "after": "alice"},
    ]
    assert noted == []
    assert waiting == [
        {"field": "status", "before": "open", "after": "pending"},
        {"field": "waiting_reason", "before": None, "after": "asked"},
    ]
    assert {c["field"] for c in resolved} == {"status", "waiting_reason", "resolution"}
    first = timeline["events"][0]
    assert first["actor"] == {"id": "alice", "role": "agent"}
    assert first["command"]["id"] == "k"
    assert first["correlation_id"] is first["causation_id"] is first["previous"] is None
    assert first["occurred_at"] == "2026-03-01T12:00:00+00:00"
    assert first["recorded_at"] > first["occurred_at"]
    assert len(first["hash"]) == 64


async def test_a_page_behind_others_tells_the_same(client, store):
    """What came before is folded, in parts: a ticket of any length."""
    [ticket] = await open_some(store, 1, versions=1)
    about = Metadata(ALICE, CommandRef("k", "f"))
    for n in range(4):
        events = [EventData("SubjectChanged", 1, {"subject": f"{n}.{m}"}) for m in range(150)]
        head = (await store.load(ticket))[-1]
        await store.append(chained(ticket, head_of(head), events, about, NOW, utc_now()))
    whole = (await client.get(f"/tickets/{ticket}/timeline?limit=1000")).json()["events"]
    assert [e["version"] for e in whole] == list(range(1, 602))
    path, paged = f"/tickets/{ticket}/timeline?limit=170", []
    while path:
        page = await client.get(path)
        assert page.json()["chain"] == "whole"
        paged += page.json()["events"]
        path = page.links.get("next", {}).get("url")
    assert paged == whole
    assert paged[300]["changes"][0]["before"] == paged[299]["changes"][0]["after"]
    assert (await client.get(f"/tickets/{ticket}/timeline?after=601")).json()["events"] == []


def head_of(event):
    return EMPTY._replace(version=event.version, hash=event.hash)


async def test_requesters_are_told_nothing_of_what_is_hidden(client, store):
    """Not by the events, and not by what they changed."""
    ticket = UUID((await client.post("/tickets", json=OPEN)).json()["ticket_id"])
    await add(store, ticket, "NoteAdded", body="secret")
    due_at = "2026-03-01T13:00:00+00:00"
    await add(store, ticket, "SlaBreached", target="first_response", due_at=due_at)
    await add(store, ticket, "TicketAssigned", assignee="alice")
    for_agents = await client.get(f"/tickets/{ticket}/timeline", headers=AGENT)
    assert "sla_breached" in for_agents.text
    answer = await client.get(f"/tickets/{ticket}/timeline", headers=REQUESTER)
    assert [e["version"] for e in answer.json()["events"]] == [1, 2]
    assert [c["field"] for c in answer.json()["events"][1]["changes"]] == ["status", "assignee"]
    diff = await client.get(f"/tickets/{ticket}/diff?from=1", headers=REQUESTER)
    for text in (answer.text, diff.text):
        assert "secret" not in text
        assert "breached" not in text
    page = await client.get(f"/tickets/{ticket}/timeline?limit=1", headers=REQUESTER)
    assert [e["version"] for e in page.json()["events"]] == [1]
    page = await client.get(page.links["next"]["url"], headers=REQUESTER)
    assert [e["version"] for e in page.json()["events"]] == [2]
    assert "next" not in page.links
    assert page.json()["chain"] == "whole"


async def test_behind_what_cannot_be_read_nobody_knows_what_changed(client, lived, database):
    """L11: shown as it is stored, and everything else with it."""
    await database.collection("ticket_events").update_one(
        {"ticket_id": lived, "version": 3}, {"$set": {"type": "Prank", "data": 7}}
    )
    timeline = (await client.get(f"/tickets/{lived}/timeline")).json()
    assert timeline["chain"] == "broken"
    assert [e["changes"] is None for e in timeline["events"]] == [False, False, True, True, True]
    assert (timeline["events"][2]["type"], timeline["events"][2]["data"]) == ("Prank", 7)
    later = (await client.get(f"/tickets/{lived}/timeline?after=3")).json()
    assert [e["changes"] for e in later["events"]] == [None, None]


async def test_a_diff_tells_what_differs_between_two_versions(client, lived):
    diff = (await client.get(f"/tickets/{lived}/diff?from=2&to=4")).json()
    assert diff == {
        "ticket_id": str(lived),
        "from": 2,
        "to": 4,
        "changes": [
            {"field": "status", "before": "open", "after": "pending"},
            {"field": "waiting_reason", "before": None, "after": "asked"},
        ],
    }
    whole = (await client.get(f"/tickets/{lived}/diff")).json()
    assert (whole["from"], whole["to"]) == (0, 5)
    now = (await client.get(f"/tickets/{lived}")).json()
    told = {change["field"]: change["after"] for change in whole["changes"]}
    assert told == {name: now[name] for name in past.FIELDS if now[name] not in (None, "", [], {})}
    assert (await client.get(f"/tickets/{lived}/diff?from=3&to=3")).json()["changes"] == []


def test_every_field_of_a_ticket_is_told_or_left_out_on_purpose():
    """Its clock is: what clients see of it is when promises run out. So is what undoes a merge."""
    left_out = {"sla", "before_merge", "last_merge"}
    assert {field.name for field in fields(Ticket)} - left_out <= set(past.FIELDS)


def test_the_changes_of_one_event_after_the_other_are_the_difference_of_both():
    """Each event's changes begin where those of the one before end."""
    about = Metadata(ALICE, CommandRef("k", "f"))
    events = [
        encode(opened(tags=("a",))),
        EventData("TagsAdded", 1, {"tags": ["b"]}),
        EventData("TagsRemoved", 1, {"tags": ["a"]}),
        EventData("FieldSet", 1, {"key": "floor", "value": 3}),
    ]
    changes = past.Changes()
    sealed = chained(uuid4(), EMPTY, events, about, NOW, utc_now())
    first, *rest = [changes.tell(to_document(event)) for event in sealed]
    assert {"field": "tags", "before": None, "after": ("a",)} in (first or [])
    assert rest == [
        [{"field": "tags", "before": ("a",), "after": ("a", "b")}],
        [{"field": "tags", "before": ("a", "b"), "after": ("b",)}],
        [{"field": "fields", "before": {}, "after": {"floor": 3}}],
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"$set": {"type": "NoteOfNewerVersion"}},
        {"$set": {"type": ["NoteAdded"]}},
        {"$set": {"type": {"of": "NoteAdded"}}},
        {"$unset": {"type": 1}},
        {"$set": {"data": {"body": {"told": "what only we know"}}}},
        {"$set": {"data": {"text": "what only we know"}}},
    ],
    ids=str,
)
async def test_a_damaged_note_is_shown_to_no_requester(database, change):
    """L11: not what is of no known public type, nor by the words of an error."""
    async with serving(database, project=False) as client:
        path = (await client.post("/tickets", json=OPEN)).headers["location"]
        note = {"body": "what only we know"}
        await client.post(f"{path}/add_note", json=note, headers=AGENT)
        await database.collection("ticket_events").update_one({"version": 2}, change)
        for asked in ("", "/timeline", "/diff", "?version=2", "?as_of=2100-01-01T00:00:00Z"):
            answer = await client.get(f"{path}{asked}", headers=REQUESTER)
            assert "only we know" not in answer.text, asked
            assert answer.status_code == (404 if asked == "?version=2" else 200), asked
        assert (await client.get(f"{path}/timeline", headers=REQUESTER)).status_code == 200
        assert "only we know" not in (await client.get("/events", headers=REQUESTER)).text
