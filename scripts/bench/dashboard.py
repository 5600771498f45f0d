"""The dashboard, compared with an aggregation over the same tickets.

The tickets are folded from made-up lives over two years, some hundred different ones, each many
times over. The aggregation groups all of them by what the dashboard of today shows of the backlog;
of past days, series and response times it knows nothing.
"""

import time
from functools import partial
from itertools import pairwise

from domain.values import JsonObject
from eventstore.database import Database
from eventstore.mongo.driver import maybe_await
from projections.generations import Generations
from projections.views import tickets
from scripts.bench.found import Table, median, ratio
from scripts.bench.made_up_views import copies, made_up_lives, write_views
from scripts.bench.measuring import Options, answered_in, in_turns, prepared
from scripts.testbed.harness import HEADERS
from scripts.testbed.load import Connection
from scripts.testbed.services import service

_PATHS = {
    "now": "/dashboard",
    "a past day": "/dashboard?date=2025-03-17",
    "a year's backlog by day": ("/dashboard/series?metric=backlog&from=2025-01-01&to=2025-12-31"),
}
_AGGREGATION = "aggregation, now"
_GROUPED: list[JsonObject] = [
    {"$match": {"status": {"$nin": ["resolved", "closed"]}}},
    {
        "$group": {
            "_id": {name: f"${name}" for name in ("status", "priority", "group", "assignee")},
            "n": {"$sum": 1},
        }
    },
]


async def measure(url: str, options: Options) -> list[Table]:
    """Measure at growing numbers of tickets."""
    lives = made_up_lives()
    rows: list[list[str]] = []
    bars: dict[str, list[float]] = {}
    async with prepared(url) as log, service("group", url) as port:
        shown = await Generations(log).shown()
        ways = {name: partial(_get, port, path) for name, path in _PATHS.items()}
        ways[_AGGREGATION] = partial(_aggregate, shown)
        for have, size in pairwise([0, *options.sizes]):
            await write_views(shown, copies(lives, size - have))
            found = await in_turns(ways, options.rounds, f"{size} tickets", warming_up=False)
            medians = [median(each, 1) for each in found.values()]
            rows.append([f"{size:,}", *medians, ratio(found[_AGGREGATION], found["now"])])
            bars |= {f"{name}, {size:,} tickets": each for name, each in found.items()}
    columns = ["tickets", *(f"{name}, ms" for name in ways), "now: faster than the aggregation"]
    return [Table("The dashboard, over HTTP, and an aggregation", columns, rows, "ms", bars)]


async def _get(port: int, path: str) -> float:
    async with Connection(port, HEADERS) as connection:
        return await answered_in(connection.get(path))


async def _aggregate(shown: Database) -> float:
    began = time.perf_counter()
    cursor = await maybe_await(shown.collection(tickets.COLLECTION).aggregate(_GROUPED))
    await cursor.to_list()
    return 1000 * (time.perf_counter() - began)
