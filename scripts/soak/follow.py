"""A consumer of the log that comes and goes under writers (L8)."""

import asyncio
import random
from collections import Counter
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from uuid import UUID

from eventstore.log import EventStore
from eventstore.subscription import Position, Subscription, beginning
from scripts.console import counting
from scripts.soak.writers import open_tickets, write_notes
from scripts.testbed.judging import streams
from scripts.testbed.patience import patience
from scripts.testbed.promises import READY_SECONDS, connected, require

_TICKETS = 20


@dataclass(slots=True)
class Consumer:
    """A consumer of the log: a position, and what it has counted of each ticket (L8)."""

    store: EventStore
    position: Position | None = None
    versions: dict[UUID, int] = field(default_factory=dict)
    counted: Counter[str] = field(default_factory=Counter)

    async def run(self) -> None:
        """Go on from where it was, until cancelled."""
        self.position = self.position or await beginning(self.store)
        log = Subscription(self.store, self.position)
        async with aclosing(log.steps()) as steps:
            async for self.position, event, _ in steps:
                if event is not None:
                    self.take(event["ticket_id"], event["version"])

    def take(self, ticket_id: UUID, version: int) -> None:
        """Count an event, as the ticket's next, as a double, or as one behind a gap."""
        have = self.versions.get(ticket_id, 0)
        kind = "doubles" if version <= have else "events" if version == have + 1 else "gaps"
        self.counted[kind] += 1
        self.versions[ticket_id] = max(have, version)


async def follow(url: str, commands: int, writers: int = 8) -> Counter[str]:
    """Stop and start a consumer at random while writers write. Raises PromiseBroken."""
    async with connected(url) as database:
        store = EventStore(database)
        tickets = await open_tickets(store, _TICKETS)
        consumer, stops = Consumer(store), 0
        with counting("following", commands, "commands") as count:

            async def written(_: int) -> None:
                count()

            writing = asyncio.create_task(write_notes(store, tickets, commands, writers, written))
            while not writing.done():
                await _run_for(consumer, random.uniform(0.0, 0.3))  # noqa: S311
                stops += 1
                await asyncio.sleep(random.uniform(0.0, 0.1))  # noqa: S311
            await writing
        expected = {t: events[-1].version for t, events in (await streams(store)).items()}
        with suppress(TimeoutError):
            async with asyncio.timeout(patience(READY_SECONDS)):
                while consumer.versions != expected:
                    await _run_for(consumer, 0.5)
    require(not consumer.counted["gaps"], f"the subscription left gaps: {consumer.counted}")
    require(consumer.counted["events"] == sum(expected.values()), "some events came not at all")
    return Counter(commands=commands, stops=stops) + consumer.counted


async def _run_for(consumer: Consumer, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(consumer.run(), seconds)
