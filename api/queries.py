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
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from api.access import CurrentActor
from api.problems import problem_responses
from domain.errors import TicketNotFound, Unacceptable
from domain.events import JsonObject, NoteAdded, Priority, SlaBreached, Status
from domain.values import Moment
from eventstore.driver import Database
from eventstore.envelope import chain_is_whole
from eventstore.failures import answering
from eventstore.store import EventStore
from projections import dashboard, tickets

_INTERNAL_FIELDS = frozenset(
    ("opened_on", "resolved_on", "reopened_on", "closed_on", "sla", "next_due_at", "shape")
)
_NOT_IN_LISTS = dict.fromkeys((*_INTERNAL_FIELDS, "body"), 0)
_INTERNAL_EVENTS = frozenset({NoteAdded.__name__, SlaBreached.__name__})
_DEFAULT_DAYS = 30
_PATIENCE_SECONDS = 10.0
_MOST_DAYS = 3660

Name = Annotated[str, Field(min_length=1, max_length=200)]
NameOrNone = Annotated[str, Field(max_length=200, description="Empty: those without one.")]


class ListQuery(BaseModel):
    """Which tickets to list; all of it must hold."""

    model_config = ConfigDict(extra="forbid")

    status: Status | None = None
    priority: Priority | None = None
    group: NameOrNone | None = None
    assignee: NameOrNone | None = None
    requester: Name | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: str | None = Field(default=None, description="The `next` of the page before.")

    def filter(self) -> JsonObject:
        """Give the database's filter: values only, never a client's own operators."""
        given = self.model_dump(exclude_none=True, exclude={"limit", "cursor"})
        return {name: None if value == "" else value for name, value in given.items()}


class DashboardQuery(BaseModel):
    """Which days to show."""

    model_config = ConfigDict(extra="forbid")

    first: date | None = Field(default=None, alias="from", description="30 days unless given.")
    last: date | None = Field(default=None, alias="to", description="Today unless given.")

    def days(self, today: date) -> tuple[date, date]:
        """Give the first and last day. Raises Unacceptable."""
        last = self.last or max(self.first or today, today)
        try:
            first = self.first or last - timedelta(days=_DEFAULT_DAYS - 1)
        except OverflowError:
            first = date.min
        if not 0 <= (last - first).days < _MOST_DAYS:
            raise Unacceptable("bad_range", f"from..to must be 1 to {_MOST_DAYS} days")
        return first, last


def router(database: Database, store: EventStore) -> APIRouter:
    """Make the read routes over one database."""
    reads = database.collection(tickets.COLLECTION)
    counters = database.collection(dashboard.COLLECTION)
    routes = APIRouter(tags=["queries"])

    @routes.get("/tickets", responses=problem_responses(422, 503))
    async def list_tickets(request: Request, asked: Annotated[ListQuery, Query()]) -> Response:
        """List tickets, the last opened first."""
        filter_ = asked.filter()
        if asked.cursor is not None:
            filter_.update(_behind(asked.cursor))
        newest_first = [("opened_at", -1), ("_id", -1)]
        async with answering(_PATIENCE_SECONDS):
            found = reads.find(filter_, _NOT_IN_LISTS).sort(newest_first).limit(asked.limit + 1)
            page = await found.to_list()
        following = _cursor(page[asked.limit - 1]) if len(page) > asked.limit else None
        headers = _next(request, cursor=following) if following else {}
        shown = [_present(document) for document in page[: asked.limit]]
        return _json({"tickets": shown, "next": following}, headers)

    @routes.get("/tickets/{ticket_id}", responses=problem_responses(404, 422, 503))
    async def show_ticket(ticket_id: UUID) -> Response:
        """Show a ticket as it is after its last acknowledged event."""
        async with answering(_PATIENCE_SECONDS):
            document = await reads.find_one({"_id": ticket_id})
            read = None if document is None else tickets.from_document(document)
            behind = await store.load(ticket_id, after=read.version if read else 0)
        current = tickets.fold(read, behind)
        if current is None:
            raise TicketNotFound
        shown = _present(tickets.to_document(current))
        return _json(shown, {"ETag": f'"{current.version}"'})

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
        return _json(timeline, headers)

    @routes.get("/dashboard", responses=problem_responses(422, 503))
    async def show_dashboard(asked: Annotated[DashboardQuery, Query()]) -> Response:
        """Show the counters: the desk as it is now, and what happened on each day of a range."""
        first, last = asked.days(datetime.now(UTC).date())
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
        async with answering(_PATIENCE_SECONDS):
            async for counter in counters.find(wanted).sort([("metric", 1), ("label", 1)]):
                shown[str(counter["metric"])][str(counter["label"])] = counter["n"]
        return _json({"from": first, "to": last, **shown}, {})

    return routes


def _json(content: object, headers: Mapping[str, str]) -> Response:
    # default: what someone else has put into the log is shown as text
    return Response(orjson.dumps(content, default=str), 200, headers, "application/json")


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
