"""Clients that retry through a proxy that eats every tenth answer (L5).

The server has done the command, and its client does not learn of it: so it sends it again with its
key. In the end each command is in the log once, and each was answered with what it had led to.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast
from uuid import UUID

from eventstore.log import EventStore
from scripts.console import counting
from scripts.testbed.judging import streams
from scripts.testbed.load import Answer, Connection
from scripts.testbed.promises import HEADERS, accepted, connected, require, service

_CLIENTS = 8
_EATEN = 10  # every so-many-th answer
_TRIES = 20


class _Proxy:
    """Passes requests on, one at a time on each connection, and some answers back."""

    def __init__(self, to_port: int, counted: Counter[str]) -> None:
        self._to_port = to_port
        self._counted = counted

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a client's connection until it ends, or an answer on it is eaten."""
        upstream, answering = await asyncio.open_connection("127.0.0.1", self._to_port)
        try:
            while True:
                answering.write(await _message(reader))
                answer = await _message(upstream)
                self._counted["answers"] += 1
                if self._counted["answers"] % _EATEN == 0:
                    self._counted["eaten"] += 1
                    return
                writer.write(answer)
        except (OSError, EOFError):
            pass
        finally:
            answering.close()
            writer.close()


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
    return head + await reader.readexactly(length)


@asynccontextmanager
async def _proxy(to_port: int, counted: Counter[str]) -> AsyncIterator[int]:
    proxy = await asyncio.start_server(_Proxy(to_port, counted).take, "127.0.0.1", 0)
    async with proxy:
        yield cast("int", proxy.sockets[0].getsockname()[1])


async def retry_through_proxy(url: str, commands: int) -> Counter[str]:
    """Send commands through the proxy until all are answered; check the log."""
    counted: Counter[str] = Counter()
    answers: dict[str, Answer] = {}
    numbers = iter(range(commands))
    with counting("sending", commands, "commands") as count:
        async with service("group", url) as port, _proxy(port, counted) as through:

            async def client() -> None:
                tickets: list[str] = []
                async with Connection(through, HEADERS) as connection:
                    for number in numbers:
                        path, body = "/tickets", {"subject": f"{number}", "requester": "soak"}
                        if tickets and number % 5:
                            path = f"/tickets/{random.choice(tickets)}/add_note"  # noqa: S311
                            body = {"body": f"{number}"}
                        answer = await _insist(connection, path, body, f"command {number}", counted)
                        answers[f"command {number}"] = answer
                        if path == "/tickets":
                            tickets.append(str(answer.json()["ticket_id"]))
                        count()

            async with asyncio.TaskGroup() as group:
                for _ in range(_CLIENTS):
                    group.create_task(client())
    logged: dict[str, list[tuple[UUID, int]]] = {}
    async with connected(url) as database:
        for events in (await streams(EventStore(database))).values():
            for event in events:
                key = event.metadata.command.id
                logged.setdefault(key, []).append((event.ticket_id, event.version))
    require(len(logged) == commands, f"{len(logged)} of {commands} commands are in the log")
    for key, places in logged.items():
        require(len(places) == 1, f"{key} is in the log {len(places)} times")
        told = answers[key].json()
        place = (UUID(str(told["ticket_id"])), told["version"])
        require(places == [place], f"{key} was answered with {place}, and is at {places}")
    counted["commands"] = commands
    return counted


async def _insist(
    connection: Connection, path: str, body: object, key: str, counted: Counter[str]
) -> Answer:
    for _ in range(_TRIES):
        try:
            answer = await connection.post(path, body, {"Idempotency-Key": key})
        except ConnectionError:
            counted["sent_again"] += 1
            continue
        return accepted(answer)
    raise AssertionError("nine of ten answers come through")
