"""The log read from a position on: for whoever wants to have all of it, and what comes (law L8).

A position is where a consumer is, and all that it has to remember:

    token     the change stream's resume token to follow from
    at        up to when, roughly, what was recorded is behind
    scanned   the ticket and version up to which the log has been read; None when all of it has been
    behind    whether what was recorded since `at` is to be read from the log, and not followed

Who starts at the beginning gets the stream's present token first, then the log by ticket and
version, then what the stream has brought from that token on. So what is written during the scan is
missed by neither, and some of it is found by both: versions tell, as far as they are remembered.

The stream is trusted with what is a minute old, and not alone. The last versions of the tickets
that were last told of are remembered; what a stream brings again is passed over, and what it left
out between two versions of a ticket is read from the log. Who was away for longer gets from the log
what was recorded meanwhile, and for a minute before (clocks differ, writes take their time), by
that time, and then the stream from a token that was taken first: a server that no longer has all of
its stream may leave some out without a word.

So an event may come twice to who goes on from an older position. What is new comes in the order of
versions.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from pydantic import TypeAdapter

from domain.errors import CasebookError
from eventstore.event_document import EventDocument, is_event
from eventstore.failures import HistoryLost, translating
from eventstore.log import (
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
_PAGE_EVENTS = 1000
TRUSTED = timedelta(minutes=1)
LOOK_BACK = timedelta(minutes=1)
"""For clocks that differ, and writes that take their time."""
_BEGINNING = (UUID(int=0), 0)


class CursorExpired(CasebookError):
    """The database does not remember its stream back to a position: for example some days."""

    def __init__(self) -> None:
        super().__init__("cursor_expired", "the change stream does not go back so far any more")


class Position(NamedTuple):
    """Where a consumer of the log is; see above."""

    token: ResumeToken
    at: datetime
    scanned: tuple[UUID, int] | None = None
    behind: bool = False

    def written(self) -> object:
        """Give it as JSON values, and ids, for a cursor."""
        return [token_text(self.token), self.at.isoformat(), self.scanned, self.behind]

    def is_old(self, now: datetime) -> bool:
        """Say whether a stream is not to be trusted with what comes behind it."""
        return self.behind or now - self.at > TRUSTED


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


_Written = tuple[str, datetime, tuple[UUID, int] | None, bool]
_WRITTEN: TypeAdapter[_Written] = TypeAdapter(_Written)


def position_from(written: object) -> Position:
    """Read what `Position.written` has given, from a cursor of ours."""
    token, at, scanned, behind = _WRITTEN.validate_python(written)
    return Position(token_from(token), at, scanned, behind)


def recorded_at(event: Mapping[str, object]) -> datetime | None:
    """Give when an event was recorded, if it says so: what others have put there may not."""
    found = event.get("recorded_at")
    return found if isinstance(found, datetime) else None


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
            return Position(await self._store.position(), self._store.clock.now(), _BEGINNING)

    @asynccontextmanager
    async def open(self, position: Position) -> AsyncIterator[Feed]:
        """Open the stream behind a position. Raises CursorExpired, StoreUnavailable."""
        try:
            with translating():
                async with self._store.watch(position.token) as feed:
                    yield feed
        except HistoryLost as error:
            raise CursorExpired from error

    async def checked(self, position: Position) -> Position:
        """Give a position that can be gone on from. Raises StoreUnavailable."""
        if position.is_old(self._store.clock.now()):
            return position
        try:
            async with self.open(position) as feed:
                await feed.next()
        except CursorExpired:
            return position._replace(behind=True)
        return position

    async def to_the_stream(
        self, position: Position, versions: Versions
    ) -> AsyncGenerator[Told, None]:
        """Give all that the log has behind a position, if it is not to be followed from there.

        The last position is one that is. Raises StoreUnavailable.
        """
        async with aclosing(self._scan(position, versions)) as steps:
            async for told in steps:
                position = told.position
                yield told
        before, position = position, position._replace(scanned=None)
        if position.is_old(self._store.clock.now()):
            async with aclosing(self._catch_up(position, versions)) as steps:
                async for told in steps:
                    position = told.position
                    yield told
        else:
            yield Told((), before, position)

    async def _catch_up(self, position: Position, versions: Versions) -> AsyncGenerator[Told, None]:
        """Give what was recorded since a position. Raises StoreUnavailable."""
        with translating():
            token = await self._store.position()
        began = self._store.clock.now()
        before, position = position, position._replace(token=token, behind=True)
        async for events in self.recorded(position.at - LOOK_BACK, None):
            for event in events:
                versions.note(event["ticket_id"], event["version"])
            at = max((event["recorded_at"] for event in events), default=position.at)
            before, position = position, position._replace(at=min(max(at, position.at), began))
            yield Told(events, before, position)
        yield Told((), position, position._replace(at=began, behind=False))

    async def recorded(
        self, since: datetime, before: datetime | None
    ) -> AsyncGenerator[list[EventDocument], None]:
        """Give events by the time at which they were recorded, a page at a time.

        Within a page by ticket and version; a ticket's events are in order from page to page as far
        as the clocks agreed of those who wrote them. Raises StoreUnavailable.
        """
        most, last_page = _PAGE_EVENTS, set[UUID]()
        while True:
            found = await self._store.recorded(since, most, before=before)
            page = [e for e in found if is_event(e) and e["_id"] not in last_page]
            await self._store.fetch_keys(page)
            yield sorted(page, key=lambda event: (event["ticket_id"], event["version"]))
            if len(found) < most:
                return
            last_page = {event["_id"] for event in found}
            last = found[-1]["recorded_at"]
            most = _PAGE_EVENTS if last > since else 2 * most  # as many of one moment
            since = last

    async def _scan(self, position: Position, versions: Versions) -> AsyncGenerator[Told, None]:
        """Give what the log has behind a position, by ticket and version, a range at a time.

        Raises StoreUnavailable.
        """
        if position.scanned is None:
            return
        last = position.scanned
        young = self._store.clock.now() - LOOK_BACK
        for tickets in await self._ranges():
            if tickets.before is not None and tickets.before <= last[0]:
                continue
            first = last[0] if tickets.first is None else max(tickets.first, last[0])
            events = await self._store.of_range(TicketRange(first, tickets.before))
            await self._store.fetch_keys(events)
            for event in events:
                at = event["ticket_id"], event["version"]
                if at <= last:
                    continue
                if event["recorded_at"] > young:  # the stream may bring it again
                    versions.note(*at)
                before, position = position, position._replace(scanned=at)
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
                position = Position(feed.token or position.token, self._store.clock.now())
                yield Told((), before, position, quiet=True)
                continue
            event = change.document
            position = Position(change.token, recorded_at(event) or position.at)
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
