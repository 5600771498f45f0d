"""One client's stream: from where it was to where all are, and then along with them.

First what the log has behind its position, if it begins with a scan or has been away for long; then
what a stream of its own brings, until the hub reaches back to where it is; then what the hub
brings. Own streams are read in turns, a few at once in a process, and what a turn has read is in
memory before it is sent: a client that reads slowly does not keep others from their turn.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from uuid import UUID

from api.feed import send_buffer
from api.feed.format import Writer
from api.feed.hub import Hub
from api.feed.send_buffer import SendBuffer
from eventstore.event_document import EventDocument
from eventstore.failures import HistoryLost, StoreUnavailable
from eventstore.subscription import Step, Subscription

IsWanted = Callable[[str], bool]
"""Whether a client wants events of a type."""

_TURN_EVENTS = 500
_MARK_EVENTS = 1000
_RETRY_SECONDS = 1.0
_PAUSE_SECONDS = 0.02  # so that what comes quickly is told together
_RECONNECT_MILLISECONDS = 1000


class Follower:
    """A client that follows the log."""

    def __init__(
        self,
        log: Subscription,
        writer: Writer,
        turns: asyncio.Semaphore,
        buffer: SendBuffer,
        is_wanted: IsWanted,
    ) -> None:
        self._log = log
        self._writer = writer
        self._turns = turns
        self._buffer = buffer
        self._is_wanted = is_wanted
        self._clock = asyncio.get_running_loop().time
        self._sent_at = self._clock()
        self._silent_events = 0

    async def follow(self, hub: Hub) -> None:
        """Send what comes behind the subscription's position, without end.

        Raises CutOff, StoreUnavailable.
        """
        await self._put(await self._writer.mark(self._log.position, _RECONNECT_MILLISECONDS))
        while True:
            async with aclosing(self._log.past()) as steps:
                async for step in steps:
                    await self._send(step)
            if hub.reaches(self._log.position.token):
                break
            for step in await self._turn(hub):
                await self._send(step)
        await self._listen(hub)

    async def _turn(self, hub: Hub) -> list[Step]:
        """Read some of what an own stream brings, up to where the hub reaches back to.

        What has been read is returned also if the database falls silent: it has been passed.
        """
        read: list[Step] = []
        try:
            async with self._turns, aclosing(self._log.stream()) as steps:
                async for step in steps:
                    read.append(step)
                    reached = step.event is None or hub.reaches(step.position.token)
                    if reached or len(read) == _TURN_EVENTS:
                        break
        except HistoryLost as error:
            self._log.lose_place(error)
        except StoreUnavailable:
            await asyncio.sleep(_RETRY_SECONDS)
        await asyncio.sleep(_PAUSE_SECONDS)
        return read

    async def _listen(self, hub: Hub) -> None:
        """Send what the hub brings. Raises CutOff."""
        position = self._log.position
        place = hub.place(position.token)
        while True:
            entries, behind = await hub.behind(place, send_buffer.SILENCE_SECONDS)
            place += len(entries)
            for entry in entries:
                if not self._log.seen.includes(entry.ticket_id, entry.version):
                    for event in await self._missing(entry.ticket_id, entry.version):
                        await self._send(Step(position, event))
                    self._log.seen.add(entry.ticket_id, entry.version)
                    if self._is_wanted(entry.type):
                        await self._put(entry.written)
                position = entry.position
            position = behind
            if self._clock() - self._sent_at > send_buffer.SILENCE_SECONDS:
                await self._put(await self._writer.mark(position))  # no cursor is to grow old
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _missing(self, ticket_id: UUID, version: int) -> Sequence[EventDocument]:
        """Read what the hub has not brought before an event, however long it takes."""
        while True:
            try:
                return await self._log.missing(ticket_id, version)
            except StoreUnavailable:
                await asyncio.sleep(_RETRY_SECONDS)

    async def _send(self, step: Step) -> None:
        if step.event is None:
            return
        if self._is_wanted(str(step.event.get("type"))):
            await self._put(await self._writer.block(step.event, step.position))
            return
        self._silent_events += 1
        if self._silent_events == _MARK_EVENTS:  # a client that wants little is to get on as well
            await self._put(await self._writer.mark(step.position))

    async def _put(self, piece: bytes) -> None:
        await self._buffer.put(piece)
        self._sent_at = self._clock()
        self._silent_events = 0
