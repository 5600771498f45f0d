"""Who works on a ticket, and who follows it."""

from dataclasses import replace

from domain.actors import EVERYONE
from domain.codec import AgentName, PersonName
from domain.errors import Forbidden
from domain.tickets.command import NOTHING, Command, Context, Decision, require_room, ways
from domain.tickets.promises import promised_anew
from domain.tickets.ticket import (
    TICKET_FOLLOWERS,
    Ticket,
    TicketEvent,
    with_names,
    without_names,
)
from domain.values import Name, one_spelling


class TicketAssigned(TicketEvent):
    """Takes a new ticket to open."""

    assignee: AgentName

    def change(self, ticket: Ticket) -> None:
        ticket.start()
        ticket.assignee = self.assignee


class AssignTicket(Command):
    """Make someone responsible."""

    moves = ways("new", to="open")
    assignee: Name

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        assignee = one_spelling(self.assignee)
        if assignee == ticket.assignee:
            return NOTHING
        context.desk.check_assignee(assignee, ticket.group)
        return Decision((TicketAssigned(self.assignee),))

    def ends(self, ticket: Ticket, context: Context) -> bool:  # or it could not be resolved
        return ticket.assignee is None


class TicketUnassigned(TicketEvent):
    def change(self, ticket: Ticket) -> None:
        ticket.assignee = None


class UnassignTicket(Command):
    """Take the assignee off."""

    @classmethod
    def is_possible(cls, ticket: Ticket, context: Context) -> bool:
        return ticket.assignee is not None and ticket.status != "closed"

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        return NOTHING if ticket.assignee is None else Decision((TicketUnassigned(),))


class TicketMovedToGroup(TicketEvent):
    group: str | None

    def change(self, ticket: Ticket) -> None:
        ticket.group = self.group


class MoveToGroup(Command):
    """Hand the ticket to another group, or to none (null). An assignee who is not known to belong
    to it is cleared.
    """

    group: Name | None

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        if self.group == ticket.group:
            return NOTHING
        context.desk.check_group(self.group)
        moved = (
            TicketMovedToGroup(self.group),
            *promised_anew(ticket, context, self.group, ticket.fields),
        )
        if ticket.assignee is None or context.desk.has_member(self.group, ticket.assignee):
            return Decision(moved)
        return Decision((*moved, TicketUnassigned()))

    def ends(self, ticket: Ticket, context: Context) -> bool:  # or nobody would see it to its end
        return context.desk.home(ticket.group) != ticket.group


class FollowerAdded(TicketEvent):
    internal = True
    follower: PersonName

    def change(self, ticket: Ticket) -> None:
        ticket.followers = with_names(ticket.followers, self.follower)


class FollowTicket(Command):
    """Let someone hear of what becomes of the ticket: oneself, unless somebody is named. A
    requester who follows a ticket sees it as its own requester does. Agents let anybody follow,
    requesters let others follow tickets of their own.
    """

    allowed = EVERYONE
    follower: Name | None = None

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        actor = context.actor
        follower = one_spelling(self.follower or actor.id)
        if actor.role == "requester" and actor.id not in (ticket.requester, follower):
            raise Forbidden("only its requester, or an agent, lets others follow a ticket")
        if follower in ticket.followers:
            return NOTHING
        require_room("followers", len(ticket.followers) + 1, TICKET_FOLLOWERS)
        return Decision((FollowerAdded(self.follower or follower),))


class FollowerRemoved(TicketEvent):
    internal = True
    follower: PersonName

    def change(self, ticket: Ticket) -> None:
        ticket.followers = without_names(ticket.followers, self.follower)
        if (merge := ticket.last_merge) is not None:  # who comes again stays
            followers = without_names(merge.followers, self.follower)
            ticket.last_merge = replace(merge, followers=followers)


class UnfollowTicket(Command):
    """Stop following: oneself, unless somebody is named, which is for agents. Taken by closed
    tickets too, which followers see on.
    """

    allowed = EVERYONE
    taken_when_closed = True
    taken_when_full = True
    names_are_new = False
    follower: Name | None = None

    @classmethod
    def is_possible(cls, ticket: Ticket, context: Context) -> bool:
        actor = context.actor  # a requester does not learn who else follows
        followers = ticket.followers
        return actor.id in followers if actor.role == "requester" else bool(followers)

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        actor = context.actor
        follower = one_spelling(self.follower or actor.id)
        if actor.role == "requester" and actor.id != follower:
            raise Forbidden("only an agent takes another off the ticket")
        if follower not in ticket.followers:
            return NOTHING
        return Decision((FollowerRemoved(follower),))
