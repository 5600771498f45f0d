"""A consumer of the log that comes and goes under writers (L8)."""

import asyncio
import random
from collections import Counter
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from api.commands.handler import Handler, Submission, TooContended
from domain.tickets.conversation import AddNote
from eventstore.log import EventStore
from eventstore.mongo.driver import connect
from eventstore.subscription import Position, Subscription, beginning
from scripts.console import progress
from scripts.soak.patience import patience
from scripts.soak.promises import ACTOR, OPEN, READY_SECONDS, require, streams


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


async def follow(url: str, commands_: int, writers: int = 8) -> Counter[str]:
    """Stop and start a consumer at random while writers write. Raises PromiseBroken."""
    database = connect(url)
    store = EventStore(database)
    await store.prepare()
    tickets = [uuid4() for _ in range(20)]
    handler = Handler(store)
    for ticket in tickets:
        await handler.handle(ticket, Submission(command=OPEN, actor=ACTOR))
    remaining = iter(range(commands_))
    consumer, stops = Consumer(store), 0
    with progress() as bar:
        task = bar.add_task("following", total=commands_, rate="commands")

        async def write() -> None:
            own = Handler(store)
            for n in remaining:
                note = Submission(command=AddNote(body=f"{n}"), actor=ACTOR)
                with suppress(TooContended):
                    await own.handle(random.choice(tickets), note)  # noqa: S311
                bar.advance(task)

        writing = asyncio.gather(*(write() for _ in range(writers)))
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
    await database.close()
    require(not consumer.counted["gaps"], f"the subscription left gaps: {consumer.counted}")
    require(consumer.counted["events"] == sum(expected.values()), "some events came not at all")
    return Counter(commands=commands_, stops=stops) + consumer.counted


async def _run_for(consumer: Consumer, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(consumer.run(), seconds)
