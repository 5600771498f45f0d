"""A ticket's way from open to closed, and what its requester says of the solution."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, ClassVar, get_args

from pydantic import WithJsonSchema

from domain.actors import EVERYONE
from domain.codec import Words
from domain.errors import Forbidden, StateConflict, Unacceptable
from domain.tickets.command import (
    NOTHING,
    Command,
    Context,
    Decision,
    closed,
    require_transition,
    ways,
)
from domain.tickets.ticket import UNSOLVED, CloseReason, Rating, Status, Ticket, TicketEvent
from domain.values import Line, Moment, Score, Text

_NEVER_BY_STATUS: Mapping[Status, tuple[str, str]] = {
    "new": ("cannot_return_to_new", "nothing returns to new"),
    "resolved": ("cannot_resolve_by_status", "cannot resolve by status; use resolve"),
    "closed": ("cannot_close_by_status", "cannot close by status; use close"),
}
"""The states that `update_status` never reaches, whatever the ticket's state."""


class StatusUpdated(TicketEvent):
    """To open, pending (waits for the requester) or on_hold (waits for a third party)."""

    status: Status
    reason: Words | None
    resume_at: datetime | None

    def change(self, ticket: Ticket) -> None:
        ticket.enter(self.status, self.reason, self.resume_at)


class UpdateStatus(Command):
    """Say that work goes on (open), or waits for the requester (pending) or others (on_hold), and
    until when: at `resume_at` it is opened again by itself.
    """

    moves = {
        "new": frozenset({"open", "pending", "on_hold"}),
        "open": frozenset({"pending", "on_hold"}),
        "pending": frozenset({"open", "on_hold"}),
        "on_hold": frozenset({"open", "pending"}),
    }
    status: Status
    reason: Line | None = None
    resume_at: Moment | None = None

    @classmethod
    def is_possible(cls, ticket: Ticket, context: Context) -> bool:
        return ticket.status in cls.moves

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        if self.status in _NEVER_BY_STATUS:
            raise Unacceptable(*_NEVER_BY_STATUS[self.status])
        if self.status == "open" and (self.reason or self.resume_at):
            raise Unacceptable("open_waits_for_nothing", "open takes neither reason nor resume_at")
        if self.status != "open" and self.reason is None:
            raise Unacceptable("needs_reason", f"say in reason what {self.status} waits for")
        if self.resume_at is not None and self.resume_at <= context.now:
            raise Unacceptable("resume_at_past", "resume_at must lie in the future")
        updated = StatusUpdated(self.status, self.reason, self.resume_at)
        if updated == StatusUpdated(ticket.status, ticket.waiting_reason, ticket.resume_at):
            return NOTHING
        if self.status != ticket.status:
            require_transition(ticket, UpdateStatus, self.status)
        return Decision((updated,))

    def ends(self, ticket: Ticket, context: Context) -> bool:  # when its wait is over
        over = ticket.resume_at is not None and ticket.resume_at <= context.now
        return self.status == "open" and over


class TicketResolved(TicketEvent):
    resolution: Words

    def change(self, ticket: Ticket) -> None:
        ticket.enter("resolved")
        ticket.last_merge = None  # which the requester is told of: it cannot be undone any more
        ticket.resolution = self.resolution


class ResolveTicket(Command):
    """Say that the problem is solved, and how."""

    moves = ways("open", "pending", "on_hold", to="resolved")
    taken_when_full = True
    resolution: Text

    @classmethod
    def is_possible(cls, ticket: Ticket, context: Context) -> bool:
        return ticket.status in UNSOLVED  # a new one once it is assigned

    @classmethod
    def needs(cls, ticket: Ticket, context: Context) -> list[str]:
        missing = context.desk.missing(ticket.fields, "open", "resolve")
        assignee = [] if ticket.assignee else ["assignee"]
        return [*assignee, *(f"fields.{key}" for key in missing)]

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        if ticket.status == "resolved" and ticket.resolution == self.resolution:
            return NOTHING
        if ticket.assignee is None:
            raise StateConflict("needs_assignee", "a ticket without an assignee cannot be resolved")
        require_transition(ticket, ResolveTicket, "resolved")
        if missing := context.desk.missing(ticket.fields, "open", "resolve"):
            described = context.desk.describe_missing(missing, ticket.fields)
            raise StateConflict("fields_missing", f"set before it is resolved: {described}")
        return Decision((TicketResolved(self.resolution),))


class TicketReopened(TicketEvent):
    reason: Words | None

    def change(self, ticket: Ticket) -> None:
        ticket.enter("open")
        ticket.resolution = None


class ReopenTicket(Command):
    """Take a resolved ticket back to open."""

    allowed = EVERYONE
    moves = ways("resolved", to="open")
    reason: Line | None = None

    @classmethod
    def is_possible(cls, ticket: Ticket, context: Context) -> bool:
        return ticket.status in cls.moves

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        require_transition(ticket, ReopenTicket, "open")
        return Decision((TicketReopened(self.reason),))


class TicketClosed(TicketEvent):
    """`reason` is null for a resolved ticket that is closed in the ordinary way."""

    schema: ClassVar[int] = 2
    upcasters: ClassVar = (dict,)  # as it was; from 2 on, a reason may be "withdrawn"
    reason: CloseReason | None

    def change(self, ticket: Ticket) -> None:
        ticket.enter("closed")
        ticket.close_reason = self.reason


_GIVEN = {"type": "string", "enum": [each for each in get_args(CloseReason) if each != "merged"]}


class CloseTicket(Command):
    """Close a resolved ticket; or one in any state, with the reason why no solution is owed. Its
    requester closes it as they like: one that is not resolved is `withdrawn` then.
    """

    allowed = EVERYONE
    moves = ways(*UNSOLVED, "resolved", to="closed")
    taken_when_full = True
    taken_when_closed = True
    reason: Annotated[CloseReason, WithJsonSchema(_GIVEN)] | None = None

    @classmethod
    def is_possible(cls, ticket: Ticket, context: Context) -> bool:
        actor = context.actor
        is_own = actor.role != "requester" or actor.id == ticket.requester
        return is_own and ticket.status in cls.moves

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        actor, reason = context.actor, self.reason
        is_own = actor.id == ticket.requester
        if actor.role == "requester" and not (is_own and reason in (None, "withdrawn")):
            raise Forbidden("a requester closes tickets of their own, as withdrawn if for a reason")
        if ticket.status == "closed":
            if self.reason in (None, ticket.close_reason):
                return NOTHING
            raise closed(ticket)
        if reason == "merged":  # which only events of former versions say of a close
            raise Unacceptable("close_as_merged", "use merge, which names the ticket that goes on")
        if ticket.status != "resolved" and is_own and reason is None:
            reason = "withdrawn"
        if ticket.status != "resolved" and reason is None:
            raise StateConflict(
                "needs_resolution_or_reason",
                f"the ticket is {ticket.status}; resolve it first, or give a reason for closing it",
            )
        return Decision((TicketClosed(reason),))


class TicketRated(TicketEvent):
    """By the requester, 1 (bad) to 5 (good)."""

    score: int
    comment: Words | None

    def change(self, ticket: Ticket) -> None:
        ticket.rating = Rating(self.score, self.comment)


class RateTicket(Command):
    """Say how well it was solved, from 1 to 5: for the requester, once it is. Taken by closed
    tickets too.
    """

    allowed = EVERYONE
    taken_when_closed = True
    score: Score
    comment: Text | None = None

    @classmethod
    def is_possible(cls, ticket: Ticket, context: Context) -> bool:
        return context.actor.id == ticket.requester and ticket.resolution is not None

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        if context.actor.id != ticket.requester:
            raise Unacceptable("not_the_requester", "only its requester can rate a ticket")
        if ticket.resolution is None:
            raise StateConflict("not_resolved", "a ticket is rated once it has been resolved")
        if ticket.rating == Rating(self.score, self.comment):
            return NOTHING
        return Decision((TicketRated(self.score, self.comment),))

    def ends(self, ticket: Ticket, context: Context) -> bool:
        return ticket.rating is None
