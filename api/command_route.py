"""The route of a command: a request that is plainly good is read here, at once.

FastAPI reads a body into dictionaries, validates them, and solves what an endpoint depends on: more
than a third of what a command cost. Here the body's bytes go to pydantic as they are, and the few
headers are looked for once. Whatever is not plainly good, or is asked for in an unusual form, is
left to FastAPI as if this were not here: it says what is wrong, and it makes the API's document. So
nothing is taken here that would be refused there, and no error is worded twice.
"""

import re
from collections.abc import Awaitable, Callable
from functools import cached_property
from uuid import UUID

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from api.access import principal

Authorise = Callable[[Request], Awaitable[None]]

_MOST_CHARACTERS = 200  # of a header; as the routes declare it
_HEADERS = {
    b"idempotency-key": "idempotency_key",
    b"if-match": "if_match",
    b"prefer": "prefer",
}
_UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def command_route(
    model: type[BaseModel], taken: frozenset[str], authorise: Authorise
) -> type[APIRoute]:
    """Make the class of the route whose body is `model`, and whose endpoint takes such values.

    `authorise` raises Forbidden for who may not; FastAPI does the same as a dependency.
    """

    class CommandRoute(APIRoute):
        """The route of one command."""

        def matches(self, scope: Scope) -> tuple[Match, Scope]:
            # Each is asked in turn, and a pattern costs more than a comparison.
            if not scope["path"].endswith(self._end):
                return Match.NONE, {}
            return super().matches(scope)

        @cached_property
        def _end(self) -> str:
            return self.path.rpartition("/")[2]

        async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
            response = await self._at_once(scope) if scope["method"] == "POST" else None
            if response is None:
                await super().handle(scope, receive, send)
            else:
                await response(scope, receive, send)

        async def _at_once(self, scope: Scope) -> Response | None:
            """Answer what is plainly good; None for what is not."""
            request = Request(scope)
            values = _values(request, taken)
            if values is None:
                return None
            try:
                values["command"] = model.model_validate_json(request.state.body)
            except ValidationError:
                return None
            await authorise(request)
            values["who"] = await principal(request)
            values["correlation_id"] = request.state.correlation_id
            response: Response = await self.endpoint(**values)
            return response

    return CommandRoute


def _values(request: Request, taken: frozenset[str]) -> dict[str, object] | None:
    """Read what is not the body; None if any of it is not plainly good."""
    values: dict[str, object] = {}
    if "ticket_id" in taken:
        ticket_id = request.path_params["ticket_id"]
        if not _UUID.fullmatch(ticket_id):
            return None
        values["ticket_id"] = UUID(ticket_id)
    for name, value in request.scope["headers"]:
        field = _HEADERS.get(name)
        if field is not None and field in taken:
            if field in values or not 0 < len(value) <= _MOST_CHARACTERS:
                return None
            values[field] = value.decode("latin-1")
    return values
