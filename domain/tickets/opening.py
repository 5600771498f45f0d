"""A ticket is opened."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, ClassVar

from pydantic import Field

from domain.actors import EVERYONE
from domain.codec import PersonalValue, PersonName, Words
from domain.errors import HistoryError, StateConflict, Unacceptable
from domain.sla import SlaClock, SlaTargets, without_promise
from domain.tickets.command import Command, Context, Decision
from domain.tickets.ticket import TICKET_FIELDS, TICKET_TAGS, Ticket, TicketEvent
from domain.values import (
    FieldKey,
    JsonObject,
    Line,
    Name,
    Priority,
    Tag,
    TextOrNothing,
    Value,
    at_most,
)


def _all_public(data: JsonObject) -> JsonObject:
    """Upcast an event of a time when requesters saw all fields."""
    return {**data, "internal_fields": []}


class TicketOpened(TicketEvent):
    """`internal_fields`: those of `fields` that requesters do not see."""

    schema: ClassVar[int] = 3
    upcasters: ClassVar = (without_promise, _all_public)
    subject: Words
    body: Words
    requester: PersonName
    priority: Priority
    group: str | None
    tags: tuple[str, ...]
    fields: Mapping[str, PersonalValue]
    sla: SlaTargets
    internal_fields: tuple[str, ...] = ()

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
    tags: Annotated[tuple[Tag, ...], Field(max_length=TICKET_TAGS), at_most(TICKET_TAGS)] = ()
    fields: Annotated[
        dict[FieldKey, Value], Field(max_length=TICKET_FIELDS), at_most(TICKET_FIELDS)
    ] = Field(default_factory=dict)

    def begin(self, context: Context) -> Decision:
        desk = context.desk
        desk.check_group(self.group)
        fields = {key: desk.kept(key, value) for key, value in self.fields.items()}
        if missing := desk.missing(fields, "open"):
            raise Unacceptable("needs_fields", f"fill in first: {', '.join(missing)}")
        opened = TicketOpened(
            subject=self.subject,
            body=self.body,
            requester=self.requester,
            priority=self.priority,
            group=self.group,
            tags=tuple(sorted(set(self.tags))),
            fields=fields,
            sla=desk.targets(self.priority),
            internal_fields=tuple(sorted(key for key in self.fields if not desk.is_public(key))),
        )
        return Decision((opened,))

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        raise StateConflict("ticket_exists", "this ticket has been opened already")
