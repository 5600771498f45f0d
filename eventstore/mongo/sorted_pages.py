"""Pages of a sorted list: so many documents behind a position, in the order of a time and the id.

MongoDB reads them along an index that is named. The embedded server reads all that matches before
it sorts or stops at a limit, reads every document where it is told which index to take, and takes
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
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar, cast
from uuid import UUID

from cachetools import LRUCache
from pymongo.asynchronous.cursor import AsyncCursor
from pymongo.errors import OperationFailure, PyMongoError

from domain.values import JsonObject
from eventstore.mongo.driver import Collection, Database, settled
from eventstore.mongo.key_histogram import (
    BEGIN,
    END,
    LAST_ID,
    MILLISECOND,
    Histogram,
    Key,
    Stretch,
    behind,
    moved,
)

T = TypeVar("T")

_NO_SUCH_INDEX = 2  # BadValue
_GROWTH = 4
_FIRST_WIDTH = timedelta(hours=1)
"""Of a stretch of which nothing is known."""
_MOST_WIDTH = END.time - BEGIN.time
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
        """What must hold by the index that is read along, beside the time."""
        return self.narrow if (self.by, -1) in self.index else {}

    @property
    def rest(self) -> list[JsonObject]:
        """What must hold beside the bounds and `joined`."""
        return [each for each in (self.narrow, *self.others) if each and each != self.joined]

    @property
    def most_looked_at(self) -> int:
        if self.narrow == self.joined:
            return _MOST_LOOKED_AT
        return 0 if self.is_along else _MOST_BESIDE_INDEX

    def stretch(self) -> Stretch:
        """Return all keys between the bounds."""
        low, high = (
            default if time is None else Key(moved(time, -MILLISECOND), LAST_ID)
            for time, default in ((self.low, BEGIN), (self.high, END))
        )
        return Stretch(low, high, self.forward)

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

    def __init__(self, begin: Callable[[Database, bool], Awaitable[datetime]]) -> None:
        """`begin`: returns a time near which lists begin, forwards if true, of which nothing is
        known yet. Asked of the documents themselves, it would be found by reading them all.
        """
        self._begin = begin
        self._begins: dict[tuple[str, bool], datetime] = {}
        self._histograms: LRUCache[bytes, Histogram] = LRUCache(_MOST_REMEMBERED)
        self._looked_at: LRUCache[bytes, float] = LRUCache(_MOST_REMEMBERED)

    async def count(self, shown: Database, query: Query, most: int) -> int:
        """Return how many documents match, if they are no more than `most`."""
        # Not count_documents, which is an aggregation.
        found = shown.collection(query.collection).find(query.filter(), {"_id": 1}).limit(most)
        is_embedded = await shown.is_embedded()
        return len(await (found.to_list() if is_embedded else _along(query.index, found)))

    async def page(
        self, shown: Database, query: Query, position: Key | None, limit: int
    ) -> list[JsonObject]:
        """Return documents behind a position, or from the beginning."""
        reads = _Reads(shown.collection(query.collection), query)
        if not await shown.is_embedded():
            return await reads.along_index(position, limit)
        stretch, rest = query.stretch(), query.rest
        if position is not None:
            stretch = stretch.behind(position if query.forward else position.before())
        name = _name(reads.collection.name, query)
        most = query.most_looked_at if rest else _EVERYTHING
        # Remembered again by a page that is read to its end: one that took too long begins small.
        look_at = self._looked_at.pop(name, _FIRST_LOOKED_AT) if rest else limit
        found: list[JsonObject] = []
        looked_at, needed = 0, 0.0
        while len(found) < limit and not stretch.is_empty:
            if looked_at + look_at > most:
                found = _with_new(found, await reads.matching(stretch, limit), limit)
                far = self._histogram(reads).reach(stretch.begin, int(most), forward=query.forward)
                is_near = found and stretch.until(far).has(reads.key(found[-1]))
                if looked_at or len(found) < limit or not is_near:
                    self._looked_at[name] = _EVERYTHING
                return found
            keys, far = await self._keys(shown, reads, stretch, int(look_at))
            n, far = behind(keys, int(look_at), far, forward=query.forward)
            if n:  # of which some may be of no document any more, or have moved meanwhile
                more = await reads.documents(stretch.until(far), limit)
                found = _with_new(found, more, limit)
            needed = looked_at + n
            if len(found) >= limit:
                last = stretch.until(far).behind(reads.key(found[-1]))
                needed -= sum(last.has(key) for key in keys)
            stretch = stretch.behind(far)
            looked_at, look_at = looked_at + n, look_at * _GROWTH
        if rest:
            is_short = position is None and len(found) < limit
            enough = _EVERYTHING if is_short else min(needed * 5 / 4 + 1, most)
            self._looked_at[name] = enough
        return found

    async def _keys(
        self, shown: Database, reads: "_Reads", stretch: Stretch, wanted: int
    ) -> tuple[list[Key], Key]:
        """Return at least so many keys in the order of reading, if there are, and how far it read.

        What must hold by `joined` does, and perhaps nothing else that is asked for. What took too
        long is read in small parts when it is asked for again. Raises what the driver raises.
        """
        histogram, forward = self._histogram(reads), reads.query.forward
        clock = asyncio.get_running_loop().time
        keys: list[Key] = []
        width = _FIRST_WIDTH
        while len(keys) < wanted and not stretch.is_empty:
            edge = stretch.begin
            far = histogram.reach(edge, wanted - len(keys), forward=forward)
            if far == edge:
                time = edge.time
                if edge in (BEGIN, END):
                    which = (reads.collection.name, forward)
                    if which not in self._begins:
                        self._begins[which] = await self._begin(shown, forward)
                    time = self._begins[which]
                far = histogram.into_unknown(edge, time, width, forward=forward)
                width = min(width * _GROWTH, _MOST_WIDTH)
            part = stretch.until(far)
            began = clock()
            try:
                some = await reads.keys(part)
            except (PyMongoError, asyncio.CancelledError):
                if clock() - began >= _LONG_SECONDS:  # not where nobody waits for it any more
                    histogram.part(part.low, part.high)
                raise
            histogram.learn(part.low, part.high, some)
            keys += some if forward else reversed(some)
            stretch = stretch.behind(far)
        return keys, stretch.begin

    def _histogram(self, reads: "_Reads") -> Histogram:
        name = _name(reads.collection.name, reads.query.by, reads.query.joined)
        return self._histograms.setdefault(name, Histogram())


@dataclass(frozen=True, slots=True)
class _Reads:
    """The questions of one list to its collection."""

    collection: Collection
    query: Query

    async def along_index(self, position: Key | None, limit: int) -> list[JsonObject]:
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
                found += await _along(self.query.index, some)
        return found

    async def keys(self, stretch: Stretch) -> list[Key]:
        """Return all keys of a stretch, sorted. However few are wanted, the server reads it all."""
        by, keys = self.query.by, list[Key]()
        for each in stretch.ranges(by):
            found = self.collection.find({**self.query.joined, **each}, {by: 1})
            keys += map(self.key, await found.to_list())
        return sorted(keys)

    async def documents(self, stretch: Stretch, limit: int) -> list[JsonObject]:
        """Return the first documents of a stretch that match."""
        query, found = self.query, list[JsonObject]()
        for each in stretch.ranges(query.by):
            first, left = {**query.joined, **each}, limit - len(found)
            if left > 0 and query.rest:
                found += await self._aggregate(first, query.rest, self._last(left))
            elif left > 0:  # half of what an aggregation takes
                some = self.collection.find(first, query.projection).sort([*query.order.items()])
                found += await some.limit(left).to_list()
        return found

    async def matching(self, stretch: Stretch, limit: int) -> list[JsonObject]:
        """Return the first documents of all that match in a stretch: few, or far from its
        beginning.

        Their keys are looked for along the index of `narrow`, or without one: the server reads
        through all documents in a fifth of the time that stages take to look at as many.
        """
        query, keys_only = self.query, {self.query.by: 1}
        within = [*query.others, stretch.times(query.by)]
        conditions = [each for each in (query.narrow, *within) if each]
        some: list[JsonObject] | None = None
        if query.narrow and not (query.is_along and query.others):
            some = await self.collection.find(query.narrow, keys_only).to_list()
        if query.narrow and query.others and (some is None or len(some) <= _FEW):
            some = await self._aggregate(query.narrow, within, [{"$project": keys_only}])
        elif some is None or query.others:
            some = await self.collection.find({"$and": conditions}, keys_only).to_list()
        timed = (document for document in some if document.get(query.by) is not None)
        inside = filter(stretch.has, map(self.key, timed))
        keys = sorted(inside, reverse=not query.forward)
        found: list[JsonObject] = []
        while keys and len(found) < limit:
            here, keys = keys[:limit], keys[limit:]
            by_id: JsonObject = {"_id": {"$in": [key.id for key in here]}}
            # Asked again, for they may have changed meanwhile: where they were, and no more.
            more = await self._aggregate(by_id, conditions, self._last(limit))
            found = _with_new(found, more, limit)
        return found

    def _last(self, limit: int) -> list[JsonObject]:
        query = self.query
        return [{"$sort": query.order}, {"$limit": limit}, {"$project": dict(query.projection)}]

    async def _aggregate(
        self, first: JsonObject, rest: Sequence[JsonObject], last: Sequence[JsonObject]
    ) -> list[JsonObject]:
        stages: list[JsonObject] = [{"$match": first}, {"$match": {"$and": [*rest]}}, *last]
        cursor = await settled(self.collection.aggregate(stages))
        return await cursor.to_list()

    def key(self, document: JsonObject) -> Key:
        """Return where a document stands in the order."""
        return Key(cast("datetime", document[self.query.by]), cast("UUID", document["_id"]))


async def _along(
    index: Sequence[tuple[str, int]], found: AsyncCursor[JsonObject]
) -> list[JsonObject]:
    """Return what is found along an index, or without it where a former version has not made it."""
    try:
        return await found.clone().hint([*index]).to_list()
    except OperationFailure as error:
        if error.code != _NO_SUCH_INDEX:
            raise
        return await found.to_list()


def _with_new(
    found: Sequence[JsonObject], more: Sequence[JsonObject], limit: int
) -> list[JsonObject]:
    known = {document["_id"] for document in found}
    return [*found, *(each for each in more if each["_id"] not in known)][:limit]


def _name(*about: object) -> bytes:
    """Return what tells one list from another; whom it asks for is not kept."""
    return hashlib.sha256(repr(about).encode()).digest()
