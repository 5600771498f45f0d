"""Reading a ticket from the log, however long it is, so that others have their turn meanwhile.

The log is asked for some events at a time, and each time may take as long as a client is kept
waiting for a database that does not answer. All of it may take longer, but not for ever: then it is
the request's time that is up, and not the database's.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NamedTuple
from uuid import UUID

from eventstore.event_document import EventDocument
from eventstore.failures import OutOfTime
from eventstore.log import EventStore
from eventstore.mongo.errors import time_limit

LONGEST_SECONDS = 60.0
_SLICE_EVENTS = 25
"""So many are handed over, then other tasks run: the caller does some work with each."""


class Read(NamedTuple):
    """An event of a ticket: as it is stored, and opened."""

    stored: EventDocument
    event: EventDocument


async def read_events(
    store: EventStore,
    ticket_id: UUID,
    *,
    after: int = 0,
    upto: int | None = None,
    longest_seconds: float = LONGEST_SECONDS,
    command: bool = True,
) -> AsyncGenerator[Read, None]:
    """Return a ticket's events in order: those behind version `after`, up to `upto` if given.

    `command`: as `EventStore.open` has it. Raises what `read_slices` raises.
    """
    slices = read_slices(
        store,
        ticket_id,
        after=after,
        upto=upto,
        longest_seconds=longest_seconds,
        command=command,
    )
    async with aclosing(slices):
        async for some in slices:
            for each in some:
                yield each


async def read_slices(
    store: EventStore,
    ticket_id: UUID,
    *,
    after: int = 0,
    upto: int | None = None,
    longest_seconds: float = LONGEST_SECONDS,
    command: bool = True,
) -> AsyncGenerator[list[Read], None]:
    """Yield a ticket's events as `read_events` does, some at a time: a fold costs less so.

    Raises StoreUnavailable, KeyUnusable, NoMasterKey; OutOfTime after `longest_seconds`, counting
    what is done with the events.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + longest_seconds
    async with aclosing(store.parts(ticket_id, after=after, upto=upto)) as parts:
        while True:
            async with time_limit():
                part = await anext(parts, None)
            if part is None:
                return
            for start in range(0, len(part), _SLICE_EVENTS):
                some = part[start : start + _SLICE_EVENTS]
                async with time_limit():
                    opened = await store.open(some, command=command)
                yield list(map(Read, some, opened))
                if clock() > until:
                    raise OutOfTime
                await asyncio.sleep(0)
