"""Locks by ticket: commands for one ticket take turns within a process."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from uuid import UUID
from weakref import WeakValueDictionary

from domain.errors import CasebookError


class TicketBusy(CasebookError):
    """Other commands on the ticket do not come to an end in time. Nothing was written."""

    kind = "unavailable"

    def __init__(self) -> None:
        super().__init__("ticket_busy", "other commands on this ticket take too long; try again")


class TicketLocks:
    """A lock for each ticket, for as long as it is held or waited for. Of one event loop."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def hold(
        self, tickets: Collection[UUID], timeout_seconds: float | None
    ) -> AsyncIterator[None]:
        """Hold the locks of some tickets. Raises TicketBusy if they are not all free in time."""
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(timeout_seconds):
                    # In one order, or two commands on the same two would wait for each other.
                    for ticket_id in sorted(tickets):
                        lock = self._locks.setdefault(ticket_id, asyncio.Lock())
                        await held.enter_async_context(lock)
            except TimeoutError:
                raise TicketBusy from None
            yield
