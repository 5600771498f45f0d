"""The two ways of reading a list, MongoDB's and that for the embedded server, find the same."""

import random
from dataclasses import replace
from datetime import timedelta
from itertools import product
from typing import get_args
from uuid import UUID

import pytest
import pytest_asyncio

from api import windows
from api.listing import Listing, Position, Sort
from api.lists import ListQuery
from api.windows import Windows
from eventstore.driver import Database
from eventstore.failures import StoreUnavailable
from projections import tickets
from projections.generations import VIEWS, Generation
from scripts.bench.dashboard import made_up_lives

LIMIT = 11
REQUESTER = made_up_lives()[0].ticket.requester
ASKED: list[dict[str, object]] = [
    {},
    {"status": ["open"]},
    {"status": ["open", "closed"], "priority": ["urgent"]},
    {"solved": False},
    {"group": "group 3"},
    {"group": "group 3", "assignee": "agent 7"},
    {"assignee": "agent 7", "solved": True},
    {"assignee": ""},
    {"requester": REQUESTER},
    {"q": "jams"},
    {"q": "printer -status:closed"},
    {"q": "jam*"},
    {"q": "toner"},
    {"q": "priority>=high"},
    {"opened_from": "2024-11-01", "opened_before": "2025-02-01"},
    {"resolved_from": "2025-06-01", "priority": ["low"]},
    {"breached": True},
    {"due_before": "2100-01-01"},
]


@pytest_asyncio.fixture
async def many(database, store):
    """Tickets of two years, of which some were opened at the same moment."""
    chance = random.Random(33)  # noqa: S311
    lives = made_up_lives()[:60]
    lives += chance.choices(lives, k=30)
    documents = [
        tickets.to_document(replace(life, id=UUID(int=chance.getrandbits(128)))) for life in lives
    ]
    await database.collection(tickets.COLLECTION).insert_many(documents)
    return database


async def paged(database, listing):
    """Give the ids of all pages, in order."""
    found: list[UUID] = []
    position, remembered = None, Windows()
    while True:
        page = await listing.page(database, position, LIMIT, remembered)
        found += [document["_id"] for document in page]
        if len(page) < LIMIT:
            return found
        position = Position("", page[-1][listing.by], page[-1]["_id"])


async def test_both_ways_find_the_same_in_the_same_order(many, monkeypatch):
    """L7: whatever is asked for, in whatever order, page by page."""

    async def is_mongodb(_):
        return False

    async def is_embedded(_):
        return True

    counted = 0
    alongs = [
        *((asked, None) for asked in ASKED),
        ({"requester": REQUESTER, "q": "jam"}, "requester"),
    ]
    for (asked, along), sort in product(alongs, get_args(Sort)):
        listing = Listing(ListQuery.model_validate(asked).conditions(), sort, along)
        monkeypatch.setattr(Database, "is_embedded", is_mongodb)
        plainly = await paged(many, listing)
        monkeypatch.setattr(Database, "is_embedded", is_embedded)
        assert await paged(many, listing) == plainly, (asked, sort)
        assert len(set(plainly)) == len(plainly)
        counted += len(plainly)
    assert counted > 500


class Asking(Windows):
    """Remembers in how many windows the last page was read."""

    def __init__(self):
        super().__init__()
        self.windows = 0

    async def count(self, database, listing):
        self.windows = 0
        with pytest.MonkeyPatch.context() as patch:
            real = windows._read

            async def counted(*about):
                self.windows += 1
                return await real(*about)

            patch.setattr(windows, "_read", counted)
            page = await self.page(database, listing._asked, None, LIMIT)
        return len(page), self.windows


async def test_a_list_that_has_little_is_read_in_one_window_until_it_has_more(many):
    """What took too long is not tried again; a list of other views has a memory of its own."""
    listing = Listing(ListQuery.model_validate({"q": "zebra"}).conditions(), "-opened_at")
    asking = Asking()
    found, first = await asking.count(many, listing)
    assert (found, first > 2) == (0, True)
    assert await asking.count(many, listing) == (0, 1)
    assert (await asking.count(Generation(dict.fromkeys(VIEWS, 7)).of(many), listing))[1] > 2

    async def slow(*_):
        raise StoreUnavailable

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "_read", slow)
        with pytest.raises(StoreUnavailable):
            await asking.page(many, listing._asked, None, LIMIT)
    assert (await asking.count(many, listing))[1] > 2
    assert await asking.count(many, listing) == (0, 1)

    reads = many.collection(tickets.COLLECTION)
    await reads.update_many({}, {"$push": {"terms": "zebra"}})
    assert (await asking.count(many, listing))[0] == LIMIT
    [width] = [w for w in asking._widths.values() if w < timedelta(days=3000)]
    assert width < timedelta(days=1000)
