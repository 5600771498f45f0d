"""Pages of lists over histories of different shapes, over HTTP.

The same tickets were opened evenly over two years, or all of them long ago, or within a minute, or
in bursts with years between, or some of them are dated years ahead. Each history has a database
and a service of its own, and they take turns, request by request. What a page costs should not
depend on the shape: the slowest is compared with the fastest.
"""

import time
from contextlib import AsyncExitStack
from functools import partial
from statistics import median
from typing import get_args

from api.queries.lists.listing import Sort
from projections.generations import Generations
from scripts.bench.found import Table, times
from scripts.bench.made_up_views import SHAPES, history, write_views
from scripts.bench.measuring import Options, in_turns, prepared
from scripts.testbed.harness import HEADERS, accepted
from scripts.testbed.load import Connection
from scripts.testbed.services import service
from scripts.testbed.wire import database_at

_ASKED_A_ROUND = 20
_LISTS = {f"by {sort}": f"sort={sort}" for sort in get_args(Sort)}
_LISTS |= {
    "of one group": "group=group%203",
    "a search": "q=toner",
    "a search, nothing found": "q=nowhere",
}


async def measure(url: str, options: Options) -> list[Table]:
    """Measure first pages, and pages behind them, at so many tickets of each shape."""
    warm: dict[str, dict[str, list[float]]] = {}
    cold: dict[str, dict[str, list[float]]] = {}
    async with AsyncExitStack() as stack:
        connections: dict[str, Connection] = {}
        for n, shape in enumerate(SHAPES):
            own = database_at(url, f"bench_lists_{n}")
            async with prepared(own) as database:
                shown = await Generations(database).shown()
                await write_views(shown, history(shape, options.tickets))
            port = await stack.enter_async_context(service("group", own))
            connections[shape] = await stack.enter_async_context(Connection(port, HEADERS))
        for name, query in _LISTS.items():
            cursors = dict.fromkeys(SHAPES, "")

            async def page(shape: str, query: str, cursors: dict[str, str]) -> float:
                began = time.perf_counter()
                answer = await connections[shape].get(f"/tickets?{query}{cursors[shape]}")
                took = 1000 * (time.perf_counter() - began)
                following = accepted(answer).json()["next"]
                cursors[shape] = f"&cursor={following}" if following else ""
                return took

            ways = {shape: partial(page, shape, query, cursors) for shape in SHAPES}
            asked = 1 + options.rounds * _ASKED_A_ROUND
            found = await in_turns(ways, asked, name, warming_up=False)
            cold[name] = {shape: found[shape][:1] for shape in SHAPES}
            warm[name] = {shape: found[shape][1:] for shape in SHAPES}
    about = f"{options.tickets:,} tickets, pages of 50 one after the other: median ms by history"
    first = "The first page that a process is asked for, ms"
    bars = {f"{name}, {shape}": warm[name][shape] for name in warm for shape in SHAPES}
    return [_table(about, warm, bars), _table(first, cold, {})]


def _table(
    about: str, found: dict[str, dict[str, list[float]]], bars: dict[str, list[float]]
) -> Table:
    medians = {name: [median(each) for each in of.values()] for name, of in found.items()}
    rows = [
        [name, *(f"{each:.1f}" for each in of), times(max(of) / min(of))]
        for name, of in medians.items()
    ]
    return Table(about, ["", *SHAPES, "slowest to fastest"], rows, "ms", bars)
