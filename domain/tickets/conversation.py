"""What is written on a ticket: replies and notes. A requester's reply to a closed ticket goes to
where its conversation goes on, or opens a follow-up ticket.
"""

from datetime import datetime
from typing import ClassVar
from uuid import UUID

from domain.actors import EVERYONE, Actor
from domain.codec import Words, with_fields
from domain.errors import StateConflict, Unacceptable
from domain.sla import SlaClock
from domain.tickets.assignment import FollowerAdded
from domain.tickets.command import (
    Command,
    Context,
    Decision,
    closed,
    require_room,
    require_space_elsewhere,
    ways,
)
from domain.tickets.lifecycle import StatusUpdated, TicketReopened
from domain.tickets.opening import TicketOpened
from domain.tickets.relations import TicketLinked
from domain.tickets.ticket import TICKET_FOLLOWERS, TICKET_LINKS, Ticket, TicketEvent
from domain.values import ERASED, Text


class AgentReplied(TicketEvent):
    """Public. Takes a new ticket to open and is the first response, unless it is automatic."""

    schema: ClassVar[int] = 2
    upcasters: ClassVar = (with_fields(automatic=False),)
    body: Words
    automatic: bool = False

    def change(self, ticket: Ticket) -> None:
        if not self.automatic:
            ticket.last_merge = None  # it cannot be undone any more
            ticket.start()

    def on_clock(self, clock: SlaClock, at: datetime) -> SlaClock:
        return clock if self.automatic else clock.with_answer()


class RequesterReplied(TicketEvent):
    """Public. A pending or resolved ticket is opened by an event of its own, right after this."""

    schema: ClassVar[int] = 2
    upcasters: ClassVar = (with_fields(automatic=False),)
    body: Words
    automatic: bool = False

    def change(self, ticket: Ticket) -> None:
        """What it says is read in the timeline."""

    def on_clock(self, clock: SlaClock, at: datetime) -> SlaClock:
        return clock if self.automatic else clock.with_question(at)


class ReplyForwarded(TicketEvent):
    """Public. A reply to this closed ticket stands in `ticket`, where the conversation goes on."""

    ticket: UUID

    def change(self, ticket: Ticket) -> None:
        """What it says is read in the timeline."""

    def goes_on_in(self) -> UUID:
        return self.ticket


class Reply(Command):
    """Write to the other side: public. Who is the ticket's requester, or has the role of one,
    writes as a requester, all others as agents.

    A requester's reply takes a pending or resolved ticket back to open. To a closed one it goes to
    where the conversation goes on: the ticket into which it was merged, or a follow-up, which it
    opens if none is open. The answer names that ticket in `follow_up`. A requester who no longer
    follows that ticket is refused. A reply that is `automatic`, such as an out-of-office notice,
    leaves status and promises as they are, and opens no follow-up.
    """

    allowed = EVERYONE
    moves = ways("new", "pending", "resolved", to="open")
    taken_when_closed = True
    body: Text
    automatic: bool = False

    @classmethod
    def is_possible(cls, ticket: Ticket, context: Context) -> bool:
        return ticket.status != "closed" or _is_of_requester(context.actor, ticket)

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        actor = context.actor
        if not _is_of_requester(actor, ticket):
            if ticket.status == "closed":
                raise closed(ticket)
            if actor.role == "system":  # or an automatic receipt would count as the first response
                raise Unacceptable("system_cannot_reply", "a reply is an agent's or a requester's")
            return Decision((AgentReplied(self.body, self.automatic),))
        if ticket.status != "closed":
            return Decision(self._heard(ticket))
        if context.other is not None and actor.id not in context.other.participants:
            raise StateConflict(
                "conversation_left",
                "the conversation goes on in a ticket that you no longer follow: open a new one",
            )
        if context.other is not None and context.other.status != "closed":
            return self._forwarded(context.other, context)
        if self.automatic:
            raise StateConflict(
                "ticket_closed", "the ticket is closed, and an automatic reply opens no follow-up"
            )
        return self._follow_up(ticket, context)

    def _heard(self, ticket: Ticket) -> tuple[TicketEvent, ...]:
        """Return what a requester's reply leads to on a ticket that is not closed."""
        replied = RequesterReplied(self.body, self.automatic)
        if ticket.status == "pending" and not self.automatic:  # the requester was waited for
            return replied, StatusUpdated("open", None, None)
        if ticket.status == "resolved" and not self.automatic:
            return replied, TicketReopened("the requester replied")
        return (replied,)

    def _forwarded(self, other: Ticket, context: Context) -> Decision:
        """Say it on the other ticket, which the writer follows."""
        if context.other_id is None:
            raise AssertionError("an other ticket has an id")
        require_space_elsewhere(context)
        return Decision((ReplyForwarded(context.other_id),), self._heard(other))

    def _follow_up(self, ticket: Ticket, context: Context) -> Decision:
        """Open a new ticket in the writer's name; who had to do with the old one follows it.

        It follows up the last ticket of the conversation: all but its text is as it was there, also
        fields that the desk defines otherwise by now, which the requester could not mend.
        """
        new = context.follow_up_id
        if new is None:
            raise AssertionError("a reply is decided with an id for a follow-up at hand")
        last = context.other or ticket
        require_room("links", len(last.links) + 1, TICKET_LINKS)
        desk, writer = context.desk, context.actor.id
        home = desk.home(last.group)
        group = home if desk.takes_group(home) else None
        opened = TicketOpened(
            subject=last.subject,
            body=self.body,
            requester=writer,
            priority=last.priority,
            group=group,
            tags=last.tags,
            fields=last.fields,
            internal_fields=last.internal_fields,
            sla=desk.targets(last.priority, group, last.fields),
            number=context.number,
        )
        others = {ticket.requester, last.requester, *last.followers} - {writer, ERASED}
        begun = (
            opened,
            TicketLinked("follows_up", context.other_id or context.ticket_id),
            *map(FollowerAdded, sorted(others)[:TICKET_FOLLOWERS]),
        )
        linked = TicketLinked("followed_up_by", new)
        if context.other_id is None:
            return Decision((linked,), (), begun)
        return Decision((ReplyForwarded(new),), (linked,), begun)

    def needs_number(self, ticket: Ticket | None, other: Ticket | None) -> bool:
        return ticket is not None and _opens_follow_up(ticket, other)

    def ends(self, ticket: Ticket, context: Context) -> bool:
        return _opens_follow_up(ticket, context.other)


def _opens_follow_up(ticket: Ticket, other: Ticket | None) -> bool:
    return ticket.status == "closed" and (other or ticket).status == "closed"


def _is_of_requester(actor: Actor, ticket: Ticket) -> bool:
    own = actor.role == "agent" and actor.id == ticket.requester
    return own or actor.role == "requester"


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
