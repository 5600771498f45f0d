"""Following links from ticket to ticket: past merges, to follow-ups, and to find rings."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from uuid import UUID

from domain.tickets.ticket import Relation, Ticket

_FOLLOWED = 200  # how many tickets are read to find a ring

Reading = Callable[[UUID], Awaitable[Ticket | None]]
"""Reads a ticket as it is; None if there is none."""


async def walk(
    ticket: Ticket, further: Callable[[Ticket], Iterable[UUID]], read: Reading
) -> AsyncGenerator[tuple[UUID, Ticket], None]:
    """Yield all tickets to which steps lead from a ticket, each once, the last step first."""
    ways, seen = [*further(ticket)], set[UUID]()
    while ways:
        if (way := ways.pop()) in seen:
            continue
        seen.add(way)
        if (found := await read(way)) is not None:
            yield way, found
            ways += further(found)


async def leads_to(ticket_id: UUID, start: Ticket, relation: Relation, read: Reading) -> bool:
    """Return whether links of a kind lead from a ticket to another, as far as `_FOLLOWED` go."""
    async with aclosing(walk(start, lambda ticket: ticket.ahead(relation), read)) as ways:
        followed = 0
        async for way, _ in ways:
            followed += 1
            if way == ticket_id or followed == _FOLLOWED:
                return way == ticket_id
    return False
