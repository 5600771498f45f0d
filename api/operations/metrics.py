"""What an operator watches: `GET /metrics`, in Prometheus' text format.

Every room counts what it does where it does it, with the library's own counters (`casebook_...`);
here are the route, and what is looked up when it is asked for: how far the views are behind. They
are of one process, so each of several processes must be asked; a projector by itself shows its own
at CASEBOOK_METRICS_PORT.
"""

from fastapi import Response
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest

from api.http.routing import Router
from eventstore.failures import StoreUnavailable, answering
from eventstore.log import EventStore
from eventstore.mongo.driver import Database
from projections.projector.health import Health, age_seconds
from projections.replay.generations import Generations

_MISSING = Gauge("casebook_projection_missing_events", "Events of the log that are in no view.")
_OVERDUE = Gauge(
    "casebook_projection_overdue_events", "Events that are said to be in the views and are not."
)
_AGE = Gauge("casebook_projection_age_seconds", "How old the views are; NaN while not known.")
_PARKED = Gauge("casebook_projection_parked_tickets", "Tickets that could not be folded.")
_UNKNOWN = float("nan")
_LOOK_SECONDS = 5.0


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
