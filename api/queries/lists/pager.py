"""How a page of a list is read on the embedded server: so many tickets, however they are spread.

That server reads all that matches before it sorts or stops at a limit, reads every document where
it is told which index to take, and takes one by itself only for a plain filter that the index
covers. So a page is read in two steps: the keys in a stretch of the index, which cost a fraction of
the documents and say how many there are, and then the documents of as many of them as are wanted.
How long a stretch must be is known from what was read before (`histogram.py`), so that bursts, gaps
and dates ahead cost no more than any other time.

The index is that over the time, or over a field and the time. What else is asked for is a second
stage, of which MongoDB would make one with the first; it is looked at in more and more tickets, and
if too few of them match, all that do are looked for at once.
"""

import asyncio
import hashlib
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import NamedTuple, cast
from uuid import UUID

from pymongo.errors import PyMongoError

from domain.events import JsonObject
from eventstore.mongo.driver import Collection, Database, settled
from eventstore.mongo.key_histogram import (
    BEGIN,
    END,
    LAST_ID,
    MILLISECOND,
    Histogram,
    Key,
    behind,
    moved,
)
from projections.views import tickets
from projections.views.counters import Counters

_GROWTH = 4
_FIRST_WIDTH = timedelta(hours=1)
"""Of a stretch of which nothing is known."""
_MOST_WIDTH = END.time - BEGIN.time
_LONG_SECONDS = 1.0
"""A read that fails after so long may have found too many keys."""
_FIRST_LOOKED_AT = 256
_MOST_LOOKED_AT = 5_376  # three stretches
"""In how many tickets to look for those that match, before all that do are looked for."""
_MOST_BESIDE_INDEX = 1_280  # two
"""The same where another index than the one over the time leads to those that match."""
_FEW = 5_000
"""So many tickets are looked at along an index sooner than all there are without one."""
_EVERYTHING = math.inf
_MOST_REMEMBERED = 1000


class Asked(NamedTuple):
    """A list: what must hold, and the time that it is sorted by, backwards if `direction` is -1.

    `narrow`: one of the conditions, an equality that has an index. `is_joined`: that index has the
    time behind the field. `is_along`: nothing is to be looked at for which it does not hold.
    """

    conditions: Sequence[JsonObject]
    by: str
    direction: int
    narrow: JsonObject | None
    is_joined: bool
    is_along: bool
    projection: Mapping[str, int]

    @property
    def forward(self) -> bool:
        return self.direction > 0

    @property
    def joined(self) -> JsonObject:
        """What must hold by the index that is read along, beside the time."""
        return self.narrow if self.is_joined and self.narrow is not None else {}

    @property
    def order(self) -> dict[str, int]:
        return {self.by: self.direction, "_id": self.direction}

    @property
    def most_looked_at(self) -> int:
        if self.narrow is None or self.is_joined:
            return _MOST_LOOKED_AT
        return 0 if self.is_along else _MOST_BESIDE_INDEX

    def bounds(self) -> tuple["Stretch", list[JsonObject]]:
        """Return where the list is, and those conditions that say more than this and `joined`."""
        low, high, rest = BEGIN, END, list[JsonObject]()
        for condition in self.conditions:
            times = condition.get(self.by)
            if len(condition) == 1 and isinstance(times, dict) and times.keys() <= _OF_BOUNDS:
                if "$gte" in times:
                    low = max(low, Key(moved(times["$gte"], -MILLISECOND), LAST_ID))
                if "$lt" in times:
                    high = min(high, Key(moved(times["$lt"], -MILLISECOND), LAST_ID))
            elif condition != self.joined:
                rest.append(condition)
        return Stretch(low, high, self.forward), rest


_OF_BOUNDS = {"$gte", "$lt", "$ne"}  # the last is of null, which is between no bounds


class Stretch(NamedTuple):
    """All keys behind `low`, up to and with `high`; `forward`: in which order they are read."""

    low: Key
    high: Key
    forward: bool

    @property
    def is_empty(self) -> bool:
        return self.low >= self.high

    @property
    def begin(self) -> Key:
        return self.low if self.forward else self.high

    def until(self, cut: Key) -> "Stretch":
        """Return what is read before a cut."""
        if self.forward:
            return self._replace(high=min(self.high, cut))
        return self._replace(low=max(self.low, cut))

    def behind(self, cut: Key) -> "Stretch":
        """Return what is read after a cut."""
        if self.forward:
            return self._replace(low=max(self.low, cut))
        return self._replace(high=min(self.high, cut))

    def has(self, key: Key) -> bool:
        return self.low < key <= self.high

    def times(self, by: str) -> JsonObject:
        """Return a condition that holds for all of it, and for more at its ends."""
        return {by: {"$gte": self.low.time, "$lte": self.high.time}}

    def ranges(self, by: str) -> Iterator[JsonObject]:
        """Yield plain ranges of an index over a time and the id, in the order of reading."""
        low, high = self.low, self.high
        if low.time == high.time:
            yield {by: low.time, "_id": {"$gt": low.id, "$lte": high.id}}
            return
        at_ends = (low != BEGIN and low.id != LAST_ID, high.id != LAST_ID)
        between = {"$gte" if low == BEGIN else "$gt": low.time}
        between["$lt" if at_ends[1] else "$lte"] = high.time
        ranges: list[JsonObject] = [{by: between}]
        if at_ends[0]:
            ranges.insert(0, {by: low.time, "_id": {"$gt": low.id}})
        if at_ends[1]:
            ranges.append({by: high.time, "_id": {"$lte": high.id}})
        yield from ranges if self.forward else reversed(ranges)


class Windows:
    """Reads pages. Remembers how tickets are spread, and among how many of them the last page of a
    list was found: only to read no more than it must.
    """

    def __init__(self) -> None:
        self._histograms: OrderedDict[bytes, Histogram] = OrderedDict()
        self._looked_at: OrderedDict[bytes, float] = OrderedDict()
        self._ends: dict[tuple[str, bool], datetime] = {}

    async def page(
        self, shown: Database, asked: Asked, position: Key | None, limit: int
    ) -> list[JsonObject]:
        """Return documents behind a position, or from the beginning."""
        stretch, rest = asked.bounds()
        if position is not None:
            stretch = stretch.behind(position if asked.forward else position.before())
        if rest:
            found = await self._look(shown, asked, stretch, rest, limit)
            if position is None and len(found) < limit:
                self._remember(_name(shown, asked), _EVERYTHING)
            return found
        found = []
        while len(found) < limit and not stretch.is_empty:
            wanted = limit - len(found)
            keys, far = await self._keys(shown, asked, stretch, wanted)
            _, far = behind(keys, wanted, far, forward=asked.forward)
            if keys:  # of which some may be of no document any more: then there is more behind
                more = await _documents(shown, asked, stretch.until(far), [], limit)
                found += _new(more, found)
            stretch = stretch.behind(far)
        return found[:limit]

    async def _look(
        self,
        shown: Database,
        asked: Asked,
        stretch: Stretch,
        rest: Sequence[JsonObject],
        limit: int,
    ) -> list[JsonObject]:
        """Return documents for which more holds than an index says."""
        name, most = _name(shown, asked), asked.most_looked_at
        # Remembered again by a page that is read to its end: one that took too long begins small.
        look_at = self._looked_at.pop(name, _FIRST_LOOKED_AT)
        found: list[JsonObject] = []
        looked_at = needed = 0
        while len(found) < limit and not stretch.is_empty:
            if looked_at + look_at > most:
                more = await _matching(shown, asked, stretch, rest, limit)
                found = [*found, *_new(more, found)][:limit]
                if (
                    looked_at
                    or len(found) < limit
                    or not self._reaches(shown, asked, stretch, found)
                ):
                    self._remember(name, _EVERYTHING)
                return found
            keys, far = await self._keys(shown, asked, stretch, int(look_at))
            n, far = behind(keys, int(look_at), far, forward=asked.forward)
            needed = looked_at + n
            if n:
                more = await _documents(shown, asked, stretch.until(far), rest, limit)
                found = [*found, *_new(more, found)][:limit]  # one may have moved meanwhile
            if len(found) >= limit:
                last = stretch.until(far).behind(_key(found[-1], asked.by))
                needed -= sum(last.has(key) for key in keys)
            stretch = stretch.behind(far)
            looked_at, look_at = looked_at + n, look_at * _GROWTH
        self._remember(name, min(needed * 5 / 4 + 1, most))
        return found

    async def _keys(
        self, shown: Database, asked: Asked, stretch: Stretch, wanted: int
    ) -> tuple[list[Key], Key]:
        """Return at least so many keys in the order of reading, if there are, and how far it read.

        What must hold by `joined` does, and perhaps nothing else that is asked for. What took too
        long is read in small parts by whoever asks again. Raises what the driver raises.
        """
        histogram, forward = self._histogram(shown, asked), asked.forward
        clock = asyncio.get_running_loop().time
        keys: list[Key] = []
        width = _FIRST_WIDTH
        while len(keys) < wanted and not stretch.is_empty:
            edge = stretch.begin
            far = histogram.reach(edge, wanted - len(keys), forward=forward)
            if far == edge:
                begin = (
                    await self._end(shown, forward=forward) if edge in (BEGIN, END) else edge.time
                )
                far = histogram.into_unknown(edge, begin, width, forward=forward)
                width = min(width * _GROWTH, _MOST_WIDTH)
            part = stretch.until(far)
            began = clock()
            try:
                some = await _keys_of(shown, asked, part)
            except (PyMongoError, asyncio.CancelledError):
                if clock() - began >= _LONG_SECONDS:  # not where nobody waits for it any more
                    histogram.part(part.low, part.high)
                raise
            histogram.learn(part.low, part.high, some)
            keys += some if forward else reversed(some)
            stretch = stretch.behind(far)
        return keys, stretch.begin

    def _histogram(self, shown: Database, asked: Asked) -> Histogram:
        name = _name(shown, asked.by, asked.joined)
        histogram = self._histograms.setdefault(name, Histogram())
        self._histograms.move_to_end(name)
        if len(self._histograms) > _MOST_REMEMBERED:
            self._histograms.popitem(last=False)
        return histogram

    def _reaches(
        self, shown: Database, asked: Asked, stretch: Stretch, found: Sequence[JsonObject]
    ) -> bool:
        """Say whether what was found is where it would have been looked for."""
        histogram = self._histogram(shown, asked)
        far = histogram.reach(stretch.begin, asked.most_looked_at, forward=asked.forward)
        return stretch.until(far).has(_key(found[-1], asked.by))

    def _remember(self, name: bytes, looked_at: float) -> None:
        self._looked_at[name] = looked_at
        self._looked_at.move_to_end(name)
        if len(self._looked_at) > _MOST_REMEMBERED:
            self._looked_at.popitem(last=False)

    async def _end(self, shown: Database, *, forward: bool) -> datetime:
        """Return a time near which lists begin, if nothing is known of that yet.

        Asked of the counters: whoever asks the tickets reads them all.
        """
        name = (shown.collection(tickets.COLLECTION).name, forward)
        if name not in self._ends:
            counters, now = Counters(shown), shown.clock.now()
            day = await (counters.first_day() if forward else counters.last_day())
            end = (
                now
                if day is None
                else datetime.combine(day, time.min if forward else time.max, UTC)
            )
            self._ends[name] = now if end.date() == now.date() and not forward else end
        return self._ends[name]


async def _keys_of(shown: Database, asked: Asked, stretch: Stretch) -> list[Key]:
    """Return all keys of a stretch, in order. However few are wanted, the server reads it whole."""
    reads = shown.collection(tickets.COLLECTION)
    keys: list[Key] = []
    for each in stretch.ranges(asked.by):
        found = reads.find({**asked.joined, **each}, {asked.by: 1})
        keys += [_key(document, asked.by) for document in await found.to_list()]
    return sorted(keys)


async def _documents(
    shown: Database, asked: Asked, stretch: Stretch, rest: Sequence[JsonObject], limit: int
) -> list[JsonObject]:
    """Return the first documents of a stretch for which the rest holds."""
    reads = shown.collection(tickets.COLLECTION)
    found: list[JsonObject] = []
    for each in stretch.ranges(asked.by):
        if len(found) >= limit:
            break
        first = {**asked.joined, **each}
        if rest:
            last: list[JsonObject] = [
                {"$sort": asked.order},
                {"$limit": limit - len(found)},
                {"$project": dict(asked.projection)},
            ]
            found += await _aggregate(reads, first, rest, last)
        else:  # half of what an aggregation takes
            some = reads.find(first, asked.projection).sort([*asked.order.items()])
            found += await some.limit(limit - len(found)).to_list()
    return found


async def _matching(
    shown: Database, asked: Asked, stretch: Stretch, rest: Sequence[JsonObject], limit: int
) -> list[JsonObject]:
    """Return the first documents of all that match in a stretch: few, or far from its beginning.

    Their keys are looked for along the index of `narrow`, or without one: the server reads through
    all documents in a fifth of the time that stages take to look at as many.
    """
    reads, narrow = shown.collection(tickets.COLLECTION), asked.narrow
    within: list[JsonObject] = [*asked.conditions, stretch.times(asked.by)]
    keys_only = {asked.by: 1}
    some: list[JsonObject] | None = None
    if narrow is not None and not asked.is_along:
        some = await reads.find(narrow, keys_only).to_list()
    if narrow is not None and rest != [narrow] and (some is None or len(some) <= _FEW):
        more = [each for each in within if each != narrow]
        some = await _aggregate(reads, narrow, more, [{"$project": keys_only}])
    elif some is None or rest != [narrow]:
        some = await reads.find({"$and": within}, keys_only).to_list()
    timed = (document for document in some if document.get(asked.by) is not None)
    keys = sorted(
        key for key in (_key(document, asked.by) for document in timed) if stretch.has(key)
    )
    if not asked.forward:
        keys.reverse()
    found: list[JsonObject] = []
    while keys and len(found) < limit:
        here, keys = keys[:limit], keys[limit:]
        by_id: JsonObject = {"_id": {"$in": [key.id for key in here]}}
        last: list[JsonObject] = [{"$sort": asked.order}, {"$project": dict(asked.projection)}]
        # Asked again, for they may have changed meanwhile: where they were, and no more.
        found += _new(await _aggregate(reads, by_id, within, last), found)
    return found[:limit]


async def _aggregate(
    reads: Collection,
    first: JsonObject,
    rest: Sequence[JsonObject],
    last: Sequence[JsonObject],
) -> list[JsonObject]:
    stages: list[JsonObject] = [{"$match": first}, {"$match": {"$and": list(rest)}}, *last]
    cursor = await settled(reads.aggregate(stages))
    return await cursor.to_list()


def _key(document: Mapping[str, object], by: str) -> Key:
    return Key(cast("datetime", document[by]), cast("UUID", document["_id"]))


def _new(documents: Sequence[JsonObject], found: Sequence[JsonObject]) -> list[JsonObject]:
    known = {document["_id"] for document in found}
    return [document for document in documents if document["_id"] not in known]


def _name(shown: Database, *about: object) -> bytes:
    """Tell one list from another; what is asked for may name somebody, and is not kept."""
    collection = shown.collection(tickets.COLLECTION).name
    return hashlib.sha256(repr((collection, *about)).encode()).digest()
