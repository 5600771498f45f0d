"""A process whose log was restored meanwhile changes nothing any more.

Tickets are guarded where events are appended; this guards all else that a request can change: the
desk, saved views, webhooks, keys.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.problems import answer_to
from eventstore.log_identity import LogIdentity, LogReplaced

_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class Replaced:
    """Answers 503 `log_replaced` to requests that could change something."""

    def __init__(self, app: ASGIApp, identity: LogIdentity) -> None:
        self._app = app
        self._identity = identity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            self._identity.is_replaced
            and scope["type"] == "http"
            and scope["method"] not in _READING
        ):
            await answer_to(LogReplaced())(scope, receive, send)
            return
        await self._app(scope, receive, send)
