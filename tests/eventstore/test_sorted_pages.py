"""The two ways of reading a list, MongoDB's and that for the embedded server, find the same."""

import os
import random
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import product
from typing import Any, get_args
from uuid import UUID

import pytest
import pytest_asyncio
from pymongo.errors import NetworkTimeout

from api.queries.lists.listing import TimeSort, begin, query
from api.queries.lists.routes import ListQuery
from eventstore.database import Database
from eventstore.failures import StoreUnavailable
from eventstore.mongo import sorted_pages
from eventstore.mongo.sorted_pages import Pager, Position
from projections.generations import VIEWS, Generation, Generations
from projections.views import tickets
from projections.views.filter import Filter
from scripts.bench.made_up_views import SHAPES, history, made_up_lives, write_views

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
    {"q": "nowhere"},
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


async def paged(database, listing, remembered=None):
    """Return the ids of all pages, in order."""
    found: list[UUID] = []
    position, remembered = None, remembered or Pager(begin)
    while True:
        page = await remembered.page(database, listing, position, LIMIT)
        found += [document["_id"] for document in page]
        if len(page) < LIMIT:
            return found
        position = Position(page[-1][listing.by], page[-1]["_id"])


@pytest.mark.slow
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
    for (asked, along), sort in product(alongs, get_args(TimeSort)):
        listing = query(ListQuery.model_validate(asked).filter(), sort, along)
        monkeypatch.setattr(Database, "is_embedded", is_mongodb)
        plainly = await paged(many, listing)
        monkeypatch.setattr(Database, "is_embedded", is_embedded)
        assert await paged(many, listing) == plainly, (asked, sort)
        assert await Pager(begin).count(many, listing, 1000) == len(plainly)
        monkeypatch.setattr(Database, "is_embedded", is_mongodb)
        assert await Pager(begin).count(many, listing, 3) == min(3, len(plainly))
        assert len(set(plainly)) == len(plainly)
        counted += len(plainly)
    assert counted > 500


class Counted:
    """A database that says how many questions it was asked, and how many documents it read."""

    def __init__(self, database):
        self._database = database
        self._asked = []

    def __getattr__(self, name):
        return getattr(self._database, name)

    def collection(self, name):
        return CountedCollection(self._database.collection(name), self._asked)

    async def cost(self):
        """Return what it cost since this was asked last: questions, and documents."""
        asked, self._asked[:] = self._asked[:], []
        documents = 0
        for collection, first in asked:
            told = await collection.find(first).explain()
            documents += told["executionStats"]["totalDocsExamined"]
        return len(asked), documents


class CountedCollection:
    def __init__(self, collection, asked):
        self._collection = collection
        self._asked = asked
        self.name = collection.name

    def find(self, condition, *more):
        self._asked.append((self._collection, condition))
        return self._collection.find(condition, *more)

    def aggregate(self, stages):
        """Only the first stage reads: the others get what it gives."""
        self._asked.append((self._collection, stages[0]["$match"]))
        return self._collection.aggregate(stages)


async def costs(counted, listing, limit, pager):
    """Read a list to its end: give the cost of each page, and how many tickets were found."""
    position, found, told = None, 0, []
    while True:
        page = await pager.page(counted, listing, position, limit)
        told.append(await counted.cost())
        found += len(page)
        if len(page) < limit:
            return told, found
        position = Position(page[-1][listing.by], page[-1]["_id"])


COUNT = 800
PAGE = 51
EMBEDDED_ONLY = pytest.mark.skipif(
    "CASEBOOK_TEST_MONGODB_URL" in os.environ, reason="MongoDB reads lists along its indexes"
)


@pytest_asyncio.fixture(params=SHAPES)
async def shaped(quick_database, request):
    """A history of some shape, with few tickets that some filters find."""
    database = quick_database
    await Generations(database).prepare()
    await write_views(database, history(request.param, COUNT))
    reads = database.collection(tickets.COLLECTION)
    some = [d["_id"] for d in await reads.find({}, {"_id": 1}).limit(COUNT).to_list()]
    rare = {"group": "rare", "assignee": "rare", "requester": "rare", "status": "pending"}
    await reads.update_many(
        {"_id": {"$in": random.Random(1).sample(some, RARE)}},  # noqa: S311
        {"$set": {**rare, "has_note": True}, "$push": {"terms": "zebra"}},
    )
    return Counted(database)


RARE = 7


@pytest.mark.slow
@EMBEDDED_ONLY
async def test_a_page_costs_what_a_page_costs_whatever_the_history(shaped):
    """Whatever is cold is read once; then no page asks or reads more than another."""
    filtered: list[dict[str, object]] = [{"group": "group 3"}, {"status": ["closed"]}]
    lists = [*product(get_args(TimeSort), [{}]), *product(["-opened_at", "updated_at"], filtered)]
    for sort, asked in lists:
        listing = query(ListQuery.model_validate(asked).filter(), sort)
        pager = Pager(begin)
        cold, found = await costs(shaped, listing, PAGE, pager)
        if listing.by != "due_at":  # nothing is promised in these
            assert found > (0 if asked else COUNT * 3 // 4)
        assert sum(documents for _, documents in cold) < 8 * COUNT, (sort, asked, cold)
        assert max(questions for questions, _ in cold) <= 40, (sort, asked, cold)
        warm, again = await costs(shaped, listing, PAGE, pager)
        assert again == found
        # In another order than its index has, a filter is looked at in more tickets than a page.
        is_looked_at = bool(asked) and listing.by != "opened_at"
        most = 2 * sorted_pages._MOST_BESIDE_INDEX if is_looked_at else 5 * PAGE
        assert max(documents for _, documents in warm) <= most, (sort, asked, warm)
        assert max(questions for questions, _ in warm) <= 8, (sort, asked, warm)


@pytest.mark.slow
@EMBEDDED_ONLY
async def test_what_is_rare_costs_what_there_is_of_it(shaped):
    """Found along its index, if there is one; else in one look at all tickets."""
    ways = {
        "group": {"group": "rare"},
        "assignee": {"assignee": "rare"},
        "requester": {"requester": "rare"},
        "status": {"status": ["pending"]},
        "terms": {"q": "zebra"},
        "two": {"q": "zebra", "group": "rare"},
        "none": {"q": "has:note"},
        "nothing": {"q": "nowhere"},
    }
    for sort, (way, asked) in product(get_args(TimeSort), ways.items()):
        listing = query(ListQuery.model_validate(asked).filter(), sort)
        pager = Pager(begin)
        await costs(shaped, listing, PAGE, pager)
        [(questions, documents)], found = await costs(shaped, listing, PAGE, pager)
        assert questions <= 4, (sort, way)
        if way not in ("none", "status") or (way == "status" and listing.by == "opened_at"):
            assert documents <= 4 * RARE, (sort, way, documents)
        else:
            assert documents <= 2 * (COUNT + RARE), (sort, way, documents)
        assert found <= RARE


@pytest.mark.slow
@EMBEDDED_ONLY
async def test_what_is_written_meanwhile_is_found_and_costs_more_only_once(database, store):
    """Tickets that are imported where there were none; and new ones at the end."""
    counted, pager = Counted(database), Pager(begin)
    await write_views(database, history("even", 300))
    listing = query(Filter(), "-opened_at")
    await costs(counted, listing, PAGE, pager)
    for shape in ("gaps of years", "one burst", "dates ahead"):
        await write_views(database, history(shape, 600, seed=2 + len(shape)))
        _, found = await costs(counted, listing, PAGE, pager)
        warm, again = await costs(counted, listing, PAGE, pager)
        assert found == again == await database.collection(tickets.COLLECTION).count_documents({})
        assert max(documents for _, documents in warm) <= 8 * PAGE, warm


@EMBEDDED_ONLY
async def test_a_list_that_has_little_is_looked_for_at_once_until_it_has_more(many):
    """What took too long is not tried again; a list of other views has a memory of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorted_pages, "_FIRST_LOOKED_AT", 4)
        patch.setattr(sorted_pages, "_MOST_LOOKED_AT", 40)
        patch.setattr(sorted_pages, "_MOST_BESIDE_INDEX", 40)
        listing = query(ListQuery.model_validate({"q": "zebra"}).filter(), "-updated_at")
        counted, pager = Counted(many), Pager(begin)

        async def asked(database: Any = counted):
            page = await pager.page(database, listing, None, LIMIT)
            return len(page), (await database.cost())[0]

        found, first = await asked()
        assert (found, first > 4) == (0, True)
        assert await asked() == (0, 1)
        assert (await asked(Counted(Generation(dict.fromkeys(VIEWS, 7)).of(many))))[1] > 4

        async def slow(*_):
            raise StoreUnavailable

        with pytest.MonkeyPatch.context() as another:
            another.setattr(sorted_pages._Reads, "matching", slow)
            with pytest.raises(StoreUnavailable):
                await asked()
        await counted.cost()
        assert (await asked())[1] > 2
        assert await asked() == (0, 1)

        reads = many.collection(tickets.COLLECTION)
        await reads.update_many({}, {"$push": {"terms": "zebra"}})
        assert (await asked())[0] == LIMIT  # all that match were looked for once more
        await asked()
        found, last = await asked()
        assert (found, last <= 4) == (LIMIT, True)


@EMBEDDED_ONLY
@pytest.mark.parametrize("sort", ["-opened_at", "opened_at"])
async def test_a_page_is_full_though_tickets_leave_the_list_while_it_is_read(
    many, monkeypatch, sort
):
    """A short page would be taken for the last one."""
    listing = query(ListQuery.model_validate({"status": ["open"]}).filter(), sort)
    reads, pager = many.collection(tickets.COLLECTION), Pager(begin)
    await reads.update_many({}, {"$set": {"status": "open"}})
    every = await paged(many, listing)
    left, read = every[2:6], sorted_pages._Reads.documents

    async def late(*about):
        await reads.update_many({"_id": {"$in": left}}, {"$set": {"status": "closed"}})
        return await read(*about)

    monkeypatch.setattr(sorted_pages._Reads, "documents", late)
    page = await pager.page(many, listing, None, LIMIT)
    assert [document["_id"] for document in page] == [*every[:2], *every[6 : LIMIT + 4]]


@pytest.mark.slow
@EMBEDDED_ONLY
@pytest.mark.parametrize("of_one_moment", [False, True])
@pytest.mark.parametrize("sort", ["-opened_at", "opened_at"])
async def test_a_burst_that_is_too_much_for_one_read_is_read_in_parts(
    many, monkeypatch, sort, of_one_moment
):
    """Each try that fails makes the next one's reads smaller; all is found in the end."""
    reads, listing = many.collection(tickets.COLLECTION), query(Filter(), sort)
    chance = random.Random(5)  # noqa: S311
    burst = made_up_lives()[0]
    times = [timedelta(milliseconds=0 if of_one_moment else n) for n in range(300)]
    lives = [
        replace(burst, id=UUID(int=chance.getrandbits(128)), opened_at=burst.opened_at + by)
        for by in times
    ]
    read, known = sorted_pages._Reads.keys, Pager(begin)
    await known.page(many, listing, None, 200)  # knows of no burst where there will be one
    await reads.insert_many([tickets.to_document(life) for life in lives])
    count, failed = await reads.count_documents({}), 0

    async def limited(*about):
        nonlocal failed
        keys = await read(*about)
        if len(keys) > 50:
            failed += 1
            assert failed < 40
            raise NetworkTimeout("too many")
        return keys

    monkeypatch.setattr(sorted_pages._Reads, "keys", limited)
    monkeypatch.setattr(sorted_pages, "_LONG_SECONDS", 0)
    for pager in (known, Pager(begin)):
        failed = 0
        found = await paged(many, listing, Insistent(pager))
        assert len(found) == len(set(found)) == count
        assert 0 < failed < 40


class Insistent:
    """A pager that is asked again, for as long as a page takes too long."""

    def __init__(self, pager):
        self._pager = pager

    async def page(self, *about):
        while True:
            with suppress(NetworkTimeout):
                return await self._pager.page(*about)
