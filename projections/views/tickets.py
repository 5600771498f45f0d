"""The view `ticket_reads`: one document per ticket with all that a list needs, computed once.

What the ticket itself is (status, assignee, tags ...) is folded by the domain's own `apply`, so a
view cannot disagree with the model, and a new command needs no line here. What only a view wants to
know stands beside that: preview, reply counts, times, days.

A document's fields, beside those of `Ticket`: `_id` (ticket id), `version`, `opened_at`,
`updated_at`, `first_response_at`, `resolved_at`, `closed_at` (UTC, when it happened; null until
then), `first_response_seconds`, `resolution_seconds` (from the opening), `preview` (first 50
characters of the last public message), `has_note`, `agent_replies`, `requester_replies`,
`reopenings`, `last_actor`.

`terms` is what searches look for: the words (`words.py`) of all that was said (body, replies,
notes, resolutions), of which there are `said`, then those of number, subject and names of files,
and `=key=value` for each custom field.

What requesters see of it is what they would if its public events were all: `public_version` and
`public_updated_at` stand for `version` and `updated_at` then, and `public_terms`, of which there
are `public_said` of what was said, for `terms` (null where they are the same).

Kept for the views that are sums over all tickets: `counted`, what the ticket has added to the
dashboard's counters (`dashboard.py`), `worked`, the same for the agents' weeks (`agents.py`), and
`in_views`, the ids of the saved views that count it (`saved_views.py`).

`participants`: the requester and the followers, the requesters that may see the ticket.

Made from the ticket's clock: `first_response_due_at`, `next_response_due_at` and
`resolution_due_at`, when what was promised runs out or ran out (null if nothing was, if it was done
in time, and while the clock stands); `sla_breached`, the targets that the log says were missed;
`due_at`, when the next target runs out, or ran out without the log saying so yet; `next_due_at`,
that or when the ticket is to be woken (when it closes by itself is the desk's to say).
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import cast, get_args
from uuid import UUID

from pydantic import TypeAdapter

from domain.calendars import TZDATA
from domain.copies import replace
from domain.days import UTC_ONLY, Zones
from domain.errors import HistoryError
from domain.sla import SlaTarget
from domain.tickets import decode, is_public
from domain.tickets.conversation import AgentReplied, NoteAdded, RequesterReplied
from domain.tickets.details import FieldSet, FileAttached, FileDetached, SubjectChanged
from domain.tickets.lifecycle import TicketClosed, TicketReopened, TicketResolved
from domain.tickets.opening import TicketNumbered, TicketOpened
from domain.tickets.relations import TicketMergedInto, TicketUnmerged
from domain.tickets.ticket import Ticket, TicketEvent
from domain.tickets.ticket import apply as apply_event
from domain.values import JsonObject
from eventstore.event_document import Envelope
from projections.views import agents, dashboard
from projections.views.dashboard import Before
from projections.views.words import words

COLLECTION = "ticket_reads"
FOLD = 21
"""The number of what is folded here. Raise it with any change: all views are then built again."""
PUBLIC_SINCE_SHAPE = 10
"""From which shape on documents say what requesters see of them."""
SHAPE = FOLD * 1_000_000 + int("".join(f"{int(part):02}" for part in TZDATA.split(".")[:2]))
"""The number of what is folded and by which rules of time zones: so a new release of those has all
views built again too. With release 2026.6 it ends in 202606.
"""
PREVIEW_CHARACTERS = 50
MOST_WORDS = 20_000
"""So many different words of what was said are found: a document has a largest size."""
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
    said: int = 0
    public_version: int = 1
    public_updated_at: datetime
    public_terms: tuple[str, ...] | None = None
    public_said: int = 0
    counted: dict[str, int] = field(default_factory=dict)
    worked: dict[str, int] = field(default_factory=dict)
    in_views: tuple[str, ...] = ()


def fold(
    read: TicketRead | None, envelopes: Iterable[Envelope], zones: Zones = UTC_ONLY
) -> TicketRead | None:
    """Fold a ticket's next events, in order, into its view, as `apply` does."""
    for envelope in envelopes:
        read = apply(read, envelope, zones)
    return read


def evolve(read: TicketRead | None, envelope: Envelope, zones: Zones = UTC_ONLY) -> TicketRead:
    """Return what `apply` does, and leave `read` as it is."""
    return apply(None if read is None else copy(read), envelope, zones)


def copy(read: TicketRead) -> TicketRead:
    """Return a copy that can be folded on."""
    ticket = replace(read.ticket)
    return replace(read, ticket=ticket, counted={**read.counted}, worked={**read.worked})


def apply(read: TicketRead | None, envelope: Envelope, zones: Zones = UTC_ONLY) -> TicketRead:
    """Fold one event into `read` itself, and return it; or the view of a new ticket. `zones`: by
    whose days it counts; whoever looks at no sum needs to say none.

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
        opened = TicketRead(
            id=envelope.ticket_id,
            version=1,
            ticket=ticket,
            opened_at=at,
            updated_at=at,
            preview=_preview(ticket.body),
            last_actor=actor.id,
            public_updated_at=at,
            counted=dashboard.entries(None, ticket, event, zones, opened_at=at, at=at),
        )
        _say(opened, ticket.body)
        _rename(opened)
        return opened
    # A clock may have been set back; what is counted by days never runs backwards.
    now = max(at, read.updated_at)
    opened_at = read.opened_at
    dashboard.add(
        read.counted, dashboard.entries(before, ticket, event, zones, opened_at=opened_at, at=now)
    )
    dashboard.add(
        read.worked,
        agents.entries(before, ticket, event, actor, zones, opened_at=opened_at, at=now),
    )
    internal = not is_public(envelope.type, envelope.data)
    if not internal:
        read.public_version += 1
        read.public_updated_at = max(at, read.public_updated_at)
    _show(read, event, at, internal=internal)
    read.version, read.updated_at, read.last_actor = envelope.version, now, actor.id
    return read


def _show(read: TicketRead, event: TicketEvent, at: datetime, *, internal: bool) -> None:
    """Take up what an event means for the view alone; its ticket is as the event has left it."""
    seconds = (read.public_updated_at - read.opened_at) // _SECOND
    match event:
        case AgentReplied(body, automatic):
            _say(read, body)
            read.preview = _preview(body)
            read.agent_replies += 1
            if read.first_response_at is None and not automatic:
                read.first_response_at, read.first_response_seconds = at, seconds
        case RequesterReplied(body):
            _say(read, body)
            read.preview = _preview(body)
            read.requester_replies += 1
        case NoteAdded(body):
            _say(read, body, internal=internal)
            read.has_note = True
        case SubjectChanged() | FieldSet() | TicketNumbered() | FileAttached() | FileDetached():
            _rename(read)
        case TicketResolved(resolution):
            _say(read, resolution)
            read.resolved_at, read.resolution_seconds = at, seconds
        case TicketReopened():
            read.resolved_at = read.resolution_seconds = None
            read.reopenings += 1
        case TicketClosed() | TicketMergedInto():
            read.closed_at = at
        case TicketUnmerged():
            read.closed_at = None
        case TicketOpened():
            raise AssertionError("a second opening is refused")
        case _:  # the ticket's own fields say it all
            pass


def _preview(body: str) -> str:
    return " ".join(body.split())[:PREVIEW_CHARACTERS]


def _say(read: TicketRead, text: str, *, internal: bool = False) -> None:
    """Take up the words of a text that stays."""
    found = words(text)
    _take_up(read, found, () if internal else found)


def _rename(read: TicketRead) -> None:
    """Take up the words of what may change as it is now."""
    ticket = read.ticket
    now = public_now = _of_now(ticket)
    if ticket.internal_fields or any(file.internal for file in ticket.attachments):
        public_now = _of_now(ticket, public=True)
    _take_up(read, (), (), now, public_now)


def _take_up(
    read: TicketRead,
    said: Collection[str],
    public_said: Collection[str],
    now: Collection[str] | None = None,
    public_now: Collection[str] | None = None,
) -> None:
    public = read.terms if read.public_terms is None else read.public_terms
    read.terms, read.said = _terms(read.terms, read.said, said, now)
    public, read.public_said = _terms(public, read.public_said, public_said, public_now)
    read.public_terms = None if public == read.terms else public


def _terms(
    known: tuple[str, ...], of_said: int, said: Collection[str], now: Collection[str] | None
) -> tuple[tuple[str, ...], int]:
    """Return what was said and then what is of `now` (None: as before), and how many were said."""
    found = dict.fromkeys((*known[:of_said], *said))
    if len(found) > MOST_WORDS:
        found = dict.fromkeys([*found][:MOST_WORDS])
    many = len(found)
    found.update(dict.fromkeys(known[of_said:] if now is None else now))
    return tuple(found), many


def _of_now(ticket: Ticket, *, public: bool = False) -> tuple[str, ...]:
    of_fields = sorted(
        field_term(key, each)
        for key, value in ticket.fields.items()
        if not (public and key in ticket.internal_fields)
        for each in (value if isinstance(value, tuple) else (value,))
    )
    files = (file.name for file in ticket.attachments if not (public and file.internal))
    return (*words("\n".join((ticket.number or "", ticket.subject, *files))), *of_fields)


def field_term(key: str, value: str | int | bool) -> str:
    """Return the term of a custom field's value, or of one of several; no word begins like it, and
    all kinds share one.
    """
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"={key}={text}"[:_TERM_CHARACTERS]


# --- the stored form ----------------------------------------------------------------------------

_TICKET_FIELDS = tuple(f.name for f in fields(Ticket))
_OWN_FIELDS = tuple(f.name for f in fields(TicketRead) if f.name not in ("id", "ticket"))
_READ = TypeAdapter(TicketRead)


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
    ends = ticket.sla.shown()
    due_at, _ = ticket.sla.next_due() or (None, None)
    return {
        "participants": [*ticket.participants],
        **{f"{target}_due_at": ends.get(target) for target in get_args(SlaTarget)},
        "sla_breached": sorted(ticket.sla.breached),
        "due_at": due_at,
        "next_due_at": min((t for t in (ticket.resume_at, due_at) if t is not None), default=None),
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
