"""Pages of lists over histories of different shapes, over HTTP.

The same tickets were opened evenly over two years, or all of them long ago, or within a minute, or
in bursts with years between, or some of them are dated years ahead. Each history has a database
and a service of its own, and they take turns, request by request. What a page costs should not
depend on the shape: the slowest is told as a ratio to the fastest.
"""

import random
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import get_args
from uuid import UUID

from api.queries.lists.listing import Sort
from domain.values import JsonObject
from eventstore.database import Database
from projections.generations import Generations
from projections.views import tickets
from projections.views.counters import Counters
from projections.views.dashboard import word
from projections.views.tickets import TicketRead
from scripts.bench.dashboard import made_up_lives
from scripts.bench.found import Table, told
from scripts.bench.measuring import prepared, turns
from scripts.testbed.load import Connection
from scripts.testbed.promises import HEADERS, accepted, service
from scripts.testbed.services import database_at

_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_YEAR = timedelta(days=365)
_INSERTED_AT_ONCE = 1000
_ASKED_A_ROUND = 20


def _long_ago(chance: random.Random) -> datetime:
    return datetime(2009, 1, 1, tzinfo=UTC) + _YEAR * chance.random()


def _burst(chance: random.Random) -> datetime:
    """Within a minute, a third at one moment."""
    return _NOW + timedelta(minutes=1) * max(chance.random() - 1 / 3, 0)


def _gaps(chance: random.Random) -> datetime:
    """In bursts of a day; in the first and in the last there is less than a page."""
    [year] = chance.choices((1998, 2006, 2015, 2025), (1, 100, 100, 1))
    return datetime(year, 3, 1, tzinfo=UTC) + timedelta(days=1) * chance.random()


def _ahead(chance: random.Random) -> datetime:
    """Some of them in years to come."""
    return _even(chance) if chance.random() > 0.005 else _NOW + 10 * _YEAR * chance.random()


def _even(chance: random.Random) -> datetime:
    return _NOW - 2 * _YEAR * chance.random()


SHAPES: Mapping[str, Callable[[random.Random], datetime]] = {
    "even": _even,
    "all old": _long_ago,
    "one burst": _burst,
    "gaps of years": _gaps,
    "dates ahead": _ahead,
}
"""When a ticket was opened, in histories of different shapes."""
_LISTS = {f"by {sort}": f"sort={sort}" for sort in get_args(Sort)}
_LISTS |= {"of one group": "group=group%203", "a search, nothing found": "q=toner"}


def history(shape: str, count: int, seed: int = 1) -> Iterator[TicketRead]:
    """Yield tickets as the view holds them, opened as the shape says."""
    chance, lives = random.Random(seed), made_up_lives()  # noqa: S311
    for n in range(count):
        life = lives[n % len(lives)]
        by = SHAPES[shape](chance) - life.opened_at
        by -= timedelta(microseconds=by.microseconds % 1000)
        yield replace(
            life,
            id=UUID(int=chance.getrandbits(128), version=4),
            opened_at=life.opened_at + by,
            updated_at=life.updated_at + by,
            resolved_at=None if life.resolved_at is None else life.resolved_at + by,
        )


async def write_history(shown: Database, tickets_: Iterator[TicketRead]) -> None:
    """Write read documents, and of the counters those that say on which days there were tickets."""
    reads, counters = shown.collection(tickets.COLLECTION), Counters(shown)
    days: Counter[str] = Counter()
    documents: list[JsonObject] = []

    async def write() -> None:
        await reads.insert_many(documents, ordered=False)
        documents.clear()

    for ticket in tickets_:
        documents.append(tickets.to_document(ticket))
        for at, label in ((ticket.opened_at, "created"), (ticket.updated_at, "closed")):
            days[f"{at.date()}|happened|{word(ticket.ticket.group)}|{label}"] += 1
        if len(documents) == _INSERTED_AT_ONCE:
            await write()
    if documents:
        await write()
    await shown.write(counters.writes(days, 0))


async def lists(url: str, rounds: int, count: int) -> list[Table]:
    """Measure first pages, and pages behind them, at so many tickets of each shape."""
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    cold: dict[tuple[str, str], float] = {}
    async with AsyncExitStack() as stack:
        connections: dict[str, Connection] = {}
        for n, shape in enumerate(SHAPES):
            own = database_at(url, f"lists_{n}")
            async with prepared(own) as database:
                await write_history(await Generations(database).shown(), history(shape, count))
            port = await stack.enter_async_context(service("group", own))
            connections[shape] = await stack.enter_async_context(Connection(port, HEADERS))
        for name, query in _LISTS.items():
            nexts = dict.fromkeys(SHAPES, "")
            for shape, is_warm in turns(SHAPES, rounds * _ASKED_A_ROUND, name):
                began = time.perf_counter()
                answer = await connections[shape].get(f"/tickets?{query}{nexts[shape]}")
                took = 1000 * (time.perf_counter() - began)
                if is_warm:
                    times[name, shape].append(took)
                else:
                    cold[name, shape] = took
                following = accepted(answer).json()["next"]
                nexts[shape] = f"&cursor={following}" if following else ""
    about = f"{count:,} tickets, pages of 50 one after the other: median ms by history"
    columns = ["", *SHAPES, "slowest to fastest"]
    rows = [_row(name, [statistics.median(times[name, s]) for s in SHAPES]) for name in _LISTS]
    first = [_row(name, [cold[name, shape] for shape in SHAPES]) for name in _LISTS]
    bars = {f"{name}, {shape}": found for (name, shape), found in times.items()}
    return [
        Table(about, columns, rows, "ms", bars),
        Table("The first page that a process is asked for, ms", columns, first, "ms"),
    ]


def _row(name: str, found: list[float]) -> list[str]:
    return [name, *(f"{each:.1f}" for each in found), told(max(found) / min(found))]
