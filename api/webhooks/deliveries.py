"""Deliveries: what is to be sent to webhooks, and what has become of it.

    webhook_deliveries  {_id: "<webhook>-<event>", webhook, event, ticket_id, version, type, status,
                         failures, failing_since, next_at, made_at, attempts: [{at, status, error}],
                         done_at}

A delivery is one event for one webhook; its id is made of both, so an event that is fed twice makes
one. It is *pending* until it has been *delivered*, or *parked* after failures for too long, or
*ended* with its webhook, whose receiver has said that it is gone. When it is tried again is decided
in `sender.py`. The event itself stays in the log.
(`failing_since` is not there in what was stored before it was known.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, cast
from uuid import UUID

from api.webhooks.store import DELIVERIES
from domain.values import JsonObject
from eventstore.database import Database
from eventstore.documents import Reader, strict_decoder
from eventstore.event_document import EventDocument
from eventstore.mongo.limits import Index, in_parts, make_indexes
from eventstore.mongo.resend import insert_new

KEPT_SECONDS = 7 * 24 * 3600
MOST_COUNTED = 100_000
_ATTEMPTS_KEPT = 20
_WAITING_AT_ONCE = 100
_OF_TICKET = [("webhook", 1), ("ticket_id", 1), ("status", 1), ("version", 1)]
_DUE = [("webhook", 1), ("status", 1), ("next_at", 1)]
_BY_WEBHOOK = [("webhook", 1), ("_id", -1)]
_BY_STATUS = [("webhook", 1), ("status", 1), ("_id", -1)]

DeliveryStatus = Literal["pending", "delivered", "parked", "ended"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event for a webhook, and what has become of it. Times are the database's."""

    id: str
    webhook: UUID
    event: UUID
    ticket_id: UUID
    version: int
    type: str
    status: DeliveryStatus
    failures: int
    next_at: datetime
    made_at: datetime
    attempts: Sequence[Mapping[str, object]]
    failing_since: datetime | None = None


delivery_of = strict_decoder(Delivery)


class Deliveries:
    """The deliveries of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._deliveries = database.collection(DELIVERIES)
        self._reader = Reader(database.unreadable, DELIVERIES, delivery_of)

    async def prepare(self) -> None:
        """Make the indexes. Safe to repeat."""
        await make_indexes(
            self._deliveries,
            *map(Index, (_OF_TICKET, _DUE, _BY_WEBHOOK, _BY_STATUS)),
            Index([("done_at", 1)], expireAfterSeconds=KEPT_SECONDS),
        )

    async def make(
        self, webhook: UUID, events: Sequence[EventDocument], *, again: bool = False
    ) -> None:
        """Have events be sent; those that are there already only if it is to be done again."""
        if not events:
            return
        now = await self._database.server_time()
        documents: list[JsonObject] = [
            {
                "_id": f"{webhook.hex}-{event['_id'].hex}",
                "webhook": webhook,
                "event": event["_id"],
                "ticket_id": event["ticket_id"],
                "version": event["version"],
                "type": event["type"],
                "made_at": now,
                "attempts": [],
                **_fresh(now),
            }
            for event in events
        ]
        await insert_new(self._deliveries, documents)
        if again:
            done: JsonObject = {"$in": ["delivered", "ended"]}
            which: JsonObject = {"_id": {"$in": [d["_id"] for d in documents]}, "status": done}
            await in_parts(self._deliveries, which, {"$set": _fresh(now)})

    async def resume(self, webhook: UUID) -> int:
        """Have what is parked, or waits after a failure, be tried now; return how much that is."""
        now = await self._database.server_time()
        which: JsonObject = {"webhook": webhook, "status": "parked"}
        parked = await in_parts(self._deliveries, which, {"$set": _fresh(now)})
        return parked + await self.wake(webhook, now)

    async def wake(self, webhook: UUID, now: datetime) -> int:
        """Have what waits after a failure be tried now; return how much that is."""
        waiting: JsonObject = {"webhook": webhook, "status": "pending", "next_at": {"$gt": now}}
        return await in_parts(self._deliveries, waiting, {"$set": {"next_at": now}})

    async def end(self, webhook: UUID, before: datetime) -> None:
        """Have nothing be sent of what waits or is parked and was made before a time; it is kept
        for as long as what has arrived.
        """
        ended: JsonObject = {"$set": {"status": "ended", "done_at": before}}
        for status in ("pending", "parked"):
            which: JsonObject = {"webhook": webhook, "status": status, "made_at": {"$lte": before}}
            await in_parts(self._deliveries, which, ended)

    async def redeliver(self, webhook: UUID, id_: str) -> bool:
        """Have a delivery be sent again; return whether there is one of that id."""
        fresh = _fresh(await self._database.server_time())
        done = await self._deliveries.update_one({"_id": id_, "webhook": webhook}, {"$set": fresh})
        return done.matched_count > 0

    async def due(self, webhook: UUID, now: datetime, limit: int) -> list[UUID]:
        """Return tickets of which something is to be sent by now; the longest waiting first."""
        which: JsonObject = {"webhook": webhook, "status": "pending", "next_at": {"$lte": now}}
        order, hint = [("next_at", 1)], await self._hint(_DUE)
        found = self._deliveries.find(which, {"ticket_id": 1}, sort=order, limit=limit, hint=hint)
        return list(
            dict.fromkeys([cast("UUID", document["ticket_id"]) async for document in found])
        )

    async def _hint(self, index: list[tuple[str, int]]) -> list[tuple[str, int]] | None:
        """Have MongoDB read along an index; the embedded server would read everything then."""
        return None if await self._database.is_embedded() else index

    async def waiting(self, webhook: UUID, ticket_id: UUID) -> list[Delivery]:
        """Return the ticket's first events that have not arrived, in order, or that are parked.

        One that cannot be read may have to come first: then all that wait are parked.
        """
        found: list[Delivery] = []
        for status in ("pending", "parked"):  # each a range of the index
            of_ticket: JsonObject = {"webhook": webhook, "ticket_id": ticket_id, "status": status}
            some = self._deliveries.find(of_ticket).sort("version", 1).limit(_WAITING_AT_ONCE)
            readable, unreadable = self._reader.apart(await some.to_list())
            if unreadable:
                of_ticket["status"] = "pending"
                await self._deliveries.update_many(of_ticket, {"$set": {"status": "parked"}})
                return []
            found += readable
        return sorted(found, key=lambda delivery: delivery.version)[:_WAITING_AT_ONCE]

    async def wait_behind(self, first: Delivery) -> None:
        """Have a ticket's later events wait as long as its first, or be parked with it."""
        behind = {
            "webhook": first.webhook,
            "ticket_id": first.ticket_id,
            "status": "pending",
            "version": {"$gt": first.version},
        }
        change: JsonObject = {"status": first.status, "next_at": first.next_at}
        await self._deliveries.update_many(behind, {"$set": change})

    async def delivered(self, id_: str, attempt: JsonObject, now: datetime) -> None:
        """Note that a delivery has arrived."""
        await self._attempted(id_, attempt, {"status": "delivered", "done_at": now}, failures=0)

    async def failed(
        self, id_: str, attempt: JsonObject, since: datetime, next_at: datetime | None
    ) -> None:
        """Note that a delivery has failed, since when it does, and when it is tried again; None:
        not until it is resumed.
        """
        change: JsonObject = {"status": "parked"} if next_at is None else {"next_at": next_at}
        await self._attempted(id_, attempt, {**change, "failing_since": since}, failures=1)

    async def _attempted(
        self, id_: str, attempt: JsonObject, change: JsonObject, failures: int
    ) -> None:
        last = {"$each": [attempt], "$slice": -_ATTEMPTS_KEPT}
        update = {"$set": change, "$push": {"attempts": last}, "$inc": {"failures": failures}}
        await self._deliveries.update_one({"_id": id_}, update)

    async def page(
        self, webhook: UUID, status: DeliveryStatus | None, before: str | None, limit: int
    ) -> tuple[list[Delivery], str | None]:
        """Return deliveries, the last events first, those before an id; and the id before which
        there are more, if there are.
        """
        which: JsonObject = {"webhook": webhook}
        if before is not None:
            which["_id"] = {"$lt": before}
        if status is not None:
            which["status"] = status
        hint = await self._hint(_BY_WEBHOOK if status is None else _BY_STATUS)
        found = self._deliveries.find(which, sort=[("_id", -1)], limit=limit + 1, hint=hint)
        documents = await found.to_list()
        page = documents[:limit]
        return self._reader.each(page), str(page[-1]["_id"]) if documents[limit:] else None

    async def forget_all_but(self, webhooks: Sequence[UUID]) -> None:
        """Remove what was made for webhooks that are gone."""
        await in_parts(self._deliveries, {"webhook": {"$nin": list(webhooks)}})

    async def counts(self, webhook: UUID) -> dict[str, int]:
        """Count what is pending and what is parked, up to MOST_COUNTED of each."""

        async def count(status: str) -> int:
            which = {"webhook": webhook, "status": status}
            return await self._deliveries.count_documents(which, limit=MOST_COUNTED)

        return {status: await count(status) for status in ("pending", "parked")}


def _fresh(now: datetime) -> JsonObject:
    """Return what a delivery has that has never been tried."""
    fresh: JsonObject = {"status": "pending", "failures": 0, "failing_since": None}
    return {**fresh, "done_at": None, "next_at": now}
