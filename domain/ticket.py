"""The ticket: its state, how events change it, and which commands it takes.

Top to bottom: the state, the fold (`evolve`), the lifecycle, the commands, the decisions
(`decide`). Everything here is pure (law L6): the time, the actor and every id come in as arguments.

A new command with a new event is written in two files: the event in `domain/events.py`; here its
case in `evolve`, its class among the commands and its case in `decide`. The type checker points at
whichever of them is missing, and the HTTP route is made from the class.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Annotated, assert_never, get_args

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from domain.errors import HistoryError, StateConflict, TicketNotFound, Unacceptable
from domain.events import (
    Actor,
    AgentReplied,
    CloseReason,
    FieldSet,
    FieldValue,
    NoteAdded,
    Priority,
    PriorityChanged,
    RequesterReplied,
    Status,
    StatusUpdated,
    SubjectChanged,
    TagsAdded,
    TagsRemoved,
    TicketAssigned,
    TicketClosed,
    TicketEvent,
    TicketMovedToGroup,
    TicketOpened,
    TicketReopened,
    TicketResolved,
    TicketUnassigned,
)

# --- state and fold -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """What is known of a ticket after a number of its events."""

    subject: str
    body: str
    requester: str
    status: Status = "new"
    priority: Priority = "normal"
    group: str | None = None
    assignee: str | None = None
    tags: tuple[str, ...] = ()
    fields: Mapping[str, FieldValue] = field(default_factory=dict)
    waiting_reason: str | None = None
    resume_at: datetime | None = None
    resolution: str | None = None
    close_reason: CloseReason | None = None


def evolve(ticket: Ticket | None, event: TicketEvent) -> Ticket:
    """Give the ticket as it is after `event`. Never refuses what `decide` has produced.

    Raises HistoryError if the first event of a ticket is not its opening, or a later one is.
    """
    if isinstance(event, TicketOpened):
        if ticket is not None:
            raise HistoryError("opened_twice", "a ticket cannot be opened twice")
        return Ticket(
            subject=event.subject,
            body=event.body,
            requester=event.requester,
            priority=event.priority,
            group=event.group,
            tags=event.tags,
            fields=event.fields,
        )
    if ticket is None:
        raise HistoryError("not_opened", f"{type(event).__name__} before the ticket was opened")
    match event:
        case StatusUpdated(status, reason, resume_at):
            return replace(ticket, status=status, waiting_reason=reason, resume_at=resume_at)
        case TicketResolved(resolution):
            return replace(_awake(ticket, "resolved"), resolution=resolution)
        case TicketReopened():
            return replace(_awake(ticket, "open"), resolution=None)
        case TicketClosed(reason):
            return replace(_awake(ticket, "closed"), close_reason=reason)
        case TicketAssigned(assignee):
            return replace(_started(ticket), assignee=assignee)
        case TicketUnassigned():
            return replace(ticket, assignee=None)
        case TicketMovedToGroup(group):
            return replace(ticket, group=group)
        case PriorityChanged(priority):
            return replace(ticket, priority=priority)
        case SubjectChanged(subject):
            return replace(ticket, subject=subject)
        case AgentReplied():
            return _started(ticket)
        case RequesterReplied() | NoteAdded():
            return ticket
        case TagsAdded(tags):
            return replace(ticket, tags=tuple(sorted({*ticket.tags, *tags})))
        case TagsRemoved(tags):
            return replace(ticket, tags=tuple(t for t in ticket.tags if t not in tags))
        case FieldSet(key, value):
            others = {k: v for k, v in ticket.fields.items() if k != key}
            return replace(ticket, fields=others if value is None else {**others, key: value})
        case _:
            assert_never(event)


def _awake(ticket: Ticket, status: Status) -> Ticket:
    """Move to a state in which nothing is waited for."""
    return replace(ticket, status=status, waiting_reason=None, resume_at=None)


def _started(ticket: Ticket) -> Ticket:
    """Take a new ticket to open: somebody works on it."""
    return replace(ticket, status="open") if ticket.status == "new" else ticket


# --- lifecycle ----------------------------------------------------------------------------------

LIFECYCLE: Mapping[Status, Mapping[str, frozenset[Status]]] = {
    "new": {
        "update_status": frozenset({"open", "pending", "on_hold"}),
        "assign": frozenset({"open"}),
        "reply": frozenset({"open"}),  # an agent's
        "close": frozenset({"closed"}),
    },
    "open": {
        "update_status": frozenset({"pending", "on_hold"}),
        "resolve": frozenset({"resolved"}),
        "close": frozenset({"closed"}),
    },
    "pending": {
        "update_status": frozenset({"open", "on_hold"}),
        "resolve": frozenset({"resolved"}),
        "close": frozenset({"closed"}),
    },
    "on_hold": {
        "update_status": frozenset({"open", "pending"}),
        "resolve": frozenset({"resolved"}),
        "close": frozenset({"closed"}),
    },
    "resolved": {
        "reopen": frozenset({"open"}),
        "reply": frozenset({"open"}),  # the requester's
        "close": frozenset({"closed"}),
    },
    "closed": {},
}
"""From each state, which command leads to which states. Nothing returns to new, or from closed."""

_WRONG_WORD: Mapping[Status, tuple[str, str]] = {
    "new": ("cannot_return_to_new", "nothing returns to new"),
    "resolved": ("cannot_resolve_by_status", "cannot resolve by status; use resolve"),
    "closed": ("cannot_close_by_status", "cannot close by status; use close"),
}
"""The states that `update_status` never reaches, whatever the ticket's state."""


# --- commands -----------------------------------------------------------------------------------

TICKET_TAGS = 50
TICKET_FIELDS = 100
VALUE_CHARACTERS = 5_000
"""Bounds of one ticket, so that its view always fits in a document."""


def _printable(text: str) -> str:
    # NUL and its like are no part of any name or message; tabs and line ends may be.
    if re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", text):
        raise ValueError("control characters are not allowed")
    return text


_Clean = AfterValidator(_printable)
Name = Annotated[str, Field(min_length=1, max_length=200), _Clean]
Line = Annotated[str, Field(min_length=1, max_length=500), _Clean]
Text = Annotated[str, Field(min_length=1, max_length=50_000), _Clean]
Tag = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.:-]{0,63}$")]
Tags = Annotated[tuple[Tag, ...], Field(min_length=1, max_length=TICKET_TAGS)]
FieldKey = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


def _value(value: object) -> object:
    # Here and not in the types, so that a wrong value is told in one sentence.
    if isinstance(value, str) and len(value) <= VALUE_CHARACTERS:
        return _printable(value)
    if isinstance(value, bool) or (isinstance(value, int) and -(2**63) <= value < 2**63):
        return value
    raise ValueError(
        f"a value is text of at most {VALUE_CHARACTERS} characters, true or false, "
        "or a whole number of 64 bits"
    )


def _moment(time: datetime) -> datetime:
    try:
        utc = time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("there is no such time in UTC") from error
    return utc.replace(microsecond=utc.microsecond // 1000 * 1000)


Value = Annotated[FieldValue, BeforeValidator(_value)]
Moment = Annotated[AwareDatetime, AfterValidator(_moment)]
"""A time in UTC, in the whole milliseconds that are kept."""


class _Command(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class OpenTicket(_Command):
    """Open a ticket for a requester."""

    subject: Line
    requester: Name
    body: Annotated[str, Field(max_length=50_000), _Clean] = ""
    priority: Priority = "normal"
    group: Name | None = None
    tags: Annotated[tuple[Tag, ...], Field(max_length=TICKET_TAGS)] = ()
    fields: Annotated[dict[FieldKey, Value], Field(max_length=TICKET_FIELDS)] = Field(
        default_factory=dict
    )


class UpdateStatus(_Command):
    """Say that work goes on (open), or waits for the requester (pending) or others (on_hold)."""

    status: Status
    reason: Line | None = None
    resume_at: Moment | None = None


class ResolveTicket(_Command):
    """Say that the problem is solved, and how."""

    resolution: Text


class ReopenTicket(_Command):
    """Take a resolved ticket back to open."""

    reason: Line | None = None


class CloseTicket(_Command):
    """Close a resolved ticket; or one in any state, with the reason why no solution is owed."""

    reason: CloseReason | None = None


class AssignTicket(_Command):
    """Make someone responsible."""

    assignee: Name


class UnassignTicket(_Command):
    """Take the assignee off."""


class MoveToGroup(_Command):
    """Hand the ticket to another group, or to none (null). Its assignee, who belongs to the former
    group, is cleared.
    """

    group: Name | None


class ChangePriority(_Command):
    """Say how urgent it is."""

    priority: Priority


class ChangeSubject(_Command):
    """Give the ticket a better subject line."""

    subject: Line


class Reply(_Command):
    """Write to the other side: public. A requester's reply reopens a resolved ticket."""

    body: Text


class AddNote(_Command):
    """Write a note for colleagues: never shown to requesters."""

    body: Text


class AddTags(_Command):
    """Add tags. Taken by closed tickets too."""

    tags: Tags


class RemoveTags(_Command):
    """Remove tags. Taken by closed tickets too."""

    tags: Tags


class SetField(_Command):
    """Give a custom field a value, or take it away (null)."""

    key: FieldKey
    value: Value | None


Command = (
    OpenTicket
    | UpdateStatus
    | ResolveTicket
    | ReopenTicket
    | CloseTicket
    | AssignTicket
    | UnassignTicket
    | MoveToGroup
    | ChangePriority
    | ChangeSubject
    | Reply
    | AddNote
    | AddTags
    | RemoveTags
    | SetField
)


def verb(command: type[Command]) -> str:
    """Give the command's name as clients say it: `update_status`, `assign` (for AssignTicket)."""
    snake = re.sub(r"(?<!^)(?=[A-Z])", "_", command.__name__).lower()
    return snake.removesuffix("_ticket")


COMMANDS: Mapping[str, type[Command]] = {verb(cls): cls for cls in get_args(Command)}


# --- decisions ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Context:
    """What a decision may know beside the ticket: when it happens (UTC) and who acts."""

    now: datetime
    actor: Actor


def decide(ticket: Ticket | None, command: Command, context: Context) -> tuple[TicketEvent, ...]:
    """Give the events that `command` leads to; none if it would change nothing.

    Raises TicketNotFound if it needs a ticket and there is none, Unacceptable if no ticket could
    ever take it, StateConflict if this one cannot in its present state.
    """
    if isinstance(command, OpenTicket):
        if ticket is not None:
            raise StateConflict("ticket_exists", "this ticket has been opened already")
        return (
            TicketOpened(
                subject=command.subject,
                body=command.body,
                requester=command.requester,
                priority=command.priority,
                group=command.group,
                tags=tuple(sorted(set(command.tags))),
                fields=command.fields,
            ),
        )
    if ticket is None:
        raise TicketNotFound
    if ticket.status == "closed" and not isinstance(command, AddTags | RemoveTags | CloseTicket):
        raise StateConflict("ticket_closed", "the ticket is closed; only its tags can be changed")
    match command:
        case UpdateStatus():
            return _update_status(ticket, command, context)
        case ResolveTicket(resolution=resolution):
            return _resolve(ticket, resolution)
        case ReopenTicket(reason=reason):
            _require_transition(ticket, "reopen", "open")
            return (TicketReopened(reason),)
        case CloseTicket(reason=reason):
            return _close(ticket, reason)
        case AssignTicket(assignee=assignee):
            return () if assignee == ticket.assignee else (TicketAssigned(assignee),)
        case UnassignTicket():
            return () if ticket.assignee is None else (TicketUnassigned(),)
        case MoveToGroup(group=group):
            if group == ticket.group:
                return ()
            moved = TicketMovedToGroup(group)
            return (moved,) if ticket.assignee is None else (moved, TicketUnassigned())
        case ChangePriority(priority=priority):
            return () if priority == ticket.priority else (PriorityChanged(priority),)
        case ChangeSubject(subject=subject):
            return () if subject == ticket.subject else (SubjectChanged(subject),)
        case Reply(body=body):
            if context.actor.role != "requester":
                return (AgentReplied(body),)
            replied = RequesterReplied(body)
            if ticket.status == "resolved":
                return (replied, TicketReopened("the requester replied"))
            return (replied,)
        case AddNote(body=body):
            return (NoteAdded(body),)
        case AddTags(tags=tags):
            missing = tuple(sorted(set(tags) - set(ticket.tags)))
            if len(ticket.tags) + len(missing) > TICKET_TAGS:
                raise StateConflict("too_many_tags", f"a ticket has at most {TICKET_TAGS} tags")
            return (TagsAdded(missing),) if missing else ()
        case RemoveTags(tags=tags):
            present = tuple(sorted(set(tags) & set(ticket.tags)))
            return (TagsRemoved(present),) if present else ()
        case SetField(key=key, value=value):
            old = ticket.fields.get(key)
            same = value == old and type(value) is type(old)  # 1 and true are not the same
            if value is not None and old is None and len(ticket.fields) >= TICKET_FIELDS:
                detail = f"a ticket has at most {TICKET_FIELDS} fields"
                raise StateConflict("too_many_fields", detail)
            return () if same else (FieldSet(key, value),)
        case _:
            assert_never(command)


def _require_transition(ticket: Ticket, by: str, to: Status) -> None:
    ways = LIFECYCLE[ticket.status]
    if to not in ways.get(by, ()):
        known = ", ".join(f"{word} ({' | '.join(sorted(ways[word]))})" for word in sorted(ways))
        raise StateConflict(
            "transition_refused",
            f"{by} cannot take a ticket from {ticket.status} to {to}; what can be done: {known}",
        )


def _update_status(
    ticket: Ticket, command: UpdateStatus, context: Context
) -> tuple[TicketEvent, ...]:
    if command.status in _WRONG_WORD:
        raise Unacceptable(*_WRONG_WORD[command.status])
    if command.status == "open" and (command.reason or command.resume_at):
        raise Unacceptable("open_waits_for_nothing", "open takes neither reason nor resume_at")
    if command.status != "open" and command.reason is None:
        raise Unacceptable("needs_reason", f"say in reason what {command.status} waits for")
    if command.resume_at is not None and command.resume_at <= context.now:
        raise Unacceptable("resume_at_past", "resume_at must lie in the future")
    if command.status != ticket.status:
        _require_transition(ticket, "update_status", command.status)
    updated = StatusUpdated(command.status, command.reason, command.resume_at)
    return () if evolve(ticket, updated) == ticket else (updated,)


def _resolve(ticket: Ticket, resolution: str) -> tuple[TicketEvent, ...]:
    if ticket.status == "resolved" and ticket.resolution == resolution:
        return ()
    if ticket.assignee is None:
        raise StateConflict("needs_assignee", "a ticket without an assignee cannot be resolved")
    _require_transition(ticket, "resolve", "resolved")
    return (TicketResolved(resolution),)


def _close(ticket: Ticket, reason: CloseReason | None) -> tuple[TicketEvent, ...]:
    if ticket.status == "closed":
        if reason in (None, ticket.close_reason):
            return ()
        raise StateConflict("ticket_closed", "the ticket was closed for another reason")
    if ticket.status != "resolved" and reason is None:
        raise StateConflict(
            "needs_resolution_or_reason",
            f"the ticket is {ticket.status}; resolve it first, or give a reason for closing it",
        )
    return (TicketClosed(reason),)
