"""Writers of several processes race for the versions of tickets (L2)."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import NamedTuple
from uuid import UUID, uuid4

from api.commands.handler import Handler, Submission, TooContended
from domain.tickets.conversation import AddNote
from eventstore.background import run_all
from eventstore.database import Database
from eventstore.log import EventStore
from projections.workers import workers
from scripts.cli import with_progress
from scripts.testbed.harness import ACTOR, OPEN, log_at, require
from scripts.testbed.judging import streams

_WRITERS, _PROCESSES = 50, 3


class Attempt(NamedTuple):
    """A command in a race, and the version it was told; None if it was refused, or not sent yet."""

    ticket: UUID
    key: str
    version: int | None = None


async def race(url: str, rounds: int) -> Counter[str]:
    """Let writers race for the versions of tickets. Raises PromiseBroken."""
    attempts: list[Attempt] = []
    async with log_at(url) as (database, store), AsyncExitStack() as stack:
        racing = [await stack.enter_async_context(workers(database, 1)) for _ in range(_PROCESSES)]
        for round_ in with_progress(range(rounds), "racing", "rounds"):
            # Even rounds: all on one ticket. Odd rounds: on ten.
            tickets = [uuid4() for _ in range(1 if round_ % 2 == 0 else 10)]
            wanted = [Attempt(tickets[n % len(tickets)], f"{round_}-{n}") for n in range(_WRITERS)]
            await run_all(
                *(
                    each.each(write_at_once, [wanted[n::_PROCESSES]], attempts.extend)
                    for n, each in enumerate(racing)
                )
            )
        found = await streams(store)
    written = Counter(
        Attempt(e.ticket_id, e.metadata.command.id, e.version) for s in found.values() for e in s
    )
    keys = {(attempt.ticket, attempt.key) for attempt in written}
    for attempt in attempts:
        if attempt.version is None:
            require((attempt.ticket, attempt.key) not in keys, f"{attempt}: refused, but written")
        else:
            require(written[attempt] == 1, f"{attempt}: acknowledged, but {written[attempt]} times")
    won = sum(attempt.version is not None for attempt in attempts)
    events = sum(map(len, found.values()))
    require(events == won + len(found), f"{events} events of {won} commands")
    return Counter(
        rounds=rounds, commands=len(attempts), acknowledged=won, refused=len(attempts) - won
    )


async def write_at_once(database: Database, wanted: Sequence[Attempt]) -> list[Attempt]:
    """Send all of these commands at the same time; return what each was told."""
    # A store of its own for each writer: they are to race, not to take turns.
    return await asyncio.gather(*(_write(Handler(EventStore(database)), each) for each in wanted))


async def _write(handler: Handler, wanted: Attempt) -> Attempt:
    opening = Submission(command=OPEN, actor=ACTOR, key="opening")
    note = Submission(command=AddNote(body=wanted.key), actor=ACTOR, key=wanted.key)
    with suppress(TooContended):
        await handler.handle(wanted.ticket, opening)
        written = await handler.handle(wanted.ticket, note)
        return wanted._replace(version=written.version)
    return wanted
