"""Tickets folded from their streams, kept for the next command.

A command on a ticket that is kept costs one insert, however long the ticket's stream. What is kept
is never trusted: another process may have gone on, and the unique key of the insert decides.
Commands for one ticket take turns within a process, so that they do not race each other.
"""

import asyncio
from collections.abc import Iterable
from contextlib import aclosing
from functools import cache
from typing import NamedTuple
from uuid import UUID
from weakref import WeakValueDictionary

import orjson
from cachetools import LRUCache
from prometheus_client import Counter

from domain.errors import CasebookError, HistoryError
from domain.tickets import decode
from domain.tickets.command import Size
from domain.tickets.ticket import Ticket, apply
from eventstore.event_document import EMPTY, Envelope, Head, from_document
from eventstore.log import EventStore
from eventstore.reading import read_events

KEPT_BYTES = 64 * 2**20
"""What kept tickets may weigh in all, by a generous estimate of their memory."""

_EVENT_BYTES = 700  # a command's key, fingerprint and versions, measured
_CHARACTER_BYTES = (
    4  # at most: texts of the ticket's state; of them UTF-8 has as many bytes or more
)


_ASKED = Counter(
    "casebook_ticket_cache", "Commands by whether their ticket was in memory.", ["result"]
)
_asked = cache(_ASKED.labels)


class TicketBusy(CasebookError):
    """Others' commands on the ticket do not come to an end in time. Nothing was written."""

    kind = "unavailable"

    def __init__(self) -> None:
        super().__init__("ticket_busy", "other commands on this ticket take too long; try again")


class EventRef(NamedTuple):
    """An event as an answer names it."""

    version: int
    type: str


class Done(NamedTuple):
    """What an earlier command led to, and what it said."""

    fingerprint: str
    events: tuple[EventRef, ...]


class Stream:
    """A ticket's stream, folded: its state, its head, and the commands that led there (L5)."""

    __slots__ = ("_done", "content_bytes", "head", "ticket", "ticket_id")

    def __init__(self, ticket_id: UUID) -> None:
        self.ticket_id = ticket_id
        self._clear()

    def _clear(self) -> None:
        self.ticket: Ticket | None = None
        self.head: Head = EMPTY
        self.content_bytes = 0
        """What its events say, as JSON in UTF-8."""
        self._done: dict[tuple[str, str], Done] = {}

    def done(self, actor_id: str, command_id: str) -> Done | None:
        """Give what a command led to, if it is in the stream."""
        return self._done.get((actor_id, command_id))

    @property
    def weight_bytes(self) -> int:
        """What it may weigh in memory, by a generous estimate."""
        return _EVENT_BYTES * self.head.version + _CHARACTER_BYTES * self.content_bytes

    @property
    def size(self) -> Size:
        """How much the ticket holds."""
        return Size(self.head.version, self.content_bytes)

    def extend(self, events: Iterable[Envelope]) -> None:
        """Fold the events that come next. Raises HistoryError: the stream is an empty one then, for
        the ticket may have been changed by half.
        """
        for envelope in events:
            if envelope.version != self.head.version + 1:
                raise HistoryError(
                    "not_the_next_version", f"it follows version {self.head.version}"
                ).at(self.ticket_id, envelope.version)
            try:
                event = decode(*envelope.readable[:3])
                self.ticket = apply(self.ticket, event, envelope.occurred_at)
            except BaseException as error:
                self._clear()
                if isinstance(error, HistoryError):
                    raise error.at(self.ticket_id, envelope.version) from error
                raise
            self.head = Head(envelope.version, envelope.hash)
            self.content_bytes += len(orjson.dumps(envelope.data, default=str))
            command = envelope.metadata.command
            key = (envelope.metadata.actor.id, command.id)
            before = self._done.get(key)
            ref = EventRef(envelope.version, envelope.type)
            refs = (*before.events, ref) if before else (ref,)
            self._done[key] = Done(command.fingerprint, refs)


class Streams:
    """The tickets that were last in use, a bounded number of them."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        # One that is too large to be kept is kept alone.
        self._kept: LRUCache[UUID, Stream] = LRUCache(
            KEPT_BYTES, lambda stream: min(stream.weight_bytes, KEPT_BYTES)
        )
        self._forgotten = 0
        self._locks: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()

    def turns(
        self, ticket_id: UUID, other_id: UUID | None = None, patience_seconds: float | None = None
    ) -> "Turns":
        """Make a block in which one has one's turn with a ticket and, if named, with another.

        Entering it raises TicketBusy if others have theirs for too long.
        """
        return Turns(self, ticket_id, None if other_id == ticket_id else other_id, patience_seconds)

    async def refresh(self, stream: Stream) -> None:
        """Read what the log has behind the stream's head. Raises StoreUnavailable, HistoryError.

        Whatever ends it, the stream is as it was after some event, and can be read on.
        """
        after = stream.head.version
        async with aclosing(read_events(self._store, stream.ticket_id, after=after)) as events:
            async for _, event in events:
                stream.extend([from_document(event)])

    def forget(self) -> None:
        """Forget all tickets: somebody was erased whose words may be in some of them."""
        self._kept.clear()
        self._forgotten += 1

    async def take(self, ticket_id: UUID) -> "Turn":
        """Wait for one's turn with a ticket. It ends with `give_back`."""
        lock = self._locks.get(ticket_id)
        if lock is None:
            lock = self._locks[ticket_id] = asyncio.Lock()
        await lock.acquire()
        stream = self._kept.pop(ticket_id, None)
        _asked("miss" if stream is None else "hit").inc()
        if stream is None:
            stream = Stream(ticket_id)
        return Turn(stream, lock, self._forgotten)

    def give_back(self, turn: "Turn") -> None:
        """End a turn; keep what is known of the ticket now."""
        try:
            if turn.forgotten == self._forgotten and turn.stream.head.version:
                self._kept[turn.stream.ticket_id] = turn.stream
        finally:
            turn.lock.release()


class Turn(NamedTuple):
    """Somebody's turn with one ticket."""

    stream: Stream
    lock: asyncio.Lock
    forgotten: int
    """How often all had been forgotten when it began."""


class Turns:
    """A block in which one has one's turn with a ticket, or with two.

    It gives their streams as far as they are known, maybe empty.
    """

    __slots__ = ("_had", "_other_id", "_patience_seconds", "_streams", "_ticket_id")

    def __init__(
        self,
        streams: Streams,
        ticket_id: UUID,
        other_id: UUID | None,
        patience_seconds: float | None,
    ) -> None:
        self._streams = streams
        self._patience_seconds = patience_seconds
        self._ticket_id = ticket_id
        self._other_id = other_id
        self._had: list[Turn] = []

    async def __aenter__(self) -> tuple[Stream, Stream | None]:
        try:
            async with asyncio.timeout(self._patience_seconds):
                if self._other_id is None:
                    return await self._take(self._ticket_id), None
                # In this order, or two would wait for each other.
                first, second = sorted((self._ticket_id, self._other_id))
                one, two = await self._take(first), await self._take(second)
                return (one, two) if first == self._ticket_id else (two, one)
        except BaseException as error:
            self._give_back()
            if isinstance(error, TimeoutError):
                raise TicketBusy from None
            raise

    async def __aexit__(self, *_: object) -> None:
        self._give_back()

    async def _take(self, ticket_id: UUID) -> Stream:
        turn = await self._streams.take(ticket_id)
        self._had.append(turn)
        return turn.stream

    def _give_back(self) -> None:
        for turn in reversed(self._had):
            self._streams.give_back(turn)
