"""The scan of a rebuild: ranges of tickets, each ticket folded whole and written once.

Done by any number of processes (`workers.py`); the sums are given back to be added up. Memory: a
range's events and documents.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import groupby, takewhile
from typing import Literal, NamedTuple, cast
from uuid import UUID

from domain.values import JsonObject
from eventstore.database import Database
from eventstore.event_document import EventDocument
from eventstore.log import EventStore, TicketRange
from eventstore.mongo.driver import RawBSONDocument
from eventstore.mongo.limits import in_batches, size_of
from eventstore.partition import partition_of
from projections.folding import FoldFailure, fold_ticket
from projections.generations import By, Generation
from projections.projector.checkpoints import Applied
from projections.views import sums, tickets
from projections.views.saved_views import SavedView
from projections.workers import retry_while_unavailable

_INSERTED_AT_ONCE = 1000


class Job(NamedTuple):
    """What is to be folded into which views: all, or what was so at a time."""

    generation: Generation
    until: datetime | None = None
    by: By = "occurred"


@dataclass(slots=True)
class Folded:
    """What tickets came to, or some of them; `read`: how many events were; `gaps`: tickets without
    all versions from 1 on.
    """

    tickets: int = 0
    read: int = 0
    added: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    applied: dict[int, Applied] = field(default_factory=lambda: defaultdict(Applied))
    failures: list[FoldFailure] = field(default_factory=list)
    gaps: list[UUID] = field(default_factory=list)

    def add(self, more: "Folded") -> None:
        """Add what other tickets came to."""
        self.tickets += more.tickets
        self.read += more.read
        self.failures += more.failures
        self.gaps += more.gaps
        sums.add(self.added, more.added)
        for number, applied in more.applied.items():
            self.applied[number] = self.applied[number].and_more(*applied)


async def fold_range(
    database: Database, asked: tuple[Job, Sequence[SavedView], TicketRange]
) -> Folded:
    """Fold the tickets of a range and write their documents; again if the database was away."""
    return await retry_while_unavailable(partial(_fold_range, database, *asked))


async def _fold_range(
    database: Database, job: Job, views: Sequence[SavedView], part: TicketRange, again: bool
) -> Folded:
    reads = job.generation.of(database).collection(tickets.COLLECTION)
    documents: list[RawBSONDocument] = []
    store = EventStore(database)
    stored = await store.open(await store.of_range(part), command=False)
    folded = Folded(read=len(stored))
    ids: list[UUID] = []
    for ticket_id, stream in groupby(stored, key=lambda e: e["ticket_id"]):
        ids.append(ticket_id)
        events = list(stream)
        if events[-1]["version"] != len(events):
            folded.gaps.append(ticket_id)
        then = _until(job, events)
        change, failure = await fold_ticket(job.generation.zones, views, ticket_id, None, then)
        if failure is not None:
            folded.failures.append(failure)
        if change is not None and change.after is not None and change.written is not None:
            documents.append(change.written)
            sums.add(folded.added, sums.contributed(change.after))
            number = partition_of(ticket_id)
            folded.applied[number] = folded.applied[number].and_more(
                change.after.version, change.last
            )
        await asyncio.sleep(0)
    folded.tickets = len(documents)
    if again:
        await reads.delete_many({"_id": {"$in": ids}})
    for some in in_batches(documents, _INSERTED_AT_ONCE, size_of):
        # The driver takes raw ones too.
        await reads.insert_many(cast("list[JsonObject]", some), ordered=False)
    return folded


def _until(job: Job, stream: Sequence[EventDocument]) -> Sequence[EventDocument]:
    """Return a ticket's events up to the first that is of a later time than asked for."""
    if job.until is None:
        return stream
    until = job.until
    time: Literal["recorded_at", "occurred_at"]
    time = "recorded_at" if job.by == "recorded" else "occurred_at"
    return list(takewhile(lambda event: event[time] <= until, stream))
