"""The caller of a request, as `pipeline.py` has found, for endpoints to depend on."""

from typing import Annotated

from fastapi import Depends, Request
from starlette.types import Scope

from api.access.access_log import Asking
from api.access.rights import Principal


def principal(request: Request) -> Principal:
    """Return the caller."""
    found: Principal = request.state.principal
    return found


CurrentPrincipal = Annotated[Principal, Depends(principal)]


def asking_of(scope: Scope) -> Asking:
    """Return what is asked for, and from where; the route is there once it has been found."""
    client = scope.get("client")
    return Asking(
        method=scope["method"],
        route=getattr(scope.get("route"), "path", None),
        path=scope["path"],
        address=client[0] if client else None,
        correlation_id=scope["state"]["correlation_id"],
    )
