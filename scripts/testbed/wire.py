"""A way to the database on which each command is heard, and its answer can get lost or be another.

It reads MongoDB's wire protocol: messages with a header of four numbers (length, number, number of
the message that is answered, kind), and in the kind OP_MSG a command as BSON, with lists of
documents beside it (the manual, "MongoDB Wire Protocol"). A lost answer is one that never comes on
a connection that stays open, which is what no error tells: as a proxy makes it, or a firewall that
has forgotten a connection.
"""

import asyncio
import re
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from enum import Enum, auto
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import bson

from domain.values import JsonObject
from eventstore.background import end
from scripts.testbed.harness import listening

_HEADER = struct.Struct("<iiii")
_OP_MSG = 2013


RAW = "said by the database itself"
"""For what no client is to be shown."""


class Fate(Enum):
    """What becomes of a command that a client sends."""

    PASSED = auto()
    ANSWER_LOST = auto()
    """The database does it; its answer never comes, and the connection stays open."""
    CUT_OFF = auto()
    """The database does it; its client is cut off instead of being answered."""
    HELD = auto()
    """Its client is cut off, and the database gets it when it is delivered."""


class Done(NamedTuple):
    """The database does it; its client gets the answer with these fields in it."""

    fields: JsonObject


class Refused(NamedTuple):
    """Its client gets this answer, and the database does not do it. A transaction that it is part
    of ends, as it does on a server that refuses one of its commands, unless `is_kept`.
    """

    answer: JsonObject
    is_kept: bool = False


Heard = Callable[[JsonObject], Fate | Done | Refused]
"""Says of each command what is to become of it."""


def passed(_: JsonObject) -> Fate:
    """Let every command pass."""
    return Fate.PASSED


def kind_of(sent: JsonObject) -> str:
    """Name the kind of a command: for example `insert in transaction ticket_events`."""
    name = next(iter(sent))
    words = [name]
    if sent.get("autocommit") is False and not name.endswith("Transaction"):
        words.append("in transaction")
    is_stream = name == "aggregate" and "$changeStream" in str(sent["pipeline"])
    if is_stream or (name == "getMore" and "maxTimeMS" in sent):
        words.append("stream")
    on = sent.get("collection") if name == "getMore" else sent[name]
    if isinstance(on, str):
        words.append(re.sub(r"_\d+$", "", on))
    if name in ("hello", "ismaster") and "maxTimeMS" not in sent:
        return "hello of the driver"
    return " ".join(words)


_Fates = dict[int, Fate | Done | Refused]


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
        await self.cut()

    async def cut(self) -> None:
        """End all connections; clients may make others."""
        await end(*self._connections)
        self._connections.clear()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fates: _Fates = {}  # of the messages by number, but for those that are passed
        try:
            upstream, to_upstream = await asyncio.open_connection(*self._to)
        except OSError:
            writer.close()
            return
        except asyncio.CancelledError:
            writer.close()
            raise
        answers = asyncio.create_task(self._pass_answers(upstream, writer, fates))
        is_held = False
        try:
            while True:
                header, body = await _message(reader)
                _, number, _, kind = _HEADER.unpack(header)
                command = decoded(body) if kind == _OP_MSG else {}
                fate = self.heard(command) if command else Fate.PASSED
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
                message = header + body
                if isinstance(fate, Refused):
                    message = _message_of(_instead_of(command, fate), number)
                await self.moving.wait()
                to_upstream.write(message)
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
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fates: _Fates
    ) -> None:
        with suppress(EOFError, OSError):
            while True:
                header, body = await _message(reader)
                await self.moving.wait()
                match fates.get(asked := _HEADER.unpack(header)[2]):
                    case None:
                        writer.write(header + body)
                        await writer.drain()
                    case Done(fields):
                        writer.write(_message_of(decoded(body) | fields, asked, is_answer=True))
                    case Refused(answer):
                        writer.write(_message_of(answer, asked, is_answer=True))
                    case Fate.CUT_OFF:
                        writer.transport.abort()
                        return
        writer.close()


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    header = await reader.readexactly(_HEADER.size)
    return header, await reader.readexactly(_HEADER.unpack(header)[0] - _HEADER.size)


def _message_of(document: JsonObject, number: int, *, is_answer: bool = False) -> bytes:
    """Return a command of that number, or the answer to it, as a message."""
    body = bytes(5) + bson.encode(document)  # no flags, and one document
    numbers = (0, number) if is_answer else (number, 0)
    return _HEADER.pack(_HEADER.size + len(body), *numbers, _OP_MSG) + body


def _instead_of(command: JsonObject, fate: Refused) -> JsonObject:
    """Return what the database is sent for a command that it does not get."""
    if command.get("autocommit") is not False or fate.is_kept:
        return {"ping": 1, "$db": "admin"}
    session = {name: command[name] for name in ("lsid", "txnNumber", "autocommit")}
    return {"abortTransaction": 1, **session, "$db": "admin"}


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
