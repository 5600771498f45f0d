"""A client of the log, and what is on its way to it.

Two tasks share a client's `SendBuffer`: one reads the log and has to wait when some 64 KB lie in
it; the other, the response, takes them out and sends them. The server stops the response when the
client does not read (its flow control lets some 64 KB lie in the connection's buffer), the full
buffer stops the reading, and a response that could send nothing for a while is given up. So a
client that never reads costs these, and what was read for it last (500 or 1,000 events, or one long
ticket), for a minute.

They are two tasks, because a response is cut off in the middle of anything when its client goes;
what is cut off there is only the sending. The reading is cancelled by itself, and closes what it
has open in good order.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field

from eventstore.subscription import LateEventCheck

BUFFER_BYTES = 64 * 2**10


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the feeds of one process may take, and how long they wait.

    `silence_seconds`: after so much silence a sign of life is sent. `stalled_seconds`: a client
    that takes nothing for so long is given up. `still_known_seconds`: how often it is asked whether
    a client's key or token is still good. `row_bytes`: what the hub keeps.
    """

    streams: int = 100
    streams_each: int = 20
    exports: int = 8
    exports_each: int = 2
    catching_up: int = 3
    row_bytes: int = 16 * 2**20
    cursor_every_events: int = 100
    silence_seconds: float = 15.0
    stalled_seconds: float = 60.0
    still_known_seconds: float = 5.0
    retry_seconds: float = 1.0
    late: LateEventCheck = field(default_factory=LateEventCheck)


LIMITS = Limits()


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
        self._add(last)
        self._ended = True
        self._filled.set()

    async def take(self, seconds: float) -> bytes | None:
        """Take what is there; nothing if nothing comes in time, None after the end."""
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


@dataclass(frozen=True, slots=True)
class Client:
    """A client: its share of all feeds, and the types of the events that it wants, none for all.

    `check_known` raises Unauthenticated once its key or token is not good any more.
    """

    share: str
    types: Collection[str]
    check_known: Callable[[], Awaitable[object]]
    buffer: SendBuffer = field(default_factory=SendBuffer)

    def wants(self, type_: object) -> bool:
        """Return whether the client wants events of a type."""
        return not self.types or str(type_) in self.types
