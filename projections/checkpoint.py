"""How far the views are, and who may write them: one document, so that both change together.

The lease and the checkpoint share a document of `projections`. Whoever takes the lease raises its
epoch; every later write to the views carries the epoch in its condition, in the same transaction.
So a projector that was frozen and wakes up finds its epoch gone and writes nothing (L7), and no
process needs a clock that is right: a lease's age is judged by the database's own clock alone.

    {_id: "tickets", epoch, owner, renewed_at, phase, shape, token, applied, failure}

`shape` is the number of what has been folded into the views: views of another shape than today's,
as after an upgrade, are folded again.

`failure` is why the last attempt to go on failed, null once one has succeeded: a projector that
tries and fails for ever renews its lease all the time, and must not be taken for a healthy one.
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, cast

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from domain.errors import CasebookError
from domain.events import JsonObject
from eventstore.driver import Database, Session
from eventstore.store import ResumeToken
from projections.tickets import SHAPE

COLLECTION = "projections"
LEASE_SECONDS = 10

Phase = Literal["reset", "scan", "live"]
"""reset: the views are to be emptied; scan: the whole log is being folded; live: following it."""

_NAME = "tickets"
_FAILURE_CHARACTERS = 500
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class Fenced(CasebookError):
    """Another projector holds the lease now: for example after this one was frozen for a while."""

    def __init__(self) -> None:
        super().__init__("fenced", "another projector has taken over")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the document says. `applied` is the number of events folded into the views."""

    epoch: int
    owner: str | None
    renewed_at: datetime
    phase: Phase
    shape: int
    token: ResumeToken | None
    applied: int
    failure: str | None

    def is_held(self, server_time: datetime) -> bool:
        """Say whether its owner has shown life lately (`server_time`: the database's clock)."""
        age = server_time - self.renewed_at
        return self.owner is not None and age < timedelta(seconds=LEASE_SECONDS)


class Checkpoints:
    """The checkpoint document in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._documents = database.collection(COLLECTION)

    async def prepare(self) -> None:
        """Make the document if it is not there: nothing folded yet, nobody's."""
        first = {"_id": _NAME, "epoch": 0, "owner": None, "renewed_at": _LONG_AGO, "shape": SHAPE}
        with suppress(DuplicateKeyError):
            await self._documents.insert_one(
                {**first, "phase": "reset", "token": None, "applied": 0, "failure": None}
            )

    async def read(self) -> Checkpoint:
        document = await self._documents.find_one({"_id": _NAME})
        if document is None:
            await self.prepare()
            return await self.read()
        return _from_document(document)

    async def acquire(self, owner: str, *, steal: bool = False) -> Checkpoint | None:
        """Take the lease if it is free, left to lapse, or to be stolen; None if another has it."""
        seen = await self.read()
        if not steal and seen.is_held(await self._database.server_time()):
            return None
        taken = await self._documents.find_one_and_update(
            {"_id": _NAME, "epoch": seen.epoch, "renewed_at": seen.renewed_at},
            {
                "$set": {"owner": owner},
                "$inc": {"epoch": 1},
                "$currentDate": {"renewed_at": True},
            },
            return_document=ReturnDocument.AFTER,
        )
        return None if taken is None else _from_document(taken)

    async def enter(self, epoch: int, phase: Phase, token: ResumeToken | None) -> None:
        """Change the phase. Entering reset forgets the count, and means today's shape.

        Raises Fenced.
        """
        change: JsonObject = {"phase": phase, "token": token}
        if phase == "reset":
            change |= {"applied": 0, "shape": SHAPE}
        await self._write(epoch, {"$set": change})

    async def advance(
        self, epoch: int, applied: int, token: ResumeToken | None, session: Session | None = None
    ) -> None:
        """Count `applied` more events, keep `token` if given, renew the lease. Raises Fenced."""
        kept: JsonObject = {"failure": None}
        if token is not None:
            kept["token"] = token
        await self._write(epoch, {"$inc": {"applied": applied}, "$set": kept}, session)

    async def fail(self, epoch: int, failure: str) -> None:
        """Say why it does not go on. Raises Fenced."""
        await self._write(epoch, {"$set": {"failure": failure[:_FAILURE_CHARACTERS]}})

    async def release(self, epoch: int) -> None:
        """Give the lease back, if it is still ours: others need not wait for it to lapse."""
        await self._documents.update_one({"_id": _NAME, "epoch": epoch}, {"$set": {"owner": None}})

    async def _write(self, epoch: int, change: JsonObject, session: Session | None = None) -> None:
        result = await self._documents.update_one(
            {"_id": _NAME, "epoch": epoch},
            {**change, "$currentDate": {"renewed_at": True}},
            session=session,
        )
        if result.matched_count == 0:
            raise Fenced


def _from_document(document: JsonObject) -> Checkpoint:
    return Checkpoint(
        epoch=cast("int", document["epoch"]),
        owner=cast("str | None", document["owner"]),
        renewed_at=cast("datetime", document["renewed_at"]),
        phase=cast("Phase", document["phase"]),
        shape=cast("int", document.get("shape", 1)),
        token=cast("ResumeToken | None", document["token"]),
        applied=cast("int", document["applied"]),
        failure=cast("str | None", document["failure"]),
    )
