"""Paging through all tickets while others are opened and tickets change (L7).

Sorted by when they were opened, each ticket that was there throughout comes exactly once, whatever
is opened before, behind or between meanwhile. Sorted by when they last changed, the first to change
last, each comes at least once. Read documents are written here, as by a projector.
"""

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from domain.values import JsonObject
from eventstore.background import background
from eventstore.mongo.driver import Collection
from projections.generations import Generations
from projections.views import tickets
from scripts.cli import counting
from scripts.testbed.harness import HEADERS, accepted, connected, require
from scripts.testbed.load import Connection, Page
from scripts.testbed.services import service

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
        async with background(_change(reads, ids, counted)):
            for sort in ("-opened_at", "opened_at", "updated_at"):
                seen = await _paged(port, sort, count, counted)
                missed = set(ids) - seen.keys()
                require(not missed, f"{sort}: {len(missed)} tickets did not come")
                twice = [id_ for id_ in ids if seen[id_] > 1]
                counted[f"twice_by_{sort}"] = len(twice)
                require(sort == "updated_at" or not twice, f"{sort}: {len(twice)} came twice")
    return counted


async def _paged(port: int, sort: str, count: int, counted: Counter[str]) -> Counter[UUID]:
    seen: Counter[UUID] = Counter()
    following: str | None = ""
    with counting(f"by {sort}", count, "tickets") as count_tickets:
        async with Connection(port, HEADERS) as connection:
            while following is not None:
                path = f"/tickets?sort={sort}&limit={_PAGE}&status=open{following}"
                answer = accepted(await connection.get(path))
                page = Page.model_validate_json(answer.body)
                seen.update(ticket.id for ticket in page.tickets)
                counted["pages"] += 1
                count_tickets(len(page.tickets))
                following = page.next and f"&cursor={page.next}"
    return seen


async def _change(reads: Collection, ids: list[UUID], counted: Counter[str]) -> None:
    """Open tickets at both ends and in the middle, and change some that are there."""
    while True:
        n = counted["changes"] = counted["changes"] + 1
        place = random.choice([-n, len(ids) + n, random.randrange(len(ids))])
        await reads.insert_one(_read(uuid4(), place))
        now = _BASE + timedelta(days=1, seconds=n)
        await reads.update_one({"_id": random.choice(ids)}, {"$set": {"updated_at": now}})


def _read(id_: UUID, n: int) -> JsonObject:
    at = _BASE + timedelta(seconds=n // _SAME_TIME)
    return {"_id": id_, "opened_at": at, "updated_at": at, "resolved_at": None, "status": "open"}
