"""How a page of a list is read on the embedded server: in windows of time.

That server reads all that matches before it sorts, reads every document where it is told which
index to take, and takes one by itself only for a plain filter that the index covers. So a page is
read in stretches of the list's own time, from where the page begins, each longer than the one
before, until there are enough tickets: along the index over that time, or over a field and that
time. What else is asked for is a second stage, of which MongoDB would make one with the first.

A word that few tickets have is not found in some weeks. Then the rest is read along its own index.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import NamedTuple, cast

from domain.events import JsonObject
from eventstore.driver import Collection, Database, settled
from projections import tickets
from projections.counters import Counters

_FIRST = timedelta(hours=1)
_GROWTH = 8
_RECENT = timedelta(days=30)
_LEAST = timedelta(seconds=1)
_MOST_REMEMBERED = 1000
_PAST = datetime(1, 1, 1, tzinfo=UTC)
_FUTURE = datetime(9999, 12, 31, tzinfo=UTC)


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


class Windows:
    """Reads pages, and remembers where the times of tickets end, and over how much time a page of
    a list went: only to begin there. That of a list which had less than a page was all time.
    """

    def __init__(self) -> None:
        self._ends: dict[tuple[str, int], datetime] = {}
        self._widths: OrderedDict[bytes, timedelta] = OrderedDict()

    async def page(
        self, shown: Database, asked: Asked, behind: datetime | None, limit: int
    ) -> list[JsonObject]:
        """Give documents behind a time, or from the beginning."""
        reads = shown.collection(tickets.COLLECTION)
        found: list[JsonObject] = []
        edge = behind
        if edge is None:
            edge = await self._end(shown, asked)
        name = _name(reads.name, asked)
        # Remembered again by a page that is read to its end: one that took too long begins small.
        begin, is_first, width = edge, behind is None, self._widths.pop(name, _FIRST)
        while len(found) < limit:
            far = _moved(edge, asked.direction * width)
            by_narrow = not asked.is_joined and (asked.is_along or width > _RECENT)
            if by_narrow and asked.narrow is not None:
                far = _PAST if asked.direction < 0 else _FUTURE
            window = _window(None if is_first else edge, far, asked.direction)
            first: JsonObject = {asked.by: window}
            rest = list(asked.conditions)
            if asked.narrow is not None and (asked.is_joined or by_narrow):
                rest.remove(asked.narrow)
                if by_narrow:
                    first, rest = asked.narrow, [*rest, first]
                else:
                    first |= asked.narrow
            some = await _read(reads, asked, first, rest, limit - len(found))
            known = {document["_id"] for document in found}  # one may have moved meanwhile
            found += [document for document in some if document["_id"] not in known]
            if is_first and found:
                outermost = max if asked.direction < 0 else min
                first_found = cast("datetime", found[0][asked.by])
                end = self._ends.get((asked.by, asked.direction), first_found)
                self._ends[asked.by, asked.direction] = outermost(end, first_found)
            if far in (_PAST, _FUTURE):
                break
            edge, width, is_first = far, max(width, _FIRST) * _GROWTH, False
        if len(found) >= limit:
            gone_over = abs(cast("datetime", found[-1][asked.by]) - begin)
            self._remember(name, gone_over * 5 / 4 + _LEAST)
        elif behind is None:
            self._remember(name, _FUTURE - _PAST)
        return found

    async def at(
        self, shown: Database, asked: Asked, moment: datetime, more: JsonObject, limit: int
    ) -> list[JsonObject]:
        """Give documents of one moment for which more holds."""
        reads = shown.collection(tickets.COLLECTION)
        first: JsonObject = {asked.by: moment}
        if asked.narrow is not None and (asked.is_joined or asked.is_along):
            first |= asked.narrow
        return await _read(reads, asked, first, [*asked.conditions, more], limit)

    def _remember(self, name: bytes, width: timedelta) -> None:
        self._widths[name] = min(width, _FUTURE - _PAST)
        self._widths.move_to_end(name)
        if len(self._widths) > _MOST_REMEMBERED:
            self._widths.popitem(last=False)

    async def _end(self, shown: Database, asked: Asked) -> datetime:
        """Give a time near which the list begins.

        Asked of the counters at first: whoever asks the tickets reads them all.
        """
        known = self._ends.get((asked.by, asked.direction))
        if known is None:
            counters = Counters(shown)
            backward = asked.direction < 0
            day = await (counters.last_day() if backward else counters.first_day())
            known = shown.clock.now()
            if day is not None:
                known = datetime.combine(day, time.max if backward else time.min, UTC)
            self._ends[asked.by, asked.direction] = known
        return known


async def _read(
    reads: Collection,
    asked: Asked,
    first: JsonObject,
    rest: Sequence[JsonObject],
    limit: int,
) -> list[JsonObject]:
    order = {asked.by: asked.direction, "_id": asked.direction}
    if not rest:  # half of what an aggregation takes
        found = reads.find(first, asked.projection).sort(list(order.items())).limit(limit)
        return await found.to_list()
    stages: list[JsonObject] = [
        {"$match": first},
        {"$match": {"$and": list(rest)}},
        {"$sort": order},
        {"$limit": limit},
        {"$project": dict(asked.projection)},
    ]
    cursor = await settled(reads.aggregate(stages))
    return await cursor.to_list()


def _window(edge: datetime | None, far: datetime, direction: int) -> JsonObject:
    """Give a condition with both ends: with one the server would read on to the end."""
    if direction < 0:
        return {"$gte": far, "$lte" if edge is None else "$lt": edge or _FUTURE}
    return {"$lte": far, "$gte" if edge is None else "$gt": edge or _PAST}


def _name(collection: str, asked: Asked) -> bytes:
    """Tell one list from another; what is asked for may name somebody, and is not kept."""
    return hashlib.sha256(repr((collection, asked)).encode()).digest()


def _moved(time: datetime, by: timedelta) -> datetime:
    try:
        return min(max(time + by, _PAST), _FUTURE)
    except OverflowError:
        return _PAST if by < timedelta() else _FUTURE
