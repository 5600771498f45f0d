"""A small HTTP/1.1 client for load on loopback: one connection, one request at a time.

It does what the soak and the benchmark need and no more, so that what is measured is the server.
"""

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import NamedTuple, Self

import orjson


class Answer(NamedTuple):
    """What came back. `body` is as it was sent; `retry_after`: the seconds of that header;
    `applied`: which preferences were met.
    """

    status: int
    body: bytes
    retry_after: int | None = None
    applied: str = ""

    def json(self) -> dict[str, object]:
        parsed: dict[str, object] = orjson.loads(self.body)
        return parsed


class Connection:
    """A kept-alive connection to a server on loopback. Any failure is a ConnectionError."""

    def __init__(
        self, port: int, headers: Mapping[str, str] | None = None, timeout_seconds: float = 60.0
    ) -> None:
        """`headers`: sent with every `post` and `get`."""
        self._port = port
        self.headers = headers or {}
        self._timeout_seconds = timeout_seconds
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def post(
        self, path: str, content: object, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send JSON. Raises ConnectionError; the server may then have acted or not."""
        return await self.send(self._request("POST", path, orjson.dumps(content), headers))

    async def get(self, path: str) -> Answer:
        """Raises ConnectionError."""
        return await self.send(self._request("GET", path, b""))

    def _request(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> bytes:
        return request(method, path, body, {**self.headers, **(headers or {})})

    async def send(self, raw: bytes) -> Answer:
        """Send a prepared request. Raises ConnectionError."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                if self._streams is None:
                    self._streams = await asyncio.open_connection("127.0.0.1", self._port)
                reader, writer = self._streams
                writer.write(raw)
                head = await reader.readuntil(b"\r\n\r\n")
                length = _number(head, b"content-length:")
                body = await reader.readexactly(length or 0)
                retry_after = _number(head, b"retry-after:")
                return Answer(
                    int(head[9:12]), body, retry_after, _text(head, b"preference-applied:")
                )
        except (OSError, EOFError, ValueError, TimeoutError, asyncio.LimitOverrunError) as error:
            self.close()
            raise ConnectionError(str(error)) from error


def _number(head: bytes, name: bytes) -> int | None:
    found = _text(head, name)
    return int(found) if found else None


def _text(head: bytes, name: bytes) -> str:
    return head.lower().partition(name)[2].split(b"\r\n", 1)[0].strip().decode()


def request(method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """Return the bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(body)}"]
    lines += ["content-type: application/json"] if body else []
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
