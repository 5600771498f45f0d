"""The gate: who asks is known, or gets nothing; and nobody asks too often.

Every request but those for `OPEN_PATHS` shows a key or a token in `Authorization: Bearer`. `Gate`
finds out whose it is before anything of the request is read; `Authorisation` holds it to `RIGHTS`
once the route is known. Both keep the access log.

Each principal's key, or principal by token, may ask so many times a second or minute in each
process; and an address that shows what nobody has is put off in the same way, sooner.
"""

import math
import time
from http import HTTPStatus

import limits
from fastapi import Request
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.access import OPEN_PATHS, RIGHTS, Principal, Unauthenticated, principal
from api.access_log import AccessLog, Asking, Outcome
from api.keys import PREFIX, Keys
from api.problems import TooManyRequests, answer_to
from api.tokens import Tokens
from domain.errors import CasebookError, Forbidden

_FAILURES = limits.parse("5/second")


class Access:
    """By what it is known who asks, and how often they may."""

    def __init__(
        self, keys: Keys, log: AccessLog, tokens: Tokens | None = None, limit: str = "200/second"
    ) -> None:
        """`limit`: how often each principal may ask, like `200/second` or `1000 per minute`."""
        self.keys = keys
        self.log = log
        self._tokens = tokens
        self._limit = limits.parse(limit)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    async def identify(self, authorization: str | None) -> Principal:
        """Say who shows this. Raises Unauthenticated, StoreUnavailable."""
        if authorization is None:
            raise Unauthenticated("send a key in the header `Authorization: Bearer <key>`")
        scheme, _, shown = authorization.partition(" ")
        if scheme.lower() != "bearer" or not shown.strip():
            raise Unauthenticated("the header Authorization must read `Bearer <key>`")
        shown = shown.strip()
        if shown.startswith(PREFIX) or self._tokens is None:
            return await self.keys.principal(shown)
        return await self._tokens.principal(shown)

    async def count(self, who: Principal) -> None:
        """Count a request. Raises TooManyRequests."""
        await self._count(self._limit, who.key or f"{who.role}:{who.id}")

    async def count_failure(self, address: str) -> None:
        """Count a failure to be known. Raises TooManyRequests."""
        await self._count(_FAILURES, f"address {address}")

    async def _count(self, item: limits.RateLimitItem, whose: str) -> None:
        if not await self._limiter.hit(item, whose):
            stats = await self._limiter.get_window_stats(item, whose)
            raise TooManyRequests(max(1, math.ceil(stats.reset_time - time.time())))


class Gate:
    """Lets in whom it knows, and who does not ask too often."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        try:
            who = await self._access.identify(Headers(scope=scope).get("authorization"))
            await self._access.count(who)
        except Unauthenticated as error:
            answer = await self._to_a_stranger(scope, error)
        except CasebookError as error:
            answer = answer_to(error)
        else:
            scope.setdefault("state", {})["principal"] = who
            await self._app(scope, receive, self._noting(scope, who, send))
            return
        await answer(scope, receive, send)

    async def _to_a_stranger(self, scope: Scope, error: Unauthenticated) -> Response:
        asking = Asking.of(scope)
        try:
            await self._access.count_failure(asking.address or "")
        except TooManyRequests as too_many:
            return answer_to(too_many)  # and what is not recorded is bounded as well
        await self._access.log.failed("unknown", asking, None)
        return answer_to(error)

    def _noting(self, scope: Scope, who: Principal, send: Send) -> Send:
        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                outcome: Outcome | None = None
                if message["status"] == HTTPStatus.FORBIDDEN:
                    outcome = "denied"
                elif scope["state"].get("unseen"):
                    outcome = "unseen"
                if outcome is not None:
                    await self._access.log.failed(outcome, Asking.of(scope), who)
            await send(message)

        return noting


class Authorisation:
    """Holds every request to `RIGHTS`; a dependency of all routes, and the first one of each."""

    def __init__(self, log: AccessLog) -> None:
        self._log = log

    async def __call__(self, request: Request) -> None:
        """Raise Forbidden unless who asks may; StoreUnavailable if that cannot be recorded."""
        path = request.scope["route"].path
        if path in OPEN_PATHS:
            return
        who = await principal(request)
        right = RIGHTS.get(f"{request.method} {path}")
        if right is None or who.role not in right.roles:
            raise Forbidden(f"this is not for the role {who.role}")
        if right.scope not in who.scopes:
            raise Forbidden(f"this key is not good for the scope {right.scope}")
        if right.recorded:
            await self._log.granted(Asking.of(request.scope), who)
