"""The incident log of a ServiceNow instance: UCI 498, doi 10.24432/C57S4H.

Every row is a snapshot of an incident after one update, so what happened is the difference between
two rows. The first row opens the ticket, and its state is brought about by the commands that lead
there. Within a row the state comes last: a ticket is assigned before it is resolved.

`resolved_at`, `closed_at`, `closed_code` and `resolved_by` hold their final values on every row:
facts from the future, not used. The log has no subjects and no resolution texts.
"""

from collections.abc import Iterator, Mapping, Sequence

from pydantic import ValidationError

from domain.actors import Actor
from domain.tickets.assignment import AssignTicket, MoveToGroup, UnassignTicket
from domain.tickets.command import Command
from domain.tickets.details import SetField
from domain.tickets.lifecycle import CloseTicket, ReopenTicket, ResolveTicket, UpdateStatus
from domain.tickets.opening import OpenTicket
from domain.tickets.promises import ChangePriority
from domain.values import FieldValue, Priority
from projections.views.tickets import TicketRead
from scripts.logs import UNKNOWN, BadRow, Cells, Finding, Format, History, Row, read_time, rejected

_TIME = "%d/%m/%Y %H:%M"
_NULL = "?"
_RESOLUTION = "Resolved; the log holds no text."

_PRIORITIES: Mapping[str, Priority] = {
    "1 - Critical": "urgent",
    "2 - High": "high",
    "3 - Moderate": "normal",
    "4 - Low": "low",
}
_ON_HOLD = ("Awaiting Vendor", "Awaiting Problem", "Awaiting Evidence")
_STATES = ("New", "Active", "Awaiting User Info", *_ON_HOLD, "Resolved", "Closed")
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


def _interpret(number: str, rows: Sequence[Row]) -> History:
    history = History(number)
    before: Cells | None = None
    for row in rows:
        try:
            commands = list(_open(row) if before is None else _difference(before, row.cells))
            opened_at = read_time(row.cells["opened_at"], _TIME)
            at = read_time(row.cells["sys_updated_at"], _TIME)
        except (BadRow, ValidationError) as error:
            history.rejected.append(rejected(row, error))
            continue
        if before is None:
            history.add(row, opened_at, _agent(row.cells["opened_by"]), commands.pop(0))
            made = Finding(row.line, "subject", "made from category and subcategory")
            history.assumed.append(made)
        history.add(row, at, _agent(row.cells["sys_updated_by"]), *commands)
        if any(isinstance(command, ResolveTicket) for command in commands):
            history.assumed.append(Finding(row.line, "resolution_text", _RESOLUTION))
        if before is not None and not commands:
            history.silent_rows += 1
        before = row.cells
    return history


def _open(row: Row) -> Iterator[Command]:
    cells = row.cells
    about = [_name(cells[column]) for column in ("category", "subcategory")]
    yield OpenTicket(
        subject=" / ".join(a for a in about if a) or f"Incident {cells['number']}",
        requester=_name(cells["caller_id"]) or UNKNOWN,
        priority=_priority(cells),
        fields={key: value for key, value in _fields(cells).items() if value is not None},
    )
    yield from _assignment(None, cells)
    state = _state(cells)
    if state == "Closed":
        yield ResolveTicket(resolution=_RESOLUTION)
    yield from _enter(state)


def _difference(before: Cells, after: Cells) -> Iterator[Command]:
    was, now = _state(before), _state(after)
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
        yield from _enter(now)


def _assignment(before: Cells | None, after: Cells) -> Iterator[Command]:
    """Yield group and assignee. A move to a group clears who may not belong there: whoever stays is
    assigned again.
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


def _enter(state: str) -> Iterator[Command]:
    match state:
        case "New":
            return  # nothing returns to new; and who assigns a new ticket opens it
        case "Active":
            yield UpdateStatus(status="open")
        case "Awaiting User Info":
            yield UpdateStatus(status="pending", reason=state)
        case "Resolved":
            yield ResolveTicket(resolution=_RESOLUTION)
        case "Closed":
            yield CloseTicket()
        case _:
            yield UpdateStatus(status="on_hold", reason=state)


def _state(cells: Cells) -> str:
    state = cells["incident_state"]
    if state not in _STATES:
        raise BadRow("unknown_state", f"there is no state {state!r}")
    return state


def _priority(cells: Cells) -> Priority:
    priority = _PRIORITIES.get(cells["priority"])
    if priority is None:
        raise BadRow("unknown_priority", f"there is no priority {cells['priority']!r}")
    return priority


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


def _compare(expected: Cells, read: TicketRead) -> dict[str, str]:
    ticket = read.ticket
    status = {"New": "new", "Active": "open", "Awaiting User Info": "pending"}.get(
        expected["incident_state"], expected["incident_state"].lower()
    )
    pairs = {
        "status": ("on_hold" if expected["incident_state"] in _ON_HOLD else status, ticket.status),
        "priority": (_PRIORITIES.get(expected["priority"]), ticket.priority),
        "group": (_name(expected["assignment_group"]), ticket.group),
        "assignee": (_name(expected["assigned_to"]), ticket.assignee),
        "reopened": (int(expected["reopen_count"]), read.reopenings),
    }
    return {what: f"expected {e}, found {f}" for what, (e, f) in pairs.items() if e != f}


FORMAT = Format(
    name="servicenow",
    columns=frozenset(
        {"incident_state", "opened_at", "opened_by", "sys_updated_at", "sys_updated_by"}
        | {"caller_id", "priority", "assignment_group", "assigned_to"}
        | _TEXT_FIELDS.keys()
        | _TRUTH_FIELDS.keys()
    ),
    number="number",
    interpret=_interpret,
    expected_number="number",
    expected_columns=frozenset(
        {"number", "incident_state", "priority", "assignment_group", "assigned_to", "reopen_count"}
    ),
    compare=_compare,
    deciders={
        "status": frozenset({"resolve", "close", "reopen", "update_status"}),
        "priority": frozenset({"change_priority"}),
        "group": frozenset({"move_to_group"}),
        "assignee": frozenset({"assign", "unassign", "move_to_group"}),
        "reopened": frozenset({"reopen"}),
    },
)
