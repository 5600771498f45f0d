"""Persons: what is held on them, and their erasure, as clients ask for it.

An erasure is durable with its first step, and there is no way back. The second follows at once
(`forgetting.py`), the third is that of whoever projects (`projections/erasure/views.py`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from pymongo.errors import PyMongoError
from starlette.types import Receive, Scope, Send

from api.access import access_log, keys
from api.access.rights import CurrentPrincipal, Principal
from api.access.shares import Shares
from api.feed.format import error_line, told_line
from api.http.answers import json_response
from api.http.problems import problem_responses
from api.people.erasure import Forgetting, named_tickets
from api.webhooks.store import Webhooks
from domain import persons
from domain.errors import CasebookError, NotFound
from domain.events import JsonObject
from domain.persons import ErasePerson
from domain.values import Name
from eventstore.failures import StoreBusy, answering
from eventstore.log import EventStore
from eventstore.mongo.driver import Database
from eventstore.personal import sealing
from eventstore.personal.vault import Person, UnknownPerson
from projections.erasure.progress import Erasures, Step
from projections.views.saved_views import SavedViews

_TOLD_AT_A_TIME = 25  # then others have a turn
_EXPORTS_AT_ONCE = 8
_EXPORTS_EACH = 2


class _Withheld:
    """Opens nothing: it is somebody else's."""

    def open(self, text: str, place: bytes) -> object:  # noqa: ARG002
        return "[withheld]"


_WITHHELD = _Withheld()


class AlreadyErased(NotFound):
    """For example: what is held on somebody who has been erased."""

    def __init__(self) -> None:
        super().__init__("person_is_erased", "the person has been erased; nothing is held on them")


class PersonAsked(BaseModel):
    """Whom to find. In the body: names have no business in addresses, which many keep."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(description="As tickets have it: their requester, or who follows them.")


class ErasureStep(BaseModel):
    """A step of an erasure, and when it was taken."""

    model_config = ConfigDict(extra="forbid")

    step: Literal["PersonErased", "KeyDestroyed", "ErasureCompleted"]
    at: datetime
    by: str
    data: JsonObject


class PersonAnswer(BaseModel):
    """What the keys know of somebody."""

    model_config = ConfigDict(extra="forbid")

    id: UUID
    name: str | None = Field(description="Null once they have been erased.")
    known_since: datetime | None
    erasure: list[ErasureStep] = Field(
        description="Empty unless they are erased. Complete with `ErasureCompleted`."
    )


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


class Persons:
    """What is held on persons."""

    def __init__(self, database: Database, store: EventStore) -> None:
        self._database = database
        self._store = store
        self._vault = database.vault
        self._erasures = Erasures(database)
        self._forgetting = Forgetting(database, store)

    async def find(self, name: str) -> JsonObject:
        """Say what is known of who has a name. Raises UnknownPerson, StoreUnavailable."""
        async with answering():
            try:
                person = await self._vault.find(name)
            except UnknownPerson:
                # What was written before anything was sealed has no key; to be erased takes one.
                if not await self._is_named(name):
                    raise
                await self._vault.of_names([name])
                person = await self._vault.find(name)
            return await self._told(person)

    async def _is_named(self, name: str) -> bool:
        """Say whether anything names somebody."""
        records = self._database.collection(access_log.COLLECTION)
        of_keys = self._database.collection(keys.COLLECTION)
        return bool(
            await named_tickets(self._database, name)
            or await records.find_one({"principal.id": name}, {"_id": 1})
            or await of_keys.find_one({"$or": [{"principal": name}, {"created_by": name}]})
        )

    async def show(self, id_: UUID) -> JsonObject:
        """Say what is known of a person. Raises UnknownPerson, StoreUnavailable."""
        async with answering():
            return await self._told(await self._vault.person(id_))

    async def erase(self, id_: UUID, command: ErasePerson, by: Principal) -> JsonObject:
        """Erase a person, durably, and go on with that as far as it can be done at once.

        Raises UnknownPerson, StoreUnavailable.
        """
        async with answering():
            person = await self._vault.person(id_)
            known_by = (await self._vault.known_as(person.id)).hex()
            past = await self._erasures.steps(person.id)
            for event in persons.erase(len(past), command, known_by):
                await self._erasures.take(person.id, event, by.actor)
        with suppress(PyMongoError, CasebookError):  # it is on record, and done in any case
            async with answering():
                await self._forgetting.forget(person.id)
        return await self.show(id_)

    async def data(self, id_: UUID) -> AsyncIterator[bytes]:
        """Give all that is held on a person, line by line.

        Raises UnknownPerson, AlreadyErased, StoreUnavailable; what goes wrong later is a line.
        """
        async with answering():
            person = await self._vault.person(id_)
            erased = await self._erasures.steps(id_)
            ids = set(await self._store.tickets_of(id_))
            if person.name is None or erased:
                raise AlreadyErased
            ids |= await named_tickets(self._database, person.name)
        return self._lines(person, person.name, sorted(ids))

    async def _lines(self, person: Person, name: str, ids: list[UUID]) -> AsyncIterator[bytes]:
        yield _line({"person": {"id": person.id, "name": name, "known_since": person.made_at}})
        try:
            for ticket_id in ids:
                is_theirs = False
                async for part in self._store.parts(ticket_id):
                    # Each time anew: they may be erased while this is read.
                    own = await self._vault.of_ids([person.id])
                    if not isinstance(own.get(person.id), sealing.PersonKey):
                        raise AlreadyErased
                    for n, stored in enumerate(part):
                        if n % _TOLD_AT_A_TIME == 0:
                            await asyncio.sleep(0)
                        whose = set(sealing.persons(stored))
                        event = sealing.opened(stored, dict.fromkeys(whose, _WITHHELD) | own)
                        if "requester" in event["data"]:
                            is_theirs = event["data"]["requester"] == name
                        if is_theirs or person.id in whose:
                            yield told_line(stored, event)
            for kind, collection, named in (
                ("access", access_log.COLLECTION, "principal.id"),
                ("api_key", keys.COLLECTION, "principal"),
            ):
                found = self._database.collection(collection).find({named: name}, {"hash": 0})
                async for document in found:
                    yield _line({kind: document})
            for view in await SavedViews(self._database).names_asking_for(name):
                yield _line({"saved_view": view})
            for hook in await Webhooks(self._database).ids_asking_for(name):
                yield _line({"webhook": hook})
            yield _line({"end": {"tickets": len(ids)}})
        except (PyMongoError, CasebookError) as error:
            code = error.code if isinstance(error, CasebookError) else "store_unavailable"
            yield error_line(code, "this is not all there is; ask again")

    async def _told(self, person: Person) -> JsonObject:
        steps = await self._erasures.steps(person.id)
        return {
            "id": person.id,
            "name": None if steps else person.name,
            "known_since": person.made_at,
            "erasure": [_told(step) for step in steps],
        }


def _told(step: Step) -> JsonObject:
    data = asdict(step.event)
    data.pop("known_by", None)
    return {"step": type(step.event).__name__, "at": step.at, "by": step.by, "data": data}


def _line(content: JsonObject) -> bytes:
    return orjson.dumps(content, default=str, option=orjson.OPT_APPEND_NEWLINE)


def router(database: Database, store: EventStore) -> APIRouter:
    """Make the routes over one database."""
    routes = APIRouter(tags=["persons"])
    known = Persons(database, store)
    exports = Shares("exports")

    @routes.post(
        "/persons/find",
        response_model=PersonAnswer,
        responses=problem_responses(404, 409, 422, 503),
    )
    async def find_person(asked: PersonAsked) -> Response:
        """Find somebody by name, to have the id by which all else is asked for."""
        return json_response(await known.find(asked.name), {})

    @routes.get(
        "/persons/{person_id}",
        response_model=PersonAnswer,
        responses=problem_responses(404, 409, 422, 503),
    )
    async def show_person(person_id: UUID) -> Response:
        """Say who it is; or, of somebody who is erased, how far that has come."""
        return json_response(await known.show(person_id), {})

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
            **problem_responses(404, 409, 422, 503),
        },
    )
    async def export_person(person_id: UUID, who: CurrentPrincipal) -> Response:
        """Give everything that is held on somebody, before they are erased: the right of access."""
        if not exports.take(who.share, 1, most=_EXPORTS_AT_ONCE, each=_EXPORTS_EACH):
            raise StoreBusy
        close = partial(exports.give_back, who.share, 1)
        try:
            return NdjsonFile(await known.data(person_id), close)
        except BaseException:
            close()
            raise

    @routes.post(
        "/persons/{person_id}/erase",
        response_model=PersonAnswer,
        status_code=202,
        responses=problem_responses(404, 409, 422, 503),
    )
    async def erase_person(
        person_id: UUID, command: ErasePerson, who: CurrentPrincipal
    ) -> Response:
        """Erase somebody: their words and their name become unreadable, and stay so.

        It is durable with this answer, and there is no way back. What lists and tickets show
        follows within seconds, and is complete some minutes later at most: `GET /persons/{id}`
        says `ErasureCompleted` then. Facts stay: what was done to a ticket, and when.
        """
        return json_response(await known.erase(person_id, command, who), {}, 202)

    return routes
