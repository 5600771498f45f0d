"""What the log's stream has brought and nobody has taken yet.

The stream is read all the time, also while a batch is being written; a batch is whatever has
gathered by then. So nothing waits for a batch to fill up, and batches grow with the load.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from eventstore.event_document import EventDocument, is_event
from eventstore.log import Change, Feed, ResumeToken
from eventstore.mongo.ending import end
from eventstore.mongo.progress import Progress

BATCH_EVENTS = 2000
_MOST_WAITING = 4 * BATCH_EVENTS


class _Quiet(NamedTuple):
    """A moment in which the feed brought nothing; `token` resumes from there."""

    token: ResumeToken | None


class Batch(NamedTuple):
    """Events in the order of the stream; `token` resumes behind them, `drained`: that was all."""

    events: list[EventDocument]
    token: ResumeToken | None
    drained: bool


class Inbox:
    """What a feed has brought and nobody has taken yet."""

    def __init__(self, feed: Feed, progress: Progress) -> None:
        self._feed = feed
        self._progress = progress
        self._queue: asyncio.Queue[Change | _Quiet | Exception] = asyncio.Queue(_MOST_WAITING)
        self._token: ResumeToken | None = None
        self._waiting = 0

    @property
    def is_empty(self) -> bool:
        """Say whether no event waits."""
        return self._waiting == 0

    async def fill(self) -> None:
        """Read the feed until cancelled."""
        try:
            while True:
                with self._progress:
                    change = await self._feed.next()
                # The token is read here and now: a driver may move it on from another thread.
                self._waiting += change is not None
                await self._queue.put(change or _Quiet(self._feed.token))
        except Exception as error:  # noqa: BLE001 whoever takes gets it
            await self._queue.put(error)

    async def take(self, most: int = BATCH_EVENTS) -> Batch:
        """Give what is there, at most so many events, waiting until something is.

        Raises what the feed does.
        """
        events: list[EventDocument] = []
        drained = False
        while len(events) < most and not ((events or drained) and self._queue.empty()):
            got = await self._queue.get()
            if isinstance(got, Exception):
                raise got
            self._token = got.token or self._token
            # A quiet moment with something behind it is over.
            drained = isinstance(got, _Quiet)
            if isinstance(got, Change):
                self._waiting -= 1
                if is_event(got.document):
                    events.append(got.document)
        return Batch(events, self._token, drained)


@asynccontextmanager
async def gathering(feed: Feed, progress: Progress | None = None) -> AsyncIterator[Inbox]:
    """Read a feed while the block runs; what it raises comes out of `take`.

    `progress` is told when the feed is asked, and when it answers.
    """
    inbox = Inbox(feed, progress or Progress("following the log"))
    filling = asyncio.create_task(inbox.fill())
    try:
        yield inbox
    finally:
        await end(filling)
