"""A ticket by itself and its history: from its read document and the log."""

from collections.abc import Mapping
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from api.access import CurrentActor
from api.answers import json_response, next_link
from api.problems import problem_responses
from api.representations import TicketDetail, Tickets, present
from domain.errors import TicketNotFound
from domain.events import JsonObject, NoteAdded, SlaBreached
from eventstore.envelope import chain_is_whole
from eventstore.failures import answering
from eventstore.store import EventStore
from projections import tickets

_INTERNAL_EVENTS = frozenset({NoteAdded.__name__, SlaBreached.__name__})
_PATIENCE_SECONDS = 10.0


def router(store: EventStore, current_tickets: Tickets) -> APIRouter:
    """Make the routes over one log."""
    routes = APIRouter(tags=["queries"])

    @routes.get(
        "/tickets/{ticket_id}",
        response_model=TicketDetail,
        responses=problem_responses(404, 422, 503),
    )
    async def show_ticket(ticket_id: UUID) -> Response:
        """Show a ticket as it is after its last acknowledged event."""
        current = await current_tickets.current(ticket_id)
        shown = present(tickets.to_document(current))
        return json_response(shown, {"ETag": f'"{current.version}"'})

    @routes.get("/tickets/{ticket_id}/timeline", responses=problem_responses(404, 422, 503))
    async def show_timeline(
        request: Request,
        ticket_id: UUID,
        actor: CurrentActor,
        after: Annotated[int, Query(ge=0, lt=2**31, description="Behind this version.")] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    ) -> Response:
        """Tell a ticket's history from the log, with its hashes checked.

        `chain` is `whole` if every event shown is what was once written behind its predecessor,
        and `broken` if not; what can no longer be read is shown as it is stored. Requesters are not
        shown internal notes and missed promises.
        """
        async with answering(_PATIENCE_SECONDS):
            anchor = await store.stored(ticket_id, after=after - 1, limit=1) if after else []
            stream = await store.stored(ticket_id, after=after, limit=limit + 1)
        if not stream and not anchor:
            raise TicketNotFound
        page = stream[:limit]
        headers = next_link(request, after=page[-1]["version"]) if len(stream) > limit else {}
        hidden = _INTERNAL_EVENTS if actor.role == "requester" else frozenset()
        timeline = {
            "ticket_id": ticket_id,
            "chain": "whole" if chain_is_whole(page, anchor[0] if anchor else None) else "broken",
            "events": [_tell(event) for event in page if event.get("type") not in hidden],
        }
        return json_response(timeline, headers)

    return routes


def _tell(stored: Mapping[str, object]) -> JsonObject:
    told = {
        name: value.hex() if isinstance(value, bytes) else value
        for name, value in stored.items()
        if name != "ticket_id"
    }
    return {"id": told.pop("_id", None), **told}
