"""The routes of the desk's set-up."""

from datetime import datetime
from functools import partial
from typing import Annotated

from fastapi import Response
from pydantic import Field

from api.commands.routes import IfMatch, expected_version
from api.desk import in_use
from api.desk.store import Desks, SetUp
from api.http.answers import with_headers
from api.http.caller import CurrentPrincipal
from api.http.problems import problems
from api.http.routing import InQuery, Router
from api.model import ApiModel
from api.queries.watermark import ReadModels
from domain.actors import Actor
from domain.desk import Desk


class DeskQuery(ApiModel, extra="ignore"):
    """Which set-up."""

    version: Annotated[int | None, Field(ge=0, lt=2**31)] = None
    """A former one."""
    count: bool = False
    """Count as `left` the tickets that are still to be changed."""


class DeskAnswer(ApiModel):
    """A set-up, and who made it so when."""

    version: int
    changed_at: datetime
    changed_by: Actor
    desk: Desk
    left: int | None = None
    """How many tickets use what the desk has `retired`, and will be changed within moments; null
    unless it was asked for.
    """


_ETAG: dict[str, object] = with_headers("ETag")


def router(desks: Desks, views: ReadModels) -> Router:
    """Make the routes of the set-up."""
    routes = Router("desk")

    @routes.get("/desk", response_model=DeskAnswer, responses={200: _ETAG, **problems(404, 409)})
    async def show_desk(asked: InQuery[DeskQuery]) -> Response:
        """Show how the desk is set up, or was: groups, custom fields, SLA policies."""
        set_up = await desks.read(asked.version)
        return _answer(set_up, await in_use.left(views, set_up.desk) if asked.count else None)

    @routes.put("/desk", response_model=DeskAnswer, responses={200: _ETAG, **problems(409, 412)})
    async def set_up_desk(desk: Desk, who: CurrentPrincipal, if_match: IfMatch = None) -> Response:
        """Replace the desk's set-up as a whole. All former set-ups can still be shown.

        Every process uses the new one within some seconds. Existing tickets keep what was promised
        for them.

        A set-up that takes away a group, an agent, a field or a choice that tickets use which are
        not closed is refused (`desk_in_use`, which says how many use what), unless `retired` says
        what becomes of it: `{"groups": {"print": "network"}, "agents": {"alice": null}, "fields":
        {"floor": "clear"}, "choices": {"cause": {"toner": "ink"}}}`. Those tickets are changed by
        commands, within moments; `GET /desk?count=true` says how many are left. What was said
        once stays said until the name is there again.

        When `time_zone` or `other_time_zones` change, the views are built anew by themselves, and
        dashboards count by the former zones until then.
        """
        expected, check = expected_version(if_match), partial(in_use.check, views)
        return _answer(await desks.replace(desk, who.actor, expected, check))

    return routes


def _answer(set_up: SetUp, left: int | None = None) -> Response:
    answer = DeskAnswer.model_validate(set_up, from_attributes=True)
    answer = answer.model_copy(update={"left": left})
    etag = {"ETag": f'"{set_up.version}"'}
    return Response(answer.model_dump_json(), 200, etag, "application/json")
