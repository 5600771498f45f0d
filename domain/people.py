"""A person, as far as the log knows one: whose words are in it, and who can be erased.

A person's stream has at most three events, one after the other; between them is what they say has
been done. Pure, as all of the domain.
"""

from typing import ClassVar, get_args

from pydantic import BaseModel, ConfigDict

from domain.codec import Codec, Event
from domain.values import JsonObject, Line


class ErasePerson(BaseModel):
    """Make a person's words and name unreadable wherever Casebook keeps them, for good.

    `reason` is kept for ever, and read by whoever reads the log: name nobody in it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    reason: Line


class PersonErased(Event):
    """From here on no key of theirs is used, and none is made for a person of the same name.

    `known_by`: a keyed hash of the name (hex).
    """

    reason: str
    known_by: str


def _without_what_named_them(data: JsonObject) -> JsonObject:
    """Upcast an event that listed what had named them, as far as one process knew."""
    return {name: value for name, value in data.items() if name == "plain_tickets"}


class KeyDestroyed(Event):
    """Their key is gone, and nothing outside the log and its views names them any more.

    `plain_tickets` is how many tickets have events that are older than sealing, and name them
    still; null if that was not found out before their name was gone.
    """

    schema: ClassVar[int] = 2
    upcasters: ClassVar = (_without_what_named_them,)
    plain_tickets: int | None


class ErasureCompleted(Event):
    """No view holds any of their words. `tickets`: how many were folded anew."""

    tickets: int


PersonEvent = PersonErased | KeyDestroyed | ErasureCompleted
STEPS: tuple[type[PersonEvent], ...] = get_args(PersonEvent)
"""What follows on what."""
CODEC: Codec[PersonEvent] = Codec(STEPS)
encode, decode = CODEC.encode, CODEC.decode


def erase(past: int, command: ErasePerson, known_by: str) -> tuple[PersonEvent, ...]:
    """Return what follows for a person with so many events: nothing if they are erased already."""
    return () if past else (PersonErased(command.reason, known_by),)
