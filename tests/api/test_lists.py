"""Lists as clients ask for them: filters, sorts, pages, counts."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from domain.sla import SlaTargets
from eventstore.mongo.sorted_pages import Pager
from projections.generations import Generations
from tests.api.test_api import OPEN, is_problem, serving
from tests.callers import AGENT, REQUESTER
from tests.projecting import add, caught_up, open_some, running
from tests.spec import NOW

HOUR = timedelta(hours=1)


@pytest.fixture
async def desk(database, store):
    """A served desk with some tickets that differ, all shown: the client, and their ids."""
    async with serving(database) as client:
        ids = {}
        lives: dict[str, dict[str, Any]] = {
            "jam": {"subject": "Printer jam", "priority": "high", "tags": ["paper", "vip"]},
            "toner": {"subject": "Toner is empty", "group": "print", "fields": {"floor": 3}},
            "net": {"subject": "Réseau down", "group": "network", "fields": {"floor": "3"}},
            "cable": {"subject": "A cable", "priority": "low", "fields": {"floor": 4}},
        }
        for name, different in lives.items():
            opened = await client.post("/tickets", json={**OPEN, "body": "", **different})
            ids[name] = opened.json()["ticket_id"]
        agent = AGENT
        for name in ("toner", "net"):
            path = f"/tickets/{ids[name]}"
            await client.post(f"{path}/assign", json={"assignee": "alice"}, headers=agent)
        await client.post(f"/tickets/{ids['net']}/add_note", json={"body": "x"}, headers=agent)
        done = {"resolution": "a new one"}
        await client.post(f"/tickets/{ids['toner']}/resolve", json=done, headers=agent)
        await caught_up(database, store)
        yield client, ids


async def names(desk, query):
    client, ids = desk
    answer = await client.get(f"/tickets?{query}")
    assert answer.status_code == 200, answer.text
    by_id = {id_: name for name, id_ in ids.items()}
    return [by_id[t["id"]] for t in answer.json()["tickets"]]


FILTERS = [
    ("status=new", {"jam", "cable"}),
    ("status=open&status=resolved", {"toner", "net"}),
    ("solved=true", {"toner"}),
    ("solved=false&assignee=", {"jam", "cable"}),
    ("priority=high&priority=low", {"jam", "cable"}),
    ("tag=paper&tag=vip", {"jam"}),
    ("tag=paper&tag=none", set()),
    ("group=", {"jam", "cable"}),
    ("requester=bob", {"jam", "toner", "net", "cable"}),
    ("field=floor:3", {"toner", "net"}),
    ("field=floor:4", {"cable"}),
    ("opened_before=2000-01-01", set()),
    ("opened_from=2000-01-01T00:00:00Z", {"jam", "toner", "net", "cable"}),
    ("resolved_from=2000-01-01", {"toner"}),
    ("breached=true", set()),
    ("breached=false&status=new", {"jam", "cable"}),
    ("due_before=2100-01-01", set()),
    ("q=printer", {"jam"}),
    ("q=print*", {"jam"}),
    ("q=RESEAU", {"net"}),
    ("q=-printer%20status:new", {"cable"}),
    ("q=priority%3E%3Dhigh%20assignee:none%20printer%20jam", {"jam"}),
    ("q=field.floor:3%20-is:solved", {"net"}),
    ("q=has:note", {"net"}),
    ("q=cable&priority=high", set()),
    ("number=C-1", {"jam"}),
    ("number=c-2", {"toner"}),
    ("number=3", {"net"}),
    ("q=number:C-4", {"cable"}),
    ("q=C-4", {"cable"}),
    ("q=number:C-5", set()),
    ("sort=resolved_at", {"toner"}),
]
SORTS = [
    ("-opened_at", ["cable", "net", "toner", "jam"]),
    ("opened_at", ["jam", "toner", "net", "cable"]),
    ("updated_at", ["jam", "cable", "net", "toner"]),
    ("-updated_at", ["toner", "net", "cable", "jam"]),
    ("-resolved_at", ["toner"]),
    ("-priority", ["jam", "net", "toner", "cable"]),
    ("priority", ["cable", "net", "toner", "jam"]),
    ("priority&priority=high&priority=low", ["cable", "jam"]),
    ("priority&q=priority%3C=normal", ["cable", "net", "toner"]),
]


async def test_all_filters_must_hold(desk):
    for query, expected in FILTERS:
        found = await names(desk, query)
        assert set(found) == expected, query
        assert len(found) == len(expected), query


async def test_lists_are_sorted_as_asked_and_paged_alike(desk):
    client, ids = desk
    for sort, expected in SORTS:
        for more in ("", "&status=new&status=open&status=resolved", "&requester=bob"):
            assert await names(desk, f"sort={sort}{more}") == expected
            path, seen = f"/tickets?sort={sort}&limit=1&count=true{more}", []
            while path:
                page = await client.get(path)
                assert page.json()["total"] == len(expected)
                seen += [t["id"] for t in page.json()["tickets"]]
                path = page.links.get("next", {}).get("url")
            assert seen == [ids[name] for name in expected]


async def test_a_search_that_makes_no_sense_is_pointed_at(desk):
    """L12"""
    client, _ = desk
    answer = await client.get("/tickets", params={"q": "printer stauts:open"})
    problem = is_problem(answer, 422, "bad_query")
    assert problem["detail"].startswith("at 9: unknown key 'stauts'")
    assert problem["errors"] == [{"pointer": "query q", "detail": problem["detail"]}]
    for query in ("sort=tag", "opened_from=yesterday", "field=Floor:3", "field=floor"):
        assert (await client.get(f"/tickets?{query}")).status_code == 422


async def test_a_cursor_is_of_its_own_list_alone(desk):
    """L12: nor can it be made up, or altered."""
    client, _ = desk
    following = (await client.get("/tickets?limit=1&status=new")).json()["next"]
    for other in ("status=open", "sort=opened_at&status=new", "q=jam&status=new", ""):
        answer = await client.get(f"/tickets?{other}&cursor={following}")
        is_problem(answer, 422, "bad_cursor")
    assert (await client.get(f"/tickets?status=new&limit=9&cursor={following}")).status_code == 200
    for n in range(len(following)):  # byte by byte
        letter = "A" if following[n] != "A" else "B"
        altered = following[:n] + letter + following[n + 1 :]
        answer = await client.get(f"/tickets?status=new&cursor={altered}")
        is_problem(answer, 422, "bad_cursor")


async def test_more_than_can_be_counted_is_not_counted(desk, monkeypatch):
    client, _ = desk
    monkeypatch.setattr("api.queries.lists.listing.MOST_COUNTED", 3)
    assert (await client.get("/tickets?count=true")).json()["total"] is None
    assert (await client.get("/tickets?count=true&solved=true")).json()["total"] == 1
    assert (await client.get("/tickets")).json()["total"] is None


async def test_a_ticket_that_becomes_urgent_while_a_page_is_read_comes_once(desk, monkeypatch):
    _, ids = desk
    read, asked = Pager.page, 0

    async def late(self, shown, *about):
        nonlocal asked
        asked += 1
        if asked == 3:  # the urgent and the high have been read
            change = {"$set": {"priority": "normal"}}
            await shown.collection("ticket_reads").update_one({"_id": UUID(ids["jam"])}, change)
        return await read(self, shown, *about)

    monkeypatch.setattr(Pager, "page", late)
    assert await names(desk, "sort=-priority") == ["jam", "net", "toner", "cable"]


async def test_tickets_are_sorted_by_when_a_promise_runs_out(database, store):
    """Not for requesters, who would learn what is on record as missed."""
    lives = {"late": 60, "soon": 30, "then": 45}
    ids = {"without": (await open_some(store, 1))[0]}
    for name, minutes in lives.items():
        [ids[name]] = await open_some(store, 1, sla=SlaTargets(minutes, 90))
    async with running(database), serving(database, project=False) as client:
        await caught_up(database, store)
        desk = client, {name: str(id_) for name, id_ in ids.items()}
        due = ["soon", "then", "late"]
        for more in ("", "&status=new", "&due_before=2100-01-01"):
            assert await names(desk, f"sort=due_at{more}") == due
            assert await names(desk, f"sort=-due_at{more}") == due[::-1]
        first = await client.get("/tickets?sort=due_at&limit=2&count=true")
        assert first.json()["total"] == 3
        rest = await client.get(first.links["next"]["url"])
        assert [each["id"] for each in rest.json()["tickets"]] == [str(ids["late"])]
        for sort in ("due_at", "-due_at"):
            refused = await client.get(f"/tickets?sort={sort}", headers=REQUESTER)
            is_problem(refused, 403, "forbidden")
        assert (await client.get("/tickets?sort=-priority", headers=REQUESTER)).status_code == 200


async def test_a_promise_that_runs_out_soon_is_found(database, store):
    targets = SlaTargets(first_response_minutes=30, resolution_minutes=60)
    late, _ = await open_some(store, 2, sla=targets, priority="high")
    await add(store, late, "SlaBreached", NOW + HOUR, **breach("first_response"))
    await add(store, late, "SlaBreached", NOW + 2 * HOUR, **breach("resolution"))
    async with running(database), serving(database, project=False) as client:
        await caught_up(database, store)

        async def found(query):
            answer = await client.get(f"/tickets?{query}")
            return {UUID(t["id"]) for t in answer.json()["tickets"]}

        assert await found("breached=true") == {late}
        assert await found("q=is:breached") == {late}
        assert late not in await found("due_before=2100-01-01")
        assert len(await found("q=due%3C2100-01-01")) == 1


def breach(target):
    return {"target": target, "due_at": f"{NOW + HOUR:%Y-%m-%dT%H:%M:%SZ}"}


async def test_lists_of_views_that_lack_an_index_are_shown_all_the_same(desk, database):
    """As while those of a former version are shown."""
    shown = (await Generations(database).shown()).collection("ticket_reads")
    for index in await shown.index_information():
        if index != "_id_":
            await shown.drop_index(index)
    assert set(await names(desk, "status=new&count=true")) == {"jam", "cable"}
