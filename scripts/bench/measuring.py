"""What measurements have in common: databases, rounds in which all take turns, and load."""

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeVar, cast
from uuid import UUID

import orjson

from api.settings import Settings
from eventstore.database import Database
from eventstore.log import EventStore
from projections.generations import Generations
from scripts.console import counting
from scripts.testbed.load import Connection, request
from scripts.testbed.promises import HEADERS, accepted, connected
from scripts.testbed.services import NOTE, OPEN

T = TypeVar("T")
_RATE_CONNECTIONS = 16
_OPENED = 5  # of so many commands at a steady rate one opens a ticket


@asynccontextmanager
async def prepared(url: str) -> AsyncIterator[Database]:
    """Connect to a database, by the driver of the settings, and prepare its log and its views."""
    async with connected(url, Settings.from_environment().mongo_driver) as database:
        await EventStore(database).prepare()
        await Generations(database).prepare()
        yield database


def turns(
    kinds: Iterable[T], rounds: int, doing: str, *, warming_up: bool = True
) -> Iterator[tuple[T, bool]]:
    """Yield each kind in each round, in an order at random, and whether the round is counted.

    Not counted is a round before the others, for warming up.
    """
    all_ = list(kinds)
    rounds += warming_up
    with counting(doing, rounds * len(all_), "stretches") as count:
        for round_ in range(rounds):
            for kind in random.sample(all_, len(all_)):
                yield kind, round_ > 0 or not warming_up
                count()


def median(found: Sequence[float], digits: int = 0) -> str:
    """Return the median, as a cell of a table."""
    return f"{statistics.median(found):.{digits}f}"


async def milliseconds(done: Awaitable[object]) -> float:
    """Return how long something takes."""
    began = time.perf_counter()
    await done
    return 1000 * (time.perf_counter() - began)


class Measured(NamedTuple):
    """One stretch of load: requests per second, and latencies in milliseconds."""

    rate: float
    p50: float
    p99: float


async def load(
    port: int, next_request: Callable[[], bytes], connections: int, seconds: float
) -> Measured:
    """Keep some connections busy for a while. Raises PromiseBroken if something is refused."""
    latencies: list[float] = []
    began = time.perf_counter()
    end = began + seconds

    async def one() -> None:
        async with Connection(port) as connection:
            while (asked := time.perf_counter()) < end:
                accepted(await connection.send(next_request()))
                latencies.append(time.perf_counter() - asked)

    await asyncio.gather(*(one() for _ in range(connections)))
    taken = time.perf_counter() - began
    latencies.sort()
    return Measured(
        rate=len(latencies) / taken,
        p50=1000 * latencies[len(latencies) // 2],
        p99=1000 * latencies[int(len(latencies) * 0.99)],
    )


async def send_at_rate(
    port: int, rate: int, seconds: float, answered: Callable[[UUID, int], None]
) -> float:
    """Send commands at a steady rate, every fifth one opening a ticket; return the rate reached.

    `answered`: called with the ticket and the version of each, once it is answered.
    """
    opened: list[UUID] = []
    began = time.perf_counter()
    total = int(rate * seconds)
    turn = iter(range(total))

    async def send() -> None:
        async with Connection(port) as connection:
            for n in turn:
                await asyncio.sleep(max(0.0, began + n / rate - time.perf_counter()))
                path, body = "/tickets", OPEN.model_dump_json().encode()
                if n % _OPENED and opened:
                    path = f"/tickets/{opened[n % len(opened)]}/add_note"
                    body = orjson.dumps({"body": NOTE})
                answer = accepted(await connection.send(request("POST", path, body, HEADERS)))
                told = answer.json()
                ticket_id = UUID(str(told["ticket_id"]))
                answered(ticket_id, cast("int", told["version"]))
                if path == "/tickets":
                    opened.append(ticket_id)

    await asyncio.gather(*(send() for _ in range(_RATE_CONNECTIONS)))
    return total / (time.perf_counter() - began)
