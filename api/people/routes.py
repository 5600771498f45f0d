"""The routes of persons: what is held on them, and their erasure."""

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from datetime import datetime
from typing import Literal
from uuid import UUID

from fastapi import Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.types import Receive, Scope, Send

from api.access.quotas import Quotas
from api.http.caller import CurrentPrincipal
from api.http.problems import problem_responses
from api.http.routing import Router
from api.people.store import MOST_ERASED, Persons
from domain.people import ErasePerson
from domain.values import JsonObject, Name
from eventstore.database import Database
from eventstore.failures import StoreBusy
from eventstore.log import EventStore

_EXPORTS_AT_ONCE = 8
_EXPORTS_EACH = 2


class PersonAsked(BaseModel, extra="forbid"):
    """Whom to find. In the body: names have no business in addresses, which many keep."""

    name: Name = Field(description="As it stands on tickets, as requester or follower.")


class ErasureStep(BaseModel, extra="forbid"):
    """A step of an erasure, and when it was taken."""

    step: Literal["PersonErased", "KeyDestroyed", "ErasureCompleted"]
    at: datetime
    by: str
    data: JsonObject


class Alike(BaseModel, extra="forbid"):
    """Another person: if it is the same one, erase them too."""

    id: UUID
    name: str


class PersonAnswer(BaseModel, extra="forbid"):
    """What the store of keys knows of a person."""

    id: UUID
    name: str | None = Field(description="Null once they have been erased.")
    known_since: datetime | None
    erasure: list[ErasureStep] = Field(
        description="Empty unless they are erased. Complete with `ErasureCompleted`."
    )
    alike: list[Alike] | None = Field(
        default=None,
        description="Others whose names differ from theirs by case, width or normalisation alone, "
        "told when they are found and when they are erased.",
    )


class Erased(BaseModel, extra="forbid"):
    """A person who has been erased. `steps`: when each was taken that has been."""

    id: UUID
    steps: dict[str, datetime]


class ErasuresAnswer(BaseModel, extra="forbid"):
    """Who has been erased, the last first."""

    erasures: list[Erased] = Field(description=f"The last {MOST_ERASED}.")


class NdjsonFile(StreamingResponse):
    """Lines as they are read; `close` is called in the end, however it ends."""

    media_type = "application/x-ndjson"

    def __init__(self, lines: AsyncIterator[bytes], close: Callable[[], None]) -> None:
        super().__init__(lines)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


def router(database: Database, store: EventStore) -> Router:
    """Make the routes over one database."""
    routes = Router("persons")
    known = Persons(database, store)
    exports = Quotas("exports", _EXPORTS_AT_ONCE, _EXPORTS_EACH, StoreBusy)

    @routes.post(
        "/persons/find", response_model=PersonAnswer, responses=problem_responses(404, 409)
    )
    async def find_person(asked: PersonAsked) -> JsonObject:
        """Find a person by name: the answer has the id that the other routes take."""
        return await known.find(asked.name)

    @routes.get("/persons", response_model=ErasuresAnswer)
    async def list_erasures() -> JsonObject:
        """List who has been erased, and how far each erasure has come."""
        return {"erasures": await known.erased()}

    @routes.get(
        "/persons/{person_id}", response_model=PersonAnswer, responses=problem_responses(404, 409)
    )
    async def show_person(person_id: UUID) -> JsonObject:
        """Show a person's name, or, if they are erased, how far the erasure has come."""
        return await known.show(person_id)

    @routes.get(
        "/persons/{person_id}/data",
        status_code=200,
        response_class=NdjsonFile,
        responses={
            200: {
                "description": "A JSON document a line: `person`; each event of a ticket of "
                "theirs, or in which something is, like `TimelineEvent` with its `ticket_id` and "
                "without `changes`, others' words withheld; `access`, `api_key`, `saved_view`, "
                "`webhook`; `end` if it is all there is, or `error`."
            },
            **problem_responses(404, 409),
        },
    )
    async def export_person(person_id: UUID, who: CurrentPrincipal) -> Response:
        """Export everything that is held on a person: their right of access."""
        with ExitStack() as held:
            held.enter_context(exports.hold(who.share))
            lines = await known.data(person_id)
            return NdjsonFile(lines, held.pop_all().close)

    @routes.post(
        "/persons/{person_id}/erase",
        response_model=PersonAnswer,
        status_code=202,
        responses=problem_responses(404, 409),
    )
    async def erase_person(
        person_id: UUID, command: ErasePerson, who: CurrentPrincipal
    ) -> JsonObject:
        """Erase a person: what they wrote and their name become unreadable, for good. All
        spellings that differ by Unicode's normalisation, or by the case of a mail address's domain,
        are one person; `alike` names others that may be the same one, who are not erased.

        The erasure is durable with this answer, and cannot be undone. Lists and tickets follow
        within seconds, all of them within some minutes: then `GET /persons/{id}` shows
        `ErasureCompleted`. What was done to a ticket, and when, stays.
        """
        return await known.erase(person_id, command, who)

    return routes
