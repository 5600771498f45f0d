"""Webhooks as they are kept: who is to be told of what, and what has become of it.

    webhooks            {_id, url, types, filter, secret, since, created_at, created_by, backfill,
                         ended_at, rests_until}
    webhook_deliveries  {_id: "<webhook>-<event>", webhook, event, ticket_id, version, type, status,
                         failures, failing_since, next_at, made_at, attempts: [{at, status, error}],
                         done_at}
    webhook_dispatch    {_id: "dispatch", owner, epoch, seen_at, token, looked_at}

A delivery is one event for one webhook; its id is made of both, so that an event that is fed twice
makes one. It is *pending* until it has been *delivered*, or *parked* after too many failures, or
*ended* with its webhook, whose receiver has said that it is gone. The event itself stays in the
log.

`ended_at`, `rests_until` and `failing_since` are not there in what was stored before they were
known.

`webhook_dispatch` is the lease of the one process that feeds and sends: by the database's clock,
and with an epoch that all it writes there is on condition of.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Literal, NamedTuple, cast
from uuid import UUID

from pymongo.asynchronous.cursor import AsyncCursor
from pymongo.errors import BulkWriteError, DuplicateKeyError

from domain.errors import CasebookError, NotFound, StateConflict
from domain.events import JsonObject
from eventstore.driver import Database
from eventstore.limits import make_index
from eventstore.store import ResumeToken
from projections.saved_views import TicketFilter

WEBHOOKS = "webhooks"
DELIVERIES = "webhook_deliveries"
DISPATCH = "webhook_dispatch"
MOST_WEBHOOKS = 50
LEASE_SECONDS = 10.0
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


class DispatchLost(CasebookError):
    """Another process feeds and sends by now: for example because this one was frozen."""

    def __init__(self) -> None:
        super().__init__("dispatch_lost", "another process sends to webhooks by now")


class Backfill(NamedTuple):
    """Events recorded from a time on are to be fed; `again`: also those that were delivered."""

    since: datetime
    again: bool


@dataclass(frozen=True, slots=True)
class Webhook:
    """Who is to be told of what. `types`: of these events, of all if there is none; `filter`: of
    tickets that match after the event. `since`: of what the stream brings behind this token.
    `ended_at`: when its receiver said that it is gone; nothing is made for it or sent since.
    `rests_until`: until when its receiver has asked to be left alone.
    """

    id: UUID
    url: str
    types: frozenset[str]
    filter: TicketFilter
    secret: str
    since: ResumeToken
    created_at: datetime
    created_by: str
    backfill: Backfill | None = None
    ended_at: datetime | None = None
    rests_until: datetime | None = None

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

    async def all(self) -> list[Webhook]:
        """Give all, the first made first."""
        return [_webhook(d) async for d in self._hooks.find().sort("_id", 1)]

    async def find(self, id_: UUID) -> Webhook:
        """Give one. Raises UnknownWebhook."""
        found = await self._hooks.find_one({"_id": id_})
        if found is None:
            raise UnknownWebhook
        return _webhook(found)

    async def add(self, hook: Webhook) -> None:
        """Keep a new one. Raises TooManyWebhooks."""
        if await self._hooks.count_documents({}) >= MOST_WEBHOOKS:
            raise TooManyWebhooks
        await self._hooks.insert_one(
            {
                "_id": hook.id,
                "url": hook.url,
                "types": sorted(hook.types),
                "filter": hook.filter.model_dump(exclude_none=True),
                "secret": hook.secret,
                "since": hook.since,
                "created_at": hook.created_at,
                "created_by": hook.created_by,
                "backfill": _backfill_document(hook.backfill),
            }
        )

    async def change(
        self,
        hook: Webhook,
        url: str,
        types: Sequence[str],
        filter_: TicketFilter,
        *,
        secret: str | None = None,
        since: ResumeToken | None = None,
    ) -> bool:
        """Have one be told of other things, or elsewhere, from now on, also if it had ended.

        Says whether it was done: not if the webhook has another URL by now, or is gone. `secret`,
        `since`: left as they are unless given.
        """
        told: JsonObject = {"url": url, "types": sorted(types), "ended_at": None}
        told["filter"] = filter_.model_dump(exclude_none=True)
        if url != hook.url:
            told["rests_until"] = None
        if secret is not None:
            told["secret"] = secret
        if since is not None:
            told["since"] = since
        changed = await self._hooks.update_one({"_id": hook.id, "url": hook.url}, {"$set": told})
        return changed.matched_count > 0

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
        found = await self._hooks.update_one(
            {"_id": id_, "backfill": _backfill_document(old)},
            {"$set": {"backfill": _backfill_document(new)}},
        )
        return found.matched_count > 0

    async def delete(self, id_: UUID) -> None:
        """Forget one, and what was to be sent to it. Raises UnknownWebhook."""
        found = await self._hooks.delete_one({"_id": id_})
        if not found.deleted_count:
            raise UnknownWebhook
        await self._deliveries.delete_many({"webhook": id_})


class Deliveries:
    """The deliveries of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._deliveries = database.collection(DELIVERIES)

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
            await self._again({"_id": {"$in": ids}, "status": done}, now)

    async def resume(self, webhook: UUID) -> int:
        """Have what is parked, or waits after a failure, be tried now; give how much that is."""
        now = await self._database.server_time()
        parked = await self._again({"webhook": webhook, "status": "parked"}, now)
        return parked + await self.wake(webhook, now)

    async def wake(self, webhook: UUID, now: datetime) -> int:
        """Have what waits after a failure be tried now; give how much that is."""
        waiting: JsonObject = {"webhook": webhook, "status": "pending", "next_at": {"$gt": now}}
        woken = await self._deliveries.update_many(waiting, {"$set": {"next_at": now}})
        return woken.modified_count

    async def end(self, webhook: UUID, now: datetime) -> None:
        """Have nothing more be sent of what waits or is parked; it is kept as what has arrived."""
        for status in ("pending", "parked"):
            which: JsonObject = {"webhook": webhook, "status": status}
            change: JsonObject = {"status": "ended", "done_at": now}
            await self._deliveries.update_many(which, {"$set": change})

    async def redeliver(self, webhook: UUID, id_: str) -> bool:
        """Have one be sent again; say whether there is one of that id."""
        found = await self._deliveries.find_one({"_id": id_, "webhook": webhook}, {"_id": 1})
        if found is not None:
            await self._again({"_id": id_}, await self._database.server_time())
        return found is not None

    async def _again(self, which: JsonObject, now: datetime) -> int:
        fresh = {
            "status": "pending",
            "failures": 0,
            "failing_since": None,
            "next_at": now,
            "done_at": None,
        }
        return (await self._deliveries.update_many(which, {"$set": fresh})).modified_count

    async def due(self, webhook: UUID, now: datetime, limit: int) -> list[UUID]:
        """Give tickets of which something is to be sent by now; the longest waiting first."""
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
        """Give the ticket's first events that have not arrived, in order, or that are parked."""
        found: list[Delivery] = []
        for status in ("pending", "parked"):  # each a range of the index
            of_ticket = {"webhook": webhook, "ticket_id": ticket_id, "status": status}
            some = self._deliveries.find(of_ticket).sort("version", 1).limit(_WAITING_AT_ONCE)
            found += [_delivery(d) for d in await some.to_list()]
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
    ) -> list[Delivery]:
        """Give deliveries, the last events first; those before an id."""
        wanted: JsonObject = {"webhook": webhook}
        if before is not None:
            wanted["_id"] = {"$lt": before}
        if status is not None:
            wanted["status"] = status
        index = _BY_WEBHOOK if status is None else _BY_STATUS
        found = self._deliveries.find(wanted).sort("_id", -1).limit(limit)
        return [_delivery(d) for d in await (await self._along(found, index)).to_list()]

    async def forget(self, webhook: UUID) -> None:
        """Remove what was made for a webhook that is gone."""
        await self._deliveries.delete_many({"webhook": webhook})

    async def forget_all_but(self, webhooks: Sequence[UUID]) -> None:
        """Remove what was made for others, which are gone."""
        await self._deliveries.delete_many({"webhook": {"$nin": list(webhooks)}})

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
        self._database = database
        self._documents = database.collection(DISPATCH)
        self.epoch = 0
        self.token: ResumeToken | None = None
        self.looked_at: datetime | None = None

    async def take(self, me: str, lease_seconds: float = LEASE_SECONDS) -> bool:
        """Take the lease if nobody has it, or who has it shows no life."""
        now = await self._database.server_time()
        found = await self._documents.find_one({"_id": "dispatch"})
        if found is None:
            try:
                await self._documents.insert_one(
                    {"_id": "dispatch", "owner": None, "epoch": 0, "seen_at": now, "token": None}
                )
            except DuplicateKeyError:
                return False
            found = {"owner": None, "epoch": 0, "seen_at": now, "token": None}
        age = abs(now - cast("datetime", found["seen_at"]))
        if found["owner"] not in (None, me) and age < timedelta(seconds=lease_seconds):
            return False
        epoch = cast("int", found["epoch"])
        taken = await self._documents.update_one(
            {"_id": "dispatch", "epoch": epoch, "seen_at": found["seen_at"]},
            {"$set": {"owner": me, "epoch": epoch + 1}, "$currentDate": {"seen_at": True}},
        )
        self.epoch = epoch + 1
        self.token = cast("ResumeToken | None", found["token"])
        self.looked_at = cast("datetime | None", found.get("looked_at"))
        return taken.matched_count == 1

    async def beat(self) -> None:
        """Show life. Raises DispatchLost."""
        await self._change({"$currentDate": {"seen_at": True}})

    async def fed(self, token: ResumeToken) -> None:
        """Note how far the log has been fed, and looked through. Raises DispatchLost."""
        self.token = token
        change = {"token": token, "looked_at": self.looked_at}
        await self._change({"$set": change, "$currentDate": {"seen_at": True}})

    async def leave(self) -> None:
        """Give the lease back, if one still has it."""
        await self._documents.update_one(
            {"_id": "dispatch", "epoch": self.epoch}, {"$set": {"owner": None}}
        )

    async def _change(self, change: JsonObject) -> None:
        mine = {"_id": "dispatch", "epoch": self.epoch}
        if not (await self._documents.update_one(mine, change)).matched_count:
            raise DispatchLost


def _backfill_document(backfill: Backfill | None) -> JsonObject | None:
    return None if backfill is None else dict(backfill._asdict())


def _webhook(document: Mapping[str, object]) -> Webhook:
    backfill = cast("Mapping[str, object] | None", document.get("backfill"))
    return Webhook(
        id=cast("UUID", document["_id"]),
        url=str(document["url"]),
        types=frozenset(cast("list[str]", document["types"])),
        filter=TicketFilter.model_validate(document["filter"]),
        secret=str(document["secret"]),
        since=cast("ResumeToken", document["since"]),
        created_at=cast("datetime", document["created_at"]),
        created_by=str(document["created_by"]),
        backfill=None
        if backfill is None
        else Backfill(cast("datetime", backfill["since"]), bool(backfill["again"])),
        ended_at=cast("datetime | None", document.get("ended_at")),
        rests_until=cast("datetime | None", document.get("rests_until")),
    )


def _delivery(document: Mapping[str, object]) -> Delivery:
    return Delivery(
        id=str(document["_id"]),
        webhook=cast("UUID", document["webhook"]),
        event=cast("UUID", document["event"]),
        ticket_id=cast("UUID", document["ticket_id"]),
        version=cast("int", document["version"]),
        type=str(document["type"]),
        status=cast("DeliveryStatus", document["status"]),
        failures=cast("int", document["failures"]),
        next_at=cast("datetime", document["next_at"]),
        made_at=cast("datetime", document["made_at"]),
        attempts=cast("list[Mapping[str, object]]", document["attempts"]),
        failing_since=cast("datetime | None", document.get("failing_since")),
    )
