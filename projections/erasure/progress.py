"""Who has been erased, and how far that has come.

    person_events   a stream per person, in the form of the log's events; `ticket_id` is the person

      1 PersonErased       durable before anything else is done: from here on there is no way back
      2 KeyDestroyed       by any process that serves (`api/people/erasure.py`)
      3 ErasureCompleted   by any process that projects (`views.py`)

Each step may be done again, by any process, after any crash: the first one to append has done it.
"""

from collections import defaultdict
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple
from uuid import UUID, uuid4

from domain import people
from domain.actors import Actor
from domain.errors import HistoryError
from domain.people import STEPS, PersonErased, PersonEvent
from eventstore.database import Database
from eventstore.event_document import EMPTY, CommandRef, Head, Metadata, fingerprint
from eventstore.failures import VersionConflict
from eventstore.log import EventStore
from eventstore.mongo.limits import Index, make_indexes
from eventstore.personal.erasure_news import PERSON_EVENTS

_KNOWN_BY = "data.known_by_1"
SYSTEM = Actor("casebook", "system")


class Step(NamedTuple):
    """A step that has been taken: what, when and by whom."""

    event: PersonEvent
    at: datetime
    by: str


class Erasures:
    """The erasures of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._store = EventStore(database, PERSON_EVENTS)
        self._events = database.collection(PERSON_EVENTS)
        self._seen: tuple[object, dict[UUID, int]] = (None, {})  # what is unfinished

    async def prepare(self) -> None:
        """Make the indexes. Safe to repeat."""
        await self._store.prepare()
        # By which a name is found that is refused for ever.
        if _KNOWN_BY not in await self._events.index_information():
            await make_indexes(self._events, Index([("data.known_by", 1)]))

    async def steps(self, person: UUID) -> list[Step]:
        """Return the steps that have been taken for a person; none for one who is not erased.

        Raises StoreUnavailable, HistoryError.
        """
        steps: list[Step] = []
        for event in await self._store.load(person):
            try:
                step = people.decode(*event.readable[:3])
            except HistoryError as error:
                raise error.at(person, event.version) from error
            steps.append(Step(step, event.recorded_at, event.metadata.actor.id))
        return steps

    async def all(self) -> dict[UUID, dict[str, datetime]]:
        """Return when which step was taken, for all who are erased: some bytes for each of them."""
        taken: dict[UUID, dict[str, datetime]] = defaultdict(dict)
        async for event in self._store.scan_stored(("ticket_id", "type", "recorded_at")):
            taken[event["ticket_id"]][event["type"]] = event["recorded_at"]
        return taken

    async def known_by(self, person: UUID) -> bytes:
        """Return the lookup digest of an erased person's name. Raises HistoryError for another."""
        steps = await self.steps(person)
        if not steps or not isinstance(steps[0].event, PersonErased):
            raise HistoryError("not_erased", "the person has not been erased")
        return bytes.fromhex(steps[0].event.known_by)

    async def take(self, person: UUID, event: PersonEvent, actor: Actor = SYSTEM) -> bool:
        """Record that a step has been taken; return whether no other process had recorded it.

        Raises HistoryError if the step before it has not been done, StoreUnavailable.
        """
        before = await self._store.load(person)
        wanted = STEPS.index(type(event))
        if len(before) != wanted:
            if len(before) > wanted:
                return False
            raise HistoryError("not_the_next_step", f"{type(event).__name__} is not the next step")
        data = people.encode(event)
        command = CommandRef(str(uuid4()), fingerprint({"event": data.type, "data": data.data}))
        head = Head(before[-1].version, before[-1].hash) if before else EMPTY
        now = await self._store.clock.time()
        about = Metadata(actor, command)
        with suppress(VersionConflict):
            await self._store.append(await self._store.chain(person, head, [data], about, now, now))
            self._database.vault.news.look_again()
            return True
        return False

    async def at(self, step: type[PersonEvent]) -> list[UUID]:
        """Return those whose last step this is, or was `STALE_SECONDS` ago; what was done by this
        process counts at once. Asks nothing while no erasure is under way.
        """
        news = await self._database.vault.news.latest()
        if self._seen[0] != news:
            heads = await self._store.heads()
            unfinished = {p: version for p, (version, _) in heads.items() if version < len(STEPS)}
            self._seen = news, unfinished
        wanted = STEPS.index(step) + 1
        return [person for person, version in self._seen[1].items() if version == wanted]

    async def tombstones(self) -> dict[bytes, UUID]:
        """Return all who have been erased, by the lookup digests of their names."""
        tombstones = self._store.scan_stored(("ticket_id", "data.known_by"), {"version": 1})
        return {
            bytes.fromhex(str(each["data"]["known_by"])): each["ticket_id"]
            async for each in tombstones
        }
