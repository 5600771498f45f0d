"""A person, as far as the log knows one: somebody whose words are in it, and who can be erased.

A person's stream has at most three events, one after the other; between them is what they say has
been done. Pure, as all of the domain.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, get_args

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from domain.errors import HistoryError, faults_of
from domain.events import Event, EventData, JsonObject
from domain.values import Line


class ErasePerson(BaseModel):
    """Make a person's words and name unreadable wherever Casebook keeps them, for good.

    `reason` is kept for ever, and read by whoever reads the log: name nobody in it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    reason: Line


@dataclass(frozen=True, slots=True)
class PersonErased(Event):
    """From here on no key of theirs is used, and none is made for who is known by the same.

    `known_by`: a keyed hash of the name (hex).
    """

    reason: str
    known_by: str


@dataclass(frozen=True, slots=True)
class KeyDestroyed(Event):
    """Their key is gone, and what named them beside the log and its views does so no more.

    `plain_tickets` is how many tickets have events that are older than sealing, and name them
    still; null if it was found out by nobody before their name was gone.
    """

    schema: ClassVar[int] = 2
    plain_tickets: int | None


@dataclass(frozen=True, slots=True)
class ErasureCompleted(Event):
    """No view holds any of their words. `tickets`: how many were folded anew."""

    tickets: int


PersonEvent = PersonErased | KeyDestroyed | ErasureCompleted
STEPS: tuple[type[PersonEvent], ...] = get_args(PersonEvent)
"""What follows on what."""

_UPCASTERS: Mapping[tuple[str, int], Callable[[JsonObject], JsonObject]] = {
    # It told what had named them, too: as far as the process knew that happened to take the step.
    ("KeyDestroyed", 1): lambda data: {"plain_tickets": data["plain_tickets"]},
}
_SCHEMAS = {cls.__name__: cls.schema for cls in STEPS}
_ADAPTERS: Mapping[str, TypeAdapter[PersonEvent]] = {
    cls.__name__: TypeAdapter(cls) for cls in STEPS
}


def erase(past: int, command: ErasePerson, known_by: str) -> tuple[PersonEvent, ...]:
    """Say what follows of somebody with so many events: nothing, if they are erased already."""
    return () if past else (PersonErased(command.reason, known_by),)


def encode(event: PersonEvent) -> EventData:
    """Give the stored form of an event. Nothing in it is personal."""
    name = type(event).__name__
    data: JsonObject = _ADAPTERS[name].dump_python(event, mode="json")
    return EventData(name, event.schema, data)


def decode(name: str, schema: int, data: Mapping[str, object]) -> PersonEvent:
    """Read a stored event. Raises HistoryError for what is none that this code knows."""
    adapter = _ADAPTERS.get(name)
    step = _UPCASTERS.get((name, schema))
    if adapter is None or (step is None and schema != _SCHEMAS[name]):
        raise HistoryError("unknown_event_type", f"unknown event {name!r} of schema {schema}")
    try:
        return adapter.validate_python(dict(data) if step is None else step(dict(data)))
    except KeyError as error:
        raise HistoryError("unreadable_event", f"{name} lacks {error}") from error
    except ValidationError as error:
        raise HistoryError("unreadable_event", f"{name}: {faults_of(error)}") from error
