"""Leases: which process does a piece of work that one at a time is to do.

An owner shows life in `seen_at`, by the database's clock, which alone judges it (on a sharded
cluster that of the document's own shard: routers may have another). Taking a lease
raises its epoch (a fencing epoch), and what an owner writes is on condition of that epoch: a
process that was frozen, and wakes up after another has taken over, writes nothing. So no clock has
to be right: one that is set makes work change hands, and nothing else.

A `Lease` is one document, `{_id, owner, epoch, seen_at}` and what the work keeps there. The 64
partitions of the views share one sign of life for each process (`Member.seen_at`), and a build of
views has a name that is new each time as its epoch; `is_alive` and `renew` are theirs too.
"""

from contextlib import suppress
from datetime import datetime, timedelta
from typing import Generic, Protocol, TypeVar

from domain.errors import CasebookError
from domain.values import JsonObject
from eventstore.database import Database
from eventstore.documents import Reader, UnreadableDocument
from eventstore.mongo.driver import Collection, ReturnDocument
from eventstore.mongo.errors import DuplicateKeyError

LEASE_SECONDS = 10.0
RENEWALS = 3
"""How often an owner shows life within a lease: one that is late, or lost, ends nothing."""


class LeaseLost(CasebookError):
    """Another process does the work by now: for example because this one was frozen."""

    def __init__(self) -> None:
        super().__init__("lease_lost", "another process has taken over the work")


class Claim(Protocol):
    """What every lease's document says, as it was read."""

    @property
    def owner(self) -> str | None: ...
    @property
    def epoch(self) -> int: ...
    @property
    def seen_at(self) -> datetime: ...


C = TypeVar("C", bound=Claim)


def is_alive(seen_at: datetime, now: datetime, lease_seconds: float = LEASE_SECONDS) -> bool:
    """Return whether a sign of life is recent. A time to come is no such sign: a clock was set."""
    return abs(now - seen_at) < timedelta(seconds=lease_seconds)


async def is_dead(
    database: Database,
    documents: Collection,
    id_: str,
    seen_at: datetime,
    lease_seconds: float = LEASE_SECONDS,
) -> bool:
    """Return whether the sign of life in a document is old by the clock that has dated it."""
    if is_alive(seen_at, await database.server_time(), lease_seconds):
        return False  # a clock that is wrong does not stay within a lease of it
    asked: JsonObject | None = await documents.find_one_and_update(
        {"_id": id_},
        {"$currentDate": {"asked_at": True}},
        return_document=ReturnDocument.AFTER,
    )
    now = None if asked is None else asked.get("asked_at")
    return isinstance(now, datetime) and not is_alive(seen_at, now, lease_seconds)


async def renew(documents: Collection, held: JsonObject, values: JsonObject | None = None) -> None:
    """Show life in the document that the condition `held` finds, and set values in it.

    Raises LeaseLost if it finds none.
    """
    change: JsonObject = {"$currentDate": {"seen_at": True}}
    if values:
        change["$set"] = values
    if not (await documents.update_one(held, change)).matched_count:
        raise LeaseLost


class Lease(Generic[C]):
    """One lease, held or not by this process."""

    def __init__(
        self, database: Database, reader: Reader[C], documents: Collection, id_: str
    ) -> None:
        self._database = database
        self._reader = reader
        self._documents = documents
        self._id = id_
        self._held: JsonObject = {"_id": id_, "epoch": 0}

    async def take(
        self, me: str, new: JsonObject, lease_seconds: float = LEASE_SECONDS
    ) -> C | None:
        """Take the lease unless a living owner has it; return what its document says, else None.

        `new`: what the document says besides if it is not there yet. A document that cannot be read
        is not taken: only a process that knows its form can go on from it.
        """
        which = {"_id": self._id}
        if (found := await self._documents.find_one(which)) is None:
            now = await self._database.server_time()
            found = unowned = {**which, "owner": None, "epoch": 0, "seen_at": now, **new}
            with suppress(DuplicateKeyError):  # another process was quicker: it may take it, too
                await self._documents.insert_one(unowned)
        try:
            claim = self._reader.one(found)
        except UnreadableDocument:
            return None
        about = self._database, self._documents, self._id, claim.seen_at, lease_seconds
        if claim.owner not in (None, me) and not await is_dead(*about):
            return None
        taken = await self._documents.update_one(
            {**which, "epoch": claim.epoch, "seen_at": claim.seen_at},
            {"$set": {"owner": me, "epoch": claim.epoch + 1}, "$currentDate": {"seen_at": True}},
        )
        if not taken.matched_count:
            return None
        self._held["epoch"] = claim.epoch + 1
        return claim

    async def renew(self, values: JsonObject | None = None) -> None:
        """Show life, and set values. Raises LeaseLost."""
        await renew(self._documents, self._held, values)

    async def release(self) -> None:
        """Let any process have the lease, if this one still has it."""
        await self._documents.update_one(self._held, {"$set": {"owner": None}})
