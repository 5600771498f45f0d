"""The OpenAPI document: what FastAPI finds in the routes, and what it cannot know.

Added here for all routes alike: the schema of problem documents, how one shows who one is, what any
request may be answered and what any with a body, the headers that each request may and each answer
does have, and links from a ticket that was opened to what can be done with it.
"""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, cast

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from api.access.rights import OPEN_PATHS, RIGHTS
from api.http import correlation
from api.http.problems import Fault, Problem, problem_responses
from domain.values import JsonObject

_COMPONENTS = "#/components/schemas/{model}"


class Application(FastAPI):
    """FastAPI with a document that is right to the last status code."""

    def openapi(self) -> dict[str, Any]:
        """Give the document; made once."""
        if self.openapi_schema is None:
            self.openapi_schema = _completed(super().openapi())
        return self.openapi_schema


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    _, problems = models_json_schema(
        [(Problem, "serialization"), (Fault, "serialization")], ref_template=_COMPONENTS
    )
    document["components"]["schemas"].update(problems["$defs"])
    document["components"]["securitySchemes"] = {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "A key, `casebook_<id>_<secret>`, or a token of the identity provider.",
        }
    }
    document["security"] = [{"bearer": []}]
    document["components"]["parameters"] = correlation.PARAMETERS
    of_a_ticket = []
    for method, path, operation in _operations(document):
        if _is_of_a_ticket(operation):
            of_a_ticket.append(cast("str", operation["operationId"]))
        right = RIGHTS.get(f"{method.upper()} {path}")
        if right is not None:
            operation["x-roles"] = sorted(right.roles)
        parameters = cast("list[JsonObject]", operation.setdefault("parameters", []))
        parameters += [{"$ref": f"#/components/parameters/{p}"} for p in correlation.PARAMETERS]
        responses = cast("dict[str, JsonObject]", operation["responses"])
        if path in OPEN_PATHS:
            operation["security"] = []
        else:
            for status, response in problem_responses(401, 403, 429, 503).items():
                responses.setdefault(str(status), response)
        if "requestBody" in operation:
            for status, response in problem_responses(400, 408, 413, 415).items():
                responses.setdefault(str(status), response)
        for response in responses.values():
            headers = cast("JsonObject", response.setdefault("headers", {}))
            headers[correlation.HEADER] = {
                "description": "The request's own, or a new one.",
                "schema": {"type": "string"},
            }
    opened = document["paths"]["/tickets"]["post"]["responses"][str(HTTPStatus.CREATED.value)]
    opened["links"] = {
        name: {"operationId": name, "parameters": {"ticket_id": "$response.body#/ticket_id"}}
        for name in of_a_ticket
    }
    return document


def _operations(document: JsonObject) -> Iterator[tuple[str, str, JsonObject]]:
    paths = cast("dict[str, dict[str, JsonObject]]", document["paths"])
    for path, methods in paths.items():
        for method, operation in methods.items():
            yield method, path, operation


def _is_of_a_ticket(operation: JsonObject) -> bool:
    parameters = cast("list[JsonObject]", operation.get("parameters", []))
    return any((p["in"], p["name"]) == ("path", "ticket_id") for p in parameters)
