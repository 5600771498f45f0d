"""The facts of a ticket's life, and how they are stored and read again.

An event's class name is its stored name, for ever; its fields are its stored data. When a shape
changes, the class gets a higher `schema` and `UPCASTERS` gets the step from the former one: stored
documents are never rewritten (law L10).

Stored data holds text, whole numbers, booleans, null, lists and objects, nothing else: no float and
no date object, so that the bytes an event is hashed over do not depend on a library's way of
printing them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Literal, NamedTuple, get_args
from uuid import UUID

from pydantic import ConfigDict, TypeAdapter, ValidationError

from domain.errors import HistoryError, faults_of

Status = Literal["new", "open", "pending", "on_hold", "resolved", "closed"]
Priority = Literal["low", "normal", "high", "urgent"]
CloseReason = Literal["duplicate", "spam", "merged", "invalid"]
Role = Literal["requester", "agent", "system"]
SlaTarget = Literal["first_response", "resolution"]
Relation = Literal[
    "blocks",
    "blocked_by",
    "duplicates",
    "duplicated_by",
    "relates",
    "parent",
    "child",
    "follows_up",
    "followed_up_by",
    "merged_into",
    "merged_from",
]
FieldValue = str | int | bool
JsonObject = dict[str, object]


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: an id that is unique among all actors, and the role in which they act."""

    id: str
    role: Role


@dataclass(frozen=True, slots=True)
class SlaTargets:
    """What was promised for a ticket, in minutes of its clock; null for no promise."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    first_response_minutes: int | None
    resolution_minutes: int | None


class Event:
    """Base of the events. `schema` is the number of the shape that is written today."""

    __slots__ = ()
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    schema: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class TicketOpened(Event):
    schema: ClassVar[int] = 2
    subject: str
    body: str
    requester: str
    priority: Priority
    group: str | None
    tags: tuple[str, ...]
    fields: Mapping[str, FieldValue]
    sla: SlaTargets


@dataclass(frozen=True, slots=True)
class StatusUpdated(Event):
    """To open, pending (waits for the requester) or on_hold (waits for a third party)."""

    status: Status
    reason: str | None
    resume_at: datetime | None


@dataclass(frozen=True, slots=True)
class TicketResolved(Event):
    resolution: str


@dataclass(frozen=True, slots=True)
class TicketReopened(Event):
    reason: str | None


@dataclass(frozen=True, slots=True)
class TicketClosed(Event):
    """`reason` is null for a resolved ticket that is closed in the ordinary way."""

    reason: CloseReason | None


@dataclass(frozen=True, slots=True)
class TicketAssigned(Event):
    """Takes a new ticket to open."""

    assignee: str


@dataclass(frozen=True, slots=True)
class TicketUnassigned(Event):
    pass


@dataclass(frozen=True, slots=True)
class TicketMovedToGroup(Event):
    group: str | None


@dataclass(frozen=True, slots=True)
class PriorityChanged(Event):
    """Promises for the new priority replace those for the old, from the same beginning."""

    schema: ClassVar[int] = 2
    priority: Priority
    sla: SlaTargets


@dataclass(frozen=True, slots=True)
class SubjectChanged(Event):
    subject: str


@dataclass(frozen=True, slots=True)
class RequesterChanged(Event):
    requester: str


@dataclass(frozen=True, slots=True)
class AgentReplied(Event):
    """Public. Takes a new ticket to open."""

    body: str


@dataclass(frozen=True, slots=True)
class RequesterReplied(Event):
    """Public. A pending or resolved ticket is opened by an event of its own beside this one."""

    body: str


@dataclass(frozen=True, slots=True)
class NoteAdded(Event):
    """Internal: never shown to requesters."""

    body: str


@dataclass(frozen=True, slots=True)
class TagsAdded(Event):
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TagsRemoved(Event):
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FieldSet(Event):
    """A custom field's new value; null takes the field away."""

    key: str
    value: FieldValue | None


@dataclass(frozen=True, slots=True)
class FollowerAdded(Event):
    follower: str


@dataclass(frozen=True, slots=True)
class FollowerRemoved(Event):
    follower: str


@dataclass(frozen=True, slots=True)
class FileAttached(Event):
    """A file that is kept elsewhere. `sha256` is hexadecimal."""

    name: str
    media_type: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class TicketLinked(Event):
    """Read as a line on this ticket's form, `blocks: B`, `parent: P`. The other ticket has the
    opposite event at the same time.
    """

    relation: Relation
    ticket: UUID


@dataclass(frozen=True, slots=True)
class TicketUnlinked(Event):
    relation: Relation
    ticket: UUID


@dataclass(frozen=True, slots=True)
class TicketMergedInto(Event):
    """Closes the ticket: `ticket` goes on in its place."""

    ticket: UUID


@dataclass(frozen=True, slots=True)
class TicketMergedFrom(Event):
    """Goes on in the place of `ticket`, whose requester and followers follow this one now."""

    ticket: UUID
    followers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TicketRated(Event):
    """By the requester, 1 (bad) to 5 (good)."""

    score: int
    comment: str | None


@dataclass(frozen=True, slots=True)
class SlaBreached(Event):
    """What had been promised for `due_at` had not been done by then."""

    target: SlaTarget
    due_at: datetime


TicketEvent = (
    TicketOpened
    | StatusUpdated
    | TicketResolved
    | TicketReopened
    | TicketClosed
    | TicketAssigned
    | TicketUnassigned
    | TicketMovedToGroup
    | PriorityChanged
    | SubjectChanged
    | RequesterChanged
    | AgentReplied
    | RequesterReplied
    | NoteAdded
    | TagsAdded
    | TagsRemoved
    | FieldSet
    | FollowerAdded
    | FollowerRemoved
    | FileAttached
    | TicketLinked
    | TicketUnlinked
    | TicketMergedInto
    | TicketMergedFrom
    | TicketRated
    | SlaBreached
)

EVENT_TYPES: Mapping[str, type[TicketEvent]] = {cls.__name__: cls for cls in get_args(TicketEvent)}


def _without_promise(data: JsonObject) -> JsonObject:
    """Before there were promises, none was made."""
    return {**data, "sla": {"first_response_minutes": None, "resolution_minutes": None}}


# (type, schema) -> the data of the next schema. Pure; given a copy of the stored data.
UPCASTERS: Mapping[tuple[str, int], Callable[[JsonObject], JsonObject]] = {
    ("TicketOpened", 1): _without_promise,
    ("PriorityChanged", 1): _without_promise,
}

# One adapter per type, built once: a discriminated union costs more per event.
_ADAPTERS: Mapping[str, TypeAdapter[TicketEvent]] = {
    name: TypeAdapter(cls) for name, cls in EVENT_TYPES.items()
}


class EventData(NamedTuple):
    """An event as the store takes it: JSON values only."""

    type: str
    schema: int
    data: JsonObject


def encode(event: TicketEvent) -> EventData:
    """Give the stored form of `event`."""
    name = type(event).__name__
    data: JsonObject = _ADAPTERS[name].dump_python(event, mode="json")
    return EventData(name, event.schema, data)


def decode(name: str, schema: int, data: Mapping[str, object]) -> TicketEvent:
    """Read a stored event of any schema ever written.

    Raises HistoryError for a type or schema that this code does not know (written by a newer
    version, or not by Casebook at all) and for data that does not fit its type.
    """
    cls = EVENT_TYPES.get(name)
    if cls is None:
        raise HistoryError("unknown_event_type", f"unknown event type {name!r}")
    if not 1 <= schema <= cls.schema:
        raise HistoryError("unknown_event_schema", f"unknown schema {schema} of {name}")
    current = dict(data)
    for step in range(schema, cls.schema):
        current = UPCASTERS[name, step](current)
    try:
        return _ADAPTERS[name].validate_python(current)
    except ValidationError as error:
        raise HistoryError("unreadable_event", f"{name}: {faults_of(error)}") from error
