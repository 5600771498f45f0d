"""The append-only log of ticket events.

The idea: one collection, one document per event, and one unique index on (ticket_id, version) that
is lock, order and access path at once. The writer that inserts version n+1 first has written it;
every other one gets a duplicate key and decides again from the new state (laws L1, L2). Nothing
here updates or deletes a document of the log.

One event is one insert, and inserts that wait at the same time share a round trip and a sync
(`group_commit.py`). Several events of one command are one transaction, all or nothing (L4). Both
are acknowledged by a majority, on disk (L3).

What is personal in an event is stored sealed, under a key of the person it belongs to
(`personal/`): `chain` seals it, `open` opens it, and nobody else needs to know. `load`
gives events opened; what is called stored is as it is stored.

Order: versions inside a ticket, and the change stream's commit order. There is no global position;
a counter would be the one document through which all writers queue. A consumer of the log counts
versions per ticket and asks `load` for what a stream did not bring (L8).
"""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import pairwise, product, starmap
from typing import NamedTuple, cast
from uuid import UUID

from domain.codec import EventData
from domain.errors import HistoryError
from eventstore.database import Database
from eventstore.event_document import (
    TICKET_EVENTS,
    Envelope,
    EventDocument,
    Head,
    Metadata,
    chained,
    described,
    from_document,
    is_event,
    to_document,
)
from eventstore.failures import HistoryLost, NothingToAppend, VersionConflict
from eventstore.group_commit import GroupCommit
from eventstore.mongo.driver import AsyncCollection, ChangeStream, Session
from eventstore.mongo.errors import (
    BulkWriteError,
    OperationFailure,
    describe,
    translate_driver_errors,
    write_failure,
)
from eventstore.mongo.limits import Index, count, make_indexes
from eventstore.mongo.resend import send_until_known
from eventstore.mongo.resume_tokens import ResumeToken
from eventstore.partition import PARTITIONS, in_partitions
from eventstore.personal.sealing import Key, all_personal, opened, persons, sealed, whose_command

COLLECTION = TICKET_EVENTS

# ChangeStreamFatalError, ChangeStreamHistoryLost, InvalidResumeToken, and the codes without a name
# for tokens that cannot be read.
_HISTORY_LOST = frozenset({280, 286, 260, 40647, 40649, 50811})
_INDEXES = frozenset(
    {"ticket_id_1_version_1", "recorded_at_1", "sealed.person_1", "data.redacts_1"}
)
Heads = dict[UUID, tuple[int, bytes]]
"""The last version and hash of each ticket."""
RANGE_EVENTS = 2000
"""How much a walk through the log by ticket has in memory at a time."""
PART_EVENTS = 500
_FOUND_AT_ONCE = 2500  # or as many as 16 MB hold; the drivers would ask for 101 at first
SILENT_SECONDS = 0.25
_AT_ONCE_SECONDS = 0.01
_OPENED_AT_A_TIME = 50  # then others have a turn
_TICKETS_ASKED = 1000
_MOST_SAMPLED = 2**16
_FIRST_ID, _LAST_ID = UUID(int=0), UUID(int=2**128 - 1)


class Change(NamedTuple):
    """A new event as it is stored, and the token that resumes behind it."""

    document: EventDocument
    token: ResumeToken


class TicketRange(NamedTuple):
    """Tickets from one id up to before another; None: from the first on, or to the last."""

    first: UUID | None
    before: UUID | None


class Recorded(NamedTuple):
    """Which event was recorded when."""

    ticket_id: UUID
    version: int
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class Feed:
    """An open change stream over the log."""

    _stream: ChangeStream
    is_merged: bool
    """Whether a router merges it of several shards' streams. Then an event is held back until each
    shard has written something later, or a no-op (`periodicNoopIntervalSecs`, 10 s), and that
    nothing comes says nothing. One server says so only when it has read to the end of its oplog.
    """

    @property
    def token(self) -> ResumeToken | None:
        """Resumes behind all that has been given; on a quiet stream it moves on by itself."""
        return self._stream.resume_token

    async def next(self) -> Change | None:
        """Return the next event, or None if none comes within a moment (`EventStore.watch`)."""
        change = await self._stream.try_next()
        if change is None:
            return None
        document = cast("EventDocument", change["fullDocument"])
        return Change(document, cast("ResumeToken", change["_id"]))


class EventStore:
    """The log in one database. Safe for any number of tasks and processes at once."""

    def __init__(
        self,
        database: Database,
        collection: str = COLLECTION,
        *,
        sealing: bool = True,
        patience_seconds: float | None = None,
    ) -> None:
        """`sealing=False` stores personal fields as they are, like versions before sealing did.
        `patience_seconds`: for how long an append is sent until its outcome is known.
        """
        self._patience_seconds = patience_seconds
        self._database = database
        self.watchdog = database.watchdog
        """What must get on in this process."""
        self.vault = database.vault
        """The keys of the persons whose words are in the log."""
        self.clock = database.clock
        """What its events are dated by."""
        self.numbers = database.numbers
        """What its tickets are called by people."""
        self._sealing = sealing
        self._name = collection
        self._events = cast("AsyncCollection[EventDocument]", database.collection(collection))
        self._group = GroupCommit(self._events, database.watchdog.watch("writing to the log"))

    async def prepare(self) -> None:
        """Make the collection's indexes, if they are not there. Safe to repeat.

        A database user who may only find and insert (L1) needs them to have been made before.
        """
        await self._database.clear_abandoned_transactions()
        with suppress(OperationFailure):  # there is no collection yet
            if (await self._events.index_information()).keys() >= _INDEXES:
                return
        await make_indexes(
            self._events,
            Index([("ticket_id", 1), ("version", 1)], unique=True),
            Index([("recorded_at", 1)]),  # to see how far the views are behind
            Index([("sealed.person", 1)], sparse=True),  # whom it is about
            Index([("data.redacts", 1)], sparse=True),
        )

    async def chain(
        self,
        ticket_id: UUID,
        head: Head,
        events: Iterable[EventData],
        metadata: Metadata,
        occurred_at: datetime,
        recorded_at: datetime,
        whose: str | None = None,
    ) -> list[Envelope]:
        """Wrap the events of one command as the next of their stream, what is personal sealed.
        `whose`: of whom something personal is in them, or in its events of other streams.

        Raises PersonGone, KeyUnusable, NoMasterKey, StoreUnavailable.
        """
        if not self._sealing:
            return chained(ticket_id, head, events, metadata, occurred_at, recorded_at)
        events = [*events]
        whose = whose or whose_command(events)
        events = [each._replace(personal=all_personal(each, metadata, whose)) for each in events]
        names = {each.person for event in events for each in event.personal}
        keys = await self.vault.of_names(names) if names else {}

        def protect(document: EventDocument, event: EventData) -> EventDocument:
            return sealed(document, event.personal, keys)

        return chained(ticket_id, head, events, metadata, occurred_at, recorded_at, protect)

    async def open(
        self,
        documents: Sequence[EventDocument],
        *,
        missing: Key | None = None,
        command: bool = True,
    ) -> list[EventDocument]:
        """Return stored documents with their sealed fields opened: `ERASED` where their person has
        been erased, `REDACTED` for what was redacted. What cannot be opened stays as it is:
        `Envelope.readable` raises then. `missing` opens what a key is missing for. `command`:
        whether what is sealed of their commands is opened too; no view shows it.

        Raises KeyUnusable, NoMasterKey, StoreUnavailable.
        """
        self.vault.news.learn(documents)
        await self.vault.news.look_if_stale()
        keys = await self.vault.of_documents(documents)
        if missing is not None:
            whose = (person for document in documents for person in persons(document))
            keys = dict.fromkeys(whose, missing) | keys
        made: list[EventDocument] = []
        for start in range(0, len(documents), _OPENED_AT_A_TIME):
            if start:
                await asyncio.sleep(0)
            some = documents[start : start + _OPENED_AT_A_TIME]
            made += [
                self.vault.news.redactions.without(opened(each, keys, command=command))
                for each in some
            ]
        return made

    async def fetch_keys(self, documents: Sequence[EventDocument]) -> None:
        """Have the keys in memory that `open` will ask for one document after the other."""
        await self.vault.of_documents(documents)

    async def destroy_redacted(self, ticket_id: UUID, version: int) -> bool:
        """Destroy the keys of what was redacted of an event; return whether all of that is gone,
        and not hidden alone as what former versions have written. Safe to repeat.

        Raises KeyUnusable, NoMasterKey, StoreUnavailable.
        """
        found = await self._find({"ticket_id": ticket_id, "version": version})
        gone = [await self.vault.destroy_redacted(event) for event in found]
        self.vault.news.redactions.to_destroy.discard((ticket_id, version))
        return gone == [True]

    async def tickets_of(self, person: UUID) -> list[UUID]:
        """Return the tickets with events in which a field of a person is sealed."""
        found = await self._find({"sealed.person": person}, ("ticket_id",))
        return list(dict.fromkeys(event["ticket_id"] for event in found))

    async def unsealed_naming(
        self, name: str, fields: Iterable[str], tickets: Iterable[UUID]
    ) -> set[UUID]:
        """Return those of some tickets with an event that has a name, unsealed, in one of some
        fields of its data: such events are older than sealing.
        """
        found: set[UUID] = set()
        wanted = list(tickets)
        for field, start in product(fields, range(0, len(wanted), _TICKETS_ASKED)):
            some = {"$in": wanted[start : start + _TICKETS_ASKED]}
            events = await self._find({"ticket_id": some, f"data.{field}": name}, ("ticket_id",))
            found |= {event["ticket_id"] for event in events}
        return found

    async def append(self, events: Sequence[Envelope], *, sent_before: bool = False) -> None:
        """Write the events of one command, all or none, and return when they are durable.

        They may be of several tickets, each ticket's in order. Where no answer comes, the same
        documents are sent again: reading would not tell, for what was sent may arrive later. In the
        end they are written now, or were before; or their versions are another's, and then they
        never will be. `sent_before`: they were sent before, and nobody knows what became of that.

        Raises VersionConflict if a ticket has other events of their versions; StoreBusy and
        StoreFailed if they were not written; OutcomeUnknown if nobody knows when patience ends;
        LogReplaced, with nothing written, if this is no longer the log that the process was started
        on; NothingToAppend for no events.
        """
        if not events:
            raise NothingToAppend
        await self.check_log()
        documents = [to_document(event) for event in events]

        async def send() -> None:
            await self.check_log()  # the process may have been frozen since it was sent last
            await self._write(documents)

        await send_until_known(
            send,
            lambda: self._are_written(documents),
            patience_seconds=self._patience_seconds,
            may_meet_itself=sent_before or len(documents) > 1,
        )
        self.vault.news.learn(documents)

    async def _are_written(self, documents: Sequence[EventDocument]) -> bool | None:
        """Say whether documents are in the log; False if another has one of their versions, so that
        they never will be; None if neither can be seen (yet). Raises StoreUnavailable.
        """
        found: dict[tuple[UUID, int], tuple[UUID, bytes]] = {}
        for ticket_id in {document["ticket_id"] for document in documents}:
            versions = [d["version"] for d in documents if d["ticket_id"] == ticket_id]
            span = {"$gte": min(versions), "$lte": max(versions)}
            condition = {"ticket_id": ticket_id, "version": span}
            for event in await self._find(condition, ("_id", "ticket_id", "version", "hash")):
                found[event["ticket_id"], event["version"]] = event["_id"], event["hash"]
        own = {(d["ticket_id"], d["version"]): (d["_id"], d["hash"]) for d in documents}
        seen = [found[place] == event for place, event in own.items() if place in found]
        if all(seen):
            return True if len(seen) == len(documents) else None
        if any(seen):
            raise AssertionError("a part of a transaction is in the log, and a part never will be")
        return False

    async def _write(self, documents: list[EventDocument]) -> None:
        if len(documents) == 1:
            await self._group.insert(documents[0])
        else:
            with translate_driver_errors():
                await self._database.in_transaction(partial(self._insert_all, documents))

    async def _insert_all(self, documents: list[EventDocument], session: Session) -> None:
        await self._events.insert_many(documents, session=session)

    @property
    def name(self) -> str:
        """The collection's name."""
        return self._name

    async def check_log(self) -> None:
        """Raise LogReplaced if this is no longer the log that the process was started on."""
        await self._database.identity.check()

    async def _find(
        self,
        condition: Mapping[str, object],
        fields: Collection[str] = (),
        *,
        sort: str | None = None,
        limit: int = 0,
        session: Session | None = None,
    ) -> list[EventDocument]:
        """Return the stored events that meet a condition, whole unless `fields` names some."""
        wanted = {"_id": 0, **dict.fromkeys(fields, 1)} if fields else None
        with translate_driver_errors():
            found = self._events.find(
                condition, wanted, limit=limit, session=session, batch_size=_FOUND_AT_ONCE
            )
            documents = await (found.sort(sort, 1) if sort else found).to_list()
        self.vault.news.learn(() if fields else documents)  # before any of them is opened
        return documents

    async def load(self, ticket_id: UUID, *, after: int = 0, limit: int = 0) -> list[Envelope]:
        """Return a ticket's events behind version `after`, in order; at most `limit` if not 0.

        Raises StoreUnavailable, KeyUnusable, and HistoryError for what cannot be read.
        """
        found = await self.stored(ticket_id, after=after, limit=limit)
        return [from_document(document) for document in await self.open(found)]

    async def stored(
        self, ticket_id: UUID, *, after: int = 0, upto: int | None = None, limit: int = 0
    ) -> list[EventDocument]:
        """Return the same as `load` as it is stored, readable or not: at most to version `upto`.

        Raises StoreUnavailable.
        """
        # Sorted here: asked for the order, some servers would read all the others too.
        versions = {"$gt": after} if upto is None else {"$gt": after, "$lte": upto}
        condition = {"ticket_id": ticket_id, "version": versions}
        found = sorted(await self._find(condition, limit=limit), key=_place)
        if limit and len(found) == limit and found[-1]["version"] != after + limit:
            # They may not be the first, but for the order of the index.
            return await self._find(condition, sort="version", limit=limit)
        return found

    async def parts(
        self,
        ticket_id: UUID,
        events_each: int = PART_EVENTS,
        *,
        after: int = 0,
        upto: int | None = None,
    ) -> AsyncGenerator[list[EventDocument], None]:
        """Yield a ticket's stored events in order, so many at a time, however long it is: those
        behind version `after`, up to `upto` if given.
        """
        is_short = upto is not None and upto - after <= events_each
        known = {"upto": upto} if is_short else {"limit": events_each}
        part = await self.stored(ticket_id, after=after, **known)
        while part:
            if upto is not None and part[-1]["version"] >= upto:
                yield [event for event in part if event["version"] <= upto]
                return
            yield part
            if len(part) < events_each:
                return
            # Where no version is missing this is all there is, and no server reads on to sort it.
            after = part[-1]["version"]
            until = min(after + events_each, upto or after + events_each)
            part = await self.stored(ticket_id, after=after, upto=until)
            if len(part) < until - after:
                part = await self.stored(ticket_id, after=after, limit=events_each)

    async def scan(self) -> AsyncIterator[Envelope]:
        """Yield every event once, in the order of storage.

        That is the order of writing, more or less: consumers compare versions here too. A sort
        would keep the whole log in memory on a server that does not sort by an index.

        Raises HistoryError for a document that is no event.
        """
        async for document in self.scan_stored():
            yield from_document(document)

    def scan_stored(
        self, fields: Collection[str] = (), condition: Mapping[str, object] | None = None
    ) -> AsyncIterator[EventDocument]:
        """Yield the same as `scan` as it is stored, readable or not: whole unless `fields` names
        some, and all of it unless there is a condition.
        """
        wanted = {"_id": 0, **dict.fromkeys(fields, 1)} if fields else None
        found = self._database.scan(self._name, condition or {}, wanted)
        return cast("AsyncIterator[EventDocument]", found)

    async def heads(self, since: datetime | None = None) -> Heads:
        """Return the last version and hash of every ticket; of those with events that were
        recorded since a time, if one is given.

        Reads the whole log, or those events, and keeps some 300 bytes for each ticket. Raises
        HistoryError for a document that is no event: the verifier tells more about it.
        """
        heads: Heads = {}
        async for ticket_id, version, hash_ in self.hashes(since):
            known = heads.get(ticket_id)
            if known is None or known[0] < version:
                heads[ticket_id] = (version, hash_)
        return heads

    async def hashes(self, since: datetime | None = None) -> AsyncIterator[tuple[UUID, int, bytes]]:
        """Yield ticket, version and hash of every event, in the order of storage; of those that
        were recorded since a time, if one is given, in any order.

        Raises HistoryError for a document that is no event.
        """
        wanted = ("_id", "ticket_id", "version", "hash")
        async for event in self.scan_stored(
            wanted, None if since is None else _recorded(since, None)
        ):
            match event:
                case {
                    "ticket_id": UUID() as ticket_id,
                    "version": int(version),
                    "hash": bytes(hash_),
                }:
                    yield ticket_id, version, hash_
                case _:
                    raise HistoryError("not_an_event", f"{described(event)} is no event")

    async def in_order(self) -> AsyncIterator[EventDocument]:
        """Yield every stored document by ticket id and version.

        Sorted here, some thousand events at a time: a sort of the whole log is beyond some servers.
        """
        some: list[UUID] = []
        events = 0
        heads = sorted((await self.heads()).items())
        for ticket_id, (version, _) in heads:
            some.append(ticket_id)
            events += version
            if events >= RANGE_EVENTS or ticket_id == heads[-1][0]:
                for document in await self.of_tickets(some):
                    yield document
                some, events = [], 0

    async def ranges(self, events_each: int = RANGE_EVENTS) -> list[TicketRange]:
        """Cut the tickets, those to come too, into ranges of so many events each, more or less.

        Memory is bounded whatever the number of tickets: the cuts are made between tickets of a
        sample, in which every ticket, every second, every fourth ... is taken as they are found.
        """
        sample: list[UUID] = []
        every, seen = 1, 0
        with translate_driver_errors():
            async for event in self.scan_stored(("ticket_id",), {"version": 1}):
                ticket_id = event["ticket_id"]
                if seen % every == 0 and isinstance(ticket_id, UUID):
                    sample.append(ticket_id)
                seen += 1
                if len(sample) > _MOST_SAMPLED:
                    sample, every = sample[::2], every * 2
            events = await self.count()
        sample.sort()
        step = max(1, len(sample) * events_each // max(1, events))
        cuts = [None, *sample[step::step], None]
        return list(starmap(TicketRange, pairwise(cuts)))

    async def of_range(self, tickets: TicketRange) -> list[EventDocument]:
        """Return the stored events of a range by ticket id and version, without damaged ones."""
        # Both ends are always given: an open one makes some servers read on to the end.
        end = {"$lte": _LAST_ID} if tickets.before is None else {"$lt": tickets.before}
        found = await self._find({"ticket_id": {"$gte": tickets.first or _FIRST_ID, **end}})
        # Mostly in this order already; asking for it would make some servers sort it again.
        return sorted(filter(is_event, found), key=_place)

    async def of_tickets(self, ids: Sequence[UUID]) -> list[EventDocument]:
        """Return the stored events of some tickets by ticket id and version."""
        return sorted(await self._find({"ticket_id": {"$in": list(ids)}}), key=_place)

    async def restore(self, documents: Sequence[EventDocument]) -> None:
        """Insert stored documents as they are; those that are there already are passed over.

        For restoring an export into an empty log: nothing is decided and nothing is checked here.
        """
        try:
            await self._events.insert_many(documents, ordered=False)
        except BulkWriteError as error:
            failures = map(write_failure, error.details["writeErrors"])
            others = [failure for failure in failures if not isinstance(failure, VersionConflict)]
            if others:
                raise others[0] from error

    async def count(self, *, exact: bool = False) -> int:
        """Count all events. The estimate may be off after a crash of a MongoDB server."""
        if exact:
            return await count(self._events)
        return await self._events.estimated_document_count()

    async def since(
        self,
        time: datetime,
        limit: int,
        session: Session | None = None,
        *,
        before: datetime | None = None,
    ) -> list[Recorded]:
        """Return events recorded at or after `time`, the earliest first; at most `limit` if not 0.

        For looking, not for following: writers do not share one clock.
        """
        condition = _recorded(time, before)
        found = await self._find(
            condition, Recorded._fields, sort="recorded_at", limit=limit, session=session
        )
        return [
            Recorded(event["ticket_id"], event["version"], event["recorded_at"])
            for event in found
            if is_event(event)
        ]

    async def recorded(
        self, since: datetime, limit: int, *, before: datetime | None = None
    ) -> list[EventDocument]:
        """Return whole stored documents by when they were recorded, as `since` does.

        Raises StoreUnavailable.
        """
        return await self._find(_recorded(since, before), sort="recorded_at", limit=limit)

    async def versions(self, ids: Collection[UUID]) -> list[tuple[UUID, int]]:
        """Return the versions that are stored of some tickets, in any order."""
        # By the ticket alone: with another condition some servers read everything.
        found = await self._find({"ticket_id": {"$in": list(ids)}}, ("ticket_id", "version"))
        stored = ((d["ticket_id"], cast("object", d.get("version"))) for d in found)
        return [(t, version) for t, version in stored if isinstance(version, int) and version > 0]

    async def short_heads(self, ids: Collection[UUID], most: int) -> dict[UUID, int]:
        """Return the last version of those of some tickets that have no damaged event, 0 of one
        without events. Returns nothing if they have more than `most` events each on average.
        """
        limit = most * len(ids) + 1
        condition = {"ticket_id": {"$in": list(ids)}}
        events = await self._find(condition, ("ticket_id", "version"), limit=limit)
        if len(events) == limit:
            return {}
        heads = dict.fromkeys(ids, 0)
        damaged: set[UUID] = set()
        for event in events:
            ticket_id, version = event["ticket_id"], cast("object", event.get("version"))
            if type(version) is int:
                heads[ticket_id] = max(version, heads[ticket_id])
            else:
                damaged.add(ticket_id)
        return {ticket_id: head for ticket_id, head in heads.items() if ticket_id not in damaged}

    async def position(self) -> ResumeToken:
        """Return the token of now: watching from it brings every event written after this call, and
        none that was written before it.
        """
        asked = self.clock.now()
        # One server has at once what has been written, and what is to come is not waited for.
        is_merged = await self._database.is_router()
        silent_seconds = SILENT_SECONDS if is_merged else _AT_ONCE_SECONDS
        async with self.watch(None, silent_seconds=silent_seconds) as feed:
            # A new stream of the embedded server may begin a moment ago.
            change = await feed.next()
            while feed.token is None or (change and _was_recorded_before(asked, change.document)):
                change = await feed.next()
            return feed.token

    @asynccontextmanager
    async def watch(
        self,
        after: ResumeToken | None,
        partitions: Collection[int] = range(PARTITIONS),
        silent_seconds: float = SILENT_SECONDS,
    ) -> AsyncIterator[Feed]:
        """Open the change stream behind `after`, or from now; it is open inside the block.

        An event comes at once; after so many seconds without one the stream says so.

        Events of the tickets of some partitions come in version order per ticket. Doubles are
        possible, and on some servers silent gaps: `Subscription` is what deals with them (L8).
        Raises HistoryLost, at the start or later on.
        """
        wanted = in_partitions("fullDocument.ticket_id", partitions)
        try:
            async with self._database.watch(
                self._database.collection(self._name),
                [{"$match": {"operationType": "insert", **wanted}}],
                resume_after=after,
                wait_milliseconds=int(1000 * silent_seconds),
            ) as stream:
                yield Feed(stream, await self._database.is_router())
        except OperationFailure as error:
            if error.code in _HISTORY_LOST:
                raise HistoryLost(describe(error)) from error
            raise


def _recorded(since: datetime, before: datetime | None) -> Mapping[str, object]:
    """Return the condition that an event was recorded at or after a time, and before another."""
    return {"recorded_at": {"$gte": since} | ({} if before is None else {"$lt": before})}


def _was_recorded_before(time: datetime, document: EventDocument) -> bool:
    at: object = document.get("recorded_at")
    return isinstance(at, datetime) and at < time


def _place(document: EventDocument) -> tuple[int, int]:
    # UUIDs are compared by these numbers, only in Python.
    return document["ticket_id"].int, document["version"]
