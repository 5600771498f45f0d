"""From acknowledged to visible, and how much a projector can take.

*Visible*: commands at a steady rate to a server with its projector; from the answer until
`ticket_reads` shows the version, as anyone would see it in a list. *Saturation*: a backlog of
events, folded into views, counters and checkpoints; beside it the same process merely receiving the
same events from the change stream.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import NamedTuple, cast
from uuid import UUID

from eventstore.database import Database
from eventstore.log import EventStore
from eventstore.mongo.resume_tokens import ResumeToken
from projections.generations import Generations
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
from scripts.console import with_progress
from scripts.testbed.judging import caught_up
from scripts.testbed.promises import PromiseBroken, service
from scripts.testbed.services import database_at

RATES = (50, 200)
_WARM_UP_SECONDS = 2.0
_LOOK_SECONDS = 0.005
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
    own = database_at(url, "visible")
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
    folded, received = await fold_backlogs(url, options.rounds)
    bars = {"received from the stream": received, "folded into views": folded}
    taken = [[name, median(rates), ratio(rates, received)] for name, rates in bars.items()]
    columns = ["commands/s", "reached and visible", "p50 ms", "p99 ms", "measured"]
    return [
        Table("From acknowledged to visible", columns, seen, "ms"),
        Table("A backlog", ["", "events/s", "of receiving"], taken, "events/s", bars),
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


async def fold_backlogs(url: str, rounds: int) -> tuple[list[float], list[float]]:
    """Return the rates, round by round, of folding a backlog and of receiving it: events/s."""
    received: list[float] = []
    folded: list[float] = []
    for n in with_progress(range(rounds), "saturation", "rounds"):
        async with prepared(database_at(url, f"backlog_{n}")) as database:
            store = EventStore(database)
            await _fold_all(database, store)
            token = await store.position()
            await write_tickets(database, (0, _TICKETS, True))
            events = await store.count(exact=True)
            ways: list[tuple[list[float], Awaitable[None]]] = [
                (folded, _fold_all(database, store)),
                (received, _receive(store, token, events)),
            ]
            for measured, way in ways[:: -1 if n % 2 else 1]:
                measured.append(1000 * events / await milliseconds(way))
            await database.client.drop_database(database.name)
    return folded, received


async def _fold_all(database: Database, store: EventStore) -> None:
    async with projecting(database, store):
        await caught_up(database)


async def _receive(store: EventStore, token: ResumeToken, events: int) -> None:
    count = 0
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS), store.watch(token) as feed:
            while count < events:
                count += await feed.next() is not None
    except TimeoutError:
        raise PromiseBroken(f"the stream has brought {count} of {events} events") from None
