"""JSON that means one thing only.

What JSON readers do not agree on is refused before anything looks at it: names that come twice in
an object, NaN and Infinity, bytes that are not UTF-8. So is what is nested more deeply, or has more
names, than any request needs: to say what is wrong with each would be more work than to send it.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from http import HTTPStatus
from itertools import accumulate
from typing import NoReturn

from starlette.exceptions import HTTPException

_DEEPEST = 32
_MOST_NAMES = 2_000  # and objects; a desk of 500 groups and 100 fields has half of that
_MOST_LISTS = 2_000  # likewise
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)


def read_json(body: bytes) -> object:
    """Return what a body says. Raises HTTPException unless every reader reads the same in it."""
    if body.count(b"[") + body.count(b"{") > _DEEPEST:
        _check_brackets(re.sub(rb"[^][{}]+", b"", _STRING.sub(b"", body)))
    names = 0

    def object_(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
        nonlocal names
        names += len(pairs)
        if names > _MOST_NAMES:
            raise _bad(f"there are more than {_MOST_NAMES} names in its objects")
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)
            raise _bad(f"the name {json.dumps(twice)[:100]} comes twice in one object")
        return found

    try:
        value: object = json.loads(
            body.decode(), object_pairs_hook=object_, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError as error:
        raise _bad(f"it is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise _bad(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except ValueError:  # Python reads no numbers of thousands of digits
        raise _bad("it holds a number that is too long") from None
    return value


def _check_brackets(brackets: bytes) -> None:
    """Raise HTTPException if these are of too many lists or objects, or nested too deeply."""
    for opening, what, most in ((b"[", "lists", _MOST_LISTS), (b"{", "objects", _MOST_NAMES)):
        if brackets.count(opening) > most:
            raise _bad(f"there are more than {most} {what} in it")
    if max(accumulate(1 if each in b"[{" else -1 for each in brackets)) > _DEEPEST:
        raise _bad(f"it is nested more than {_DEEPEST} levels deep")


def _refuse_constant(name: str) -> NoReturn:
    raise _bad(f"{name} is no JSON")


def _bad(reason: str) -> HTTPException:
    return HTTPException(HTTPStatus.BAD_REQUEST, f"the body cannot be read: {reason}")
