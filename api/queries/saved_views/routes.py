"""The routes of saved views: named filters with a count that is kept, not counted."""

from datetime import datetime
from functools import partial
from http import HTTPStatus

from fastapi import Response
from pydantic import Field

from api.http.answers import json_response, with_headers
from api.http.caller import CurrentPrincipal
from api.http.preferences import Prefer
from api.http.problems import VIEW_RESPONSES, problems
from api.http.routing import InQuery, Router
from api.model import ApiModel
from api.queries.visibility import Visibility, VisibilityPolicy
from api.queries.watermark import FreshnessQuery, ReadModels
from domain.values import JsonObject
from eventstore.database import Database
from eventstore.documents import named
from eventstore.mongo.errors import time_limit
from projections.projector.checkpoints import Checkpoints
from projections.views.saved_views import SavedView, SavedViews, TicketFilter, ViewName


class SavedViewAnswer(ApiModel):
    """A named filter, and how many tickets match it."""

    name: ViewName
    filter: TicketFilter
    saved_at: datetime
    count: int | None
    """Null while it is counted for the first time, and for agents of groups."""


class SavedViewsAnswer(ApiModel):
    """All of them by name."""

    views: list[SavedViewAnswer]
    unreadable: list[str] = Field(default=[])
    """Names of views that another version has saved, and this one cannot read."""


def router(database: Database, views: ReadModels, policy: VisibilityPolicy) -> Router:
    """Make the routes over one database."""
    saved = SavedViews(database)
    routes = Router("saved views", prefix="/views")

    async def answers(
        found: list[SavedView], visible: Visibility, shown: Database
    ) -> list[JsonObject]:
        """Return views with their counts: null for one that has not been counted everywhere yet,
        and for a caller who does not see all that is counted.
        """
        state, counts = await Checkpoints(shown).read(), await SavedViews(shown).counts()
        counted = frozenset.intersection(*(p.views for p in state.partitions))
        return [
            {
                "name": view.name,
                "filter": view.filter.model_dump(exclude_none=True),
                "saved_at": view.saved_at,
                "count": counts[view.id] if visible.is_of_all and view.id in counted else None,
            }
            for view in found
        ]

    @routes.get("", response_model=SavedViewsAnswer, responses=VIEW_RESPONSES)
    async def list_views(
        who: CurrentPrincipal, asked: InQuery[FreshnessQuery], prefer: Prefer = None
    ) -> Response:
        """List the saved views by name, each with the number of tickets that match it.

        The count is exact, and as new as the views are; it is null until it is first known.
        """
        visible, snapshot = await policy.open(who, asked, prefer)
        async with time_limit():
            found, unreadable = await saved.all_apart()
        content = await snapshot.ask(partial(answers, found, visible))
        return json_response({"views": content, **named(unreadable)}, snapshot.headers)

    @routes.get("/{name}", response_model=SavedViewAnswer, responses=VIEW_RESPONSES)
    async def show_view(
        name: ViewName,
        who: CurrentPrincipal,
        asked: InQuery[FreshnessQuery],
        prefer: Prefer = None,
    ) -> Response:
        """Show one saved view; its tickets are at `/tickets?view=<name>`."""
        visible, snapshot = await policy.open(who, asked, prefer)
        async with time_limit():
            found = [await saved.find(name)]
        [content] = await snapshot.ask(partial(answers, found, visible))
        return json_response(content, snapshot.headers)

    @routes.put(
        "/{name}",
        response_model=SavedViewAnswer,
        responses={
            200: with_headers("Location"),
            201: {
                "model": SavedViewAnswer,
                "description": "Nothing had the name",
                **with_headers("Location"),
            },
            **problems(409),
        },
    )
    async def save_view(name: ViewName, who: CurrentPrincipal, asked: TicketFilter) -> Response:
        """Save a filter under a name, instead of the one that has the name. 201 if none had it."""
        async with time_limit():
            if asked.requester is not None:
                await database.vault.check_name(asked.requester)
            view, is_new = await saved.save(name, asked)
        [content] = await views.ask(partial(answers, [view], await policy.of(who)))
        status = HTTPStatus.CREATED if is_new else HTTPStatus.OK
        return json_response(content, {"Location": f"/views/{name}"}, status)

    @routes.delete("/{name}", status_code=204, responses=problems(404))
    async def delete_view(name: ViewName) -> None:
        """Delete a saved view, and none of its tickets."""
        async with time_limit():
            await saved.delete(name)

    return routes
