"""Webhooks as they are kept: who is to be told of what, and what has become of it.

    webhooks            {_id, url, types, filter, secret, since, created_at, created_by, backfill,
                         ended_at, rests_until, since_at}
    webhook_deliveries  {_id: "<webhook>-<event>", webhook, event, ticket_id, version, type, status,
                         failures, failing_since, next_at, made_at, attempts: [{at, status, error}],
                         done_at}
    webhook_dispatch    {_id: "dispatch", owner, epoch, seen_at, token, looked_at}

A delivery is one event for one webhook; its id is made of both, so that an event that is fed twice
makes one. It is *pending* until it has been *delivered*, or *parked* after too many failures, or
*ended* with its webhook, whose receiver has said that it is gone. The event itself stays in the
log.

`ended_at`, `rests_until`, `since_at` and `failing_since` are not there in what was stored before
they were known.

A webhook that another version has stored, with a condition of its filter that this one does not
know, is told of nothing by this one: it might be what it is not to be told. What it is to be told
of is noted as wished for in its `backfill`, for the version that can read it.

`webhook_dispatch` is the lease of the one process that feeds and sends: by the database's clock,
and with an epoch that all it writes there is on condition of.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Annotated, Literal, NamedTuple, cast
from uuid import UUID

from pydantic import BeforeValidator
from pymongo import ReturnDocument
from pymongo.asynchronous.cursor import AsyncCursor
from pymongo.errors import BulkWriteError

from domain.errors import NotFound, StateConflict
from domain.values import JsonObject
from eventstore.documents import (
    Document,
    Reader,
    StoredSet,
    as_document,
    strictly,
)
from eventstore.limits import in_parts, make_index
from eventstore.log import ResumeToken
from eventstore.mongo.driver import Database
from eventstore.mongo.lease import LEASE_SECONDS, Lease
from eventstore.mongo.resend import insert
from projections.views.saved_views import TicketFilter, requester_of, stored_filter

WEBHOOKS = "webhooks"
DELIVERIES = "webhook_deliveries"
DISPATCH = "webhook_dispatch"
MOST_WEBHOOKS = 50
KEPT_SECONDS = 7 * 24 * 3600
_ATTEMPTS_KEPT = 20
_WAITING_AT_ONCE = 100
_DUE = (("webhook", 1), ("status", 1), ("next_at", 1))
_BY_WEBHOOK = (("webhook", 1), ("_id", -1))
_BY_STATUS = (("webhook", 1), ("status", 1), ("_id", -1))
_DUPLICATE_KEY = 11000

DeliveryStatus = Literal["pending", "delivered", "parked", "ended"]


class UnknownWebhook(NotFound):
    """There is no webhook of that id: for example after it was deleted."""

    def __init__(self) -> None:
        super().__init__("webhook_not_found", "there is no such webhook")


class TooManyWebhooks(StateConflict):
    """Each webhook costs something with every event."""

    def __init__(self) -> None:
        super().__init__("too_many_webhooks", f"there can be no more than {MOST_WEBHOOKS} webhooks")


class WebhookEnded(StateConflict):
    """Its address has answered 410 Gone. Changing the webhook has it go on, there or elsewhere."""

    def __init__(self) -> None:
        super().__init__(
            "webhook_ended",
            "the webhook has ended, for its address said that it is gone; change it to go on",
        )


class Backfill(NamedTuple):
    """Events recorded from a time on are to be fed; `again`: also those that were delivered."""

    since: datetime
    again: bool


backfill_of = strictly(Backfill, id_field=None)


@dataclass(frozen=True, slots=True)
class Webhook:
    """Who is to be told of what. `types`: of these events, of all if there is none; `filter`: of
    tickets that match after the event. `since`: of what the stream brings behind this token.
    `ended_at`: when its receiver said that it is gone; nothing is made for it or sent since.
    `rests_until`: until when its receiver has asked to be left alone. `since_at`: when one that had
    ended went on, if that is known.
    """

    id: UUID
    url: str
    types: StoredSet
    filter: Annotated[TicketFilter, BeforeValidator(stored_filter)]
    secret: str
    since: ResumeToken
    created_at: datetime
    created_by: str
    backfill: Annotated[Backfill, BeforeValidator(backfill_of)] | None = None
    ended_at: datetime | None = None
    rests_until: datetime | None = None
    since_at: datetime | None = None

    @property
    def told_since(self) -> datetime:
        """Return since when what is recorded is told."""
        return self.since_at or self.created_at

    def rests(self, now: datetime) -> bool:
        """Say whether its receiver is to be left alone."""
        return self.rests_until is not None and now < self.rests_until


class Wanted(NamedTuple):
    """An event that a webhook is to be told of."""

    event: UUID
    ticket_id: UUID
    version: int
    type: str


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


class Webhooks:
    """The webhooks of one database."""

    def __init__(self, database: Database) -> None:
        self._hooks = database.collection(WEBHOOKS)
        self._deliveries = database.collection(DELIVERIES)
        self._reader = Reader(database.unreadable, WEBHOOKS, webhook_of)

    async def all(self) -> list[Webhook]:
        """Return all that can be read, the first made first."""
        return (await self.all_apart())[0]

    async def all_apart(self) -> tuple[list[Webhook], list[Document]]:
        """Return the same, and the documents of those that cannot be read."""
        return self._reader.all_apart(await self._hooks.find().sort("_id", 1).to_list())

    async def ids(self) -> list[UUID]:
        """Return the ids of all, read or not."""
        return [cast("UUID", d["_id"]) for d in await self._hooks.find({}, {"_id": 1}).to_list()]

    async def find(self, id_: UUID) -> Webhook:
        """Return one. Raises UnknownWebhook, UnreadableDocument."""
        found = await self._hooks.find_one({"_id": id_})
        if found is None:
            raise UnknownWebhook
        return self._reader.one(found)

    async def requesters(self) -> set[str]:
        """Return whose tickets are asked for, by those that cannot be read too."""
        found = self._hooks.find({}, {"filter.requester": 1})
        return {name async for document in found if (name := requester_of(document)) is not None}

    async def ids_asking_for(self, requester: str) -> list[UUID]:
        """Return those that ask for somebody's tickets, read or not."""
        found = self._hooks.find({"filter.requester": requester}, {"_id": 1}).sort("_id", 1)
        return [cast("UUID", document["_id"]) async for document in found]

    async def add(self, hook: Webhook) -> None:
        """Keep a new one. Raises TooManyWebhooks; OutcomeUnknown, StoreFailed."""
        if await self._hooks.count_documents({}) >= MOST_WEBHOOKS:
            raise TooManyWebhooks
        await insert(self._hooks, as_document(hook))

    async def change(
        self,
        id_: UUID,
        url: str,
        types: Sequence[str],
        filter_: TicketFilter,
        *,
        secret: str | None = None,
        made: str,
        since: ResumeToken,
        since_at: datetime,
    ) -> tuple[Webhook, bool]:
        """Have one be told of other things, or elsewhere, from now on, also if it had ended.

        `secret`: left as it is unless given, but for another URL, where it is `made` then. `since`,
        `since_at`: from where, and when, one that had ended goes on, without what was to be found
        of the past. Return the webhook as it is
        now, and whether `made` is its secret. Raises UnknownWebhook; UnreadableDocument if that
        would not make one of it that can be read.
        """
        told: JsonObject = {"url": url, "types": sorted(types), "ended_at": None}
        told["filter"] = filter_.model_dump(exclude_none=True)
        while True:
            former = await self._hooks.find_one({"_id": id_})
            if former is None:
                raise UnknownWebhook
            elsewhere = former.get("url") != url
            changes = dict(told)
            if elsewhere:
                changes |= {"rests_until": None, "secret": made}
            if secret is not None:
                changes["secret"] = secret
            if former.get("ended_at") is not None:
                changes |= {"since": since, "since_at": since_at, "backfill": None}
            self._reader.one({**former, **changes})
            changed = await self._hooks.find_one_and_update(
                {"_id": id_, **{name: former.get(name) for name in ("url", "ended_at")}},
                {"$set": changes},
                return_document=ReturnDocument.AFTER,
            )
            if changed is not None:  # else it has got another URL meanwhile, or ended, or is gone
                return self._reader.one(changed), elsewhere and secret is None

    async def end(self, hook: Webhook, at: datetime) -> bool:
        """End one whose receiver is gone; say whether it had not ended, nor got another URL."""
        still: JsonObject = {"_id": hook.id, "url": hook.url, "ended_at": None}
        ended = await self._hooks.update_one(still, {"$set": {"ended_at": at}})
        return ended.matched_count > 0

    async def rest(self, hook: Webhook, until: datetime) -> None:
        """Leave a receiver alone, unless the webhook has got another URL."""
        here = {"_id": hook.id, "url": hook.url}
        await self._hooks.update_one(here, {"$max": {"rests_until": until}})

    async def wake(self, id_: UUID) -> None:
        """Leave a receiver alone no longer. Raises UnknownWebhook, WebhookEnded."""
        if (await self.find(id_)).ended_at is not None:
            raise WebhookEnded
        await self._hooks.update_one({"_id": id_}, {"$set": {"rests_until": None}})

    async def backfill(self, id_: UUID, wish: Backfill) -> None:
        """Have events of the past be fed, beside what is still to be. Raises UnknownWebhook."""
        while True:
            now = (await self.find(id_)).backfill
            both = wish
            if now is not None:
                both = Backfill(min(now.since, wish.since), again=now.again or wish.again)
            if await self._change_backfill(id_, now, both):
                return

    async def backfilled(self, id_: UUID, done: Backfill) -> bool:
        """Note that events of the past have been fed; say whether no more is wished by now."""
        return await self._change_backfill(id_, done, None)

    async def _change_backfill(self, id_: UUID, old: Backfill | None, new: Backfill | None) -> bool:
        as_it_was: JsonObject = {"_id": id_}
        if old is None:
            as_it_was["backfill"] = None
        else:
            as_it_was |= {"backfill.since": old.since, "backfill.again": old.again}
        found = await self._hooks.update_one(
            as_it_was, {"$set": {"backfill": None if new is None else new._asdict()}}
        )
        return found.matched_count > 0

    async def owe(self, id_: object, since: datetime) -> None:
        """Note of one that cannot be read that it was told of nothing recorded from a time on, for
        who can read it.
        """
        wish: JsonObject = {"backfill": Backfill(since, again=False)._asdict()}
        none_yet, later = {"backfill": None}, {"backfill.since": {"$gt": since}}
        if not (
            await self._hooks.update_one({"_id": id_, **none_yet}, {"$set": wish})
        ).matched_count:
            earlier: JsonObject = {"backfill.since": since}
            await self._hooks.update_one({"_id": id_, **later}, {"$set": earlier})

    async def delete(self, id_: UUID) -> None:
        """Forget one, and what was to be sent to it. Raises UnknownWebhook."""
        found = await self._hooks.delete_one({"_id": id_})
        if not found.deleted_count:
            raise UnknownWebhook
        await in_parts(self._deliveries, {"webhook": id_})


def _fresh(now: datetime) -> JsonObject:
    """Return the change after which a delivery is as if it had never been tried."""
    values = {"status": "pending", "failures": 0, "failing_since": None, "done_at": None}
    return {"$set": values | {"next_at": now}}


class Deliveries:
    """The deliveries of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._deliveries = database.collection(DELIVERIES)
        self._reader = Reader(database.unreadable, DELIVERIES, delivery_of)

    async def prepare(self) -> None:
        """Make the indexes. Safe to repeat."""
        create = partial(make_index, self._deliveries)
        await create([("webhook", 1), ("ticket_id", 1), ("status", 1), ("version", 1)])
        for index in (_DUE, _BY_WEBHOOK, _BY_STATUS):
            await create([*index])
        await create([("done_at", 1)], expireAfterSeconds=KEPT_SECONDS)

    async def make(self, webhook: UUID, wanted: Sequence[Wanted], *, again: bool = False) -> None:
        """Have events be sent; those that are there already only if it is to be done again."""
        if not wanted:
            return
        now = await self._database.server_time()
        ids = [f"{webhook.hex}-{each.event.hex}" for each in wanted]
        documents: list[JsonObject] = [
            {
                "_id": id_,
                "webhook": webhook,
                **each._asdict(),
                "status": "pending",
                "failures": 0,
                "next_at": now,
                "made_at": now,
                "attempts": [],
                "done_at": None,
            }
            for id_, each in zip(ids, wanted, strict=True)
        ]
        try:
            await self._deliveries.insert_many(documents, ordered=False)
        except BulkWriteError as error:
            if any(e["code"] != _DUPLICATE_KEY for e in error.details["writeErrors"]):
                raise
        if again:
            done: JsonObject = {"$in": ["delivered", "ended"]}
            which: JsonObject = {"_id": {"$in": ids}, "status": done}
            await in_parts(self._deliveries, which, _fresh(now))

    async def resume(self, webhook: UUID) -> int:
        """Have what is parked, or waits after a failure, be tried now; return how much that is."""
        now = await self._database.server_time()
        parked: JsonObject = {"webhook": webhook, "status": "parked"}
        return await in_parts(self._deliveries, parked, _fresh(now)) + await self.wake(webhook, now)

    async def wake(self, webhook: UUID, now: datetime) -> int:
        """Have what waits after a failure be tried now; return how much that is."""
        waiting: JsonObject = {"webhook": webhook, "status": "pending", "next_at": {"$gt": now}}
        return await in_parts(self._deliveries, waiting, {"$set": {"next_at": now}})

    async def end(self, webhook: UUID, now: datetime) -> None:
        """Have nothing more be sent of what waits or is parked; it is kept as what has arrived."""
        for status in ("pending", "parked"):
            which: JsonObject = {"webhook": webhook, "status": status}
            ended: JsonObject = {"$set": {"status": "ended", "done_at": now}}
            await in_parts(self._deliveries, which, ended)

    async def redeliver(self, webhook: UUID, id_: str) -> bool:
        """Have one be sent again; say whether there is one of that id."""
        fresh = _fresh(await self._database.server_time())
        done = await self._deliveries.update_one({"_id": id_, "webhook": webhook}, fresh)
        return done.matched_count > 0

    async def due(self, webhook: UUID, now: datetime, limit: int) -> list[UUID]:
        """Return tickets of which something is to be sent by now; the longest waiting first."""
        wanted: JsonObject = {"webhook": webhook, "status": "pending", "next_at": {"$lte": now}}
        found = self._deliveries.find(wanted, {"ticket_id": 1}).sort("next_at", 1).limit(limit)
        documents = await (await self._along(found, _DUE)).to_list()
        return list(dict.fromkeys(cast("UUID", d["ticket_id"]) for d in documents))

    async def _along(
        self, found: AsyncCursor[JsonObject], index: Sequence[tuple[str, int]]
    ) -> AsyncCursor[JsonObject]:
        """Have MongoDB read along an index; the embedded server would read everything then."""
        return found if await self._database.is_embedded() else found.hint([*index])

    async def waiting(self, webhook: UUID, ticket_id: UUID) -> list[Delivery]:
        """Return the ticket's first events that have not arrived, in order, or that are parked.

        One that cannot be read would have to come first, maybe: then all that wait are parked.
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
        """Note that one has arrived."""
        await self._attempted(id_, attempt, {"status": "delivered", "done_at": now})

    async def failed(
        self, id_: str, attempt: JsonObject, since: datetime, next_at: datetime | None
    ) -> None:
        """Note that one has not, since when, and when it is tried again; None: not by itself."""
        change: JsonObject = {"status": "parked"} if next_at is None else {"next_at": next_at}
        await self._attempted(id_, attempt, {**change, "failing_since": since}, failures=1)

    async def _attempted(
        self, id_: str, attempt: JsonObject, change: JsonObject, failures: int = 0
    ) -> None:
        last = {"$each": [attempt], "$slice": -_ATTEMPTS_KEPT}
        update = {"$set": change, "$push": {"attempts": last}, "$inc": {"failures": failures}}
        await self._deliveries.update_one({"_id": id_}, update)

    async def page(
        self, webhook: UUID, status: DeliveryStatus | None, before: str | None, limit: int
    ) -> tuple[list[Delivery], str | None]:
        """Return deliveries, the last events first; those before an id. And the id before which
        there are more, if there are.
        """
        wanted: JsonObject = {"webhook": webhook}
        if before is not None:
            wanted["_id"] = {"$lt": before}
        if status is not None:
            wanted["status"] = status
        index = _BY_WEBHOOK if status is None else _BY_STATUS
        found = self._deliveries.find(wanted).sort("_id", -1).limit(limit + 1)
        documents = await (await self._along(found, index)).to_list()
        page = documents[:limit]
        return self._reader.each(page), str(page[-1]["_id"]) if documents[limit:] else None

    async def forget(self, webhook: UUID) -> None:
        """Remove what was made for a webhook that is gone."""
        await in_parts(self._deliveries, {"webhook": webhook})

    async def forget_all_but(self, webhooks: Sequence[UUID]) -> None:
        """Remove what was made for others, which are gone."""
        others = {"webhook": {"$nin": list(webhooks)}}
        await in_parts(self._deliveries, others)

    async def counts(self, webhook: UUID) -> dict[str, int]:
        """Count what is pending and what is parked."""
        return {
            status: await self._deliveries.count_documents({"webhook": webhook, "status": status})
            for status in ("pending", "parked")
        }


class Dispatch:
    """The lease of who feeds and sends, and how far the log has been fed.

    `token`: what the stream has brought up to it was fed. `looked_at`: so was what the log has
    recorded up to then.
    """

    def __init__(self, database: Database) -> None:
        reader = Reader(database.unreadable, DISPATCH, lease_of)
        self._lease = Lease(database, reader, database.collection(DISPATCH), "dispatch")
        self.token: ResumeToken | None = None
        self.looked_at: datetime | None = None

    async def take(self, me: str, lease_seconds: float = LEASE_SECONDS) -> bool:
        """Take the lease if no process has it, or its owner shows no life."""
        claim = await self._lease.take(me, {"token": None}, lease_seconds)
        if claim is not None:
            self.token, self.looked_at = claim.token, claim.looked_at
        return claim is not None

    async def beat(self) -> None:
        """Show life. Raises LeaseLost."""
        await self._lease.renew()

    async def fed(self, token: ResumeToken | None) -> None:
        """Note how far the log has been fed, and looked through; None: nobody wants anything yet.
        Raises LeaseLost.
        """
        self.token = token
        await self._lease.renew({"token": token, "looked_at": self.looked_at})

    async def leave(self) -> None:
        """Give the lease back, if this process still has it."""
        await self._lease.release()


class _Lease(NamedTuple):
    owner: str | None
    epoch: int
    seen_at: datetime
    token: dict[str, object] | None
    looked_at: datetime | None = None


lease_of = strictly(_Lease, id_field=None)
delivery_of = strictly(Delivery)
webhook_of = strictly(Webhook)
