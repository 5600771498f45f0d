"""The facts of a ticket's life, and how they are stored and read again.

An event's class name is its stored name, for ever; its fields are its stored data. When a shape
changes, the class gets a higher `schema` and `UPCASTERS` gets the step from the former one: stored
documents are never rewritten (law L10).

Stored data holds text, whole numbers, booleans, null, lists and objects, nothing else: no float and
no date object, so that the bytes an event is hashed over do not depend on a library's way of
printing them.

`Words` and `PersonName` mark personal fields. The store keeps each of them sealed, under a key of
the person it belongs to: what is said on a ticket belongs to whose ticket it is, whoever says it,
and a name to who is named. When that person is erased, `ERASED` is read in its place.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Annotated, ClassVar, Literal, NamedTuple, get_args, get_type_hints
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

ERASED = "[erased]"
"""What is read where something personal was, of somebody who has been erased. No one's name."""


class Whose(Enum):
    """Whom a personal field belongs to: the ticket's requester, or the person that it names."""

    REQUESTER = "requester"
    NAMED = "named"


Words = Annotated[str, Whose.REQUESTER]
PersonName = Annotated[str, Whose.NAMED]
PersonalValue = Annotated[FieldValue, Whose.REQUESTER]


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
    subject: Words
    body: Words
    requester: PersonName
    priority: Priority
    group: str | None
    tags: tuple[str, ...]
    fields: Mapping[str, PersonalValue]
    sla: SlaTargets


@dataclass(frozen=True, slots=True)
class StatusUpdated(Event):
    """To open, pending (waits for the requester) or on_hold (waits for a third party)."""

    status: Status
    reason: Words | None
    resume_at: datetime | None


@dataclass(frozen=True, slots=True)
class TicketResolved(Event):
    resolution: Words


@dataclass(frozen=True, slots=True)
class TicketReopened(Event):
    reason: Words | None


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
    subject: Words


@dataclass(frozen=True, slots=True)
class RequesterChanged(Event):
    requester: PersonName


@dataclass(frozen=True, slots=True)
class AgentReplied(Event):
    """Public. Takes a new ticket to open."""

    body: Words


@dataclass(frozen=True, slots=True)
class RequesterReplied(Event):
    """Public. A pending or resolved ticket is opened by an event of its own beside this one."""

    body: Words


@dataclass(frozen=True, slots=True)
class NoteAdded(Event):
    """Internal: never shown to requesters."""

    body: Words


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
    value: PersonalValue | None


@dataclass(frozen=True, slots=True)
class FollowerAdded(Event):
    follower: PersonName


@dataclass(frozen=True, slots=True)
class FollowerRemoved(Event):
    follower: PersonName


@dataclass(frozen=True, slots=True)
class FileAttached(Event):
    """A file that is kept elsewhere. `sha256` is hexadecimal, and tells who has the file."""

    name: Words
    media_type: str
    size_bytes: int
    sha256: Words


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
    followers: tuple[PersonName, ...]


@dataclass(frozen=True, slots=True)
class TicketRated(Event):
    """By the requester, 1 (bad) to 5 (good)."""

    score: int
    comment: Words | None


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


def _mark(hint: object) -> Whose | None:
    """Give whom a field of this type belongs to; None if it is nothing personal."""
    found = [m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Whose)]
    inner = (_mark(argument) for argument in get_args(hint))
    return next((mark for mark in (*found, *inner) if mark is not None), None)


PERSONAL_FIELDS: Mapping[str, Mapping[str, Whose]] = {
    name: {
        field: mark
        for field, hint in get_type_hints(cls, include_extras=True).items()
        if (mark := _mark(hint)) is not None
    }
    for name, cls in EVENT_TYPES.items()
}
"""The personal fields of each type of event, and whose they are."""


class Personal(NamedTuple):
    """Where in an event something personal stands (a JSON Pointer), and the person's name."""

    path: str
    person: str


class EventData(NamedTuple):
    """An event as the store takes it: JSON values only. `personal`: what of it is to be sealed."""

    type: str
    schema: int
    data: JsonObject
    personal: tuple[Personal, ...] = ()


def encode(event: TicketEvent, requester: str | None = None) -> EventData:
    """Give the stored form of `event`, on a ticket of `requester`, unless the event names them."""
    name = type(event).__name__
    data: JsonObject = _ADAPTERS[name].dump_python(event, mode="json")
    if isinstance(event, TicketOpened | RequesterChanged):
        requester = event.requester
    return EventData(name, event.schema, data, tuple(_personal(name, data, requester)))


def _personal(name: str, data: JsonObject, requester: str | None) -> Iterator[Personal]:
    for field, whose in PERSONAL_FIELDS[name].items():
        for path, value in _leaves(f"/data/{field}", data[field]):
            person = value if whose is Whose.NAMED else requester
            if not isinstance(person, str):
                raise TypeError(f"{name}: whose is {path}?")
            yield Personal(path, person)


def _leaves(path: str, value: object) -> Iterator[tuple[str, object]]:
    """Give what is said in a field, value by value; nothing is no word."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(f"{path}/{key}", inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(f"{path}/{index}", inner)
    elif value is not None and value != "":
        yield path, value


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
