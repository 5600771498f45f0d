"""The OpenAPI document: what FastAPI finds in the routes, and what it cannot know.

Added here for all routes alike: the schema of problem documents, how one shows who one is, what any
request may be answered and what any with a body, the headers that each request may and each answer
does have, and links from a ticket that was opened to what can be done with it.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from api.access.rights import OPEN_PATHS, RIGHTS
from api.http import correlation
from api.http.problems import Fault, Problem, problems
from api.http.routing import Route


class Application(FastAPI):
    """FastAPI with a document that is right to the last status code."""

    _document: ClassVar[dict[str, Any] | None] = None

    def openapi(self) -> dict[str, Any]:
        """Return the document; made once in a process, all of whose applications are the same."""
        document = Application._document
        if document is None:
            for route in self.routes:
                if isinstance(route, Route):
                    route.declare()
            Application._document = document = super().openapi()
            _complete(document)
        return document


def _complete(document: dict[str, Any]) -> None:
    components = document["components"]
    _, schemas = models_json_schema(
        [(Problem, "serialization"), (Fault, "serialization")],
        ref_template="#/components/schemas/{model}",
    )
    for fastapis_own in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(fastapis_own, None)
    components["schemas"] |= schemas["$defs"]
    for schema in components["schemas"].values():
        _unwrap(schema.get("properties", {}).values())
    components["parameters"] = correlation.PARAMETERS
    components["securitySchemes"] = {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "A key, `casebook_<id>_<secret>`, or a token of the identity provider.",
        }
    }
    document["security"] = [{"bearer": []}]
    of_a_ticket = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parameters = operation.setdefault("parameters", [])
            _unwrap(parameters)
            _unwrap(parameter["schema"] for parameter in parameters)
            if any((p["in"], p["name"]) == ("path", "ticket_id") for p in parameters):
                of_a_ticket.append(operation["operationId"])
            parameters += [{"$ref": f"#/components/parameters/{p}"} for p in correlation.PARAMETERS]
            if path in OPEN_PATHS:
                operation["security"] = []
            else:
                operation["x-roles"] = sorted(RIGHTS[f"{method.upper()} {path}"].roles)
            _complete_responses(operation, is_open=path in OPEN_PATHS)
    document["paths"]["/tickets"]["post"]["responses"]["201"]["links"] = {
        name: {"operationId": name, "parameters": {"ticket_id": "$response.body#/ticket_id"}}
        for name in of_a_ticket
    }


def _unwrap(fields: Iterable[dict[str, Any]]) -> None:
    """Put the description of each field on one line: as a docstring it is wrapped."""
    for field in fields:
        if "description" in field:
            field["description"] = " ".join(field["description"].split())


def _complete_responses(operation: dict[str, Any], *, is_open: bool) -> None:
    """Add to the responses of an operation those that many have, as problem documents."""
    responses = operation["responses"]
    statuses = [] if is_open else [401, 403, 429, 503]
    if "requestBody" in operation:
        statuses += [400, 408, 413, 415]
    if responses.pop("422", None):  # as FastAPI describes it
        statuses += [422]
    for status, response in problems(*statuses).items():
        responses.setdefault(str(status), response)
    operation["responses"] = dict(sorted(responses.items()))
    for response in responses.values():
        response.setdefault("headers", {})[correlation.HEADER] = {
            "description": "The request's own, or a new one.",
            "schema": {"type": "string"},
        }
