"""The read routes: tickets and lists from `ticket_reads`, timelines from the log, the dashboard.

A single ticket is its read document with the events behind it folded in by the view's own fold, so
it always shows every acknowledged change, projector or none (law L9). Lists and the dashboard show
what the projector has written. No query runs an aggregation.
"""

import base64
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Annotated
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, TypeAdapter, ValidationError

from api.access import CurrentActor
from api.problems import problem_responses
from domain.errors import TicketNotFound, Unacceptable
from domain.events import JsonObject, NoteAdded, Priority, Status
from eventstore.driver import Database
from eventstore.envelope import EMPTY, Envelope, Head, chain_is_whole
from eventstore.store import EventStore
from projections import dashboard, tickets

_INTERNAL_FIELDS = ("opened_on", "resolved_on", "reopened_on", "closed_on")
_NOT_IN_LISTS = dict.fromkeys((*_INTERNAL_FIELDS, "body"), 0)
_INTERNAL_EVENTS = frozenset({NoteAdded.__name__})
_DEFAULT_DAYS = 30
_MOST_DAYS = 3660

Name = Annotated[str | None, Query(min_length=1, max_length=200)]
NameOrNone = Annotated[
    str | None, Query(min_length=1, max_length=200, description="`none`: those without one.")
]


class Filters(BaseModel):
    """What a list is narrowed to; all of it must hold."""

    status: Status | None = None
    priority: Priority | None = None
    group: NameOrNone = None
    assignee: NameOrNone = None
    requester: Name = None

    def query(self) -> JsonObject:
        given = self.model_dump(exclude_none=True)
        return {
            name: None if value == "none" and name in ("group", "assignee") else value
            for name, value in given.items()
        }


def router(database: Database, store: EventStore) -> APIRouter:
    """Make the read routes over one database."""
    reads = database.collection(tickets.COLLECTION)
    counters = database.collection(dashboard.COLLECTION)
    routes = APIRouter(tags=["queries"])

    @routes.get("/tickets", responses=problem_responses(422))
    async def list_tickets(
        request: Request,
        filters: Annotated[Filters, Query()],
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        cursor: Annotated[str | None, Query(description="The `next` of the page before.")] = None,
    ) -> Response:
        """List tickets, the last opened first."""
        query = filters.query()
        if cursor is not None:
            query.update(_behind(cursor))
        newest_first = [("opened_at", -1), ("_id", -1)]
        found = reads.find(query, _NOT_IN_LISTS).sort(newest_first).limit(limit + 1)
        page = await found.to_list()
        following = _cursor(page[limit - 1]) if len(page) > limit else None
        headers = {}
        if following is not None:
            address = request.url.include_query_params(cursor=following)
            headers["Link"] = f'<{address.path}?{address.query}>; rel="next"'
        shown = [_present(document) for document in page[:limit]]
        return _json({"tickets": shown, "next": following}, headers)

    @routes.get("/tickets/{ticket_id}", responses=problem_responses(404, 422))
    async def show_ticket(ticket_id: UUID) -> Response:
        """Show a ticket as it is after its last acknowledged event."""
        document = await reads.find_one({"_id": ticket_id})
        read = None if document is None else tickets.from_document(document)
        behind = await store.load(ticket_id, after=read.version if read else 0)
        current = tickets.fold(read, behind)
        if current is None:
            raise TicketNotFound
        shown = _present(tickets.to_document(current))
        return _json(shown, {"ETag": f'"{current.version}"'})

    @routes.get("/tickets/{ticket_id}/timeline", responses=problem_responses(404, 422))
    async def show_timeline(
        request: Request,
        ticket_id: UUID,
        actor: CurrentActor,
        after: Annotated[int, Query(ge=0, description="Behind this version.")] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    ) -> Response:
        """Tell a ticket's history from the log, with its hashes checked.

        `chain` is `whole` if every event shown is what was once written behind its predecessor,
        and `broken` if not. Requesters are not shown internal notes.
        """
        head = EMPTY
        if after > 0:
            anchor = await store.load(ticket_id, after=after - 1, limit=1)
            if not anchor:
                raise TicketNotFound
            head = Head(anchor[0].version, anchor[0].hash)
        stream = await store.load(ticket_id, after=after, limit=limit + 1)
        if not stream and after == 0:
            raise TicketNotFound
        page = stream[:limit]
        headers = {}
        if len(stream) > limit:
            address = request.url.include_query_params(after=page[-1].version)
            headers["Link"] = f'<{address.path}?{address.query}>; rel="next"'
        hidden = _INTERNAL_EVENTS if actor.role == "requester" else frozenset()
        timeline = {
            "ticket_id": ticket_id,
            "chain": "whole" if chain_is_whole(head, page) else "broken",
            "events": [_tell(envelope) for envelope in page if envelope.type not in hidden],
        }
        return _json(timeline, headers)

    @routes.get("/dashboard", responses=problem_responses(422))
    async def show_dashboard(
        first: Annotated[
            date | None, Query(alias="from", description="First UTC day; 30 days unless given.")
        ] = None,
        last: Annotated[
            date | None, Query(alias="to", description="Last UTC day; today unless given.")
        ] = None,
    ) -> Response:
        """Show the counters: the desk as it is now, and what happened on each day of a range."""
        last = last or max(first or date.min, datetime.now(UTC).date())
        first = first or last - timedelta(days=_DEFAULT_DAYS - 1)
        if not 0 <= (last - first).days < _MOST_DAYS:
            raise Unacceptable("bad_range", f"from..to must be 1 to {_MOST_DAYS} days")
        wanted = {
            "$or": [
                {"metric": {"$in": list(dashboard.NOW)}},
                {
                    "metric": {"$in": list(dashboard.BY_DAY)},
                    "label": {"$gte": first.isoformat(), "$lte": last.isoformat()},
                },
            ],
            "n": {"$ne": 0},
        }
        shown: dict[str, dict[str, object]] = {
            metric: {} for metric in (*dashboard.NOW, *dashboard.BY_DAY)
        }
        async for counter in counters.find(wanted).sort([("metric", 1), ("label", 1)]):
            shown[str(counter["metric"])][str(counter["label"])] = counter["n"]
        return _json({"from": first, "to": last, **shown}, {})

    return routes


def _json(content: object, headers: Mapping[str, str]) -> Response:
    return Response(orjson.dumps(content), 200, headers, "application/json")


def _present(document: Mapping[str, object]) -> JsonObject:
    shown = {name: value for name, value in document.items() if name not in _INTERNAL_FIELDS}
    return {"id": shown.pop("_id"), **shown}


def _tell(envelope: Envelope) -> JsonObject:
    metadata = envelope.metadata
    return {
        "version": envelope.version,
        "id": envelope.id,
        "type": envelope.type,
        "schema": envelope.schema,
        "data": envelope.data,
        "occurred_at": envelope.occurred_at,
        "recorded_at": envelope.recorded_at,
        "actor": {"id": metadata.actor.id, "role": metadata.actor.role},
        "command_id": metadata.command.id,
        "correlation_id": metadata.correlation_id,
        "causation_id": metadata.causation_id,
        "hash": envelope.hash.hex(),
    }


# --- keyset cursors -----------------------------------------------------------------------------

_POSITION: TypeAdapter[tuple[datetime, UUID]] = TypeAdapter(tuple[datetime, UUID])


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
