"""Is a read document what its ticket's events fold to? Compared one by one, while they change.

A document of version n must be what the ticket's first n events fold to, at any time. So ranges of
tickets are compared by several processes (`workers.py`); what the tickets add to the sums, at the
versions that were seen, is given back.

Nearly all documents are, to the byte, what would be written now. Only of the others it is looked
at what they say: one that is in the middle of its ticket's events, or has been damaged.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import NamedTuple
from uuid import UUID

from domain.days import Zones
from eventstore.database import Database
from eventstore.documents import Document, uuid_of
from eventstore.event_document import EventDocument, from_document
from eventstore.log import EventStore, TicketRange
from eventstore.mongo.driver import RawBSONDocument, decode_bson, encode_bson
from eventstore.partition import partition_of
from projections.folding import FOLDS_AT_A_TIME
from projections.generations import Generation
from projections.views import saved_views, sums, tickets
from projections.views.saved_views import SavedView, SavedViews
from projections.views.tickets import TicketRead
from projections.workers import retry_while_unavailable

Streams = Mapping[UUID, Sequence[EventDocument]]


class Difference(NamedTuple):
    """One thing that is not as it should be. `expected`: what the log says."""

    what: str
    field: str
    expected: object
    found: object

    @property
    def ticket_id(self) -> UUID | None:
        """The ticket that it is about, if it is one."""
        kind, _, id_ = self.what.partition(" ")
        return UUID(id_) if kind == "ticket" else None

    def __str__(self) -> str:
        return f"{self.what}: {self.field}: expected {self.expected!r}, found {self.found!r}"


class Asked(NamedTuple):
    """What is to be known to compare read documents: `views` are counted, `waiting` are parked."""

    generation: Generation
    views: Sequence[SavedView]
    waiting: Collection[UUID]
    recent: datetime


@dataclass(slots=True)
class Checked:
    """What was found of some tickets.

    `added`: what they add to the sums at the `versions` that their documents show; `behind`: those
    whose documents show less than the log has, and how much that is.
    """

    differences: list[Difference] = field(default_factory=list)
    versions: dict[UUID, int] = field(default_factory=dict)
    added: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    behind: dict[UUID, int] = field(default_factory=dict)


class CheckedRange(NamedTuple):
    """The same of a range; of the versions only those that cannot be told from the log later."""

    tickets: int
    log_events: int
    shown_events: Counter[int]
    checked: Checked


async def check_range(database: Database, asked: tuple[Asked, TicketRange]) -> CheckedRange:
    """Compare the read documents of a range with what its events fold to."""
    return await retry_while_unavailable(partial(_check_range, database, *asked))


async def _check_range(
    database: Database, about: Asked, part: TicketRange, _again: bool
) -> CheckedRange:
    store = EventStore(database)
    events = await store.open(await store.of_range(part), command=False)
    streams = contiguous(events)
    checked = await check(about.generation.of(database), store, about, streams)
    shown = by_partition(checked.versions)
    to_keep = {e["ticket_id"] for e in events if e["recorded_at"] >= about.recent}
    to_keep |= {t for t, stream in streams.items() if checked.versions.get(t) != len(stream)}
    checked.versions = {t: checked.versions.get(t, 0) for t in to_keep}
    return CheckedRange(len(streams), len(events), shown, checked)


async def check(views: Database, store: EventStore, asked: Asked, streams: Streams) -> Checked:
    reads = views.collection(tickets.COLLECTION)
    raw = reads.with_options(reads.codec_options.with_options(document_class=RawBSONDocument))
    found = {bytes(d.raw) async for d in raw.find({"_id": {"$in": [*streams]}})}
    checked = Checked()
    others: list[UUID] = []
    for n, (ticket_id, stream) in enumerate(streams.items(), start=1):
        if not _is_as_folded(checked, asked, ticket_id, stream, found):
            others.append(ticket_id)
        if n % FOLDS_AT_A_TIME == 0:
            await asyncio.sleep(0)
    stored = await documents_of(views, others) if others else {}
    # What was written between the two reads is in the document and not in the stream.
    ahead = [t for t, document in stored.items() if _version(document) > len(streams[t])]
    if ahead:
        streams = {
            **streams,
            **contiguous(await store.open(await store.of_tickets(ahead), command=False)),
        }
    for ticket_id in others:
        document, stream = stored.get(ticket_id), streams[ticket_id]
        if _version(document) < len(stream) and ticket_id not in asked.waiting:
            checked.behind[ticket_id] = len(stream)
        if document is not None:
            _compare(checked, asked, ticket_id, document, stream)
            await asyncio.sleep(0)
    return checked


def _is_as_folded(
    checked: Checked,
    asked: Asked,
    ticket_id: UUID,
    stream: Sequence[EventDocument],
    found: Collection[bytes],
) -> bool:
    """Return whether what was found has the document that would be written of all of a ticket's
    events; if so, take it.
    """
    try:
        read = fold(stream, asked.generation.zones)
        if read is None:
            return False
        read = replace(read, in_views=saved_views.counting(asked.views, read))
        document = encode_bson(tickets.to_document(read))
    except Exception:  # noqa: BLE001 the comparison of what it says will tell
        return False
    if document not in found:
        return False
    sums.add(checked.added, sums.contributed(read))
    checked.versions[ticket_id] = read.version
    return True


def _compare(
    checked: Checked,
    asked: Asked,
    ticket_id: UUID,
    stored: Document,
    stream: Sequence[EventDocument],
) -> None:
    """Compare one document with the fold of as many events as it says that it has."""
    ticket, version = f"ticket {ticket_id}", stored.get("version")
    if not isinstance(version, int) or not 0 < version <= len(stream):
        wrong = Difference(ticket, "version", f"1 to {len(stream)}", version)
        checked.differences.append(wrong)
        version = len(stream)  # what it has added to the sums is most likely that
    try:
        read = fold(stream[:version], asked.generation.zones)
    except Exception as error:  # noqa: BLE001 that is what is to be told
        checked.differences.append(Difference(ticket, "events", "what can be folded", repr(error)))
        return
    if read is None:
        raise AssertionError("a fold of events is a ticket")
    sums.add(checked.added, contributed(read, asked.views))
    checked.versions[ticket_id] = version
    expected = decode_bson(encode_bson(tickets.to_document(read)))
    checked.differences += [
        Difference(ticket, name, expected.get(name), stored.get(name))
        for name in sorted(expected.keys() | stored.keys())
        if name != SavedViews.field
        and not (name in expected and name in stored and _is_same(expected[name], stored[name]))
    ]
    matching = set(saved_views.counting(asked.views, read))
    in_views = stored.get(SavedViews.field)
    counted_in = set(in_views) if isinstance(in_views, list) else set()
    checked.differences += [
        Difference(ticket, f"counted in view {v.name!r}", v.id in matching, v.id in counted_in)
        for v in asked.views
        if (v.id in matching) != (v.id in counted_in)
    ]


def _is_same(one: object, other: object) -> bool:
    """Return whether two values are, of one type, the same: in Python True is 1, and 1.0 too."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return one == other


def by_partition(versions: Mapping[UUID, int]) -> Counter[int]:
    events: Counter[int] = Counter()
    for ticket_id, version in versions.items():
        events[partition_of(ticket_id)] += version
    return events


def contributed(read: TicketRead, views: Sequence[SavedView]) -> sums.Contributions:
    in_views = dict.fromkeys(saved_views.counting(views, read), 1)
    return {**sums.contributed(read), SavedViews.field: in_views}


async def documents_of(views: Database, ids: Iterable[UUID]) -> dict[UUID, Document]:
    found = views.collection(tickets.COLLECTION).find({"_id": {"$in": list(ids)}})
    return {uuid_of(document): document async for document in found}


def contiguous(events: Iterable[EventDocument]) -> dict[UUID, list[EventDocument]]:
    """Return the events of each ticket, as far as they follow each other. They come in order."""
    streams: dict[UUID, list[EventDocument]] = {}
    for event in events:
        stream = streams.setdefault(event["ticket_id"], [])
        if event["version"] == len(stream) + 1:
            stream.append(event)
    return streams


def _version(document: Document | None) -> int:
    version = None if document is None else document.get("version")
    return version if isinstance(version, int) else 0


def fold(stream: Sequence[EventDocument], zones: Zones) -> TicketRead | None:
    return tickets.fold(None, map(from_document, stream), zones)
