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
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from eventstore.log import EventStore
from scripts.console import counting
from scripts.soak.writers import open_tickets, write_notes
from scripts.testbed.judging import streams
from scripts.testbed.patience import patience
from scripts.testbed.promises import (
    HEADERS,
    READY_SECONDS,
    connected,
    free_port,
    let_in,
    require,
    serving,
)

_LONGEST_LINE_BYTES = 2**20
_ROUNDS_A_LIFE = 10  # then the server is stopped, or killed, and started again
_TICKETS = 20
_WRITERS = 4
_DEAF = 20
_BODY_CHARACTERS = 3000
_GROWTH_BYTES = 120 * 2**20  # of the server, at most


@dataclass(slots=True)
class Consumer:
    """A consumer as anyone would write it: the last cursor, and a version per ticket."""

    port: int
    cursor: str = ""
    versions: dict[str, int] = field(default_factory=dict)
    counted: Counter[str] = field(default_factory=Counter)

    def take(self, event: dict[str, object]) -> None:
        """Count an event that is the ticket's next, or a double. Raises PromiseBroken."""
        ticket, version = str(event["ticket_id"]), int(str(event["version"]))
        have = self.versions.get(ticket, 0)
        require(version <= have + 1, f"{ticket}: version {version} was told after {have}")
        self.counted["doubles" if version <= have else "events"] += 1
        self.versions[ticket] = max(have, version)

    async def follow(self) -> None:
        """Follow the stream until it ends."""
        wanted = f"Last-Event-ID: {self.cursor}\r\n" if self.cursor else ""
        path = "/events/stream?from=beginning"
        told: dict[str, str] = {}
        async with aclosing(lines(self.port, path, wanted)) as stream:
            async for line in stream:
                if line:
                    name, _, value = line.partition(": ")
                    told[name] = value
                    continue
                # An event counts once it is there as a whole, and its id with it.
                self.cursor = told.get("id", self.cursor)
                if "data" in told:
                    self.take(orjson.loads(told["data"]))
                told = {}

    async def export(self) -> None:
        """Export what there is, again and again."""
        while True:
            path = "/events" + (f"?cursor={self.cursor}" if self.cursor else "")
            async with aclosing(lines(self.port, path)) as export:
                async for line in export:
                    told = orjson.loads(line)
                    if "cursor" in told:
                        self.cursor = told["cursor"]
                    elif "version" in told:
                        self.take(told)


async def lines(port: int, path: str, headers: str = "") -> AsyncGenerator[str, None]:
    """Get something and give its lines, whole ones only. Raises OSError, PromiseBroken."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=_LONGEST_LINE_BYTES)
    try:
        # HTTP/1.0: the answer comes as it is, and ends with the connection.
        wanted = "".join(f"{n}: {v}\r\n" for n, v in HEADERS.items()) + headers
        writer.write(f"GET {path} HTTP/1.0\r\n{wanted}\r\n".encode())
        status = await reader.readline()
        if not status or b" 503 " in status:
            raise ConnectionError("not now")
        require(b" 200 " in status, f"{path} is answered with {status!r}")
        while await reader.readline() not in (b"\r\n", b""):
            pass
        while (line := await reader.readline()).endswith(b"\n"):
            yield line.decode().removesuffix("\n")
    finally:
        writer.transport.abort()


async def cut_off(consumer: Consumer, what: str, seconds: float) -> None:
    """Let a consumer run for so long, or until the server goes."""
    with suppress(TimeoutError, OSError):
        async with asyncio.timeout(seconds):
            await (consumer.follow() if what == "follow" else consumer.export())
    consumer.counted["cuts"] += 1


async def feed(url: str, events: int, cuts: int = 100) -> Counter[str]:
    """Cut consumers off at random while writers write. Raises PromiseBroken."""
    async with connected(url) as database:
        store = EventStore(database)
        tickets = await open_tickets(store, _TICKETS)
        auditor = await let_in(url, "auditor")  # whose streams are nobody else's share
        port = free_port()
        follower, exporter = Consumer(port), Consumer(port)
        counted: Counter[str] = Counter()
        expected: dict[str, int] = {}
        rounds = 0

        async def until_the_last_cut(n: int) -> None:
            while n > (rounds + 1) * events // cuts:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

        def body(_: int) -> str:
            return random.choice("abc") * random.randrange(1, _BODY_CHARACTERS)  # noqa: S311

        writing = asyncio.create_task(
            write_notes(store, tickets, events, _WRITERS, until_the_last_cut, body)
        )
        with counting("cutting off", cuts, "rounds") as count:
            while rounds < cuts:
                settings = {"CASEBOOK_MONGODB_URL": url, "CASEBOOK_PORT": str(port)}
                async with (
                    serving("scripts.serve", port=port, url=url, **settings) as api,
                    AsyncExitStack() as deaf,
                ):
                    for _ in range(_DEAF):
                        await deaf.enter_async_context(not_reading(port, auditor))
                    before = memory_bytes(api.pid)
                    for _ in range(min(_ROUNDS_A_LIFE, cuts - rounds)):
                        await asyncio.gather(
                            cut_off(follower, "follow", random.uniform(0.0, 0.4)),  # noqa: S311
                            cut_off(exporter, "export", random.uniform(0.0, 0.4)),  # noqa: S311
                        )
                        rounds += 1
                        count()
                    if rounds == cuts:
                        await writing
                        found = await streams(store)
                        expected = {str(t): stream[-1].version for t, stream in found.items()}
                        for consumer, what in ((follower, "follow"), (exporter, "export")):
                            async with asyncio.timeout(patience(READY_SECONDS)):
                                while consumer.versions != expected:
                                    await cut_off(consumer, what, 1.0)
                    growth = memory_bytes(api.pid) - before
                    require(growth < _GROWTH_BYTES, f"the server has grown by {growth} bytes")
                    counted["most_growth_mb"] = max(counted["most_growth_mb"], growth // 2**20)
                    api.send_signal(random.choice([signal.SIGTERM, signal.SIGKILL]))  # noqa: S311
                    await asyncio.wait_for(api.wait(), patience(READY_SECONDS))
                    counted["restarts"] += 1
    for name, consumer in (("streamed", follower), ("exported", exporter)):
        told, wanted = consumer.counted["events"], sum(expected.values())
        require(told == wanted, f"{told} of {wanted} events were {name}")
        counted[name] = told
        counted[f"{name}_cuts"] = consumer.counted["cuts"]
        counted[f"{name}_doubles"] = consumer.counted["doubles"]
    return counted


@asynccontextmanager
async def not_reading(port: int, caller: Mapping[str, str]) -> AsyncIterator[None]:
    """A client of the stream that never reads."""
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", port))
        shown = f"Authorization: {caller['Authorization']}\r\n".encode()
        deaf.sendall(b"GET /events/stream?from=beginning HTTP/1.0\r\n" + shown + b"\r\n")
        yield


def memory_bytes(pid: int) -> int:
    """Return what a process has in memory (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024
