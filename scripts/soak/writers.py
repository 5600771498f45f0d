"""Writers that add notes to tickets, without a server between them and the log."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from uuid import UUID, uuid4

from api.commands.handler import Handler, Submission, TooContended
from domain.tickets.conversation import AddNote
from eventstore.log import EventStore
from scripts.testbed.promises import ACTOR, OPEN


async def open_tickets(store: EventStore, count: int) -> list[UUID]:
    """Open so many tickets in an empty log, and return their ids."""
    await store.prepare()
    handler, tickets = Handler(store), [uuid4() for _ in range(count)]
    for ticket in tickets:
        await handler.handle(ticket, Submission(command=OPEN, actor=ACTOR))
    return tickets


async def write_notes(
    store: EventStore,
    tickets: Sequence[UUID],
    count: int,
    writers: int,
    before: Callable[[int], Awaitable[None]] | None = None,
    body: Callable[[int], str] = str,
) -> None:
    """Add so many notes to tickets at random, by writers that race for them.

    `before`: awaited before each, by its number; `body`: of the note of a number.
    """
    numbers = iter(range(count))

    async def write() -> None:
        handler = Handler(store)
        for n in numbers:
            if before is not None:
                await before(n)
            note = Submission(command=AddNote(body=body(n)), actor=ACTOR)
            while True:
                with suppress(TooContended):
                    await handler.handle(random.choice(tickets), note)  # noqa: S311
                    break

    async with asyncio.TaskGroup() as group:
        for _ in range(writers):
            group.create_task(write())
