"""How what is left of a ticket's promises comes about, interval by interval."""

from collections.abc import Callable
from contextlib import aclosing
from datetime import datetime
from uuid import UUID

from pydantic import Field

from api.http.caller import CurrentPrincipal
from api.http.problems import problems
from api.http.routing import Router
from api.model import ApiModel
from api.queries.sla.intervals import MOST_INTERVALS, Derivation, Interval, Promise
from api.queries.visibility import VisibilityPolicy
from domain.calendars import Calendar
from domain.errors import TicketNotFound
from domain.values import JsonObject
from eventstore.event_document import from_document
from eventstore.log import EventStore
from eventstore.reading import read_events
from projections.views import tickets
from projections.views.tickets import TicketRead


class SlaAnswer(ApiModel):
    """What was promised for a ticket, and how what is left comes about."""

    ticket_id: UUID
    version: int
    now: datetime
    promises: list[Promise]
    calendars: dict[str, Calendar]
    """By `name@version`; the version is the desk's that made the calendar so."""
    intervals: list[Interval] = Field(description=f"The newest {MOST_INTERVALS}, in order.")


def router(store: EventStore, policy: VisibilityPolicy, now: Callable[[], datetime]) -> Router:
    """Make the route over one log. `now`: the clock that promises are shown by."""
    routes = Router("queries")

    @routes.get("/tickets/{ticket_id}/sla", response_model=SlaAnswer, responses=problems(404))
    async def show_promises(ticket_id: UUID, who: CurrentPrincipal) -> JsonObject:
        """Show what was promised for a ticket, and every interval of its time: whether it counts
        and for which promise, by which version of which calendar, and if not, why. For each promise
        `counted_ms` of the intervals from `since` on that count for it, and `omitted_ms`, sum to
        `used_ms`; and `used_ms` and `left_ms` to `promised_ms`.
        """
        await policy.of_ticket(who, ticket_id)
        read: TicketRead | None = None
        derivation = Derivation()
        async with aclosing(read_events(store, ticket_id)) as events:
            async for _, event in events:
                envelope = from_document(event)
                if read is not None:
                    derivation.before(read.ticket, envelope.occurred_at)
                read = tickets.apply(read, envelope)
                derivation.after(read.ticket, envelope.occurred_at)
        if read is None:
            raise TicketNotFound
        moment = max(now(), read.updated_at)
        promises = derivation.promises(read.ticket, moment)
        return {
            "ticket_id": ticket_id,
            "version": read.version,
            "now": moment,
            "promises": promises,
            "calendars": derivation.calendars(),
            "intervals": [*derivation.intervals],
        }

    return routes
