"""Request bodies: read whole within bounds of size and time, and JSON that means one thing only.

What JSON readers do not agree on is refused before anything looks at it: names that come twice in
an object, NaN and Infinity, bytes that are not UTF-8. So is what is nested more deeply than any
request needs. What the values must be is said by the models of the routes; the body's bytes are
`request.state.body` for who wants them as they are.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Sequence
from http import HTTPStatus
from typing import NoReturn

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import BUSY, problem

BODY_SECONDS = 30.0
_MOST_BYTES = 4 * 2**20
_MOST_HELD_BYTES = 128 * 2**20  # of all requests at once
_DEEPEST = 32
_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS"})


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, code: str, detail: str) -> None:
        self.answer = problem(status, code, detail)
        super().__init__(detail)


class Bodies:
    """Reads the body of each request that has one, and answers by itself if it cannot be taken."""

    def __init__(self, app: ASGIApp, most_bytes: int = _MOST_BYTES) -> None:
        self._app = app
        self._most_bytes = most_bytes
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _WITHOUT_BODY:
            await self._app(scope, receive, send)
            return
        parts: list[bytes] = []
        try:
            await self._serve(parts, scope, receive, send)
        finally:
            self._held_bytes -= sum(map(len, parts))

    async def _serve(self, parts: list[bytes], scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        try:
            body = await self._read(parts, headers, receive)
            if body is None:
                return  # the client has gone
            if body:
                _check_type(headers.get("content-type"))
                _check(body)
        except _Refused as refused:
            await refused.answer(scope, receive, send)
            return
        scope.setdefault("state", {})["body"] = body
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, again, send)

    async def _read(self, parts: list[bytes], headers: Headers, receive: Receive) -> bytes | None:
        """Give the body, and its parts; None if the client goes away before its end.

        Raises _Refused.
        """
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._most_bytes:
            raise self._too_large()
        received = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    received += len(parts[-1])
                    self._held_bytes += len(parts[-1])
                    if self._held_bytes > _MOST_HELD_BYTES:
                        raise _Refused(HTTPStatus.SERVICE_UNAVAILABLE, *BUSY)
                    if received > self._most_bytes:
                        raise self._too_large()
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            detail = f"the body was not there within {BODY_SECONDS:.0f} seconds"
            late = _Refused(HTTPStatus.REQUEST_TIMEOUT, "request_timeout", detail)
            late.answer.headers["Connection"] = "close"
            raise late from None

    def _too_large(self) -> _Refused:
        detail = f"a body has at most {self._most_bytes} bytes"
        refused = _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "request_entity_too_large", detail)
        refused.answer.headers["Connection"] = "close"  # what it still sends is not read
        return refused


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


def _check(body: bytes) -> None:
    """Raise _Refused unless the body is JSON that every reader reads alike."""
    try:
        value = json.loads(
            body.decode(), object_pairs_hook=_object, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError as error:
        raise _bad_json(f"it is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise _bad_json(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:  # Python reads no numbers of thousands of digits
        raise _bad_json("it holds a number that is too long") from None
    if body.count(b"[") + body.count(b"{") > _DEEPEST and _is_deeper(value, _DEEPEST):
        raise _too_deep()


def _object(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)
        raise _bad_json(f"the name {json.dumps(twice)[:100]} comes twice in one object")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise _bad_json(f"{name} is no JSON")


def _is_deeper(value: object, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if levels == 0:
        return isinstance(value, dict | list)
    return any(_is_deeper(each, levels - 1) for each in inner)


def _bad_json(reason: str) -> _Refused:
    return _Refused(HTTPStatus.BAD_REQUEST, "bad_json", f"the body cannot be read: {reason}")


def _too_deep() -> _Refused:
    return _bad_json(f"it is nested more than {_DEEPEST} levels deep")
