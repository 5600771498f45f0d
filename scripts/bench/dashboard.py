"""The dashboard beside an aggregation over the same tickets.

The tickets are folded from made-up lives over two years, some hundred different ones, each many
times over. The aggregation groups all of them by what the dashboard of today shows of the backlog;
of past days, series and response times it knows nothing.
"""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from inspect import isawaitable
from itertools import pairwise
from typing import cast
from uuid import UUID, uuid4

from pymongo.asynchronous.command_cursor import AsyncCommandCursor

from domain.codec import EventData
from domain.values import JsonObject
from eventstore.database import Database
from eventstore.event_document import EMPTY, CommandRef, Metadata, chained
from projections.generations import Generations
from projections.views import tickets
from projections.views.counters import Counters
from projections.views.tickets import TicketRead
from scripts.bench.found import Table, ratio, told
from scripts.bench.measuring import median, milliseconds, prepared, turns
from scripts.console import counting
from scripts.testbed.load import Connection
from scripts.testbed.promises import HEADERS, accepted, service
from scripts.testbed.services import ACTOR

_LIVES = 500
_INSERTED_AT_ONCE = 2000
_FIRST_DAY = datetime(2024, 1, 1, 9, tzinfo=UTC)
DAYS = 730
_AGGREGATION = "aggregation, now"
_GROUPS = [f"group {n}" for n in range(12)]
_AGENTS = [f"agent {n}" for n in range(60)]

GROUPED: list[JsonObject] = [
    {"$match": {"status": {"$nin": ["resolved", "closed"]}}},
    {
        "$group": {
            "_id": {
                "status": "$status",
                "priority": "$priority",
                "group": "$group",
                "assignee": "$assignee",
            },
            "n": {"$sum": 1},
        }
    },
]


async def dashboard(url: str, rounds: int, sizes: Sequence[int]) -> list[Table]:
    """Measure at growing numbers of tickets."""
    lives = made_up_lives()
    measured: dict[tuple[int, str], list[float]] = defaultdict(list)
    async with prepared(url) as log, service("group", url) as port:
        database = await Generations(log).shown()

        async def get(path: str) -> None:
            async with Connection(port, HEADERS) as connection:
                accepted(await connection.get(path))

        async def aggregate() -> None:
            # One driver gives the cursor at once, the other as an awaitable.
            found: object = database.collection(tickets.COLLECTION).aggregate(GROUPED)
            cursor = await found if isawaitable(found) else found
            await cast("AsyncCommandCursor[JsonObject]", cursor).to_list()

        what: dict[str, Callable[[], Awaitable[None]]] = {
            "now": lambda: get("/dashboard"),
            "a past day": lambda: get("/dashboard?date=2025-03-17"),
            "a year's backlog by day": lambda: get(
                "/dashboard/series?metric=backlog&from=2025-01-01&to=2025-12-31"
            ),
            _AGGREGATION: aggregate,
        }
        for have, size in pairwise([0, *sizes]):
            await fill(database, lives, have, size)
            for name, _ in turns(what, rounds, f"{size} tickets", warming_up=False):
                measured[size, name].append(await milliseconds(what[name]()))
    rows = [
        [
            f"{size:,}",
            *(median(measured[size, name], 1) for name in what),
            told(ratio(measured[size, _AGGREGATION], measured[size, "now"])),
        ]
        for size in sizes
    ]
    columns = ["tickets", *(f"{name}, ms" for name in what), "now: faster than the aggregation"]
    bars = {f"{name}, {size:,} tickets": found for (size, name), found in measured.items()}
    return [Table("The dashboard, over HTTP, and an aggregation", columns, rows, "ms", bars)]


def made_up_lives(first: datetime = _FIRST_DAY) -> list[TicketRead]:
    """Fold the lives of some tickets, which were opened from a first day on."""
    return [_life(first, random.Random(n)) for n in range(_LIVES)]  # noqa: S311


async def fill(database: Database, lives: Sequence[TicketRead], have: int, want: int) -> None:
    """Write read documents and counters, as a projector would have."""
    reads, counters = database.collection(tickets.COLLECTION), Counters(database)
    with counting("filling", want - have, "tickets") as count:
        for start in range(have, want, _INSERTED_AT_ONCE):
            numbers = range(start, min(start + _INSERTED_AT_ONCE, want))
            documents = [
                tickets.to_document(replace(lives[n % _LIVES], id=uuid4())) for n in numbers
            ]
            await reads.insert_many(documents, ordered=False)
            count(len(documents))
            await asyncio.sleep(0)
    change: Counter[str] = Counter()
    times = Counter(n % _LIVES for n in range(have, want))
    for life, n in times.items():
        change.update({key: n * each for key, each in lives[life].counted.items()})

    await database.write(counters.writes(change, 0))


def _life(first: datetime, chance: random.Random) -> TicketRead:
    """Fold a made-up ticket's life."""
    at = first + timedelta(hours=chance.randrange(24 * DAYS))
    opening: JsonObject = {
        "subject": "Printer jam",
        "body": "It jams on every page. " * 5,
        "requester": f"customer {chance.randrange(5000)}",
        "priority": chance.choice(["low", "normal", "normal", "high", "urgent"]),
        "group": chance.choice(_GROUPS),
        "tags": [],
        "fields": {},
    }
    story: list[tuple[str, JsonObject, float]] = [
        ("TicketOpened", opening, 0),
        ("TicketAssigned", {"assignee": chance.choice(_AGENTS)}, 2),
        ("AgentReplied", {"body": "Please try the other tray."}, chance.uniform(0.1, 30)),
    ]
    if chance.random() < 0.9:
        story.append(("TicketResolved", {"resolution": "toner"}, chance.uniform(1, 400)))
        if chance.random() < 0.1:
            story.append(("TicketReopened", {"reason": "no"}, 20))
        else:
            story.append(("TicketClosed", {"reason": None}, 72))
    read: TicketRead | None = None
    about = Metadata(ACTOR, CommandRef("bench", "f"))
    for version, (type_, data, hours) in enumerate(story, start=1):
        at += timedelta(hours=hours)
        [sealed] = chained(UUID(int=1), EMPTY, [EventData(type_, 1, data)], about, at, at)
        read = tickets.apply(read, sealed._replace(version=version))
    return cast("TicketRead", read)
