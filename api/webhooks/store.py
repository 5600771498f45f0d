"""Webhooks as they are kept.

    webhooks   {_id, url, types, filter, secret, since, created_at, created_by, backfill, ended_at,
                rests_until, since_at}

`ended_at`, `rests_until` and `since_at` are not there in what was stored before they were known.

A webhook that another version has stored, with a condition of its filter that this one does not
know, is sent nothing by this one: it might be what must not be sent. What it misses is noted as
wished for in its `backfill`, for the version that can read it.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, NamedTuple
from uuid import UUID

from pydantic import BeforeValidator

from domain.errors import NotFound, StateConflict
from domain.values import JsonObject
from eventstore.database import Database
from eventstore.documents import Document, Reader, StoredSet, as_document, strict_decoder, uuid_of
from eventstore.lease import LEASE_SECONDS, Lease
from eventstore.mongo.limits import in_parts
from eventstore.mongo.resend import insert
from eventstore.mongo.resume_tokens import ResumeToken
from projections.views.saved_views import TicketFilter, requester_of, stored_filter

WEBHOOKS = "webhooks"
DELIVERIES = "webhook_deliveries"
DISPATCH = "webhook_dispatch"
MOST_WEBHOOKS = 50
_SECRET_BYTES = 32


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
    """Events recorded from a time on are to be sent; `again`: also those that were delivered."""

    since: datetime
    again: bool


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where to send which events. `types`: events of these types, of all if there is none;
    `filter`: of tickets that match after the event. `since`: what the stream brings behind this
    token. `ended_at`: when its receiver said that it is gone; nothing is sent since.
    `rests_until`: until when its receiver has asked to be left alone. `since_at`: when a webhook
    that had ended went on, if that is known.
    """

    id: UUID
    url: str
    types: StoredSet
    filter: Annotated[TicketFilter, BeforeValidator(stored_filter)]
    secret: str
    since: ResumeToken
    created_at: datetime
    created_by: str
    backfill: (
        Annotated[Backfill, BeforeValidator(strict_decoder(Backfill, id_field=None))] | None
    ) = None
    ended_at: datetime | None = None
    rests_until: datetime | None = None
    since_at: datetime | None = None

    @property
    def sent_since(self) -> datetime:
        """Return since when what is recorded is sent."""
        return self.since_at or self.created_at

    def rests(self, now: datetime) -> bool:
        """Return whether its receiver is to be left alone."""
        return self.rests_until is not None and now < self.rests_until


webhook_of = strict_decoder(Webhook)


def new_secret() -> str:
    """Return a secret to sign with."""
    return secrets.token_urlsafe(_SECRET_BYTES)


class Webhooks:
    """The webhooks of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._hooks = database.collection(WEBHOOKS)
        self._deliveries = database.collection(DELIVERIES)
        self._reader = Reader(database.unreadable, WEBHOOKS, webhook_of)

    async def all(self) -> list[Webhook]:
        """Return all that can be read, the first made first."""
        return (await self.all_apart())[0]

    async def all_apart(self) -> tuple[list[Webhook], list[Document]]:
        """Return the same, and the documents of those that cannot be read."""
        return self._reader.all_apart(await self._hooks.find().sort("_id", 1).to_list())

    async def find(self, id_: UUID) -> Webhook:
        """Return a webhook. Raises UnknownWebhook, UnreadableDocument."""
        return self._reader.one(await self._document(id_))

    async def _document(self, id_: UUID) -> JsonObject:
        found = await self._hooks.find_one({"_id": id_})
        if found is None:
            raise UnknownWebhook
        return found

    async def requesters(self) -> set[str]:
        """Return whose tickets are asked for, by those that cannot be read too."""
        found = self._hooks.find({}, {"filter.requester": 1})
        return {name async for document in found if (name := requester_of(document)) is not None}

    async def any(self, within_seconds: float) -> bool:
        """Return whether there is one, asked for within so many seconds from now."""
        return bool(await self._database.small(WEBHOOKS, within_seconds=within_seconds))

    async def ids(self, condition: JsonObject | None = None) -> list[UUID]:
        """Return the ids of those that meet a condition, or of all; whether they can be read or
        not.
        """
        found = self._hooks.find(condition or {}, {"_id": 1}).sort("_id", 1)
        return [uuid_of(document) async for document in found]

    async def ids_asking_for(self, requester: str) -> list[UUID]:
        """Return the ids of those that ask for a requester's tickets, read or not."""
        return await self.ids({"filter.requester": requester})

    async def add(self, hook: Webhook) -> None:
        """Keep a new webhook. Raises TooManyWebhooks; OutcomeUnknown, StoreFailed."""
        if await self._hooks.count_documents({}) >= MOST_WEBHOOKS:
            raise TooManyWebhooks
        await insert(self._hooks, as_document(hook))

    async def change(
        self, id_: UUID, wanted: Mapping[str, object], position: ResumeToken, now: datetime
    ) -> tuple[Webhook, str | None]:
        """Send other events, or elsewhere, from now on, also if the webhook had ended.

        `wanted`: its `url`, `types` and `filter`, and its `secret` if that is to be another.
        `position`, `now`: from where a webhook that had ended goes on, without what was to be sent
        of the past. Another URL gets another secret.
        Return the webhook as it has become, and the secret if one was made for it. Raises
        UnknownWebhook; UnreadableDocument if that would not make it one that can be read.
        """
        while True:
            former, made = await self._document(id_), None
            changes: JsonObject = {**wanted, "ended_at": None}
            if former.get("url") != wanted["url"]:
                changes["rests_until"] = None
                if "secret" not in wanted:
                    changes["secret"] = made = new_secret()
            if former.get("ended_at") is not None:
                changes |= {"since": position, "since_at": now, "backfill": None}
            changed = self._reader.one({**former, **changes})
            as_it_was = {"_id": id_, **{name: former.get(name) for name in ("url", "ended_at")}}
            if (await self._hooks.update_one(as_it_was, {"$set": changes})).matched_count:
                return changed, made
            # It has got another URL meanwhile, or ended, or is gone.

    async def end(self, hook: Webhook, at: datetime) -> bool:
        """End a webhook whose receiver is gone; return whether it had neither ended nor got another
        URL.
        """
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
        """Have events of the past be sent, and those that are still to be; also to a webhook
        that cannot be read, by a process that can read it.
        """
        first = {"backfill": None}, {"$set": {"backfill": wish._asdict()}}
        more: JsonObject = {"$min": {"backfill.since": wish.since}}
        if wish.again:
            more["$set"] = {"backfill.again": True}
        longer = {"backfill.since": {"$type": "date"}}, more
        for which, change in (first, longer, first):  # what is wished may be done in between
            if (await self._hooks.update_one({"_id": id_, **which}, change)).matched_count:
                return

    async def backfilled(self, id_: UUID, done: Backfill) -> bool:
        """Note that events of the past are on their way; return whether no more is wished."""
        wish = {f"backfill.{name}": value for name, value in done._asdict().items()}
        found = await self._hooks.update_one({"_id": id_, **wish}, {"$set": {"backfill": None}})
        return found.matched_count > 0

    async def delete(self, id_: UUID) -> None:
        """Forget a webhook, and what was to be sent to it. Raises UnknownWebhook."""
        if not (await self._hooks.delete_one({"_id": id_})).deleted_count:
            raise UnknownWebhook
        await in_parts(self._deliveries, {"webhook": id_})


class _Claim(NamedTuple):
    owner: str | None
    epoch: int
    seen_at: datetime
    token: ResumeToken | None
    looked_at: datetime | None = None


lease_of = strict_decoder(_Claim, id_field=None)


class WebhookLease:
    """The lease of the process that enqueues and sends, and how far the log has been enqueued.

    `token`: what the stream has brought up to it was enqueued. `looked_at`: so was what the log has
    recorded up to then.

        webhook_dispatch   {_id: "dispatch", owner, epoch, seen_at, token, looked_at}
    """

    def __init__(self, database: Database) -> None:
        reader = Reader(database.unreadable, DISPATCH, lease_of)
        self._lease = Lease(database, reader, database.collection(DISPATCH), "dispatch")
        self.renew, self.release = self._lease.renew, self._lease.release
        self.token: ResumeToken | None = None
        self.looked_at: datetime | None = None

    async def take(self, me: str, lease_seconds: float = LEASE_SECONDS) -> bool:
        """Take the lease unless a living process has it; return whether it was taken."""
        claim = await self._lease.take(me, {"token": None}, lease_seconds)
        if claim is not None:
            self.token, self.looked_at = claim.token, claim.looked_at
        return claim is not None

    async def enqueued(self, token: ResumeToken | None, looked_at: datetime) -> None:
        """Note how far the log has been enqueued; None: no webhook wants anything yet.

        Raises LeaseLost.
        """
        self.token, self.looked_at = token, looked_at
        await self._lease.renew({"token": token, "looked_at": looked_at})
