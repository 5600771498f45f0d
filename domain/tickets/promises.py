"""How urgent a ticket is, and what was promised for it and not done in time."""

from datetime import datetime
from typing import ClassVar

from domain.errors import StateConflict
from domain.sla import SlaTarget, SlaTargets, without_promise
from domain.tickets.command import NOTHING, Command, Context, Decision
from domain.tickets.ticket import Ticket, TicketEvent, clock_at
from domain.values import Priority


class PriorityChanged(TicketEvent):
    """Promises for the new priority replace those for the old, from the same beginning."""

    schema: ClassVar[int] = 2
    upcasters: ClassVar = (without_promise,)
    priority: Priority
    sla: SlaTargets

    def change(self, ticket: Ticket) -> None:
        ticket.priority = self.priority
        ticket.sla = ticket.sla.promising(self.sla)


class ChangePriority(Command):
    """Say how urgent it is."""

    priority: Priority

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        if self.priority == ticket.priority:
            return NOTHING
        return Decision((PriorityChanged(self.priority, context.desk.targets(self.priority)),))


class SlaBreached(TicketEvent):
    """What had been promised for `due_at` had not been done by then."""

    internal = True
    target: SlaTarget
    due_at: datetime

    def change(self, ticket: Ticket) -> None:
        ticket.sla = ticket.sla.with_breach(self.target, self.due_at)


class MarkSlaBreach(Command):
    """Put on record that a promised time has run out: for the timekeeper, and refused before."""

    taken_when_closed = True
    taken_when_full = True
    target: SlaTarget

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        clock = clock_at(ticket, context.now)
        if self.target in clock.breached:
            return NOTHING
        if self.target not in clock.overdue:
            raise StateConflict("sla_not_due", f"no promised {self.target} has run out")
        return Decision((SlaBreached(self.target, clock.overdue[self.target]),))
