"""A request is read at once, and what is wrong with it is told as FastAPI would tell it."""

import random
from inspect import signature
from typing import Annotated
from urllib.parse import quote, urlencode
from uuid import UUID

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from api.access.rights import OPEN_PATHS, RIGHTS
from api.app import create_app
from api.http.bodies import Content
from api.http.caller import read_headers
from api.http.problems import to_response
from api.http.routing import Reader, Route, Table
from api.queries.lists.routes import ListQuery
from domain.tickets.conversation import AddNote
from eventstore.log import EventStore
from tests.api.test_api import NOBODY, OPEN, is_problem, serving
from tests.callers import ADMIN, AGENT, AUDITOR, access
from tests.projecting import until

VALUES = {
    "number": ["C-1042", "c-7", "7", "", "C-"],
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
    "spam": ["true", "0", "ham"],
    "sort": ["opened_at", "-updated_at", "-priority", "opened", ""],
    "limit": ["1", "200", "0", "201", "ten", "1.0", " 5", "+5", "1_0", ""],
    "count": ["true", "yes", "-1"],
    "cursor": ["abc", ""],
    "after": [f"{NOBODY}@0", "x@1"],
    "as_of_view": ["none", "UPPER", ""],
    "view": ["urgent", "", "../x"],
    "colour": ["blue"],
    "Limit": ["1"],
}


HEADERS = {
    "Idempotency-Key": ["", "k" * 201, "again"],
    "If-Match": ['"1"', "*", ""],
    "Prefer": ["", "p" * 201, "wait=x"],
}
BODIES = [b'{"body": "x"}', b'{"body": ""}', b"{}", b'{"body": 3}', b'{"body": "x", "y": 1}']
BODIES += [b"[]", b"null", b"", b'{"body": "\\ud800"}']


async def endpoint(
    request: Request,
    ticket_id: UUID,
    body: AddNote,
    asked: Annotated[ListQuery, Query()],
    key: Annotated[
        str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200)
    ] = None,
    prefer: Annotated[str | None, Header(alias="Prefer", max_length=200)] = None,
):
    """All kinds of what an endpoint may take."""
    told = {"id": ticket_id, "body": body, "asked": asked, "key": key, "prefer": prefer}
    return Response(repr((request.method, told)))


class ReadAtOnce(APIRoute):
    """As `Route`, for anybody."""

    def get_route_handler(self):
        reader = Reader(signature(self.endpoint), self.param_convertors)

        async def answer(request):
            read_headers(request.scope)
            body = await request.body()
            content = Content(await request.json()) if body else None
            return await self.endpoint(**reader.read(request, content))

        return answer


def asking(route_class):
    async def problem(_, error):
        return to_response(error)

    app = FastAPI(exception_handlers={RequestValidationError: problem})
    routes = APIRouter(route_class=route_class)
    routes.add_api_route("/t/{ticket_id}", endpoint, methods=["POST"], response_model=None)
    app.router.routes.extend(routes.routes)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def test_every_parameter_of_lists_is_tried():
    assert VALUES.keys() >= ListQuery.model_fields.keys() - {
        f"{name}_{end}" for name in ("opened", "updated", "resolved") for end in ("from", "before")
    } - {"due_before"}


async def test_any_request_is_answered_as_fastapi_would():
    """Law L12: good or not, in whatever form it is sent."""
    chance = random.Random(7)  # noqa: S311
    seen = set()
    async with asking(ReadAtOnce) as at_once, asking(APIRoute) as by_fastapi:
        for _ in range(600):
            names = chance.choices([*VALUES], k=chance.choice([0, 0, 0, 1, 1, 2, 3]))
            if chance.random() < 0.3:  # else hardly anything with more than one of them is good
                names = names[:1] * 2
            query = urlencode([(n, chance.choice(VALUES[n])) for n in names], quote_via=quote)
            if chance.random() < 0.1:
                query += chance.choice(["&", "&&limit", "&limit", "=", "&%FF=1", ";limit=1"])
            headers = [("Content-Type", "application/json")]
            for name, values in HEADERS.items():
                some = chance.choices(values, k=chance.choice([0, 0, 0, 1, 1, 2]))
                headers += [(name, value) for value in some]
            ticket = chance.choice([NOBODY] * 9 + [NOBODY.upper(), NOBODY.replace("-", ""), "7"])
            sent = {
                "url": f"/t/{ticket}?{query}",
                "headers": headers,
                "content": chance.choice(BODIES[:1] * 9 + BODIES),
            }
            mine, other = await at_once.post(**sent), await by_fastapi.post(**sent)
            said = other.text.replace("object to extract fields from", "instance of AddNote")
            assert (mine.status_code, mine.text) == (other.status_code, said), sent
            seen.add(mine.status_code)
    assert seen == {200, 422}


@pytest.fixture
def app(database):
    return create_app(database, EventStore(database), access=access(database))


def test_what_each_route_takes_can_be_read(app):
    """A route's reader is made for its first request: a declaration that it refuses shows here."""
    for route in app.routes:
        assert route.reader.read is not None, route.path


def test_every_route_is_one_of_ours_and_has_its_right(app):
    """Any other would be solved by FastAPI, and open to all."""
    assert {type(route) for route in app.routes} == {Route}
    named = {f"{''.join(route.methods)} {route.path}" for route in app.routes}
    assert named == RIGHTS.keys() | {f"GET {path}" for path in OPEN_PATHS}


async def test_fastapi_asks_a_route_for_what_answers_it():
    """An upgrade of FastAPI that no longer calls `get_route_handler` fails here."""

    class Own(APIRoute):
        def get_route_handler(self):
            async def answer(_):
                return Response("mine", 418)

            return answer

    async with asking(Own) as client:
        answer = await client.post("/t/7?limit=ten")
        assert (answer.status_code, answer.text) == (418, "mine")


def test_the_table_finds_what_a_search_finds(app):
    """Each route by an example of its path; and nothing for what is nowhere."""
    table = Table(app.routes)
    for route in app.routes:
        path = route.path.replace("{ticket_id}", NOBODY).replace("{name:path}", "x.js")
        path = path.replace("{name}", "mine").replace("{key_id}", "0" * 24)
        path = path.replace("{webhook_id}", NOBODY).replace("{person_id}", NOBODY)
        [method] = route.methods
        scope = {"type": "http", "method": method, "path": path}
        assert table.find(scope) is route, path
        assert scope["route"] is route
        assert scope["path_params"].keys() == route.param_convertors.keys()
        assert table.find({**scope, "method": "BREW"}) is None
        assert table.find({**scope, "path": f"{path}/"}) is None or path == "/"
    for path in ("", "tickets", "/nothing", "/tickets/", "//", f"/tickets/{NOBODY}/x/assign"):
        assert table.find({"type": "http", "method": "GET", "path": path}) is None, path


async def test_who_may_not_is_told_so_before_the_request_is_read(database):
    """And it is on record."""
    async with serving(database) as client:
        path = (await client.post("/tickets", json=OPEN)).headers["location"]
        is_problem(await client.get(f"{path}?colour=blue", headers=ADMIN), 403, "forbidden")
        is_problem(await client.get("/tickets?limit=ten", headers=ADMIN), 403, "forbidden")
        for body in ({"body": "x"}, {"body": 3}):
            answer = await client.post(f"{path}/add_note", json=body, headers=AUDITOR)
            is_problem(answer, 403, "forbidden")

        async def denied():
            page = await client.get("/access_log?outcome=denied", headers=ADMIN)
            records = page.json()["records"]
            return records if len(records) == 4 else None

        assert [record["route"] for record in await until(denied)] == [
            "/tickets/{ticket_id}/add_note",
            "/tickets/{ticket_id}/add_note",
            "/tickets",
            "/tickets/{ticket_id}",
        ]


async def test_what_is_wrong_is_told_by_place(database):
    """Parameters of a path, of the query, headers and the body, all at once."""
    async with serving(database) as client:
        note = "/tickets/7/add_note"
        answer = await client.post(note, json={}, headers={**AGENT, "Prefer": "x" * 201})
        errors = is_problem(answer, 422, "invalid_request")["errors"]
        assert [e["pointer"] for e in errors] == ["path ticket_id", "header Prefer", "/body"]
