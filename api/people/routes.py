"""The routes of persons: what is held on them, and their erasure."""

from contextlib import ExitStack
from datetime import datetime
from typing import Literal
from uuid import UUID

from fastapi import Response
from pydantic import Field

from api.access.quotas import Quotas
from api.http.answers import NdjsonResponse
from api.http.caller import CurrentPrincipal
from api.http.problems import problems
from api.http.routing import Router
from api.model import ApiModel
from api.people.store import MOST_ERASED, Persons
from domain.people import ErasePerson
from domain.values import JsonObject, Name
from eventstore.database import Database
from eventstore.failures import StoreBusy
from eventstore.log import EventStore

_EXPORTS_AT_ONCE = 8
_EXPORTS_EACH = 2


class PersonAsked(ApiModel):
    """Whom to find. In the body: names have no business in addresses, which many keep."""

    name: Name
    """As it stands on tickets, as requester or follower."""


class ErasureStep(ApiModel):
    """A step of an erasure, and when it was taken."""

    step: Literal["PersonErased", "KeyDestroyed", "ErasureCompleted"]
    at: datetime
    by: str
    data: JsonObject


class Alike(ApiModel):
    """Another person: if it is the same one, erase them too."""

    id: UUID
    name: str


class PersonAnswer(ApiModel):
    """What the store of keys knows of a person."""

    id: UUID
    name: str | None
    """Null once they have been erased."""
    known_since: datetime | None
    erasure: list[ErasureStep]
    """Empty unless they are erased. Complete with `ErasureCompleted`."""
    alike: list[Alike] | None = None
    """Others whose names differ from theirs by case, width or normalisation alone, told when they
    are found and when they are erased.
    """


class Erased(ApiModel):
    """A person who has been erased. `steps`: when each was taken that has been."""

    id: UUID
    steps: dict[str, datetime]


class ErasuresAnswer(ApiModel):
    """Who has been erased, the last first."""

    erasures: list[Erased] = Field(description=f"The last {MOST_ERASED}.")


def router(database: Database, store: EventStore) -> Router:
    """Make the routes over one database."""
    routes = Router("persons")
    known = Persons(database, store)
    exports = Quotas("exports", _EXPORTS_AT_ONCE, _EXPORTS_EACH, StoreBusy)

    @routes.post("/persons/find", response_model=PersonAnswer, responses=problems(404, 409))
    async def find_person(asked: PersonAsked) -> JsonObject:
        """Find a person by name: the answer has the id that the other routes take."""
        return await known.find(asked.name)

    @routes.get("/persons", response_model=ErasuresAnswer)
    async def list_erasures() -> JsonObject:
        """List who has been erased, and how far each erasure has come."""
        return {"erasures": await known.erased()}

    @routes.get("/persons/{person_id}", response_model=PersonAnswer, responses=problems(404, 409))
    async def show_person(person_id: UUID) -> JsonObject:
        """Show a person's name, or, if they are erased, how far the erasure has come."""
        return await known.show(person_id)

    @routes.get(
        "/persons/{person_id}/data",
        status_code=200,
        response_class=NdjsonResponse,
        responses={
            200: {
                "description": "A JSON document a line: `person`; each event of a ticket of "
                "theirs, or in which something is, like `TimelineEvent` with its `ticket_id` and "
                "without `changes`, others' words withheld; `access`, `api_key`, `saved_view`, "
                "`webhook`; `end` if it is all there is, or `error`."
            },
            **problems(404, 409),
        },
    )
    async def export_person(person_id: UUID, who: CurrentPrincipal) -> Response:
        """Export everything that is held on a person: their right of access."""
        with ExitStack() as held:
            held.enter_context(exports.hold(who.share))
            lines = await known.data(person_id)
            return NdjsonResponse(lines, held.pop_all().close)

    @routes.post(
        "/persons/{person_id}/erase",
        response_model=PersonAnswer,
        status_code=202,
        responses=problems(404, 409),
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
