"""The log read from a position on: for whoever wants to have all of it, and what comes (law L8).

A position is where a consumer is, and all that it has to remember:

    token     the change stream's resume token to follow from
    scanned   the ticket and version up to which the log has been read; None when all of it has been

Who starts at the beginning gets the stream's present token first, then the log by ticket and
version, then what the stream has brought from that token on. So what is written during the scan is
missed by neither, and some of it is found by both: versions tell, as far as they are remembered.

The stream is not trusted alone. The last versions of the tickets that were last told of are
remembered; what a stream brings again is passed over, and what it left out between two versions of
a ticket is read from the log. A ticket that is seen for the first time is taken as it is.

An event may come twice to who goes on from an older position. What is new comes in the order of
versions, always.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from pydantic import TypeAdapter

from domain.errors import CasebookError
from eventstore.envelope import EventDocument, is_event, utc_now
from eventstore.failures import HistoryLost, translating
from eventstore.store import (
    EventStore,
    Feed,
    ResumeToken,
    TicketRange,
    token_from,
    token_text,
)

REMEMBERED_TICKETS = 2000
_RANGE_EVENTS = 500
_CUTS_KEPT_SECONDS = 20.0
_YOUNG = timedelta(minutes=1)  # of clocks that differ, and of writes that take their time
_BEGINNING = (UUID(int=0), 0)


class CursorExpired(CasebookError):
    """A cursor is older than what the database remembers of its stream: for example some days."""

    def __init__(self) -> None:
        super().__init__(
            "cursor_expired",
            "the change stream does not go back to this cursor any more; begin without one",
        )


class Position(NamedTuple):
    """Where a consumer of the log is; see above."""

    token: ResumeToken
    scanned: tuple[UUID, int] | None = None

    def written(self) -> object:
        """Give it as JSON values, and ids, for a cursor."""
        return [token_text(self.token), self.scanned]


class Told(NamedTuple):
    """What comes next: stored events, mostly one, and the position behind them.

    Behind all but the last one is still at `before`: those are what a stream had left out, and who
    goes on between them must be brought the last. No events: there was nothing new, or, if `quiet`,
    nothing at all for a moment.
    """

    events: Sequence[EventDocument]
    before: Position
    position: Position
    quiet: bool = False


_WRITTEN: TypeAdapter[tuple[str, tuple[UUID, int] | None]] = TypeAdapter(
    tuple[str, tuple[UUID, int] | None]
)


def position_from(written: object) -> Position:
    """Read what `Position.written` has given, from a cursor of ours."""
    token, scanned = _WRITTEN.validate_python(written)
    return Position(token_from(token), scanned)


class Versions:
    """The last versions of the tickets that were told of last: a bounded number of them."""

    def __init__(self, most: int = REMEMBERED_TICKETS) -> None:
        self._most = most
        self._known: OrderedDict[UUID, int] = OrderedDict()

    def note(self, ticket_id: UUID, version: int) -> None:
        """Remember that an event has been told."""
        self._known[ticket_id] = max(version, self._known.get(ticket_id, 0))
        self._known.move_to_end(ticket_id)
        if len(self._known) > self._most:
            self._known.popitem(last=False)

    def told(self, ticket_id: UUID, version: int) -> int:
        """Give up to which version a ticket was told; to the one before, if it is not known."""
        return self._known.get(ticket_id, version - 1)


class LogReader:
    """Reads one log for any number of consumers."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._cuts: tuple[float, list[TicketRange]] | None = None

    async def beginning(self) -> Position:
        """Give the position before the first event. Raises StoreUnavailable."""
        with translating():
            return Position(await self._store.position(), _BEGINNING)

    @asynccontextmanager
    async def open(self, position: Position) -> AsyncIterator[Feed]:
        """Open the stream behind a position. Raises CursorExpired, StoreUnavailable."""
        try:
            with translating():
                async with self._store.watch(position.token) as feed:
                    yield feed
        except HistoryLost as error:
            raise CursorExpired from error

    async def check(self, position: Position) -> None:
        """Raise CursorExpired if the stream cannot be followed from there, or StoreUnavailable."""
        async with self.open(position) as feed:
            await feed.next()

    async def scan(self, position: Position, versions: Versions) -> AsyncGenerator[Told, None]:
        """Give what the log has behind a position, by ticket and version, a range at a time.

        Raises StoreUnavailable.
        """
        if position.scanned is None:
            return
        last = position.scanned
        young = utc_now() - _YOUNG
        for tickets in await self._ranges():
            if tickets.before is not None and tickets.before <= last[0]:
                continue
            first = last[0] if tickets.first is None else max(tickets.first, last[0])
            for event in await self._store.of_range(TicketRange(first, tickets.before)):
                at = event["ticket_id"], event["version"]
                if at <= last:
                    continue
                if event["recorded_at"] > young:  # the stream may bring it again
                    versions.note(*at)
                before, position = position, Position(position.token, at)
                yield Told((event,), before, position)

    async def follow(
        self, feed: Feed, position: Position, versions: Versions
    ) -> AsyncGenerator[Told, None]:
        """Give what a feed brings from `position` on, without end.

        Raises what the feed does, and StoreUnavailable.
        """
        while True:
            change = await feed.next()
            before = position
            if change is None:
                position = Position(feed.token or position.token)
                yield Told((), before, position, quiet=True)
                continue
            event, position = change.document, Position(change.token)
            events: Sequence[EventDocument] = ()
            if is_event(event):
                ticket_id, version = event["ticket_id"], event["version"]
                if version > versions.told(ticket_id, version):
                    missing = await self.missing(ticket_id, version, versions)
                    versions.note(ticket_id, version)
                    events = (*missing, event)
            yield Told(events, before, position)

    async def missing(
        self, ticket_id: UUID, version: int, versions: Versions
    ) -> Sequence[EventDocument]:
        """Read what was not told of a ticket between the last and `version`.

        Raises StoreUnavailable.
        """
        known = versions.told(ticket_id, version)
        if version <= known + 1:
            return ()
        found = await self._store.stored(ticket_id, after=known, limit=version - known - 1)
        return [event for event in found if is_event(event) and event["version"] < version]

    async def _ranges(self) -> list[TicketRange]:
        """Cut the tickets into ranges; old cuts are as good, but for how much is in each."""
        clock = asyncio.get_running_loop().time
        if self._cuts is None or clock() - self._cuts[0] > _CUTS_KEPT_SECONDS:
            self._cuts = (clock(), await self._store.ranges(_RANGE_EVENTS))
        return self._cuts[1]
