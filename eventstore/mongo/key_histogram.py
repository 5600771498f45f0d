"""An equi-depth histogram of the keys in an index, learned from what is read. Pure.

A key is a ticket's time and id; of the keys between two cuts it is known how many there are, or
nothing. A histogram begins with nothing, and whatever is read is put into it: so dense and empty
times cost what they cost once, and afterwards as many keys as are wanted are found at once, however
they are spread. What it says may have become wrong, and then only costs: who reads finds what is
there, and the histogram learns it. (Self-tuning histograms: Aboulnaga and Chaudhuri, 1999.)

A cut is the place right behind a key, whether there is one or not: `low` and `high` stand for all
keys behind `low`, up to and with `high`. Keys of one moment are not parted unless there are many.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from domain.values import JsonObject

DEPTH = 64
"""How many keys there are between two cuts, where there are many."""
_PARTS = 64
"""Into how many pieces to part what is too much: empty ones cost 0.3 ms each, once."""
_ID_BITS = 128
LAST_ID = UUID(int=(1 << 128) - 1)
MILLISECOND = timedelta(milliseconds=1)


class Key(NamedTuple):
    """Where a ticket stands in an order by time, or the cut right behind it."""

    time: datetime
    id: UUID

    def before(self) -> "Key":
        """Return the cut right before this key."""
        if self.id.int:
            return Key(self.time, UUID(int=self.id.int - 1))
        return Key(moved(self.time, -MILLISECOND), LAST_ID)


BEGIN = Key(datetime(1, 1, 1, tzinfo=UTC), UUID(int=0))
END = Key(datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC), LAST_ID)


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


class Histogram:
    """How many keys there are between cuts, as far as it is known."""

    def __init__(self) -> None:
        self._cuts = [BEGIN, END]
        self._counts: list[int | None] = [None]  # of the keys from each cut to the next

    def __len__(self) -> int:
        return len(self._counts)

    def reach(self, edge: Key, wanted: int, *, forward: bool) -> Key:
        """Return the cut up to which there are as many keys as are wanted, or what is known ends.

        `edge` itself if nothing is known of what is next to it.
        """
        total, far = 0, edge
        place = self._place(edge, forward=forward)
        while 0 <= place < len(self._counts) and total < wanted:
            count = self._counts[place]
            if count is None:
                break
            # Of a part it is not known how many are on this side of the edge.
            is_whole = far != edge or edge == self._cuts[place + (not forward)]
            total += count if is_whole else 0
            far = self._cuts[place + forward]
            place += 1 if forward else -1
        return far

    def into_unknown(self, edge: Key, start: datetime, width: timedelta, *, forward: bool) -> Key:
        """Return the cut so far from a time, or where something is known again if that is nearer.

        Nothing is known of what is next to `edge`.
        """
        border = self._cuts[self._place(edge, forward=forward) + forward]
        far = Key(moved(start, width if forward else -width), LAST_ID)
        if forward:
            return min(far, border) if far > edge else border
        return max(far, border) if far < edge else border

    def learn(self, low: Key, high: Key, keys: Sequence[Key]) -> None:
        """Note what has been read: all keys behind `low`, up to and with `high`, in order."""
        pieces: list[tuple[int | None, Key]] = []  # the number of keys up to a cut
        place = 0
        while place < len(keys):
            n, cut = behind(keys, place + DEPTH, high)
            pieces.append((n - place, cut))
            place = n
        if not pieces or pieces[-1][1] != high:
            pieces.append((0, high))
        self._put(low, high, pieces, keys)

    def part(self, low: Key, high: Key) -> None:
        """Forget what is known behind `low` up to `high`, which was too much to be read at once.

        It is parted into pieces that are read one by one, each of which can be parted again.
        """
        begin, end = _number(low), _number(high)
        cuts = {_at(begin + (end - begin) * n // _PARTS, end - begin) for n in range(1, _PARTS)}
        inside = sorted(cut for cut in cuts if low < cut < high)
        self._put(low, high, [(None, cut) for cut in (*inside, high)], ())

    def _put(
        self,
        low: Key,
        high: Key,
        middle: Sequence[tuple[int | None, Key]],
        keys: Sequence[Key],
    ) -> None:
        """Put pieces in the place of what was known of a stretch that has these keys."""
        first, last = self._place(low, forward=True), self._place(high, forward=False)
        begin, end = self._cuts[first], self._cuts[last + 1]
        pieces = [*middle]
        if begin < low:
            inside = bisect_right(keys, min(self._cuts[first + 1], high))
            pieces.insert(0, (_less(self._counts[first], inside), low))
        if high < end:
            inside = len(keys) - bisect_right(keys, max(self._cuts[last], low))
            pieces.append((_less(self._counts[last], inside), end))
        if last + 1 < len(self._counts):  # to be joined with what follows
            last += 1
            pieces.append((self._counts[last], self._cuts[last + 1]))
        if first > 0:
            first -= 1
            pieces.insert(0, (self._counts[first], self._cuts[first + 1]))
        joined = _joined(pieces)
        self._counts[first : last + 1] = [count for count, _ in joined]
        self._cuts[first + 1 : last + 2] = [cut for _, cut in joined]

    def _place(self, edge: Key, *, forward: bool) -> int:
        """Return which of the pieces begins at an edge, or ends there, or has it inside."""
        return (bisect_right if forward else bisect_left)(self._cuts, edge) - 1


def behind(keys: Sequence[Key], n: int, far: Key, *, forward: bool = True) -> tuple[int, Key]:
    """Return a cut behind the first `n` keys, and how many there are up to it.

    It is where their last moment ends, unless many are of that moment. `keys`: in the order in
    which they are read; `far`: the cut up to which they were read.
    """
    if n >= len(keys):
        return len(keys), far
    moment, more = keys[n - 1].time, n
    while more < len(keys) and more < n + DEPTH and keys[more].time == moment:
        more += 1
    if more == len(keys):
        return more, far
    if keys[more].time == moment:
        return more, keys[more - 1] if forward else keys[more - 1].before()
    return more, Key(moment if forward else moved(moment, -MILLISECOND), LAST_ID)


def moved(time: datetime, by: timedelta) -> datetime:
    """Return another time, within those that a key can have."""
    try:
        return min(max(time + by, BEGIN.time), END.time)
    except OverflowError:
        return BEGIN.time if by < timedelta() else END.time


def _number(key: Key) -> int:
    """Return a number in the order of keys: milliseconds, and 128 bits for the id."""
    return ((key.time - BEGIN.time) // MILLISECOND << _ID_BITS) + key.id.int


def _at(number: int, span: int) -> Key:
    """Return the cut at a number, or where its moment ends if it parts a span of many moments."""
    time = BEGIN.time + (number >> _ID_BITS) * MILLISECOND
    is_long = span >> _ID_BITS >= _PARTS
    return Key(time, LAST_ID if is_long else UUID(int=number & LAST_ID.int))


def _less(count: int | None, by: int) -> int | None:
    return None if count is None else max(count - by, 0)


def _joined(pieces: Sequence[tuple[int | None, Key]]) -> list[tuple[int | None, Key]]:
    """Join neighbours that have few keys together; those of which nothing is known stay parted."""
    joined: list[tuple[int | None, Key]] = []
    for count, cut in pieces:
        if joined:
            before = joined[-1][0]
            if count is not None and before is not None and count + before <= DEPTH:
                joined[-1] = (count + before, cut)
                continue
        joined.append((count, cut))
    return joined
