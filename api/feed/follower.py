"""One client's stream: from where it was to where all are, and then along with them.

What the log has behind its position, if it begins with a scan or has been away for long; what an
own stream brings, until the shared one reaches back to where it is; then what the shared one
brings. Own streams are read in
turns, a few at once in a process, and what a turn has read is in memory before it is sent: a client
that reads slowly does not keep others from their turn.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing

from api.feed import send_buffer as outbox
from api.feed.format import Writer
from api.feed.log_reader import LogReader, Position, Versions
from api.feed.log_tail import Entry, Tail
from api.feed.send_buffer import Outbox
from eventstore.event_document import EventDocument
from eventstore.failures import StoreUnavailable
from eventstore.log import stream_order

Shown = Callable[[Mapping[str, object]], bool]

_TURN_BYTES = 2**20
_MARK_EVENTS = 1000
_RETRY_SECONDS = 1.0
_PAUSE_SECONDS = 0.02  # so that what comes quickly is told together
_RECONNECT_MILLISECONDS = 1000


class Follower:
    """A client that follows the log, and what it is to be shown."""

    def __init__(
        self,
        reader: LogReader,
        writer: Writer,
        turns: asyncio.Semaphore,
        outbox_: Outbox,
        shown: Shown,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._turns = turns
        self._outbox = outbox_
        self._shown = shown
        self._versions = Versions()

    async def follow(self, position: Position, tail: Tail) -> None:
        """Put out what comes behind a position, without end.

        Raises TooSlow, TailEnded, CursorExpired, StoreUnavailable.
        """
        await self._outbox.put(await self._writer.mark(position, _RECONNECT_MILLISECONDS))
        async with aclosing(self._reader.to_the_stream(position, self._versions)) as steps:
            silent = 0
            async for told in steps:
                position = told.position
                shown = [event for event in told.events if self._shown(event)]
                for event in shown:
                    at = told.position if event is told.events[-1] else told.before
                    await self._outbox.put(await self._writer.block(event, at))
                silent = 0 if shown else silent + len(told.events)
                if silent > _MARK_EVENTS:  # who is shown little is to get on as well
                    silent = 0
                    await self._outbox.put(await self._writer.mark(told.position))
        while not tail.reaches(position.token):
            pieces, position = await self._turn(position, tail)
            for piece in pieces:
                await self._outbox.put(piece)
            if not pieces:
                await asyncio.sleep(_PAUSE_SECONDS)
        await self._listen(position, tail)

    async def _turn(self, position: Position, tail: Tail) -> tuple[list[bytes], Position]:
        """Read some of what an own stream has brought; give it, and where that leads.

        What has been read is given also if the database falls silent: it counts as told by now.
        """
        pieces: list[bytes] = []
        size_bytes = silent = 0
        try:
            async with (
                self._turns,
                self._reader.open(position) as feed,
                aclosing(self._reader.follow(feed, position, self._versions)) as steps,
            ):
                async for told in steps:
                    for event in filter(self._shown, told.events):
                        at = told.position if event is told.events[-1] else told.before
                        pieces.append(await self._writer.block(event, at))
                        size_bytes += len(pieces[-1])
                    position = told.position
                    silent += len(told.events)
                    if told.quiet or size_bytes > _TURN_BYTES or tail.reaches(position.token):
                        break
                    if silent > _MARK_EVENTS and not pieces:
                        pieces.append(await self._writer.mark(position))
                        break
        except StoreUnavailable:
            await asyncio.sleep(_RETRY_SECONDS)
        return pieces, position

    async def _listen(self, position: Position, tail: Tail) -> None:
        """Put out what the tail brings. Raises TooSlow, TailEnded."""
        clock = asyncio.get_running_loop().time
        said_at = clock()
        place, told_order = tail.place(position.token), stream_order(position.token)
        while True:
            entries = await tail.behind(place, outbox.SILENCE_SECONDS)
            place += len(entries)
            pieces: list[bytes] = []
            for entry in entries:
                if entry.order <= told_order:
                    continue  # the own stream had brought it
                if entry.version > self._versions.told(entry.ticket_id, entry.version):
                    missing = filter(self._shown, await self._missing(entry))
                    pieces += [await self._writer.block(event, position) for event in missing]
                    self._versions.note(entry.ticket_id, entry.version)
                    if self._shown(entry.head):
                        pieces.append(entry.written)
                position = Position(entry.token, entry.at)
            if not entries:
                position = Position(tail.token, tail.at)
            if not pieces and clock() - said_at > outbox.SILENCE_SECONDS:
                pieces.append(await self._writer.mark(position))  # no cursor is to grow old
            for piece in pieces:  # one by one: the outbox stops it when it is full
                await self._outbox.put(piece)
                said_at = clock()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _missing(self, entry: Entry) -> Sequence[EventDocument]:
        """Read what the stream has left out before an event, however long it takes."""
        while True:
            try:
                return await self._reader.missing(entry.ticket_id, entry.version, self._versions)
            except StoreUnavailable:
                await asyncio.sleep(_RETRY_SECONDS)
