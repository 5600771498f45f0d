"""Who is to keep which part of the views current.

Tickets belong to 64 partitions by their id. Every process that projects is a *member*; those who
are alive share all partitions evenly: who has less than that takes what is free, what was left by
one who is dead, or what others have too much of (`plan`, a pure function of what all can see).

Whether a member is alive is judged by the database's clock alone, and no clock has to be right for
the views to be: one that is set back or forward makes partitions change hands, and nothing else.
What keeps a former owner from writing is the epoch in each partition's checkpoint
(`checkpoints.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from domain.values import JsonObject
from eventstore.documents import StoredSet
from eventstore.lease import LEASE_SECONDS, is_alive
from eventstore.mongo.resume_tokens import ResumeToken
from eventstore.partition import PARTITIONS

Phase = Literal["scan", "live"]
"""scan: to be folded from the whole log, what is there is passed over; live: following it."""


@dataclass(frozen=True, slots=True)
class Partition:
    """How far a partition is and whose it is. `last`: the event that was applied last."""

    number: int
    epoch: int = 0
    owner: str | None = None
    phase: Phase = "scan"
    token: ResumeToken | None = None
    applied: int = 0
    last: JsonObject | None = None
    as_of: datetime | None = None
    views: StoredSet = frozenset()


@dataclass(frozen=True, slots=True)
class LogCount:
    """How many events the log had when it was counted last. `drift`: how many more than estimated.
    `difference`: how many more are folded than it has, fewer if negative; by an exact count.
    """

    events: int = 0
    drift: int = 0
    difference: int = 0


@dataclass(frozen=True, slots=True)
class Member:
    """A process that projects. `failure` is why it does not get on, null once it has.

    `leaving`: it goes on with what it has until others have taken it. `fencing`: it keeps what it
    has from all others, for a moment. `slot`: which shard of the sums it alone writes.
    """

    id: str
    seen_at: datetime
    session: bytes | None = None
    progressed_at: datetime | None = None
    as_of: datetime | None = None
    failure: str | None = None
    leaving: bool = False
    fencing: bool = False
    slot: int | None = None


@dataclass(frozen=True, slots=True)
class State:
    """All partitions by number and all members, as seen at `now` (the database's clock)."""

    now: datetime
    partitions: Sequence[Partition]
    members: Mapping[str, Member]
    lease_seconds: float = LEASE_SECONDS
    counted: LogCount = LogCount()

    def is_alive(self, member: str | None) -> bool:
        """Return whether a member has shown life within a lease."""
        found = self.members.get(member or "")
        return found is not None and is_alive(found.seen_at, self.now, self.lease_seconds)

    def as_of(self, partition: Partition) -> datetime | None:
        """Return the time before which everything is shown; None if that is not known."""
        if partition.phase != "live":
            return None
        owner = self.members.get(partition.owner or "")
        return partition.as_of if owner is None else owner.as_of

    def of(self, member: str) -> list[Partition]:
        """Return the partitions of a member."""
        return [partition for partition in self.partitions if partition.owner == member]


def plan(state: State, me: str) -> list[Partition]:
    """Return what `me` is to take for all partitions to be shared evenly.

    First what nobody has who is alive and stays, then what others have too much of. They find out
    by its epoch, and go on with it until then: nobody waits for it.
    """
    staying = {m.id for m in state.members.values() if state.is_alive(m.id) and not m.leaving}
    if me in state.members and state.members[me].leaving:
        return []
    fair = -(-PARTITIONS // len(staying | {me}))
    free = [p for p in state.partitions if p.owner != me and p.owner not in staying]
    sharing = {id_ for id_ in staying - {me} if not state.members[id_].fencing}
    too_many = [p for member in sorted(sharing) for p in state.of(member)[fair:]]
    return [*free, *too_many][: max(0, fair - len(state.of(me)))]
