"""What fills a client's buffer: an export up to now, or a stream without end.

A stream gives first what the log has behind the client's position, if it begins with a scan or has
been away for long; then what a stream of its own brings, until the hub reaches back to where it is;
then what the hub brings. Own streams are read in turns, a few at once in a process, and what a turn
has read is in memory before it is sent: a client that reads slowly does not keep others from their
turn.
"""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from datetime import datetime
from uuid import UUID

from api.feed.client import Client, Limits
from api.feed.format import Writer
from api.feed.hub import Hub
from eventstore.event_document import EventDocument
from eventstore.failures import HistoryLost, StoreUnavailable
from eventstore.mongo.resume_tokens import stream_order
from eventstore.subscription import Step, Subscription

_TURN_EVENTS = 500
_MARK_EVENTS = 1000
_PAUSE_SECONDS = 0.02  # so that what comes quickly is sent together
_RECONNECT_MILLISECONDS = 1000


class Follower:
    """Reads the log for one client."""

    def __init__(
        self, log: Subscription, writer: Writer, hub: Hub, client: Client, limits: Limits
    ) -> None:
        self._log = log
        self._writer = writer
        self._hub = hub
        self._client = client
        self._limits = limits
        self._clock = asyncio.get_running_loop().time
        self._sent_at = self._clock()
        self._silent_events = 0

    async def export(self, limit: int | None) -> None:
        """Send what the log has, then what the stream has brought by now, and the cursor behind it.

        The end is where the stream was when the log had been read, and not where it falls silent:
        under load it never does, and on a sharded cluster that is not all.
        """
        sent = read = 0
        end: tuple[str, datetime] | None = None
        async with aclosing(self._log.steps()) as steps:
            async for position, event, _ in steps:
                if event is not None:
                    read += 1
                    if self._client.wants(event.get("type")):
                        await self._put(await self._writer.line(event))
                        sent += 1
                    if sent == limit:
                        break
                    if read % self._limits.cursor_every_events == 0:
                        await self._put(await self._writer.cursor_line(position))
                if position.is_followed:
                    if end is None:
                        now = await self._hub.present()
                        end = stream_order(now.token), now.at
                    if self._log.has_passed(*end):
                        break
        await self._put(await self._writer.cursor_line(self._log.position))

    async def follow(self, turns: asyncio.Semaphore) -> None:
        """Send what comes behind the subscription's position, without end.

        Raises CutOff, StoreUnavailable.
        """
        await self._put(await self._writer.mark(self._log.position, _RECONNECT_MILLISECONDS))
        while True:
            async with aclosing(self._log.past()) as steps:
                async for step in steps:
                    await self._send(step)
            if self._hub.reaches(self._log):
                break
            for step in await self._turn(turns):
                await self._send(step)
        await self._listen()

    async def _turn(self, turns: asyncio.Semaphore) -> list[Step]:
        """Read some of what an own stream brings, up to where the hub reaches back to.

        What has been read is returned also if the database falls silent: it has been passed.
        """
        read: list[Step] = []
        try:
            async with turns, aclosing(self._log.stream()) as steps:
                async for step in steps:
                    read.append(step)
                    if self._hub.reaches(self._log) or len(read) == _TURN_EVENTS:
                        break
        except HistoryLost as error:
            self._log.lose_place(error)
        except StoreUnavailable:
            await asyncio.sleep(self._limits.retry_seconds)
        await asyncio.sleep(_PAUSE_SECONDS)
        return read

    async def _listen(self) -> None:
        """Send what the hub brings. Raises CutOff."""
        position, seen = self._log.position, self._log.seen
        place = self._hub.place(position.token)
        while True:
            entries, behind = await self._hub.behind(place, self._limits.silence_seconds)
            place += len(entries)
            for entry in entries:
                if not seen.includes(entry.ticket_id, entry.version):
                    for event in await self._missing(entry.ticket_id, entry.version):
                        await self._send(Step(position, event))
                    seen.add(entry.ticket_id, entry.version)
                    if self._client.wants(entry.type):
                        await self._put(entry.written)
                position = entry.position
            position = behind
            if self._clock() - self._sent_at > self._limits.silence_seconds:
                await self._put(await self._writer.mark(position))  # no cursor is to grow old
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _missing(self, ticket_id: UUID, version: int) -> Sequence[EventDocument]:
        """Read what the hub has not brought before an event, however long it takes."""
        while True:
            try:
                return await self._log.missing(ticket_id, version)
            except StoreUnavailable:
                await asyncio.sleep(self._limits.retry_seconds)

    async def _send(self, step: Step) -> None:
        if step.event is None:
            return
        if self._client.wants(step.event.get("type")):
            await self._put(await self._writer.block(step.event, step.position))
            return
        self._silent_events += 1
        if self._silent_events == _MARK_EVENTS:  # a client that wants little is to get on as well
            await self._put(await self._writer.mark(step.position))

    async def _put(self, piece: bytes) -> None:
        await self._client.buffer.put(piece)
        self._sent_at = self._clock()
        self._silent_events = 0
