"""How large a body may be: as large as what its route takes, at most.

A text may be written with twelve bytes a character: JSON lets one escape any, and some in two
halves. The desk's set-up is the largest thing there is, and an administrator's.
"""

from collections.abc import Mapping

from pydantic import BaseModel

from domain.tickets import COMMANDS
from domain.tickets.opening import OpenTicket
from domain.values import VALUE_CHARACTERS

_BYTES_A_CHARACTER = 12
_SMALL_BYTES = 32 * 2**10
"""Whatever has no long text: names, tags, a hundred tickets, a webhook's address."""
_DESK_BYTES = 4 * 2**20
_FIELDS_BYTES = 400 * 2**10
"""What custom fields may add to a ticket that is opened; more can be set afterwards."""


def _command_bytes(command: type[BaseModel]) -> int:
    characters = 0
    for field in command.model_json_schema()["properties"].values():
        characters += max(_characters(form) for form in (field, *field.get("anyOf", ())))
    of_fields = _FIELDS_BYTES if command is OpenTicket else 0
    return _SMALL_BYTES + of_fields + _BYTES_A_CHARACTER * characters


def _characters(form: Mapping[str, object]) -> int:
    """Return how long a text may be, by its schema; 0 of what is short by its form."""
    if form.get("type") != "string" or not form.keys().isdisjoint(("enum", "pattern", "format")):
        return 0
    longest = form.get("maxLength", VALUE_CHARACTERS)
    return longest if isinstance(longest, int) else 0


_BYTES = {
    "/desk": _DESK_BYTES,
    "/tickets": _command_bytes(OpenTicket),
    **{
        f"{place}/{verb}": _command_bytes(command)
        for verb, command in COMMANDS.items()
        if command is not OpenTicket
        for place in ("/tickets", "/bulk")
    },
}


def most_bytes(path: str) -> int:
    """Return how many bytes the body of a request for a path may have, before it is read."""
    start, _, end = path.rpartition("/")
    if start.startswith("/tickets/"):
        path = f"/tickets/{end}"
    return _BYTES.get(path, _SMALL_BYTES)
