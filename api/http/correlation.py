"""What ties requests together: a correlation id, taken in, kept with the events, and given back.

A client sends its own in `Correlation-Id`, or the trace it is in as `traceparent` (W3C Trace
Context), whose trace id it then is. A request with neither gets a new one: the trace's, if requests
are traced. Each answer names it, errors too; so does each event that came of a command, each line
that is logged meanwhile, and what is sent to webhooks of that event.
"""

import re
import secrets
from typing import Annotated

from fastapi import Depends, Request
from opentelemetry import trace
from starlette.types import Scope
from uuid_utils import uuid7

from api.http.caller import header
from domain.values import JsonObject

HEADER = "Correlation-Id"
_MOST_CHARACTERS = 200
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-.*")


def outgoing(correlation_id: str | None) -> dict[str, str]:
    """Return the headers of a request that goes out in consequence of one that came in."""
    if correlation_id is None or not _is_taken(correlation_id):
        return {}
    traced = re.fullmatch(r"(?!0{32})[0-9a-f]{32}", correlation_id)
    parent = {"traceparent": f"00-{correlation_id}-{secrets.token_hex(8)}-01"} if traced else {}
    return {HEADER: correlation_id, **parent}


def _is_taken(given: str) -> bool:
    return given.isascii() and given.isprintable() and 0 < len(given) <= _MOST_CHARACTERS


def of(scope: Scope) -> str:
    """Return the correlation id that a request's headers name, or a new one."""
    given = header(scope, b"correlation-id")
    if given is not None and _is_taken(given := given.strip()):
        return given
    own = trace.get_current_span().get_span_context()
    if own.is_valid:  # of a trace that this server takes part in, or begins
        return trace.format_trace_id(own.trace_id)
    trace_id = _TRACEPARENT.fullmatch(header(scope, b"traceparent") or "")
    return str(uuid7()) if trace_id is None else trace_id[1]


def correlation_id(request: Request) -> str:
    """Return the request's correlation id."""
    found: str = request.state.correlation_id
    return found


CurrentCorrelation = Annotated[str, Depends(correlation_id)]

_PARAMETERS = {
    HEADER: "Kept with the events and given back; ties requests together. One that is "
    f"not printable ASCII of at most {_MOST_CHARACTERS} characters is not taken.",
    "traceparent": "W3C Trace Context; its trace id is the correlation id if none is given.",
}
PARAMETERS: JsonObject = {
    name: {"in": "header", "name": name, "description": text, "schema": {"type": "string"}}
    for name, text in _PARAMETERS.items()
}
"""The headers that are read here, as OpenAPI describes parameters."""
