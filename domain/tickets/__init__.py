"""What a ticket is: one module for each feature, each whole, with its commands and its events.

What is said of a command or an event stands on its class; these are all of them. What else a new
one may concern: docs/guides/extend.md.
"""

from collections.abc import Mapping

from domain.codec import Codec
from domain.tickets import (
    assignment,
    conversation,
    details,
    lifecycle,
    opening,
    promises,
    redaction,
    relations,
)
from domain.tickets.command import Command
from domain.tickets.ticket import TicketEvent

_FEATURES = (opening, lifecycle, assignment, promises, details, relations, conversation, redaction)
_CLASSES = [
    cls
    for feature in _FEATURES
    for cls in vars(feature).values()
    if isinstance(cls, type) and cls.__module__ == feature.__name__
]

COMMANDS: Mapping[str, type[Command]] = {
    cls.verb: cls for cls in _CLASSES if issubclass(cls, Command)
}
"""All commands by their verbs."""
EVENT_TYPES: Mapping[str, type[TicketEvent]] = {
    cls.__name__: cls for cls in _CLASSES if issubclass(cls, TicketEvent)
}
"""All events by their stored names."""


def is_public(type_: object, data: object) -> bool:
    """Say whether requesters see a stored event, of whatever schema; they do not if it is none."""
    event = EVENT_TYPES.get(type_) if isinstance(type_, str) else None
    if event is None or event.internal:
        return False
    return not (isinstance(data, Mapping) and data.get("is_internal") is True)


CODEC = Codec(EVENT_TYPES.values())
encode, decode = CODEC.encode, CODEC.decode
