"""Paths as they may be kept: for a log forgets nobody, and anything may be typed into a path."""

import re

from api.access.rights import OPEN_PATHS, RIGHTS

_MOST_CHARACTERS = 300
_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{24}")
"""Of a ticket, a person, a webhook; or of a key."""
_WORDS = frozenset(
    word
    for route in (*(name.partition(" ")[2] for name in RIGHTS), *OPEN_PATHS)
    for word in route.split("/")
)


def mask_path(path: str) -> str:
    """Return a path with `*` for each part of it that is neither a route's own word nor an id.

    Any other part may name a person: `/persons/bob` becomes `/persons/*`.
    """
    parts = path[:_MOST_CHARACTERS].split("/")
    return "/".join(part if part in _WORDS or _ID.fullmatch(part) else "*" for part in parts)
