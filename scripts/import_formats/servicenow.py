"""The incident log of a ServiceNow instance: UCI 498, doi 10.24432/C57S4H.

Every row is a snapshot of an incident after one update, so what happened is the difference between
two rows. The first row opens the ticket, and its state is brought about by the commands that lead
there. Within a row the state comes last: a ticket is assigned before it is resolved.

`resolved_at`, `closed_at`, `closed_code` and `resolved_by` hold their final values on every row:
facts from the future, not used. The log has no subjects and no resolution texts.
"""

from collections.abc import Iterator, Mapping

from domain.actors import Actor
from domain.tickets.assignment import AssignTicket, MoveToGroup, UnassignTicket
from domain.tickets.command import Command
from domain.tickets.details import SetField
from domain.tickets.lifecycle import CloseTicket, ReopenTicket, ResolveTicket, UpdateStatus
from domain.tickets.opening import OpenTicket
from domain.tickets.promises import ChangePriority
from domain.values import FieldValue, Priority
from projections.views.tickets import TicketRead
from scripts.import_formats import (
    RESOLUTION,
    UNKNOWN,
    Act,
    Cells,
    Format,
    History,
    chosen,
    read_time,
)

_TIME = "%d/%m/%Y %H:%M"
_NULL = "?"

_PRIORITIES: Mapping[str, Priority] = {
    "1 - Critical": "urgent",
    "2 - High": "high",
    "3 - Moderate": "normal",
    "4 - Low": "low",
}
_ON_HOLD = ("Awaiting Vendor", "Awaiting Problem", "Awaiting Evidence")
_STATES: Mapping[str, tuple[Command, ...]] = {
    "New": (),  # nothing returns to new; and a new ticket that is assigned is open
    "Active": (UpdateStatus(status="open"),),
    "Awaiting User Info": (UpdateStatus(status="pending", reason="Awaiting User Info"),),
    **{state: (UpdateStatus(status="on_hold", reason=state),) for state in _ON_HOLD},
    "Resolved": (ResolveTicket(resolution=RESOLUTION),),
    "Closed": (CloseTicket(),),
}
"""Which commands bring a ticket into a state."""
_TEXT_FIELDS = {
    "number": "number",
    "contact_type": "contact_type",
    "location": "location",
    "category": "category",
    "subcategory": "subcategory",
    "u_symptom": "symptom",
    "cmdb_ci": "configuration_item",
    "impact": "impact",
    "urgency": "urgency",
    "notify": "notify",
    "problem_id": "problem_id",
    "rfc": "change_request",
    "vendor": "vendor",
    "caused_by": "caused_by",
}
_TRUTH_FIELDS = {
    "made_sla": "made_sla",
    "knowledge": "knowledge",
    "u_priority_confirmation": "priority_confirmed",
}


def _acts(history: History, cells: Cells) -> Iterator[Act]:
    opened_at = read_time(cells["opened_at"], _TIME)
    at, actor = read_time(cells["sys_updated_at"], _TIME), _agent(cells["sys_updated_by"])
    if history.before is None:
        yield Act(opened_at, _agent(cells["opened_by"]), _open(cells))
        commands = _first(cells)
    else:
        commands = _difference(history.before, cells)
    for command in commands:
        yield Act(at, actor, command)


def _open(cells: Cells) -> Command:
    about = [_name(cells[column]) for column in ("category", "subcategory")]
    return OpenTicket(
        subject=" / ".join(a for a in about if a) or f"Incident {cells['number']}",
        requester=_name(cells["caller_id"]) or UNKNOWN,
        priority=_priority(cells),
        fields={key: value for key, value in _fields(cells).items() if value is not None},
    )


def _first(cells: Cells) -> Iterator[Command]:
    """Yield what leads a new ticket to the state of its first row."""
    yield from _assignment(None, cells)
    state = cells["incident_state"]
    if state == "Closed":
        yield from _STATES["Resolved"]
    yield from chosen(_STATES, state, "state")


def _difference(before: Cells, after: Cells) -> Iterator[Command]:
    was, now = before["incident_state"], after["incident_state"]
    entering = chosen(_STATES, now, "state")
    if was == "Resolved" and now not in ("Resolved", "Closed"):
        yield ReopenTicket()
    old, new = _fields(before), _fields(after)
    for key, value in new.items():
        if value != old[key]:
            yield SetField(key=key, value=value)
    if _priority(before) != (priority := _priority(after)):
        yield ChangePriority(priority=priority)
    yield from _assignment(before, after)
    if was != now and not (was == "Resolved" and now == "Active"):
        yield from entering


def _assignment(before: Cells | None, after: Cells) -> Iterator[Command]:
    """Yield changes of group and assignee.

    A move clears an assignee who may not belong to the group: one who stays is assigned again.
    """
    group, assignee = _name(after["assignment_group"]), _name(after["assigned_to"])
    old_group = None if before is None else _name(before["assignment_group"])
    old_assignee = None if before is None else _name(before["assigned_to"])
    moved = group != old_group
    if moved:
        yield MoveToGroup(group=group)
    if assignee is not None and (moved or assignee != old_assignee):
        yield AssignTicket(assignee=assignee)
    elif assignee is None and old_assignee is not None and not (moved and group):
        yield UnassignTicket()


def _priority(cells: Cells) -> Priority:
    return chosen(_PRIORITIES, cells["priority"], "priority")


def _fields(cells: Cells) -> dict[str, FieldValue | None]:
    texts = {key: _name(cells[column]) for column, key in _TEXT_FIELDS.items()}
    truths = {key: _truth(cells[column]) for column, key in _TRUTH_FIELDS.items()}
    return {**texts, **truths}


def _name(text: str) -> str | None:
    """Return a value without its stray double blanks; None for the log's null."""
    text = " ".join(text.split())
    return None if text in ("", _NULL) else text


def _truth(text: str) -> bool | None:
    return {"true": True, "false": False}.get(text)


def _agent(text: str) -> Actor:
    return Actor(_name(text) or UNKNOWN, "agent")


def _opening(_cells: Cells) -> tuple[str, str]:
    return "subject", "made from category and subcategory"


def _points(expected: Cells, read: TicketRead) -> Mapping[str, tuple[object, object]]:
    ticket, state = read.ticket, expected["incident_state"]
    known = {"New": "new", "Active": "open", "Awaiting User Info": "pending"}
    status = "on_hold" if state in _ON_HOLD else known.get(state, state.lower())
    return {
        "status": (status, ticket.status),
        "priority": (_PRIORITIES.get(expected["priority"]), ticket.priority),
        "group": (_name(expected["assignment_group"]), ticket.group),
        "assignee": (_name(expected["assigned_to"]), ticket.assignee),
        "reopened": (int(expected["reopen_count"]), read.reopenings),
    }


FORMAT = Format(
    name="servicenow",
    columns=frozenset(
        {"incident_state", "opened_at", "opened_by", "sys_updated_at", "sys_updated_by"}
        | {"caller_id", "priority", "assignment_group", "assigned_to"}
        | _TEXT_FIELDS.keys()
        | _TRUTH_FIELDS.keys()
    ),
    number="number",
    acts=_acts,
    opening=_opening,
    expected_number="number",
    expected_columns=frozenset(
        {"number", "incident_state", "priority", "assignment_group", "assigned_to", "reopen_count"}
    ),
    points=_points,
    deciders={
        "status": frozenset({"resolve", "close", "reopen", "update_status"}),
        "priority": frozenset({"change_priority"}),
        "group": frozenset({"move_to_group"}),
        "assignee": frozenset({"assign", "unassign", "move_to_group"}),
        "reopened": frozenset({"reopen"}),
    },
)
