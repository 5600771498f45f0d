"""Enqueuing for webhooks: from the log to deliveries. One more consumer of the log.

The log is followed by a `Subscription` from a position that is kept with the lease
(`api/webhooks/store.py`). Events become deliveries first, and the position moves on then: nothing
is lost by a kill at any moment, and an event that is enqueued twice makes one delivery. Late events
are enqueued when they are found, and may come behind later events of their ticket.

Which tickets match a webhook's filter is asked of the ticket as it is after the event, folded from
the log by the views' own fold.

While there is no webhook, no stream is followed.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing
from datetime import datetime
from math import inf
from uuid import UUID

from cachetools import LRUCache

from api.webhooks.deliveries import Deliveries
from api.webhooks.store import Backfill, Webhook, WebhookLease, Webhooks
from domain.errors import HistoryError
from eventstore.database import Database
from eventstore.documents import Document
from eventstore.event_document import EventDocument, from_document
from eventstore.log import EventStore
from eventstore.mongo.resume_tokens import stream_order
from eventstore.reading import read_events
from eventstore.subscription import (
    LateEventCheck,
    Position,
    Step,
    Subscription,
    read_ahead,
    recorded,
)
from projections.views import tickets
from projections.views.saved_views import TicketFilter
from projections.views.tickets import TicketRead

_log = logging.getLogger(__name__)

_IDLE_SECONDS = 1.0
_BATCH_EVENTS = 200
_GATHER_SECONDS = 0.05
_SAVE_SECONDS = 3.0  # where nothing comes
_SEE_SECONDS = 0.5
_KEPT_TICKETS = 2000
_EVERYTHING = TicketFilter()


class Enqueuer:
    """Makes deliveries of the log's events, for as long as the lease is held."""

    def __init__(
        self, database: Database, store: EventStore, news: asyncio.Event, late: LateEventCheck
    ) -> None:
        """`news` is set whenever something has become due."""
        self._database = database
        self._store = store
        self._news = news
        self._late = late
        self._hooks = Webhooks(database)
        self._deliveries = Deliveries(database)
        self._reads: LRUCache[UUID, TicketRead] = LRUCache(_KEPT_TICKETS)
        self._forgotten = 0
        store.vault.news.on_news(self)

    def invalidate(self) -> None:
        """Forget tickets: an erased person's words may be in some of them."""
        self._reads.clear()
        self._forgotten += 1

    async def run(self, lease: WebhookLease) -> None:
        """Enqueue for as long as there is a webhook.

        Raises LeaseLost, StoreUnavailable, what the driver raises.
        """
        await self._deliveries.forget_all_but(await self._hooks.ids())
        while await self._hooks.ids():
            now = await self._database.server_time()
            if hooks := await self._active(lease):
                await self._follow(lease, hooks)
            else:
                await lease.enqueued(None, now)  # all have ended
                await asyncio.sleep(_IDLE_SECONDS)

    async def _follow(self, lease: WebhookLease, hooks: list[Webhook]) -> None:
        """Follow the log until there is no webhook, or a new one, which may want older events."""
        clock = asyncio.get_running_loop().time
        start = _start(lease, hooks)
        log = Subscription(
            self._store, start, look_back=True, late=self._late, silent_seconds=_SEE_SECONDS
        )
        seen = saved = clock()
        async with read_ahead(log) as buffer:
            while True:
                batch = await buffer.take(_BATCH_EVENTS)
                if batch.steps or clock() - seen >= _SEE_SECONDS:
                    known = {hook.id for hook in hooks}
                    hooks, seen = await self._active(lease), clock()
                    await self._enqueue(hooks, batch.steps)
                    new = [hook.since for hook in hooks if hook.id not in known]
                    if new or not hooks:
                        lease.token = min((*new, batch.position.token), key=stream_order)
                        return
                if batch.steps or clock() - saved > _SAVE_SECONDS:
                    await lease.enqueued(batch.position.token, batch.position.at)
                    saved = clock()
                    await asyncio.sleep(_GATHER_SECONDS)

    async def _active(self, lease: WebhookLease) -> list[Webhook]:
        """Return the webhooks that have not ended.

        What those miss that cannot be read is noted before anything is passed over.
        """
        hooks, unreadable = await self._hooks.all_apart()
        for document in unreadable:
            await self._note_missed(lease, document)
        return [hook for hook in hooks if hook.ended_at is None]

    async def _note_missed(self, lease: WebhookLease, hook: Document) -> None:
        """Have all that was not enqueued yet for a webhook that cannot be read be so by a process
        that can read it: from its own beginning, or from the last look for late events.
        """
        id_ = hook["_id"]
        began = [hook.get("created_at"), hook.get("since_at")]
        if lease.looked_at is not None:
            began.append(lease.looked_at - self._late.back)
        times = [time for time in began if isinstance(time, datetime)]
        since = max(times, default=None) or await self._database.server_time()
        if isinstance(id_, UUID):
            await self._hooks.backfill(id_, Backfill(since, again=False))

    async def _enqueue(self, hooks: Sequence[Webhook], steps: Sequence[Step]) -> None:
        for hook in hooks:
            since = stream_order(hook.since)
            events = [
                step.event
                for step in steps
                if step.event is not None
                and (
                    stream_order(step.position.token) > since
                    if step.from_stream
                    else step.event["recorded_at"] > hook.sent_since
                )
            ]
            await self._deliveries.make(hook.id, await self._wanted(hook, events))
        if steps:
            self._news.set()

    async def _wanted(self, hook: Webhook, events: Sequence[EventDocument]) -> list[EventDocument]:
        """Return those events that a webhook is to be sent."""
        return [
            event
            for event in events
            if (not hook.types or event["type"] in hook.types)
            and (hook.filter == _EVERYTHING or await self._matches(hook.filter, event))
        ]

    async def _matches(self, filter_: TicketFilter, event: EventDocument) -> bool:
        """Return whether the ticket matches after the event; one that cannot be read does."""
        ticket_id, version, forgotten = event["ticket_id"], event["version"], self._forgotten
        read = self._reads.pop(ticket_id, None)
        if read is not None and read.version > version:
            read = None
        have = 0 if read is None else read.version
        try:
            if have < version:
                more = read_events(
                    self._store, ticket_id, after=have, upto=version, longest_seconds=inf
                )
                async with aclosing(more) as past:
                    async for _, each in past:
                        read = tickets.apply(read, from_document(each))
        except HistoryError as error:
            _log.warning("ticket %s cannot be read, and is sent: %s", ticket_id, error.detail)
            return True
        if read is None:
            return True
        if forgotten == self._forgotten:  # else it may hold the words of a person who was erased
            self._reads[ticket_id] = read
        return filter_.where.matches(tickets.values(read))

    async def run_backfills(self, lease: WebhookLease) -> None:
        """Enqueue what webhooks want of the past, until cancelled. Raises as `run` does.

        At the same time as what is new, so that no other webhook waits for it; its own webhook is
        sent what is new after it.
        """
        while True:
            for hook in await self._active(lease):
                if (wish := hook.backfill) is None:
                    continue
                async with aclosing(recorded(self._store, wish.since)) as pages:
                    async for events in pages:
                        wanted = await self._wanted(hook, events)
                        await self._deliveries.make(hook.id, wanted, again=wish.again)
                if await self._hooks.backfilled(hook.id, wish):
                    self._news.set()
            await asyncio.sleep(_IDLE_SECONDS)


def _start(lease: WebhookLease, hooks: Sequence[Webhook]) -> Position:
    """Return where to follow the log from: where it was enqueued up to, or where the first of the
    webhooks begins if that is later.
    """
    tokens = [min((hook.since for hook in hooks), key=stream_order)]
    times = [min(hook.sent_since for hook in hooks)]
    if lease.token is not None:
        tokens.append(lease.token)
    if lease.looked_at is not None:
        times.append(lease.looked_at)
    return Position(max(tokens, key=stream_order), max(times))
