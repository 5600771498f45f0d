"""The ticket: its state, what an event of it is, and how events are folded into the state.

Pure (law L6): the times come in with the events. Which commands and events there are, and what they
do, is said by the features, the other modules of this folder.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Literal
from uuid import UUID

from domain.codec import Event
from domain.copies import replace
from domain.errors import HistoryError
from domain.sla import SlaClock
from domain.values import REDACTED, FieldValue, Priority

TICKET_TAGS = 50
TICKET_FIELDS = 100
TICKET_FOLLOWERS = 100
TICKET_LINKS = 100
TICKET_ATTACHMENTS = 100
"""Bounds of one ticket, so that its view always fits in a document."""

Status = Literal["new", "open", "pending", "on_hold", "resolved", "closed"]
UNSOLVED: tuple[Status, ...] = ("new", "open", "pending", "on_hold")
CloseReason = Literal["duplicate", "spam", "merged", "invalid", "withdrawn"]
Relation = Literal[
    "blocks",
    "blocked_by",
    "duplicates",
    "duplicated_by",
    "relates",
    "parent",
    "child",
    "follows_up",
    "followed_up_by",
    "merged_into",
    "merged_from",
]


@dataclass(frozen=True, slots=True)
class Link:
    """A line on a ticket's form: `blocks: B`, `parent: P`, `merged_into: B`."""

    relation: Relation
    ticket: UUID


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that is kept elsewhere. `internal`: requesters do not see it."""

    name: str
    media_type: str
    size_bytes: int
    sha256: str
    internal: bool = False

    def is_same(self, other: "Attachment") -> bool:
        """Say whether both are one file; by the rest, if one of the names was redacted."""
        is_named_alike = self.name == other.name or REDACTED in (self.name, other.name)
        return is_named_alike and (self.sha256, self.internal) == (other.sha256, other.internal)


@dataclass(frozen=True, slots=True)
class Rating:
    """What the requester thinks of the solution, 1 (bad) to 5 (good)."""

    score: int
    comment: str | None


@dataclass(frozen=True, slots=True)
class Standing:
    """How a ticket stood before it was merged."""

    status: Status
    waiting_reason: str | None
    resume_at: datetime | None
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LastMerge:
    """A merge into a ticket that can be undone. `followers`: those whom it has brought, and who
    were not taken off since; `tags`: those that are not of the merge, for the ticket had them
    before, or they were taken away since; `files`: how many the ticket had before; `links`: those
    that it had before; `unlinked`: those that were taken away since.
    """

    ticket: UUID
    followers: tuple[str, ...]
    tags: tuple[str, ...]
    files: int
    links: tuple[Link, ...]
    unlinked: tuple[Link, ...] = ()


@dataclass(kw_only=True)
class Ticket:
    """What is known of a ticket after a number of its events. `internal_fields`: those of `fields`
    whose values requesters do not see.

    Its fields are set by the fold alone, and hold values that never change: a copy of the ticket
    shares them.
    """

    subject: str
    body: str
    requester: str
    sla: SlaClock
    number: str | None = None
    status: Status = "new"
    priority: Priority = "normal"
    group: str | None = None
    assignee: str | None = None
    tags: tuple[str, ...] = ()
    fields: Mapping[str, FieldValue] = field(default_factory=dict)
    internal_fields: tuple[str, ...] = ()
    waiting_reason: str | None = None
    resume_at: datetime | None = None
    resolution: str | None = None
    close_reason: CloseReason | None = None
    followers: tuple[str, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    links: tuple[Link, ...] = ()
    rating: Rating | None = None
    before_merge: Standing | None = None
    last_merge: LastMerge | None = None

    def enter(
        self, status: Status, reason: str | None = None, resume_at: datetime | None = None
    ) -> None:
        """Move to a state, and say what it waits for, if it does, and until when."""
        self.status, self.waiting_reason, self.resume_at = status, reason, resume_at

    def start(self) -> None:
        """Take a new ticket to open: an agent works on it."""
        if self.status == "new":
            self.status = "open"

    @property
    def participants(self) -> tuple[str, ...]:
        """The requesters who may see it: its own, and those who follow it."""
        return with_names(self.followers, self.requester)

    @property
    def merged_into(self) -> UUID | None:
        """The ticket that goes on in the place of this one."""
        return next(iter(self.linked("merged_into")), None)

    def continuations(self) -> tuple[UUID, ...]:
        """Return where the conversation of a closed ticket may go on, the likeliest last: in the
        ticket that it was merged into, or else in its follow-ups.
        """
        if self.status != "closed":
            return ()
        return self.linked("merged_into") or self.linked("followed_up_by")

    def ahead(self, relation: Relation) -> tuple[UUID, ...]:
        """Return where a chain of such links goes on: past a merge in the ticket that goes on."""
        return self.linked("merged_into") or self.linked(relation)

    def linked(self, relation: Relation) -> tuple[UUID, ...]:
        """Return the tickets to which there is such a link."""
        return tuple(link.ticket for link in self.links if link.relation == relation)

    def is_linked(self, relation: Relation, other: UUID | None = None) -> bool:
        """Say whether there is such a link, to `other` or to any ticket."""
        return any(
            link.relation == relation and other in (None, link.ticket) for link in self.links
        )


class TicketEvent(Event):
    """A fact of a ticket's life. `internal`: requesters do not see it. Of a type of which they see
    some, an event says so itself, in the field `is_internal`.
    """

    internal: ClassVar[bool] = False

    def goes_on_in(self) -> UUID | None:
        """Return the ticket in which a reply to this one stands, if the event says so."""
        return None

    @abstractmethod  # the type checker sees to it; an ABC's `isinstance` is slow, and folds ask it
    def change(self, ticket: Ticket) -> None:
        """Change the ticket, in place, to what it is after this event."""

    def on_clock(self, clock: SlaClock, at: datetime) -> SlaClock:
        """Return the ticket's clock as it is after this event, if it runs on as before."""
        return clock

    def begin(self, at: datetime) -> Ticket:
        """Return the ticket that the event opens. Raises HistoryError if it opens none."""
        raise HistoryError("not_opened", f"{type(self).__name__} before the ticket was opened")


def apply(ticket: Ticket | None, event: TicketEvent, at: datetime) -> Ticket:
    """Return the ticket as it is after `event`, which happened at `at` (UTC): `ticket` itself,
    changed in place, or the new one that is opened.

    Never refuses what `decide` has produced. Raises HistoryError if the first event of a ticket is
    not its opening, or a later one is. A ticket at which this has raised is of no use any more.
    """
    if ticket is None:
        return event.begin(at)
    # Time passes, then it happens; then the clock runs on or stands, as the new state wants it.
    ticket.sla = event.on_clock(clock_at(ticket, at), at)
    event.change(ticket)
    ticket.sla = ticket.sla.switched(at, running=_is_our_turn(ticket, at))
    return ticket


def evolve(ticket: Ticket | None, event: TicketEvent, at: datetime) -> Ticket:
    """Return what `apply` does, and leave `ticket` as it is."""
    return apply(None if ticket is None else replace(ticket), event, at)


def clock_at(ticket: Ticket, at: datetime) -> SlaClock:
    """Return the clock as it stands at `at`: a wait that is over has set it going when it was over,
    even if the ticket has not been opened again yet.
    """
    clock = ticket.sla
    if ticket.resume_at is not None and ticket.resume_at <= at:
        clock = clock.switched(ticket.resume_at, running=True)
    return clock.at(at)


def _is_our_turn(ticket: Ticket, at: datetime) -> bool:
    """Say whether the desk is to act, so that the clock runs."""
    waited_enough = ticket.resume_at is not None and ticket.resume_at <= at
    return ticket.status in ("new", "open", "on_hold") or waited_enough


def with_names(names: tuple[str, ...], *more: str) -> tuple[str, ...]:
    """Return the names and some more, each once, in order."""
    return tuple(sorted({*names, *more}))


def without_names(names: tuple[str, ...], *fewer: str) -> tuple[str, ...]:
    """Return the names but some."""
    return tuple(name for name in names if name not in fewer)
