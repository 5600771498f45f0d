"""What an operator watches: `GET /metrics`, in Prometheus' text format.

Every room counts what it does where it does it, with the library's own counters (`casebook_...`);
here are those of requests, the route, and what is looked up when it is asked for: how far the views
are behind. They are of one process, so whoever runs several asks each; a projector by itself shows
its own at CASEBOOK_METRICS_PORT.

A line is logged of each request that failed, and of all with `CASEBOOK_LOG_REQUESTS`: with its
correlation id, like every line that is logged while a request is served.
"""

import time
from collections.abc import Mapping
from functools import cache
from http import HTTPStatus

import structlog
from fastapi import Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.access.rights import Principal
from api.http.paths import kept_path
from api.http.routing import Router
from eventstore.failures import StoreUnavailable, answering
from eventstore.log import EventStore
from eventstore.mongo.driver import Database
from projections.projector.health import Health, age_seconds
from projections.replay.generations import Generations

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
_UNDER_WAY = Gauge("casebook_requests_under_way", "Requests that are being served.")
_MISSING = Gauge("casebook_projection_missing_events", "Events of the log that are in no view.")
_OVERDUE = Gauge(
    "casebook_projection_overdue_events", "Events that are said to be in the views and are not."
)
_AGE = Gauge("casebook_projection_age_seconds", "How old the views are; NaN while not known.")
_PARKED = Gauge("casebook_projection_parked_tickets", "Tickets that could not be folded.")
_UNKNOWN = float("nan")
_LOOK_SECONDS = 5.0
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_NOWHERE = "none"  # the path is a stranger's, and there may be any number of them

_log = structlog.get_logger(__name__)


class Measuring:
    """Counts and times each request, and logs it."""

    def __init__(self, app: ASGIApp, *, log_all: bool) -> None:
        self._app = app
        self._log_all = log_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        answered = False

        async def measured(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start" and not answered:
                answered = True
                self._note(scope, message["status"], time.perf_counter() - began)
            await send(message)

        with _UNDER_WAY.track_inprogress():
            await self._app(scope, receive, measured)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        method, route = scope["method"], getattr(scope.get("route"), "path", _NOWHERE)
        if method not in _METHODS:
            method = _NOWHERE
        _requests(method, route, status).inc()
        _seconds(method, route).observe(seconds)
        failed = status >= HTTPStatus.INTERNAL_SERVER_ERROR
        if failed or self._log_all:
            who = scope.get("state", {}).get("principal")
            told: Mapping[str, object] = {
                "method": method,
                "path": kept_path(scope["path"]),
                "status": int(status),
                "milliseconds": round(1000 * seconds, 1),
                "principal": None if who is None else _named(who),
            }
            (_log.warning if failed else _log.info)("request", **told)


def _named(who: Principal) -> str:
    """Name who asked as a log may: requesters by their key, for a log forgets nobody."""
    return f"{who.role}:{(who.key or 'token') if who.role == 'requester' else who.id}"


def router(database: Database, store: EventStore) -> Router:
    """Make the route over one database."""
    generations, health = Generations(database), Health(store)
    routes = Router("health")

    @routes.get(
        "/metrics",
        response_class=Response,
        responses={
            200: {
                "description": "Prometheus' text format.",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            },
        },
    )
    async def show_metrics() -> Response:
        """Show what this process counts, and how far the views are behind the log: NaN while the
        database does not answer.
        """
        try:
            async with answering(_LOOK_SECONDS):
                report = await generations.ask(health.look)
        except StoreUnavailable:  # when the rest is wanted most
            for gauge in (_MISSING, _OVERDUE, _AGE, _PARKED):
                gauge.set(_UNKNOWN)
        else:
            age = age_seconds(report.state)
            _MISSING.set(report.missing_events)
            _OVERDUE.set(len(report.overdue))
            _AGE.set(_UNKNOWN if age is None else age)
            _PARKED.set(len(report.parked))
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return routes
