"""Answers in JSON, written straight to bytes, and links to what comes next."""

from collections.abc import Mapping

import orjson
from fastapi import Request, Response


def json_response(content: object, headers: Mapping[str, str], status: int = 200) -> Response:
    """Answer with JSON; what somebody else has put into the log is shown as text."""
    return Response(orjson.dumps(content, default=str), status, headers, "application/json")


def next_link(request: Request, **parameters: object) -> dict[str, str]:
    """Give the `Link` header to the same with other parameters (RFC 8288)."""
    address = request.url.include_query_params(**parameters)
    return {"Link": f'<{address.path}?{address.query}>; rel="next"'}
