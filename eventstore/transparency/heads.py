"""The heads of all tickets, as a checkpoint stands for them: sorted, in 56 bytes each.

A process that takes checkpoints keeps them from one to the next: as a dictionary they would take
five times as much.
"""

from bisect import bisect_left
from collections.abc import Iterator
from uuid import UUID

from eventstore.log import Heads
from eventstore.transparency import merkle
from eventstore.transparency.statements import leaf

_HEAD_BYTES = 16 + 8 + 32


class PackedHeads:
    """The heads of tickets. Is never changed."""

    def __init__(self, packed: bytes = b"", events: int = 0) -> None:
        """`packed`: leaves of the tree, sorted; `events`: of all the tickets."""
        self._packed = packed
        self.events = events

    def __len__(self) -> int:
        return len(self._packed) // _HEAD_BYTES

    def updated(self, new: Heads) -> "PackedHeads":
        """Return the same with other heads of some tickets."""
        parts: list[bytes] = []
        done, events = 0, self.events
        for ticket, (version, hash_) in sorted(new.items()):
            place, former = self._find(ticket)
            parts += [self._packed[done : place * _HEAD_BYTES], leaf(ticket, version, hash_)]
            done = (place + (former > 0)) * _HEAD_BYTES
            events += version - former
        return PackedHeads(b"".join([*parts, self._packed[done:]]), events)

    def newer(self, heads: Heads) -> Heads:
        """Return those of some heads whose tickets are new here, or have gone on."""
        return {t: head for t, head in heads.items() if self._find(t)[1] < head[0]}

    def _find(self, ticket: UUID) -> tuple[int, int]:
        """Return the place where a ticket's head is, or would be, and its version; 0 for none."""
        packed, wanted = self._packed, ticket.bytes
        starts = range(0, len(packed), _HEAD_BYTES)
        place = bisect_left(starts, wanted, key=lambda start: packed[start : start + 16])
        start = place * _HEAD_BYTES
        is_there = packed[start : start + 16] == wanted
        return place, int.from_bytes(packed[start + 16 : start + 24], "big") if is_there else 0

    def leaves(self) -> Iterator[bytes]:
        """Return the leaves of the tree."""
        return self.parts(1)

    def items(self) -> Iterator[tuple[UUID, tuple[int, bytes]]]:
        """Yield tickets, in order, with version and hash."""
        for each in self.leaves():
            yield UUID(bytes=each[:16]), (int.from_bytes(each[16:24], "big"), each[24:])

    def parts(self, heads_each: int) -> Iterator[bytes]:
        """Yield the leaves one behind the other, at most so many at once."""
        for start in range(0, len(self._packed), heads_each * _HEAD_BYTES):
            yield self._packed[start : start + heads_each * _HEAD_BYTES]

    def root(self) -> bytes:
        """Return the Merkle root over all heads."""
        return merkle.root(self.leaves())
