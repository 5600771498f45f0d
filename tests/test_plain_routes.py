"""What is plainly good is read at once, and is answered as FastAPI would have answered it."""

import asyncio
import random
from contextlib import contextmanager
from urllib.parse import quote, urlencode

import pytest
from fastapi.routing import APIRoute

from api.lists import ListQuery
from api.plain_route import PlainRoute
from tests.callers import ADMIN, AGENT, AUDITOR, REQUESTER
from tests.projecting import caught_up
from tests.test_api import NOBODY, OPEN, is_problem, serving

VALUES = {
    "q": ["status:open", "jam priority>=high", "nonsense:", "", "jam", "%zz"],
    "status": ["open", "new", "nothing", "OPEN", ""],
    "solved": ["true", "1", "no", "perhaps", ""],
    "priority": ["high", "low", "highest"],
    "group": ["print", "", " print "],
    "assignee": ["alice", "", "\0"],
    "requester": ["bob", "", "x" * 300],
    "tag": ["paper", "", "Paper "],
    "field": ["floor:3", "floor", ":3"],
    "opened_from": ["2026-03-01", "yesterday", "2026-03-01T12:00:00Z", ""],
    "breached": ["true", "f", "off", "2"],
    "sort": ["opened_at", "-updated_at", "opened", ""],
    "limit": ["1", "200", "0", "201", "ten", "1.0", " 5", "+5", "1_0", ""],
    "count": ["true", "yes", "-1"],
    "cursor": ["abc", ""],
    "after": [f"{NOBODY}@0", "x@1"],
    "as_of_view": ["none", "UPPER", ""],
    "view": ["urgent", "", "../x"],
    "colour": ["blue"],
    "Limit": ["1"],
}


@contextmanager
def by_fastapi_alone():
    """As if nothing were read at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PlainRoute, "handle", APIRoute.handle)
        yield


@contextmanager
def counting():
    """How often FastAPI has been left to answer."""
    left = []
    ordinary = APIRoute.handle

    async def counted(self, *about):
        left.append(self.path)
        await ordinary(self, *about)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(APIRoute, "handle", counted)
        yield left


def told(answer):
    """What a client sees of an answer, but for what differs from one request to the next."""
    passing = ("correlation-id", "casebook-views-age")
    headers = {name: value for name, value in answer.headers.items() if name not in passing}
    return answer.status_code, headers, answer.content


async def assert_alike(client, method, path, **about):
    at_once = await client.request(method, path, **about)
    with by_fastapi_alone():
        slowly = await client.request(method, path, **about)
    assert told(at_once) == told(slowly), (method, path, about)
    return at_once.status_code


@pytest.fixture
async def desk(database, store):
    """A client, and the path of a ticket that is shown."""
    async with serving(database) as client:
        opening = {**OPEN, "tags": ["paper"], "fields": {"floor": 3}, "group": "print"}
        path = (await client.post("/tickets", json=opening)).headers["location"]
        await client.post(f"{path}/assign", json={"assignee": "alice"}, headers=AGENT)
        await caught_up(database, store)
        yield client, path


def test_every_parameter_of_lists_is_tried():
    assert VALUES.keys() >= ListQuery.model_fields.keys() - {
        f"{name}_{end}" for name in ("opened", "updated", "resolved") for end in ("from", "before")
    } - {"due_before"}


@pytest.mark.parametrize("seed", range(4))
async def test_any_list_is_answered_as_fastapi_would(desk, seed):
    """Law L12: good or not, in whatever form it is asked for."""
    client, _ = desk
    chance = random.Random(seed)  # noqa: S311
    seen = set()
    for _ in range(60):
        names = chance.choices([*VALUES], k=chance.choice([0, 1, 1, 1, 2, 2, 3]))
        if chance.random() < 0.3:  # else hardly anything with more than one of them is good
            names = names[:1] * 2
        pairs = [(name, chance.choice(VALUES[name])) for name in names]
        query = urlencode(pairs, quote_via=quote)
        if chance.random() < 0.1:
            query += chance.choice(["&", "&&limit", "&limit", "=", "&%FF=1", ";limit=1", "#x"])
        headers = {**chance.choice([{}, {}, REQUESTER, ADMIN, AUDITOR])}
        if chance.random() < 0.2:
            headers["Prefer"] = chance.choice(["wait=0", "x" * 201, "", "return=minimal"])
        seen.add(await assert_alike(client, "GET", f"/tickets?{query}", headers=headers))
    assert {200, 403, 422} <= seen


async def test_any_ticket_is_answered_as_fastapi_would(desk):
    client, path = desk
    id_ = path.removeprefix("/tickets/")
    asked = [
        ("GET", path),
        ("GET", f"{path}?"),
        ("GET", f"{path}?version=1"),
        ("GET", f"{path}?version=0"),
        ("GET", f"{path}?colour=blue"),
        ("GET", f"{path}/"),
        ("GET", f"/tickets/{id_.upper()}"),
        ("GET", f"/tickets/{{{id_}}}"),
        ("GET", f"/tickets/{id_.replace('-', '')}"),
        ("GET", f"/tickets/{NOBODY}"),
        ("GET", f"/tickets/{id_}%20"),
        ("GET", "/tickets/7"),
        ("HEAD", path),
        ("OPTIONS", path),
        ("DELETE", path),
        ("POST", path),
        ("PUT", "/tickets"),
    ]
    seen = set()
    for method, about in asked:
        for who in (AGENT, REQUESTER, ADMIN, AUDITOR):
            seen.add(await assert_alike(client, method, about, headers=who))
    assert seen == {200, 403, 404, 405, 422}


async def test_what_is_asked_for_most_is_read_at_once(desk):
    """Or all of this would be for nothing."""
    client, path = desk
    with counting() as left:
        for plain in (
            path,
            "/tickets",
            "/tickets?q=jam&status=open&status=new&limit=10&count=true",
        ):
            assert (await client.get(plain)).status_code == 200
        assert (await client.post(f"{path}/add_note", json={"body": "x"})).status_code == 200
        assert left == []
        await client.get("/tickets?limit=ten")
        assert left == ["/tickets"]


async def test_who_may_not_is_told_so_at_once_too(desk):
    """And it is on record, whichever way it was read."""
    client, path = desk
    for asked in (path, "/tickets"):
        is_problem(await client.get(asked, headers=ADMIN), 403, "forbidden")
    is_problem(
        await client.post(f"{path}/add_note", json={"body": "x"}, headers=AUDITOR), 403, "forbidden"
    )
    page = await client.get("/access_log?outcome=denied", headers=ADMIN)
    assert [record["route"] for record in page.json()["records"]] == [
        "/tickets/{ticket_id}/add_note",
        "/tickets",
        "/tickets/{ticket_id}",
    ]


async def test_who_asks_for_a_page_at_once_gets_their_own(desk):
    """Pages are shared by those alone who ask for the very same."""
    client, _ = desk
    other = await client.post("/tickets", json={**OPEN, "requester": "carla", "subject": "Hers"})
    own = other.json()["ticket_id"]
    await client.get(f"/tickets?after={own}@1", headers={"Prefer": "wait=10"})
    asked = [
        ("/tickets", AGENT),
        ("/tickets", REQUESTER),
        ("/tickets?limit=1", AGENT),
        ("/tickets?sort=opened_at", AGENT),
        ("/tickets?limit=1&sort=opened_at", AGENT),
        ("/tickets?requester=bob", AGENT),
        ("/tickets?q=hers", REQUESTER),
        ("/tickets?q=hers", AGENT),
        ("/tickets?status=new", AGENT),
        ("/tickets?count=true", AGENT),
    ]
    alone = [told(await client.get(path, headers=who)) for path, who in asked]
    assert len({content for _, _, content in alone}) > 6
    for _ in range(3):
        together = await asyncio.gather(
            *(client.get(path, headers=who) for path, who in asked for _ in range(4))
        )
        for n, answer in enumerate(together):
            assert told(answer) == alone[n // 4], asked[n // 4]
