"""Answers in JSON, written straight to bytes."""

from collections.abc import Mapping

import orjson
from fastapi import Response


def json_response(content: object, headers: Mapping[str, str], status: int = 200) -> Response:
    """Answer with JSON; what somebody else has put into the log is shown as text."""
    return Response(orjson.dumps(content, default=str), status, headers, "application/json")
