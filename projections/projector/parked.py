"""Tickets whose next event could not be taken: they wait, and all others go on.

    parked_tickets   {_id: ticket id, partition, version, error, tried_at}
    repairs          {_id, ticket_id, partition}    beside the log, whichever views are shown

`version` is that of the event it stopped at: this one and those behind it wait, and the read
document stays as it was before. One whose document cannot be read is not known to wait: it is
folded as any other, and parked anew if that cannot be done.

A repair asks the partition's projector to fold a ticket again from its first event, parked or not
(`BatchWriter.refold`); if that works the ticket is parked no longer. Each request is a document of
its own, which the projector removes when it has done what it read of it: one that comes meanwhile
is another. A projector that takes a partition, as after an upgrade, tries all of its parked tickets
by itself.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID, uuid4

from domain.values import JsonObject
from eventstore.database import Database
from eventstore.documents import Reader, strict_decoder
from eventstore.log import EventStore
from eventstore.mongo.driver import Session
from eventstore.mongo.limits import Index, make_indexes
from eventstore.partition import partition_of

COLLECTION = "parked_tickets"
REPAIRS = "repairs"
_ERROR_CHARACTERS = 500
_MOST_COUNTED = 1000


@dataclass(frozen=True, slots=True)
class Parked:
    """A ticket that waits. `repair`: it is asked to be folded again."""

    ticket_id: UUID
    version: int
    error: str
    tried_at: datetime
    repair: bool = False


@dataclass(frozen=True, slots=True)
class Repair:
    """A request to fold a ticket again."""

    id: UUID
    ticket_id: UUID


class ParkedTickets:
    """The parked tickets of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._parked = database.collection(COLLECTION)
        self._repairs = database.collection(REPAIRS)
        self._reader = Reader(database.unreadable, COLLECTION, parked_from)
        self._repair = Reader(database.unreadable, REPAIRS, repair_from)

    async def prepare(self) -> None:
        """Make the collection and its index. Safe to repeat."""
        await make_indexes(self._parked, Index([("partition", 1)]))

    async def waiting_events(self, store: EventStore, parked: Sequence[Parked]) -> Counter[UUID]:
        """Count the events that wait with each ticket, in the log itself.

        Of the first thousand tickets: where there are more, something else is to be done first.
        """
        stopped = {p.ticket_id: p.version for p in parked[:_MOST_COUNTED]}
        found = await store.versions(list(stopped)) if stopped else []
        return Counter(ticket_id for ticket_id, version in found if version >= stopped[ticket_id])

    async def all(self) -> list[Parked]:
        """Return all of them, the longest parked first."""
        found, asked = await asyncio.gather(self._parked.find().to_list(), self.asked())
        parked, _ = self._reader.all_apart(found)
        parked = [replace(p, repair=p.ticket_id in asked) for p in parked]
        return sorted(parked, key=lambda p: (p.tried_at, p.ticket_id))

    async def of(self, partitions: Iterable[int]) -> list[Parked]:
        """Return those of some partitions."""
        wanted = {"partition": {"$in": list(partitions)}}
        return self._reader.each(await self._database.small(COLLECTION, wanted))

    async def park(
        self, ticket_id: UUID, version: int, error: str, session: Session | None
    ) -> None:
        """Have a ticket wait from an event on."""
        about = {"partition": partition_of(ticket_id), "version": version}
        change: JsonObject = {
            "$set": {**about, "error": error[:_ERROR_CHARACTERS]},
            "$currentDate": {"tried_at": True},
        }
        await self._parked.update_one({"_id": ticket_id}, change, upsert=True, session=session)

    async def free(self, ticket_id: UUID, session: Session) -> None:
        """Have a ticket wait no longer."""
        await self._parked.delete_one({"_id": ticket_id}, session=session)

    async def ask(self, ticket_id: UUID) -> None:
        """Have a ticket folded again from its first event, by the projector of its partition."""
        partition = partition_of(ticket_id)
        asked = {"_id": uuid4(), "ticket_id": ticket_id, "partition": partition}
        await self._repairs.insert_one(asked)

    async def asked(self, which: JsonObject | None = None) -> Mapping[UUID, Collection[UUID]]:
        """Return the tickets that are to be folded again, each with the ids of the requests."""
        found: dict[UUID, list[UUID]] = defaultdict(list)
        for repair in self._repair.each(await self._database.small(REPAIRS, which)):
            found[repair.ticket_id].append(repair.id)
        return found

    async def asked_of(self, partitions: Iterable[int]) -> Mapping[UUID, Collection[UUID]]:
        """Return those of some partitions."""
        return await self.asked({"partition": {"$in": list(partitions)}})

    async def is_asked(self, ticket_id: UUID) -> bool:
        """Return whether a ticket is still to be folded again."""
        return bool(await self.asked({"ticket_id": ticket_id}))

    async def done(self, requests: Collection[UUID]) -> None:
        """Forget requests: what they asked for has been tried since they were read."""
        await self._repairs.delete_many({"_id": {"$in": list(requests)}})


parked_from = strict_decoder(Parked, id_field="ticket_id")
repair_from = strict_decoder(Repair)
