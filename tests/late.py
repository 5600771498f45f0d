"""A wire to the database that holds what a client says, and brings it to the database later."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from domain.values import JsonObject
from eventstore.database import Database
from eventstore.event_document import TICKET_EVENTS
from eventstore.mongo.driver import DriverName
from projections.generations import FIRST
from scripts.testbed.wire import Fate, Wire, passed, through


def hold_appends(command: JsonObject) -> Fate:
    """Hold what inserts events outside of a transaction."""
    return Fate.PASSED if "autocommit" in command else hold_inserts_into(TICKET_EVENTS)(command)


def hold_inserts_into(collection: str) -> Callable[[JsonObject], Fate]:
    return lambda command: Fate.HELD if command.get("insert") == collection else Fate.PASSED


def hold_commits(command: JsonObject) -> Fate:
    return Fate.HELD if "commitTransaction" in command else Fate.PASSED


@asynccontextmanager
async def late_wire(url: str, driver: DriverName) -> AsyncIterator[tuple[Wire, Database]]:
    """Connect to a database once more, over a wire that can hold what is said."""
    async with through(url) as (through_wire, wire):
        database = Database(through_wire, driver)
        try:
            yield wire, FIRST.of(database)
        finally:
            wire.heard = passed
            if driver == "motor":  # closes in this thread, which is the one that serves the wire
                _ = await asyncio.to_thread(database.client.close)
            else:
                await database.close()


async def happens(holds: Callable[[], object], working: Awaitable[object] | None = None) -> None:
    """Wait until something holds, or what should bring it about has ended."""
    task = None if working is None else asyncio.ensure_future(working)
    async with asyncio.timeout(60):
        while not holds() and not (task is not None and task.done()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
