"""Load is shed before memory grows: who comes when too much is under way is told to come again.

A request costs memory while it is served. So a process serves so many at once and no more; what
waits for it in the kernel's queue costs it nothing. `Bodies` bounds what their contents hold.
"""

from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from api.access.rights import is_open
from api.http.problems import BUSY, problem

REQUESTS_AT_ONCE = 1000


class Shedding:
    """Answers 503 for requests beyond so many at once, streams among them."""

    def __init__(self, app: ASGIApp, most: int = REQUESTS_AT_ONCE) -> None:
        self._app = app
        self._most = most
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        if self._under_way >= self._most:
            await problem(HTTPStatus.SERVICE_UNAVAILABLE, *BUSY)(scope, receive, send)
            return
        self._under_way += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._under_way -= 1
