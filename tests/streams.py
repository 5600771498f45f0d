"""Logs whose streams do what streams must not do, and may."""

from collections.abc import Callable
from contextlib import asynccontextmanager

from eventstore.database import Database
from eventstore.event_document import EventDocument
from eventstore.log import EventStore


def leaving_out(database: Database, left_out: Callable[[EventDocument], bool]) -> EventStore:
    """Make a log whose stream leaves out, without a word, what `left_out` says."""

    class Leaky(EventStore):
        @asynccontextmanager
        async def watch(self, *args):
            async with super().watch(*args) as whole:

                class Skipping:
                    @property
                    def token(_):  # noqa: N805 self is the store
                        return whole.token

                    async def next(_):  # noqa: N805
                        change = await whole.next()
                        return None if change and left_out(change.document) else change

                yield Skipping()

    return Leaky(database)
