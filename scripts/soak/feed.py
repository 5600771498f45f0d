"""Consumers of the feed that are cut off, under writers, from a server that is restarted (L8).

One follows `/events/stream` with `Last-Event-ID`, one exports `/events` from cursor to cursor. Both
must be told every event, and what is new in the order of each ticket's versions. Some other clients
follow and never read.
"""

import asyncio
import random
import signal
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field
from uuid import UUID

import httpx
import orjson

from eventstore.background import run_all
from scripts.cli import with_progress
from scripts.soak.consumers import Received, cut_off, open_tickets, write_notes
from scripts.testbed.harness import (
    HEADERS,
    READY_SECONDS,
    callers,
    free_port,
    log_at,
    memory_bytes,
    require,
    serving,
)
from scripts.testbed.patience import patience

_ROUNDS_A_LIFE = 10  # then the server is stopped, or killed, and started again
_TICKETS = 20
_WRITERS = 4
_DEAF = 20
_BODY_CHARACTERS = 3000
_GROWTH_BYTES = 120 * 2**20  # of the server, at most


@dataclass(slots=True)
class Consumer:
    """A consumer as anyone would write it: the last cursor, and what it has received."""

    client: httpx.AsyncClient
    cursor: str = ""
    received: Received = field(default_factory=Received)

    async def follow(self) -> None:
        """Follow the stream until it ends."""
        headers = {"Last-Event-ID": self.cursor} if self.cursor else {}
        told: dict[str, str] = {}
        async with aclosing(self._lines("/events/stream?from=beginning", headers)) as stream:
            async for line in stream:
                if line:
                    name, _, value = line.partition(": ")
                    told[name] = value
                    continue
                # An event counts once it is there as a whole, and its id with it.
                self.cursor = told.get("id", self.cursor)
                if "data" in told:
                    self._take(orjson.loads(told["data"]))
                told = {}

    async def export(self) -> None:
        """Export what there is, again and again."""
        while True:
            path = "/events" + (f"?cursor={self.cursor}" if self.cursor else "")
            async with aclosing(self._lines(path)) as export:
                async for line in export:
                    told = orjson.loads(line)
                    if "cursor" in told:
                        self.cursor = told["cursor"]
                    elif "version" in told:
                        self._take(told)

    def _take(self, event: Mapping[str, object]) -> None:
        self.received.take(UUID(str(event["ticket_id"])), int(str(event["version"])))

    async def _lines(
        self, path: str, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[str, None]:
        """Yield the lines of an answer, whole ones only. Raises OSError, TransportError."""
        async with self.client.stream("GET", path, headers=headers) as answer:
            if answer.status_code in (429, 503):  # one that asks without a pause may be too quick
                raise ConnectionError("not now")
            require(answer.status_code == 200, f"{path} is answered with {answer.status_code}")
            async for line in answer.aiter_lines():
                yield line


async def feed(url: str, events: int, cuts: int = 100) -> Counter[str]:
    """Cut consumers off at random while writers write. Raises PromiseBroken."""
    counted: Counter[str] = Counter()
    port = free_port()
    async with (
        log_at(url) as (_, store),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=HEADERS) as client,
    ):
        tickets = await open_tickets(store, _TICKETS)
        [auditor] = await callers(url, "auditor")  # its streams are not counted to the consumers
        follower, exporter = Consumer(client), Consumer(client)
        for first in with_progress(range(0, cuts, _ROUNDS_A_LIFE), "cutting off", "lives"):
            async with serving("scripts.serve", port=port, url=url) as api:
                with ExitStack() as deaf:
                    for _deaf in range(_DEAF):
                        deaf.enter_context(_not_reading(port, auditor))
                    before = memory_bytes(api.pid)
                    for _round in range(first, min(first + _ROUNDS_A_LIFE, cuts)):
                        await run_all(
                            write_notes(store, tickets, events // cuts, _WRITERS, _BODY_CHARACTERS),
                            cut_off(follower.follow(), random.uniform(0.0, 0.4)),
                            cut_off(exporter.export(), random.uniform(0.0, 0.4)),
                        )
                    if first + _ROUNDS_A_LIFE >= cuts:
                        await follower.received.complete(store, follower.follow)
                        await exporter.received.complete(store, exporter.export)
                    growth = memory_bytes(api.pid) - before
                    require(growth < _GROWTH_BYTES, f"the server has grown by {growth} bytes")
                    counted["most_growth_mb"] = max(counted["most_growth_mb"], growth // 2**20)
                    api.send_signal(random.choice([signal.SIGTERM, signal.SIGKILL]))
                    await asyncio.wait_for(api.wait(), patience(READY_SECONDS))
                    counted["restarts"] += 1
    for name, consumer in (("streamed", follower), ("exported", exporter)):
        counted[name] = consumer.received.counted["events"]
        counted[f"{name}_doubles"] = consumer.received.counted["doubles"]
    return counted


def _not_reading(port: int, caller: Mapping[str, str]) -> socket.socket:
    """Return the connection of a client of the stream that never reads."""
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.connect(("127.0.0.1", port))
    shown = f"Authorization: {caller['Authorization']}\r\n".encode()
    deaf.sendall(b"GET /events/stream?from=beginning HTTP/1.0\r\n" + shown + b"\r\n")
    return deaf
