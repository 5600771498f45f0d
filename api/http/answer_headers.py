"""What every answer says of itself: that nobody is to keep it, whether others follow it.

Answers tell of tickets and of people, refusals too, so no cache and no browser is to have a copy
(`Cache-Control: no-store`) unless an answer says otherwise of itself, as the console's files do.

A body that was announced and not read is still on its way: a connection on which it is cannot be
used for another request, and is closed (`Connection: close`) rather than read to the body's end.
"""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class AnswerHeaders:
    """Adds to each answer what it does not say itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        unread = any(_announces_body(name, value) for name, value in scope["headers"])

        async def reading() -> Message:
            nonlocal unread
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                unread = False
            return message

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=[*message["headers"]])
                headers.setdefault("Cache-Control", "no-store")
                if unread:
                    headers["Connection"] = "close"
                message["headers"] = headers.raw
            await send(message)

        await self._app(scope, reading if unread else receive, telling)


def _announces_body(name: bytes, value: bytes) -> bool:
    return name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
