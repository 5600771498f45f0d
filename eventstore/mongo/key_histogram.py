"""An equi-depth histogram of the keys in an index, learned from what is read. Pure.

A key is a time and an id as one number (`number`), or that number counted from the other end if a
list is read backwards. Of the keys between two cuts it is known how many there are, or nothing. A
histogram begins with nothing, and whatever is read is put into it: so dense and empty times cost
what they cost once, and afterwards as many keys as are wanted are found at once, however they are
spread. What it says may have become wrong, and then only costs: a read finds what is there, and the
histogram learns it. (Self-tuning histograms: Aboulnaga and Chaudhuri, 1999.)

A cut is the place right behind a key, whether there is one or not: `low` and `high` stand for all
keys behind `low`, up to and with `high`. Keys of one moment are not parted unless there are many.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

DEPTH = 64
"""How many keys there are between two cuts, where there are many."""
_PARTS = 64
"""Into how many pieces to part what is too much: empty ones cost 0.3 ms each, once."""
ID_BITS = 128
LAST_ID = (1 << ID_BITS) - 1
_FIRST_TIME = datetime(1, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def number(time: datetime, id_: int = 0) -> int:
    """Return a number in the order of times and ids: milliseconds, and 128 bits for the id."""
    return ((time - _FIRST_TIME) // _MILLISECOND << ID_BITS) + id_


def time_and_id(key: int) -> tuple[datetime, UUID]:
    """Return what a number is made of."""
    return _FIRST_TIME + (key >> ID_BITS) * _MILLISECOND, UUID(int=key & LAST_ID)


BEGIN = -1
END = number(datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC), LAST_ID)


class Histogram:
    """How many keys there are between cuts, as far as it is known."""

    def __init__(self) -> None:
        self._cuts = [BEGIN, END]
        self._counts: list[int | None] = [None]  # of the keys from each cut to the next

    def __len__(self) -> int:
        return len(self._counts)

    def reach(self, edge: int, wanted: int) -> int:
        """Return the cut up to which there are as many keys as are wanted, or what is known ends.

        `edge` itself if nothing is known of what is behind it.
        """
        total, far = 0, edge
        place = bisect_right(self._cuts, edge) - 1
        while place < len(self._counts) and total < wanted:
            count = self._counts[place]
            if count is None:
                break
            # Of a part it is not known how many are behind the edge.
            total += count if self._cuts[place] >= edge else 0
            place += 1
            far = self._cuts[place]
        return far

    def into_unknown(self, edge: int, far: int) -> int:
        """Return the cut at `far`, or where something is known again if that is nearer.

        Nothing is known of what is right behind `edge`.
        """
        border = self._cuts[bisect_right(self._cuts, edge)]
        return min(far, border) if far > edge else border

    def learn(self, low: int, high: int, keys: Sequence[int]) -> None:
        """Note what has been read: all keys behind `low`, up to and with `high`, in order."""
        pieces: list[tuple[int | None, int]] = []  # the number of keys up to a cut
        place = 0
        while place < len(keys):
            n, cut = behind(keys, place + DEPTH, high)
            pieces.append((n - place, cut))
            place = n
        if not pieces or pieces[-1][1] != high:
            pieces.append((0, high))
        self._put(low, high, pieces, keys)

    def part(self, low: int, high: int) -> None:
        """Forget what is known behind `low` up to `high`, which was too much to be read at once.

        It is parted into pieces that are read one by one, each of which can be parted again.
        """
        span = high - low
        moment = LAST_ID if span >> ID_BITS >= _PARTS else 0  # where there are many, cut behind one
        cuts = {(low + span * n // _PARTS) | moment for n in range(1, _PARTS)}
        inside = sorted(cut for cut in cuts if low < cut < high)
        self._put(low, high, [(None, cut) for cut in (*inside, high)], ())

    def _put(
        self, low: int, high: int, middle: Sequence[tuple[int | None, int]], keys: Sequence[int]
    ) -> None:
        """Put pieces in the place of what was known of a stretch that has these keys."""
        first, last = bisect_right(self._cuts, low) - 1, bisect_left(self._cuts, high) - 1
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


def behind(keys: Sequence[int], n: int, far: int) -> tuple[int, int]:
    """Return a cut behind the first `n` keys, and before that how many there are up to it.

    It is where their last moment ends, unless many are of that moment. `far`: the cut up to which
    the keys were read.
    """
    if n >= len(keys):
        return len(keys), far
    moment = keys[n - 1] | LAST_ID
    more = min(bisect_right(keys, moment, n), n + DEPTH)
    if more == len(keys):
        return more, far
    return more, moment if keys[more] > moment else keys[more - 1]


def _less(count: int | None, by: int) -> int | None:
    return None if count is None else max(count - by, 0)


def _joined(pieces: Sequence[tuple[int | None, int]]) -> list[tuple[int | None, int]]:
    """Join neighbours that have few keys together; those of which nothing is known stay parted."""
    joined: list[tuple[int | None, int]] = []
    for count, cut in pieces:
        before = joined[-1][0] if joined else None
        if count is not None and before is not None and count + before <= DEPTH:
            joined[-1] = (count + before, cut)
        else:
            joined.append((count, cut))
    return joined
