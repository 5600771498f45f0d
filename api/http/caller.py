"""What is known of a request before its route is: its headers, and its caller."""

from collections.abc import Mapping
from typing import Annotated

from fastapi import Depends, Request
from starlette.types import Scope

from api.access.access_log import RequestInfo
from api.access.principals import Principal


def principal(request: Request) -> Principal:
    """Return the caller."""
    found: Principal = request.state.principal
    return found


CurrentPrincipal = Annotated[Principal, Depends(principal)]


def read_headers(scope: Scope) -> Mapping[bytes, bytes]:
    """Return a request's headers by their names, which are in small letters; of several of a name,
    the first. They are kept for `header`.
    """
    headers = dict(reversed(scope["headers"]))
    scope.setdefault("state", {})["headers"] = headers
    return headers


def header(scope: Scope, name: bytes) -> str | None:
    """Return a header, or None."""
    value: bytes | None = scope["state"]["headers"].get(name)
    return None if value is None else value.decode("latin-1")


def asking_of(scope: Scope) -> RequestInfo:
    """Return what is asked for, and from where; the route is there once it has been found."""
    client = scope.get("client")
    return RequestInfo(
        method=scope["method"],
        route=getattr(scope.get("route"), "path", None),
        path=scope["path"],
        address=client[0] if client else None,
        correlation_id=scope["state"]["correlation_id"],
    )
