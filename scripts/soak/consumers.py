"""Consumers that are cut off while writers write, and what each has received in the end (L8).

`follow`: a consumer of the log itself, that comes and goes.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import httpx

from api.commands.handler import Handler, Submission, TooContended
from domain.tickets.conversation import AddNote
from eventstore.background import run_all
from eventstore.log import EventStore
from eventstore.subscription import Position, Subscription, beginning
from scripts.cli import with_progress
from scripts.testbed.harness import ACTOR, OPEN, READY_SECONDS, log_at, require, until
from scripts.testbed.judging import streams

_TICKETS = 20
_COMMANDS_A_ROUND = 200

Consuming = Coroutine[None, None, None]


@dataclass(slots=True)
class Received:
    """What a consumer has been told: the last version of each ticket, and how many events."""

    versions: dict[UUID, int] = field(default_factory=dict)
    counted: Counter[str] = field(default_factory=Counter)

    def take(self, ticket_id: UUID, version: int) -> None:
        """Count an event that is the ticket's next, or a double. Raises PromiseBroken for a gap."""
        have = self.versions.get(ticket_id, 0)
        require(version <= have + 1, f"{ticket_id}: version {version} was told after {have}")
        self.counted["doubles" if version <= have else "events"] += 1
        self.versions[ticket_id] = max(have, version)

    async def is_all_of(self, store: EventStore) -> bool:
        return self.versions == {ticket: len(s) for ticket, s in (await streams(store)).items()}

    async def complete(self, store: EventStore, consume: Callable[[], Consuming]) -> None:
        """Let a consumer go on until it has received the whole log. Raises PromiseBroken."""

        async def has_all() -> bool:
            await cut_off(consume(), 1.0)
            return await self.is_all_of(store)

        await until(has_all, READY_SECONDS, "the consumer has received all events")


async def cut_off(consuming: Consuming, seconds: float) -> None:
    """Let a consumer run for so long, or until the server goes."""
    with suppress(TimeoutError, OSError, httpx.TransportError):
        async with asyncio.timeout(seconds):
            await consuming


async def open_tickets(store: EventStore, count: int) -> list[UUID]:
    """Open so many tickets, without a server, and return their ids."""
    tickets = [uuid4() for _ in range(count)]
    for ticket in tickets:
        await Handler(store).handle(ticket, Submission(command=OPEN, actor=ACTOR))
    return tickets


async def write_notes(
    store: EventStore, tickets: Sequence[UUID], count: int, writers: int, longest: int = 1
) -> None:
    """Add so many notes to tickets at random, by writers that race for them, without a server.

    `longest`: how many characters a note has at most.
    """
    numbers = iter(range(count))

    async def write() -> None:
        handler = Handler(store)
        for _ in numbers:
            body = random.choice("abc") * random.randint(1, longest)
            note = Submission(command=AddNote(body=body), actor=ACTOR)
            while True:
                with suppress(TooContended):
                    await handler.handle(random.choice(tickets), note)
                    break

    await run_all(*(write() for _ in range(writers)))


async def follow(url: str, commands: int, writers: int = 8) -> Counter[str]:
    """Stop and start a consumer at random while writers write. Raises PromiseBroken."""
    received, rounds = Received(), commands // _COMMANDS_A_ROUND
    position: Position | None = None
    async with log_at(url) as (_, store):

        async def consume() -> None:
            nonlocal position
            log = Subscription(store, position or await beginning(store))
            async with aclosing(log.steps()) as steps:
                async for position, event, _late in steps:  # noqa: B007 where it goes on next time
                    if event is not None:
                        received.take(event["ticket_id"], event["version"])

        tickets = await open_tickets(store, _TICKETS)
        for _round in with_progress(range(rounds), "following", "rounds"):
            await run_all(
                write_notes(store, tickets, _COMMANDS_A_ROUND, writers),
                cut_off(consume(), random.uniform(0.0, 0.3)),
            )
        await received.complete(store, consume)
    return Counter(stops=rounds) + received.counted
