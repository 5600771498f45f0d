"""Tickets whose next event could not be taken: they wait, and all others go on.

    parked_tickets   {_id: ticket id, partition, version, seen, error, tried_at, repair}

`version` is that of the event it stopped at, `seen` that of the last one known, so `seen - version
+ 1` events wait. The read document stays as it was before. `repair` asks the partition's projector
to fold the ticket again from its first event; if that works the ticket is parked no longer. It may
be asked for any ticket, parked or not (then `version` is null); and a projector that takes a
partition, as after an upgrade, tries all of its parked tickets by itself.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import cast
from uuid import UUID

from domain.events import JsonObject
from eventstore.driver import Database, Session
from projections.partitions import partition_of

COLLECTION = "parked_tickets"
_ERROR_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Parked:
    """A ticket that waits, or is asked to be folded again."""

    ticket_id: UUID
    version: int | None
    seen: int
    error: str | None
    tried_at: datetime | None
    repair: bool

    @property
    def waiting_events(self) -> int:
        """Give how many events are in the log and not in the view."""
        return 0 if self.version is None else max(0, self.seen - self.version + 1)


class ParkedTickets:
    """The parked tickets of one database."""

    def __init__(self, database: Database) -> None:
        self._parked = database.collection(COLLECTION)

    async def prepare(self) -> None:
        """Make the collection and its index. Safe to repeat."""
        await self._parked.create_index([("partition", 1)])

    async def all(self) -> list[Parked]:
        """Give all of them, the longest parked first."""
        found = await self._parked.find().to_list()
        parked = [_from_document(document) for document in found]
        return sorted(parked, key=lambda p: (p.tried_at is None, p.tried_at, p.ticket_id))

    async def of(self, partitions: Iterable[int]) -> list[Parked]:
        """Give those of some partitions."""
        found = self._parked.find({"partition": {"$in": list(partitions)}})
        return [_from_document(document) async for document in found]

    async def park(
        self, ticket_id: UUID, version: int, seen: int, error: str, session: Session
    ) -> None:
        """Have a ticket wait from an event on."""
        change: JsonObject = {
            "$set": {
                "partition": partition_of(ticket_id),
                "version": version,
                "error": error[:_ERROR_CHARACTERS],
                "repair": False,
            },
            "$max": {"seen": seen},
            "$currentDate": {"tried_at": True},
        }
        await self._parked.update_one({"_id": ticket_id}, change, upsert=True, session=session)

    async def see(self, ticket_id: UUID, version: int, session: Session) -> None:
        """Take note of a later event of a ticket that waits."""
        await self._parked.update_one(
            {"_id": ticket_id}, {"$max": {"seen": version}}, session=session
        )

    async def free(self, ticket_id: UUID, session: Session) -> None:
        """Have a ticket wait no longer."""
        await self._parked.delete_one({"_id": ticket_id}, session=session)

    async def ask(self, ticket_id: UUID) -> None:
        """Have a ticket folded again from its first event, by the projector of its partition."""
        change: JsonObject = {
            "$set": {"partition": partition_of(ticket_id), "repair": True},
            "$setOnInsert": {"version": None, "seen": 0, "error": None, "tried_at": None},
        }
        await self._parked.update_one({"_id": ticket_id}, change, upsert=True)

    async def is_asked(self, ticket_id: UUID) -> bool:
        """Say whether a ticket is still to be folded again."""
        return await self._parked.find_one({"_id": ticket_id, "repair": True}) is not None


def _from_document(document: Mapping[str, object]) -> Parked:
    return Parked(
        ticket_id=cast("UUID", document["_id"]),
        version=cast("int | None", document["version"]),
        seen=cast("int", document["seen"]),
        error=cast("str | None", document["error"]),
        tried_at=cast("datetime | None", document["tried_at"]),
        repair=cast("bool", document["repair"]),
    )
