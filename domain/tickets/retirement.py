"""What is done with a ticket that uses what the desk has retired: one command after the other."""

from domain.desk import Desk
from domain.tickets.assignment import AssignTicket, MoveToGroup, UnassignTicket
from domain.tickets.command import Command
from domain.tickets.details import SetField
from domain.tickets.ticket import Ticket


def next_step(ticket: Ticket, desk: Desk) -> Command | None:
    """Return what is to be done with the ticket next; None if nothing is.

    The assignee's successor comes before the group's: a move clears who does not belong there.
    """
    if ticket.status == "closed":
        return None
    home, agent = desk.home(ticket.group), ticket.assignee
    if agent is not None and agent in desk.retired.agents and desk.groups:
        to = desk.retired.agents[agent]
        belongs = to is not None and desk.has_member(home, to)
        return AssignTicket(assignee=to) if to is not None and belongs else UnassignTicket()
    if home != ticket.group:
        return MoveToGroup(group=home)
    for key, value in ticket.fields.items():
        if (kept := desk.successor(key, value)) != value:
            return SetField(key=key, value=kept)
    return None
