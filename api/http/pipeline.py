"""What every request passes, in one place: `Pipeline`.

In this order a request gets a correlation id and is counted; is turned away if too much is under
way; has its caller identified, who may not ask too often; is refused if it could change something
and the log has been replaced, for what the process knows is of the former log; and goes to its
route, which holds it to its caller's rights and reads it. Every error on the way becomes a problem
document here. Requests for open paths are neither bounded nor identified.

Each answer names its correlation id. Answers tell of tickets and of people, refusals too, so no
cache and no browser is to have a copy (`Cache-Control: no-store`) unless an answer says otherwise,
as the console's files do. `HEAD` is answered as `GET` is, and ends where the body would begin.

A body that was announced and not read is still on its way: its connection cannot be used for
another request, and is closed rather than read to the body's end.
"""

import time
from collections.abc import Iterable
from contextlib import suppress

from opentelemetry import trace
from starlette.requests import ClientDisconnect, Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from api.access.access_log import Outcome
from api.access.authentication import Access
from api.access.principals import Principal, Unseen
from api.access.rights import is_open
from api.http import correlation
from api.http.bodies import Bodies
from api.http.caller import asking_of, header, read_headers
from api.http.problems import ServerBusy, to_response
from api.http.request_metrics import UNDER_WAY, note
from api.http.routing import Table
from domain.errors import Forbidden
from eventstore.log_identity import LogIdentity, LogReplaced

REQUESTS_AT_ONCE = 1000
"""A request costs memory while it is served; what waits in the kernel's queue costs none."""
_READING = frozenset({"GET", "OPTIONS"})


class Pipeline:
    """The one middleware: all that is done for every request around its route."""

    def __init__(
        self,
        app: ASGIApp,
        routes: Iterable[BaseRoute],
        access: Access,
        identity: LogIdentity,
        *,
        log_all: bool = False,
        most: int = REQUESTS_AT_ONCE,
    ) -> None:
        """`app`: what is asked where none of `routes` fits; `most`: requests at once."""
        self._app = app
        self._table = Table(routes)
        self._access = access
        self._identity = identity
        self._bodies = Bodies()
        self._log_all = log_all
        self._most = most
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            with suppress(_HeadSent):
                await self({**scope, "method": "GET"}, receive, _head_alone(send))
            return
        exchange = _Exchange(scope, receive, send, log_all=self._log_all)
        bind_contextvars(correlation_id=exchange.correlation_id)  # of the request's own task
        UNDER_WAY.inc()
        try:
            await self._serve(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            pass  # the client has gone
        except Exception as error:
            if exchange.status:
                raise  # too late for an answer: the server ends the connection
            self._note_refusal(scope, error)
            await to_response(error)(scope, exchange.receive, exchange.send)
        finally:
            UNDER_WAY.dec()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if is_open(scope["path"]):
            await self._route(scope, receive, send)
            return
        if self._under_way >= self._most:
            raise ServerBusy
        self._under_way += 1
        who: Principal | None = None
        try:
            authorization = header(scope, b"authorization")
            who = await self._access.admit(asking_of(scope), authorization)
            scope["state"].update(principal=who, access=self._access, bodies=self._bodies)
            if self._identity.is_replaced and scope["method"] not in _READING:
                raise LogReplaced
            await self._route(scope, receive, send)
        finally:
            if who is not None:
                self._access.end(who)
            self._under_way -= 1

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._table.find(scope)
        if route is None:
            await self._app(scope, receive, send)
            return
        span = trace.get_current_span()
        if span.is_recording():
            span.set_attribute("http.route", route.path)
            span.update_name(f"{scope['method']} {route.path}")
        # Not by `handle`: what FastAPI wraps around an answer is for dependencies that it solves.
        response = await route.answer(Request(scope, receive, send))
        await response(scope, receive, send)

    def _note_refusal(self, scope: Scope, error: Exception) -> None:
        if isinstance(error, Forbidden | Unseen):
            outcome: Outcome = "unseen" if isinstance(error, Unseen) else "denied"
            self._access.note(outcome, asking_of(scope), scope["state"]["principal"])


class _HeadSent(Exception):
    """A HEAD request has its answer."""


def _head_alone(send: Send) -> Send:
    """Return what sends the head of an answer and ends it, also one that would never end."""

    async def send_head(message: Message) -> None:
        await send(message)
        await send({"type": "http.response.body", "body": b""})
        raise _HeadSent

    return send_head


class _Exchange:
    """A request and its answer, as they pass between the server and the application."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, log_all: bool) -> None:
        self._scope, self._receive, self._send, self._log_all = scope, receive, send, log_all
        self._began = time.perf_counter()
        headers = read_headers(scope)
        length = headers.get(b"content-length", b"0")
        self._is_unread = length != b"0" or b"transfer-encoding" in headers
        self.status = 0
        self.correlation_id = correlation.of(scope)
        scope["state"]["correlation_id"] = self.correlation_id

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._is_unread = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = [(b"correlation-id", self.correlation_id.encode())]
            if all(name != b"cache-control" for name, _ in message["headers"]):
                own.append((b"cache-control", b"no-store"))
            if self._is_unread:
                own.append((b"connection", b"close"))
            message["headers"] = [*message["headers"], *own]
            seconds = time.perf_counter() - self._began
            note(self._scope, self.status, seconds, log_all=self._log_all)
        await self._send(message)
