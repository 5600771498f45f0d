"""Errors as RFC 9457 problem documents.

Every error of the domain, the store and the handler has one HTTP status, found here and nowhere
else, by its class. A document holds `type` (urn:casebook:problem:<code>), `title`, `status`,
`detail`, `code`, and `errors` with a JSON pointer each where a request's content was at fault.
"""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.handle import KeyReused, TooContended, VersionMismatch
from api.log_reader import CursorExpired
from api.outbox import TooManyStreams
from api.visible import ViewsBehind
from domain.errors import CasebookError, NotFound, StateConflict, Unacceptable
from eventstore.failures import StoreBusy, StoreUnavailable

_log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_RETRY_AFTER_SECONDS = "1"

STATUS: Mapping[type[CasebookError], HTTPStatus] = {
    NotFound: HTTPStatus.NOT_FOUND,
    StateConflict: HTTPStatus.CONFLICT,
    Unacceptable: HTTPStatus.UNPROCESSABLE_ENTITY,
    KeyReused: HTTPStatus.UNPROCESSABLE_ENTITY,
    VersionMismatch: HTTPStatus.PRECONDITION_FAILED,
    ViewsBehind: HTTPStatus.PRECONDITION_FAILED,
    TooContended: HTTPStatus.CONFLICT,
    CursorExpired: HTTPStatus.GONE,
    TooManyStreams: HTTPStatus.SERVICE_UNAVAILABLE,
    StoreBusy: HTTPStatus.SERVICE_UNAVAILABLE,
    StoreUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""Any other CasebookError is the server's own fault: 500."""


class Fault(BaseModel):
    """One thing wrong in a request: where, as a JSON pointer or a parameter's name, and what."""

    pointer: str
    detail: str


class Problem(BaseModel):
    """An RFC 9457 problem document."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[Fault] | None = None


def problem_responses(*statuses: int) -> dict[int | str, dict[str, object]]:
    """Describe problem documents, for the `responses` of a route."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {s: {"description": HTTPStatus(s).phrase, "content": content} for s in statuses}


def problem(
    status: HTTPStatus,
    code: str,
    detail: str,
    errors: Sequence[Fault] = (),
    *,
    soon: bool = False,
) -> Response:
    """Give the response for an error; `soon`: what was asked for may work in a moment."""
    document = Problem(
        type=f"urn:casebook:problem:{code}",
        title=status.phrase,
        status=status.value,
        detail=detail,
        code=code,
        errors=list(errors) or None,
    )
    headers = {}
    if soon or status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = _RETRY_AFTER_SECONDS
    body = document.model_dump_json(exclude_none=True)
    return Response(body, status.value, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make `app` answer every error with a problem document."""
    app.add_exception_handler(CasebookError, _casebook_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)


class BodyLimit:
    """Stops reading a request's body at so many bytes.

    In the place of FastAPI's own limit, which answers in plain text.
    """

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app = app
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._most_bytes:
                raise HTTPException(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                    f"a body has at most {self._most_bytes} bytes",
                )
            return message

        await self._app(scope, counted, send)


def _casebook_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, CasebookError):
        raise TypeError
    status = next(
        (STATUS[cls] for cls in type(error).__mro__ if cls in STATUS),
        HTTPStatus.INTERNAL_SERVER_ERROR,
    )
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("%s: %s", error.code, error.detail, exc_info=error)
    return problem(status, error.code, error.detail, soon=isinstance(error, ViewsBehind))


def _invalid_request(_: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise TypeError
    found = error.errors()
    if any(e["type"] == "json_invalid" for e in found):
        reason = cast("dict[str, str]", found[0].get("ctx", {})).get("error", "")
        detail = f"the body is not JSON: {reason}".rstrip(": ")
        return problem(HTTPStatus.BAD_REQUEST, "bad_json", detail)
    faults = [Fault(pointer=_pointer(e["loc"]), detail=_said(e["msg"])) for e in found]
    detail = "; ".join(f"{fault.pointer or 'the body'}: {fault.detail}" for fault in faults[:3])
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", detail, faults)


def _said(message: object) -> str:
    return str(message).removeprefix("Value error, ")  # pydantic's words before our own


def _pointer(location: Sequence[str | int]) -> str:
    """Tell where: a JSON pointer into the body ("" is all of it), or the parameter's name."""
    place, *path = location
    if place == "body":
        named = (part for part in path if part != "[key]")  # pydantic's word for a bad name itself
        escaped = (str(part).replace("~", "~0").replace("/", "~1") for part in named)
        return "".join(f"/{part}" for part in escaped)
    return f"{place} {'.'.join(map(str, path))}"


def _http_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise TypeError
    status = HTTPStatus(error.status_code)
    if status == HTTPStatus.BAD_REQUEST:  # FastAPI's, for a body that Python cannot parse
        detail = "the body cannot be read: nested too deeply, too long a number, or not UTF-8"
        return problem(status, "bad_json", detail)
    response = problem(status, status.name.lower(), error.detail)
    response.headers.update(error.headers or {})
    return response


def _unexpected(_: Request, error: Exception) -> Response:
    _log.error("unexpected error", exc_info=error)
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "the server failed; it has been logged"
    )
