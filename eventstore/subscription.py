"""Following the log without a gap: the only way to do it (laws L7, L8, L9).

A `Subscription` reads the log from a position on, without end. A position is all that a consumer
has to remember:

    token     the change stream's resume token to follow from
    at        up to when what was recorded is behind, give or take how clocks differ
    scanned   the ticket and version up to which the log has been read; None when all of it has been
    behind    whether what was recorded since `at` is to be read from the log, and not followed

*From the beginning*: the stream's present token comes first, then the log by ticket and version,
then what the stream has brought from that token on. So what is written during the scan is missed by
neither, and some of it is found by both.

*The stream* is trusted for speed and for a minute, and not alone. Which versions of which tickets
were delivered is remembered: what comes again is passed over, and what is missing between two
versions is read from the log. For what is missing at the end of a ticket the log is looked at every
few seconds: events of some seconds ago that have not come are late, and delivered then.

*Up to when* all has come is what the stream says, and its silence only where one server has read to
the end of its oplog: a sharded cluster holds a stream back until every shard has written. There the
time in its token tells; if a token has none, only the events do.

*After a longer time*, or where the stream has lost its place (code 286), what was recorded since is
read from the log, and of a minute before (clocks differ, writes take their time); then the stream
is followed from a token that was taken first. A server that no longer has all of its stream may
leave some out without a word.

So an event may come twice, and late ones come behind later events of their ticket; all else comes
in the order of versions.

A consumer pulls: nothing is read ahead of it, and it can stop anywhere and go on. `read_ahead`
reads ahead, up to a bound, for consumers that take some time with each batch.
"""

import asyncio
import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import NamedTuple
from uuid import UUID

from cachetools import LRUCache

from eventstore.background import end
from eventstore.cached_value import CachedValue
from eventstore.event_document import EventDocument, is_event
from eventstore.failures import HistoryLost, StoreUnavailable
from eventstore.log import SILENT_SECONDS, Change, EventStore, Feed, Recorded, TicketRange
from eventstore.mongo.errors import translate_driver_errors
from eventstore.mongo.limits import BATCH_BYTES, size_of
from eventstore.mongo.resume_tokens import ResumeToken, stream_order, token_time
from eventstore.mongo.watchdog import Watched
from eventstore.partition import PARTITIONS, partition_of

_log = logging.getLogger(__name__)

TRUSTED = timedelta(minutes=1)
LOOK_BACK = timedelta(minutes=1)
"""For clocks that differ, and writes that take their time."""
BATCH_EVENTS = 2000
SEEN_TICKETS = 50_000
_BEGINNING = (UUID(int=0), 0)
_RANGE_EVENTS = 500
_PAGE_EVENTS = 1000
_LOOKED_AT_EVENTS = 5000
_LOOK_SHARE = 0.02  # of the time, at most, goes into looking for late events
_CUTS_KEPT_SECONDS = 20.0


class Position(NamedTuple):
    """Where a consumer of the log is; see above."""

    token: ResumeToken
    at: datetime
    scanned: tuple[UUID, int] | None = None
    behind: bool = False

    @property
    def is_followed(self) -> bool:
        """Whether all of the log up to here is behind: what comes is what the stream brings."""
        return self.scanned is None and not self.behind

    def is_old(self, now: datetime) -> bool:
        """Say whether a stream is not to be trusted with what comes behind it."""
        return self.behind or now - self.at > TRUSTED


class Step(NamedTuple):
    """The next event, as it is stored, and the position behind it.

    Without an event: the consumer has come this far, and if it follows the stream, that has brought
    nothing for a moment. `from_stream` is False for what was read from the log.
    """

    position: Position
    event: EventDocument | None = None
    from_stream: bool = False


@dataclass(frozen=True, slots=True)
class LateEventCheck:
    """How late events are looked for: how often, how long after they were recorded, and how far
    back again each time.
    """

    every_seconds: float = 5.0
    overdue: timedelta = timedelta(seconds=5)
    back: timedelta = LOOK_BACK


Missing = Callable[[Sequence[Recorded]], Awaitable[Sequence[Recorded]]]


class Seen:
    """Which versions of a bounded number of tickets have been delivered: of each, from one on up
    to another.
    """

    def __init__(self, most_tickets: int = SEEN_TICKETS) -> None:
        self._spans: LRUCache[UUID, tuple[int, int]] = LRUCache(most_tickets)

    def add(self, ticket_id: UUID, version: int) -> None:
        """Remember an event; all between it and those that came before it have been delivered."""
        first, last = self._spans.get(ticket_id, (version, version))
        first = version if version == first - 1 else first
        self._spans[ticket_id] = first, max(last, version)

    def includes(self, ticket_id: UUID, version: int) -> bool:
        """Say whether an event is known to have been delivered."""
        first, last = self._spans.get(ticket_id, (0, -1))
        return first <= version <= last

    def last(self, ticket_id: UUID) -> int | None:
        """Return the last version of a ticket that has been delivered; None if none is known."""
        return self._spans[ticket_id][1] if ticket_id in self._spans else None


def ticket_ranges(store: EventStore) -> CachedValue[list[TicketRange]]:
    """Return the tickets in ranges of some hundred events. Old ranges are as good as new ones, but
    for how many events are in each.
    """
    return CachedValue(lambda: store.ranges(_RANGE_EVENTS))


async def present(store: EventStore) -> Position:
    """Return the position behind all that is written now. Raises StoreUnavailable."""
    with translate_driver_errors():
        return Position(await store.position(), store.clock.now())


async def beginning(store: EventStore) -> Position:
    """Return the position before the first event. Raises StoreUnavailable."""
    return (await present(store))._replace(scanned=_BEGINNING)


async def recorded(
    store: EventStore, since: datetime, before: datetime | None = None
) -> AsyncGenerator[list[EventDocument], None]:
    """Yield events by the time at which they were recorded, a page at a time.

    Within a page by ticket and version; a ticket's events are in order from page to page as far as
    the clocks of their writers agreed. Raises StoreUnavailable.
    """
    most, last_page = _PAGE_EVENTS, set[UUID]()
    while True:
        found = await store.recorded(since, most, before=before)
        page = [e for e in found if is_event(e) and e["_id"] not in last_page]
        await store.fetch_keys(page)
        yield sorted(page, key=lambda event: (event["ticket_id"], event["version"]))
        if len(found) < most:
            return
        last_page = {event["_id"] for event in found}
        last = found[-1]["recorded_at"]
        most = _PAGE_EVENTS if last > since else 2 * most  # as many of one moment
        since = last


class Subscription:
    """The log from a position on, for one consumer."""

    def __init__(
        self,
        store: EventStore,
        position: Position,
        partitions: Collection[int] = range(PARTITIONS),
        *,
        seen: Seen | None = None,
        look_back: bool = False,
        late: LateEventCheck | None = None,
        missing: Missing | None = None,
        written: Callable[[], datetime] | None = None,
        cuts: CachedValue[list[TicketRange]] | None = None,
        watched: Watched | None = None,
        silent_seconds: float = SILENT_SECONDS,
    ) -> None:
        """`partitions`: whose events are wanted; unless given, all.

        `late`: how late events are looked for, for a consumer that follows for long; not at all
        unless given. `look_back`: those too that were recorded some time before the position, for
        one that has been away. `missing`: which of some events have not arrived; unless given,
        those that have not been delivered. `written`: up to when the consumer has done with what it
        was given, which may be less than has been read for it. `cuts`: for consumers that begin one
        after the other. `watched` is told when the stream is asked, and when it answers.
        `silent_seconds`: after how long without an event the stream says that there is none.
        """
        self.position = position
        self.seen = seen or Seen()
        self._store = store
        self._partitions = partitions
        self._began = position.at
        self._late = late
        self._looked = position.at if late is None or look_back else position.at + late.back
        self._next_look = 0.0
        self._looking: asyncio.Task[list[EventDocument]] | None = None
        self._missing = missing or self._unseen
        self._written = written or (lambda: self.position.at)
        self._cuts = cuts or ticket_ranges(store)
        self._watched = watched or Watched("following the log")
        self._silent_seconds = silent_seconds
        self._silent_at: datetime | None = None
        self._tells_time = True

    @property
    def looked_until(self) -> datetime:
        """Up to when what was recorded has been looked for, and nothing was missing."""
        return self._looked

    async def steps(self, retry_seconds: float | None = None) -> AsyncGenerator[Step, None]:
        """Yield all that comes, without end.

        Raises StoreFailed, and StoreUnavailable unless it is to be tried again after a pause.
        """
        while True:
            try:
                for part in (self.past, self.stream):
                    async with aclosing(part()) as steps:
                        async for step in steps:
                            yield step
            except HistoryLost as error:
                self.lose_place(error)
            except StoreUnavailable as error:
                if retry_seconds is None:
                    raise
                _log.warning("following the log waits: %s", error.detail)
                await asyncio.sleep(retry_seconds)

    def lose_place(self, error: HistoryLost) -> None:
        """Have the log read from the position on, for the stream has forgotten it."""
        _log.error("the change stream has lost its place: %s; reading the log", error.detail)
        self.position = self.position._replace(behind=True)

    def has_passed(self, order: str, at: datetime) -> bool:
        """Say whether all that was written before a moment of this process has been delivered: when
        the stream was there (`stream_order`), which was at that time by the log's clock.
        """
        silent = self._silent_at is not None and self._silent_at >= at
        return silent or stream_order(self.position.token) >= order

    # --- the log ---------------------------------------------------------------------------------

    async def past(self) -> AsyncGenerator[Step, None]:
        """Yield what has to be read from the log before the stream is followed, if anything.

        Raises StoreUnavailable.
        """
        for part in (self.scan, self._catch_up):
            async with aclosing(part()) as steps:
                async for step in steps:
                    self.position = step.position
                    yield step

    async def scan(self) -> AsyncGenerator[Step, None]:
        """Yield what the log has behind the position, by ticket and version, a range at a time; at
        last a step behind which the stream is followed. Raises StoreUnavailable.
        """
        if self.position.scanned is None:
            return
        last, young = self.position.scanned, self._store.clock.now() - LOOK_BACK
        for tickets in await self._cuts.get(_CUTS_KEPT_SECONDS):
            if tickets.before is not None and tickets.before <= last[0]:
                continue
            first = last[0] if tickets.first is None else max(tickets.first, last[0])
            found = await self._store.of_range(TicketRange(first, tickets.before))
            events = [event for event in found if self._is_wanted(event["ticket_id"])]
            await self._store.fetch_keys(events)
            for event in events:
                at = event["ticket_id"], event["version"]
                if at > last:
                    if event["recorded_at"] > young:  # the stream may bring it again
                        self.seen.add(*at)
                    yield Step(self.position._replace(scanned=at), event)
        yield Step(self.position._replace(scanned=None))

    async def _catch_up(self) -> AsyncGenerator[Step, None]:
        """Yield what was recorded since the position, if the stream is not trusted with it."""
        since = self.position.at
        if not self.position.is_old(self._store.clock.now()):
            return
        now = await present(self._store)
        position = now._replace(at=since, behind=True)
        async for events in recorded(self._store, since - LOOK_BACK):
            reached = max((event["recorded_at"] for event in events), default=since)
            behind = position._replace(at=min(max(reached, position.at), now.at))
            for event in events:
                if self._is_wanted(event["ticket_id"]):
                    self.seen.add(event["ticket_id"], event["version"])
                    yield Step(behind if event is events[-1] else position, event)
            position = behind
        yield Step(now)

    def _is_wanted(self, ticket_id: UUID) -> bool:
        return partition_of(ticket_id) in self._partitions

    # --- the stream ------------------------------------------------------------------------------

    async def stream(self) -> AsyncGenerator[Step, None]:
        """Yield what the stream brings behind the position, what it leaves out, and what is late.

        Raises HistoryLost, StoreUnavailable, StoreFailed.
        """
        with translate_driver_errors():
            async with AsyncExitStack() as stack:
                stack.push_async_callback(self._stop_looking)
                with self._watched:
                    watched = self._store.watch(
                        self.position.token, self._partitions, self._silent_seconds
                    )
                    feed = await stack.enter_async_context(watched)
                while True:
                    asked = self._store.clock.now()
                    with self._watched:
                        change = await feed.next()
                    if change is None:
                        steps = [Step(self._silence(feed, asked), from_stream=True)]
                    else:
                        steps = await self._arrived(change)
                    for step in steps:
                        yield self._delivered(step)
                    # Behind what has arrived, which is not to wait for it, or to be lost with it.
                    for event in self._look():
                        yield self._delivered(Step(self.position, event))

    def _silence(self, feed: Feed, asked: datetime) -> Position:
        """Return the position of a stream that was asked at a time, and had nothing."""
        token = feed.token or self.position.token
        if not feed.is_merged:
            self._silent_at = asked
            return Position(token, asked)
        until = token_time(token)
        if until is not None and until < asked + LOOK_BACK:  # else it is no time
            # The cluster's time is that of the clock which is furthest ahead.
            return Position(token, min(until, asked))
        if self._tells_time:
            _log.warning("the change stream's tokens tell no time: only events say how far it is")
        self._tells_time = False
        return Position(token, self.position.at)

    def _delivered(self, step: Step) -> Step:
        """Take note of a step that is about to be yielded: only now is the position behind it."""
        self.position = step.position
        if step.event is not None:
            self.seen.add(step.event["ticket_id"], step.event["version"])
        return step

    async def _arrived(self, change: Change) -> list[Step]:
        event, before = change.document, self.position
        behind = Position(change.token, recorded_at(event) or before.at)
        if not is_event(event) or self.seen.includes(event["ticket_id"], event["version"]):
            self.position = behind
            return []
        missing = await self.missing(event["ticket_id"], event["version"])
        # A consumer that goes on from between them must get the last as well.
        return [*(Step(before, each) for each in missing), Step(behind, event, True)]

    async def missing(self, ticket_id: UUID, version: int) -> Sequence[EventDocument]:
        """Read what was not delivered of a ticket between the last and `version`.

        Raises StoreUnavailable.
        """
        last = self.seen.last(ticket_id)
        if last is None or version <= last + 1:
            return ()
        return [
            *filter(is_event, await self._store.stored(ticket_id, after=last, upto=version - 1))
        ]

    def _look(self) -> Sequence[EventDocument]:
        """Begin to look for late events if it is time; return what was found since the last call.

        A look reads what was recorded for a minute, and the stream does not wait for it.
        """
        found: Sequence[EventDocument] = ()
        if self._looking is not None and self._looking.done():
            looking, self._looking = self._looking, None
            found = looking.result()
        is_due = self._looking is None and asyncio.get_running_loop().time() >= self._next_look
        if is_due and self._late is not None:
            self._looking = asyncio.create_task(self._overdue(self._late))
        return found

    async def _stop_looking(self) -> None:
        if self._looking is not None:
            await end(self._looking)
            self._looking = None

    async def _overdue(self, look: LateEventCheck) -> list[EventDocument]:
        """Read what was recorded some seconds ago and has not come."""
        clock = asyncio.get_running_loop().time
        began = clock()
        since, before = self._looked - look.back, self._written() - look.overdue
        found = await self._store.since(since, _LOOKED_AT_EVENTS, before=before)
        wanted = [each for each in found if self._is_wanted(each.ticket_id)]
        events: list[EventDocument] = []
        late = sorted(await self._missing(wanted))
        for ticket_id, missing in groupby(late, key=lambda event: event.ticket_id):
            versions = {each.version: each.recorded_at for each in missing}
            after, upto = min(versions) - 1, max(versions)
            span = await self._store.stored(ticket_id, after=after, upto=upto)
            events += [event for event in span if event.get("version") in versions]
            if max(versions.values()) >= self._began:
                _log.error("an event of ticket %s has not arrived; it is delivered late", ticket_id)
        if len(found) == _LOOKED_AT_EVENTS:  # there may be more: from there on the next time
            moment = timedelta(milliseconds=1)
            before = max(found[-1].recorded_at, since + moment) + look.back
        if not late:  # else only once it is not missing any more: a consumer may fail with it
            self._looked = max(self._looked, before)
        pause = max(look.every_seconds, (clock() - began) / _LOOK_SHARE)
        self._next_look = clock() + pause
        return events

    async def _unseen(self, events: Sequence[Recorded]) -> Sequence[Recorded]:
        return [each for each in events if not self.seen.includes(each.ticket_id, each.version)]


def recorded_at(event: Mapping[str, object]) -> datetime | None:
    """Return when an event was recorded, if it says so: what was put there by hand may not."""
    found = event.get("recorded_at")
    return found if isinstance(found, datetime) else None


# --- reading ahead -------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Steps with events, and the position behind them."""

    steps: list[Step]
    position: Position

    @property
    def events(self) -> list[EventDocument]:
        return [step.event for step in self.steps if step.event is not None]


class EventBuffer:
    """What has been read ahead of its consumer.

    It is filled all the time, also while a batch is being worked on; a batch is what has gathered
    by then. So nothing waits for a batch to fill up, and batches grow with the load.
    """

    def __init__(self, position: Position) -> None:
        self._position = position
        self._queue: asyncio.Queue[tuple[Step, int] | Exception] = asyncio.Queue(4 * BATCH_EVENTS)
        self._bytes = 0
        self._taken = asyncio.Event()

    async def fill(self, steps: AsyncGenerator[Step, None]) -> None:
        """Read until cancelled, waiting while too many events wait, or too large ones."""
        try:
            async with aclosing(steps):
                async for step in steps:
                    size = 0 if step.event is None else size_of(step.event)
                    self._bytes += size
                    await self._queue.put((step, size))
                    while self._bytes > BATCH_BYTES:
                        self._taken.clear()
                        await self._taken.wait()
        except Exception as error:  # noqa: BLE001 the consumer gets it
            await self._queue.put(error)

    async def take(self, most: int = BATCH_EVENTS, *, wait: bool = True) -> Batch:
        """Return what is there, at most so many events, waiting until something is unless told not
        to.

        Raises what the subscription does.
        """
        steps: list[Step] = []
        if not wait and self._queue.empty():
            return Batch(steps, self._position)
        while True:
            got = await self._queue.get()
            if isinstance(got, Exception):
                raise got
            step, size = got
            self._bytes -= size
            self._taken.set()
            self._position = step.position
            if step.event is not None:
                steps.append(step)
            if len(steps) == most or self._queue.empty():
                return Batch(steps, self._position)


@asynccontextmanager
async def read_ahead(
    subscription: Subscription, steps: AsyncGenerator[Step, None] | None = None
) -> AsyncIterator[EventBuffer]:
    """Read a subscription ahead while the block runs: all of it, or only some `steps` of it."""
    buffer = EventBuffer(subscription.position)
    filling = asyncio.create_task(buffer.fill(steps or subscription.steps()))
    try:
        yield buffer
    finally:
        await end(filling)
