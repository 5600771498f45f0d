"""Pages of a sorted list: so many documents behind a position, in the order of a time and the id.

MongoDB reads them along an index that is named. The embedded server reads all that matches before
it sorts or stops at a limit, reads every document where the question names an index, and takes
one by itself only for a plain filter that the index covers. There a page is read in two steps: the
keys in a stretch of the index, which cost a fraction of the documents and say how many there are,
and then the documents of as many of them as are wanted. How long a stretch must be is known from
what was read before (`key_histogram.py`), so that bursts, gaps and dates ahead cost no more than
any other time.

The index is that over the time, or over a field and the time. What else is asked for is a second
stage, of which MongoDB would make one with the first; it is looked at in more and more documents,
and if too few of them match, all that do are looked for at once.
"""

import asyncio
import hashlib
import math
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import NamedTuple, TypeVar, cast
from uuid import UUID

from cachetools import LRUCache
from pymongo.asynchronous.cursor import AsyncCursor
from pymongo.errors import OperationFailure, PyMongoError

from domain.values import JsonObject
from eventstore.documents import uuid_of
from eventstore.mongo.driver import Collection, MongoDatabase, maybe_await
from eventstore.mongo.key_histogram import (
    BEGIN,
    END,
    ID_BITS,
    LAST_ID,
    Histogram,
    behind,
    number,
    time_and_id,
)

T = TypeVar("T")
_NO_SUCH_INDEX = 2  # BadValue
_GROWTH = 4
_FIRST_WIDTH = 3_600_000 << ID_BITS
"""Of a stretch of which nothing is known: an hour."""
_LONG_SECONDS = 1.0
"""A read that fails after so long may have found too many keys."""
_FIRST_LOOKED_AT = 256
_MOST_LOOKED_AT = 5_376  # three stretches
"""In how many documents to look for those that match, before all that do are looked for."""
_MOST_BESIDE_INDEX = 1_280  # two
"""The same where another index than the one over the time leads to those that match."""
_FEW = 5_000
"""So many documents are looked at along an index sooner than all there are without one."""
_EVERYTHING = math.inf
_MOST_REMEMBERED = 1000


class Position(NamedTuple):
    """Where a document stands in a list."""

    time: datetime
    id: UUID


@dataclass(frozen=True, kw_only=True)
class Query:
    """A list: the time that it is sorted by, backwards if `direction` is -1, and what must hold.

    `index`: what to read along. `narrow`: a condition of equality for its first field, if there is
    one. `low`, `high`: bounds of the time, from the one on and before the other. `others`: all
    other conditions. `is_along`: nothing is to be looked at for which `narrow` does not hold.
    """

    collection: str
    by: str
    direction: int
    index: Sequence[tuple[str, int]]
    narrow: JsonObject
    low: datetime | None
    high: datetime | None
    others: Sequence[JsonObject]
    is_along: bool
    projection: Mapping[str, int]

    @property
    def forward(self) -> bool:
        return self.direction > 0

    @property
    def order(self) -> dict[str, int]:
        return {self.by: self.direction, "_id": self.direction}

    @property
    def joined(self) -> JsonObject:
        """What must hold by the index that is read along, besides the time."""
        return self.narrow if (self.by, -1) in self.index else {}

    @property
    def rest(self) -> list[JsonObject]:
        """What must hold besides the bounds and `joined`."""
        return [each for each in (self.narrow, *self.others) if each and each != self.joined]

    @property
    def most_looked_at(self) -> int:
        if self.narrow == self.joined:
            return _MOST_LOOKED_AT
        return 0 if self.is_along else _MOST_BESIDE_INDEX

    def key(self, position: Position) -> int:
        """Return a key as the histogram has it: the smaller, the sooner it is read."""
        key = number(position.time, position.id.int)
        return key if self.forward else END - key

    def ends(self) -> tuple[int, int]:
        """Return the cuts between which the list is."""
        first = 0 if self.low is None else number(self.low)
        last = END if self.high is None else number(self.high) - 1
        return (first - 1, last) if self.forward else (END - last - 1, END - first)

    def ranges(self, low: int, high: int) -> list[JsonObject]:
        """Return plain ranges of an index over the time and the id, in the order of reading.

        Together they are all behind `low`, up to and with `high`.
        """
        low, high = self._in_order(low, high)
        (begin, begin_id), (end, end_id) = time_and_id(max(low, 0)), time_and_id(high)
        if begin == end:
            return [{self.by: begin, "_id": {"$gt": begin_id, "$lte": end_id}}]
        at_begin, at_end = low >= 0 and begin_id.int != LAST_ID, end_id.int != LAST_ID
        between = {"$gt" if low >= 0 else "$gte": begin, "$lt" if at_end else "$lte": end}
        ranges: list[JsonObject] = [{self.by: between}]
        if at_begin:
            ranges.insert(0, {self.by: begin, "_id": {"$gt": begin_id}})
        if at_end:
            ranges.append({self.by: end, "_id": {"$lte": end_id}})
        return ranges if self.forward else ranges[::-1]

    def times(self, low: int, high: int) -> JsonObject:
        """Return a condition that holds for all of a stretch, and for more at its ends."""
        low, high = self._in_order(low, high)
        return {self.by: {"$gte": time_and_id(max(low, 0))[0], "$lte": time_and_id(high)[0]}}

    def _in_order(self, low: int, high: int) -> tuple[int, int]:
        return (low, high) if self.forward else (END - high - 1, END - low - 1)

    def filter(self, *more: JsonObject) -> JsonObject:
        """Return the database's filter of all conditions."""
        bounds = {"$gte": self.low, "$lt": self.high}
        bounds = {op: time for op, time in bounds.items() if time is not None}
        # One without the time has no place in the order.
        within: JsonObject = {self.by: bounds or {"$ne": None}}
        each = [each for each in (self.narrow, within, *self.others, *more) if each]
        return {"$and": each}


class Pager:
    """Reads pages. Remembers how documents are spread, and among how many of them the last page of
    a list was found: only to read no more than it must.
    """

    def __init__(self, begin: Callable[[MongoDatabase, bool], Awaitable[datetime]]) -> None:
        """`begin`: returns a time near which lists begin, forwards if true, of which nothing is
        known yet. Asked of the documents themselves, it would be found by reading them all.
        """
        self._begin = begin
        self._begins: dict[tuple[str, bool], datetime] = {}
        self._histograms: LRUCache[bytes, Histogram] = LRUCache(_MOST_REMEMBERED)
        self._looked_at: LRUCache[bytes, float] = LRUCache(_MOST_REMEMBERED)

    async def count(self, shown: MongoDatabase, query: Query, most: int) -> int:
        """Return how many documents match, if they are no more than `most`."""
        collection = shown.collection(query.collection)
        count = partial(collection.count_documents, query.filter(), limit=most)
        return await (count() if await shown.is_embedded() else _along(query.index, count))

    async def page(
        self, shown: MongoDatabase, query: Query, position: Position | None, limit: int
    ) -> list[JsonObject]:
        """Return documents behind a position, or from the beginning."""
        reads = _Reads(shown.collection(query.collection), query)
        if not await shown.is_embedded():
            return await reads.along_index(position, limit)
        rest, (low, high) = query.rest, query.ends()
        if position is not None:
            low = max(low, query.key(position))
        name = _name(reads.collection.name, query)
        most = query.most_looked_at if rest else _EVERYTHING
        # Remembered again by a page that is read to its end: one that took too long begins small.
        look_at = self._looked_at.pop(name, _FIRST_LOOKED_AT) if rest else limit
        found: list[JsonObject] = []
        looked_at, needed = 0, 0.0
        while len(found) < limit and low < high:
            if looked_at + look_at > most:
                found = with_new(found, await reads.matching(low, high, limit), limit)
                far = self._histogram(reads).reach(low, int(most))
                if looked_at or len(found) < limit or reads.key(found[-1]) > far:
                    self._looked_at[name] = _EVERYTHING
                return found
            keys, far = await self._keys(shown, reads, low, high, int(look_at))
            n, low_behind = behind(keys, int(look_at), far)
            if n:  # of which some may be of no document any more, or have moved meanwhile
                more = await reads.documents(low, low_behind, limit)
                found = with_new(found, more, limit)
            last = reads.key(found[-1]) if len(found) >= limit else END
            needed = looked_at + min(bisect_right(keys, last), n)
            low, looked_at, look_at = low_behind, looked_at + n, look_at * _GROWTH
        if rest:
            is_short = position is None and len(found) < limit
            enough = _EVERYTHING if is_short else min(needed * 5 / 4 + 1, most)
            self._looked_at[name] = enough
        return found

    async def _keys(
        self, shown: MongoDatabase, reads: "_Reads", low: int, high: int, wanted: int
    ) -> tuple[list[int], int]:
        """Return at least so many keys in the order of reading, if there are, and how far it read.

        What must hold by `joined` does, and perhaps nothing else that is asked for. What took too
        long is read in small parts when it is asked for again. Raises what the driver raises.
        """
        histogram, query = self._histogram(reads), reads.query
        clock = asyncio.get_running_loop().time
        keys: list[int] = []
        width = _FIRST_WIDTH
        while len(keys) < wanted and low < high:
            far = histogram.reach(low, wanted - len(keys))
            if far == low:
                start = low
                if low == BEGIN:
                    which = (reads.collection.name, query.forward)
                    if which not in self._begins:
                        self._begins[which] = await self._begin(shown, query.forward)
                    start = query.key(Position(self._begins[which], UUID(int=0)))
                far = histogram.into_unknown(low, (start + width) | LAST_ID)
                width *= _GROWTH
            far = min(far, high)
            began = clock()
            try:
                some = await reads.keys(low, far)
            except (PyMongoError, asyncio.CancelledError):
                if clock() - began >= _LONG_SECONDS:  # not where nobody waits for it any more
                    histogram.part(low, far)
                raise
            histogram.learn(low, far, some)
            keys += some
            low = far
        return keys, low

    def _histogram(self, reads: "_Reads") -> Histogram:
        name = _name(reads.collection.name, reads.query.order, reads.query.joined)
        return self._histograms.setdefault(name, Histogram())


@dataclass(frozen=True, slots=True)
class _Reads:
    """The questions of one list to its collection."""

    collection: Collection
    query: Query

    async def along_index(self, position: Position | None, limit: int) -> list[JsonObject]:
        """Return documents as MongoDB reads them."""
        by, order = self.query.by, [*self.query.order.items()]
        past = "$gt" if self.query.forward else "$lt"
        ranges: list[JsonObject] = [{}]
        if position is not None:
            # Two plain ranges: one condition with $or would be read from the beginning.
            ranges = [{by: position.time, "_id": {past: position.id}}, {by: {past: position.time}}]
        found: list[JsonObject] = []
        for each in ranges:
            if len(found) < limit:
                some = self.collection.find(self.query.filter(each), self.query.projection)
                some = some.sort(order).limit(limit - len(found))
                found += await listed_along(self.query.index, some)
        return found

    async def keys(self, low: int, high: int) -> list[int]:
        """Return all keys of a stretch, sorted. However few are wanted, the server reads it all."""
        by, keys = self.query.by, list[int]()
        for each in self.query.ranges(low, high):
            found = self.collection.find({**self.query.joined, **each}, {by: 1})
            keys += map(self.key, await found.to_list())
        return sorted(keys)

    async def documents(self, low: int, high: int, limit: int) -> list[JsonObject]:
        """Return the first documents of a stretch that match."""
        query, found = self.query, list[JsonObject]()
        for each in query.ranges(low, high):
            first, left = {**query.joined, **each}, limit - len(found)
            if left > 0 and query.rest:
                found += await self._aggregate(first, query.rest, self._last(left))
            elif left > 0:  # half of what an aggregation takes
                some = self.collection.find(first, query.projection).sort([*query.order.items()])
                found += await some.limit(left).to_list()
        return found

    async def matching(self, low: int, high: int, limit: int) -> list[JsonObject]:
        """Return the first documents of all that match in a stretch: few, or far from its
        beginning.

        Their keys are looked for along the index of `narrow`, or without one: the server reads
        through all documents in a fifth of the time that stages take to look at as many.
        """
        query, keys_only = self.query, {self.query.by: 1}
        within = [*query.others, query.times(low, high)]
        conditions = [each for each in (query.narrow, *within) if each]
        some: list[JsonObject] | None = None
        if query.narrow and not (query.is_along and query.others):
            some = await self.collection.find(query.narrow, keys_only).to_list()
        if query.narrow and query.others and (some is None or len(some) <= _FEW):
            some = await self._aggregate(query.narrow, within, [{"$project": keys_only}])
        elif some is None or query.others:
            some = await self.collection.find({"$and": conditions}, keys_only).to_list()
        timed = (document for document in some if document.get(query.by) is not None)
        ids = {self.key(document): document["_id"] for document in timed}
        keys = sorted(key for key in ids if low < key <= high)
        found: list[JsonObject] = []
        while keys and len(found) < limit:
            here, keys = keys[:limit], keys[limit:]
            by_id: JsonObject = {"_id": {"$in": [ids[key] for key in here]}}
            # Asked again, for they may have changed meanwhile: where they were, and no more.
            more = await self._aggregate(by_id, conditions, self._last(limit))
            found = with_new(found, more, limit)
        return found

    def _last(self, limit: int) -> list[JsonObject]:
        query = self.query
        return [{"$sort": query.order}, {"$limit": limit}, {"$project": dict(query.projection)}]

    async def _aggregate(
        self, first: JsonObject, rest: Sequence[JsonObject], last: Sequence[JsonObject]
    ) -> list[JsonObject]:
        stages: list[JsonObject] = [{"$match": first}, {"$match": {"$and": [*rest]}}, *last]
        cursor = await maybe_await(self.collection.aggregate(stages))
        return await cursor.to_list()

    def key(self, document: JsonObject) -> int:
        """Return where a document stands in the order of reading."""
        time, id_ = cast("datetime", document[self.query.by]), uuid_of(document)
        return self.query.key(Position(time, id_))


async def listed_along(
    index: Sequence[tuple[str, int]], found: AsyncCursor[JsonObject]
) -> list[JsonObject]:
    """Return what a cursor finds along an index, or without it where it has not been made yet."""
    return await _along(index, lambda hint=None: found.clone().hint(hint).to_list())


async def _along(index: Sequence[tuple[str, int]], ask: Callable[..., Awaitable[T]]) -> T:
    """Return what is found along an index, or without it where a former version has not made it."""
    try:
        return await ask(hint=[*index])
    except OperationFailure as error:
        if error.code != _NO_SUCH_INDEX:
            raise
        return await ask()


def with_new(
    found: Sequence[JsonObject], more: Sequence[JsonObject], limit: int
) -> list[JsonObject]:
    """Return documents and those of more that are not among them, up to a limit."""
    known = {document["_id"] for document in found}
    return [*found, *(each for each in more if each["_id"] not in known)][:limit]


def _name(*about: object) -> bytes:
    """Return what tells one list from another; whom it asks for is not kept."""
    return hashlib.sha256(repr(about).encode()).digest()
