"""What is plainly good is read at once, and is answered as FastAPI would have answered it."""

import asyncio
import random
from contextlib import contextmanager
from urllib.parse import quote, urlencode

import pytest
from fastapi.routing import APIRoute

from api.access.authentication import Authorisation
from api.access.rights import principal
from api.app import create_app
from api.http.correlation import correlation_id
from api.http.plain_route import PlainRoute
from api.queries.lists.listing import Listing
from api.queries.lists.routes import ListQuery
from domain.commands import COMMANDS
from eventstore.log import EventStore
from projections.replay.generations import VIEWS, AsOf, Generation, Generations
from tests.api.test_api import NOBODY, OPEN, is_problem, serving
from tests.callers import ADMIN, AGENT, AUDITOR, REQUESTER, access, as_
from tests.projecting import caught_up, until
from tests.spec import NOW

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
        await client.get("/tickets?limit=ten&limit=5")
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


async def test_any_command_is_answered_as_fastapi_would(desk):
    """Law L12: good or not, in whatever form it is sent."""
    client, path = desk
    chance = random.Random(7)  # noqa: S311
    bodies = [
        b'{"body": "x"}',
        b'{"body": ""}',
        b"{}",
        b'{"body": 3}',
        b'{"body": "x", "y": 1}',
        b"",
    ]
    bodies += [b"[]", b"null", b'{"body": "x", "body": "y"}', b'{"body": "\\ud800"}']
    types = ["application/json", "application/a/b+json", "text/plain", "application/x+json", ""]
    tried: list[int] = []
    for _ in range(200):
        headers = [*chance.choice([AGENT, AGENT, REQUESTER, AUDITOR]).items()]
        headers.append(("Content-Type", chance.choice([types[0], types[0], *types])))
        for name, values in (
            ("Idempotency-Key", ["", "k" * 201, "again"]),
            ("If-Match", ['"1"', "*", "", '"x"', 'W/"2"']),
            ("Prefer", ["", "p" * 201, "return=minimal", "wait=x"]),
        ):
            some = chance.choices(values, k=chance.choice([0, 0, 0, 1, 1, 2]))
            headers += [(name, value) for value in some]
        verb = chance.choice(["add_note"] * 5 + ["rate", "resolve", "unassign", "close", "nothing"])
        body = chance.choice(bodies[:1] * 9 + bodies)
        if verb == "add_note" and body == bodies[0]:  # sent again, it is to be told the same
            headers = [(name, value) for name, value in headers if name != "Idempotency-Key"]
            headers.append(("Idempotency-Key", f"{len(tried)}"))
        asked = chance.choice([path, path, path.upper().replace("/TICKETS/", "/tickets/")])
        if verb == "unassign":
            asked = f"/tickets/{NOBODY}"
        tried.append(
            await assert_alike(client, "POST", f"{asked}/{verb}", content=body, headers=headers)
        )
    assert {200, 204, 400, 403, 404, 412, 415, 422} <= {*tried}


def test_what_fastapi_would_solve_beside_parameters_is_who_may(database):
    """Whatever else depends on something would be passed over."""
    app = create_app(database, EventStore(database), access=access(database))
    plain = [route for route in app.routes if isinstance(route, PlainRoute)]
    assert len(plain) == len(COMMANDS) + 2
    for route in plain:
        assert [type(each.dependency) for each in route.dependencies] == [Authorisation]
        solved = {each.call for each in route.dependant.dependencies} - {None}
        assert {principal, correlation_id} >= {
            s for s in solved if not isinstance(s, Authorisation)
        }


async def test_who_asks_for_a_page_at_once_gets_their_own(desk, monkeypatch):
    """Pages are shared by those alone who ask for the very same."""
    client, _ = desk
    carla, nora = as_("requester", "carla"), as_("agent", "nora")
    await client.put("/desk", json={"groups": {"print": ["alice"], "net": ["nora"]}}, headers=ADMIN)
    opened = {}
    for who, group in (("carla", "net"), ("bob", "net"), ("carla", "print"), ("bob", None)):
        opening = {**OPEN, "requester": who, "subject": f"{who}'s", "group": group}
        opened[who, group] = (await client.post("/tickets", json=opening)).json()["ticket_id"]
    after = "&".join(f"after={ticket}@1" for ticket in opened.values())
    await client.get(f"/tickets?{after}", headers={"Prefer": "wait=10"})
    first = (await client.get("/tickets?limit=2", headers=AGENT)).json()
    asked = [
        (query, who)
        for query in (
            "",
            "?limit=1",
            "?sort=opened_at",
            "?limit=1&sort=opened_at",
            "?requester=bob",
            "?status=new",
            "?count=true",
            f"?limit=2&cursor={first['next']}",
        )
        for who in (AGENT, nora, REQUESTER, carla, AUDITOR)
    ]
    alone = [told(await client.get(f"/tickets{query}", headers=who)) for query, who in asked]
    assert len({content for _, _, content in alone}) > 15

    real, may_go_on = Listing.page, asyncio.Event()

    async def held(*about):
        await may_go_on.wait()
        return await real(*about)

    monkeypatch.setattr(Listing, "page", held)
    tasks = []
    for _ in range(3):
        tasks += [
            asyncio.create_task(client.get(f"/tickets{query}", headers=who)) for query, who in asked
        ]
        await asyncio.sleep(0.05)  # the first ones are asked, the others join or wait
    may_go_on.set()
    together = await asyncio.gather(*tasks)
    for n, answer in enumerate(together):
        assert told(answer) == alone[n % len(asked)], asked[n % len(asked)]


async def test_a_page_of_views_as_of_a_time_is_of_those_that_are_kept_now(
    desk, database, monkeypatch
):
    """They may be built anew under the same name while the former ones are still asked."""
    client, path = desk
    built = iter(Generation(dict.fromkeys(VIEWS, number)) for number in (71, 72, 72))
    shown = await database.collection("ticket_reads").find_one({})
    await (
        Generation(dict.fromkeys(VIEWS, 72))
        .of(database)
        .collection("ticket_reads")
        .insert_one(shown)
    )

    asked = 0

    async def as_of(_, name):
        nonlocal asked
        asked += 1
        return AsOf(name, NOW, "occurred", NOW, next(built))

    real, may_go_on = Listing.page, asyncio.Event()

    async def held(*about):
        await may_go_on.wait()
        return await real(*about)

    monkeypatch.setattr(Generations, "as_of", as_of)
    monkeypatch.setattr(Listing, "page", held)
    tasks = []
    for _ in range(3):
        tasks.append(asyncio.create_task(client.get("/tickets?as_of_view=early")))
        await until(lambda: asyncio.sleep(0, asked == len(tasks)))
    may_go_on.set()
    former, *now = await asyncio.gather(*tasks)
    assert former.json()["tickets"] == []
    for answer in now:
        assert [f"/tickets/{ticket['id']}" for ticket in answer.json()["tickets"]] == [path]
