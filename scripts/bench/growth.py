"""What a command costs on a long stream, warm and cold, and in a long log.

*Warm*: by a handler that has the ticket in memory; *cold*: by one that has not.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from itertools import cycle, repeat
from uuid import UUID

from api.commands.handler import Handler
from eventstore.log import EventStore
from scripts.bench.found import Table, median, ratio
from scripts.bench.made_up_log import COMMAND, EVENTS_PER_TICKET, make_up, ticket_of
from scripts.bench.measuring import Options, in_turns, milliseconds, prepared
from scripts.testbed.wire import database_at

_LENGTHS = (10, 1_000, 9_000)  # a ticket takes 10,000 at most
_EACH_TIME = 10


async def measure(url: str, options: Options) -> list[Table]:
    """Measure a command on streams of different length, and in logs of different size."""
    rounds = options.rounds * _EACH_TIME
    logs = (options.events // 100, options.events // 10)
    return [await _streams(url, rounds), await _logs(url, rounds, logs)]


async def _streams(url: str, rounds: int) -> Table:
    async with prepared(url) as database:
        store = EventStore(database)
        warm = Handler(store)
        tickets = {length: await ticket_of(store, warm, length) for length in _LENGTHS}
        ways = {
            length: partial(_warm_and_cold, store, warm, repeat(ticket))
            for length, ticket in tickets.items()
        }
        found = await in_turns(ways, rounds, "long streams", warming_up=False)
    about = "A command on a long stream: its events in memory, or not"
    return _table(about, "events of the ticket", f"of warm on {_LENGTHS[0]}", found)


async def _logs(url: str, rounds: int, sizes: Sequence[int]) -> Table:
    async with AsyncExitStack() as stack:
        ways = {}
        for size in sizes:
            database = await stack.enter_async_context(
                prepared(database_at(url, f"bench_log_{size}"))
            )
            await make_up(database, size // EVENTS_PER_TICKET)
            store = EventStore(database)
            warm = Handler(store)
            tickets = cycle([await ticket_of(store, warm, 10) for _ in range(_EACH_TIME)])
            ways[size] = partial(_warm_and_cold, store, warm, tickets)
        found = await in_turns(ways, rounds, "long logs", warming_up=False)
    about = "The same command in a longer log"
    return _table(about, "events of the log", "of warm in the shortest", found)


async def _warm_and_cold(
    store: EventStore, warm: Handler, tickets: Iterator[UUID]
) -> tuple[float, float]:
    """Return how long a command takes by a handler that knows the ticket, and by one that does
    not, in milliseconds.
    """
    ticket = next(tickets)
    took = await milliseconds(warm.handle(ticket, COMMAND))
    cold = await milliseconds(Handler(store).handle(ticket, COMMAND))
    await warm.handle(ticket, COMMAND)  # it catches up
    return took, cold


def _table(
    about: str, column: str, of_first: str, found: Mapping[int, Sequence[tuple[float, float]]]
) -> Table:
    first = [took for took, _ in next(iter(found.values()))]
    rows: list[list[str]] = []
    bars: dict[str, list[float]] = {}
    for size, each in found.items():
        warm, cold = ([took[n] for took in each] for n in (0, 1))
        warmth = [median(warm, 2), ratio(warm, first), median(cold, 1), ratio(cold, first)]
        rows.append([f"{size:,}", *warmth])
        bars |= {f"warm, {size:,} events": warm, f"cold, {size:,} events": cold}
    return Table(about, [column, "warm, ms", of_first, "cold, ms", of_first], rows, "ms", bars)
