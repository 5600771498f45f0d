"""Logs whose streams do what streams must not do, and may."""

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from datetime import timedelta

from eventstore.background import background
from eventstore.database import Database
from eventstore.event_document import TICKET_EVENTS, EventDocument
from eventstore.log import EventStore
from eventstore.mongo.resume_tokens import stream_order
from tests.memory import meets


def leaving_out(database: Database, left_out: Callable[[EventDocument], bool]) -> EventStore:
    """Make a log whose stream leaves out, without a word, what `left_out` says."""

    class Leaky(EventStore):
        @asynccontextmanager
        async def watch(self, *args, **options):
            async with super().watch(*args, **options) as whole:

                class Skipping:
                    is_merged = whole.is_merged

                    @property
                    def token(_):  # noqa: N805 self is the store
                        return whole.token

                    async def next(_):  # noqa: N805
                        while (change := await whole.next()) and left_out(change.document):
                            pass
                        return change

                yield Skipping()

    return Leaky(database)


@asynccontextmanager
async def sharded(database, seconds):
    """Have a database's change streams be as those of a sharded cluster, for all that is made of it
    inside the block: one of the shards has nothing to write but a no-op every so many seconds.
    """
    cluster = Cluster(database.clock.now, seconds)
    own = database.watch

    async def is_router():
        return True

    async def follow():
        collection = database.collection(TICKET_EVENTS)
        async with own(collection, [], resume_after=None, wait_milliseconds=10) as stream:
            while True:
                asked = database.clock.now()
                if (change := await stream.try_next()) is None:
                    cluster.read_until = asked
                else:
                    cluster.add(change)

    async with background(follow()):
        # Also for all that `renaming` makes of it.
        database.__dict__.update(watch=cluster.watch, is_router=is_router)
        try:
            yield cluster
        finally:
            del database.watch, database.is_router


class Cluster:
    """All changes in their order, each with a time of the cluster; and how far its shards are."""

    def __init__(self, now, seconds):
        self.changes = []
        self.times = []
        self.opened = 0
        self.began = self.read_until = self.promised = now()
        self._now = now
        self._seconds = timedelta(seconds=seconds)

    def add(self, change):
        """Date a change when it was recorded, and behind all that has been promised."""
        behind = max(self.times[-1] if self.times else self.began, self.promised)
        recorded = change["fullDocument"]["recorded_at"]
        self.times.append(max(recorded, behind + timedelta(milliseconds=1)))
        self.changes.append(change)

    def promise(self):
        """Return up to when the shards have said that all has been given."""
        no_ops = (self.read_until - self.began) // self._seconds
        self.promised = max(self.promised, self.began + no_ops * self._seconds)
        return self.began + no_ops * self._seconds

    @asynccontextmanager
    async def watch(self, _collection, pipeline, *, resume_after, wait_milliseconds):
        self.opened += 1
        if resume_after is None:
            now = self._now()
            while self.read_until < now:  # noqa: ASYNC110 it is another task that reads
                await asyncio.sleep(0.01)
            self.promised = max(self.promised, now)
            resume_after = token_at(now, len(self.changes), "01")
        yield HeldBack(self, pipeline[0]["$match"], resume_after, wait_milliseconds / 1000)


def token_at(time, number, kind):
    """Return a token as MongoDB writes it: a timestamp of seconds and a number, and more."""
    return {"_data": f"82{int(time.timestamp()):08X}{number:08X}{kind}"}


class HeldBack:
    """A stream of a sharded cluster: silent, and standing still, until each shard has written."""

    def __init__(self, cluster, condition, resume_after, wait_seconds):
        self._cluster = cluster
        self._condition = condition
        self._wait_seconds = wait_seconds
        self._at = int(resume_after["_data"][10:18], 16)
        self.resume_token = resume_after

    async def try_next(self):
        for is_last_try in (False, True):
            until = self._cluster.promise()
            times = self._cluster.times
            while self._at < len(times) and times[self._at] <= until:
                change = self._cluster.changes[self._at]
                self._at += 1
                if meets(change, self._condition):
                    self.resume_token = token_at(times[self._at - 1], self._at, "00")
                    return {**change, "_id": self.resume_token}
            reached = token_at(until, self._at, "01")
            self.resume_token = max(self.resume_token, reached, key=stream_order)
            if not is_last_try:
                await asyncio.sleep(self._wait_seconds)
        return None
