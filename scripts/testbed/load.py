"""A small HTTP/1.1 client for load on loopback: one connection, one request at a time.

It does what the soak and the benchmark need and no more, so that what is measured is the server.
"""

import asyncio
from collections.abc import Mapping
from typing import NamedTuple, Self
from uuid import UUID

import orjson
from pydantic import BaseModel

_ANSWER_SECONDS = 60.0


class Answer(NamedTuple):
    """An answer. `body` is as it was sent; `retry_after`: the seconds of that header, 0 without it;
    `applied`: which preferences were met.
    """

    status: int
    body: bytes
    retry_after: int = 0
    applied: str = ""

    def json(self) -> dict[str, object]:
        parsed: dict[str, object] = orjson.loads(self.body)
        return parsed


class Listed(BaseModel):
    """A ticket in a list."""

    id: UUID
    version: int = 0


class Page(BaseModel):
    """A page of a list."""

    tickets: list[Listed]
    next: str | None


class Connection:
    """A kept-alive connection to a server on loopback. Any failure is a ConnectionError."""

    def __init__(self, port: int, headers: Mapping[str, str] | None = None) -> None:
        """`headers`: sent with every `post` and `get`."""
        self._port = port
        self._headers = headers or {}
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def post(
        self, path: str, content: object, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send JSON. Raises ConnectionError; the server may then have acted or not."""
        own = {**self._headers, **(headers or {})}
        return await self.send(request("POST", path, orjson.dumps(content), own))

    async def get(self, path: str) -> Answer:
        """Raises ConnectionError."""
        return await self.send(request("GET", path, b"", self._headers))

    async def send(self, raw: bytes) -> Answer:
        """Send a prepared request. Raises ConnectionError."""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                if self._streams is None:
                    self._streams = await asyncio.open_connection("127.0.0.1", self._port)
                reader, writer = self._streams
                writer.write(raw)
                head, body = await read_message(reader)
                retry_after = int(header(head, b"retry-after") or 0)
                return Answer(
                    int(head[9:12]), body, retry_after, header(head, b"preference-applied")
                )
        except (OSError, EOFError, ValueError, TimeoutError, asyncio.LimitOverrunError) as error:
            self.close()
            raise ConnectionError(str(error)) from error


async def read_message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Read a request or an answer, as bytes: its head, and its body, whose length the head says."""
    head = await reader.readuntil(b"\r\n\r\n")
    return head, await reader.readexactly(int(header(head, b"content-length") or 0))


def header(head: bytes, name: bytes) -> str:
    """Return a header of a head, by its name in small letters; empty if it is not there."""
    return head.lower().partition(b"\r\n%b:" % name)[2].split(b"\r\n", 1)[0].strip().decode()


def request(method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """Return the bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(body)}"]
    lines += ["content-type: application/json"] if body else []
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
