"""How events are stored and read again.

An event's class name is its stored name, for ever; its fields are its stored data. When a shape
changes, the class gets a higher `schema` and an upcaster from the former one: stored documents are
never rewritten (law L10).

Stored data holds text, whole numbers, booleans, null, lists and objects, nothing else: no float and
no date object, so that the bytes an event is hashed over do not depend on a library's way of
printing them.

`Words` and `PersonName` mark personal fields. The store keeps each of them sealed, under a key of
the person it belongs to: what is said on a ticket belongs to the ticket's requester, also if an
agent says it, or to the other requester who does, and a name to the person that it names. When that
person is erased, `ERASED` is read in its place.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import (
    Annotated,
    ClassVar,
    Generic,
    NamedTuple,
    TypeVar,
    dataclass_transform,
    get_args,
    get_type_hints,
)

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError

from domain.errors import HistoryError, faults_of
from domain.values import ERASED, FieldValue, JsonObject, one_spelling


class Whose(Enum):
    """The person that a personal field belongs to: the ticket's requester, or the named one."""

    REQUESTER = "requester"
    NAMED = "named"


Words = Annotated[str, Whose.REQUESTER]
PersonName = Annotated[str, Whose.NAMED, AfterValidator(one_spelling)]
"""Stored as it was given, and read in the one spelling that a ticket's state and views have."""
AgentName = Annotated[str, AfterValidator(one_spelling)]
PersonalValue = Annotated[FieldValue, Whose.REQUESTER]


Upcaster = Callable[[JsonObject], JsonObject]


def with_fields(**fields: object) -> Upcaster:
    """Return an upcaster for events that were written before these fields, which meant this."""
    return lambda data: {**data, **fields}


@dataclass_transform(frozen_default=True)
class Event:
    """A fact in the past tense: its subclasses are frozen dataclasses.

    `schema`: the number of the shape that is written today. `upcasters`: the steps from schema 1 to
    2, from 2 to 3, and so on; each takes a copy of the stored data and returns that of the next.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    schema: ClassVar[int] = 1
    upcasters: ClassVar[tuple[Upcaster, ...]] = ()

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True)(cls)


class Personal(NamedTuple):
    """Where in an event something personal stands (a JSON Pointer), and the person's name.
    `is_said`: it is words, and no name.
    """

    path: str
    person: str
    is_said: bool = False


class EventData(NamedTuple):
    """An event as the store takes it: JSON values only. `personal`: what of it is to be sealed."""

    type: str
    schema: int
    data: JsonObject
    personal: tuple[Personal, ...] = ()


E = TypeVar("E", bound=Event)


class Codec(Generic[E]):
    """Encodes and decodes events of some classes."""

    def __init__(self, classes: Iterable[type[E]]) -> None:
        self._classes = {cls.__name__: cls for cls in classes}
        # One adapter per type, built once: a discriminated union costs more per event.
        self._adapters = {name: TypeAdapter(cls) for name, cls in self._classes.items()}
        self.personal_fields: Mapping[str, Mapping[str, Whose]] = {
            name: {
                field: mark
                for field, hint in get_type_hints(cls, include_extras=True).items()
                if (mark := _mark(hint)) is not None
            }
            for name, cls in self._classes.items()
        }
        """The personal fields of each type of event, and whose they are."""
        self.words = {
            name: {field for field, whose in fields.items() if whose is Whose.REQUESTER}
            for name, fields in self.personal_fields.items()
        }
        """The fields of each type of event that hold what was said."""
        self.naming_fields = {
            field
            for fields in self.personal_fields.values()
            for field, whose in fields.items()
            if whose is Whose.NAMED
        }
        """The fields of events that hold a person's name."""

    def encode(self, event: E, requester: str | None = None) -> EventData:
        """Return the stored form of `event`, whose words are `requester`'s, unless the event itself
        names a requester.
        """
        name = type(event).__name__
        data: JsonObject = self._adapters[name].dump_python(event, mode="json")
        owner = data.get("requester", requester)
        personal = []
        for field, whose in self.personal_fields[name].items():
            for path, value in _leaves(f"/data/{field}", data[field]):
                person = value if whose is Whose.NAMED else owner
                if not isinstance(person, str):
                    raise TypeError(f"{name}: whose is {path}?")
                personal.append(Personal(path, person, whose is Whose.REQUESTER))
        return EventData(name, event.schema, data, tuple(personal))

    def decode(self, name: str, schema: int, data: Mapping[str, object]) -> E:
        """Read a stored event of any schema ever written.

        Raises HistoryError for a type or schema that this code does not know (written by a newer
        version, or not by Casebook at all) and for data that does not fit its type.
        """
        cls = self._classes.get(name)
        if cls is None:
            raise HistoryError("unknown_event_type", f"unknown event type {name!r}")
        if not 1 <= schema <= cls.schema:
            raise HistoryError("unknown_event_schema", f"unknown schema {schema} of {name}")
        current = dict(data)
        for upcast in cls.upcasters[schema - 1 :]:
            current = upcast(current)
        try:
            return self._adapters[name].validate_python(current)
        except ValidationError as error:
            raise HistoryError("unreadable_event", f"{name}: {faults_of(error)}") from error


def _mark(hint: object) -> Whose | None:
    """Return the mark of a field of this type; None if it is nothing personal."""
    found = [m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Whose)]
    inner = (_mark(argument) for argument in get_args(hint))
    return next((mark for mark in (*found, *inner) if mark is not None), None)


def _leaves(path: str, value: object) -> Iterator[tuple[str, object]]:
    """Yield the single values of a field with their paths; null and the empty text are none, and
    nor is what stands in the place of an erased person's: it is nobody's.
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(f"{path}/{key}", inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(f"{path}/{index}", inner)
    elif value not in (None, "", ERASED):
        yield path, value
