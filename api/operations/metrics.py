"""What an operator watches: `GET /metrics`, in Prometheus' text format.

Every room counts what it does where it does it, with the library's own counters (`casebook_...`);
here is what is looked up when it is asked for: how far the views are behind. All are of one
process, so each of several processes must be asked; a projector by itself shows its own at
CASEBOOK_METRICS_PORT.
"""

from prometheus_client import Gauge, generate_latest

from eventstore.cached_value import CachedValue
from eventstore.failures import StoreUnavailable
from eventstore.mongo.errors import time_limit
from projections.projector.health import Report, age_seconds

_MISSING = Gauge("casebook_projection_missing_events", "Events of the log that are in no view.")
_OVERDUE = Gauge(
    "casebook_projection_overdue_events", "Events that are said to be in the views and are not."
)
_AGE = Gauge("casebook_projection_age_seconds", "How old the views are; NaN while not known.")
_PARKED = Gauge("casebook_projection_parked_tickets", "Tickets that could not be folded.")
_UNKNOWN = float("nan")
_LOOK_SECONDS = 5.0


async def text(looked: CachedValue[Report]) -> bytes:
    """Return what this process counts, and how far the views are behind the log: NaN while the
    database does not answer.
    """
    try:
        async with time_limit(_LOOK_SECONDS):
            report = await looked.get(0.0)
    except StoreUnavailable:  # when the rest is wanted most
        for gauge in (_MISSING, _OVERDUE, _AGE, _PARKED):
            gauge.set(_UNKNOWN)
    else:
        age = age_seconds(report.state)
        _MISSING.set(report.missing_events)
        _OVERDUE.set(len(report.overdue))
        _AGE.set(_UNKNOWN if age is None else age)
        _PARKED.set(len(report.parked))
    return generate_latest()
