"""Errors as RFC 9457 problem documents.

The status of an error follows from its kind, here and nowhere else. A document holds `type`
(urn:casebook:problem:<code>), `title`, `status`, `detail`, `code`, and where a request's content
was at fault `errors`, with a JSON pointer each: at most 20 of them, and in `more_errors` how many
more there are.
"""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from operator import not_

from fastapi import Response
from fastapi.exceptions import RequestValidationError
from pydantic import Field
from starlette.exceptions import HTTPException
from structlog.contextvars import get_contextvars

from api.http.answers import with_headers
from api.model import ApiModel
from domain.desk import SPAN
from domain.errors import CasebookError, Kind
from domain.values import FIELD_KEY
from eventstore.failures import StoreUnavailable, VersionConflict
from eventstore.mongo.errors import DriverError, translated

_log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_RETRY_AFTER_SECONDS = 1

_CHALLENGE = 'Bearer realm="casebook"'
MOST_FAULTS = 20
_POINTER_CHARACTERS = 200  # of which a request's own names can be a part


_STATUS: Mapping[Kind, HTTPStatus] = {
    "unauthenticated": HTTPStatus.UNAUTHORIZED,
    "forbidden": HTTPStatus.FORBIDDEN,
    "not_found": HTTPStatus.NOT_FOUND,
    "conflict": HTTPStatus.CONFLICT,
    "precondition_failed": HTTPStatus.PRECONDITION_FAILED,
    "unacceptable": HTTPStatus.UNPROCESSABLE_ENTITY,
    "too_many": HTTPStatus.TOO_MANY_REQUESTS,
    "unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "fault": HTTPStatus.INTERNAL_SERVER_ERROR,
}

HTTP_PROBLEMS: Mapping[str, tuple[HTTPStatus, str]] = {
    "bad_json": (
        HTTPStatus.BAD_REQUEST,
        "the body is not JSON, or not such that every reader reads the same in it",
    ),
    "not_found": (HTTPStatus.NOT_FOUND, "there is nothing at this path"),
    "method_not_allowed": (HTTPStatus.METHOD_NOT_ALLOWED, "the path is not for this method"),
    "request_timeout": (HTTPStatus.REQUEST_TIMEOUT, "the body did not come to its end in time"),
    "request_entity_too_large": (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too large"),
    "unsupported_media_type": (
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "the body is not said to be JSON: send `Content-Type: application/json`",
    ),
    "invalid_request": (
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "the body or a parameter is not as it must be; `errors` says where and what",
    ),
    "internal_error": (
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "the server failed; it has been logged",
    ),
}
"""The codes of what is no CasebookError."""
_CODES = {status: code for code, (status, _) in HTTP_PROBLEMS.items()}
_TITLES = {
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "Content Too Large",
    HTTPStatus.UNPROCESSABLE_ENTITY: "Unprocessable Content",
}


_WORDS = {
    "missing": "is missing",
    "string_too_long": "can have at most {max_length} characters",
    "string_type": "must be a text",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be an object",
    "extra_forbidden": "is not known here",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
}
"""Pydantic's kinds of faults in plain words; those of the others are its own."""
_SHAPES = {
    FIELD_KEY: "must be a lower-case letter, then up to 63 lower-case letters, digits and _",
    SPAN: "must be like 09:00-12:30",
}
"""What texts of a pattern are, in words."""


class ServerBusy(CasebookError):
    """Too much is under way at once: for example in a flood of requests. Nothing was begun."""

    kind = "unavailable"

    def __init__(self) -> None:
        super().__init__("server_busy", "the server has too much to do; try again")


class Fault(ApiModel):
    """One thing wrong in a request: where, as a JSON pointer or a parameter's name, and what."""

    pointer: str
    detail: str


class Problem(ApiModel):
    """An RFC 9457 problem document."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[Fault] | None = Field(
        default=None,
        description=f"The first {MOST_FAULTS} things wrong in the request.",
        exclude_if=not_,
    )
    more_errors: int | None = Field(default=None, exclude_if=not_)
    """How many more there are, if those are not all."""


def title_of(status: HTTPStatus) -> str:
    """Return the name of a status as RFC 9110 has it; Python's changes with its version."""
    return _TITLES.get(status, status.phrase)


def problems(*statuses: int) -> dict[int | str, dict[str, object]]:
    """Describe problem documents, for the `responses` of a route."""
    return {status: _described(HTTPStatus(status)) for status in statuses}


def _described(status: HTTPStatus) -> dict[str, object]:
    described: dict[str, object] = {
        "description": title_of(status),
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    if status in _HEADERS:
        name, description, kind = _HEADERS[status]
        header = {"description": description, "schema": {"type": kind}, "required": True}
        described["headers"] = {name: header}
    return described


_RETRY_AFTER = ("Retry-After", "In so many seconds.", "integer")
_HEADERS = {
    HTTPStatus.UNAUTHORIZED: ("WWW-Authenticate", "How to show who one is.", "string"),
    HTTPStatus.SERVICE_UNAVAILABLE: _RETRY_AFTER,
    HTTPStatus.TOO_MANY_REQUESTS: _RETRY_AFTER,
}
"""The header that each problem of a status has: its name, what it says, and as what."""


def view_responses(*headers: str, **others: str) -> dict[int | str, dict[str, object]]:
    """Describe the headers of answers from the views, and the problems that any may have.

    `others`: headers by their own words.
    """
    described = with_headers("Casebook-Views-Age", "Casebook-Views-As-Of", *headers, **others)
    return {200: described, **problems(404, 409, 412)}


VIEW_RESPONSES = view_responses()


def status_of(error: type[CasebookError]) -> HTTPStatus:
    """Return the status that errors of a class are answered with."""
    return _STATUS[error.kind]


def problem_of(error: Exception) -> Problem:
    """Return the document for one of Casebook's own errors, or for an unexpected one, which is
    logged.
    """
    if not isinstance(error, CasebookError):
        correlation_id = get_contextvars().get("correlation_id")
        _log.error("unexpected error, correlation id %s", correlation_id, exc_info=error)
        status, detail = HTTP_PROBLEMS["internal_error"]
        return _problem(status, "internal_error", detail)
    if error.kind == "fault":
        _log.error("%s: %s", error.code, error.detail, exc_info=error)
    found = error.faults if error.pointer is None else [(error.pointer, error.detail)]
    faults = [Fault(pointer=where, detail=what) for where, what in found[:MOST_FAULTS]]
    status, more = status_of(type(error)), len(found) - len(faults)
    return _problem(status, error.code, error.detail, faults, more)


def _problem(
    status: HTTPStatus, code: str, detail: str, faults: Sequence[Fault] = (), more: int = 0
) -> Problem:
    return Problem(
        type=f"urn:casebook:problem:{code}",
        title=title_of(status),
        status=status.value,
        detail=detail,
        code=code,
        errors=list(faults) or None,
        more_errors=more or None,
    )


def _response(problem: Problem, retry_after_seconds: int | None = None) -> Response:
    response = Response(problem.model_dump_json(), problem.status, media_type=MEDIA_TYPE)
    if problem.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = _CHALLENGE
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        retry_after_seconds = _RETRY_AFTER_SECONDS
    if retry_after_seconds is not None:
        response.headers["Retry-After"] = str(retry_after_seconds)
    return response


def to_response(error: Exception) -> Response:
    """Return the response for an error; an unexpected one is logged."""
    match error:
        case CasebookError():
            return _response(problem_of(error), error.retry_after_seconds)
        case DriverError():
            failure = translated(error)
            # Another writer was first where none was expected: the same may be tried again.
            return to_response(
                StoreUnavailable() if isinstance(failure, VersionConflict) else failure
            )
        case RequestValidationError():
            return _response(_invalid_request(error))
        case HTTPException():
            status = HTTPStatus(error.status_code)
            code = _CODES.get(status, f"http_{status.value}")
            response = _response(_problem(status, code, error.detail))
            response.headers.update(error.headers or {})
            return response
    return _response(problem_of(error))


def _invalid_request(error: RequestValidationError) -> Problem:
    found = error.errors()
    within = {tuple(e["loc"][:n]) for e in found for n in range(len(e["loc"]))}
    # A list is also told to be too short if what is in it is at fault.
    found = [e for e in found if e["type"] != "too_short" or tuple(e["loc"]) not in within]
    faults = [
        Fault(pointer=_pointer(e["loc"]), detail=_said(e["type"], e["msg"], e.get("ctx", {})))
        for e in found[:MOST_FAULTS]
    ]
    detail = "; ".join(f"{fault.pointer or 'the body'}: {fault.detail}" for fault in faults[:3])
    more = len(found) - len(faults)
    return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", detail, faults, more)


def _said(kind: str, message: str, about: Mapping[str, object]) -> str:
    if kind in _WORDS:
        return _WORDS[kind].format(**about)
    if kind in {"string_too_short", "too_short"} and about["min_length"] == 1:
        return "must not be empty"
    own = message.removeprefix("Value error, ")  # pydantic's words before our own
    return _SHAPES.get(str(about.get("pattern")), own)


def _pointer(location: Sequence[str | int]) -> str:
    """Tell where: a JSON pointer into the body ("" is all of it), or the parameter's name."""
    place, *path = location
    where = f"{place} {'.'.join(map(str, path))}"
    if place == "body":
        named = (str(part) for part in path if part != "[key]")  # pydantic's word for a bad name
        where = "".join(f"/{part.replace('~', '~0').replace('/', '~1')}" for part in named)
    cut = "..." if len(where) > _POINTER_CHARACTERS else ""
    return f"{where[:_POINTER_CHARACTERS]}{cut}"
