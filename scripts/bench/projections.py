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
from datetime import timedelta
from typing import cast
from uuid import UUID, uuid4

from domain.codec import EventData
from eventstore.database import Database
from eventstore.event_document import EMPTY, CommandRef, Head, Metadata, chained, utc_now
from eventstore.log import EventStore
from eventstore.mongo.resume_tokens import ResumeToken
from projections.generations import Generations
from projections.views import tickets
from scripts.bench.found import Table, ratio, told
from scripts.bench.measuring import median, milliseconds, prepared, send_at_rate, turns
from scripts.catch_up import projecting
from scripts.console import with_progress
from scripts.testbed.judging import caught_up
from scripts.testbed.promises import PromiseBroken, service
from scripts.testbed.services import ACTOR, NOTE, OPEN, database_at

RATES = (50, 200)
_WARM_UP_SECONDS = 2.0
_LOOK_SECONDS = 0.005
_LOOKED_FOR = 40  # commands a second: to look for more would cost more than to project them
_TICKETS = 1000
_EVENTS = 12_000
_PATIENCE_SECONDS = 120.0


async def projections(url: str, rounds: int, seconds: float) -> list[Table]:
    """Measure both."""
    visible: dict[int, list[float]] = {rate: [] for rate in RATES}
    reached: dict[int, list[float]] = {rate: [] for rate in RATES}
    own = database_at(url, "visible")
    async with service("projecting", own) as port, prepared(own) as log:
        database = await Generations(log).shown()
        await _until_visible(database, port, RATES[-1], _WARM_UP_SECONDS)
        for rate, _ in turns(RATES, rounds, "visible", warming_up=False):
            began = time.perf_counter()
            visible[rate] += await _until_visible(database, port, rate, seconds)
            reached[rate].append(int(rate * seconds) / (time.perf_counter() - began))
    folded, received = await fold_backlogs(url, rounds)
    seen = []
    for rate, latencies in visible.items():
        latencies.sort()
        p50, p99 = (1000 * latencies[int(len(latencies) * share)] for share in (0.5, 0.99))
        really = median(reached[rate])
        seen.append([f"{rate}", really, f"{p50:.0f}", f"{p99:.0f}", f"{len(latencies)}"])
    bars = {"received from the stream": received, "folded into views": folded}
    taken = [[name, median(rates), told(ratio(rates, received))] for name, rates in bars.items()]
    return [
        Table(
            "From acknowledged to visible",
            ["commands/s", "reached and visible", "p50 ms", "p99 ms", "measured"],
            seen,
            "ms",
        ),
        Table("A backlog", ["", "events/s", "of receiving"], taken, "events/s", bars),
    ]


async def _until_visible(
    database: Database, port: int, rate: int, seconds: float
) -> Sequence[float]:
    """Send commands at a steady rate; return how long after their answers some were visible."""
    reads = database.collection(tickets.COLLECTION)
    awaited: dict[tuple[UUID, int], float] = {}
    latencies: list[float] = []
    done = asyncio.Event()

    async def look() -> None:
        while awaited or not done.is_set():
            wanted = list({ticket_id for ticket_id, _ in awaited})
            versions = {}
            if wanted:
                found = reads.find({"_id": {"$in": wanted}}, {"version": 1})
                versions = {d["_id"]: cast("int", d["version"]) async for d in found}
            now = time.perf_counter()
            for (ticket_id, version), acknowledged in list(awaited.items()):
                if versions.get(ticket_id, 0) >= version:
                    latencies.append(max(0.0, now - acknowledged))
                    del awaited[ticket_id, version]
            await asyncio.sleep(_LOOK_SECONDS)

    def answered(ticket_id: UUID, version: int) -> None:
        if random.random() < _LOOKED_FOR / rate:  # noqa: S311
            awaited[ticket_id, version] = time.perf_counter()

    looking = asyncio.create_task(look())
    await send_at_rate(port, rate, seconds, answered)
    done.set()
    await looking
    return latencies


async def fold_backlogs(
    url: str, rounds: int, *, receiving: bool = True
) -> tuple[list[float], list[float]]:
    """Return the rates, round by round, of folding a backlog and of receiving it, unless not."""
    received: list[float] = []
    folded: list[float] = []
    for n in with_progress(range(rounds), "saturation", "rounds"):
        async with prepared(database_at(url, f"backlog_{n}")) as database:
            store = EventStore(database)
            await _fold_all(database, store)
            token = await store.position()
            await _backlog(store)
            ways: list[tuple[list[float], Awaitable[None]]] = [(folded, _fold_all(database, store))]
            if receiving:
                ways.append((received, _receive(store, token)))
            for measured, way in ways[:: -1 if n % 2 else 1]:
                measured.append(1000 * _EVENTS / await milliseconds(way))
            await database.client.drop_database(database.name)
    return folded, received


async def _fold_all(database: Database, store: EventStore) -> None:
    async with projecting(database, store):
        await caught_up(database)


async def _receive(store: EventStore, token: ResumeToken) -> None:
    count = 0
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS), store.watch(token) as feed:
            while count < _EVENTS:
                count += await feed.next() is not None
    except TimeoutError:
        raise PromiseBroken(f"the stream has brought {count} of {_EVENTS} events") from None


async def _backlog(store: EventStore) -> None:
    """Write events of many tickets, round by round of them, as a busy desk would."""
    about = Metadata(ACTOR, CommandRef("bench", "f"))
    heads: dict[UUID, Head] = {uuid4(): EMPTY for _ in range(_TICKETS)}
    opening = OPEN.model_dump(mode="json")
    first = EventData("TicketOpened", 1, {n: opening[n] for n in opening if n != "sla"})
    now = utc_now()
    for n in range(_EVENTS // _TICKETS):
        event = EventData("NoteAdded", 1, {"body": NOTE})
        if n % 3 == 1:
            event = EventData("AgentReplied", 1, {"body": NOTE})
        elif n % 3 == 2:
            event = EventData("PriorityChanged", 1, {"priority": ("high", "low")[n % 2]})
        sealed = [
            *(
                chained(t, head, [first if n == 0 else event], about, now + timedelta(n), now)[0]
                for t, head in heads.items()
            )
        ]
        for start in range(0, len(sealed), 500):
            await store.append(sealed[start : start + 500])
        heads = {e.ticket_id: Head(e.version, e.hash) for e in sealed}
