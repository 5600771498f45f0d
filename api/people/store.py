"""What is held on persons, and how their erasure begins.

An erasure is durable with its first step, and there is no way back. The second follows at once
(`erasure.py`), the third is the projector's (`projections/erasure/eraser.py`).
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import asdict
from uuid import UUID

from api.access import keys
from api.access.access_log import AccessLog
from api.access.principals import Principal
from api.feed.format import error_line, event_line, json_line
from api.people.erasure import ErasureWorker, named_tickets
from api.webhooks.store import Webhooks
from domain import people
from domain.errors import CasebookError, NotFound, PersonGone
from domain.people import ErasePerson
from domain.values import JsonObject, one_spelling
from eventstore.database import Database
from eventstore.log import EventStore
from eventstore.mongo.errors import DriverError, time_limit
from eventstore.personal import sealing
from eventstore.personal.vault import Person, UnknownPerson
from projections.erasure.progress import Erasures, Step
from projections.views.saved_views import SavedViews

MOST_ERASED = 200
"""Erasures that are listed."""
_EVENTS_AT_A_TIME = 25  # then other tasks have a turn


class _Withheld:
    """Stands for the key of another person, whose words are withheld."""

    def open(self, _text: str, _place: bytes, _leaf: sealing.Leaf | None = None) -> object:
        return "[withheld]"


_WITHHELD = _Withheld()


class AlreadyErased(NotFound):
    """For example: what is held on somebody who has been erased."""

    def __init__(self) -> None:
        super().__init__("person_is_erased", "the person has been erased; nothing is held on them")


class Persons:
    """What is held on persons."""

    def __init__(self, database: Database, store: EventStore) -> None:
        self._database = database
        self._store = store
        self._vault = database.vault
        self._erasures = Erasures(database)
        self._forgetting = ErasureWorker(database, store)

    async def find(self, name: str) -> JsonObject:
        """Return what is known of who has a name, and who has one that is spelled alike.

        Raises UnknownPerson, StoreUnavailable.
        """
        async with time_limit():
            try:
                person = await self._vault.find(name)
            except UnknownPerson:
                # What was written before anything was sealed has no key; to be erased takes one.
                if not await self._is_named(name):
                    raise
                with suppress(PersonGone):
                    await self._vault.of_names([name])
                person = await self._vault.find(name)
            shown = await self._shown(person)
        _, alike = await self._vault.persons_of(name)
        return {**shown, "alike": _named(alike)}

    async def _same(self, person: Person) -> tuple[list[Person], list[Person]]:
        """Return a person, with all others who have their name in another spelling; and those whose
        names are alike.
        """
        if person.name is None:
            return [person], []
        with suppress(PersonGone):  # of its one spelling they are erased
            await self._vault.of_names([one_spelling(person.name)])
        same, alike = await self._vault.persons_of(person.name)
        return [person, *(each for each in same if each.id != person.id)], alike

    async def _is_named(self, name: str) -> bool:
        """Return whether anything names a person."""
        of_keys = self._database.collection(keys.COLLECTION)
        return bool(
            await named_tickets(self._database, name)
            or await of_keys.find_one({"$or": [{"principal": name}, {"created_by": name}]})
        )

    async def erased(self) -> list[JsonObject]:
        """Return who has been erased, by id, the last first, and when each step was taken."""
        async with time_limit():
            taken = await self._erasures.all()
        last = sorted(taken.items(), key=lambda each: max(each[1].values()), reverse=True)
        return [{"id": person, "steps": steps} for person, steps in last[:MOST_ERASED]]

    async def show(self, id_: UUID) -> JsonObject:
        """Return what is known of a person. Raises UnknownPerson, StoreUnavailable."""
        async with time_limit():
            return await self._shown(await self._vault.person(id_))

    async def erase(self, id_: UUID, command: ErasePerson, by: Principal) -> JsonObject:
        """Erase a person by all spellings of their name, durably, and go on with that as far as it
        can be done at once. Return also who has a name that is spelled alike, and is another.

        Raises UnknownPerson, StoreUnavailable.
        """
        asked = await self._vault.person(id_)
        same, alike = await self._same(asked)
        async with time_limit():
            for person in same[::-1]:  # the one that was asked for last: then all of it is done
                known_by = (await self._vault.known_as(person.id)).hex()
                past = await self._erasures.steps(person.id)
                for event in people.erase(len(past), command, known_by):
                    await self._erasures.take(person.id, event, by.actor)
        with suppress(DriverError, CasebookError):  # it is on record, and done in any case
            async with time_limit():
                for person in same:
                    await self._forgetting.forget(person.id)
        return {**await self.show(id_), "alike": _named(alike)}

    async def data(self, id_: UUID) -> AsyncIterator[bytes]:
        """Return all that is held on a person, line by line.

        Raises UnknownPerson, AlreadyErased, StoreUnavailable; what goes wrong later is a line.
        """
        async with time_limit():
            person = await self._vault.person(id_)
            erased = await self._erasures.steps(id_)
            if person.name is None or erased:
                raise AlreadyErased
        same, _ = await self._same(person)
        async with time_limit():
            ids = await named_tickets(self._database, person.name)
            for each in same:
                ids.update(await self._store.tickets_of(each.id))
        return self._lines(person, person.name, {each.id for each in same}, sorted(ids))

    async def _lines(
        self, person: Person, name: str, same: set[UUID], ids: list[UUID]
    ) -> AsyncIterator[bytes]:
        spellings = sorted({name, one_spelling(name)})
        yield json_line({"person": {"id": person.id, "name": name, "known_since": person.made_at}})
        try:
            for ticket_id in ids:
                is_theirs = False
                async for part in self._store.parts(ticket_id):
                    # Each time anew: they may be erased while this is read.
                    own = await self._vault.of_ids(same)
                    if not isinstance(own.get(person.id), sealing.PersonKey):
                        raise AlreadyErased
                    for n, stored in enumerate(part):
                        if n % _EVENTS_AT_A_TIME == 0:
                            await asyncio.sleep(0)
                        whose = set(sealing.persons(stored))
                        event = sealing.opened(stored, dict.fromkeys(whose, _WITHHELD) | own)
                        event = self._vault.news.redactions.without(event)
                        if "requester" in event["data"]:
                            requester = str(event["data"]["requester"])
                            is_theirs = one_spelling(requester) == one_spelling(name)
                        if is_theirs or not same.isdisjoint(whose):
                            yield event_line(stored, event)
            for id_ in same:
                async for record in AccessLog(self._database).of(id_, name):
                    yield json_line({"access": record})
            of_keys = self._database.collection(keys.COLLECTION)
            for spelled in spellings:
                async for key in of_keys.find({"principal": spelled}, {"hash": 0}):
                    yield json_line({"api_key": key})
                for view in await SavedViews(self._database).names_asking_for(spelled):
                    yield json_line({"saved_view": view})
                for hook in await Webhooks(self._database).ids_asking_for(spelled):
                    yield json_line({"webhook": hook})
            yield json_line({"end": {"tickets": len(ids)}})
        except (DriverError, CasebookError) as error:
            code = error.code if isinstance(error, CasebookError) else "store_unavailable"
            yield error_line(code, "this is not all there is; ask again")

    async def _shown(self, person: Person) -> JsonObject:
        steps = await self._erasures.steps(person.id)
        return {
            "id": person.id,
            "name": None if steps else person.name,
            "known_since": person.made_at,
            "erasure": [_shown(step) for step in steps],
        }


def _named(persons: Iterable[Person]) -> list[JsonObject]:
    return [{"id": person.id, "name": person.name} for person in persons]


def _shown(step: Step) -> JsonObject:
    data = asdict(step.event)
    data.pop("known_by", None)
    return {"step": type(step.event).__name__, "at": step.at, "by": step.by, "data": data}
