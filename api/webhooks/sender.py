"""Sending to webhooks: each event as a signed POST, at least once, in version order per ticket.

A ticket's first event that has not arrived is sent; the others of that ticket wait for it, all
other tickets go on. 2xx means that it has arrived, and 410 that the receiver is gone: the webhook
ends. Any other failure is tried again after a pause that doubles, up to four hours; after three
days of failures the ticket is parked for that webhook, until a user resumes it. A receiver that
fails again and again, or asks for it by `Retry-After`, rests as a whole. Once it takes something
again, all that waits for it is due.

One process does this for all, by a lease (`WebhookLease`); one that is killed is replaced when its
lease has run out, and what it was sending is sent again. One whose lease ran out while it was
frozen may send once more what the next one sends, too.
"""

import asyncio
import logging
import random
import ssl
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from uuid import UUID

import httpx

from api.feed.format import event_line
from api.http.correlation import outgoing
from api.webhooks.addresses import Resolve, resolve
from api.webhooks.deliveries import Deliveries, Delivery
from api.webhooks.enqueuer import Enqueuer
from api.webhooks.posting import Answer, Poster, signature
from api.webhooks.store import UnknownWebhook, Webhook, WebhookLease, Webhooks
from domain.values import JsonObject
from eventstore.background import background, end, run_all
from eventstore.database import Database
from eventstore.documents import UnreadableDocument
from eventstore.lease import LEASE_SECONDS, RENEWALS, LeaseLost
from eventstore.log import EventStore
from eventstore.log_identity import new_member_id
from eventstore.mongo.coalesced_reads import CAN_WAIT_SECONDS
from eventstore.mongo.errors import DriverError
from eventstore.subscription import LateEventCheck

_log = logging.getLogger(__name__)

_AT_ONCE = 16  # to one webhook
_DUE_AT_ONCE = 500
_LOOK_SECONDS = 1.0
_RETRY_SECONDS = 2.0
_FAILURES_BEFORE_REST = 3
_LONGEST_REST_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Patience:
    """For how long a failure is tried again, and after how long at first and at most; and how long
    an answer may take.
    """

    first_seconds: float = 2.0
    longest_seconds: float = 4 * 3600.0
    total_seconds: float = 3 * 24 * 3600.0
    answer_seconds: float = 10.0

    def pause(self, failures: int, failing: timedelta) -> timedelta | None:
        """Return how long to wait after so many failures in so much time, some of it by chance, so
        that the last try is at the end of the time; None: no longer.
        """
        left = self.total_seconds - failing.total_seconds()
        if left <= 0:
            return None
        doubled = self.first_seconds * 2 ** min(failures - 1, 60)
        seconds = min(doubled, self.longest_seconds) * random.uniform(0.5, 1.0)  # noqa: S311
        return timedelta(seconds=min(seconds, max(left, self.first_seconds)))

    def rest(self, failures: int) -> timedelta:
        """Return how long to leave a receiver alone that has failed so often in a row."""
        if (more := failures - _FAILURES_BEFORE_REST) < 0:
            return timedelta()
        return timedelta(
            seconds=min(self.first_seconds * 2 ** min(more, 10), _LONGEST_REST_SECONDS)
        )


class Sender:
    """Sends what is due."""

    def __init__(
        self,
        database: Database,
        store: EventStore,
        news: asyncio.Event,
        patience: Patience,
        poster: Poster,
    ) -> None:
        """`news` is set whenever something has become due."""
        self._database = database
        self._store = store
        self._news = news
        self._patience = patience
        self._poster = poster
        self._hooks = Webhooks(database)
        self._deliveries = Deliveries(database)
        self._failures: Counter[UUID] = Counter()  # of a webhook, in a row
        self._rest_until: dict[UUID, datetime] = {}

    async def run(self) -> None:
        """Send until cancelled. Raises what the driver raises.

        Each receiver is sent to by a task of its own: a slow one keeps no other waiting.
        """
        sending: dict[UUID, asyncio.Task[None]] = {}
        try:
            while True:
                self._news.clear()
                await self._start_due(sending)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await self._news.wait()
                for hook_id in [id_ for id_, task in sending.items() if task.done()]:
                    sending.pop(hook_id).result()
        finally:
            await end(*sending.values())

    async def _start_due(self, sending: dict[UUID, asyncio.Task[None]]) -> None:
        """Begin to send what is due, to each receiver that is not being sent to; and end what was
        made for webhooks that have ended.
        """
        now = await self._database.server_time()  # before the webhooks are read: see `end`
        for hook in await self._hooks.all():
            if hook.ended_at is not None:
                await self._deliveries.end(hook.id, now)
                continue
            # What is still to be enqueued of the past comes before what is new.
            if hook.backfill is not None or hook.id in sending or self._rests(hook, now):
                continue
            if tickets := await self._deliveries.due(hook.id, now, _DUE_AT_ONCE):
                sending[hook.id] = asyncio.create_task(self._send_to(hook, tickets))

    def _rests(self, hook: Webhook, now: datetime) -> bool:
        return hook.rests(now) or now < self._rest_until.get(hook.id, now)

    async def _send_to(self, hook: Webhook, tickets: Sequence[UUID]) -> None:
        waiting = iter(tickets)

        async def lane() -> None:
            for ticket_id in waiting:
                if not await self._send_of(hook, ticket_id, client):
                    return

        try:
            async with await self._poster.client() as client:
                await run_all(*(lane() for _ in range(min(_AT_ONCE, len(tickets)))))
        finally:
            self._news.set()  # there may be more

    async def _send_of(self, hook: Webhook, ticket_id: UUID, client: httpx.AsyncClient) -> bool:
        """Send a ticket's events, the first first, until one is not due or does not arrive.

        Return False if nothing more is to be sent to the webhook as it was: its receiver rests, or
        it has got another URL meanwhile, or has ended, or is gone.
        """
        while waiting := await self._deliveries.waiting(hook.id, ticket_id):
            for first in waiting:
                now = await self._database.server_time()
                if first.status == "parked" or first.next_at > now:
                    await self._deliveries.wait_behind(first)
                    return True
                try:
                    here = await self._hooks.find(hook.id)
                except (UnknownWebhook, UnreadableDocument):
                    return False
                if here.url != hook.url or here.ended_at is not None or self._rests(here, now):
                    return False
                if not await self._attempt(here, first, now, client):
                    return True
        return True

    async def _attempt(
        self, hook: Webhook, delivery: Delivery, now: datetime, client: httpx.AsyncClient
    ) -> bool:
        """Send a delivery, and note what has become of it; return whether it has arrived."""
        answer = await self._post(hook, delivery, now, client)
        attempt: JsonObject = {"at": now, "status": answer.status, "error": answer.error}
        if answer.error is None:
            await self._deliveries.delivered(delivery.id, attempt, now)
            if self._failures.pop(hook.id, 0) >= _FAILURES_BEFORE_REST:
                await self._deliveries.wake(hook.id, now)  # it is back
            return True
        at = await self._database.server_time()
        since = delivery.failing_since or now
        pause = self._patience.pause(delivery.failures + 1, at - since)
        next_at = None if pause is None else at + max(pause, answer.asked)
        await self._deliveries.failed(delivery.id, attempt, since, next_at)
        if answer.status == HTTPStatus.GONE:
            if await self._hooks.end(hook, at):
                _log.warning("webhook %s has ended: its address answers 410", hook.id)
        elif answer.asked:
            await self._hooks.rest(hook, at + answer.asked)
        self._failures[hook.id] += 1
        self._rest_until[hook.id] = at + self._patience.rest(self._failures[hook.id])
        return False

    async def _post(
        self, hook: Webhook, delivery: Delivery, now: datetime, client: httpx.AsyncClient
    ) -> Answer:
        after = delivery.version - 1
        events = await self._store.stored(delivery.ticket_id, after=after, limit=1)
        if not events:
            return Answer(None, "the log has no such event any more")
        [event] = await self._store.open(events)
        if "sealed" in event:  # nulls would be taken for what was said
            return Answer(None, "a key is missing, and the event cannot be opened")
        body = event_line(events[0], event).rstrip(b"\n")
        timestamp = str(int(now.timestamp()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "Casebook",
            "Casebook-Delivery": delivery.id,
            "Casebook-Event": delivery.type,
            "Casebook-Timestamp": timestamp,
            "Casebook-Signature": f"v1={signature(hook.secret, timestamp, body)}",
            **outgoing(events[0]["correlation_id"]),
        }
        return await self._poster.post(client, hook.url, headers, body, now)


class WebhookWorker:
    """Enqueues and sends, if no other process does."""

    def __init__(
        self,
        database: Database,
        store: EventStore,
        patience: Patience | None = None,
        lease_seconds: float = LEASE_SECONDS,
        resolve: Resolve = resolve,
        tls: ssl.SSLContext | None = None,
        late: LateEventCheck | None = None,
    ) -> None:
        """`resolve`, `tls`: see `Poster`."""
        news, patience = asyncio.Event(), patience or Patience()
        poster = Poster(resolve, tls, patience.answer_seconds)
        self._database = database
        self._lease_seconds = lease_seconds
        self._enqueuer = Enqueuer(database, store, news, late or LateEventCheck())
        self._sender = Sender(database, store, news, patience, poster)
        self._hooks = Webhooks(database)
        self._me = new_member_id()

    async def run(self) -> None:
        """Work until cancelled. A failure is logged and tried again."""
        pause_seconds = min(_RETRY_SECONDS, self._lease_seconds)
        await self._database.supervisor.keep(self._step, "sending to webhooks", pause_seconds)

    async def _step(self) -> None:
        lease = WebhookLease(self._database)
        if not await lease.take(self._me, self._lease_seconds):
            return
        try:
            with suppress(LeaseLost):
                while True:
                    await self._until_needed(lease)
                    async with (
                        background(self._stay(lease)),
                        background(self._sender.run()),
                        background(self._enqueuer.run_backfills(lease)),
                    ):
                        await self._enqueuer.run(lease)
        finally:
            with suppress(DriverError):
                await lease.release()

    async def _until_needed(self, lease: WebhookLease) -> None:
        while True:
            now = await self._database.clock.time()
            if await self._hooks.any(CAN_WAIT_SECONDS):
                return
            await lease.enqueued(None, now)  # no webhook is sent what was before it
            await asyncio.sleep(self._lease_seconds / RENEWALS)

    async def _stay(self, lease: WebhookLease) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / RENEWALS)
            await lease.renew()
