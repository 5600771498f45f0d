"""All clients that are sent the log: a bounded number of exports and streams, and what they share.

Each has two tasks, with a `SendBuffer` between them: its response, and the one that fills the
buffer, for as long as the client's key or token is good.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from functools import partial

from prometheus_client import Gauge

from api.access.rights import Unauthenticated
from api.access.shares import Shares
from api.feed.follower import Follower, IsWanted
from api.feed.format import Writer, error_line, nothing
from api.feed.hub import Hub
from api.feed.send_buffer import SendBuffer
from domain.errors import CasebookError
from eventstore.background import background, end
from eventstore.database import Database
from eventstore.log import EventStore
from eventstore.mongo.errors import time_limit, translating
from eventstore.mongo.resume_tokens import stream_order
from eventstore.subscription import Position, Seen, Subscription, beginning, cuts_of

STREAMS_AT_ONCE = 100
_STREAMS_EACH = 20
STILL_SECONDS = 5.0
EXPORTS_AT_ONCE = 8
_EXPORTS_EACH = 2
_CATCHING_UP_AT_ONCE = 3
_SEEN_TICKETS = 2000
_CURSOR_EVERY_EVENTS = 100
_QUIET_MOMENTS = 5

_OPEN = Gauge("casebook_feeds_open", "Exports and streams that are under way.", ["kind"])

_log = logging.getLogger(__name__)

IsStillKnown = Callable[[], Awaitable[object]]
"""Raises Unauthenticated once the caller is not known any more."""


class TooManyStreams(CasebookError):
    """As many feeds are open as one process serves: for example by clients that leak them."""

    kind = "unavailable"

    def __init__(self) -> None:
        super().__init__("too_many_streams", "too many streams are open; try again later")


@dataclass(frozen=True, slots=True)
class Caller:
    """A client: its share of all feeds, which events it wants, whether it is still let in."""

    share: str
    is_wanted: IsWanted
    is_still_known: IsStillKnown


@dataclass(frozen=True, slots=True)
class Open:
    """A feed that is under way; `close` is called when its client has gone."""

    buffer: SendBuffer
    close: Callable[[], object]


class Feeds:
    """The exports and streams of one log."""

    def __init__(self, database: Database, store: EventStore) -> None:
        self._store = store
        self._writer = Writer(database, store)
        self._hub = Hub(store, self._writer.block)
        store.vault.on_erasure(self._hub)
        self._cuts = cuts_of(store)
        self._turns = asyncio.Semaphore(_CATCHING_UP_AT_ONCE)
        self._open = {kind: Shares(kind) for kind in ("exports", "streams")}
        self._filling: set[asyncio.Task[None]] = set()
        self._has_ended = False

    async def export(self, cursor: str | None, caller: Caller, limit: int | None) -> Open:
        """Begin to send all there is behind a cursor, as lines.

        Raises TooManyStreams, ShareTaken, Unacceptable, StoreUnavailable.
        """
        with self._enter("exports", caller, EXPORTS_AT_ONCE, _EXPORTS_EACH) as entered:
            async with time_limit():
                position = await self._position(cursor) or await beginning(self._store)
            buffer, log = SendBuffer(), self._subscribe(position)
            work = partial(self._export, buffer, log, caller.is_wanted, limit)
            return self._begin(buffer, work, caller, entered.pop_all(), error_line)

    async def stream(self, cursor: str | None, caller: Caller, *, from_beginning: bool) -> Open:
        """Begin to send what comes behind a cursor as server-sent events; without one, from now on.

        Raises as `export` does.
        """
        with self._enter("streams", caller, STREAMS_AT_ONCE, _STREAMS_EACH) as entered:
            async with time_limit():
                position = await self._position(cursor)
                if position is None and from_beginning:
                    position = await beginning(self._store)
                now = await self._hub.join()
            entered.callback(self._hub.leave)
            buffer, log = SendBuffer(), self._subscribe(position or now)
            follower = Follower(log, self._writer, self._turns, buffer, caller.is_wanted)
            work = partial(follower.follow, self._hub)
            return self._begin(buffer, work, caller, entered.pop_all(), nothing)

    def end(self) -> None:
        """End all feeds, and begin no other: the server is about to stop."""
        self._has_ended = True
        for filling in self._filling:
            filling.cancel()

    async def closed(self) -> None:
        """Wait until all feeds are closed, after `end`."""
        await end(*self._filling)
        await self._hub.closed()

    async def _position(self, cursor: str | None) -> Position | None:
        return None if cursor is None else await self._writer.position(cursor)

    def _subscribe(self, position: Position) -> Subscription:
        return Subscription(self._store, position, seen=Seen(_SEEN_TICKETS), cuts=self._cuts)

    def _enter(self, kind: str, caller: Caller, most: int, each: int) -> ExitStack:
        """Count one more. Return what is to be undone when it has ended."""
        shares = self._open[kind]
        if self._has_ended or not shares.take(caller.share, 1, most=most, each=each):
            raise TooManyStreams
        _OPEN.labels(kind).set(shares.taken)

        def leave() -> None:
            shares.give_back(caller.share, 1)
            _OPEN.labels(kind).set(shares.taken)

        entered = ExitStack()
        entered.callback(leave)
        return entered

    def _begin(
        self,
        buffer: SendBuffer,
        work: Callable[[], Awaitable[None]],
        caller: Caller,
        entered: ExitStack,
        format_error: Callable[[str, str], bytes],
    ) -> Open:
        """Start filling a buffer; in the end it says so if that is not all."""

        async def fill() -> None:
            try:
                async with background(_while_known(caller)):
                    await work()
                buffer.end()
            except CasebookError as error:
                _log.info("a feed ends: %s", error.detail)
                buffer.end(format_error(error.code, error.detail))

        def ended(filling: asyncio.Task[None]) -> None:
            self._filling.discard(filling)
            entered.close()
            # However it has ended; it may have been cancelled before it began.
            stopped = "the server has stopped; go on from the last cursor"
            buffer.end(format_error("stopped", stopped))
            if not filling.cancelled() and (error := filling.exception()) is not None:
                _log.error("a feed has failed", exc_info=error)

        filling = asyncio.create_task(fill())
        self._filling.add(filling)
        filling.add_done_callback(ended)
        return Open(buffer, filling.cancel)

    async def _export(
        self, buffer: SendBuffer, log: Subscription, is_wanted: IsWanted, limit: int | None
    ) -> None:
        """Send what the log has, then what the stream has brought by now, and the cursor behind it.

        The end is where the stream was when the log had been read, and not where it falls silent:
        under load it never does.
        """
        sent = read = quiet = 0
        at = last = ""
        async with aclosing(log.steps()) as steps:
            async for position, event, _ in steps:
                if event is not None:
                    read += 1
                    if is_wanted(str(event.get("type"))):
                        await buffer.put(await self._writer.line(event))
                        sent += 1
                    if sent == limit:
                        break
                    if read % _CURSOR_EVERY_EVENTS == 0:
                        await buffer.put(await self._writer.cursor_line(position))
                if position.is_followed:
                    if not last:
                        with translating():
                            last = stream_order(await self._store.position())
                    before, at = at, stream_order(position.token)
                    # Some servers let a silent stream's token stand for seconds.
                    quiet = quiet + 1 if event is None and at == before else 0
                    if at >= last or quiet == _QUIET_MOMENTS:
                        break
        await buffer.put(await self._writer.cursor_line(log.position))


async def _while_known(caller: Caller) -> None:
    """Raise Unauthenticated once a client is not known any more: its key is revoked, its token
    expires.
    """
    while True:
        await asyncio.sleep(STILL_SECONDS)
        try:
            await caller.is_still_known()
        except Unauthenticated:
            raise
        except CasebookError:  # the database is silent: the feed waits for it as well
            continue
