"""A way to the database on which each command is heard, and a command or its answer can get lost.

It reads MongoDB's wire protocol: messages with a header of four numbers (length, number, number of
the message that is answered, kind), and in the kind OP_MSG a command as BSON, with lists of
documents beside it (the manual, "MongoDB Wire Protocol"). A lost answer is one that never comes on
a connection that stays open, which is what no error tells: as a proxy makes it, or a firewall that
has forgotten a connection.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from enum import Enum, auto
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import bson

from domain.values import JsonObject
from eventstore.background import end
from scripts.testbed.promises import listening

_HEADER = struct.Struct("<iiii")
_OP_MSG = 2013


class Fate(Enum):
    """What becomes of a command that a client sends."""

    PASSED = auto()
    ANSWER_LOST = auto()
    """The database does it; its answer never comes, and the connection stays open."""
    CUT_OFF = auto()
    """The database does it; its client is cut off instead of being answered."""
    HELD = auto()
    """Its client is cut off, and the database gets it when it is delivered."""


Heard = Callable[[JsonObject], Fate]
"""Says of each command what is to become of it."""


def passed(_: JsonObject) -> Fate:
    """Let every command pass."""
    return Fate.PASSED


class _Held(NamedTuple):
    message: bytes
    upstream: asyncio.StreamReader
    to_upstream: asyncio.StreamWriter


class Wire:
    """What stands between clients and a database, on any number of connections."""

    def __init__(self, host: str, port: int, heard: Heard = passed) -> None:
        """`heard` may be exchanged at any time."""
        self.heard = heard
        self.waiting = 0
        """How many connections are open on which an answer got lost."""
        self.held: list[_Held] = []
        self.moving = asyncio.Event()
        """Whether anything is passed on; while it is clear, all stands still."""
        self.moving.set()
        self._to = (host, port)
        self._connections: list[asyncio.Task[None]] = []

    def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a client's connection until either side ends it."""
        self._connections.append(asyncio.create_task(self._take(reader, writer)))

    async def deliver(self) -> None:
        """Bring the first message that is held to the database, and wait until it is answered."""
        held = self.held.pop(0)
        held.to_upstream.write(held.message)
        await _message(held.upstream)
        held.to_upstream.close()

    async def close(self) -> None:
        """End all connections; what is still held never arrives."""
        self.heard = passed
        for held in self.held:
            held.to_upstream.close()
        self.held.clear()
        await end(*self._connections)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fates: dict[int, Fate] = {}  # of the messages by number, but for those that are passed
        try:
            upstream, to_upstream = await asyncio.open_connection(*self._to)
        except OSError:
            writer.close()
            return
        answers = asyncio.create_task(self._pass_answers(upstream, writer, fates))
        is_held = False
        try:
            while True:
                header, body = await _message(reader)
                _, number, _, kind = _HEADER.unpack(header)
                fate = self.heard(decoded(body)) if kind == _OP_MSG else Fate.PASSED
                if fate is Fate.HELD:
                    is_held = True
                    answers.cancel()
                    await asyncio.wait([answers])  # the answer to this is for who delivers it
                    self.held.append(_Held(header + body, upstream, to_upstream))
                    writer.transport.abort()
                    return
                if fate is not Fate.PASSED:
                    self.waiting += fate is Fate.ANSWER_LOST and fate not in fates.values()
                    fates[number] = fate
                await self.moving.wait()
                to_upstream.write(header + body)
                await to_upstream.drain()
        except (EOFError, OSError):
            pass
        finally:
            self.waiting -= Fate.ANSWER_LOST in fates.values()
            answers.cancel()
            writer.close()
            if not is_held:
                to_upstream.close()

    async def _pass_answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fates: dict[int, Fate]
    ) -> None:
        with suppress(EOFError, OSError):
            while True:
                header, body = await _message(reader)
                await self.moving.wait()
                match fates.get(_HEADER.unpack(header)[2]):
                    case None:
                        writer.write(header + body)
                        await writer.drain()
                    case Fate.CUT_OFF:
                        writer.transport.abort()
                        return
        writer.close()


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    header = await reader.readexactly(_HEADER.size)
    return header, await reader.readexactly(_HEADER.unpack(header)[0] - _HEADER.size)


def decoded(body: bytes) -> JsonObject:
    """Return a message's command, with the lists that are sent beside it (sections 0 and 1)."""
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


def database_at(url: str, name: str) -> str:
    """Return the URL of another database of the same server."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()


def url_at(url: str, port: int) -> str:
    """Return the URL of the same database, by another port of this machine."""
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    # Or clients would go on to the address that the database says it has.
    options = "&".join(filter(None, [parts.query, "directConnection=true"]))
    return urlunsplit(("mongodb", f"{login}{at}127.0.0.1:{port}", parts.path or "/", options, ""))


@asynccontextmanager
async def through(url: str, heard: Heard = passed) -> AsyncIterator[tuple[str, Wire]]:
    """Yield another URL of the same database, and what stands between; for servers of one host."""
    parts = urlsplit(url)
    wire = Wire(parts.hostname or "", parts.port or 27017, heard)
    async with listening(wire.take) as port:
        try:
            yield url_at(url, port), wire
        finally:
            await wire.close()
