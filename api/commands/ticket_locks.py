"""Locks by ticket: commands for one ticket take turns within a process."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from uuid import UUID

from domain.errors import CasebookError


class TicketBusy(CasebookError):
    """Other commands on the ticket do not come to an end in time. Nothing was written."""

    kind = "unavailable"

    def __init__(self) -> None:
        super().__init__("ticket_busy", "other commands on this ticket take too long; try again")


class TicketLocks:
    """A lock for each ticket, for as long as it is held or waited for. Of one event loop.

    Nearly always it is free: then taking it costs no lock, no timer and no turn of the loop.
    """

    def __init__(self) -> None:
        self._waiting: dict[UUID, deque[asyncio.Future[None]]] = {}  # by ticket that is held

    @asynccontextmanager
    async def hold(
        self, tickets: Collection[UUID], timeout_seconds: float | None
    ) -> AsyncIterator[None]:
        """Hold the locks of some tickets. Raises TicketBusy if they are not all free in time."""
        held: list[UUID] = []
        try:
            if self._waiting.keys().isdisjoint(tickets):
                held.extend(tickets)
                self._waiting.update((each, deque()) for each in tickets)
            else:
                try:
                    async with asyncio.timeout(timeout_seconds):
                        # In one order, or two commands on the same two would wait for each other.
                        for ticket_id in sorted(tickets):
                            await self._take(ticket_id)
                            held.append(ticket_id)
                except TimeoutError:
                    raise TicketBusy from None
            yield
        finally:
            for ticket_id in held:
                self._release(ticket_id)

    async def _take(self, ticket_id: UUID) -> None:
        waiting = self._waiting.get(ticket_id)
        if waiting is None:
            self._waiting[ticket_id] = deque()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was given just then
                self._release(ticket_id)
            raise

    def _release(self, ticket_id: UUID) -> None:
        """Give a ticket to the first that still waits for it."""
        waiting = self._waiting[ticket_id]
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._waiting[ticket_id]
