"""Paging through all tickets while others are opened and tickets change (L7).

Sorted by when they were opened, each ticket that was there throughout comes exactly once, whatever
is opened before, behind or between meanwhile. Sorted by when they last changed, the first to change
last, each comes at least once. Read documents are written here, as by a projector.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import cast
from uuid import UUID, uuid4

from domain.values import JsonObject
from eventstore.database import Database
from projections.generations import Generations
from projections.views import tickets
from scripts.console import counting
from scripts.testbed.load import Connection
from scripts.testbed.promises import HEADERS, accepted, connected, require, service

_BASE = datetime(2026, 1, 1, tzinfo=UTC)
_SAME_TIME = 10  # so many tickets are of one time, so that pages end between them
_INSERTED_AT_ONCE = 1000
_PAGE = 200


async def page_through(url: str, count: int) -> Counter[str]:
    """Page through so many tickets, by each sort; return what was seen. Raises PromiseBroken."""
    counted: Counter[str] = Counter()
    async with service("group", url) as port, connected(url) as database:
        shown = await Generations(database).shown()
        ids = [uuid4() for _ in range(count)]
        documents = [_read(id_, n) for n, id_ in enumerate(ids)]
        reads = shown.collection(tickets.COLLECTION)
        for start in range(0, count, _INSERTED_AT_ONCE):
            await reads.insert_many(documents[start : start + _INSERTED_AT_ONCE])
        stop = asyncio.Event()
        changing = asyncio.create_task(_change(shown, ids, stop, counted))
        try:
            for sort in ("-opened_at", "opened_at", "updated_at"):
                seen = await _paged(port, sort, count, counted)
                missed = set(ids) - seen.keys()
                require(not missed, f"{sort}: {len(missed)} tickets did not come")
                twice = [id_ for id_ in ids if seen[id_] > 1]
                counted[f"twice_by_{sort}"] = len(twice)
                require(sort == "updated_at" or not twice, f"{sort}: {len(twice)} came twice")
        finally:
            stop.set()
            await changing
    return counted


async def _paged(port: int, sort: str, count: int, counted: Counter[str]) -> Counter[UUID]:
    seen: Counter[UUID] = Counter()
    following: object = None
    with counting(f"by {sort}", count, "tickets") as count_tickets:
        async with Connection(port, HEADERS) as connection:
            while True:
                path = f"/tickets?sort={sort}&limit={_PAGE}&status=open"
                path += f"&cursor={following}" if following else ""
                page = accepted(await connection.get(path)).json()
                listed = cast("list[Mapping[str, object]]", page["tickets"])
                seen.update(UUID(str(ticket["id"])) for ticket in listed)
                counted["pages"] += 1
                count_tickets(len(listed))
                following = page["next"]
                if following is None:
                    return seen


async def _change(
    shown: Database, ids: list[UUID], stop: asyncio.Event, counted: Counter[str]
) -> None:
    """Open tickets at both ends and in the middle, and change some that are there."""
    reads = shown.collection(tickets.COLLECTION)
    while not stop.is_set():
        n = counted["changes"] = counted["changes"] + 1
        place = random.choice([-n, len(ids) + n, random.randrange(len(ids))])  # noqa: S311
        await reads.insert_one(_read(uuid4(), place))
        now = _BASE + timedelta(days=1, seconds=n)
        changed = random.choice(ids)  # noqa: S311
        await reads.update_one({"_id": changed}, {"$set": {"updated_at": now}})


def _read(id_: UUID, n: int) -> JsonObject:
    at = _BASE + timedelta(seconds=n // _SAME_TIME)
    return {"_id": id_, "opened_at": at, "updated_at": at, "resolved_at": None, "status": "open"}
