"""The help desk log of an Italian software company.

Source: 4TU.ResearchData, doi 10.4121/uuid:0c60edf1-6f83-4e75-9367-4c63b3e9d5bb.

Every row is an activity. The first row of a case opens the ticket; where it does not say so itself
("Insert ticket"), the opening is ours and is reported as assumed. The values are anonymous ("Value
1"), so the order of the four seriousness values as priorities is a reading, not a fact.
"""

from collections.abc import Iterator, Mapping, Sequence

from pydantic import ValidationError

from domain.actors import Actor
from domain.tickets.assignment import AssignTicket, MoveToGroup
from domain.tickets.command import Command
from domain.tickets.conversation import AddNote
from domain.tickets.details import ChangeRequester, SetField
from domain.tickets.lifecycle import CloseTicket, ReopenTicket, ResolveTicket, UpdateStatus
from domain.tickets.opening import OpenTicket
from domain.tickets.promises import ChangePriority
from domain.values import Priority
from projections.views.dashboard import happened
from projections.views.tickets import TicketRead
from scripts.logs import (
    UNKNOWN,
    BadRow,
    Cells,
    Finding,
    Format,
    History,
    Row,
    one_line,
    read_time,
    rejected,
)

_TIME = "%Y/%m/%d %H:%M:%S.%f"
_RESOLUTION = "Resolved; the log holds no text."

_PRIORITIES: Mapping[str, Priority] = {
    "Value 1": "low",
    "Value 2": "normal",
    "Value 3": "high",
    "Value 4": "urgent",
}
_FIELDS = {
    "product": "product",
    "responsible_section": "responsible_section",
    "seriousness_2": "seriousness",
    "service_level": "service_level",
    "service_type": "service_type",
    "support_section": "support_section",
}
_NOTES = ("Schedule intervention", "Create SW anomaly", "Resolve SW anomaly", "VERIFIED")


def _interpret(number: str, rows: Sequence[Row]) -> History:
    history = History(number)
    before: Cells | None = None
    assignee: str | None = None
    resolved = False
    for row in rows:
        cells = row.cells
        try:
            at = read_time(cells["Complete Timestamp"], _TIME)
            commands = (
                [_open(number, cells)]
                if before is None
                else list(_changes(before, cells, assignee))
            )
            commands += _activity(cells, resolved=resolved)
        except (BadRow, ValidationError) as error:
            history.rejected.append(rejected(row, error))
            continue
        history.add(row, at, Actor(one_line(cells["Resource"]) or UNKNOWN, "agent"), *commands)
        for command in commands:
            if isinstance(command, AssignTicket):
                assignee = command.assignee
        if before is None and cells["Activity"] != "Insert ticket":
            made = Finding(row.line, "opening", f"opened by its first row, {cells['Activity']!r}")
            history.assumed.append(made)
        if any(isinstance(command, ResolveTicket) for command in commands):
            history.assumed.append(Finding(row.line, "resolution_text", _RESOLUTION))
            resolved = True
        elif any(isinstance(command, ReopenTicket | CloseTicket) for command in commands):
            resolved = False
        before = cells
    return history


def _open(number: str, cells: Cells) -> Command:
    fields = {key: cells[column].strip() for column, key in _FIELDS.items()}
    return OpenTicket(
        subject=one_line(number),
        requester=_customer(cells),
        group=one_line(cells["workgroup"]) or None,
        fields={"number": number, **{key: value for key, value in fields.items() if value}},
    )


def _changes(before: Cells, after: Cells, assignee: str | None) -> Iterator[Command]:
    """Yield what a row changes beside its activity. A move clears the assignee, who stays on."""
    if after["customer"] != before["customer"]:
        yield ChangeRequester(requester=_customer(after))
    for column, key in _FIELDS.items():
        if after[column] != before[column]:
            yield SetField(key=key, value=after[column].strip() or None)
    if after["workgroup"] != before["workgroup"]:
        yield MoveToGroup(group=one_line(after["workgroup"]) or None)
        if assignee is not None:
            yield AssignTicket(assignee=assignee)


def _activity(cells: Cells, *, resolved: bool) -> Iterator[Command]:
    match activity := cells["Activity"]:
        case "Insert ticket":
            return  # the opening says it
        case "Assign seriousness":
            yield ChangePriority(priority=_priority(cells))
        case "Take in charge ticket":
            if resolved:
                yield ReopenTicket(reason=activity)
            yield AssignTicket(assignee=one_line(cells["Resource"]) or UNKNOWN)
        case "Wait":
            yield UpdateStatus(status="pending", reason=activity)
        case "Require upgrade":
            yield UpdateStatus(status="on_hold", reason=activity)
        case "Resolve ticket" | "RESOLVED":
            yield ResolveTicket(resolution=_RESOLUTION)
        case "INVALID":
            yield CloseTicket(reason="invalid")
        case "DUPLICATE":
            yield CloseTicket(reason="duplicate")
        case "Closed":
            yield CloseTicket()
        case _ if activity in _NOTES:
            yield AddNote(body=activity)
        case _:
            raise BadRow("unknown_activity", f"there is no activity {activity!r}")


def _customer(cells: Cells) -> str:
    return f"customer {cells['customer'].strip() or UNKNOWN}"


def _priority(cells: Cells) -> Priority:
    priority = _PRIORITIES.get(cells["seriousness_2"])
    if priority is None:
        raise BadRow("unknown_seriousness", f"there is no value {cells['seriousness_2']!r}")
    return priority


def _compare(expected: Cells, read: TicketRead) -> dict[str, str]:
    pairs = {
        "closed": (int(expected["closed_events"]), happened(read.counted, "closed")),
        "resolved": (int(expected["resolve_events"]), happened(read.counted, "resolved")),
    }
    return {what: f"expected {e}, found {f}" for what, (e, f) in pairs.items() if e != f}


FORMAT = Format(
    name="helpdesk",
    columns=frozenset(
        {"Case ID", "Activity", "Resource", "Complete Timestamp", "customer", "workgroup"}
        | _FIELDS.keys()
    ),
    number="Case ID",
    interpret=_interpret,
    expected_number="case_id",
    expected_columns=frozenset({"case_id", "closed_events", "resolve_events"}),
    compare=_compare,
    deciders={"closed": frozenset({"close"}), "resolved": frozenset({"resolve"})},
)
