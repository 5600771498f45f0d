"""What two tickets have to do with each other: links, and merging one into another."""

from collections.abc import Mapping
from typing import Literal
from uuid import UUID

from domain.codec import PersonName
from domain.errors import StateConflict, Unacceptable
from domain.tickets.command import (
    NOTHING,
    UNSOLVED,
    Command,
    Context,
    Decision,
    closed,
    require_other,
    require_room,
    ways,
)
from domain.tickets.ticket import (
    TICKET_FOLLOWERS,
    TICKET_LINKS,
    Link,
    Relation,
    Ticket,
    TicketEvent,
    with_names,
)
from domain.values import ERASED

LinkRelation = Literal["blocks", "duplicates", "relates", "parent"]
UnlinkRelation = Literal[LinkRelation, "blocked_by", "duplicated_by", "child"]

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


def _require_room_for_link(ticket: Ticket, other: Ticket) -> None:
    require_room("links", max(len(ticket.links), len(other.links)) + 1, TICKET_LINKS)


class TicketLinked(TicketEvent):
    """Read as a line on this ticket's form, `blocks: B`, `parent: P`. The other ticket has the
    opposite event at the same time.
    """

    internal = True
    relation: Relation
    ticket: UUID

    def change(self, ticket: Ticket) -> None:
        ticket.links = (*ticket.links, Link(self.relation, self.ticket))

    def goes_on_in(self) -> UUID | None:
        return self.ticket if self.relation == "followed_up_by" else None


class LinkTicket(Command):
    """Say that this ticket blocks, duplicates or relates to another, or that the other is its
    parent. The other one shows it too. Taken by closed tickets too.
    """

    taken_when_closed = True
    taken_when_full = True  # of links there are few
    relation: LinkRelation
    ticket: UUID

    def other_ticket(self) -> UUID:
        return self.ticket

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        opposite = OPPOSITE[self.relation]
        if self.ticket == context.ticket_id:
            raise Unacceptable("link_to_itself", "a ticket cannot be linked to itself")
        if ticket.is_linked(self.relation, self.ticket):
            return NOTHING
        other = require_other(context)
        if ticket.is_linked(opposite, self.ticket):
            raise StateConflict(
                "link_cycle", "the two tickets are linked the other way round already"
            )
        if self.relation == "parent" and ticket.is_linked("parent"):
            raise StateConflict("has_parent", "the ticket has a parent; take that link away first")
        _require_room_for_link(ticket, other)
        return Decision(
            (TicketLinked(self.relation, self.ticket),),
            (TicketLinked(opposite, context.ticket_id),),
        )


class TicketUnlinked(TicketEvent):
    internal = True
    relation: Relation
    ticket: UUID

    def change(self, ticket: Ticket) -> None:
        gone = Link(self.relation, self.ticket)
        ticket.links = tuple(link for link in ticket.links if link != gone)


class UnlinkTicket(Command):
    """Take a link away, on both tickets. Taken by closed tickets too."""

    taken_when_closed = True
    lengthens_other = True  # for the two can be linked again
    relation: UnlinkRelation
    ticket: UUID

    def other_ticket(self) -> UUID:
        return self.ticket

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        if not ticket.is_linked(self.relation, self.ticket):
            return NOTHING
        return Decision(
            (TicketUnlinked(self.relation, self.ticket),),
            (TicketUnlinked(OPPOSITE[self.relation], context.ticket_id),),
        )


class TicketMergedInto(TicketEvent):
    """Closes the ticket: `ticket` goes on in its place."""

    ticket: UUID

    def change(self, ticket: Ticket) -> None:
        ticket.enter("closed")
        ticket.close_reason = "merged"
        ticket.links = (*ticket.links, Link("merged_into", self.ticket))


class TicketMergedFrom(TicketEvent):
    """Goes on in the place of `ticket`, whose requester and followers follow this one now."""

    internal = True
    ticket: UUID
    followers: tuple[PersonName, ...]

    def change(self, ticket: Ticket) -> None:
        ticket.followers = with_names(ticket.followers, *self.followers)
        ticket.links = (*ticket.links, Link("merged_from", self.ticket))


class MergeTicket(Command):
    """Close this ticket as merged: another one that is not yet solved goes on for both, and the
    requester and the followers of this one follow that one.
    """

    moves = ways(*UNSOLVED, "resolved", to="closed")
    taken_when_full = True
    taken_when_closed = True
    lengthens_other = True
    into: UUID

    def other_ticket(self) -> UUID:
        return self.into

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        if self.into == context.ticket_id:
            raise Unacceptable("merge_into_itself", "a ticket cannot be merged into itself")
        if ticket.is_linked("merged_into", self.into):
            return NOTHING
        if ticket.status == "closed":
            raise closed(ticket)
        other = require_other(context)
        if other.status in ("resolved", "closed"):
            raise StateConflict(
                "merge_target_solved",
                f"the other ticket is {other.status}; it cannot go on for both",
            )
        _require_room_for_link(ticket, other)
        following = {other.requester, *other.followers, ERASED}
        followers = tuple(sorted({ticket.requester, *ticket.followers} - following))
        require_room("followers", len(other.followers) + len(followers), TICKET_FOLLOWERS)
        return Decision(
            (TicketMergedInto(self.into),), (TicketMergedFrom(context.ticket_id, followers),)
        )
