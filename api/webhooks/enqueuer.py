"""Feeding webhooks: from the log to deliveries that are to be sent. One more consumer of the log.

The log is followed by a `Subscription` from a position that is kept, by whichever process holds the
lease (`api/webhooks/store.py`). What comes is made into deliveries first, and the position moved on
then: so nothing is lost by a kill at any moment, and what is fed twice makes one delivery. Late
events are fed when they are found, and may come behind later events of their ticket.

Which tickets match a webhook's filter is asked of the ticket as it is after the event, folded from
the log by the views' own fold.

While there is no webhook, no stream is followed.
"""

import asyncio
import logging
from collections.abc import Collection, Sequence
from contextlib import aclosing
from datetime import datetime
from math import inf
from typing import cast
from uuid import UUID

from cachetools import LRUCache

from api.webhooks.store import Backfill, Deliveries, Dispatch, Wanted, Webhook, Webhooks
from domain.errors import HistoryError
from eventstore.event_document import EventDocument, from_document
from eventstore.log import EventStore, ResumeToken, stream_order
from eventstore.mongo.driver import Database
from eventstore.reading import read_events
from eventstore.subscription import LateLook, Position, Step, Subscription, gathering, recorded
from projections.views import tickets
from projections.views.saved_views import TicketFilter
from projections.views.tickets import TicketRead

_log = logging.getLogger(__name__)

_IDLE_SECONDS = 1.0
_BATCH_EVENTS = 200
_GATHER_SECONDS = 0.05
_SAVE_SECONDS = 0.5
_SEE_SECONDS = 0.25
_KEPT_TICKETS = 2000
_EVERYTHING = TicketFilter()


class Feeder:
    """Makes deliveries of what the log has for the webhooks, for as long as `dispatch` is held."""

    def __init__(
        self,
        database: Database,
        store: EventStore,
        dispatch: Dispatch,
        news: asyncio.Event,
        late: LateLook,
    ) -> None:
        """`news` is set whenever something has become due."""
        self._late = late
        self._database = database
        self._store = store
        self._dispatch = dispatch
        self._news = news
        self._hooks = Webhooks(database)
        self._deliveries = Deliveries(database)
        self._reads: LRUCache[UUID, TicketRead] = LRUCache(_KEPT_TICKETS)
        self._owed: set[UUID] = set()  # what cannot be read, and for which that is noted
        store.vault.on_erasure(self)

    def forget(self) -> None:
        """Forget tickets: somebody was erased whose words may be in some of them."""
        self._reads.clear()

    async def run(self) -> None:
        """Feed until cancelled. Raises LeaseLost, StoreUnavailable, what the driver raises."""
        await self._deliveries.forget_all_but(await self._hooks.ids())
        while True:
            now = await self._database.server_time()
            if hooks := await self._active():
                await self._follow(hooks)
            else:
                await self._save(None, now)  # nobody is to be told of what was before
                await asyncio.sleep(_IDLE_SECONDS)

    async def _follow(self, hooks: list[Webhook]) -> None:
        """Follow the log until there is no webhook, or one that wants older events."""
        clock = asyncio.get_running_loop().time
        log = Subscription(self._store, self._start(hooks), look_back=True, late=self._late)
        seen = saved = clock()
        async with gathering(log) as buffer:
            while True:
                batch = await buffer.take(_BATCH_EVENTS)
                if batch.steps or clock() - seen > _SEE_SECONDS:
                    known = {hook.id for hook in hooks}
                    hooks, seen = await self._active(known), clock()
                    await self._feed(hooks, batch.steps)
                    if not hooks or self._wants_older(hooks, known, batch.position):
                        return
                if batch.steps or clock() - saved > _SAVE_SECONDS:
                    await self._save(batch.position.token, batch.position.at)
                    saved = clock()
                    await asyncio.sleep(_GATHER_SECONDS)

    async def _save(self, token: ResumeToken | None, at: datetime) -> None:
        self._dispatch.looked_at = at
        await self._dispatch.fed(token)

    async def _active(self, known: Collection[UUID] = ()) -> list[Webhook]:
        """Return the webhooks that want something.

        What was made meanwhile for those of `known` that are gone, or have ended, is taken back. Of
        one that cannot be read it is noted since when it is told of nothing, before anything is
        passed over: what was recorded before the last look was fed by who could read it.
        """
        hooks, unreadable = await self._hooks.all_apart()
        ids = [cast("UUID", document["_id"]) for document in unreadable]
        for id_, document in zip(ids, unreadable, strict=True):
            if id_ not in self._owed:
                made, revived = document.get("created_at"), document.get("since_at")
                looked_at = self._dispatch.looked_at
                fed = None if looked_at is None else looked_at - self._late.back
                times = [time for time in (made, revived, fed) if isinstance(time, datetime)]
                now = await self._database.server_time()
                await self._hooks.owe(id_, max(times, default=now))
        self._owed = {*ids}
        for gone in {*known} - {*(hook.id for hook in hooks), *ids}:
            await self._deliveries.forget(gone)
        for hook in hooks:
            if hook.ended_at is not None and hook.id in known:
                await self._deliveries.end(hook.id, hook.ended_at)
        return [hook for hook in hooks if hook.ended_at is None]

    def _start(self, hooks: Sequence[Webhook]) -> Position:
        """Return the earliest position that is of use: before it nobody wanted anything."""
        tokens = [min((hook.since for hook in hooks), key=stream_order)]
        times = [min(hook.told_since for hook in hooks)]
        if self._dispatch.token is not None:
            tokens.append(self._dispatch.token)
        if self._dispatch.looked_at is not None:
            times.append(self._dispatch.looked_at)
        return Position(max(tokens, key=stream_order), max(times))

    def _wants_older(
        self, hooks: Sequence[Webhook], known: Collection[UUID], position: Position
    ) -> bool:
        """Say whether a webhook is new that wants what has been passed already; begin there."""
        new = [hook.since for hook in hooks if hook.id not in known]
        older = [t for t in new if stream_order(t) < stream_order(position.token)]
        if older:
            self._dispatch.token = min(older, key=stream_order)
        return bool(older)

    async def _feed(self, hooks: Sequence[Webhook], steps: Sequence[Step]) -> None:
        for hook in hooks:
            since = stream_order(hook.since)
            events = [
                step.event
                for step in steps
                if step.event is not None
                and (
                    stream_order(step.position.token) > since
                    if step.from_stream
                    else step.event["recorded_at"] > hook.told_since
                )
            ]
            await self._deliveries.make(hook.id, await self._wanted(hook, events))
        if steps:
            self._news.set()

    async def _wanted(self, hook: Webhook, events: Sequence[EventDocument]) -> list[Wanted]:
        """Return those that a webhook is to be told of."""
        return [
            Wanted(event["_id"], event["ticket_id"], event["version"], event["type"])
            for event in events
            if (not hook.types or event["type"] in hook.types)
            and (hook.filter == _EVERYTHING or await self._matches(hook.filter, event))
        ]

    async def _matches(self, filter_: TicketFilter, event: EventDocument) -> bool:
        """Say whether the ticket matches after the event; one that cannot be read does."""
        ticket_id, version = event["ticket_id"], event["version"]
        read = self._reads.pop(ticket_id, None)
        if read is not None and read.version > version:
            read = None
        have = 0 if read is None else read.version
        try:
            more = read_events(
                self._store, ticket_id, after=have, upto=version, longest_seconds=inf
            )
            if have < version:
                async with aclosing(more) as past:
                    async for _, each in past:
                        read = tickets.apply(read, from_document(each))
        except HistoryError as error:
            _log.warning("ticket %s cannot be read, and is told of: %s", ticket_id, error.detail)
            return True
        if read is None:
            return True
        self._reads[ticket_id] = read
        return filter_.where.matches(tickets.values(read))

    # --- what was before -------------------------------------------------------------------------

    async def run_backfills(self) -> None:
        """Feed what webhooks want of the past, until cancelled. Raises as `run` does.

        Beside what is new, so that nobody waits for it; but to its own webhook what is new is sent
        after it.
        """
        while True:
            for hook in await self._active():
                if hook.backfill is not None:
                    await self._backfill(hook, hook.backfill)
            await asyncio.sleep(_IDLE_SECONDS)

    async def _backfill(self, hook: Webhook, wish: Backfill) -> None:
        async for events in recorded(self._store, wish.since):
            wanted = await self._wanted(hook, events)
            await self._deliveries.make(hook.id, wanted, again=wish.again)
        if await self._hooks.backfilled(hook.id, wish):  # or more is wished by now, or it is gone
            self._news.set()
