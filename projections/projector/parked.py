"""Tickets whose next event could not be taken: they wait, and all others go on.

    parked_tickets   {_id: ticket id, partition, version, error, tried_at, repair}

`version` is that of the event it stopped at: this one and those behind it wait, and the read
document stays as it was before. `repair` asks the partition's projector to fold the ticket again
from its first event; if that works the ticket is parked no longer. It may be asked for any ticket,
parked or not (then `version` is null); and a projector that takes a partition, as after an upgrade,
tries all of its parked tickets by itself. One whose document cannot be read is not known to wait:
it is folded as any other, and parked anew if that cannot be done.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from domain.values import JsonObject
from eventstore.database import Database
from eventstore.documents import Reader, strictly
from eventstore.log import EventStore
from eventstore.mongo.driver import Session
from eventstore.mongo.limits import make_index
from eventstore.partition import partition_of

COLLECTION = "parked_tickets"
_ERROR_CHARACTERS = 500
_MOST_COUNTED = 1000


@dataclass(frozen=True, slots=True)
class Parked:
    """A ticket that waits, or is asked to be folded again."""

    ticket_id: UUID
    version: int | None
    error: str | None
    tried_at: datetime | None
    repair: bool = False


class ParkedTickets:
    """The parked tickets of one database."""

    def __init__(self, database: Database) -> None:
        self._parked = database.collection(COLLECTION)
        self._reader = Reader(database.unreadable, COLLECTION, parked_from)

    async def prepare(self) -> None:
        """Make the collection and its index. Safe to repeat."""
        await make_index(self._parked, [("partition", 1)])

    async def waiting_events(self, store: EventStore, parked: Sequence[Parked]) -> Counter[UUID]:
        """Count the events that wait with each ticket, in the log itself.

        Of the first thousand tickets: where there are more, something else is to be done first.
        """
        stopped = {p.ticket_id: p.version for p in parked[:_MOST_COUNTED] if p.version is not None}
        found = await store.versions(list(stopped)) if stopped else []
        return Counter(ticket_id for ticket_id, version in found if version >= stopped[ticket_id])

    async def all(self) -> list[Parked]:
        """Return all of them, the longest parked first."""
        found = await self._parked.find().to_list()
        parked, _ = self._reader.all_apart(found)
        return sorted(parked, key=lambda p: (p.tried_at is None, p.tried_at, p.ticket_id))

    async def of(self, partitions: Iterable[int]) -> list[Parked]:
        """Return those of some partitions."""
        found = self._parked.find({"partition": {"$in": list(partitions)}})
        return self._reader.each(await found.to_list())

    async def park(
        self,
        ticket_id: UUID,
        version: int,
        error: str,
        session: Session | None,
        *,
        as_asked: bool = False,
    ) -> None:
        """Have a ticket wait from an event on.

        `as_asked`: it was folded again because that was asked for, which is done now. Else a
        request stays: it may have come after the log was read that this error is about.
        """
        done = {"repair": False}
        change: JsonObject = {
            "$set": {
                "partition": partition_of(ticket_id),
                "version": version,
                "error": error[:_ERROR_CHARACTERS],
                **(done if as_asked else {}),
            },
            "$currentDate": {"tried_at": True},
            **({} if as_asked else {"$setOnInsert": done}),
        }
        await self._parked.update_one({"_id": ticket_id}, change, upsert=True, session=session)

    async def free(self, ticket_id: UUID, session: Session) -> None:
        """Have a ticket wait no longer."""
        await self._parked.delete_one({"_id": ticket_id}, session=session)

    async def ask(self, ticket_id: UUID) -> None:
        """Have a ticket folded again from its first event, by the projector of its partition."""
        change: JsonObject = {
            "$set": {"partition": partition_of(ticket_id), "repair": True},
            "$setOnInsert": {"version": None, "error": None, "tried_at": None},
        }
        await self._parked.update_one({"_id": ticket_id}, change, upsert=True)

    async def is_asked(self, ticket_id: UUID) -> bool:
        """Return whether a ticket is still to be folded again."""
        return await self._parked.find_one({"_id": ticket_id, "repair": True}) is not None


parked_from = strictly(Parked, id_field="ticket_id")
