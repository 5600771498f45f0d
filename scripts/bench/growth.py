"""How cost grows: one thing after the other in three sizes, with all else as it is.

Each size has a database of its own, and they take turns, stretch by stretch. *Warm*: by a handler
that has the ticket in memory; *cold*: by one that has not. All else is asked for over HTTP by one
connection, but for what many connections cost.
"""

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import cycle, islice, repeat
from typing import cast
from uuid import UUID

import orjson

from api.commands.handler import Handler
from api.feed.client import LIMITS
from domain.actors import PrincipalRole
from domain.values import JsonObject
from eventstore.log import EventStore
from projections.generations import Generations
from scripts.bench.commands import load_notes
from scripts.bench.found import Table, median, ratio
from scripts.bench.made_up_log import COMMAND, EVENTS_PER_TICKET, make_up, ticket_of
from scripts.bench.made_up_views import GROUPS, copies, made_up_lives, write_views
from scripts.bench.measuring import Options, answered_in, in_turns, milliseconds, prepared
from scripts.testbed.harness import HEADERS, accepted, callers, until
from scripts.testbed.load import Connection, request
from scripts.testbed.services import NOTE, open_tickets, service
from scripts.testbed.wire import database_at

_TICKETS = 10_000  # where their number is not what grows
_COUNTED_SECONDS = 60.0
_EACH_TIME = 10  # stretches of each size in a round

Stretch = Callable[[], Awaitable[Mapping[str, float]]]
"""What is measured once: milliseconds, by what took them."""
At = Callable[[str, int], AbstractAsyncContextManager[Stretch]]
"""Makes a database at a URL that is as large as a size says."""


async def measure(url: str, options: Options) -> list[Table]:
    """Measure each thing that grows."""
    events, tickets = options.events, options.tickets
    grow = partial(_grow, url, options.rounds * _EACH_TIME)
    return [
        await grow("tickets", (tickets // 100, tickets // 10, tickets), _tickets),
        await grow("groups", (10, 100, 1_000), _groups),
        # It grows while it is measured, and may have 10,000 at most.
        await grow("events of the ticket", (10, 500, 5_000), _long_ticket),
        await grow("events of the log", (events // 100, events // 10, events), _log),
        await grow(
            "connections", (1, 16, 128), partial(_connections, options.seconds / _EACH_TIME)
        ),
        await grow("clients of the stream", (1, 10, LIMITS.streams), _streams),
        await grow("saved views", (1, 10, 100), _saved_views),
    ]


async def _grow(url: str, stretches: int, what: str, sizes: Sequence[int], at: At) -> Table:
    """Measure what grows, in sizes of which the first is the least."""
    async with AsyncExitStack() as stack:
        ways: dict[int, Stretch] = {}
        for size in sizes:
            own = database_at(url, f"bench_{what.replace(' ', '_')}_{size}")
            ways[size] = await stack.enter_async_context(at(own, size))
        found = await in_turns(ways, stretches, what)
    least, *larger = sizes
    rows: list[list[str]] = []
    bars: dict[str, list[float]] = {}
    for name in found[least][0]:
        took = {size: [each[name] for each in found[size]] for size in sizes}
        figures = [median(each, 2) for each in took.values()]
        rows.append([name, *figures, *(ratio(took[size], took[least]) for size in larger)])
        bars |= {f"{name}, {size:,} {what}": each for size, each in took.items()}
    heads = [f"{size:,}, ms" for size in sizes]
    heads += [f"{size:,}: of {least:,}" for size in larger]
    return Table(f"More {what}", [what, *heads], rows, "ms", bars)


# --- more of what is shown ------------------------------------------------------------------------


_LISTS = {
    "a ticket": "/tickets/{ticket}",
    "a page of 50": "/tickets",
    "a page of 50 of one group": "/tickets?group=group%203",
    "a search, 50 found": "/tickets?q=jams+status:open",
    "the dashboard": "/dashboard",
}
_SUMS = {
    "the dashboard": "/dashboard",
    "the dashboard of one group": "/dashboard?group=group%203",
    "a year's backlog by day": "/dashboard/series?metric=backlog&from=2025-01-01&to=2025-12-31",
}


def _tickets(url: str, count: int) -> AbstractAsyncContextManager[Stretch]:
    return _shown(url, count, GROUPS, _LISTS)


def _groups(url: str, count: int) -> AbstractAsyncContextManager[Stretch]:
    return _shown(url, _TICKETS, count, _SUMS)


@asynccontextmanager
async def _shown(
    url: str, count: int, groups: int, paths: Mapping[str, str]
) -> AsyncIterator[Stretch]:
    """Serve the views of so many made-up tickets, of which each stretch asks for paths."""
    async with prepared(url) as database, service("group", url) as port:
        shown = await Generations(database).shown()
        reads = [*copies(made_up_lives(groups=groups), count)]
        await write_views(shown, reads)

        async def stretch() -> Mapping[str, float]:
            ticket = random.choice(reads).id  # noqa: S311
            async with _connected(port) as connection:
                return {
                    name: await answered_in(connection.get(path.format(ticket=ticket)))
                    for name, path in paths.items()
                }

        yield stretch


# --- more in the log ------------------------------------------------------------------------------


@asynccontextmanager
async def _long_ticket(url: str, length: int) -> AsyncIterator[Stretch]:
    async with prepared(url) as database:
        store = EventStore(database)
        warm = Handler(store)
        ticket = await ticket_of(store, warm, length)
        yield partial(_warm_and_cold, store, warm, repeat(ticket))


@asynccontextmanager
async def _log(url: str, events: int) -> AsyncIterator[Stretch]:
    async with prepared(url) as database:
        await make_up(database, events // EVENTS_PER_TICKET)
        store = EventStore(database)
        warm = Handler(store)
        tickets = cycle([await ticket_of(store, warm, 10) for _ in range(_EACH_TIME)])
        yield partial(_warm_and_cold, store, warm, tickets)


async def _warm_and_cold(
    store: EventStore, warm: Handler, tickets: Iterator[UUID]
) -> Mapping[str, float]:
    """Measure a command by a handler that knows the ticket, and by one that does not."""
    ticket = next(tickets)
    took = await milliseconds(warm.handle(ticket, COMMAND))
    cold = await milliseconds(Handler(store).handle(ticket, COMMAND))
    await warm.handle(ticket, COMMAND)  # it catches up
    return {"a command, warm": took, "a command, cold": cold}


# --- more who ask, and more who are told ----------------------------------------------------------


@asynccontextmanager
async def _connections(seconds: float, url: str, count: int) -> AsyncIterator[Stretch]:
    async with service("group", url) as port:

        async def stretch() -> Mapping[str, float]:
            found = await load_notes(port, count, seconds)
            return {"a command, of all in a time": 1000 / found.rate, "until answered": found.p50}

        yield stretch


@asynccontextmanager
async def _streams(url: str, count: int) -> AsyncIterator[Stretch]:
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(service("group", url))
        notes = _Notes(*await open_tickets(port, 1))
        keys: list[PrincipalRole] = ["supervisor"] * math.ceil(count / LIMITS.streams_each)
        each = cycle(await callers(url, *keys))
        readers = []
        for headers in islice(each, count):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            writer.write(request("GET", "/events/stream?from=beginning", b"", headers))
            readers.append(reader)

        async def heard() -> None:
            told = b'"version":%d,' % notes.version
            await asyncio.gather(*(reader.readuntil(told) for reader in readers))

        await heard()

        async def stretch() -> Mapping[str, float]:
            async with _connected(port) as connection:
                began = time.perf_counter()
                answered = await notes.add(connection)
                await heard()
                all_heard = 1000 * (time.perf_counter() - began)
            return {"a command": answered, "until all have heard of it": all_heard}

        yield stretch


@asynccontextmanager
async def _saved_views(url: str, count: int) -> AsyncIterator[Stretch]:
    async with service("projecting", url) as port:
        notes = _Notes(*await open_tickets(port, 1))
        async with _connected(port) as connection:
            for n in range(count):
                view = orjson.dumps({"group": f"group {n}", "priority": "high"})
                path = f"/views/bench-{n}"
                accepted(await connection.send(request("PUT", path, view, HEADERS)))

            async def are_counted() -> bool:
                views = accepted(await connection.get("/views")).json()["views"]
                return all(view["count"] is not None for view in cast("list[JsonObject]", views))

            await until(are_counted, _COUNTED_SECONDS, "all saved views are counted")

        async def stretch() -> Mapping[str, float]:
            async with _connected(port) as connection:
                return {
                    "a command": await notes.add(connection),
                    "a command, until lists show it": await notes.add(
                        connection, {"Prefer": "wait=10"}
                    ),
                    "all saved views": await answered_in(connection.get("/views")),
                }

        yield stretch


class _Notes:
    """A ticket that gets notes. `version`: how many events it has."""

    def __init__(self, ticket: str) -> None:
        self._path = f"/tickets/{ticket}/add_note"
        self.version = 1

    async def add(self, by: Connection, headers: Mapping[str, str] | None = None) -> float:
        """Add a note; return how many milliseconds its answer took."""
        self.version += 1
        return await answered_in(by.post(self._path, {"body": NOTE}, headers))


@asynccontextmanager
async def _connected(port: int) -> AsyncIterator[Connection]:
    """Connect anew: a server ends a connection that was silent while others had their turn."""
    async with Connection(port, HEADERS) as connection:
        accepted(await connection.get("/healthz"))
        yield connection
