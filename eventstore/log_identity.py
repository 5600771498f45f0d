"""Which log this is, and which processes are at work on it.

A process keeps the last version of many tickets in memory. If the log is restored to an earlier
time while it runs, its next append would leave a hole: versions 1, 2, 3 and 5. So a log has an
identity, which a restore replaces before it writes its first event. Every process reads it when it
starts and every second; a process that finds another one writes nothing to the log any more
(`LogReplaced`), until it is started again.

    log_identity   {_id: "log", log, made_at, why, restoring}
    processes      {_id: "host:123:ab", kind, layout, seen_at}    a sign of life every few seconds

An append asks nothing of the database for this. What is appended in the second before the new
identity is read is a version without the one before it: the verifier names it, and projectors park
its ticket.

`restoring` names the restore that is under way or was interrupted: no process starts on half a log.
"""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import NamedTuple, cast
from uuid import UUID, uuid4

from domain.errors import CasebookError
from domain.values import JsonObject
from eventstore.background import Supervisor, end
from eventstore.documents import strict_decoder
from eventstore.event_document import utc_now
from eventstore.failures import StoreError
from eventstore.mongo.coalesced_reads import CoalescedReads
from eventstore.mongo.driver import Namespace
from eventstore.mongo.errors import DriverError, time_limit, translate_driver_errors
from eventstore.mongo.resend import insert_new

COLLECTION = "log_identity"
PROCESSES = "processes"
LOOK_SECONDS = 1.0
STALE_SECONDS = 3.0
"""A process that has not read the identity for so long, as after it was frozen, reads it before it
appends."""
LAYOUT = 2
"""Which layout of the databases this version knows: since 2, views are in one of their own."""
ALIVE_SECONDS = 15.0
"""For how long after its last sign of life a process counts as running."""

_BEAT_SECONDS = 5.0
_PATIENCE_SECONDS = 3.0
_FORGOTTEN_SECONDS = 3600.0
_LOG = "log"

_log = logging.getLogger(__name__)


class LogReplaced(StoreError):
    """The log was restored while the process ran: what it knows of tickets is of the former log."""

    kind = "unavailable"

    def __init__(self) -> None:
        super().__init__(
            "log_replaced",
            "the log has been restored since this process started: it takes no commands until it "
            "is started again",
        )


class RestoreUnderWay(CasebookError):
    """A restore has begun and is not done, or was interrupted: the log is not whole yet."""

    def __init__(self) -> None:
        super().__init__(
            "restore_under_way",
            "a restore into this database is not done: finish it by running it again",
        )


class Identity(NamedTuple):
    """Which log it is, since when and why; `restoring`: which restore is under way, if one is."""

    log: UUID
    made_at: datetime
    why: str = ""
    restoring: str | None = None


class LogIdentity:
    """The identity of one database's log, as this process knows it."""

    def __init__(
        self,
        database: Namespace,
        now: Callable[[], datetime] = utc_now,
        supervisor: Supervisor | None = None,
        reads: CoalescedReads | None = None,
    ) -> None:
        """`now`: the database's clock."""
        self._reads = reads or CoalescedReads(database)
        self._supervisor = supervisor or Supervisor()
        self._now = now
        self._identity = database[COLLECTION]
        self._processes = database[PROCESSES]
        self._known: UUID | None = None
        self._replaced = asyncio.Event()
        self._at_work = 0
        self._looked_at = self._beaten_at = float("-inf")
        self._me = new_member_id()

    @property
    def is_replaced(self) -> bool:
        """Whether the log is another one than when the process started."""
        return self._replaced.is_set()

    async def read(self) -> Identity | None:
        """Return the identity as it is stored; None if the log has none. Raises StoreError."""
        with translate_driver_errors():
            found = await self._identity.find_one({"_id": _LOG})
        return None if found is None else _STORED(found)

    async def ensure(self) -> Identity:
        """Return the identity; a log without one gets one. Raises LogReplaced, StoreError."""
        found = await self.read()
        if found is None:
            made: JsonObject = {
                "_id": _LOG,
                "log": uuid4(),
                "made_at": self._now(),
                "why": "it is new",
            }
            with translate_driver_errors():
                await insert_new(self._identity, [made])
            found = await self.read()
        if found is None:
            raise LogReplaced
        return found

    async def begin(self) -> None:
        """Remember which log this is; one without an identity gets one.

        Raises RestoreUnderWay, LogReplaced, StoreError.
        """
        found = await self.ensure()
        if found.restoring is not None:
            raise RestoreUnderWay
        if not self._at_work:  # nothing of this process's is of another log yet
            self._known = found.log
            self._replaced.clear()
        self._see(found.log)
        await self.check()

    async def check(self) -> None:
        """Raise LogReplaced if the log is another one than at the start.

        Asks the database only if the identity has not been read for some seconds; then it raises
        StoreUnavailable too. Checks nothing in a process that has not begun.
        """
        if self._known is None:
            return
        if not self.is_replaced and _now() - self._looked_at > STALE_SECONDS:
            await self._look()
        if self.is_replaced:
            raise LogReplaced

    @asynccontextmanager
    async def at_work(self, kind: str) -> AsyncIterator[None]:
        """Show signs of life, and look for another identity, inside the block.

        Raises what `begin` raises.
        """
        await self.begin()
        await self._remove_expired()
        await self._beat(kind)
        watching = asyncio.create_task(self._watch(kind))
        self._at_work += 1
        try:
            yield
        finally:
            self._at_work -= 1
            await end(watching)
            try:
                await self._processes.delete_one({"_id": self._me})
            except DriverError:
                _log.info(
                    "the database does not answer; this process counts as running for a while"
                )

    async def until_replaced(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do background work; cancel it when the log turns out to be another one."""
        working = asyncio.ensure_future(work())
        replaced = asyncio.create_task(self._replaced.wait())
        try:
            await asyncio.wait((working, replaced), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                await working
        finally:
            await end(working, replaced)

    async def end_when_replaced(self) -> None:
        """Wait until the log turns out to be another one, then raise LogReplaced."""
        await self._replaced.wait()
        raise LogReplaced

    async def running(self) -> list[str]:
        """Return which processes have shown life lately: "kind host:pid". Raises StoreError."""
        return [
            f"{each.get('kind')} {str(each['_id']).rpartition(':')[0]}"
            for each, age in await self._shown()
            if age < timedelta(seconds=ALIVE_SECONDS) and each["_id"] != self._me
        ]

    async def other_layouts_used(self, seconds: float) -> bool:
        """Return whether a process that knows another layout has shown life within `seconds`.

        Raises StoreError.
        """
        return any(
            each.get("layout") != LAYOUT and age < timedelta(seconds=seconds)
            for each, age in await self._shown()
        )

    async def replace(self, why: str, restoring: str | None = None) -> UUID:
        """Return the log a new identity: all processes that run stop writing to it.

        Raises StoreError.
        """
        new = uuid4()
        change = {"log": new, "made_at": self._now(), "why": why, "restoring": restoring}
        with translate_driver_errors():
            await self._identity.update_one({"_id": _LOG}, {"$set": change}, upsert=True)
        return new

    async def restored(self, restoring: str) -> None:
        """Say that a restore is done: processes may start. Raises StoreError."""
        with translate_driver_errors():
            await self._identity.update_one(
                {"_id": _LOG, "restoring": restoring}, {"$set": {"restoring": None}}
            )

    async def _watch(self, kind: str) -> None:
        async def step() -> None:
            await self._look()
            if _now() - self._beaten_at > _BEAT_SECONDS:
                await self._beat(kind)

        # Without it a restore would not be noticed.
        what = "reading the log's identity"
        await self._supervisor.keep(step, what, LOOK_SECONDS, LOOK_SECONDS)

    async def _look(self) -> None:
        async with time_limit(_PATIENCE_SECONDS):
            found = await self._reads.find(COLLECTION, {"_id": _LOG})
        self._see(next((each.get("log") for each in found), None))

    def _see(self, log: object) -> None:
        self._looked_at = _now()
        if log != self._known and not self.is_replaced:
            self._replaced.set()
            _log.error(
                "the log was restored: it is %s, and this process was started on %s. It takes no "
                "commands and projects nothing until it is started again",
                log,
                self._known,
            )

    async def _beat(self, kind: str) -> None:
        async with time_limit(_PATIENCE_SECONDS):
            await self._processes.update_one(
                {"_id": self._me},
                {"$set": {"kind": kind, "layout": LAYOUT}, "$currentDate": {"seen_at": True}},
                upsert=True,
            )
        self._beaten_at = _now()

    async def _remove_expired(self) -> None:
        """Remove what killed processes have left long ago."""
        forgotten = timedelta(seconds=_FORGOTTEN_SECONDS)
        gone = [each["_id"] for each, age in await self._shown() if age > forgotten]
        if gone:
            with translate_driver_errors():
                await self._processes.delete_many({"_id": {"$in": gone}})

    async def _shown(self) -> list[tuple[JsonObject, timedelta]]:
        """Return all signs of life by id, and how old each is by the database's clock."""
        with translate_driver_errors():
            found = await self._processes.find().sort("_id", 1).to_list()
        return [(each, abs(self._now() - cast("datetime", each["seen_at"]))) for each in found]


def new_member_id() -> str:
    """Return a new id for what is at work in this process: `host:pid:random`."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"


_STORED = strict_decoder(Identity, id_field=None)


def _now() -> float:
    return asyncio.get_running_loop().time()
