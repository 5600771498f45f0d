"""The routes of the desk's set-up."""

from datetime import datetime
from typing import Annotated

from fastapi import Query, Response
from pydantic import BaseModel, Field

from api.commands.routes import IfMatch, expected_version
from api.desk.store import Desks, SetUp
from api.http.answers import described_headers
from api.http.caller import CurrentPrincipal
from api.http.problems import problem_responses
from api.http.routing import Router
from domain.actors import Actor
from domain.desk import Desk


class DeskQuery(BaseModel):
    """Which set-up."""

    version: Annotated[int | None, Field(ge=0, lt=2**31, description="A former one.")] = None


class DeskAnswer(BaseModel, extra="forbid"):
    """A set-up, and who made it so when."""

    version: int
    changed_at: datetime
    changed_by: Actor
    desk: Desk


_ETAG: dict[str, object] = {"headers": described_headers("ETag")}


def router(desks: Desks) -> Router:
    """Make the routes of the set-up."""
    routes = Router("desk")

    @routes.get(
        "/desk", response_model=DeskAnswer, responses={200: _ETAG, **problem_responses(404, 409)}
    )
    async def show_desk(asked: Annotated[DeskQuery, Query()]) -> Response:
        """Show how the desk is set up, or was: groups, custom fields, SLA policies."""
        return _answer(await desks.read(asked.version))

    @routes.put(
        "/desk", response_model=DeskAnswer, responses={200: _ETAG, **problem_responses(409, 412)}
    )
    async def set_up_desk(desk: Desk, who: CurrentPrincipal, if_match: IfMatch = None) -> Response:
        """Replace the desk's set-up as a whole. All former set-ups can still be shown.

        Every process uses the new one within some seconds. Existing tickets keep what was promised
        for them.
        """
        return _answer(await desks.replace(desk, who.actor, expected_version(if_match)))

    return routes


def _answer(set_up: SetUp) -> Response:
    answer = DeskAnswer.model_validate(set_up, from_attributes=True)
    etag = {"ETag": f'"{set_up.version}"'}
    return Response(answer.model_dump_json(), 200, etag, "application/json")
