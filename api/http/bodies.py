"""Request bodies: read whole within bounds of size and time, and JSON that means one thing only.

What JSON readers do not agree on is refused before anything looks at it: names that come twice in
an object, NaN and Infinity, bytes that are not UTF-8. So is what is nested more deeply, or has more
names, than any request needs: to say what is wrong with each would be more work than to send it.
What the values must be is said by the models of the routes; `request.state.body` is the body's
bytes, `request.state.json` what they say.

The body of a request that anybody may send is not read at all, for nothing that they may ask for
takes one. The parameters of a request are counted here too.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import NoReturn

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.access.rights import Principal, is_open
from api.access.shares import Shares, ShareTaken
from api.http.body_limits import most_bytes
from api.http.problems import BUSY, answer_to, problem

BODY_SECONDS = 30.0
_MOST_HELD_BYTES = 128 * 2**20  # of all requests at once
_PRINCIPALS_BYTES = 16 * 2**20  # of all requests of one principal
_DEEPEST = 32
_MOST_NAMES = 2_000  # in all objects; a desk of 500 groups and 100 fields has half of that
_MOST_LISTS = 2_000  # likewise
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_MOST_PARAMETERS = 200  # a list takes some 120
_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS"})


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, code: str, detail: str) -> None:
        self.answer = problem(status, code, detail)
        super().__init__(detail)


class Bodies:
    """Reads the body of each request that has one, and answers by itself if it cannot be taken."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._held = Shares("bodies that are being read or answered")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["query_string"].count(b"&") >= _MOST_PARAMETERS:
            detail = f"a request has at most {_MOST_PARAMETERS} parameters"
            answer = problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", detail)
            await answer(scope, receive, send)
        elif scope["method"] in _WITHOUT_BODY or is_open(scope["path"]):
            await self._app(scope, _after(b"", receive), send)
        else:
            whose = _whose(scope)
            parts: list[bytes] = []
            try:
                await self._serve(whose, parts, scope, receive, send)
            finally:
                self._held.give_back(whose, sum(map(len, parts)))

    async def _serve(
        self, whose: str, parts: list[bytes], scope: Scope, receive: Receive, send: Send
    ) -> None:
        headers = Headers(scope=scope)
        try:
            body = await self._read(whose, parts, most_bytes(scope["path"]), headers, receive)
            if body is None:
                return  # the client has gone
            value = None
            if body:
                _check_type(headers.get("content-type"))
                value = _checked(body)
        except _Refused as refused:
            await refused.answer(scope, receive, send)
            return
        except ShareTaken as error:
            await answer_to(error)(scope, receive, send)
            return
        scope.setdefault("state", {}).update(body=body, json=value)
        await self._app(scope, _after(body, receive), send)

    async def _read(
        self, whose: str, parts: list[bytes], most: int, headers: Headers, receive: Receive
    ) -> bytes | None:
        """Return the body, and its parts; None if the client goes away before its end.

        Raises _Refused, ShareTaken.
        """
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > most:
            raise _too_large(most)
        received = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    part = message.get("body", b"")
                    received += len(part)
                    if received > most:
                        raise _too_large(most)
                    bounds = {"most": _MOST_HELD_BYTES, "each": _PRINCIPALS_BYTES}
                    if not self._held.take(whose, len(part), **bounds):
                        raise _Refused(HTTPStatus.SERVICE_UNAVAILABLE, *BUSY)
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            detail = f"the body was not there within {BODY_SECONDS:.0f} seconds"
            raise _Refused(HTTPStatus.REQUEST_TIMEOUT, "request_timeout", detail) from None


def _whose(scope: Scope) -> str:
    who = scope.get("state", {}).get("principal")
    return who.share if isinstance(who, Principal) else ""


def _after(body: bytes, receive: Receive) -> Receive:
    """Return what receives a whole body, and then what comes after it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _too_large(most: int) -> _Refused:
    detail = f"the body of such a request has at most {most} bytes"
    return _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "request_entity_too_large", detail)


def _check_type(given: str | None) -> None:
    media_type = (given or "").partition(";")[0].strip().lower()
    if media_type == "application/json" or re.fullmatch("application/[^/]+[+]json", media_type):
        return
    found = f"not {media_type}" if media_type else "and the request names no type"
    raise _Refused(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        f"a body must be application/json, {found}: send Content-Type: application/json",
    )


def _checked(body: bytes) -> object:
    """Read a body. Raises _Refused unless it is JSON that every reader reads alike."""
    names = 0

    def object_(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
        nonlocal names
        names += len(pairs) or 1
        if names > _MOST_NAMES:
            raise _bad_json(f"there are more than {_MOST_NAMES} names in its objects")
        return _object(pairs)

    if body.count(b"[") > _MOST_LISTS and _STRING.sub(b"", body).count(b"[") > _MOST_LISTS:
        raise _bad_json(f"there are more than {_MOST_LISTS} lists in it")
    try:
        value: object = json.loads(
            body.decode(), object_pairs_hook=object_, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError as error:
        raise _bad_json(f"it is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise _bad_json(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:  # Python reads no numbers of thousands of digits
        raise _bad_json("it holds a number that is too long") from None
    if body.count(b"[") + body.count(b"{") > _DEEPEST and _is_too_deep(value):
        raise _too_deep()
    return value


def _object(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)
        raise _bad_json(f"the name {json.dumps(twice)[:100]} comes twice in one object")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise _bad_json(f"{name} is no JSON")


def _is_too_deep(value: object) -> bool:
    """Say whether something is nested too deeply: level by level, for there may be much of it."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            for inner in _inside(outer)
            if type(inner) is list or type(inner) is dict
        ]
        if not level:
            return False
    return True


def _inside(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _bad_json(reason: str) -> _Refused:
    return _Refused(HTTPStatus.BAD_REQUEST, "bad_json", f"the body cannot be read: {reason}")


def _too_deep() -> _Refused:
    return _bad_json(f"it is nested more than {_DEEPEST} levels deep")
