"""Reads beside an endpoint that has the same bytes in memory.

The tickets are those of the dashboard's measurement, in the views of a log without events: so a
single ticket is its read document and a look for what the log has behind it, as always. Each answer
is asked for once, and kept by a service that does nothing but send it again.
"""

import asyncio
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence

from api.settings import Settings
from eventstore.log import EventStore
from eventstore.mongo.driver import Database, connect
from projections.replay.generations import Generations
from projections.views import tickets
from scripts.bench.dashboard import fill, made_up_lives
from scripts.bench.found import Table, ratio, told
from scripts.bench.services import ANSWERS
from scripts.console import progress
from scripts.load import Connection, request
from scripts.soak.promises import HEADERS, free_port, let_in, process, ready

CONNECTIONS = 32
_ASKED = 200  # tickets
_KINDS = {"memory": "the same bytes from memory", "group": "Casebook"}
_LISTS = {
    "a page of 50": "/tickets",
    "a page of 50 of one group": "/tickets?group=group%203",
    "a search, 50 found": "/tickets?q=jams+status:open",
    "a search, nothing found": "/tickets?q=toner",
}


async def reads(url: str, rounds: int, seconds: float, count: int) -> list[Table]:
    """Measure each kind of read at so many tickets, both services in turn."""
    driver = Settings.from_environment().mongo_driver
    database = connect(url, driver)
    await EventStore(database).prepare()
    views = (await Generations(database).prepare()).of(database)
    await fill(views, made_up_lives(), 0, count)
    some = views.collection(tickets.COLLECTION).find({}, {"_id": 1}).limit(count)
    ids = random.sample([str(d["_id"]) async for d in some], min(_ASKED, count))
    asked = {"a ticket": [f"/tickets/{id_}" for id_ in ids]}
    asked |= {name: [path] for name, path in _LISTS.items()}
    ports = {kind: free_port() for kind in _KINDS}
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    p99s: dict[tuple[str, str], list[float]] = defaultdict(list)
    async with process("scripts.bench", "_serve", "group", url, str(ports["group"])):
        await ready(ports["group"])
        await let_in(url)
        await _keep_answers(database, ports["group"], [p for each in asked.values() for p in each])
        async with process("scripts.bench", "_serve", "memory", url, str(ports["memory"])):
            await ready(ports["memory"])
            with progress() as bar:
                total = (rounds + 1) * len(asked) * len(_KINDS)
                task = bar.add_task("reads", total=total, rate="stretches")
                for round_ in range(rounds + 1):
                    for name, paths in asked.items():
                        for kind in random.sample(list(_KINDS), len(_KINDS)):
                            rate, p99 = await _load(ports[kind], paths, seconds)
                            if round_ > 0:  # the first is for warming up
                                rates[name, kind].append(rate)
                                p99s[name, kind].append(p99)
                            bar.advance(task)
    await database.close()
    rows = [
        [
            name,
            *(f"{statistics.median(rates[name, kind]):.0f}" for kind in _KINDS),
            told(ratio(rates[name, "group"], rates[name, "memory"])),
            *(f"{statistics.median(p99s[name, kind]):.1f}" for kind in _KINDS),
        ]
        for name in asked
    ]
    columns = ["", *(f"{kind}, reads/s" for kind in _KINDS.values()), "ratio"]
    columns += [f"{kind}, p99 ms" for kind in _KINDS.values()]
    bars = {f"{name}, {_KINDS[kind]}": found for (name, kind), found in rates.items()}
    return [Table(f"{count:,} tickets, {CONNECTIONS} connections", columns, rows, "reads/s", bars)]


async def _keep_answers(database: Database, port: int, paths: Sequence[str]) -> None:
    """Ask once, and keep what is answered where the other service finds it."""
    kept = database.collection(ANSWERS)
    async with Connection(port, HEADERS) as connection:
        for path in paths:
            answer = await connection.get(path)
            if answer.status != 200:
                raise RuntimeError(f"{answer.status}: {answer.body!r}")
            await kept.insert_one({"_id": path, "body": answer.body})


async def _load(port: int, paths: Sequence[str], seconds: float) -> tuple[float, float]:
    """Keep some connections reading for a while; give reads/s, and the 99th percentile in ms."""
    latencies: list[float] = []
    asks = [request("GET", path, b"", HEADERS) for path in paths]
    began = time.perf_counter()
    end = began + seconds

    async def one() -> None:
        async with Connection(port) as connection:
            while (asked := time.perf_counter()) < end:
                answer = await connection.send(random.choice(asks))  # noqa: S311
                if answer.status != 200:
                    raise RuntimeError(f"{answer.status}: {answer.body!r}")
                latencies.append(time.perf_counter() - asked)

    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    taken = time.perf_counter() - began
    latencies.sort()
    return len(latencies) / taken, 1000 * latencies[int(len(latencies) * 0.99)]
