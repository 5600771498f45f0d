"""A wire to the database that loses what a client says, and brings it to the database later."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple
from urllib.parse import urlsplit

from eventstore.driver import Database, DriverName, connect
from eventstore.envelope import TICKET_EVENTS
from projections.generations import FIRST
from scripts.soak.wire import url_at

Holds = Callable[[bytes], bool]


def is_append(message: bytes) -> bool:
    """Say whether a message inserts events outside of a transaction."""
    return is_insert_into(TICKET_EVENTS)(message) and b"autocommit\x00" not in message


def is_insert_into(collection: str) -> Holds:
    """Tell the messages that insert into a collection."""
    return lambda message: b"\x02insert\x00" in message and f"{collection}\0".encode() in message


def is_commit(message: bytes) -> bool:
    """Say whether a message commits a transaction."""
    return b"commitTransaction\x00" in message


def never(_message: bytes) -> bool:
    return False


class _Held(NamedTuple):
    message: bytes
    upstream: asyncio.StreamReader
    to_upstream: asyncio.StreamWriter


class LateWire:
    """Passes messages on. One that it is to hold cuts its client off, and waits for `deliver`."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self.holds: Holds = never
        self.held: list[_Held] = []
        self.connections: set[asyncio.Task[None]] = set()

    def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._take(reader, writer))
        self.connections.add(connection)
        connection.add_done_callback(self.connections.discard)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, to_upstream = await asyncio.open_connection(*self._to)
        answers = asyncio.create_task(_pass_on(upstream, writer))
        is_held = False
        try:
            while True:
                message = await _message(reader)
                if self.holds(message):
                    is_held = True
                    answers.cancel()
                    await asyncio.wait([answers])  # the answer to this is for who delivers it
                    self.held.append(_Held(message, upstream, to_upstream))
                    return
                to_upstream.write(message)
        except (OSError, EOFError):
            pass
        finally:
            answers.cancel()
            writer.transport.abort()
            if not is_held:
                to_upstream.close()

    async def deliver(self) -> bytes:
        """Bring the first message that was held to the database; return what it answers."""
        held = self.held.pop(0)
        held.to_upstream.write(held.message)
        try:
            return await _message(held.upstream)
        finally:
            held.to_upstream.close()

    def drop(self) -> None:
        """Let what is still held never arrive."""
        for held in self.held:
            held.to_upstream.close()
        self.held.clear()


async def _message(reader: asyncio.StreamReader) -> bytes:
    length = await reader.readexactly(4)
    return length + await reader.readexactly(int.from_bytes(length, "little") - 4)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while part := await reader.read(65536):
            writer.write(part)


@asynccontextmanager
async def late_wire(url: str, driver: DriverName) -> AsyncIterator[tuple[LateWire, Database]]:
    """Connect to a database once more, over a wire that can hold what is said."""
    parts = urlsplit(url)
    wire = LateWire(parts.hostname or "", parts.port or 27017)
    async with await asyncio.start_server(wire.take, "127.0.0.1", 0) as server:
        database = connect(url_at(url, server.sockets[0].getsockname()[1]), driver)
        try:
            yield wire, FIRST.of(database)
        finally:
            wire.holds = never
            wire.drop()
            if driver == "motor":  # closes in this thread, which is the one that serves the wire
                _ = await asyncio.to_thread(database.client.close)
            else:
                await database.close()
            for connection in wire.connections:
                connection.cancel()
            await asyncio.gather(*wire.connections, return_exceptions=True)


async def happens(holds: Callable[[], object], working: Awaitable[object] | None = None) -> None:
    """Wait until something holds, or what should bring it about has ended."""
    task = None if working is None else asyncio.ensure_future(working)
    async with asyncio.timeout(60):
        while not holds() and not (task is not None and task.done()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
