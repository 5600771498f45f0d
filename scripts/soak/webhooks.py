"""Webhooks whose receiver is cut off, and whose sender is killed, again and again (L3, L8).

Every event arrives, and each ticket's in the order of versions: those that come again after a cut
are told from new ones by their delivery's id. A second receiver that never answers is there
all the while, and holds nobody up.
"""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import cast
from uuid import UUID, uuid4

import orjson

from api.webhooks.deliveries import Deliveries
from api.webhooks.sender import Patience, WebhookWorker
from api.webhooks.store import Webhook, Webhooks
from eventstore.database import Database
from eventstore.log import EventStore
from projections.views.saved_views import TicketFilter
from scripts.console import counting
from scripts.soak.writers import open_tickets, write_notes
from scripts.testbed.judging import streams
from scripts.testbed.promises import ACTOR, connected, process, require

_TICKETS = 40
_WRITERS = 4
_CUTS = 100
_KILLS = 5
_PATIENCE_SECONDS = 300
_LEASE_SECONDS = 1.0


class _Receiver:
    """Notes what comes, and hangs up on some of it: before it is noted, or after."""

    def __init__(self, one_in: int) -> None:
        self._one_in = one_in
        self._seen: set[str] = set()
        self.versions: dict[UUID, list[int]] = {}
        self.counted: Counter[str] = Counter()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
                headers = dict(line.split(": ", 1) for line in head[1:] if line)
                body = await reader.readexactly(int(headers["content-length"]))
                cut = random.choice(["before", "after"])  # noqa: S311
                is_cut = random.randrange(self._one_in) == 0  # noqa: S311
                self.counted["cuts"] += is_cut
                if is_cut and cut == "before":
                    return
                self._note(headers["casebook-delivery"], orjson.loads(body))
                if is_cut:
                    return
                writer.write(b"HTTP/1.1 204 ok\r\n\r\n")
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    def _note(self, delivery: str, event: dict[str, object]) -> None:
        if delivery in self._seen:
            self.counted["again"] += 1
            return
        self._seen.add(delivery)
        self.counted["events"] += 1
        versions = self.versions.setdefault(UUID(str(event["ticket_id"])), [])
        versions.append(cast("int", event["version"]))


async def webhooks(url: str, events: int, cuts: int = _CUTS, kills: int = _KILLS) -> Counter[str]:
    """Write so many events and see them arrive. Raises PromiseBroken."""
    receiver = _Receiver(max(2, events // cuts))
    killed = 0
    async with (
        connected(url) as database,
        _listening(receiver.take) as port,
        _listening(_silent) as silent,
    ):
        store = EventStore(database)
        await store.prepare()
        await Deliveries(database).prepare()
        for at in (port, silent):
            await _hook(database, store, f"http://127.0.0.1:{at}/")
        writing = asyncio.create_task(_write(store, events))
        with counting("arriving", kills, "kills") as count:
            while receiver.counted["events"] < events:
                async with process("scripts.soak", "_dispatch", url) as sender:
                    goal = min(events, events * (killed + 1) // kills)
                    async with asyncio.timeout(_PATIENCE_SECONDS):
                        while receiver.counted["events"] < goal:  # noqa: ASYNC110
                            await asyncio.sleep(0.05)
                    sender.send_signal(signal.SIGKILL)
                    killed += 1
                    count()
        await writing
        for ticket_id, stream in (await streams(store)).items():
            expected = [event.version for event in stream]
            came = receiver.versions.get(ticket_id, [])
            require(came == expected, f"{ticket_id}: {came} came, of {len(expected)} versions")
    return receiver.counted + Counter(kills=killed)


async def _write(store: EventStore, events: int) -> None:
    tickets = await open_tickets(store, min(_TICKETS, events))
    await write_notes(store, tickets, events - len(tickets), _WRITERS)


async def send(url: str) -> int:
    """Send to webhooks, until killed."""
    database = Database(url)
    patience = Patience(first_seconds=0.05, longest_seconds=0.5)
    await WebhookWorker(database, EventStore(database), patience, _LEASE_SECONDS).run()
    return 0


async def _hook(database: Database, store: EventStore, url: str) -> None:
    await Webhooks(database).add(
        Webhook(
            id=uuid4(),
            url=url,
            types=frozenset(),
            filter=TicketFilter(),
            secret=uuid4().hex,
            since=await store.position(),
            created_at=await database.server_time(),
            created_by=ACTOR.id,
        )
    )


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read and never answer."""
    with suppress(OSError):
        while await reader.read(65536):
            pass
    writer.close()


@asynccontextmanager
async def _listening(
    take: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server:
        yield cast("int", server.sockets[0].getsockname()[1])
