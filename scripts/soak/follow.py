"""A consumer of the log that comes and goes under writers (L8)."""

import random
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field

from eventstore.background import run_all
from eventstore.log import EventStore
from eventstore.subscription import Position, Subscription, beginning
from scripts.console import with_progress
from scripts.soak.consumers import Received, cut_off, open_tickets, write_notes
from scripts.testbed.promises import connected

_TICKETS = 20
_COMMANDS_A_ROUND = 200


@dataclass(slots=True)
class Consumer:
    """A consumer of the log: a position, and what it has received."""

    store: EventStore
    position: Position | None = None
    received: Received = field(default_factory=Received)

    async def run(self) -> None:
        """Go on from where it was, until cancelled."""
        self.position = self.position or await beginning(self.store)
        log = Subscription(self.store, self.position)
        async with aclosing(log.steps()) as steps:
            async for self.position, event, _ in steps:
                if event is not None:
                    self.received.take(event["ticket_id"], event["version"])


async def follow(url: str, commands: int, writers: int = 8) -> Counter[str]:
    """Stop and start a consumer at random while writers write. Raises PromiseBroken."""
    rounds = commands // _COMMANDS_A_ROUND
    async with connected(url) as database:
        store = EventStore(database)
        tickets = await open_tickets(store, _TICKETS)
        consumer = Consumer(store)
        for _ in with_progress(range(rounds), "following", "rounds"):
            await run_all(
                write_notes(store, tickets, _COMMANDS_A_ROUND, writers),
                cut_off(consumer.run(), random.uniform(0.0, 0.3)),
            )
        await consumer.received.complete(store, consumer.run)
    return Counter(stops=rounds) + consumer.received.counted
