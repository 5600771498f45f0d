"""The view `ticket_reads`: one document per ticket with all that a list needs, computed once.

What the ticket itself is (status, assignee, tags ...) is folded by the domain's own `apply`, so a
view cannot disagree with the model, and a new command needs no line here. What only a view wants to
know stands beside that: preview, reply counts, times, days.

A document's fields, beside those of `Ticket`: `_id` (ticket id), `version`, `opened_at`,
`updated_at`, `first_response_at`, `resolved_at`, `closed_at` (UTC, when it happened; null until
then), `first_response_seconds`, `resolution_seconds` (from the opening), `preview` (first 50
characters of the last public message), `has_note`, `agent_replies`, `requester_replies`,
`reopenings`, `last_actor`, `terms` (the words of number, subject and body, without case and
accents, and `key=value` for each custom field).

What requesters see of it is what they would if its public events were all: `public_version` and
`public_updated_at` stand for `version` and `updated_at` then, and `public_terms` for `terms` (null
where they are the same).

Kept for the views that are sums over all tickets: `counted`, what the ticket has added to the
dashboard's counters (`dashboard.py`), `worked`, the same for the agents' weeks (`agents.py`), and
`in_views`, the ids of the saved views that count it (`saved_views.py`).

`participants`: the requester and the followers, the requesters that may see the ticket.

Made from the ticket's clock: `first_response_due_at` and `resolution_due_at`, when what was
promised runs out or ran out (null if nothing was, if it was done in time, and while the clock
stands); `sla_breached`, the targets that the log says were missed; `next_due_at`, the next time at
which it is to be woken or a target runs out (when it closes by itself is the desk's to say).
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import cast
from uuid import UUID

from pydantic import TypeAdapter

from domain.copies import replace
from domain.errors import HistoryError
from domain.tickets import decode, is_public
from domain.tickets.conversation import AgentReplied, NoteAdded, RequesterReplied
from domain.tickets.details import FieldSet, SubjectChanged
from domain.tickets.lifecycle import TicketClosed, TicketReopened, TicketResolved
from domain.tickets.opening import TicketNumbered, TicketOpened
from domain.tickets.relations import TicketMergedInto
from domain.tickets.ticket import Ticket, TicketEvent
from domain.tickets.ticket import apply as apply_event
from domain.values import JsonObject
from eventstore.event_document import Envelope
from projections.views import agents, dashboard
from projections.views.dashboard import Before

COLLECTION = "ticket_reads"
SHAPE = 11
"""The number of what is folded here. Raise it with any change: all views are then built again."""
PUBLIC_SINCE_SHAPE = 10
"""From which shape on documents say what requesters see of them."""
PREVIEW_CHARACTERS = 50
_MOST_TERMS = 1000
_TERM_CHARACTERS = 64
_SECOND = timedelta(seconds=1)


@dataclass(kw_only=True)
class TicketRead:
    """A ticket as the view holds it after `version` events. The fold alone sets its fields."""

    id: UUID
    version: int
    ticket: Ticket
    opened_at: datetime
    updated_at: datetime
    preview: str
    last_actor: str
    has_note: bool = False
    agent_replies: int = 0
    requester_replies: int = 0
    reopenings: int = 0
    first_response_at: datetime | None = None
    first_response_seconds: int | None = None
    resolved_at: datetime | None = None
    resolution_seconds: int | None = None
    closed_at: datetime | None = None
    terms: tuple[str, ...] = ()
    public_version: int = 1
    public_updated_at: datetime
    public_terms: tuple[str, ...] | None = None
    counted: dict[str, int] = field(default_factory=dict)
    worked: dict[str, int] = field(default_factory=dict)
    in_views: tuple[str, ...] = ()


def fold(read: TicketRead | None, envelopes: Iterable[Envelope]) -> TicketRead | None:
    """Fold a ticket's next events, in order, into its view, as `apply` does."""
    for envelope in envelopes:
        read = apply(read, envelope)
    return read


def evolve(read: TicketRead | None, envelope: Envelope) -> TicketRead:
    """Return what `apply` does, and leave `read` as it is."""
    return apply(None if read is None else copy(read), envelope)


def copy(read: TicketRead) -> TicketRead:
    """Return a copy that can be folded on."""
    ticket = replace(read.ticket)
    return replace(read, ticket=ticket, counted={**read.counted}, worked={**read.worked})


def apply(read: TicketRead | None, envelope: Envelope) -> TicketRead:
    """Fold one event into `read` itself, and return it; or the view of a new ticket.

    Raises HistoryError if it is not the ticket's next, or cannot be read. A view at which this has
    raised is of no use any more.
    """
    expected = 1 if read is None else read.version + 1
    if envelope.version != expected:
        raise HistoryError("not_the_next_version", f"it stands where {expected} is next").at(
            envelope.ticket_id, envelope.version
        )
    at = envelope.occurred_at
    before = None if read is None else Before.of(read.ticket)
    try:
        event = decode(*envelope.readable[:3])
        ticket = apply_event(None if read is None else read.ticket, event, at)
    except HistoryError as error:
        raise error.at(envelope.ticket_id, envelope.version) from error
    actor = envelope.metadata.actor
    if read is None or before is None:
        return TicketRead(
            id=envelope.ticket_id,
            version=1,
            ticket=ticket,
            opened_at=at,
            updated_at=at,
            preview=_preview(ticket.body),
            last_actor=actor.id,
            terms=_terms(ticket),
            public_updated_at=at,
            public_terms=_public_terms(ticket),
            counted=dashboard.entries(None, ticket, event, opened_at=at, at=at),
        )
    # A clock may have been set back; what is counted by days never runs backwards.
    now = max(at, read.updated_at)
    opened_at = read.opened_at
    dashboard.add(
        read.counted, dashboard.entries(before, ticket, event, opened_at=opened_at, at=now)
    )
    dashboard.add(
        read.worked, agents.entries(before, ticket, event, actor, opened_at=opened_at, at=now)
    )
    if is_public(envelope.type, envelope.data):
        read.public_version += 1
        read.public_updated_at = max(at, read.public_updated_at)
    _show(read, event, at)
    read.version, read.updated_at, read.last_actor = envelope.version, now, actor.id
    return read


def _show(read: TicketRead, event: TicketEvent, at: datetime) -> None:
    """Take up what an event means for the view alone; its ticket is as the event has left it."""
    seconds = (read.public_updated_at - read.opened_at) // _SECOND
    match event:
        case AgentReplied(body, automatic):
            read.preview = _preview(body)
            read.agent_replies += 1
            if read.first_response_at is None and not automatic:
                read.first_response_at, read.first_response_seconds = at, seconds
        case RequesterReplied(body):
            read.preview = _preview(body)
            read.requester_replies += 1
        case NoteAdded():
            read.has_note = True
        case SubjectChanged() | FieldSet() | TicketNumbered():
            read.terms, read.public_terms = _terms(read.ticket), _public_terms(read.ticket)
        case TicketResolved():
            read.resolved_at, read.resolution_seconds = at, seconds
        case TicketReopened():
            read.resolved_at = read.resolution_seconds = None
            read.reopenings += 1
        case TicketClosed() | TicketMergedInto():
            read.closed_at = at
        case TicketOpened():
            raise AssertionError("a second opening is refused")
        case _:  # the ticket's own fields say it all
            pass


def _preview(body: str) -> str:
    return " ".join(body.split())[:PREVIEW_CHARACTERS]


def _terms(ticket: Ticket, without: tuple[str, ...] = ()) -> tuple[str, ...]:
    of_fields = sorted(
        field_term(key, each)
        for key, value in ticket.fields.items()
        if key not in without
        for each in (value if isinstance(value, tuple) else (value,))
    )
    return (*words(f"{ticket.number or ''} {ticket.subject} {ticket.body}"), *of_fields)


def _public_terms(ticket: Ticket) -> tuple[str, ...] | None:
    """Return the terms that requesters may find the ticket by, if those are not all."""
    return _terms(ticket, ticket.internal_fields) if ticket.internal_fields else None


def field_term(key: str, value: str | int | bool) -> str:
    """Return the term of a custom field's value, or of one of several, which no word is like; all
    kinds share one.
    """
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"{key}={text}"[:_TERM_CHARACTERS]


def words(text: str) -> tuple[str, ...]:
    """Return the different words of a text, without case and accents, as they come: the first
    thousand.
    """
    plain = text.casefold()
    if not plain.isascii():
        decomposed = unicodedata.normalize("NFKD", plain)
        plain = "".join(c for c in decomposed if not unicodedata.combining(c))
    found = (found[:_TERM_CHARACTERS] for found in re.findall(r"\w+", plain))
    return tuple(dict.fromkeys(found))[:_MOST_TERMS]


# --- the stored form ----------------------------------------------------------------------------

_TICKET_FIELDS = tuple(f.name for f in fields(Ticket))
_OWN_FIELDS = tuple(f.name for f in fields(TicketRead) if f.name not in ("id", "ticket"))
_READ = TypeAdapter(TicketRead)


def next_due_at(ticket: Ticket) -> datetime | None:
    """Return the next time at which a ticket is to be woken, or a target of its runs out."""
    promised = ticket.sla.next_due()
    times = (ticket.resume_at, None if promised is None else promised[0])
    return min((time for time in times if time is not None), default=None)


def to_document(read: TicketRead) -> JsonObject:
    """Return the document of `ticket_reads`: the ticket's fields beside the view's own."""
    own: JsonObject = _READ.dump_python(read)
    document = {"_id": own.pop("id"), **cast("JsonObject", own.pop("ticket")), **own}
    return {**document, **_derived(read.ticket), "shape": SHAPE}


def changed(before: TicketRead, after: TicketRead, document: JsonObject) -> JsonObject:
    """Return the fields of `document`, which is `after`'s, that may differ from those of `before`.

    `after` was folded from `before`: a value of the ticket that no event has touched is the same
    object, and one that is only equal may be stored as another (True and 1).
    """
    fields_ = {name for name in _OWN_FIELDS if getattr(before, name) != getattr(after, name)}
    was, is_ = before.ticket, after.ticket
    fields_ |= {name for name in _TICKET_FIELDS if getattr(was, name) is not getattr(is_, name)}
    if not fields_.isdisjoint(("sla", "resume_at", "requester", "followers")):
        fields_ |= {name for name, time in _derived(was).items() if time != document[name]}
    return {name: value for name, value in document.items() if name in fields_}


def values(read: TicketRead) -> Mapping[str, object]:
    """Return what a filter looks at: the fields of `to_document` without making one."""
    return {**vars(read.ticket), **vars(read), **_derived(read.ticket)}


def _derived(ticket: Ticket) -> JsonObject:
    clock = ticket.sla
    ends = {**clock.due(), **clock.overdue, **clock.breached}
    return {
        "participants": [*ticket.participants],
        "first_response_due_at": ends.get("first_response"),
        "resolution_due_at": ends.get("resolution"),
        "sla_breached": sorted(clock.breached),
        "next_due_at": next_due_at(ticket),
    }


def from_document(document: Mapping[str, object]) -> TicketRead | None:
    """Read a document of `ticket_reads` back; None if it has another shape than today's.

    Raises pydantic's ValidationError.
    """
    if document.get("shape") != SHAPE:
        return None
    parts: JsonObject = {name: document[name] for name in _OWN_FIELDS}
    parts["id"] = document["_id"]
    parts["ticket"] = {name: document[name] for name in _TICKET_FIELDS}
    return _READ.validate_python(parts)
