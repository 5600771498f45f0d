"""Group commit: single inserts that wait for the disk together.

The idea is that of a database's log writer. While one write is in flight, what is to be written
next waits; when it returns, all that has gathered goes out as one unordered `insert_many`, and each
caller learns the fate of its own document. A lone writer waits for no other; the busier the log,
the larger the groups, so the cost of a round trip and a sync is shared.

Group members are independent: a duplicate key is one member's conflict and nobody else's failure.
The queue is bounded: when the database is slower than its writers for long, new ones are turned
away at once, with nothing written, rather than kept until memory ends. A group that is not answered
within the limit of an operation (`limits.py`) is over for its members, of whom nobody knows whether
they were written, and the next group goes out.
"""

import asyncio
from collections import deque
from contextvars import Context
from typing import NamedTuple

from prometheus_client import Gauge, Histogram

from eventstore.event_document import EventDocument
from eventstore.failures import StoreBusy, StoreFailed, StoreUnavailable
from eventstore.mongo.driver import AsyncCollection
from eventstore.mongo.errors import BulkWriteError, DriverError, translated, write_failure
from eventstore.mongo.limits import in_batches, size_of
from eventstore.mongo.watchdog import Watched

GROUP_DOCUMENTS = 500
QUEUE_DOCUMENTS = 10_000


_GROUPS = Histogram(
    "casebook_commit_group_documents",
    "Events that were written together.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 500),
)
_QUEUE = Gauge("casebook_commit_waiting", "Events that wait to be written.")


class _Waiting(NamedTuple):
    document: EventDocument
    size: int
    written: asyncio.Future[None]


class GroupCommit:
    """Inserts documents into one collection for many tasks of one event loop."""

    def __init__(
        self, collection: AsyncCollection[EventDocument], watched: Watched | None = None
    ) -> None:
        """`watched` is told when a group is written, and when that is answered."""
        self._collection = collection
        self._watched = watched or Watched("writing")
        self._waiting: deque[_Waiting] = deque()
        self._writer: asyncio.Task[None] | None = None

    async def insert(self, document: EventDocument) -> None:
        """Insert one document and return when it is durable.

        Raises VersionConflict, StoreUnavailable and StoreFailed for this document, and StoreBusy if
        too many wait already: then nothing is written.
        """
        if len(self._waiting) >= QUEUE_DOCUMENTS:
            raise StoreBusy
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(document, size_of(document), written)
        self._waiting.append(waiting)
        _QUEUE.set(len(self._waiting))
        if self._writer is None:
            # In no request's context: it writes for many.
            self._writer = asyncio.create_task(self._write(), context=Context())
        await waiting.written

    async def _write(self) -> None:
        """Write group after group until nobody waits."""
        try:
            while self._waiting:
                group = next(in_batches(self._waiting, GROUP_DOCUMENTS, lambda each: each.size))
                for _ in group:
                    self._waiting.popleft()
                _QUEUE.set(len(self._waiting))
                _GROUPS.observe(len(group))
                await self._write_group(group)
        finally:
            self._writer = None
            for waiting in self._waiting:  # only if we were cancelled: the process is ending
                _settle(waiting, StoreUnavailable())
            self._waiting.clear()

    async def _write_group(self, group: list[_Waiting]) -> None:
        failures: dict[int, Exception] = {}
        rest: Exception | None = StoreUnavailable()  # unless we learn better
        try:
            with self._watched:
                await self._collection.insert_many([w.document for w in group], ordered=False)
            rest = None
        except BulkWriteError as error:
            details = error.details
            failures = {e["index"]: write_failure(e) for e in details["writeErrors"]}
            if not details["writeConcernErrors"]:
                rest = None
        except DriverError as error:
            rest = translated(error)
        except Exception as error:  # noqa: BLE001
            # One of them cannot even be sent: for example a number that BSON does not hold. Nothing
            # was, so each goes alone, and only the culprit fails.
            for waiting in group if len(group) > 1 else ():
                await self._write_group([waiting])
            rest = StoreFailed(f"the event cannot be stored ({type(error).__name__})")
        finally:
            for index, waiting in enumerate(group):
                _settle(waiting, failures.get(index, rest))


def _settle(waiting: _Waiting, failure: Exception | None) -> None:
    if waiting.written.done():  # who waited has gone
        return
    if failure is None:
        waiting.written.set_result(None)
    else:
        waiting.written.set_exception(failure)
