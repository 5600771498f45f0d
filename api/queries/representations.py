"""A ticket as clients see it: in lists, and by itself.

A single ticket is its read document with the events behind it folded in by the view's own fold, so
it always shows every acknowledged change, projector or none (law L9).
"""

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, suppress
from datetime import datetime
from functools import partial
from typing import cast
from uuid import UUID

from pydantic import ValidationError

from api.model import ApiModel
from api.queries.watermark import ReadModels
from api.ticket_links import leads_to
from domain.errors import HistoryError, TicketNotFound
from domain.sla import SlaTarget
from domain.tickets.relations import IN_CHAINS, OPPOSITE
from domain.tickets.ticket import (
    Attachment,
    CloseReason,
    Link,
    Rating,
    Relation,
    Status,
    Ticket,
)
from domain.values import REDACTED, FieldValue, JsonObject, Priority, TicketNumber
from eventstore.documents import uuid_of
from eventstore.event_document import EventDocument, from_document
from eventstore.log import EventStore
from eventstore.mongo.request_batcher import RequestBatcher
from eventstore.reading import read_events
from eventstore.redactions import redacts
from projections.views import tickets
from projections.views.tickets import TicketRead

_SHORT = 20
"""Up to so many events, all versions of many tickets are looked up sooner than each one's tail."""


UNREADABLE = (HistoryError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError)
"""What folding makes of values that no event has."""


class TicketSummary(ApiModel):
    """A ticket as lists show it. Times are UTC; null until it has come to that."""

    id: UUID
    version: int
    """How many events it has had; its ETag is this in quotes. For requesters what they do not see
    does not count: here, in `updated_at`, and wherever a version is named.
    """
    number: TicketNumber | None
    """What people call it by; null for a ticket of before there were numbers."""
    subject: str
    requester: str
    status: Status
    priority: Priority
    group: str | None
    assignee: str | None
    tags: list[str]
    fields: dict[str, FieldValue]
    internal_fields: list[str] | None
    """Those of `fields` that requesters do not see. Null for requesters."""
    waiting_reason: str | None
    resume_at: datetime | None
    resolution: str | None
    close_reason: CloseReason | None
    followers: list[str] | None
    """Null for requesters."""
    attachments: list[Attachment]
    links: list[Link] | None
    """Null for requesters."""
    rating: Rating | None
    opened_at: datetime
    updated_at: datetime
    preview: str
    """The first 50 characters of the last public message."""
    last_actor: str | None
    """Null for requesters."""
    has_note: bool | None
    """Null for requesters."""
    agent_replies: int
    requester_replies: int
    reopenings: int
    first_response_at: datetime | None
    first_response_seconds: int | None
    """From the opening."""
    resolved_at: datetime | None
    resolution_seconds: int | None
    """From the opening."""
    closed_at: datetime | None
    first_response_due_at: datetime | None
    """When what was promised runs out or ran out; null if nothing was, and while the ticket waits.
    """
    next_response_due_at: datetime | None
    """The same, of the requester's first message that no agent has replied to yet."""
    resolution_due_at: datetime | None
    sla_breached: list[SlaTarget] | None
    """The promises that were missed. Null for requesters."""


class TicketDetail(TicketSummary):
    """A ticket by itself."""

    body: str
    rings: list[Relation] | None = None
    """Kinds of links that lead from the ticket back to itself: take one of them away. Null where
    none does, and not looked for in the past. Null for requesters.
    """


CLIENT_FIELDS = frozenset(TicketDetail.model_fields)
"""Fields of a read document that clients see; whatever else views keep there is not theirs."""


def present(document: Mapping[str, object]) -> JsonObject:
    """Return a read document as a client sees it."""
    shown = {name: value for name, value in document.items() if name in CLIENT_FIELDS}
    return {"id": document["_id"], **shown}


def readable(document: Mapping[str, object] | None) -> TicketRead | None:
    """Return what a document holds, or None: the log has everything."""
    try:
        return None if document is None else tickets.from_document(document)
    except (KeyError, ValidationError):
        return None


Events = AsyncGenerator[tuple[EventDocument, EventDocument | None], None]
"""A ticket's events, as they are stored and opened; None in the place of one that is not shown."""


class _FoldAnew(Exception):
    """A state holds words that were redacted since."""


class Tickets:
    """Single tickets, after their last acknowledged event."""

    def __init__(self, store: EventStore, views: ReadModels) -> None:
        self._store = store
        self._views = views
        self._heads = RequestBatcher(partial(store.short_heads, most=_SHORT))

    async def current(self, ticket_id: UUID) -> TicketRead:
        """Return a ticket as it is. Raises TicketNotFound, StoreUnavailable, HistoryError."""
        return await self._current(ticket_id, await self._views.any_ticket(ticket_id))

    async def document(self, ticket_id: UUID) -> Mapping[str, object]:
        """Return the read document of a ticket as it is: the stored one, if it is.

        Raises as `current` does.
        """
        stored = await self._views.any_ticket(ticket_id)
        if stored is not None and stored.get("shape") == tickets.SHAPE:
            version = stored.get("version")
            if isinstance(version, int) and await self._is_last(ticket_id, version):
                return stored
        return tickets.to_document(await self._current(ticket_id, stored))

    async def _current(self, ticket_id: UUID, stored: Mapping[str, object] | None) -> TicketRead:
        read = readable(stored)
        if read is not None and await self._is_last(ticket_id, read.version):
            return read
        if read is not None:
            with suppress(_FoldAnew):
                behind = read_events(self._store, ticket_id, after=read.version)
                return await folded(behind, read)
        return await folded(read_events(self._store, ticket_id))

    async def _is_last(self, ticket_id: UUID, version: int) -> bool:
        """Return whether the log has nothing behind a version, if it is soon known."""
        if version > _SHORT:
            return False
        head = await self._heads.get(ticket_id)
        return head is not None and head <= version

    async def rings(self, document: Mapping[str, object]) -> list[Relation]:
        """Return the kinds of links that lead from a ticket back to itself, by its document. Those
        of other tickets are read only where it has links of a kind both to and from others.

        Raises StoreUnavailable.
        """
        ticket_id = uuid_of(document)
        kinds = {link["relation"] for link in cast("list[JsonObject]", document["links"])}
        found = [each for each in IN_CHAINS if {each, OPPOSITE[each]} <= kinds]
        if not found or (ticket := await self._ticket(ticket_id)) is None:
            return []
        rings: list[Relation] = []
        for each in found:  # forwards or backwards, where there is less to read
            way = min(each, OPPOSITE[each], key=lambda kind: len(ticket.linked(kind)))
            if await leads_to(ticket_id, ticket, way, self._ticket):
                rings.append(each)
        return rings

    async def _ticket(self, ticket_id: UUID) -> Ticket | None:
        with suppress(TicketNotFound):
            return (await self.readable(ticket_id)).ticket
        return None

    async def readable(self, ticket_id: UUID) -> TicketRead:
        """Return a ticket as it is, or was before its first event that cannot be read.

        Raises TicketNotFound, StoreUnavailable.
        """
        with suppress(*UNREADABLE):
            return await self.current(ticket_id)
        read: TicketRead | None = None
        with suppress(*UNREADABLE):
            async for state in states(read_events(self._store, ticket_id)):
                read = state
        if read is None:
            raise TicketNotFound
        return read


async def states(
    events: Events, read: TicketRead | None = None
) -> AsyncGenerator[TicketRead, None]:
    """Yield a ticket after each of its next events, behind a state. Raises HistoryError; _FoldAnew
    if something was redacted since, which may stand in that state.
    """
    has_begun = read is None
    async with aclosing(events):
        async for _, event in events:
            if event is None:
                continue
            if not has_begun and redacts(event) is not None:
                raise _FoldAnew
            read = tickets.evolve(read, from_document(event))
            yield read


async def folded(events: Events, read: TicketRead | None = None) -> TicketRead:
    """Return a ticket after its next events. Raises TicketNotFound if it has none, HistoryError."""
    async for state in states(events, read):
        read = state
    if read is None:
        raise TicketNotFound
    return read


def present_event(stored: Mapping[str, object], event: Mapping[str, object]) -> JsonObject:
    """Return an event as clients see it: its id as `id`, hashes in hexadecimal.

    `event` is the stored one, opened. What is sealed in it is shown as well: the hash is over that,
    and over what is `hidden`, which was redacted and is not sealed.
    """
    shown = {
        name: value.hex() if isinstance(value, bytes) else value for name, value in event.items()
    }
    hidden = [*_hidden(stored, event)]
    sealed = stored.get("sealed", [])
    return {"id": shown.pop("_id", None), **shown, "sealed": sealed, "hidden": hidden}


def _hidden(stored: object, shown: object, path: str = "") -> Iterator[str]:
    """Yield the places (JSON Pointers) where `REDACTED` is shown for what is stored unsealed."""
    if shown == REDACTED and stored not in (REDACTED, None):
        yield path
    elif isinstance(stored, dict) and isinstance(shown, dict):
        for name in stored:
            yield from _hidden(stored[name], shown.get(name), f"{path}/{name}")
