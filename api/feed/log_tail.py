"""The end of the log, read once for all who listen.

A waiting change stream holds a thread of the driver's pool and costs every insert, so a process has
one, and only while somebody listens. What it brings is kept in a row: the last events, up to a
number of bytes. A listener is a place in that row, and asks for what is behind it. He has no queue
of his own: a hundred of them weigh what one does. Who has not asked for so long that his place is
gone has been too slow, and is told so; he goes on from his cursor.

Who comes with an older token joins once the row reaches back to it; until then he reads a stream of
his own. Tokens are compared by `stream_order`.

While the database does not answer, the stream is opened again and again where it was; listeners
notice nothing but silence. A stream that cannot go on, or has been silent for a minute because the
database was, ends the tail for all of them: they come back, and get from the log what they missed.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import datetime
from itertools import islice
from typing import NamedTuple
from uuid import UUID

from api.feed.log_reader import TRUSTED, Position, recorded_at
from domain.errors import CasebookError
from eventstore.event_document import EventDocument, is_event
from eventstore.failures import StoreUnavailable, translating
from eventstore.log import EventStore, ResumeToken, stream_order

_log = logging.getLogger(__name__)

TAIL_BYTES = 16 * 2**20
_ENTRY_BYTES = 600  # beside what is written of an event
_AT_ONCE = 200
_RETRY_SECONDS = 1.0


class TooSlow(CasebookError):
    """A reader took so long that what comes next for it is kept no longer."""

    def __init__(self) -> None:
        super().__init__("too_slow", "the reader is too slow; go on from the last cursor")


class TailEnded(CasebookError):
    """The stream that all share cannot go on."""

    def __init__(self) -> None:
        super().__init__("stream_ended", "the stream has ended; go on from the last cursor")


class Entry(NamedTuple):
    """An event in the row: which, where in the stream, and as it is sent to everybody."""

    ticket_id: UUID
    version: int
    head: Mapping[str, object]
    """What it is asked for by who does not want all: its type."""
    token: ResumeToken
    order: str
    at: datetime
    written: bytes


Write = Callable[[EventDocument, Position], Awaitable[bytes]]


class Tail:
    """The last events of the log, from when it was made."""

    def __init__(self, store: EventStore, write: Write, token: ResumeToken) -> None:
        self.token = token
        """Where the stream is: behind all that is in the row."""
        self.at = store.clock.now()
        """When it was there."""
        self.listeners = 0
        self.reading: asyncio.Task[None] | None = None
        self.has_ended = False
        self._store = store
        self._progress = store.progresses.of("following the log for readers")
        self._write = write
        self._row: deque[Entry] = deque()
        self._bytes = 0
        self._first = 0
        self._floor = stream_order(token)
        self._news = asyncio.Event()

    @property
    def end(self) -> int:
        """The place behind all that is in the row."""
        return self._first + len(self._row)

    def reaches(self, token: ResumeToken) -> bool:
        """Say whether all that the stream has brought behind a token is in the row."""
        return stream_order(token) >= self._floor

    def place(self, token: ResumeToken) -> int:
        """Give the place behind a token that the row reaches back to."""
        order = stream_order(token)
        return self._first + sum(entry.order <= order for entry in self._row)

    async def behind(self, place: int, seconds: float) -> Sequence[Entry]:
        """Give what comes behind a place, some at a time; nothing if nothing comes in time.

        Raises TooSlow, TailEnded.
        """
        if place == self.end and not self.has_ended:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._news.wait()
        if place < self._first:
            raise TailEnded if self.has_ended else TooSlow
        offset = place - self._first
        found = tuple(islice(self._row, offset, offset + _AT_ONCE))
        if not found and self.has_ended:
            raise TailEnded
        return found

    def clear(self) -> None:
        """Drop all that is in the row, and end."""
        self._first = self.end
        self._row.clear()
        self._bytes = 0
        self.has_ended = True
        self._news.set()
        if self.reading is not None:
            self.reading.cancel()

    async def run(self) -> None:
        """Read the stream until cancelled. Raises HistoryLost, StoreFailed, StoreUnavailable."""
        try:
            while True:
                try:
                    with translating():
                        async with AsyncExitStack() as stack:
                            with self._progress:
                                watched = self._store.watch(self.token)
                                feed = await stack.enter_async_context(watched)
                            while True:
                                with self._progress:
                                    change = await feed.next()
                                self.at = self._store.clock.now()
                                if change is None:
                                    self.token = feed.token or self.token
                                else:
                                    await self._add(change.document, change.token)
                except StoreUnavailable:
                    if self._store.clock.now() - self.at > TRUSTED:
                        raise
                    _log.warning("the database does not answer; the stream waits for it")
                    await asyncio.sleep(_RETRY_SECONDS)
        finally:
            self.has_ended = True
            self._news.set()

    async def _add(self, event: EventDocument, token: ResumeToken) -> None:
        if is_event(event):
            at = recorded_at(event) or self.at
            written = await self._write(event, Position(token, at))
            which = event["ticket_id"], event["version"], {"type": event.get("type")}
            self._row.append(Entry(*which, token, stream_order(token), at, written))
            self._bytes += len(written) + _ENTRY_BYTES
            while self._bytes > TAIL_BYTES and len(self._row) > 1:
                oldest = self._row.popleft()
                self._bytes -= len(oldest.written) + _ENTRY_BYTES
                self._floor = oldest.order
                self._first += 1
        self.token = token
        news, self._news = self._news, asyncio.Event()
        news.set()


class Tails:
    """Gives the process's one tail to whoever listens; there is none while nobody does."""

    def __init__(self, store: EventStore, write: Write) -> None:
        self._store = store
        self._write = write
        self._tail: Tail | None = None
        self._reading: set[asyncio.Task[None]] = set()
        self._opening = asyncio.Lock()

    async def join(self) -> Tail:
        """Give the tail; `leave` it in the end. Raises StoreUnavailable."""
        async with self._opening:
            if self._tail is None or self._tail.has_ended:
                with translating():
                    token = await self._store.position()
                self._tail = Tail(self._store, self._write, token)
                self._tail.reading = asyncio.create_task(self._tail.run())
                self._reading.add(self._tail.reading)
                self._tail.reading.add_done_callback(self._reading.discard)
                self._tail.reading.add_done_callback(_tell_failure)
            self._tail.listeners += 1
            return self._tail

    def leave(self, tail: Tail) -> None:
        """Listen no longer. The last one to leave ends it."""
        tail.listeners -= 1
        if tail is self._tail and tail.listeners == 0:
            self._tail = None
            if tail.reading is not None:
                tail.reading.cancel()

    def forget(self) -> None:
        """End the tail: somebody was erased whose words may be in it. Who listens comes back."""
        if self._tail is not None:
            self._tail.clear()

    async def closed(self) -> None:
        """Wait until nothing is read any more, after all have left."""
        await asyncio.gather(*self._reading, return_exceptions=True)


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("the stream that all share has ended: %s", error)
