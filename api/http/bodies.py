"""Request bodies: read whole, within bounds of size, time and memory.

A body is read once its caller is known to have the right to send it; of a route that takes none it
is not read at all. It may be as large as what its route takes: a text may be written with twelve
bytes a character, as JSON lets one escape any, and some in two halves.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import NamedTuple

from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from api.access.quotas import Quotas
from api.http.caller import header, principal
from api.http.json_reader import read_json
from api.http.problems import ServerBusy
from domain.desk import Desk
from domain.tickets.opening import OpenTicket
from domain.values import VALUE_CHARACTERS

BODY_SECONDS = 30.0
_MOST_HELD_BYTES = 128 * 2**20  # of all requests at once
_PRINCIPALS_BYTES = 16 * 2**20  # of all requests of one principal
_BYTES_A_CHARACTER = 12
_SMALL_BYTES = 44 * 2**10
"""Whatever has no long text: names, tags, a hundred tickets."""
_DESK_BYTES = 4 * 2**20
_FIELDS_BYTES = 400 * 2**10
"""What custom fields may add to a ticket that is opened; more can be set afterwards."""


class Content(NamedTuple):
    """What a body says, as JSON's values."""

    value: object


class Bodies:
    """Reads the bodies of an application's requests."""

    def __init__(self) -> None:
        what = "bodies that are being read or answered"
        self._held = Quotas(what, _MOST_HELD_BYTES, _PRINCIPALS_BYTES, ServerBusy)

    @asynccontextmanager
    async def read(self, request: Request, most_bytes: int) -> AsyncIterator[Content | None]:
        """Return what the body says, None if there is none; its bytes count until the answer.

        Raises HTTPException, QuotaExceeded, ServerBusy; ClientDisconnect if the client goes away.
        """
        whose = principal(request).share
        parts: list[bytes] = []
        try:
            await self._receive(request, most_bytes, whose, parts)
            body = b"".join(parts)
            if body:
                _check_type(header(request.scope, b"content-type") or "")
            yield Content(read_json(body)) if body else None
        finally:
            self._held.give_back(whose, sum(map(len, parts)))

    async def _receive(
        self, request: Request, most_bytes: int, whose: str, parts: list[bytes]
    ) -> None:
        length = header(request.scope, b"content-length") or ""
        if length.isdecimal() and int(length[:20]) > most_bytes:
            raise _too_large(most_bytes)
        received, is_more = 0, True
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while is_more:  # as `request.stream()`, and without a last part that is empty
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    part, is_more = message.get("body", b""), message.get("more_body", False)
                    received += len(part)
                    if received > most_bytes:
                        raise _too_large(most_bytes)
                    self._held.take(whose, len(part))
                    parts.append(part)
        except TimeoutError:
            detail = f"the body was not there within {BODY_SECONDS:.0f} seconds"
            raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, detail) from None


def _too_large(most_bytes: int) -> HTTPException:
    detail = f"the body of such a request has at most {most_bytes} bytes"
    return HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)


def _check_type(given: str) -> None:
    media_type = given.partition(";")[0].strip().lower()
    if not re.fullmatch("application/(json|[^/]+[+]json)", media_type):
        found = f"not {media_type}" if media_type else "and the request names no type"
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"a body must be application/json, {found}: send Content-Type: application/json",
        )


def most_bytes(model: type[BaseModel]) -> int:
    """Return how many bytes a body may have that is to be such a model."""
    if model is Desk:
        return _DESK_BYTES
    schema = model.model_json_schema()
    parts = (schema, *schema.get("$defs", {}).values())
    fields = [field for part in parts for field in part.get("properties", {}).values()]
    characters = sum(max(map(_characters, (f, *f.get("anyOf", ())))) for f in fields)
    of_fields = _FIELDS_BYTES if model is OpenTicket else 0
    return _SMALL_BYTES + of_fields + _BYTES_A_CHARACTER * characters


def _characters(form: Mapping[str, object]) -> int:
    """Return how long a text may be, by its schema; 0 of what is short by its form."""
    if form.get("type") != "string" or not form.keys().isdisjoint(("enum", "pattern", "format")):
        return 0
    longest = form.get("maxLength", VALUE_CHARACTERS)
    return longest if isinstance(longest, int) else 0
