"""Whether any process has erased a person or redacted words: then what is kept of them is dropped.

At most `STALE_SECONDS` after a person has been erased no process uses a key of theirs: each process
looks every two seconds, or before it uses a key if it has not looked lately.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Protocol
from weakref import WeakSet

from domain.errors import CasebookError
from eventstore.background import Supervisor
from eventstore.event_document import EventDocument
from eventstore.mongo.coalesced_reads import CAN_WAIT_SECONDS, CoalescedReads
from eventstore.mongo.driver import AsyncCollection
from eventstore.mongo.errors import time_limit, translate_driver_errors
from eventstore.redactions import Redactions

PERSON_EVENTS = "person_events"
"""The collection of the log's database that holds erasures."""
STALE_SECONDS = 3.0
"""For how long after an erasure a process may still use a key of that person."""

_LOOK_SECONDS = 1.1  # so that it goes along with every other look at the log's identity
_KEPT_SECONDS = 300.0


class Cache(Protocol):
    """What keeps something of tickets or persons in memory."""

    def invalidate(self) -> None: ...


class ErasureNews:
    """What one process knows of erasures. Bound to the event loop in which it is first used."""

    def __init__(
        self, erasures: AsyncCollection[EventDocument], reads: CoalescedReads, keys: Cache
    ) -> None:
        """`erasures`: the log of persons, which `reads` reads too. `keys`: those in memory, which
        are dropped every few minutes as well.
        """
        self.redactions = Redactions(reads)
        """What nobody is to read any more, whoever they are."""
        self._erasures = erasures
        self._reads = reads
        self._keys = keys
        self._others: WeakSet[Cache] = WeakSet()
        self._looking = asyncio.Lock()
        self._looked_at = self._again_at = self._cleared_at = self._learned_at = float("-inf")
        self._seen: object = None

    def on_news(self, other: Cache) -> None:
        """Have a cache invalidated soon after an erasure or redaction, while the cache lives."""
        self._others.add(other)

    def invalidate(self) -> None:
        """Have all that is kept invalidated."""
        self._keys.invalidate()
        for other in list(self._others):
            other.invalidate()

    async def watch(self, supervisor: Supervisor) -> None:
        """Look for erasures until cancelled; forget all keys while the database is silent."""

        async def step() -> None:
            try:
                # Who cannot wait does not wait for this: they ask at once, and this goes along.
                async with time_limit(STALE_SECONDS - _LOOK_SECONDS):
                    await self._look(CAN_WAIT_SECONDS)
            except CasebookError:
                self._keys.invalidate()
                raise

        await supervisor.keep(step, "looking for erasures", _LOOK_SECONDS, _LOOK_SECONDS)

    async def latest(self) -> object:
        """Return something that is another once a step of an erasure has been taken, by what is
        known of `STALE_SECONDS` ago at most.
        """
        await self.look_if_stale()
        return self._seen

    def learn(self, events: Iterable[Mapping[str, object]]) -> None:
        """Know of what some stored events redact, and have caches invalidated if it is news."""
        self._learned(is_news=self.redactions.learn(events))

    async def _learn_redactions(self, within_seconds: float) -> None:
        self._learned(is_news=await self.redactions.look(within_seconds))

    def _learned(self, *, is_news: bool) -> None:
        if is_news:
            self._learned_at = asyncio.get_running_loop().time()
            self.invalidate()

    def look_again(self) -> None:
        """Have the next question find what this process has just written."""
        self._again_at = asyncio.get_running_loop().time()

    @property
    def _is_stale(self) -> bool:
        # Who watches looks more often than this; other processes do it when they ask.
        oldest = asyncio.get_running_loop().time() - (STALE_SECONDS - _LOOK_SECONDS)
        return self._looked_at < max(oldest, self._again_at)

    async def look_if_stale(self) -> None:
        """Look, unless this process has looked lately. Raises StoreUnavailable."""
        if self._is_stale:
            # Bounded: a task that waits behind one without an answer has its own time limit.
            async with time_limit(STALE_SECONDS), self._looking:
                if self._is_stale:
                    await self._look()

    async def _look(self, within_seconds: float = 0.0) -> None:
        now = asyncio.get_running_loop().time()
        with translate_driver_errors():
            newest, _ = await asyncio.gather(
                self._reads.find(
                    PERSON_EVENTS, order={"_id": -1}, limit=1, within_seconds=within_seconds
                ),
                self._learn_redactions(within_seconds),
            )
            # The count as well: ids are made by clocks that differ.
            count = await self._erasures.estimated_document_count()
        if now < self._looked_at:
            return  # another look, begun later, was sooner done
        seen = (count, *(each["_id"] for each in newest))
        is_news = self._seen is not None and seen != self._seen
        # A key that another process was just about to destroy may have been read once more.
        is_late = self._looked_at < self._learned_at + _LOOK_SECONDS
        self._seen, self._looked_at = seen, now
        if is_news:
            self.invalidate()
        if is_late or now - self._cleared_at > _KEPT_SECONDS:
            self._keys.invalidate()
            self._cleared_at = now
