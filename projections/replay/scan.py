"""The scan of a rebuild: ranges of tickets, each ticket folded whole and written once.

Done by any number of processes (`workers.py`); the sums are given back to be added up. Memory: a
range's events and documents.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import groupby, takewhile
from typing import NamedTuple, cast
from uuid import UUID

from domain.values import JsonObject
from eventstore.database import Database
from eventstore.event_document import EventDocument
from eventstore.log import EventStore, TicketRange
from eventstore.partition import partition_of
from projections.generations import By, Generation
from projections.projector.batch import FoldFailure, fold_ticket, later
from projections.projector.checkpoints import Applied
from projections.views import sums, tickets
from projections.views.saved_views import SavedView
from projections.workers import patiently

_INSERTED_AT_ONCE = 1000


class Job(NamedTuple):
    """What is to be folded into which views: all, or what was so at a time."""

    generation: Generation
    views: Sequence[SavedView]
    until: datetime | None = None
    by: By = "occurred"


class Folded(NamedTuple):
    """What a range of tickets came to; `read`: how many events were; `gaps`: tickets without all
    versions from 1 on.
    """

    tickets: int
    read: int
    added: Mapping[str, Counter[str]]
    applied: Mapping[int, Applied]
    stuck: Sequence[FoldFailure]
    gaps: Sequence[UUID] = ()


async def fold_range(database: Database, asked: tuple[Job, TicketRange]) -> Folded:
    """Fold the tickets of a range and write their documents; again if the database was away."""
    return await patiently(partial(_fold_range, database, *asked))


async def _fold_range(database: Database, job: Job, part: TicketRange, again: bool) -> Folded:
    reads = job.generation.of(database).collection(tickets.COLLECTION)
    documents: list[JsonObject] = []
    added: dict[str, Counter[str]] = defaultdict(Counter)
    applied: dict[int, Applied] = {}
    stuck: list[FoldFailure] = []
    gaps: list[UUID] = []
    store = EventStore(database)
    stored = await store.open(await store.of_range(part))
    for _, stream in groupby(stored, key=lambda e: e["ticket_id"].int):
        events = list(stream)
        ticket_id = events[0]["ticket_id"]
        if events[-1]["version"] != len(events):
            gaps.append(ticket_id)
        change, parked = fold_ticket(
            job.views, ticket_id, None, _until(job, events), reads.codec_options
        )
        if parked is not None:
            stuck.append(parked)
        if change is not None and change.after is not None:
            documents.append(cast("JsonObject", change.document))  # the driver takes raw ones too
            for name, entries in sums.contributed(change.after).items():
                added[name].update(entries)
            count, last = applied.get(partition_of(ticket_id), (0, None))
            count += change.after.version
            applied[partition_of(ticket_id)] = Applied(count, later(last, change.last))
        await asyncio.sleep(0)
    if again:
        ids = [key for key, _ in groupby(stored, key=lambda e: e["ticket_id"])]
        await reads.delete_many({"_id": {"$in": ids}})
    for start in range(0, len(documents), _INSERTED_AT_ONCE):
        await reads.insert_many(documents[start : start + _INSERTED_AT_ONCE], ordered=False)
    return Folded(len(documents), len(stored), dict(added), applied, stuck, gaps)


def _until(job: Job, stream: Sequence[EventDocument]) -> Sequence[EventDocument]:
    """Return a ticket's events up to the first that is of a later time than asked for."""
    if job.until is None:
        return stream
    until, time = job.until, "recorded_at" if job.by == "recorded" else "occurred_at"
    return list(
        takewhile(lambda event: cast("Mapping[str, datetime]", event)[time] <= until, stream)
    )
