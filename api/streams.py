"""Tickets folded from their streams, kept for the next command.

A command on a ticket that is kept costs one insert, however long the ticket's stream. What is kept
is never trusted: another process may have gone on, and the unique key of the insert decides.
Commands for one ticket take turns within a process, so that they do not race each other.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple
from uuid import UUID
from weakref import WeakValueDictionary

from prometheus_client import Counter

from domain.errors import HistoryError
from domain.events import decode
from domain.ticket import Ticket, evolve
from eventstore.envelope import EMPTY, Envelope, Head
from eventstore.store import EventStore

KEPT_BYTES = 64 * 2**20
"""What kept tickets may weigh in all, by a generous estimate of their memory."""

_EVENT_BYTES = 700  # a command's key, fingerprint and versions, measured
_CHARACTER_BYTES = 4  # at most: texts of the ticket's state


_ASKED = Counter(
    "casebook_ticket_cache", "Commands by whether their ticket was in memory.", ["result"]
)
_asked = cache(_ASKED.labels)


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

    __slots__ = ("_done", "head", "ticket", "ticket_id", "weight_bytes")

    def __init__(self, ticket_id: UUID) -> None:
        self.ticket_id = ticket_id
        self.ticket: Ticket | None = None
        self.head: Head = EMPTY
        self.weight_bytes = 0
        self._done: dict[tuple[str, str], Done] = {}

    def done(self, actor_id: str, command_id: str) -> Done | None:
        """Give what a command led to, if it is in the stream."""
        return self._done.get((actor_id, command_id))

    def extend(self, events: Iterable[Envelope]) -> None:
        """Fold the events that come next. Raises HistoryError."""
        for envelope in events:
            if envelope.version != self.head.version + 1:
                raise HistoryError(
                    "not_the_next_version", f"it follows version {self.head.version}"
                ).at(self.ticket_id, envelope.version)
            try:
                event = decode(*envelope.readable[:3])
                self.ticket = evolve(self.ticket, event, envelope.occurred_at)
            except HistoryError as error:
                raise error.at(self.ticket_id, envelope.version) from error
            self.head = Head(envelope.version, envelope.hash)
            self.weight_bytes += _EVENT_BYTES + _CHARACTER_BYTES * len(str(envelope.data))
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
        self._kept: OrderedDict[UUID, Stream] = OrderedDict()
        self._kept_bytes = 0
        self._forgotten = 0
        self._locks: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()

    def turns(self, ticket_id: UUID, other_id: UUID | None = None) -> "Turns":
        """Make a block in which one has one's turn with a ticket and, if named, with another."""
        return Turns(self, ticket_id, None if other_id == ticket_id else other_id)

    async def refresh(self, stream: Stream) -> None:
        """Read what the log has behind the stream's head. Raises StoreUnavailable, HistoryError."""
        stream.extend(await self._store.load(stream.ticket_id, after=stream.head.version))

    def forget(self) -> None:
        """Forget all tickets: somebody was erased whose words may be in some of them."""
        self._kept.clear()
        self._kept_bytes = 0
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
        self._kept_bytes -= stream.weight_bytes
        return Turn(stream, lock, self._forgotten)

    def give_back(self, turn: "Turn") -> None:
        """End a turn; keep what is known of the ticket now."""
        try:
            if turn.forgotten == self._forgotten:
                self._keep(turn.stream)
        finally:
            turn.lock.release()

    def _keep(self, stream: Stream) -> None:
        if stream.head.version == 0:
            return
        self._kept[stream.ticket_id] = stream
        self._kept_bytes += stream.weight_bytes
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= oldest.weight_bytes


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

    __slots__ = ("_had", "_other_id", "_streams", "_ticket_id")

    def __init__(self, streams: Streams, ticket_id: UUID, other_id: UUID | None) -> None:
        self._streams = streams
        self._ticket_id = ticket_id
        self._other_id = other_id
        self._had: list[Turn] = []

    async def __aenter__(self) -> tuple[Stream, Stream | None]:
        if self._other_id is None:
            return await self._take(self._ticket_id), None
        # In this order, or two would wait for each other.
        first, second = sorted((self._ticket_id, self._other_id))
        one = await self._take(first)
        try:
            two = await self._take(second)
        except BaseException:
            self._give_back()
            raise
        return (one, two) if first == self._ticket_id else (two, one)

    async def __aexit__(self, *_: object) -> None:
        self._give_back()

    async def _take(self, ticket_id: UUID) -> Stream:
        turn = await self._streams.take(ticket_id)
        self._had.append(turn)
        return turn.stream

    def _give_back(self) -> None:
        for turn in reversed(self._had):
            self._streams.give_back(turn)
