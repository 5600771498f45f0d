"""From acknowledged to visible, and how much a projector can take.

*Visible*: commands at a steady rate to a server with its projector; from the answer until
`ticket_reads` shows the version, as anyone would see it in a list. *Saturation*: a backlog of
events, folded into views, counters and checkpoints; beside it the same process merely receiving the
same events from the change stream.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import cast
from uuid import UUID, uuid4

import orjson

from api.settings import Settings
from domain.codec import EventData
from eventstore.event_document import EMPTY, CommandRef, Head, Metadata, chained, utc_now
from eventstore.log import EventStore, ResumeToken
from eventstore.mongo.driver import Database, connect
from projections.replay.generations import Generations
from projections.views import tickets
from scripts.bench.found import Table, ratio, told
from scripts.bench.services import ACTOR, NOTE, OPEN
from scripts.catch_up import projecting
from scripts.console import progress
from scripts.load import Connection, request
from scripts.soak.promises import HEADERS, PromiseBroken, free_port, let_in, process, ready
from scripts.soak.views import caught_up

RATES = (50, 200)
_CONNECTIONS = 16
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
    base, _, options = url.partition("?")
    own = f"{base.rstrip('/')}/bench_visible?{options}"
    port = free_port()
    with progress() as bar:
        task = bar.add_task("visible", total=rounds * len(RATES), rate="stretches")
        async with process("scripts.bench", "_serve", "projecting", own, str(port)):
            await ready(port)
            await let_in(own)
            database = connect(own, Settings.from_environment().mongo_driver)
            database = await Generations(database).shown()
            await _until_visible(database, port, RATES[-1], _WARM_UP_SECONDS)
            for _ in range(rounds):
                for rate in RATES:
                    began = time.perf_counter()
                    visible[rate] += await _until_visible(database, port, rate, seconds)
                    reached[rate].append(int(rate * seconds) / (time.perf_counter() - began))
                    bar.advance(task)
            await database.close()
        folded, received = await fold_backlogs(url, rounds)
    seen = []
    for rate, latencies in visible.items():
        latencies.sort()
        p50, p99 = (1000 * latencies[int(len(latencies) * share)] for share in (0.5, 0.99))
        really = f"{statistics.median(reached[rate]):.0f}"
        seen.append([f"{rate}", really, f"{p50:.0f}", f"{p99:.0f}", f"{len(latencies)}"])
    bars = {"received from the stream": received, "folded into views": folded}
    taken = [
        [name, f"{statistics.median(rates):.0f}", told(ratio(rates, received))]
        for name, rates in bars.items()
    ]
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
    """Send commands at a steady rate; give how long after their answers some were visible."""
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

    looking = asyncio.create_task(look())
    opened: list[UUID] = []
    began = time.perf_counter()
    turn = iter(range(int(rate * seconds)))

    async def send() -> None:
        async with Connection(port) as connection:
            for n in turn:
                await asyncio.sleep(max(0.0, began + n / rate - time.perf_counter()))
                path, body = "/tickets", OPEN.model_dump_json().encode()
                if n % 5 and opened:
                    path = f"/tickets/{opened[n % len(opened)]}/add_note"
                    body = orjson.dumps({"body": NOTE})
                answer = await connection.send(request("POST", path, body, HEADERS))
                accepted = answer.json()
                ticket_id = UUID(str(accepted["ticket_id"]))
                if random.random() < _LOOKED_FOR / rate:  # noqa: S311
                    awaited[ticket_id, cast("int", accepted["version"])] = time.perf_counter()
                if path == "/tickets":
                    opened.append(ticket_id)

    await asyncio.gather(*(send() for _ in range(_CONNECTIONS)))
    done.set()
    await looking
    return latencies


async def fold_backlogs(
    url: str, rounds: int, *, receiving: bool = True
) -> tuple[list[float], list[float]]:
    """Give the rates, round by round, of folding a backlog and of receiving it, unless not."""
    received: list[float] = []
    folded: list[float] = []
    base, _, options = url.partition("?")
    with progress() as bar:
        task = bar.add_task("saturation", total=rounds, rate="rounds")
        for n in range(rounds):
            own = f"{base.rstrip('/')}/bench_backlog_{n}?{options}"
            database = connect(own, Settings.from_environment().mongo_driver)
            store = EventStore(database)
            await store.prepare()
            await Generations(database).prepare()
            async with projecting(database, store):
                await caught_up(database, store)
            token = await store.position()
            await _backlog(store)
            for measured in (received, folded) if n % 2 else (folded, received):
                if measured is received and not receiving:
                    continue
                began = time.perf_counter()
                if measured is received:
                    await _receive(store, token)
                else:
                    async with projecting(database, store):
                        await caught_up(database, store)
                        measured.append(_EVENTS / (time.perf_counter() - began))
                        continue
                measured.append(_EVENTS / (time.perf_counter() - began))
            await database.client.drop_database(database.name)
            await database.close()
            bar.advance(task)
    return folded, received


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
