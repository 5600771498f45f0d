"""What is on its way to one client of a stream that may never end.

Whoever makes the stream puts pieces into an `Outbox` and has to wait when some 64 KB lie in it; the
response takes them out and sends them. The server stops the response when the client does not read
(its flow control lets some 64 KB lie in the connection's buffer), the full outbox stops the maker,
and a response that could send nothing for a while is given up. So a client that never reads costs
these, and what was read for it last: a page of the log (500 or 1,000 events, or one long ticket)
while it is being told of the past, a megabyte at most behind that; for a minute.

They are two tasks, because a response is cut off in the middle of anything when its client goes;
what is cut off there is only the sending. The maker is cancelled by itself, and closes what it has
open in good order.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from domain.errors import CasebookError

_log = logging.getLogger(__name__)

OUTBOX_BYTES = 64 * 2**10
SILENCE_SECONDS = 15.0
"""After so much silence a sign of life is sent."""
STALLED_SECONDS = 60.0
"""A client that takes nothing for so long is given up."""


class TooManyStreams(CasebookError):
    """As many streams are open as one process serves: for example by clients that leak them."""

    kind = "unavailable"

    def __init__(self) -> None:
        super().__init__("too_many_streams", "too many streams are open; try again later")


class Outbox:
    """Pieces for one client, in order."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._bytes = 0
        self._ended = False
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def put(self, piece: bytes) -> None:
        """Add a piece, once there is room."""
        await self._room.wait()
        self._add(piece)

    def end(self, last: bytes = b"") -> None:
        """Say that nothing comes any more but one last piece; after the first time, nothing."""
        if not self._ended:
            self._add(last)
            self._ended = True
            self._filled.set()

    async def take(self, seconds: float) -> bytes | None:
        """Take what is there; nothing if nothing comes in time, None after the end."""
        if not self._pieces and not self._ended:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._filled.wait()
        if not self._pieces and self._ended:
            return None
        taken = b"".join(self._pieces)
        self._pieces.clear()
        self._bytes = 0
        self._room.set()
        if not self._ended:
            self._filled.clear()
        return taken

    def _add(self, piece: bytes) -> None:
        if piece and not self._ended:
            self._pieces.append(piece)
            self._bytes += len(piece)
            self._filled.set()
            if self._bytes >= OUTBOX_BYTES:
                self._room.clear()


class Streamed(StreamingResponse):
    """A response that sends what is put into an outbox, until its end.

    `alive` is sent in silence, `close` called in the end, however it ends.
    """

    def __init__(self, outbox: Outbox, close: Callable[[], None], alive: bytes = b"") -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__((), headers=headers)
        self._outbox = outbox
        self._close = close
        self._alive = alive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()

    async def stream_response(self, send: Send) -> None:
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        while (piece := await self._outbox.take(SILENCE_SECONDS)) is not None:
            if piece or self._alive:
                try:
                    async with asyncio.timeout(STALLED_SECONDS):
                        await _send(send, piece or self._alive, more=True)
                except TimeoutError:
                    _log.info("a stream's client has read nothing for %s s", STALLED_SECONDS)
                    return
        await _send(send, b"", more=False)


async def _send(send: Send, body: bytes, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})
