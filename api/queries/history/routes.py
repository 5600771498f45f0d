"""A ticket by itself and its history: as it is and as it was, event by event, and what differs."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import orjson
from fastapi import Request, Response
from pydantic import BaseModel, Field

from api.access.principals import Unseen
from api.http.answers import (
    NOT_MODIFIED,
    IfNoneMatch,
    as_json,
    if_changed,
    json_response,
    next_link,
    with_headers,
)
from api.http.caller import CurrentPrincipal
from api.http.problems import problems
from api.http.routing import InQuery, Router
from api.model import ApiModel
from api.queries.history import past
from api.queries.history.past import Changes
from api.queries.representations import UNREADABLE, TicketDetail, Tickets, present_event
from api.queries.visibility import Shown, Visibility, VisibilityPolicy
from domain.actors import Actor
from domain.errors import TicketNotFound, Unacceptable
from domain.values import ERASED, REDACTED, JsonObject, Moment
from eventstore.event_document import EventDocument, chain_is_whole
from eventstore.log import EventStore
from eventstore.reading import read_events
from projections.generations import By
from projections.views import tickets

PAGE_BYTES = 2**20


class PastQuery(ApiModel):
    """As of when."""

    as_of: Moment | None = None
    """As it was at this time: `2026-03-01T12:00:00Z`."""
    by: By = "occurred"
    """With `as_of`: what had happened by then, or what had been recorded, that is, was known, by
    then.
    """

    def is_later(self, event: Mapping[str, object]) -> bool:
        """Return whether a stored event is later than that, by what the event says of itself."""
        time = event.get(f"{self.by}_at")
        return self.as_of is not None and isinstance(time, datetime) and time > self.as_of


class TicketQuery(PastQuery):
    """Which state of a ticket."""

    version: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """As it was after so many events."""


class TimelineQuery(PastQuery):
    """Which part of a timeline."""

    after: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Only events with a higher version."""
    limit: Annotated[int, Field(ge=1, le=1000)] = 200


class DiffQuery(ApiModel):
    """Which two versions."""

    from_: Annotated[int, Field(alias="from", ge=0, lt=2**31)] = 0
    """0: before it was opened."""
    to: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """As it is, unless given."""


class EventCommand(ApiModel):
    """The command an event came of: its idempotency key, or the id it was given."""

    id: str
    fingerprint: str
    """Tells the command's content from another's."""


class SealedPart(ApiModel):
    """Something personal, as it is stored."""

    path: str
    """Where in the event: a JSON Pointer."""
    person: UUID
    """Whose it is."""
    text: str
    """Encrypted under that person's key; see docs/explanation/personal-data.md."""


class FieldChange(ApiModel):
    """A field of the ticket, before and after; null where the ticket was not there yet."""

    field: str = Field(json_schema_extra={"enum": list(past.FIELDS)})
    before: object
    after: object


class TimelineEvent(ApiModel):
    """An event as it is stored, and what it changed."""

    id: UUID
    version: int
    type: str
    schema_: int = Field(alias="schema")
    """The number of the shape of `data`."""
    data: dict[str, object]
    occurred_at: datetime
    """When it happened."""
    recorded_at: datetime
    """When the log accepted it."""
    actor: Actor
    command: EventCommand | None
    """Null for requesters."""
    correlation_id: str | None
    causation_id: str | None
    previous: str | None
    """The hash of the event before, in hexadecimal. Null for requesters."""
    hash: str | None
    """In hexadecimal, over the event as it is stored. Null for requesters."""
    sealed: list[SealedPart] | None
    """What of it is stored sealed, with null in its place. Null for requesters."""
    hidden: list[str] | None
    """Where (JSON Pointers) `[redacted]` stands for what is stored and not sealed, so that the hash
    cannot be computed from here. Null for requesters.
    """
    changes: list[FieldChange] | None
    """What it changed; null from the first event on that cannot be read."""


class DamagedEvent(BaseModel, extra="allow"):
    """What is stored in an event's place and is none any more: shown as it is."""

    version: object
    changes: list[FieldChange] | None


class Timeline(ApiModel):
    """A ticket's events, or some of them, in order."""

    ticket_id: UUID
    chain: Literal["whole", "broken"]
    """`whole` if every event shown is what was once written behind its predecessor."""
    events: list[TimelineEvent | DamagedEvent]


class Diff(ApiModel, populate_by_name=True):
    """What differs between two versions of a ticket."""

    ticket_id: UUID
    from_: int = Field(alias="from")
    """0: before it was opened."""
    to: int
    changes: list[FieldChange]


def router(
    store: EventStore,
    current_tickets: Tickets,
    policy: VisibilityPolicy,
    page_bytes: int = PAGE_BYTES,
) -> Router:
    """Make the routes over one log. With the event that reaches `page_bytes`, a page of a timeline
    ends.
    """
    routes = Router("queries")

    def history(
        ticket_id: UUID, visible: Visibility, upto: int | None = None
    ) -> AsyncGenerator[Shown, None]:
        # What is behind `upto` is read for requesters, who count otherwise, and ends there.
        last = None if visible.is_of_requester else upto
        return visible.shown(read_events(store, ticket_id, upto=last))

    @routes.get(
        "/tickets/{ticket_id}",
        response_model=TicketDetail,
        responses={
            200: with_headers(ETag="The version shown, in quotes."),
            **NOT_MODIFIED,
            **problems(404),
        },
    )
    async def show_ticket(
        ticket_id: UUID,
        who: CurrentPrincipal,
        asked: InQuery[TicketQuery],
        if_none_match: IfNoneMatch = None,
    ) -> Response:
        """Show a ticket as it is after its last acknowledged event, or as it once was.

        With `as_of`, only events up to that time count; 404 if the ticket was not open yet.
        """
        if asked.as_of is not None and asked.version is not None:
            raise Unacceptable("two_pasts", "ask for as_of or for version, not for both")
        if asked.as_of is None and asked.version is None:
            visible = await policy.of(who)
            try:
                shown = await current_tickets.document(ticket_id)
            except UNREADABLE:  # which is for those alone for whom it is there
                await policy.of_ticket(who, ticket_id)
                if not visible.is_of_requester:
                    raise
                # What they do not see may be what cannot be read.
                _, was = await past.at_versions(history(ticket_id, visible), 0, None)
                shown = tickets.to_document(was)
            else:
                if not visible.sees(shown):
                    raise Unseen
            content = await policy.detail(visible, shown)
        else:
            visible = await policy.of_ticket(who, ticket_id)
            if asked.as_of is not None:
                was = await past.as_it_was(history(ticket_id, visible), asked.is_later)
            else:
                events = history(ticket_id, visible, asked.version)
                _, was = await past.at_versions(events, 0, asked.version)
            content = visible.present(tickets.to_document(was)) | {"rings": None}
        body = as_json(content)
        if content["rings"] or ERASED.encode() in body or REDACTED.encode() in body:
            if_none_match = None  # it was not so when it was fetched
        return if_changed(body, {"ETag": f'"{content["version"]}"'}, if_none_match)

    @routes.get(
        "/tickets/{ticket_id}/timeline",
        response_model=Timeline,
        responses={
            200: with_headers(Link="`rel=next`: what comes next, if there is more."),
            **problems(404),
        },
    )
    async def show_timeline(
        request: Request,
        ticket_id: UUID,
        who: CurrentPrincipal,
        asked: InQuery[TimelineQuery],
    ) -> Response:
        """Tell a ticket's history from the log: who did what, when, and what it changed.

        `chain` is `whole` if the hash of every event shown fits the event and the one before it,
        and `broken` if not. An event that cannot be read is shown as it is stored, and `changes` is
        null from there on. Requesters see what is public, numbered without the rest. A page may be
        shorter than `limit`: it ends with the event that makes it 1 MiB. `Link` says whether there
        is more.
        """
        visible = await policy.of_ticket(who, ticket_id)
        anchor: EventDocument | None = None
        page: list[EventDocument] = []
        shown: list[JsonObject] = []
        more = False
        changes = Changes()
        room_bytes = page_bytes
        async with aclosing(past.until(history(ticket_id, visible), asked.is_later)) as events:
            async for stored, event in events:
                if event is None:
                    page.append(stored)  # for the chain
                elif event["version"] <= asked.after:
                    changes.skip(event)
                    anchor = stored
                    page.clear()
                elif len(shown) < asked.limit and room_bytes > 0:
                    presented = {**present_event(stored, event), "changes": changes.tell(event)}
                    one = _of_one_ticket(presented, visible)
                    room_bytes -= len(orjson.dumps(one, default=str))
                    page.append(stored)
                    shown.append(one)
                else:
                    more = True
                    break
        if anchor is None and not page:
            raise TicketNotFound
        timeline = {
            "ticket_id": ticket_id,
            "chain": "whole" if chain_is_whole(page, anchor) else "broken",
            "events": shown,
        }
        headers = next_link(request, after=shown[-1]["version"] if more else None)
        return json_response(timeline, headers)

    @routes.get("/tickets/{ticket_id}/diff", response_model=Diff, responses=problems(404))
    async def show_diff(
        ticket_id: UUID, who: CurrentPrincipal, asked: InQuery[DiffQuery]
    ) -> JsonObject:
        """Tell what differs between two versions of a ticket."""
        if asked.to is not None and asked.to < asked.from_:
            raise Unacceptable("bad_range", "from must not be behind to")
        visible = await policy.of_ticket(who, ticket_id)
        events = history(ticket_id, visible, asked.to)
        then, now = await past.at_versions(events, asked.from_, asked.to)
        found = past.differences(past.fields(then), past.fields(now))
        return {
            "ticket_id": ticket_id,
            "from": asked.from_,
            "to": now.version,
            "changes": visible.changes(found),
        }

    return routes


def _of_one_ticket(shown: JsonObject, visible: Visibility) -> JsonObject:
    changes = shown["changes"]
    return {
        **{name: value for name, value in visible.event(shown).items() if name != "ticket_id"},
        "changes": visible.changes(changes) if isinstance(changes, list) else None,
    }
