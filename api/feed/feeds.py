"""All clients that are sent the log: a bounded number of exports and streams, and what they share.

Each has two tasks, with a `SendBuffer` between them: its response, and the one that fills the
buffer, for as long as the client's key or token is good.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from prometheus_client import Gauge

from api.access.principals import Unauthenticated
from api.access.quotas import Quotas
from api.feed.client import LIMITS, Client, Limits
from api.feed.follower import Follower
from api.feed.format import Writer, error_line
from api.feed.hub import Hub
from domain.errors import CasebookError
from eventstore.background import background, end
from eventstore.database import Database
from eventstore.log import EventStore
from eventstore.mongo.errors import time_limit
from eventstore.subscription import Position, Seen, Subscription, beginning, ticket_ranges

_SEEN_TICKETS = 2000

_OPEN = Gauge("casebook_feeds_open", "Exports and streams that are under way.", ["kind"])

_log = logging.getLogger(__name__)


class TooManyStreams(CasebookError):
    """As many feeds are open as one process serves: for example by clients that leak them."""

    kind = "unavailable"

    def __init__(self) -> None:
        super().__init__("too_many_streams", "too many streams are open; try again later")


class Feeds:
    """The exports and streams of one log."""

    def __init__(self, database: Database, store: EventStore, limits: Limits = LIMITS) -> None:
        self.limits = limits
        self._store = store
        self._writer = Writer(database, store)
        self._hub = Hub(store, self._writer.block, limits)
        store.vault.news.on_news(self._hub)
        self._cuts = ticket_ranges(store)
        self._turns = asyncio.Semaphore(limits.catching_up)
        self._exports = Quotas("exports", limits.exports, limits.exports_each, TooManyStreams)
        self._streams = Quotas("streams", limits.streams, limits.streams_each, TooManyStreams)
        self._filling: set[asyncio.Task[None]] = set()
        self._has_ended = False

    async def export(
        self, client: Client, cursor: str | None, limit: int | None
    ) -> asyncio.Task[None]:
        """Begin to send all there is behind a cursor, as lines; return the task that does.

        Raises TooManyStreams, QuotaExceeded, Unacceptable, StoreUnavailable.
        """
        with ExitStack() as entered:
            entered.enter_context(self._counted(self._exports, client))
            async with time_limit():
                position = await self._writer.position(cursor) or await beginning(self._store)
            work = partial(self._follower(client, position).export, limit)
            return self._begin(client, work, entered.pop_all(), error_line)

    async def stream(
        self, client: Client, cursor: str | None, *, from_beginning: bool
    ) -> asyncio.Task[None]:
        """Begin to send what comes behind a cursor as server-sent events; without one, from now on.

        Raises as `export` does.
        """
        with ExitStack() as entered:
            entered.enter_context(self._counted(self._streams, client))
            async with time_limit():
                position = await self._writer.position(cursor)
                if position is None and from_beginning:
                    position = await beginning(self._store)
                now = await self._hub.join()
            entered.callback(self._hub.leave)
            work = partial(self._follower(client, position or now).follow, self._turns)
            return self._begin(client, work, entered.pop_all())

    def end(self) -> None:
        """End all feeds, and begin no other: the server is about to stop."""
        self._has_ended = True
        for filling in self._filling:
            filling.cancel()

    async def closed(self) -> None:
        """Wait until all feeds are closed, after `end`."""
        await end(*self._filling)
        await self._hub.closed()

    def _follower(self, client: Client, position: Position) -> Follower:
        log = Subscription(self._store, position, seen=Seen(_SEEN_TICKETS), cuts=self._cuts)
        return Follower(log, self._writer, self._hub, client, self.limits)

    @contextmanager
    def _counted(self, quotas: Quotas, client: Client) -> Iterator[None]:
        """Count one more while the block lasts. Raises TooManyStreams, QuotaExceeded."""
        if self._has_ended:
            raise TooManyStreams
        with quotas.hold(client.share), _OPEN.labels(quotas.what).track_inprogress():
            yield

    def _begin(
        self,
        client: Client,
        work: Callable[[], Awaitable[None]],
        entered: ExitStack,
        describe_end: Callable[[str, str], bytes] | None = None,
    ) -> asyncio.Task[None]:
        """Start filling a client's buffer; `describe_end` writes why that is not all, if it is not.

        A stream just ends: its client comes back with its cursor, and is answered then.
        """

        async def fill() -> None:
            async with background(self._while_known(client)):
                await work()

        def ended(filling: asyncio.Task[None]) -> None:
            self._filling.discard(filling)
            entered.close()
            # However it has ended; it may have been cancelled before it began.
            error = None if filling.cancelled() else filling.exception()
            if filling.cancelled() and self._has_ended:  # else the client has left
                error = CasebookError(
                    "stopped", "the server has stopped; go on from the last cursor"
                )
            if error is not None and not isinstance(error, CasebookError):
                _log.error("a feed has failed", exc_info=error)
                error = CasebookError(
                    "feed_failed", "the server failed; go on from the last cursor"
                )
            last = b""
            if error is not None:
                _log.info("a feed ends: %s", error.detail)
                last = describe_end(error.code, error.detail) if describe_end else b""
            client.buffer.end(last)

        filling = asyncio.create_task(fill())
        self._filling.add(filling)
        filling.add_done_callback(ended)
        return filling

    async def _while_known(self, client: Client) -> None:
        """Raise Unauthenticated once a client is not known any more: its key is revoked, its token
        expires.
        """
        while True:
            await asyncio.sleep(self.limits.still_known_seconds)
            try:
                await client.check_known()
            except Unauthenticated:
                raise
            except CasebookError:  # the database is silent: the feed waits for it as well
                continue
