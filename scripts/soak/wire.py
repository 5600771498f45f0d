"""A way to the database on which each command is heard, and the answer to one can get lost.

It reads MongoDB's wire protocol: messages with a header of four numbers (length, number, number of
the message that is answered, kind), and in the kind OP_MSG a command as BSON, with lists of
documents beside it (the manual, "MongoDB Wire Protocol"). A lost answer is one that never comes on
a connection that stays open, which is what no error tells: as a proxy makes it, or a firewall that
has forgotten a connection.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import cast
from urllib.parse import urlsplit, urlunsplit

import bson

from domain.events import JsonObject

_HEADER = struct.Struct("<iiii")
_OP_MSG = 2013

_WITHOUT_LIMIT = frozenset(
    {
        "drop",  # it takes none; it is sent again
        "endSessions",
        "getMore",  # of a cursor, which has one
        "hello",  # of the driver, which sees by it whether the server is there
        "isMaster",
        "ismaster",
        "killCursors",
        "saslContinue",  # of the driver, which signs in before it asks
        "saslStart",
    }
)

Heard = Callable[[JsonObject], bool]
"""Is told a command, and says whether its answer is to get lost."""


class Wire:
    """What stands between clients and a database, on any number of connections."""

    def __init__(self, host: str, port: int, heard: Heard) -> None:
        """`heard` may be exchanged at any time."""
        self.heard = heard
        self.waiting = 0
        """How many connections are open on which an answer got lost."""
        self._to = (host, port)
        self._connections: set[asyncio.Task[None]] = set()

    def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a client's connection until either side ends it."""
        connection = asyncio.create_task(self._take(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def close(self) -> None:
        """End all connections."""
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lost: set[int] = set()  # numbers of messages whose answers are to get lost
        try:
            upstream, answering = await asyncio.open_connection(*self._to)
        except OSError:
            writer.close()
            return
        back = asyncio.create_task(_pass_answers(upstream, writer, lost))
        try:
            while True:
                header, body = await _message(reader)
                _, number, _, kind = _HEADER.unpack(header)
                if kind == _OP_MSG and self.heard(decoded(body)):
                    self.waiting += not lost
                    lost.add(number)
                answering.write(header + body)
                await answering.drain()
        except (EOFError, OSError):
            pass
        finally:
            self.waiting -= bool(lost)
            back.cancel()
            answering.close()
            writer.close()


async def _pass_answers(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: set[int]
) -> None:
    with suppress(EOFError, OSError):
        while True:
            header, body = await _message(reader)
            if _HEADER.unpack(header)[2] not in lost:
                writer.write(header + body)
                await writer.drain()
    writer.close()


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    header = await reader.readexactly(_HEADER.size)
    return header, await reader.readexactly(_HEADER.unpack(header)[0] - _HEADER.size)


def decoded(body: bytes) -> JsonObject:
    """Give a message's command, with the lists that are sent beside it (sections 0 and 1)."""
    command: JsonObject = {}
    at = 4
    while at < len(body):
        kind, at = body[at], at + 1
        end = at + int.from_bytes(body[at : at + 4], "little")
        if kind == 0:
            command |= bson.decode(body[at:end])
        else:
            name, _, documents = body[at + 4 : end].partition(b"\0")
            command[name.decode()] = bson.decode_all(documents)
        at = end
    return command


def unlimited(commands: Iterable[JsonObject]) -> set[str]:
    """Give the names of commands that do not say how long the database may work for them, of all
    that could.
    """
    return {next(iter(c)) for c in commands if "maxTimeMS" not in c} - _WITHOUT_LIMIT


def url_at(url: str, port: int) -> str:
    """Return the URL of the same database, by another port of this machine."""
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    # Or clients would go on to the address that the database says it has.
    options = "&".join(filter(None, [parts.query, "directConnection=true"]))
    return urlunsplit(("mongodb", f"{login}{at}127.0.0.1:{port}", parts.path or "/", options, ""))


@asynccontextmanager
async def through(url: str, heard: Heard) -> AsyncIterator[tuple[str, Wire]]:
    """Give another URL of the same database, and what stands between; for servers of one host."""
    parts = urlsplit(url)
    wire = Wire(parts.hostname or "", parts.port or 27017, heard)
    async with await asyncio.start_server(wire.take, "127.0.0.1", 0) as server:
        yield url_at(url, cast("int", server.sockets[0].getsockname()[1])), wire
        server.close()
        await wire.close()
