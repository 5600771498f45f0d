"""The help desk log of an Italian software company.

Source: 4TU.ResearchData, doi 10.4121/uuid:0c60edf1-6f83-4e75-9367-4c63b3e9d5bb.

Every row is an activity. The first row of a case opens the ticket; where it does not say so itself
("Insert ticket"), the opening is ours and is reported as assumed. The values are anonymous ("Value
1"), so the order of the four seriousness values as priorities is a reading, not a fact.
"""

from collections.abc import Iterator, Mapping

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
from scripts.import_formats import (
    RESOLUTION,
    UNKNOWN,
    Act,
    Cells,
    Format,
    History,
    chosen,
    one_line,
    read_time,
)

_TIME = "%Y/%m/%d %H:%M:%S.%f"
_OPENS, _TAKES, _RANKS = "Insert ticket", "Take in charge ticket", "Assign seriousness"

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
_ACTIVITIES: Mapping[str, Command] = {
    "Wait": UpdateStatus(status="pending", reason="Wait"),
    "Require upgrade": UpdateStatus(status="on_hold", reason="Require upgrade"),
    "Resolve ticket": ResolveTicket(resolution=RESOLUTION),
    "RESOLVED": ResolveTicket(resolution=RESOLUTION),
    "INVALID": CloseTicket(reason="invalid"),
    "DUPLICATE": CloseTicket(reason="duplicate"),
    "Closed": CloseTicket(),
    **{note: AddNote(body=note) for note in _NOTES},
}
"""Those that are the same command for every ticket."""


def _acts(history: History, cells: Cells) -> Iterator[Act]:
    at = read_time(cells["Complete Timestamp"], _TIME)
    actor = Actor(one_line(cells["Resource"]) or UNKNOWN, "agent")
    for commands in (_changes(history, cells), _activity(history, cells)):
        for command in commands:
            yield Act(at, actor, command)


def _changes(history: History, after: Cells) -> Iterator[Command]:
    """Yield what a row changes beside its activity. A move clears the assignee, who stays on."""
    before = history.before
    if before is None:
        fields = {key: after[column].strip() for column, key in _FIELDS.items()}
        yield OpenTicket(
            subject=one_line(history.number),
            requester=_customer(after),
            group=one_line(after["workgroup"]) or None,
            fields={"number": history.number, **{k: v for k, v in fields.items() if v}},
        )
        return
    if after["customer"] != before["customer"]:
        yield ChangeRequester(requester=_customer(after))
    for column, key in _FIELDS.items():
        if after[column] != before[column]:
            yield SetField(key=key, value=after[column].strip() or None)
    if after["workgroup"] != before["workgroup"]:
        yield MoveToGroup(group=one_line(after["workgroup"]) or None)
        if (assigned := history.last(AssignTicket)) is not None:
            yield assigned


def _activity(history: History, cells: Cells) -> Iterator[Command]:
    activity = cells["Activity"]
    if activity == _RANKS:
        yield ChangePriority(priority=chosen(_PRIORITIES, cells["seriousness_2"], "seriousness"))
    elif activity == _TAKES:
        if isinstance(history.last(ResolveTicket, ReopenTicket, CloseTicket), ResolveTicket):
            yield ReopenTicket(reason=activity)
        yield AssignTicket(assignee=one_line(cells["Resource"]) or UNKNOWN)
    elif activity != _OPENS:  # which is said by the opening
        yield chosen(_ACTIVITIES, activity, "activity")


def _customer(cells: Cells) -> str:
    return f"customer {cells['customer'].strip() or UNKNOWN}"


def _opening(cells: Cells) -> tuple[str, str] | None:
    activity = cells["Activity"]
    return None if activity == _OPENS else ("opening", f"opened by its first row, {activity!r}")


def _points(expected: Cells, read: TicketRead) -> Mapping[str, tuple[object, object]]:
    return {
        "closed": (int(expected["closed_events"]), happened(read.counted, "closed")),
        "resolved": (int(expected["resolve_events"]), happened(read.counted, "resolved")),
    }


FORMAT = Format(
    name="helpdesk",
    columns=frozenset(
        {"Case ID", "Activity", "Resource", "Complete Timestamp", "customer", "workgroup"}
        | _FIELDS.keys()
    ),
    number="Case ID",
    acts=_acts,
    opening=_opening,
    expected_number="case_id",
    expected_columns=frozenset({"case_id", "closed_events", "resolve_events"}),
    points=_points,
    deciders={"closed": frozenset({"close"}), "resolved": frozenset({"resolve"})},
)
