"""From acknowledged to visible, and how much a projector can take.

*Visible*: commands at a steady rate to a server with its projector; from the answer until
`ticket_reads` shows the version, as anyone would see it in a list. *Saturation*: a backlog of
events, folded into views, counters and checkpoints, compared with the same process merely receiving
the same events from the change stream. Who follows finds the tickets' events mixed, as they were
written; a scan has each ticket's together.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple, cast
from uuid import UUID, uuid4

from eventstore.database import Database
from eventstore.log import EventStore
from eventstore.mongo.resume_tokens import ResumeToken
from projections.generations import Generations, views_database
from projections.projector.checkpoints import Checkpoints
from projections.views import tickets
from scripts.bench.found import Table, median, ratio
from scripts.bench.made_up_log import write_tickets
from scripts.bench.measuring import (
    Options,
    in_turns,
    milliseconds,
    percentiles,
    prepared,
    send_at_rate,
)
from scripts.catch_up import projecting
from scripts.testbed.services import service
from scripts.testbed.wire import database_at

RATES = (50, 200)
_RECEIVED = "received from the stream"
_FOLLOWED, _SCANNED = "followed by a projector that was away", "scanned by one that is new"
_WARM_UP_SECONDS = 2.0
_LOOK_SECONDS = 0.005
_POLL_SECONDS = 0.02
_LOOKED_FOR = 40  # commands a second: to look for more would cost more than to project them
_TICKETS = 2_300  # some 12,000 events
_PATIENCE_SECONDS = 120.0


class Visible(NamedTuple):
    """A stretch of commands: how many were visible per second, and how late some were, in
    milliseconds.
    """

    rate: float
    late: Sequence[float]


async def measure(url: str, options: Options) -> list[Table]:
    """Measure both."""
    own = database_at(url, "bench_visible")
    async with service("projecting", own) as port, prepared(own) as log:
        shown = await Generations(log).shown()
        await _until_visible(shown, port, RATES[-1], _WARM_UP_SECONDS)
        ways = {rate: partial(_until_visible, shown, port, rate, options.seconds) for rate in RATES}
        visible = await in_turns(ways, options.rounds, "visible", warming_up=False)
    seen = []
    for rate, stretches in visible.items():
        late = [each for stretch in stretches for each in stretch.late]
        p50, p99 = percentiles(late)
        reached = median([stretch.rate for stretch in stretches])
        seen.append([f"{rate}", reached, f"{p50:.0f}", f"{p99:.0f}", f"{len(late)}"])
    backlogs = {
        _RECEIVED: partial(receive_backlog, url),
        _FOLLOWED: partial(fold_backlog, url, was_there=True),
        _SCANNED: partial(fold_backlog, url, was_there=False),
    }
    taken = await in_turns(backlogs, options.rounds, "saturation", warming_up=False)
    rows = [[name, median(rates), ratio(rates, taken[_RECEIVED])] for name, rates in taken.items()]
    columns = ["commands/s", "reached and visible", "p50 ms", "p99 ms", "measured"]
    return [
        Table("From acknowledged to visible", columns, seen, "ms"),
        Table("A backlog", ["", "events/s", "of receiving"], rows, "events/s", taken),
    ]


async def _until_visible(shown: Database, port: int, rate: int, seconds: float) -> Visible:
    """Send commands at a steady rate, until all that are looked for are visible."""
    reads = shown.collection(tickets.COLLECTION)
    awaited: dict[tuple[UUID, int], float] = {}
    late: list[float] = []
    began = time.perf_counter()

    async def look() -> None:
        wanted = list({ticket_id for ticket_id, _ in awaited})
        found = reads.find({"_id": {"$in": wanted}}, {"version": 1})
        versions = {d["_id"]: cast("int", d["version"]) async for d in found}
        now = time.perf_counter()
        for (ticket_id, version), acknowledged in list(awaited.items()):
            if versions.get(ticket_id, 0) >= version:
                late.append(1000 * max(0.0, now - acknowledged))
                del awaited[ticket_id, version]

    def answered(ticket_id: UUID, version: int) -> None:
        if random.random() < _LOOKED_FOR / rate:  # noqa: S311
            awaited[ticket_id, version] = time.perf_counter()

    sending = asyncio.create_task(send_at_rate(port, rate, seconds, answered))
    while awaited or not sending.done():
        if awaited:
            await look()
        await asyncio.sleep(_LOOK_SECONDS)
    await sending
    return Visible(int(rate * seconds) / (time.perf_counter() - began), late)


async def fold_backlog(url: str, *, was_there: bool) -> float:
    """Fold a backlog; return events/s. `was_there`: a projector had followed the log before."""
    async with _backlog(url, was_there=was_there) as (database, events, _):
        return 1000 * events / await milliseconds(_fold_all(database, events))


async def receive_backlog(url: str) -> float:
    """Merely receive a backlog from the change stream; return events/s."""
    async with _backlog(url) as (database, events, token):
        return 1000 * events / await milliseconds(_receive(EventStore(database), token, events))


@asynccontextmanager
async def _backlog(
    url: str, *, was_there: bool = False
) -> AsyncIterator[tuple[Database, int, ResumeToken]]:
    """Write events that nothing has folded; yields how many, and the token before them."""
    async with prepared(database_at(url, f"bench_backlog_{uuid4().hex}")) as database:
        if was_there:
            await _fold_all(database)
        store = EventStore(database)
        token = await store.position()
        await write_tickets(database, (0, _TICKETS, True))
        yield database, await store.count(exact=True), token
        for name in (database.name, views_database(database.name)):
            await database.client.drop_database(name)


async def _fold_all(database: Database, events: int = 0) -> None:
    """Project until so many events are folded, and the stream is followed."""
    store = EventStore(database)
    async with asyncio.timeout(_PATIENCE_SECONDS), projecting(database, store):
        checkpoints = Checkpoints(await Generations(database).shown())
        while True:
            partitions = (await checkpoints.read()).partitions
            # The embedded server counts a log one by one: how many they are is known here.
            is_live = all(each.phase == "live" for each in partitions)
            if is_live and sum(each.applied for each in partitions) >= events:
                return
            await asyncio.sleep(_POLL_SECONDS)


async def _receive(store: EventStore, token: ResumeToken, events: int) -> None:
    async with asyncio.timeout(_PATIENCE_SECONDS), store.watch(token) as feed:
        while events:
            events -= await feed.next() is not None
