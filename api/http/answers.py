"""Answers in JSON, written straight to bytes, and links to what comes next."""

from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Annotated

import orjson
from fastapi import Header, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from domain.values import JsonObject


def json_response(
    content: object, headers: Mapping[str, str] | None = None, status: int = HTTPStatus.OK
) -> Response:
    """Answer with JSON, as `as_json` writes it."""
    return Response(as_json(content), status, headers, "application/json")


class NdjsonResponse(StreamingResponse):
    """Sends lines of JSON as they come; `close` is called in the end, however it ends."""

    media_type = "application/x-ndjson"

    def __init__(
        self, lines: AsyncIterable[bytes] | Iterable[bytes], close: Callable[[], object]
    ) -> None:
        super().__init__(lines)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


IfNoneMatch = Annotated[
    str | None,
    Header(
        alias="If-None-Match",
        max_length=1000,
        description="The `ETag` of an answer that the client has: 304 if it would be the same.",
    ),
]

NOT_MODIFIED: Mapping[int | str, dict[str, object]] = {
    304: {"description": "The client has it, by `If-None-Match`."}
}


def if_changed(body: bytes, headers: Mapping[str, str], if_none_match: str | None) -> Response:
    """Answer with JSON, or whatever else `headers` say that it is; or 304 without it to a client
    that has it by its `ETag` there.
    """
    if if_none_match is not None and (if_none_match == "*" or headers["ETag"] in if_none_match):
        return Response(None, HTTPStatus.NOT_MODIFIED, headers)
    return Response(body, HTTPStatus.OK, headers, "application/json")


def as_json(content: object) -> bytes:
    """Write JSON; values that JSON does not have, as damaged events may hold, are shown as text."""
    return orjson.dumps(content, default=str)


def fields_of(answer: type[BaseModel], source: object, **more: object) -> JsonObject:
    """Return the fields of an answer: those given in `more`, all others as `source` has them."""
    fields = answer.model_fields
    return {name: more[name] if name in more else getattr(source, name) for name in fields}


def next_link(request: Request, **parameters: object) -> dict[str, str]:
    """Return the `Link` header to the same with other parameters (RFC 8288); none if one is null:
    then there is no more.
    """
    if None in parameters.values():
        return {}
    address = request.url.include_query_params(**parameters)
    return {"Link": f'<{address.path}?{address.query}>; rel="next"'}


_DESCRIPTIONS = {
    "Casebook-Views-Age": "How many seconds old what is shown is, or `unknown`.",
    "Casebook-Views-As-Of": "As of when the views are that were asked for by `as_of_view`.",
    "ETag": "The version, in quotes: for `If-Match`.",
    "Link": 'Where the next page is, `rel="next"`, if there is one.',
    "Location": "Where it is.",
    "Preference-Applied": "Which preferences were met.",
}


def with_headers(*names: str, **others: str) -> dict[str, object]:
    """Describe an answer by its headers, in the `responses` of a route: `others` in words given."""
    descriptions = {**{name: _DESCRIPTIONS[name] for name in names}, **others}
    text = {"schema": {"type": "string"}}
    return {"headers": {name: {"description": d, **text} for name, d in descriptions.items()}}
