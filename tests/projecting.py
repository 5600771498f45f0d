"""What tests of the projection share: logs to project, and projectors that run."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from uuid import UUID, uuid4

from api.commands.handler import Handler, Submission
from domain.codec import EventData
from domain.days import UTC_ONLY
from domain.errors import Refusal
from domain.tickets import encode
from eventstore.event_document import (
    EMPTY,
    CommandRef,
    Head,
    Metadata,
    chained,
    from_document,
    utc_now,
)
from eventstore.log import EventStore
from projections.daemon import project
from projections.generations import Generations
from projections.projector.batch import BatchWriter, OwnedPartitions
from projections.projector.checkpoints import Checkpoints
from projections.projector.health import look
from projections.projector.projector import Projector
from projections.replay.audit import Auditor
from projections.replay.rebuild import Rebuild
from projections.views.saved_views import SavedViews
from projections.workers import workers
from scripts.testbed.patience import patience
from tests.spec import ALICE, NOW, opened

LEASE_SECONDS = patience(0.5)
"""A lease that lapses soon; on a busy machine later, or its owner would lose it at work."""


by_utc = partial(Projector, zones=UTC_ONLY)
"""Makes a projector of views that count days by UTC, as do those of a desk that names no zone."""


def hasty(database, store, **more) -> Projector:
    """Make a projector whose lease lapses soon."""
    return by_utc(database, store, lease_seconds=LEASE_SECONDS, **more)


async def write(store: EventStore, story) -> list[UUID]:
    """Run random commands on some tickets, one of each in turn."""
    handler = Handler(store)
    ids = [uuid4() for _ in story]
    for ticket_id, (opening, _) in zip(ids, story, strict=True):
        await handler.handle(ticket_id, Submission(command=opening, actor=ALICE, occurred_at=NOW))
    for turn in range(max(len(moves) for _, moves in story)):
        for ticket_id, (_, moves) in zip(ids, story, strict=True):
            if turn < len(moves):
                command, actor = moves[turn]
                with suppress(Refusal):
                    await handler.handle(
                        ticket_id, Submission(command=command, actor=actor, occurred_at=NOW)
                    )
    return ids


async def open_some(store: EventStore, n: int, versions: int = 3, **different) -> list[UUID]:
    """Write `n` tickets of some events each."""
    ids = [uuid4() for _ in range(n)]
    for ticket_id in ids:
        about = Metadata(ALICE, CommandRef("k", "f"))
        events = [encode(opened(**different))]
        events += [EventData("NoteAdded", 1, {"body": f"{i}"}) for i in range(1, versions)]
        await store.append(chained(ticket_id, EMPTY, events, about, NOW, utc_now()))
    return ids


async def add(store: EventStore, ticket_id: UUID, type_: str, occurred_at=NOW, **data) -> None:
    """Write one more event, as no command would."""
    # Not the whole stream: who writes on and on would get slower and slower.
    found = await store._events.find({"ticket_id": ticket_id}).sort("version", -1).to_list(1)
    last = from_document(found[0])
    about = Metadata(ALICE, CommandRef(uuid4().hex, "f"))
    event = EventData(type_, 1, data)
    head = Head(last.version, last.hash)
    await store.append(chained(ticket_id, head, [event], about, occurred_at, utc_now()))


async def until(holds: Callable[[], Awaitable[object]], seconds: float | None = None):
    """Wait until something holds, and return it; unless given, for as long as this machine needs.

    Polled: what is waited for is in the database.
    """
    pause = 0.01
    async with asyncio.timeout(patience(60) if seconds is None else seconds):
        while not (found := await holds()):
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.1)  # what takes long is not kept from it by who looks
    return found


async def caught_up(database, store, seconds=None):
    """Wait until as many events are folded, or wait with a parked ticket, as the log holds."""
    generations = Generations(database)

    async def nothing_missing():
        shown = await generations.shown()
        return (await look(shown, store, store.count)).missing_events == 0

    await until(nothing_missing, seconds)


async def all_live(database):
    """Wait until no partition is to be emptied or scanned."""

    async def live():
        shown = await Generations(database).shown()
        return {p.phase for p in (await Checkpoints(shown).read()).partitions} == {"live"}

    await until(live)


async def rebuilt(database, tell=lambda _progress: None, **options):
    """Build all views anew, in this process."""
    async with workers(database, 0) as here:
        return await Rebuild(database, here, tell).everything(**options)


async def audited(database):
    """Audit what is shown: give the differences, and the auditor."""
    async with workers(database, 0) as here:
        auditor = Auditor(database, await Generations(database).active(), here)
        await auditor.compare()
    return auditor.first, auditor


@asynccontextmanager
async def running(*projectors):
    """Run projectors, or keep whatever is shown current if given a database."""
    tasks = [
        asyncio.create_task(p.run() if isinstance(p, Projector) else project(p, EventStore(p)))
        for p in projectors
    ]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def owning_all(database, me="test") -> OwnedPartitions:
    """Take all partitions, from whoever has them."""
    partitions = Checkpoints(database)
    await partitions.beat(me)
    state = await partitions.read()
    await partitions.take(me, state, state.partitions)
    mine = (await partitions.read()).of(me)
    assert len(mine) == 64
    return OwnedPartitions(me, {p.number: p.epoch for p in mine}, await SavedViews(database).all())


def writer(database, store) -> BatchWriter:
    return BatchWriter(database, store, Checkpoints(database), UTC_ONLY)


async def stored_events(store: EventStore):
    return [event async for event in store.scan_stored()]
