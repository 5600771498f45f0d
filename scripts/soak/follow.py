"""A consumer of the log that comes and goes under writers (L8)."""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from api.commands.handler import Handler, Submission, TooContended
from domain.tickets.conversation import AddNote
from eventstore.event_document import Envelope
from eventstore.log import EventStore, ResumeToken
from eventstore.mongo.driver import connect
from scripts.console import progress
from scripts.soak.patience import patience
from scripts.soak.promises import ACTOR, OPEN, READY_SECONDS, require, streams


@dataclass(slots=True)
class Consumer:
    """A consumer of the log as anyone would write it: a token, and a version per ticket (L8)."""

    store: EventStore
    token: ResumeToken | None = None
    versions: dict[UUID, int] = field(default_factory=dict)
    counted: Counter[str] = field(default_factory=Counter)

    async def run(self) -> None:
        """Go on from where it was, until cancelled."""
        if self.token is None:
            token = await self.store.position()
            async for event in self.store.scan():
                await self.take(event)
            self.token = token
        async with self.store.watch(self.token) as feed:
            while True:
                change = await feed.next()
                if change is not None:
                    await self.take(change.envelope)
                self.token = feed.token or self.token

    async def take(self, event: Envelope) -> None:
        """Count an event that is the ticket's next; fill a gap from the log; pass over a double."""
        have = self.versions.get(event.ticket_id, 0)
        if event.version <= have:
            self.counted["doubles"] += 1
        elif event.version == have + 1:
            self.versions[event.ticket_id] = event.version
            self.counted["events"] += 1
        else:
            self.counted["gaps_filled"] += 1
            for missing in await self.store.load(event.ticket_id, after=have):
                await self.take(missing)


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
    # A consumer could fill them, and here does; but the feed promises to make none.
    require(not consumer.counted["gaps_filled"], f"the feed left gaps: {consumer.counted}")
    require(consumer.counted["events"] == sum(expected.values()), "some events came not at all")
    return Counter(commands=commands_, stops=stops) + consumer.counted


async def _run_for(consumer: Consumer, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(consumer.run(), seconds)
