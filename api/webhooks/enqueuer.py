"""Feeding webhooks: from the log to deliveries that are to be sent. One more consumer of the log.

The log is followed from a token that is kept, by whoever holds the lease
(`api/webhooks/store.py`). What is found is made into deliveries first, and the token moved on
then: so nothing is lost by a kill at any moment, and what is fed twice makes one delivery.

The stream is not trusted alone (law L8): what it leaves out between two versions of a ticket is
read from the log (`log_reader.py`), and every few seconds all that the log has of the time since
the last such look, and of a minute before it, is fed unless it was: late, and maybe behind later
events of its ticket. How far has been looked is kept with the token: so also what was recorded
while nobody fed is looked through. Where the stream has
forgotten the token, all since then is fed from the log, and the stream followed from now.

Which tickets match a webhook's filter is asked of the ticket as it is after the event, folded from
the log by the views' own fold.

While there is no webhook, no stream is followed.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Collection, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from math import inf
from typing import cast
from uuid import UUID

from api.feed.log_reader import LOOK_BACK, CursorExpired, LogReader, Position, Versions
from api.webhooks.store import Backfill, Deliveries, Dispatch, Wanted, Webhook, Webhooks
from domain.errors import HistoryError
from eventstore.event_document import EventDocument, from_document
from eventstore.failures import translating
from eventstore.log import EventStore, ResumeToken, stream_order
from eventstore.mongo.driver import Database
from eventstore.reading import read_events
from projections.views import tickets
from projections.views.saved_views import TicketFilter
from projections.views.tickets import TicketRead

_log = logging.getLogger(__name__)

_IDLE_SECONDS = 1.0
_BATCH_EVENTS = 200
_GATHER_SECONDS = 0.05
_SAVE_SECONDS = 0.5
_SEE_SECONDS = 0.25
LOOK_SECONDS = 5.0
OVERDUE_SECONDS = 5.0
_KEPT_TICKETS = 2000
_KEPT_EVENTS = 50_000
_EVERYTHING = TicketFilter()


class Feeder:
    """Makes deliveries of what the log has for the webhooks, for as long as `dispatch` is held."""

    def __init__(
        self, database: Database, store: EventStore, dispatch: Dispatch, news: asyncio.Event
    ) -> None:
        """`news` is set whenever something has become due."""
        self._database = database
        self._store = store
        self._dispatch = dispatch
        self._news = news
        self._hooks = Webhooks(database)
        self._deliveries = Deliveries(database)
        self._reader = LogReader(store)
        self._fed: OrderedDict[UUID, None] = OrderedDict()  # for speed: what is made twice is one
        self._reads: OrderedDict[UUID, TicketRead] = OrderedDict()
        self._owed: set[UUID] = set()  # what cannot be read, and for which that is noted
        store.vault.on_erasure(self)

    def forget(self) -> None:
        """Forget tickets: somebody was erased whose words may be in some of them."""
        self._reads.clear()

    async def run(self) -> None:
        """Feed until cancelled. Raises DispatchLost, StoreUnavailable, what the driver raises."""
        await self._deliveries.forget_all_but(await self._hooks.ids())
        while True:
            now = await self._database.server_time()
            hooks = await self._active()
            if not hooks:
                self._dispatch.looked_at = now  # nobody is to be told of what was before
                await self._dispatch.fed(None)
                await asyncio.sleep(_IDLE_SECONDS)
                continue
            try:
                await self._follow(hooks)
            except CursorExpired:
                await self._feed_since_the_token()

    async def _follow(self, hooks: list[Webhook]) -> None:
        """Follow the stream until there is no webhook, or one that wants older events."""
        clock = asyncio.get_running_loop().time
        position = Position(self._start(hooks), await self._database.server_time())
        since = await self._database.server_time()
        began = seen = saved = clock()
        looked = float("-inf")
        async with (
            self._reader.open(position) as feed,
            aclosing(self._reader.follow(feed, position, Versions(_KEPT_TICKETS))) as steps,
        ):
            batch: list[tuple[EventDocument, ResumeToken]] = []
            async for told in steps:
                batch += [(event, told.position.token) for event in told.events]
                position = told.position
                gathering = len(batch) < _BATCH_EVENTS and clock() - began < _GATHER_SECONDS
                if not told.quiet and gathering:
                    continue
                began = clock()
                if batch or clock() - seen > _SEE_SECONDS:
                    known = {hook.id for hook in hooks}
                    hooks, seen = await self._active(known), clock()
                    await self._feed(hooks, batch)
                    if not hooks or self._wants_older(hooks, known, position):
                        return
                if batch or clock() - saved > _SAVE_SECONDS:
                    batch = []
                    await self._dispatch.fed(position.token)
                    saved = clock()
                if clock() - looked > LOOK_SECONDS:
                    await self._look_for_overdue(hooks, since)
                    looked = clock()

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
                fed = None if looked_at is None else looked_at - LOOK_BACK
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

    def _start(self, hooks: Sequence[Webhook]) -> ResumeToken:
        """Give the earliest token that is of use: before it nobody wanted anything."""
        first = min((hook.since for hook in hooks), key=stream_order)
        kept = self._dispatch.token
        return first if kept is None or stream_order(kept) < stream_order(first) else kept

    def _wants_older(
        self, hooks: Sequence[Webhook], known: Collection[UUID], position: Position
    ) -> bool:
        """Say whether a webhook is new that wants what has been passed already; begin there."""
        new = [hook.since for hook in hooks if hook.id not in known]
        older = [t for t in new if stream_order(t) < stream_order(position.token)]
        if older:
            self._dispatch.token = min(older, key=stream_order)
        return bool(older)

    async def _feed(
        self, hooks: Sequence[Webhook], batch: Sequence[tuple[EventDocument, ResumeToken]]
    ) -> None:
        for hook in hooks:
            since = stream_order(hook.since)
            events = [event for event, token in batch if stream_order(token) > since]
            await self._deliveries.make(hook.id, await self._wanted(hook, events))
        self._note([event for event, _ in batch])

    def _note(self, fed: Sequence[EventDocument]) -> None:
        for event in fed:
            self._fed[event["_id"]] = None
        while len(self._fed) > _KEPT_EVENTS:
            self._fed.popitem(last=False)
        if fed:
            self._news.set()

    async def _wanted(self, hook: Webhook, events: Sequence[EventDocument]) -> list[Wanted]:
        """Give those that a webhook is to be told of."""
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
        if len(self._reads) > _KEPT_TICKETS:
            self._reads.popitem(last=False)
        return filter_.where.matches(tickets.values(read))

    # --- what the stream does not bring ----------------------------------------------------------

    async def _look_for_overdue(self, hooks: Sequence[Webhook], following: datetime) -> None:
        """Feed what was recorded up to some seconds ago and was not fed.

        `following`: since when the stream should have brought it.
        """
        before = await self._database.server_time() - timedelta(seconds=OVERDUE_SECONDS)
        await self._feed_recorded(hooks, before, following)
        self._dispatch.looked_at = before

    async def _feed_since_the_token(self) -> None:
        """Feed all that was recorded since the log was last looked through; begin from now."""
        _log.error("the stream has forgotten how far webhooks were fed: reading the log again")
        with translating():
            token = await self._store.position()
        now = await self._database.server_time()
        await self._feed_recorded(await self._active(), None, None)
        self._dispatch.looked_at = now
        await self._dispatch.fed(token)

    async def _feed_recorded(
        self, hooks: Sequence[Webhook], before: datetime | None, following: datetime | None
    ) -> None:
        if not hooks:
            return
        since = min(hook.told_since for hook in hooks)
        if self._dispatch.looked_at is not None:
            since = max(since, self._dispatch.looked_at)
        async for events in self._reader.recorded(since - LOOK_BACK, before):
            late = [event for event in events if event["_id"] not in self._fed]
            for hook in hooks:
                new = [event for event in late if event["recorded_at"] > hook.told_since]
                await self._deliveries.make(hook.id, await self._wanted(hook, new))
            for event in late:
                if following is not None and event["recorded_at"] > following:
                    _log.error("the stream has left out an event of ticket %s", event["ticket_id"])
            self._note(late)

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
        async for events in self._reader.recorded(wish.since, None):
            wanted = await self._wanted(hook, events)
            await self._deliveries.make(hook.id, wanted, again=wish.again)
        if await self._hooks.backfilled(hook.id, wish):  # or more is wished by now, or it is gone
            self._news.set()
