"""What a request may hold, and what its answer weighs: never more than is worth it."""

import json
import re
from inspect import signature
from typing import Annotated

import pytest
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator

from api.bulk import routes as bulk
from api.http.bodies import Content, most_bytes
from api.http.json_reader import read_json
from api.http.routing import Reader
from domain.desk import DESK_AGENTS, DESK_FIELDS, DESK_GROUPS
from domain.tickets import COMMANDS
from domain.tickets.ticket import TICKET_FIELDS, TICKET_TAGS
from tests.api.test_api import NOBODY, OPEN, client, is_problem, refusing
from tests.api.test_bad_input import CLOSE, POST, said
from tests.api.test_feed import listening
from tests.callers import ADMIN, SOMEBODY, SUPERVISOR

__all__ = ["client", "refusing"]
MANY = 200_000
JSON = {"Content-Type": "application/json"}
LARGEST_ANSWER = 8_000  # bytes


def told_within_bounds(answer, status=422, code="invalid_request"):
    problem = is_problem(answer, status, code)
    assert len(answer.content) < LARGEST_ANSWER
    assert len(problem.get("errors", [])) <= 20
    return problem


def many(item, n=MANY):
    return [item] * n


ATTACKS = {
    "bad tags": ("POST", "/tickets", {**OPEN, "tags": many("A")}),
    "numbers for tags": ("POST", "/tickets", {**OPEN, "tags": many(1)}),
    "bad tags to add": ("POST", f"/tickets/{NOBODY}/add_tags", {"tags": many("A", 5_000)}),
    "fields": ("POST", "/tickets", {**OPEN, "fields": {f"f{n}": [] for n in range(1_900)}}),
    "bad names of fields": (
        "POST",
        "/tickets",
        {**OPEN, "fields": {f"F{n}": 1 for n in range(1_900)}},
    ),
    "names that nobody knows": ("POST", "/tickets", {**OPEN, **{f"x{n}": 1 for n in range(1_900)}}),
    "a long name": ("POST", "/tickets", {**OPEN, "x" * 900_000: 1}),
    "a long name of controls": ("POST", "/tickets", {**OPEN, "\u0001" * 100_000: 1}),
    "bulk's tickets": (
        "POST",
        "/bulk/add_note",
        {"tickets": many("x", 100_000), "command": {"body": "x"}},
    ),
    "bulk's tags": (
        "POST",
        "/bulk/add_tags",
        {"tickets": [NOBODY], "command": {"tags": many("A", 5_000)}},
    ),
    "scopes": ("POST", "/keys", {"principal": "x", "role": "agent", "scopes": many("x", 6_000)}),
    "types": ("POST", "/webhooks", {"url": "https://example.org", "types": many("x", 6_000)}),
    "a filter": ("PUT", "/views/mine", {f"x{n}": 1 for n in range(1_900)}),
    "a desk's groups": ("PUT", "/desk", {"groups": {f"g{n}": [""] for n in range(1_900)}}),
    "a desk's members": ("PUT", "/desk", {"groups": {"g": many("", 1_000_000)}}),
    "many groups' members": (
        "PUT",
        "/desk",
        {"groups": {f"g{n}": many("", 1_000) for n in range(DESK_GROUPS)}},
    ),
    "a desk's choices": (
        "PUT",
        "/desk",
        {"fields": {"f": {"type": "choice", "choices": many("", 500_000)}}},
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_an_answer_is_short_however_much_is_wrong(refusing, attack):
    """L12"""
    method, path, content = ATTACKS[attack]
    who = ADMIN if path in ("/desk", "/keys") else SUPERVISOR
    body = json.dumps(content, ensure_ascii=False).encode()
    told_within_bounds(await refusing.request(method, path, content=body, headers={**who, **JSON}))


@pytest.mark.parametrize(
    "query",
    [
        "&".join(f"x{n}=1" for n in range(150)),
        "&".join(f"x{n}=1" for n in range(5_000)),
        "&".join(["status=bad"] * 150),
        "&".join(["tag=A"] * 10_000),
        "&".join(["after=x"] * 150),
        "x" * 50_000 + "=1",
    ],
    ids=lambda query: f"{query[:8]}, {query.count('&') + 1}",
)
async def test_an_answer_is_short_however_much_is_asked(refusing, query):
    """L12"""
    told_within_bounds(await refusing.get(f"/tickets?{query}"))
    told_within_bounds(await refusing.get(f"/dashboard?{query}"))
    told_within_bounds(await refusing.get(f"/events?{query}"))


async def test_twenty_faults_are_told_and_how_many_more_there_are(client):
    problem = told_within_bounds(
        await client.post("/tickets", json={**OPEN, "tags": ["A!"] * TICKET_TAGS})
    )
    assert [fault["pointer"] for fault in problem["errors"]] == [f"/tags/{n}" for n in range(20)]
    assert problem["more_errors"] == TICKET_TAGS - 20
    one = await client.post("/tickets", json={**OPEN, "priority": "huge"})
    assert "more_errors" not in told_within_bounds(one)


async def test_faults_are_told_in_plain_words(client):
    bad = {"subject": "", "requester": 3, "priority": "huge", "fields": {"A": 1}, "zzz": 1}
    problem = told_within_bounds(await client.post("/tickets", json=bad))
    assert {fault["pointer"]: fault["detail"] for fault in problem["errors"]} == {
        "/subject": "must not be empty",
        "/requester": "must be a text",
        "/priority": "must be 'low', 'normal', 'high' or 'urgent'",
        "/fields/A": "must be a lower-case letter, then up to 63 lower-case letters, digits and _",
        "/zzz": "is not known here",
    }


async def test_a_list_is_bounded_before_its_items_are_looked_at(client):
    """One thing is wrong with it, not one with each."""
    for tags in (many("A"), many("a")):
        problem = told_within_bounds(await client.post("/tickets", json={**OPEN, "tags": tags}))
        [fault] = problem["errors"]
        assert fault["pointer"] == "/tags"
        assert f"at most {TICKET_TAGS}" in fault["detail"]


async def test_the_largest_desk_there_can_be_is_taken(client):
    """The bounds before the items are no tighter than those of the items."""
    groups: dict[str, list[str]] = {f"g{n}": [] for n in range(DESK_GROUPS)}
    for n in range(DESK_AGENTS):
        groups[f"g{n % DESK_GROUPS}"].append(f"agent {n}")
    fields = {f"f{n}": {"type": "text", "required_on": None} for n in range(DESK_FIELDS)}
    promised = {"first_response_minutes": 10, "resolution_minutes": 100}
    sla = dict.fromkeys(("low", "normal", "high", "urgent"), promised)
    desk = {"groups": groups, "fields": fields, "sla": sla, "close_resolved_after_days": 3}
    answer = await client.put("/desk", json=desk, headers=ADMIN)
    assert answer.status_code == 200, answer.text


def test_what_is_wrong_is_looked_at_once():
    """To say what is wrong with much costs more than to send it."""
    looked: list[object] = []

    class Asked(BaseModel):
        tags: list[Annotated[str, BeforeValidator(looked.append)]]

    async def endpoint(asked: Asked) -> Response:
        raise AssertionError(asked)

    request = Request({"type": "http", "headers": [], "query_string": b"", "path_params": {}})
    with pytest.raises(RequestValidationError):
        Reader(signature(endpoint), ()).read(request, Content({"tags": [1, 2, 3]}))
    assert looked == [1, 2, 3]


# --- how large a body may be ----------------------------------------------------------------------


def largest(form):
    """The largest thing that a schema takes, of characters that are longest when escaped."""
    for each in form.get("anyOf", ()):
        if each.get("type") != "null":
            return largest(each)
    if "enum" in form:
        return max(form["enum"], key=len)
    if form.get("type") == "string":
        if "pattern" in form or "format" in form:
            return "a" * 64
        return "\U0001f600" * form.get("maxLength", 5_000)
    if form.get("type") == "array":
        return [largest(form["items"])] * form["maxItems"]
    return 1


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_body_may_hold_the_largest_content_of_its_command(verb):
    """However its client escapes what it sends."""
    schema = COMMANDS[verb].model_json_schema()
    content = {
        name: largest(form) for name, form in schema["properties"].items() if name != "fields"
    }
    if verb == "open":
        content["fields"] = {f"f{n}": "x" * 4_000 for n in range(TICKET_FIELDS)}
    wholes: list[tuple[type[BaseModel], object]] = [(COMMANDS[verb], content)]
    if verb != "open":
        many = {"tickets": [NOBODY] * 100, "command": content}
        wholes.append((bulk._body(COMMANDS[verb]), many))
    for model, whole in wholes:
        body = json.dumps(whole, indent=1).encode()
        assert len(body) <= most_bytes(model), model
        assert read_json(body) == json.loads(body)
        assert most_bytes(model) <= 1.1 * 2**20


async def test_each_route_takes_what_its_content_needs_and_no_more(database, store):
    """What is too large is refused by its length, before any of it is sent."""
    async with listening(database, store) as (client, *_):
        for path, most in {
            b"/desk": 4 * 2**20,
            b"/tickets": 1_100_000,
            b"/tickets/x/reply": 650_000,
            b"/tickets/x/assign": 50_000,
            b"/bulk/assign": 50_000,
            b"/keys": 50_000,
        }.items():
            who = (ADMIN if path in (b"/desk", b"/keys") else SUPERVISOR)["Authorization"].encode()
            head = POST.replace(b"/tickets", path).replace(SOMEBODY["Authorization"].encode(), who)
            head = head.replace(b"POST", b"PUT" if path == b"/desk" else b"POST") + CLOSE
            large = await said(client.base_url, head + b"Content-Length: 99999999\r\n\r\n")
            assert large.startswith(b"HTTP/1.1 413"), path
            assert b"connection: close" in large.lower()
            [taken] = re.findall(rb"at most (\d+) bytes", large)
            assert int(taken) <= most
            more = head + b"Content-Length: %d\r\n\r\n" % (int(taken) + 1)
            assert (await said(client.base_url, more)).startswith(b"HTTP/1.1 413")
        nowhere = POST.replace(b"/tickets", b"/nothing") + b"Content-Length: 99999999\r\n\r\n"
        unread = await said(client.base_url, nowhere)
        assert unread.startswith(b"HTTP/1.1 404")
        assert b"connection: close" in unread.lower()


async def test_what_is_well_written_and_large_does_not_hold_others_up():
    """JSON of many small things is refused before it is made: what is made of it weighs more."""
    for body in (
        b'{"a": [' + b"{}," * 100_000 + b"0]}",
        b'{"a": [' + b"[]," * 100_000 + b"0]}",
        b'{"a": ["[", ' + b'"]",[],' * 100_000 + b"0]}",
    ):
        with pytest.raises(Exception, match="more than 2000"):
            read_json(body)
    for text in ("[" * 5_000, "{" * 5_000, '\\"[' * 5_000):  # in a text they are text
        assert read_json(json.dumps({"body": text}).encode()) == {"body": text}
