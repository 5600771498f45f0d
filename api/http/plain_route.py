"""Routes of which a request that is plainly good is read here, at once.

FastAPI reads a body into dictionaries, validates them, and solves what an endpoint depends on: more
than a quarter of what a command cost, and a third of a list. Here a body goes to pydantic as it was
read (`bodies.py`), and the few headers are looked for once. Whatever is asked for in an unusual
form is left to FastAPI as if this were not here, and it makes the API's document. So nothing is
taken here that would be refused there. What does not fit the model is refused here, in FastAPI's
words: to validate it a second time would cost as much again.
"""

import re
from functools import cached_property
from typing import get_origin
from uuid import UUID

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from api.access.rights import principal

_MOST_CHARACTERS = 200  # of a header; as the routes declare it
_HEADERS = {
    b"idempotency-key": "idempotency_key",
    b"if-match": "if_match",
    b"prefer": "prefer",
}
_UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class PlainRoute(APIRoute):
    """A route that looks at a request before FastAPI does."""

    method: str

    def read(self, request: Request) -> dict[str, object] | RequestValidationError | None:
        """Return what the endpoint takes, but for who asks; None unless it is in the usual form.

        Or what is wrong: it is raised once it is known that who asks may.
        """
        raise NotImplementedError

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer at once, or have FastAPI answer.

        Raises what the route's dependencies raise, RequestValidationError.
        """
        request = Request(scope)
        values = self.read(request) if scope["method"] == self.method else None
        if values is None:
            await super().handle(scope, receive, send)
            return
        for each in self.dependencies:  # of all routes: who may
            if each.dependency is not None:
                await each.dependency(request)
        if isinstance(values, RequestValidationError):
            raise values
        response: Response = await self.endpoint(**values, who=await principal(request))
        await response(scope, receive, send)


def command_route(model: type[BaseModel], taken: frozenset[str]) -> type[APIRoute]:
    """Make the class of the route whose body is `model`, and whose endpoint takes such values."""

    class CommandRoute(PlainRoute):
        """The route of one command."""

        method = "POST"

        def matches(self, scope: Scope) -> tuple[Match, Scope]:
            # Each is asked in turn, and a pattern costs more than a comparison.
            if not scope["path"].endswith(self._end):
                return Match.NONE, {}
            return super().matches(scope)

        @cached_property
        def _end(self) -> str:
            return self.path.rpartition("/")[2]

        def read(self, request: Request) -> dict[str, object] | RequestValidationError | None:
            values = _values(request, taken)
            if values is None or not request.state.body:
                return None
            try:
                values["command"] = model.model_validate(request.state.json)
            except ValidationError as error:
                return _invalid("body", error)
            values["correlation_id"] = request.state.correlation_id
            return values

    return CommandRoute


def ticket_route(unasked: BaseModel) -> type[APIRoute]:
    """Make the class of a route that shows a ticket; `unasked`: its parameters if none is given."""

    class TicketRoute(PlainRoute):
        """The route of a ticket."""

        method = "GET"

        def read(self, request: Request) -> dict[str, object] | None:
            ticket_id = None if request.scope["query_string"] else _ticket_id(request)
            return None if ticket_id is None else {"ticket_id": ticket_id, "asked": unasked}

    return TicketRoute


def list_route(parameters: type[BaseModel]) -> type[APIRoute]:
    """Make the class of a route with such parameters, which takes the header `Prefer`."""
    repeated = {n for n, f in parameters.model_fields.items() if get_origin(f.annotation) is list}

    class ListRoute(PlainRoute):
        """The route of a list."""

        method = "GET"

        def read(self, request: Request) -> dict[str, object] | RequestValidationError | None:
            values = _values(request, frozenset({"prefer"}))
            if values is None:
                return None
            single: dict[str, str] = {}
            many: dict[str, list[str]] = {}
            for name, value in request.query_params.multi_items():
                if not value or name not in parameters.model_fields or name in single:
                    return None
                if name in repeated:
                    many.setdefault(name, []).append(value)
                else:
                    single[name] = value
            try:
                values["asked"] = parameters.model_validate({**single, **many})
            except ValidationError as error:
                return _invalid("query", error)
            return {**values, "request": request}

    return ListRoute


def _invalid(place: str, error: ValidationError) -> RequestValidationError:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return RequestValidationError([{**each, "loc": (place, *each["loc"])} for each in found])


def _values(request: Request, taken: frozenset[str]) -> dict[str, object] | None:
    """Read what is not the body; None if any of it is not plainly good."""
    values: dict[str, object] = {}
    if "ticket_id" in taken:
        values["ticket_id"] = ticket_id = _ticket_id(request)
        if ticket_id is None:
            return None
    for name, value in request.scope["headers"]:
        field = _HEADERS.get(name)
        if field is not None and field in taken:
            if field in values or not 0 < len(value) <= _MOST_CHARACTERS:
                return None
            values[field] = value.decode("latin-1")
    return values


def _ticket_id(request: Request) -> UUID | None:
    written = request.path_params["ticket_id"]
    return UUID(written) if _UUID.fullmatch(written) else None
