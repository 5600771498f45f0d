"""What is counted and logged of every request.

A line is logged of each request that failed, and of all with `CASEBOOK_LOG_REQUESTS`: with its
correlation id, like every line that is logged while a request is served.
"""

from functools import cache
from http import HTTPStatus

import structlog
from prometheus_client import Counter, Gauge, Histogram
from starlette.types import Scope

from api.access.path_masking import mask_path
from api.access.principals import Principal

_REQUESTS = Counter(
    "casebook_requests", "Requests that were answered.", ["method", "route", "status"]
)
_SECONDS = Histogram(
    "casebook_request_seconds",
    "From the end of a request's head to its answer's head.",
    ["method", "route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
_requests, _seconds = cache(_REQUESTS.labels), cache(_SECONDS.labels)  # few: paths are of routes
UNDER_WAY = Gauge("casebook_requests_under_way", "Requests that are being served.")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_NOWHERE = "none"  # the path is a stranger's, and there may be any number of them

_log = structlog.get_logger(__name__)


def note(scope: Scope, status: int, seconds: float, *, log_all: bool) -> None:
    """Note a request that is answered now. `log_all`: in the log too if it has not failed."""
    method, route = scope["method"], getattr(scope.get("route"), "path", _NOWHERE)
    if method not in _METHODS:
        method = _NOWHERE
    _requests(method, route, status).inc()
    _seconds(method, route).observe(seconds)
    failed = status >= HTTPStatus.INTERNAL_SERVER_ERROR
    if failed or log_all:
        who = scope["state"].get("principal")
        (_log.warning if failed else _log.info)(
            "request",
            method=method,
            path=mask_path(scope["path"]),
            status=int(status),
            milliseconds=round(1000 * seconds, 1),
            principal=None if who is None else _named(who),
        )


def _named(who: Principal) -> str:
    """Name a caller as a log may: requesters by their key, for names stay in a log for ever."""
    return f"{who.role}:{(who.key or 'token') if who.role == 'requester' else who.id}"
