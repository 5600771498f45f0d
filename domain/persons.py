"""A person, as far as the log knows one: somebody whose words are in it, and who can be erased.

A person's stream has at most three events, one after the other; between them is what they say has
been done. Pure, as all of the domain.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

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
    """Their key is gone, and nothing beside the log and its views names them any more.

    How much there was that did: `plain_tickets` are tickets whose events are older than sealing,
    and name them still.
    """

    access_records: int
    api_keys: int
    saved_views: int
    webhooks: int
    plain_tickets: int


@dataclass(frozen=True, slots=True)
class ErasureCompleted(Event):
    """No view holds any of their words. `tickets`: how many were folded anew."""

    tickets: int


PersonEvent = PersonErased | KeyDestroyed | ErasureCompleted
STEPS: tuple[type[PersonEvent], ...] = get_args(PersonEvent)
"""What follows on what."""

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
    if adapter is None or schema != 1:
        raise HistoryError("unknown_event_type", f"unknown event {name!r} of schema {schema}")
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        raise HistoryError("unreadable_event", f"{name}: {faults_of(error)}") from error
