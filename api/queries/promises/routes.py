"""How what is left of a ticket's promises comes about, interval by interval."""

from collections.abc import Callable
from contextlib import aclosing
from datetime import datetime
from typing import Literal
from uuid import UUID

from fastapi import Response
from pydantic import BaseModel, Field

from api.http.answers import json_response
from api.http.caller import CurrentPrincipal
from api.http.problems import problem_responses
from api.http.routing import Router
from api.queries.promises.derivation import MOST_INTERVALS, Derivation, Interval, State
from api.queries.visibility import VisibilityPolicy
from domain.calendars import Calendar, Why
from domain.errors import TicketNotFound
from domain.sla import SlaTarget
from domain.tickets.ticket import Status
from domain.values import JsonObject
from eventstore.event_document import from_document
from eventstore.log import EventStore
from eventstore.reading import read_events
from projections.views import tickets
from projections.views.tickets import TicketRead


class PromiseAnswer(BaseModel, extra="forbid"):
    """How a promise stands."""

    target: SlaTarget
    state: State = Field(
        description="`idle`: no message waits for the next response. `missed` may still go on."
    )
    promised_ms: int
    used_ms: int = Field(description="What has been counted for it since `since`.")
    left_ms: int = Field(description="What was promised less what is used; below zero if missed.")
    omitted_ms: int = Field(description="What of `used_ms` is in no interval that is shown.")
    since: datetime | None = Field(description="The opening, or the message that waits.")
    due_at: datetime | None = Field(description="As on the ticket: null while the clock stands.")
    merged_from: UUID | None = Field(
        description="The merged ticket whose promise this is: it was due earlier than the own one."
    )


class IntervalAnswer(BaseModel, extra="forbid"):
    """Time of a ticket in which the same was so."""

    start: datetime
    end: datetime
    why: Why | Literal["paused"] = Field(
        description="`open`: it counts. `closed`, `holiday`: not by the calendar. `paused`: the "
        "clock stood, by the ticket's status."
    )
    counted_ms: int
    counts_for: list[SlaTarget]
    status: Status
    reason: str | None = Field(description="Why the ticket waited.")
    calendar: str | None = Field(description="`name@version`, as in `calendars`; null: none.")
    utc_offset_minutes: int | None = Field(description="Of the calendar's zone.")
    clock_change_minutes: int | None = Field(
        description="By how much its clock was set forward at `start`, or back."
    )


class SlaAnswer(BaseModel, extra="forbid"):
    """What was promised for a ticket, and how what is left comes about."""

    ticket_id: UUID
    version: int
    now: datetime
    promises: list[PromiseAnswer]
    calendars: dict[str, Calendar] = Field(
        description="By `name@version`; the version is the desk's that made the calendar so."
    )
    intervals: list[IntervalAnswer] = Field(description=f"The newest {MOST_INTERVALS}, in order.")


def router(store: EventStore, policy: VisibilityPolicy, now: Callable[[], datetime]) -> Router:
    """Make the route over one log. `now`: the clock that promises are shown by."""
    routes = Router("queries")

    @routes.get(
        "/tickets/{ticket_id}/sla", response_model=SlaAnswer, responses=problem_responses(404)
    )
    async def show_promises(ticket_id: UUID, who: CurrentPrincipal) -> Response:
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
        used = {each.calendar: None for each in derivation.intervals if each.calendar}
        answer = {
            "ticket_id": ticket_id,
            "version": read.version,
            "now": moment,
            "promises": [promise._asdict() for promise in promises],
            "calendars": {_key(calendar): calendar for calendar in used},
            "intervals": [_shown(interval) for interval in derivation.intervals],
        }
        return json_response(answer, {})

    return routes


def _key(calendar: Calendar) -> str:
    return f"{calendar.name}@{calendar.version}"


def _shown(interval: Interval) -> JsonObject:
    by = None if interval.calendar is None else _key(interval.calendar)
    return {**interval._asdict(), "calendar": by}
