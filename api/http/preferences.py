"""Preferences of the caller: the header `Prefer` (RFC 7240)."""

import re
from typing import Annotated

from fastapi import Header

WAIT_SECONDS = 30
"""The longest wait; a request for more waits so long."""
WAIT_UNASKED_SECONDS = 2


def prefer_header(description: str) -> object:
    """Declare the header, as a route describes it."""
    return Header(alias="Prefer", max_length=200, description=description)


Prefer = Annotated[
    str | None,
    prefer_header(
        "`wait=2`: how many seconds to wait for what is asked for with `after` "
        f"({WAIT_UNASKED_SECONDS} unless given, at most {WAIT_SECONDS})."
    ),
]


def wait_seconds(prefer: str | None) -> int | None:
    """Read `wait`, at most WAIT_SECONDS.

    None if it is not there or makes no sense: preferences that are not understood are ignored.
    """
    wait = _preference(prefer, "wait", "[0-9]{1,9}")
    return None if wait is None else min(int(wait), WAIT_SECONDS)


def return_preference(prefer: str | None) -> str | None:
    """Read `return`: minimal, representation, or None."""
    return _preference(prefer, "return", "minimal|representation")


def _preference(prefer: str | None, name: str, values: str) -> str | None:
    if prefer is None:
        return None
    written = re.compile(rf'\s*{name}\s*=\s*("?)({values})\1\s*(?:;.*)?', re.IGNORECASE | re.ASCII)
    found = filter(None, map(written.fullmatch, prefer.split(",")))
    return next((preference[2].lower() for preference in found), None)
