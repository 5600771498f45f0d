"""The ticket: its state, and how events change it.

Top to bottom: the state, the fold (`evolve`), the lifecycle. Pure (law L6): the times come in with
the events. What commands lead to is decided in `domain/decisions.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import assert_never
from uuid import UUID

from domain.errors import HistoryError
from domain.events import (
    AgentReplied,
    CloseReason,
    FieldSet,
    FieldValue,
    FileAttached,
    FollowerAdded,
    FollowerRemoved,
    NoteAdded,
    Priority,
    PriorityChanged,
    Relation,
    RequesterChanged,
    RequesterReplied,
    SlaBreached,
    Status,
    StatusUpdated,
    SubjectChanged,
    TagsAdded,
    TagsRemoved,
    TicketAssigned,
    TicketClosed,
    TicketEvent,
    TicketLinked,
    TicketMergedFrom,
    TicketMergedInto,
    TicketMovedToGroup,
    TicketOpened,
    TicketRated,
    TicketReopened,
    TicketResolved,
    TicketUnassigned,
    TicketUnlinked,
)
from domain.sla import SlaClock
from domain.states import replace

# --- state and fold -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Link:
    """A line on a ticket's form: `blocks: B`, `parent: P`, `merged_into: B`."""

    relation: Relation
    ticket: UUID


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that is kept elsewhere."""

    name: str
    media_type: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Rating:
    """What the requester thinks of the solution, 1 (bad) to 5 (good)."""

    score: int
    comment: str | None


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """What is known of a ticket after a number of its events."""

    subject: str
    body: str
    requester: str
    sla: SlaClock
    status: Status = "new"
    priority: Priority = "normal"
    group: str | None = None
    assignee: str | None = None
    tags: tuple[str, ...] = ()
    fields: Mapping[str, FieldValue] = field(default_factory=dict)
    waiting_reason: str | None = None
    resume_at: datetime | None = None
    resolution: str | None = None
    close_reason: CloseReason | None = None
    followers: tuple[str, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    links: tuple[Link, ...] = ()
    rating: Rating | None = None


def evolve(ticket: Ticket | None, event: TicketEvent, at: datetime) -> Ticket:
    """Give the ticket as it is after `event`, which happened at `at` (UTC).

    Never refuses what `decide` has produced. Raises HistoryError if the first event of a ticket is
    not its opening, or a later one is.
    """
    if isinstance(event, TicketOpened):
        if ticket is not None:
            raise HistoryError("opened_twice", "a ticket cannot be opened twice")
        return Ticket(
            subject=event.subject,
            body=event.body,
            requester=event.requester,
            priority=event.priority,
            group=event.group,
            tags=event.tags,
            fields=event.fields,
            sla=SlaClock(targets=event.sla, since=at),
        )
    if ticket is None:
        raise HistoryError("not_opened", f"{type(event).__name__} before the ticket was opened")
    # Time passes, then it happens; then the clock runs on or stands, as the new state wants it.
    after = _changed(_with_clock(ticket, clock_at(ticket, at)), event)
    return _with_clock(after, after.sla.switched(at, running=_is_our_turn(after, at)))


def _with_clock(ticket: Ticket, clock: SlaClock) -> Ticket:
    return ticket if clock is ticket.sla else replace(ticket, sla=clock)


def clock_at(ticket: Ticket, at: datetime) -> SlaClock:
    """Give the clock as it stands at `at`: a wait that is over has set it going when it was over,
    even if nobody has woken the ticket yet.
    """
    clock = ticket.sla
    if ticket.resume_at is not None and ticket.resume_at <= at:
        clock = clock.switched(ticket.resume_at, running=True)
    return clock.at(at)


def _is_our_turn(ticket: Ticket, at: datetime) -> bool:
    """Say whether somebody on our side is to act, so that the clock runs."""
    waited_enough = ticket.resume_at is not None and ticket.resume_at <= at
    return ticket.status in ("new", "open", "on_hold") or waited_enough


def _changed(ticket: Ticket, event: TicketEvent) -> Ticket:
    match event:
        case StatusUpdated(status, reason, resume_at):
            return replace(ticket, status=status, waiting_reason=reason, resume_at=resume_at)
        case TicketResolved(resolution):
            return replace(_entered(ticket, "resolved"), resolution=resolution)
        case TicketReopened():
            return replace(_entered(ticket, "open"), resolution=None)
        case TicketClosed(reason):
            return replace(_entered(ticket, "closed"), close_reason=reason)
        case TicketMergedInto(other):
            closed = replace(_entered(ticket, "closed"), close_reason="merged")
            return _linked(closed, "merged_into", other)
        case TicketMergedFrom(other, followers):
            merged = replace(ticket, followers=_with(ticket.followers, *followers))
            return _linked(merged, "merged_from", other)
        case TicketAssigned(assignee):
            return replace(_started(ticket), assignee=assignee)
        case TicketUnassigned():
            return replace(ticket, assignee=None)
        case TicketMovedToGroup(group):
            return replace(ticket, group=group)
        case PriorityChanged(priority, targets):
            return replace(ticket, priority=priority, sla=ticket.sla.promising(targets))
        case SubjectChanged(subject):
            return replace(ticket, subject=subject)
        case RequesterChanged(requester):
            return replace(ticket, requester=requester)
        case AgentReplied():
            return replace(_started(ticket), sla=ticket.sla.with_answer())
        case RequesterReplied() | NoteAdded():
            return ticket
        case TagsAdded(tags):
            return replace(ticket, tags=_with(ticket.tags, *tags))
        case TagsRemoved(tags):
            return replace(ticket, tags=_without(ticket.tags, *tags))
        case FieldSet(key, value):
            others = {k: v for k, v in ticket.fields.items() if k != key}
            return replace(ticket, fields=others if value is None else {**others, key: value})
        case FollowerAdded(follower):
            return replace(ticket, followers=_with(ticket.followers, follower))
        case FollowerRemoved(follower):
            return replace(ticket, followers=_without(ticket.followers, follower))
        case FileAttached(name, media_type, size_bytes, sha256):
            attached = Attachment(name, media_type, size_bytes, sha256)
            return replace(ticket, attachments=(*ticket.attachments, attached))
        case TicketLinked(relation, other):
            return _linked(ticket, relation, other)
        case TicketUnlinked(relation, other):
            rest = tuple(link for link in ticket.links if link != Link(relation, other))
            return replace(ticket, links=rest)
        case TicketRated(score, comment):
            return replace(ticket, rating=Rating(score, comment))
        case SlaBreached(target, due_at):
            return replace(ticket, sla=ticket.sla.with_breach(target, due_at))
        case TicketOpened():
            raise AssertionError("a second opening has been refused")
        case _:
            assert_never(event)


def _entered(ticket: Ticket, status: Status) -> Ticket:
    """Move to a state in which nothing is waited for."""
    return replace(ticket, status=status, waiting_reason=None, resume_at=None)


def _started(ticket: Ticket) -> Ticket:
    """Take a new ticket to open: somebody works on it."""
    return replace(ticket, status="open") if ticket.status == "new" else ticket


def _linked(ticket: Ticket, relation: Relation, other: UUID) -> Ticket:
    return replace(ticket, links=(*ticket.links, Link(relation, other)))


def _with(names: tuple[str, ...], *more: str) -> tuple[str, ...]:
    return tuple(sorted({*names, *more}))


def _without(names: tuple[str, ...], *fewer: str) -> tuple[str, ...]:
    return tuple(name for name in names if name not in fewer)


# --- lifecycle ----------------------------------------------------------------------------------

LIFECYCLE: Mapping[Status, Mapping[str, frozenset[Status]]] = {
    "new": {
        "update_status": frozenset({"open", "pending", "on_hold"}),
        "assign": frozenset({"open"}),
        "reply": frozenset({"open"}),  # an agent's
        "close": frozenset({"closed"}),
        "merge": frozenset({"closed"}),
    },
    "open": {
        "update_status": frozenset({"pending", "on_hold"}),
        "resolve": frozenset({"resolved"}),
        "close": frozenset({"closed"}),
        "merge": frozenset({"closed"}),
    },
    "pending": {
        "update_status": frozenset({"open", "on_hold"}),
        "reply": frozenset({"open"}),  # the requester's
        "resolve": frozenset({"resolved"}),
        "close": frozenset({"closed"}),
        "merge": frozenset({"closed"}),
    },
    "on_hold": {
        "update_status": frozenset({"open", "pending"}),
        "resolve": frozenset({"resolved"}),
        "close": frozenset({"closed"}),
        "merge": frozenset({"closed"}),
    },
    "resolved": {
        "reopen": frozenset({"open"}),
        "reply": frozenset({"open"}),  # the requester's
        "close": frozenset({"closed"}),
        "merge": frozenset({"closed"}),
    },
    "closed": {},
}
"""From each state, which command leads to which states. Nothing returns to new, or from closed."""

# --- links --------------------------------------------------------------------------------------

OPPOSITE: Mapping[Relation, Relation] = {
    "blocks": "blocked_by",
    "blocked_by": "blocks",
    "duplicates": "duplicated_by",
    "duplicated_by": "duplicates",
    "relates": "relates",
    "parent": "child",
    "child": "parent",
    "follows_up": "followed_up_by",
    "followed_up_by": "follows_up",
    "merged_into": "merged_from",
    "merged_from": "merged_into",
}
"""What stands on the other ticket's form."""
