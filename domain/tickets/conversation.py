"""What is written on a ticket: replies and notes. A requester's reply to a closed ticket opens a
follow-up ticket.
"""

from domain.actors import EVERYONE
from domain.codec import Words
from domain.errors import Unacceptable
from domain.tickets.command import Command, Context, Decision, closed, require_room, ways
from domain.tickets.lifecycle import StatusUpdated, TicketReopened
from domain.tickets.opening import TicketOpened
from domain.tickets.relations import TicketLinked
from domain.tickets.ticket import TICKET_LINKS, Ticket, TicketEvent
from domain.values import Text


class AgentReplied(TicketEvent):
    """Public. Takes a new ticket to open."""

    body: Words

    def change(self, ticket: Ticket) -> None:
        ticket.start()
        ticket.sla = ticket.sla.with_answer()


class RequesterReplied(TicketEvent):
    """Public. A pending or resolved ticket is opened by an event of its own, right after this."""

    body: Words

    def change(self, ticket: Ticket) -> None:
        """What it says is read in the timeline."""


class Reply(Command):
    """Write to the other side: public. A requester's reply takes a pending or resolved ticket back
    to open; to a closed one it opens a follow-up ticket, which the answer names.
    """

    allowed = EVERYONE
    moves = ways("new", "pending", "resolved", to="open")
    taken_when_closed = True
    body: Text

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        role = context.actor.role
        if ticket.status == "closed" and role != "requester":
            raise closed(ticket)
        if role == "agent":
            return Decision((AgentReplied(self.body),))
        if role == "system":  # or an automatic receipt would count as the first response
            raise Unacceptable("system_cannot_reply", "a reply is an agent's or a requester's")
        replied = RequesterReplied(self.body)
        match ticket.status:
            case "pending":  # the requester is who was waited for
                return Decision((replied, StatusUpdated("open", None, None)))
            case "resolved":
                return Decision((replied, TicketReopened("the requester replied")))
            case "closed":
                return self._follow_up(ticket, context)
            case _:
                return Decision((replied,))

    def _follow_up(self, ticket: Ticket, context: Context) -> Decision:
        """Open a new ticket in the requester's name.

        All but its text is as it was on the closed ticket, also fields that the desk defines
        otherwise by now: the requester could not mend them.
        """
        if context.follow_up_id is None:
            raise AssertionError("a reply is decided with an id for a follow-up at hand")
        require_room("links", len(ticket.links) + 1, TICKET_LINKS)
        desk = context.desk
        opened = TicketOpened(
            subject=ticket.subject,
            body=self.body,
            requester=context.actor.id,
            priority=ticket.priority,
            group=ticket.group if desk.takes_group(ticket.group) else None,
            tags=ticket.tags,
            fields=ticket.fields,
            sla=desk.targets(ticket.priority),
        )
        return Decision(
            (TicketLinked("followed_up_by", context.follow_up_id),),
            (opened, TicketLinked("follows_up", context.ticket_id)),
        )

    def ends(self, ticket: Ticket, context: Context) -> bool:  # when it opens a follow-up
        return ticket.status == "closed"


class NoteAdded(TicketEvent):
    """Internal: never shown to requesters."""

    internal = True
    body: Words

    def change(self, ticket: Ticket) -> None:
        """What it says is read in the timeline."""


class AddNote(Command):
    """Write a note for colleagues: never shown to requesters."""

    body: Text

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        return Decision((NoteAdded(self.body),))
