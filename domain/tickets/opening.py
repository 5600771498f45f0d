"""A ticket is opened, and gets the number that people call it by."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, ClassVar

from pydantic import Field

from domain.actors import EVERYONE
from domain.codec import PersonalValue, PersonName, Words, with_fields
from domain.errors import HistoryError, StateConflict, Unacceptable
from domain.sla import SlaClock, SlaTargets, round_the_clock, without_promise
from domain.tickets.command import NOTHING, Command, Context, Decision
from domain.tickets.ticket import TICKET_FIELDS, TICKET_TAGS, Ticket, TicketEvent
from domain.values import (
    FieldKey,
    Line,
    Name,
    Priority,
    Tag,
    TextOrNothing,
    Value,
    at_most,
    number_text,
)


class TicketOpened(TicketEvent):
    """`internal_fields`: those of `fields` that requesters do not see. `number`: what people call
    the ticket by; null for those of before there were numbers.
    """

    schema: ClassVar[int] = 5
    upcasters: ClassVar = (
        without_promise,
        with_fields(internal_fields=[]),
        with_fields(number=None),
        round_the_clock,
    )
    subject: Words
    body: Words
    requester: PersonName
    priority: Priority
    group: str | None
    tags: tuple[str, ...]
    fields: Mapping[str, PersonalValue]
    sla: SlaTargets
    internal_fields: tuple[str, ...] = ()
    number: int | None = None

    def begin(self, at: datetime) -> Ticket:
        return Ticket(
            subject=self.subject,
            body=self.body,
            requester=self.requester,
            priority=self.priority,
            group=self.group,
            tags=self.tags,
            fields=self.fields,
            internal_fields=self.internal_fields,
            sla=SlaClock(targets=self.sla, since=at),
            number=number_text(self.number),
        )

    def change(self, ticket: Ticket) -> None:
        raise HistoryError("opened_twice", "a ticket cannot be opened twice")


class OpenTicket(Command):
    """Open a ticket for a requester."""

    allowed = EVERYONE
    taken_when_closed = True
    subject: Line
    requester: Name
    body: TextOrNothing = ""
    priority: Priority = "normal"
    group: Name | None = None
    tags: Annotated[tuple[Tag, ...], *at_most(TICKET_TAGS)] = ()
    fields: Annotated[dict[FieldKey, Value], *at_most(TICKET_FIELDS)] = Field(default_factory=dict)

    def begin(self, context: Context) -> Decision:
        desk = context.desk
        desk.check_group(self.group)
        fields = {key: desk.canonical(key, value) for key, value in self.fields.items()}
        if missing := desk.missing(fields, "open"):
            refusal = Unacceptable("needs_fields", f"fill in first: {', '.join(missing)}")
            refusal.faults = [
                (f"/fields/{key}", f"fill in {desk.fields[key].kind()}") for key in missing
            ]
            raise refusal
        opened = TicketOpened(
            subject=self.subject,
            body=self.body,
            requester=self.requester,
            priority=self.priority,
            group=self.group,
            tags=tuple(sorted(set(self.tags))),
            fields=fields,
            sla=desk.targets(self.priority, self.group, fields),
            internal_fields=tuple(sorted(key for key in self.fields if not desk.is_public(key))),
            number=context.number,
        )
        return Decision((opened,))

    @classmethod
    def is_possible(cls, ticket: Ticket, context: Context) -> bool:
        return False

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        raise StateConflict("ticket_exists", "this ticket has been opened already")

    def needs_number(self, ticket: Ticket | None, other: Ticket | None) -> bool:
        return ticket is None


class TicketNumbered(TicketEvent):
    """A ticket that was opened before there were numbers has one now."""

    number: int

    def change(self, ticket: Ticket) -> None:
        ticket.number = number_text(self.number)


class NumberTicket(Command):
    """Give a number to a ticket that was opened before there were numbers. Taken by closed tickets
    too.
    """

    taken_when_closed = True
    taken_when_full = True

    @classmethod
    def is_possible(cls, ticket: Ticket, context: Context) -> bool:
        return ticket.number is None

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        if ticket.number is not None or context.number is None:
            return NOTHING
        return Decision((TicketNumbered(context.number),))

    def needs_number(self, ticket: Ticket | None, other: Ticket | None) -> bool:
        return ticket is not None and ticket.number is None
