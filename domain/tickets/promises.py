"""How urgent a ticket is, and what was promised for it and not done in time."""

from collections.abc import Mapping
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from domain.errors import StateConflict
from domain.sla import SlaClock, SlaTarget, SlaTargets, round_the_clock, without_promise
from domain.tickets.command import NOTHING, Command, Context, Decision
from domain.tickets.ticket import Ticket, TicketEvent, clock_at
from domain.values import FieldValue, Priority


class PriorityChanged(TicketEvent):
    """Promises for the new priority replace those for the old, from the same beginning."""

    schema: ClassVar[int] = 3
    upcasters: ClassVar = (without_promise, round_the_clock)
    priority: Priority
    sla: SlaTargets

    def change(self, ticket: Ticket) -> None:
        ticket.priority = self.priority

    def on_clock(self, clock: SlaClock, at: datetime) -> SlaClock:
        return clock.promising(self.sla, at)


class ChangePriority(Command):
    """Say how urgent it is."""

    priority: Priority

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        if self.priority == ticket.priority:
            return NOTHING
        sla = context.desk.targets(self.priority, ticket.group, ticket.fields)
        return Decision((PriorityChanged(self.priority, sla),))


class SlaChanged(TicketEvent):
    """The promises for another group, or another value of the field that the desk goes by. They are
    counted from the same beginning.
    """

    sla: SlaTargets

    def change(self, ticket: Ticket) -> None:
        """What changes is the clock."""

    def on_clock(self, clock: SlaClock, at: datetime) -> SlaClock:
        return clock.promising(self.sla, at)


def promised_anew(
    ticket: Ticket, context: Context, group: str | None, fields: Mapping[str, FieldValue]
) -> tuple[SlaChanged, ...]:
    """Return what becomes of the promises for a ticket that gets another group or other fields.

    Nothing if the desk promises the same for both: what was promised under a former set-up holds.
    """
    was = context.desk.targets(ticket.priority, ticket.group, ticket.fields)
    sla = context.desk.targets(ticket.priority, group, fields)
    return () if sla == was else (SlaChanged(sla),)


class PromiseTakenOver(TicketEvent):
    """What was promised for `ticket`, which was merged into this one, ran out earlier, at `due_at`:
    it holds. Requesters are not told of which ticket.
    """

    target: SlaTarget
    due_at: datetime
    ticket: UUID | None

    def change(self, ticket: Ticket) -> None:
        """What changes is the clock."""

    def on_clock(self, clock: SlaClock, at: datetime) -> SlaClock:
        return clock.taking_over(self.target, self.due_at, self.ticket)


class PromiseGivenBack(TicketEvent):
    """The last promise of a kind that was taken over holds no more: its merge is undone."""

    target: SlaTarget

    def change(self, ticket: Ticket) -> None:
        """What changes is the clock."""

    def on_clock(self, clock: SlaClock, at: datetime) -> SlaClock:
        return clock.giving_back(self.target)


class SlaBreached(TicketEvent):
    """What had been promised for `due_at` had not been done by then."""

    internal = True
    target: SlaTarget
    due_at: datetime

    def change(self, ticket: Ticket) -> None:
        """What changes is the clock."""

    def on_clock(self, clock: SlaClock, at: datetime) -> SlaClock:
        return clock.with_breach(self.target, self.due_at)


class MarkSlaBreach(Command):
    """Put on record that a promised time has run out: for the timekeeper, and refused before."""

    taken_when_closed = True
    taken_when_full = True
    target: SlaTarget

    @classmethod
    def is_possible(cls, ticket: Ticket, context: Context) -> bool:
        return bool(clock_at(ticket, context.now).overdue)

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        clock = clock_at(ticket, context.now)
        if overdue := clock.overdue.get(self.target):
            return Decision((SlaBreached(self.target, overdue[0]),))
        if self.target in clock.breached:
            return NOTHING
        raise StateConflict("sla_not_due", f"no promised {self.target} has run out")
