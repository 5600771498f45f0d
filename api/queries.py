"""The read routes: tickets and lists from `ticket_reads`, timelines from the log.

A single ticket is its read document with the events behind it folded in by the view's own fold, so
it always shows every acknowledged change, projector or none (law L9). Lists show what the projector
has written. No query runs an aggregation.
"""

import base64
from collections.abc import Mapping
from typing import Annotated
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field, TypeAdapter, ValidationError

from api.access import CurrentActor
from api.answers import json_response
from api.problems import problem_responses
from api.visible import AtLeast, Prefer, Views
from domain.errors import TicketNotFound, Unacceptable
from domain.events import JsonObject, NoteAdded, SlaBreached
from domain.values import Moment
from eventstore.driver import Database
from eventstore.envelope import chain_is_whole
from eventstore.failures import answering
from eventstore.store import EventStore
from projections import tickets
from projections.saved_views import SavedViews, TicketFilter, ViewName
from projections.tickets import TicketRead

_INTERNAL_FIELDS = frozenset(
    ("counted", "worked", "in_views", "terms", "sla", "next_due_at", "shape")
)
_NOT_IN_LISTS = dict.fromkeys((*_INTERNAL_FIELDS, "body"), 0)
_INTERNAL_EVENTS = frozenset({NoteAdded.__name__, SlaBreached.__name__})
_PATIENCE_SECONDS = 10.0


class ListQuery(TicketFilter, AtLeast):
    """Which tickets to list; all of it must hold."""

    view: Annotated[
        ViewName | None, Field(description="A saved view, whose filter must hold too.")
    ] = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: str | None = Field(default=None, description="The `next` of the page before.")


def router(database: Database, store: EventStore, views: Views) -> APIRouter:
    """Make the read routes over one database."""
    saved = SavedViews(database)
    routes = APIRouter(tags=["queries"])

    @routes.get("/tickets", responses=problem_responses(404, 412, 422, 503))
    async def list_tickets(
        request: Request, asked: Annotated[ListQuery, Query()], prefer: Prefer = None
    ) -> Response:
        """List tickets, the last opened first.

        What is listed is as old as `Casebook-Views-Age` says, in seconds; `after` makes it show a
        command.
        """
        opened = await views.open(asked, prefer)
        filter_ = asked.condition()
        if asked.view is not None:
            async with answering(_PATIENCE_SECONDS):
                view = await saved.find(asked.view)
            filter_ = {"$and": [filter_, view.filter.condition()]}
        if asked.cursor is not None:
            filter_.update(_behind(asked.cursor))
        newest_first = [("opened_at", -1), ("_id", -1)]

        async def question(shown: Database) -> list[JsonObject]:
            reads = shown.collection(tickets.COLLECTION)
            found = reads.find(filter_, _NOT_IN_LISTS).sort(newest_first).limit(asked.limit + 1)
            return await found.to_list()

        page = await opened.ask(question)
        following = _cursor(page[asked.limit - 1]) if len(page) > asked.limit else None
        links = _next(request, cursor=following) if following else {}
        shown = [_present(document) for document in page[: asked.limit]]
        return json_response({"tickets": shown, "next": following}, {**opened.headers, **links})

    @routes.get("/tickets/{ticket_id}", responses=problem_responses(404, 422, 503))
    async def show_ticket(ticket_id: UUID) -> Response:
        """Show a ticket as it is after its last acknowledged event."""
        read = _readable(await views.any_ticket(ticket_id))
        async with answering(_PATIENCE_SECONDS):
            behind = await store.load(ticket_id, after=read.version if read else 0)
        current = tickets.fold(read, behind)
        if current is None:
            raise TicketNotFound
        shown = _present(tickets.to_document(current))
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
        headers = _next(request, after=page[-1]["version"]) if len(stream) > limit else {}
        hidden = _INTERNAL_EVENTS if actor.role == "requester" else frozenset()
        timeline = {
            "ticket_id": ticket_id,
            "chain": "whole" if chain_is_whole(page, anchor[0] if anchor else None) else "broken",
            "events": [_tell(event) for event in page if event.get("type") not in hidden],
        }
        return json_response(timeline, headers)

    return routes


def _readable(document: Mapping[str, object] | None) -> TicketRead | None:
    """Read a document, or give None: the log has everything."""
    try:
        return None if document is None else tickets.from_document(document)
    except (KeyError, ValidationError):
        return None


def _next(request: Request, **parameters: object) -> dict[str, str]:
    address = request.url.include_query_params(**parameters)
    return {"Link": f'<{address.path}?{address.query}>; rel="next"'}


def _present(document: Mapping[str, object]) -> JsonObject:
    shown = {name: value for name, value in document.items() if name not in _INTERNAL_FIELDS}
    return {"id": shown.pop("_id"), **shown}


def _tell(stored: Mapping[str, object]) -> JsonObject:
    told = {
        name: value.hex() if isinstance(value, bytes) else value
        for name, value in stored.items()
        if name != "ticket_id"
    }
    return {"id": told.pop("_id", None), **told}


# --- keyset cursors -----------------------------------------------------------------------------

_POSITION: TypeAdapter[tuple[Moment, UUID]] = TypeAdapter(tuple[Moment, UUID])


def _cursor(document: Mapping[str, object]) -> str:
    position = orjson.dumps([document["opened_at"], document["_id"]])
    return base64.urlsafe_b64encode(position).decode().rstrip("=")


def _behind(cursor: str) -> JsonObject:
    """Give the condition for what comes behind a cursor. Raises Unacceptable."""
    try:
        position = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        opened_at, ticket_id = _POSITION.validate_json(position)
    except (ValueError, ValidationError) as error:
        raise Unacceptable("bad_cursor", "cursor must be the `next` of a page") from error
    return {
        "opened_at": {"$lte": opened_at},
        "$or": [{"opened_at": {"$lt": opened_at}}, {"_id": {"$lt": ticket_id}}],
    }
