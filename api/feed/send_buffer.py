"""What is on its way to one client of a stream that may never end.

Two tasks share a `SendBuffer`: one reads the log and has to wait when some 64 KB lie in it; the
other, the response, takes them out and sends them. The server stops the response when the client
does not read (its flow control lets some 64 KB lie in the connection's buffer), the full buffer
stops the reading, and a response that could send nothing for a while is given up. So a client that
never reads costs these, and what was read for it last (500 or 1,000 events, or one long ticket),
for a minute.

They are two tasks, because a response is cut off in the middle of anything when its client goes;
what is cut off there is only the sending. The reading is cancelled by itself, and closes what it
has open in good order.
"""

import asyncio
from collections import deque
from contextlib import suppress

BUFFER_BYTES = 64 * 2**10
SILENCE_SECONDS = 15.0
"""After so much silence a sign of life is sent."""
STALLED_SECONDS = 60.0
"""A client that takes nothing for so long is given up."""


class SendBuffer:
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
            if self._bytes >= BUFFER_BYTES:
                self._room.clear()
