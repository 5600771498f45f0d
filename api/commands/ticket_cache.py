"""Tickets folded from their streams, kept for the next command.

A command on a ticket that is kept costs one insert, however long the ticket's stream. What is kept
is never trusted: another process may have gone on, and the unique key of the insert decides.
Commands for one ticket take turns within a process (`ticket_locks.py`), so that they do not race.
"""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager
from functools import cache
from sys import intern
from typing import NamedTuple
from uuid import UUID

import orjson
from cachetools import LRUCache
from prometheus_client import Counter

from api.commands.ticket_locks import TicketLocks
from domain.errors import HistoryError
from domain.tickets import decode, is_public
from domain.tickets.command import Size
from domain.tickets.ticket import Ticket, apply
from eventstore.event_document import EMPTY, Envelope, Head, from_document
from eventstore.log import EventStore
from eventstore.reading import read_slices

KEPT_BYTES = 64 * 2**20
"""What kept tickets may weigh in all, by a generous estimate of their memory."""

_EVENT_BYTES = 700  # a command's key, fingerprint and versions: measured 570, and longer keys
_CHARACTER_BYTES = 4  # at most, of the state's texts; as JSON they have as many bytes or more


_LOOKUPS = Counter(
    "casebook_ticket_cache", "Commands by whether their ticket was in memory.", ["result"]
)
_lookups = cache(_LOOKUPS.labels)


class EventRef(NamedTuple):
    """An event as an answer names it. `public_version`: how many events up to it requesters see;
    `is_public`: whether it is one of them.
    """

    version: int
    type: str
    public_version: int
    is_public: bool


class Done(NamedTuple):
    """What an earlier command led to, and what it said."""

    fingerprint: str
    events: tuple[EventRef, ...]
    follow_up: UUID | None


class Stream:
    """A ticket's stream, folded: its state, its head, and the commands that led there (L5)."""

    __slots__ = ("_done", "content_bytes", "head", "public_version", "ticket", "ticket_id")

    def __init__(self, ticket_id: UUID) -> None:
        self.ticket_id = ticket_id
        self._clear()

    def _clear(self) -> None:
        self.ticket: Ticket | None = None
        self.head: Head = EMPTY
        self.public_version = 0
        self.content_bytes = 0
        """What its events say, as JSON in UTF-8."""
        self._done: dict[tuple[str, str], Done] = {}

    def done(self, actor_id: str, command_id: str) -> Done | None:
        """Return what a command led to, if it is in the stream."""
        return self._done.get((actor_id, command_id))

    @property
    def weight_bytes(self) -> int:
        """What it may weigh in memory, by a generous estimate."""
        state_bytes = len(orjson.dumps(self.ticket, default=str))
        return _EVENT_BYTES * self.head.version + _CHARACTER_BYTES * state_bytes

    @property
    def size(self) -> Size:
        """How much the ticket holds."""
        return Size(self.head.version, self.content_bytes)

    def refs(self, events: Iterable[Envelope]) -> Iterator[EventRef]:
        """Yield how answers name the events that come next."""
        public_version = self.public_version
        for event in events:
            public = is_public(event.type, event.data)
            public_version += public
            yield EventRef(event.version, intern(event.type), public_version, public)

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
            [ref] = self.refs([envelope])
            self.public_version = ref.public_version
            done = self._done.get(key, Done(command.fingerprint, (), None))
            follow_up = event.goes_on_in() or done.follow_up
            self._done[key] = Done(done.fingerprint, (*done.events, ref), follow_up)


class TicketCache:
    """The tickets that were last in use, as many as weigh no more than KEPT_BYTES."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        # One that is heavier is kept as the only one.
        self._kept: LRUCache[UUID, Stream] = LRUCache(
            KEPT_BYTES, getsizeof=lambda stream: min(stream.weight_bytes, KEPT_BYTES)
        )
        self._forgotten = 0
        self._locks = TicketLocks()

    @asynccontextmanager
    async def locked(
        self, ticket_id: UUID, other_id: UUID | None = None, timeout_seconds: float | None = None
    ) -> AsyncIterator[tuple[Stream, Stream | None]]:
        """Have a ticket, and another if it is named, to oneself: their streams as far as they are
        known, maybe empty.

        Raises TicketBusy if other commands on them take longer than `timeout_seconds`.
        """
        ids = {ticket_id, other_id or ticket_id}
        async with self._locks.hold(ids, timeout_seconds):
            forgotten = self._forgotten
            streams = {each: self._take(each) for each in ids}
            other = None if other_id is None or other_id == ticket_id else streams[other_id]
            try:
                yield streams[ticket_id], other
            finally:
                if forgotten == self._forgotten:
                    kept = (stream for stream in streams.values() if stream.head.version > 0)
                    self._kept.update({stream.ticket_id: stream for stream in kept})

    def _take(self, ticket_id: UUID) -> Stream:
        stream = self._kept.pop(ticket_id, None)
        _lookups("miss" if stream is None else "hit").inc()
        return stream or Stream(ticket_id)

    async def refresh(self, stream: Stream) -> None:
        """Read what the log has behind the stream's head. Raises StoreUnavailable, HistoryError.

        Whatever ends it, the stream is as it was after some event, and can be read on.
        """
        after = stream.head.version
        async with aclosing(read_slices(self._store, stream.ticket_id, after=after)) as events:
            async for some in events:
                stream.extend(from_document(event) for _, event in some)

    def invalidate(self) -> None:
        """Forget all tickets: a person was erased whose words may be in some of them."""
        self._kept.clear()
        self._forgotten += 1
