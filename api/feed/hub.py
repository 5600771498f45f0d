"""The end of the log, read once for all clients that follow it.

A waiting change stream holds a thread of the driver's pool and costs every insert, so a process has
one subscription for clients, and only while there are any. What it brings is kept in a row: the
last events, up to a number of bytes, each written once. A client is a place in that row and has no
queue of its own: a hundred of them weigh what one does. A client that has not asked for so long
that its place is gone has been too slow, and is cut off; it comes back with its cursor.

A client with an older token joins once the row reaches back to it. Tokens are compared by
`stream_order`. While the database does not answer, clients notice nothing but silence.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from itertools import islice
from typing import NamedTuple
from uuid import UUID

from api.feed.client import LIMITS, Limits
from domain.errors import CasebookError
from eventstore.background import end
from eventstore.event_document import EventDocument
from eventstore.log import EventStore
from eventstore.mongo.resume_tokens import ResumeToken, stream_order
from eventstore.subscription import Position, Step, Subscription, present

_log = logging.getLogger(__name__)

_ENTRY_BYTES = 600  # besides the event as it is written
_AT_ONCE = 200


class CutOff(CasebookError):
    """What comes next for a client is not kept: for example since the client reads slowly."""

    def __init__(self) -> None:
        super().__init__("too_slow", "what comes next is not kept; go on from the last cursor")


class Entry(NamedTuple):
    """An event in the row, as it is sent to every client; and where in the stream it came."""

    ticket_id: UUID
    version: int
    type: str
    position: Position
    order: str
    written: bytes


Write = Callable[[EventDocument, Position], Awaitable[bytes]]


class Hub:
    """The last events of the log, while there are clients."""

    def __init__(self, store: EventStore, write: Write, limits: Limits = LIMITS) -> None:
        self._store = store
        self._limits = limits
        self._write = write
        self._watched = store.watchdog.watch("following the log for readers")
        self._clients = 0
        self._reading: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self._position: Position | None = None
        self._row: deque[Entry] = deque()
        self._bytes = self._first = self._cleared = 0
        self._floor, self._floor_at = "", store.clock.now()
        self._news = asyncio.Event()

    async def present(self) -> Position:
        """Return the position behind all that is written now. Raises StoreUnavailable."""
        return await present(self._store)

    async def join(self) -> Position:
        """Count one more client, which `leave`s in the end; return where the hub is.

        Raises StoreUnavailable.
        """
        async with self._opening:
            position = self._position
            if (
                position is None
                or self._clients == 0
                or self._reading is None
                or self._reading.done()
            ):
                await self.closed()
                position = self._position = await self.present()
                self._cut_off()
                self._floor, self._floor_at = stream_order(position.token), position.at
                self._reading = asyncio.create_task(self._read(position))
            self._clients += 1
            return position

    def leave(self) -> None:
        """Count one client less. With the last one reading ends."""
        self._clients -= 1
        if self._clients == 0 and self._reading is not None:
            self._reading.cancel()

    async def closed(self) -> None:
        """Wait until nothing is read any more, after all have left."""
        if self._reading is not None:
            await end(self._reading)

    def invalidate(self) -> None:
        """Empty the row: a person was erased whose words may be in it. Clients that have not had
        all of it are cut off, and come back.
        """
        self._cleared += 1
        while self._row:
            self._drop()
        self._wake()

    @property
    def end(self) -> int:
        """The place behind all that is in the row."""
        return self._first + len(self._row)

    def reaches(self, log: Subscription) -> bool:
        """Say whether all that comes behind what a subscription has delivered is in the row."""
        return log.has_passed(self._floor, self._floor_at)

    def place(self, token: ResumeToken) -> int:
        """Return the place behind a token that the row reaches back to."""
        order = stream_order(token)
        return self._first + sum(entry.order <= order for entry in self._row)

    async def behind(self, place: int, seconds: float) -> tuple[Sequence[Entry], Position]:
        """Return some of what comes behind a place, nothing if nothing comes in time; and the
        position behind that. Raises CutOff.
        """
        if place == self.end:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._news.wait()
        if place < self._first or self._position is None:
            raise CutOff
        offset = place - self._first
        found = tuple(islice(self._row, offset, offset + _AT_ONCE))
        return found, found[-1].position if found else self._position

    async def _read(self, position: Position) -> None:
        subscription = Subscription(
            self._store, position, late=self._limits.late, watched=self._watched
        )
        try:
            async with aclosing(subscription.steps(self._limits.retry_seconds)) as steps:
                async for step in steps:
                    if step.event is not None:
                        await self._add(step, step.event)
                    self._position = step.position
        except Exception:  # noqa: BLE001 clients come back, and begin another
            _log.exception("the stream that all clients share has ended")
            self._cut_off()

    async def _add(self, step: Step, event: EventDocument) -> None:
        order = stream_order(step.position.token)
        if not step.from_stream:
            order += "~"  # behind the position given for it, which may have been sent before
        while True:
            cleared = self._cleared
            written = await self._write(event, step.position)
            if cleared == self._cleared:  # else it may hold the words of a person who was erased
                break
        which = event["ticket_id"], event["version"], str(event.get("type"))
        self._row.append(Entry(*which, step.position, order, written))
        self._bytes += len(written) + _ENTRY_BYTES
        while self._bytes > self._limits.row_bytes and len(self._row) > 1:
            self._drop()
        self._wake()

    def _drop(self) -> None:
        oldest = self._row.popleft()
        self._bytes -= len(oldest.written) + _ENTRY_BYTES
        self._floor, self._floor_at = oldest.order, self._store.clock.now()
        self._first += 1

    def _cut_off(self) -> None:
        """Let no client go on from where it is."""
        self.invalidate()
        self._first += 1

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
