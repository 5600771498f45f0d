"""Lists of tickets, from `ticket_reads`: what the projector has written.

No query runs an aggregation.
"""

from typing import Annotated
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field, TypeAdapter

from api.answers import json_response, next_link
from api.cursors import Cursors
from api.problems import problem_responses
from api.representations import INTERNAL_FIELDS, present
from api.visible import AtLeast, Prefer, Views
from domain.events import JsonObject
from domain.values import Moment
from eventstore.driver import Database
from eventstore.failures import answering
from projections import tickets
from projections.saved_views import SavedViews, TicketFilter, ViewName

_NOT_IN_LISTS = dict.fromkeys((*INTERNAL_FIELDS, "body"), 0)
_PATIENCE_SECONDS = 10.0


class ListQuery(TicketFilter, AtLeast):
    """Which tickets to list; all of it must hold."""

    view: Annotated[
        ViewName | None, Field(description="A saved view, whose filter must hold too.")
    ] = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: str | None = Field(default=None, description="The `next` of the page before.")


def router(database: Database, views: Views) -> APIRouter:
    """Make the routes over one database."""
    saved = SavedViews(database)
    cursors = Cursors(database, "tickets")
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
            filter_.update(_behind(await cursors.read(asked.cursor)))
        newest_first = [("opened_at", -1), ("_id", -1)]

        async def question(shown: Database) -> list[JsonObject]:
            reads = shown.collection(tickets.COLLECTION)
            found = reads.find(filter_, _NOT_IN_LISTS).sort(newest_first).limit(asked.limit + 1)
            return await found.to_list()

        page = await opened.ask(question)
        following = None
        if len(page) > asked.limit:
            last = page[asked.limit - 1]
            following = await cursors.write([last["opened_at"], last["_id"]])
        links = next_link(request, cursor=following) if following else {}
        shown = [present(document) for document in page[: asked.limit]]
        return json_response({"tickets": shown, "next": following}, {**opened.headers, **links})

    return routes


_POSITION: TypeAdapter[tuple[Moment, UUID]] = TypeAdapter(tuple[Moment, UUID])


def _behind(position: object) -> JsonObject:
    """Give the condition for what comes behind a position."""
    opened_at, ticket_id = _POSITION.validate_json(orjson.dumps(position))
    return {
        "opened_at": {"$lte": opened_at},
        "$or": [{"opened_at": {"$lt": opened_at}}, {"_id": {"$lt": ticket_id}}],
    }
