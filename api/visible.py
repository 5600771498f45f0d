"""Waiting until the views show what a command has done (law L9: a list does after `Prefer: wait`).

All who wait in a process share one question: while anyone does, the versions of all awaited tickets
are asked for together, some times a second. Waiting never makes a command fail: it has been done,
and when time is up or the database stays silent, its answer does not say that it was waited for.
"""

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple, cast
from uuid import UUID

from pymongo.errors import PyMongoError

from eventstore.driver import Database
from projections import tickets

WAIT_SECONDS = 30
"""The longest that can be waited; who asks for more waits so long."""
_LOOK_SECONDS = 0.02


class _Awaited(NamedTuple):
    ticket_id: UUID
    version: int
    seen: asyncio.Future[None]


class Views:
    """What `ticket_reads` shows in one database, for those who wait for it."""

    def __init__(self, database: Database) -> None:
        self._reads = database.collection(tickets.COLLECTION)
        self._awaited: set[_Awaited] = set()
        self._looking: asyncio.Task[None] | None = None

    async def show(self, versions: Mapping[UUID, int], seconds: float) -> bool:
        """Wait until the tickets are shown at these versions or later; False if time is up."""
        loop = asyncio.get_running_loop()
        mine = {_Awaited(*wanted, loop.create_future()) for wanted in versions.items()}
        self._awaited |= mine
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        try:
            async with asyncio.timeout(seconds):
                for awaited in mine:
                    await awaited.seen
        except TimeoutError:
            return False
        finally:
            self._awaited -= mine
        return True

    async def _look(self) -> None:
        """Ask again and again until nobody waits."""
        try:
            while self._awaited:
                with suppress(PyMongoError):
                    await self._tell_those_who_can_see()
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            self._looking = None

    async def _tell_those_who_can_see(self) -> None:
        ids = list({awaited.ticket_id for awaited in self._awaited})
        found = self._reads.find({"_id": {"$in": ids}}, {"version": 1})
        shown = {document["_id"]: cast("int", document["version"]) async for document in found}
        for awaited in self._awaited:
            if shown.get(awaited.ticket_id, 0) >= awaited.version and not awaited.seen.done():
                awaited.seen.set_result(None)


def wait_seconds(prefer: str | None) -> int | None:
    """Read `wait` from a `Prefer` header (RFC 7240), at most WAIT_SECONDS.

    None if it is not there or makes no sense: preferences that are not understood are ignored.
    """
    for preference in (prefer or "").split(","):
        wait = re.fullmatch(r'\s*wait\s*=\s*"?([0-9]{1,9})"?\s*(?:;.*)?', preference, re.IGNORECASE)
        if wait is not None:
            return min(int(wait[1]), WAIT_SECONDS)
    return None
