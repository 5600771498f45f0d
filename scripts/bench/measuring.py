"""What measurements have in common: databases, rounds in which all take turns, and load."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeVar, cast
from uuid import UUID

import orjson

from api.settings import Settings
from eventstore.database import Database
from eventstore.log import EventStore
from projections.generations import Generations
from scripts.cli import counting
from scripts.testbed.harness import HEADERS, accepted, connected
from scripts.testbed.load import Answer, Connection, request
from scripts.testbed.services import NOTE, OPEN

Key = TypeVar("Key")
T = TypeVar("T")
_RATE_CONNECTIONS = 16
_OPENED = 5  # of so many commands at a steady rate one opens a ticket


class Options(NamedTuple):
    """How much is measured: counted rounds, seconds of load at a time, numbers of tickets in
    ascending order, events of the log that is replayed.
    """

    rounds: int
    seconds: float
    sizes: Sequence[int]
    events: int

    @property
    def tickets(self) -> int:
        """How many tickets there are where their number is not what is measured."""
        return self.sizes[:2][-1]


@asynccontextmanager
async def prepared(url: str) -> AsyncIterator[Database]:
    """Connect to a database, by the driver of the settings, and prepare its log and its views."""
    async with connected(url, Settings.from_environment().mongo_driver) as database:
        await EventStore(database).prepare()
        await Generations(database).prepare()
        yield database


async def in_turns(
    ways: Mapping[Key, Callable[[], Awaitable[T]]],
    rounds: int,
    doing: str,
    *,
    warming_up: bool = True,
) -> dict[Key, list[T]]:
    """Run all ways in each round, in an order at random; return what each has given, by round.

    Before the rounds is one that is not counted, for warming up.
    """
    found: dict[Key, list[T]] = {key: [] for key in ways}
    with counting(doing, (rounds + warming_up) * len(ways), "stretches") as count:
        for round_ in range(-1 if warming_up else 0, rounds):
            for key in random.sample([*ways], len(ways)):
                figure = await ways[key]()
                if round_ >= 0:
                    found[key].append(figure)
                count()
    return found


async def milliseconds(done: Awaitable[object]) -> float:
    """Return how long something takes."""
    began = time.perf_counter()
    await done
    return 1000 * (time.perf_counter() - began)


async def answered_in(answer: Awaitable[Answer]) -> float:
    """Return how many milliseconds an answer takes. Raises PromiseBroken if it is a refusal."""
    began = time.perf_counter()
    accepted(await answer)
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
    rate = len(latencies) / (time.perf_counter() - began)
    return Measured(rate, *(1000 * each for each in percentiles(latencies)))


def percentiles(found: Sequence[float]) -> tuple[float, float]:
    """Return p50 and p99."""
    ordered = sorted(found)
    return ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]


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
                content = answer.json()
                ticket_id = UUID(str(content["ticket_id"]))
                answered(ticket_id, cast("int", content["version"]))
                if path == "/tickets":
                    opened.append(ticket_id)

    await asyncio.gather(*(send() for _ in range(_RATE_CONNECTIONS)))
    return total / (time.perf_counter() - began)
