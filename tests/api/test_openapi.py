"""The OpenAPI document: whole and exact, and good enough to make a client from."""

import hashlib
import importlib
import json
import os
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from api.access.rights import RIGHTS
from api.queries.representations import TicketDetail, TicketSummary
from domain.tickets import COMMANDS
from scripts.openapi import document
from tests.api.test_api import OPEN, client, serving
from tests.callers import AGENT
from tests.processes import environment, script

__all__ = ["client"]
ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "openapi.txt"


@pytest.fixture(scope="module")
def openapi():
    return json.loads(document())


def operations(openapi):
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def references(node):
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def digests(openapi):
    """A line for each operation and component, with a digest of it."""
    parts = dict(operations(openapi))
    for kind, components in openapi["components"].items():
        parts |= {f"{kind} {name}": component for name, component in components.items()}
    for name, part in parts.items():
        content = json.dumps(part, sort_keys=True).encode()
        yield f"{name} {hashlib.sha256(content).hexdigest()[:16]}"


def test_the_document_is_the_one_that_was_agreed(openapi):
    """Held to the letter: whoever changes it says so by `python -m tests.api.test_openapi`."""
    assert sorted(digests(openapi)) == GOLDEN.read_text().splitlines()


def test_every_reference_leads_somewhere(openapi):
    components = openapi["components"]
    known = {f"#/components/{kind}/{name}" for kind in components for name in components[kind]}
    assert set(references(openapi)) <= known


def test_every_answer_has_a_shape(openapi):
    for name, operation in operations(openapi):
        assert operation.get("description"), name
        for status, response in operation["responses"].items():
            assert response["description"], (name, status)
            assert "Correlation-Id" in response["headers"], (name, status)
            if status in ("204", "304"):
                assert "content" not in response
                continue
            for media_type, content in response["content"].items():
                told = content.get("schema") or content.get("itemSchema")
                assert told, (name, status, media_type)
                is_problem = int(status) >= 400 and name != "GET /readyz"
                assert is_problem == (media_type == "application/problem+json"), (name, status)


def test_any_request_can_be_tied_to_others(openapi):
    wanted = {f"#/components/parameters/{name}" for name in ("Correlation-Id", "traceparent")}
    for name, operation in operations(openapi):
        assert wanted <= set(references(operation["parameters"])), name


def test_each_operation_says_whose_it_is(openapi):
    told = {name: set(o.get("x-roles", [])) for name, o in operations(openapi)}
    assert told == {name: set(RIGHTS[name].roles) if name in RIGHTS else set() for name in told}


def test_operations_are_named_for_what_they_do(openapi):
    names = [operation["operationId"] for _, operation in operations(openapi)]
    assert len(names) == len(set(names))
    assert {"open_ticket", "assign_ticket", "update_status", "list_tickets"} <= set(names)


def test_what_can_be_done_with_a_ticket_is_linked_from_its_opening(openapi):
    links = openapi["paths"]["/tickets"]["post"]["responses"]["201"]["links"]
    assert len(links) >= len(COMMANDS)
    assert links["show_ticket"]["parameters"] == {"ticket_id": "$response.body#/ticket_id"}


def test_commands_have_examples(openapi):
    schemas = openapi["components"]["schemas"]
    assert schemas["AssignTicket"]["properties"]["assignee"]["examples"] == ["alice"]
    assert schemas["AddNote"]["properties"]["body"]["examples"]


async def test_a_ticket_is_shown_with_the_documented_fields_and_no_others(client):
    answer = await client.post("/tickets", json=OPEN, headers={**AGENT, "Prefer": "wait=10"})
    shown = (await client.get(answer.headers["location"])).json()
    assert shown.keys() == TicketDetail.model_fields.keys()
    [listed] = (await client.get("/tickets")).json()["tickets"]
    assert listed.keys() == TicketSummary.model_fields.keys()


# --- a client made from it ------------------------------------------------------------------------


@pytest.fixture
async def made(tmp_path, monkeypatch):
    """A typed client, generated from the document: the package's name."""
    described = tmp_path / "openapi.json"
    described.write_bytes(document())
    words = ["generate", "--path", str(described), "--meta", "none", "--fail-on-warning"]
    words += ["--output-path", str(tmp_path / "casebook_client")]
    words += ["--config", str(ROOT / "scripts" / "client.yml")]
    env = environment(tmp_path)
    env["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), env["PATH"]))
    made = await script("openapi_python_client", *words, env=env)
    out, err = await made.communicate()
    assert made.returncode == 0, out + err
    monkeypatch.syspath_prepend(tmp_path)
    yield "casebook_client"
    for name in [n for n in sys.modules if n.partition(".")[0] == "casebook_client"]:
        del sys.modules[name]


async def test_a_client_is_made_from_the_document_and_used(database, made):
    """It opens, assigns, is refused, and lists: all of it typed."""

    def operation(tag, name):
        return importlib.import_module(f"{made}.api.{tag}.{name}").asyncio

    models = importlib.import_module(f"{made}.models")
    async with serving(database) as served:
        caller = importlib.import_module(made).Client(base_url="http://casebook")
        caller.set_async_httpx_client(served)
        opening = models.OpenTicket(subject="Printer jam", requester="bob", tags=["paper"])
        accepted = await operation("commands", "open_ticket")(client=caller, body=opening)
        assert isinstance(accepted, models.Accepted)
        assigned = await operation("commands", "assign_ticket")(
            accepted.ticket_id,
            client=caller,
            body=models.AssignTicket(assignee="alice"),
            prefer="return=representation, wait=10",
        )
        assert (assigned.version, assigned.ticket.assignee) == (2, "alice")
        refused = await operation("commands", "resolve_ticket")(
            uuid4(), client=caller, body=models.ResolveTicket(resolution="x")
        )
        assert isinstance(refused, models.Problem)
        assert refused.code == "ticket_not_found"
        shown = await operation("queries", "show_ticket")(accepted.ticket_id, client=caller)
        assert (shown.subject, shown.tags) == ("Printer jam", ["paper"])
        assert shown.opened_at.tzinfo is not None


if __name__ == "__main__":
    GOLDEN.write_text("\n".join(sorted(digests(json.loads(document())))) + "\n")
