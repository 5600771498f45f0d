"""Counting the tickets that are there already, for saved views that are new.

Each process looks through the tickets of its own partitions, a little at a time between its
batches, and says in their checkpoints once it is done. Tickets that change meanwhile may come up or
not: the process that writes them counts them. If anything goes wrong it begins again, for what is
counted is found to be so.
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple
from uuid import UUID

from eventstore.database import Database
from eventstore.documents import uuid_of
from eventstore.partition import partition_of
from projections.projector.batch import BatchWriter, OwnedPartitions
from projections.projector.checkpoints import Checkpoints
from projections.projector.partitions import Partition
from projections.views import tickets
from projections.views.saved_views import SavedView

TICKETS_AT_ONCE = 500


class _Recount(NamedTuple):
    """One view, the partitions that do not count it yet, and their tickets that match it."""

    view: SavedView
    epochs: Mapping[int, int]
    tickets: AsyncIterator[UUID]


class SavedViewBackfill:
    """What one process has still to count."""

    def __init__(self, database: Database, writer: BatchWriter, checkpoints: Checkpoints) -> None:
        self._scan = partial(database.scan, tickets.COLLECTION)
        self._writer = writer
        self._checkpoints = checkpoints
        self._current: _Recount | None = None
        self._views: Iterable[SavedView] = ()

    @property
    def is_at_work(self) -> bool:
        """Whether there is more to be counted."""
        return self._current is not None

    def see(self, views: Iterable[SavedView], mine: Mapping[int, Partition]) -> None:
        """See what is to be counted next, if anything."""
        self._views = views
        for view in views:
            epochs = {
                number: partition.epoch
                for number, partition in mine.items()
                if view.id not in partition.views and partition.phase == "live"
            }
            if epochs:
                current = self._current
                if current is None or (current.view, current.epochs) != (view, epochs):
                    self._current = _Recount(view, epochs, self._matching(view, set(epochs)))
                return
        self._current = None

    async def step(self, owned: OwnedPartitions, mine: dict[int, Partition]) -> None:
        """Count some more tickets; note in `mine` what is done. Raises as `BatchWriter` does."""
        recount, self._current = self._current, None  # if it fails now, it begins again
        if recount is None:
            return
        ids: list[UUID] = []
        async for ticket_id in recount.tickets:
            ids.append(ticket_id)
            if len(ids) == TICKETS_AT_ONCE:
                break
        if ids:
            await self._writer.recount(owned, ids)
        if len(ids) == TICKETS_AT_ONCE:
            self._current = recount
            return
        await self._checkpoints.count(recount.epochs, recount.view.id)
        for number in recount.epochs:
            partition = mine[number]
            mine[number] = replace(partition, views=partition.views | {recount.view.id})
        self.see(self._views, mine)

    async def _matching(self, view: SavedView, numbers: set[int]) -> AsyncIterator[UUID]:
        async for found in self._scan(view.filter.listed.condition(), {"_id": 1}):
            ticket_id = uuid_of(found)
            if partition_of(ticket_id) in numbers:
                yield ticket_id
