"""Webhooks whose receiver is cut off, and whose sender is killed, again and again (L3, L8).

Every event arrives, and each ticket's in the order of versions: those that come again after a cut
are told from new ones by their delivery's id. A second receiver that never answers is there
all the while, and holds nobody up.
"""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from functools import partial
from uuid import UUID, uuid4

import orjson

from api.webhooks.deliveries import Deliveries
from api.webhooks.sender import Patience, WebhookWorker
from api.webhooks.store import Webhook, Webhooks
from eventstore.background import background
from eventstore.database import Database
from eventstore.log import EventStore
from projections.views.saved_views import TicketFilter
from scripts.cli import with_progress
from scripts.soak.consumers import Received, open_tickets, write_notes
from scripts.testbed.child import child
from scripts.testbed.harness import ACTOR, listening, log_at, require, until
from scripts.testbed.load import header, read_message

_TICKETS = 40
_WRITERS = 4
_CUTS = 100
_KILLS = 5
_PATIENCE_SECONDS = 300
_LEASE_SECONDS = 1.0


class Receiver:
    """Notes what comes, and hangs up on some of it: before it is noted, or after."""

    def __init__(self, one_in: int | None = None) -> None:
        """`one_in`: it hangs up on one in so many; on none unless given."""
        self._one_in = one_in
        self._seen: set[str] = set()
        self.received = Received()
        self.counted: Counter[str] = Counter()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head, body = await read_message(reader)
                is_cut = self._one_in is not None and random.randrange(self._one_in) == 0
                self.counted["cuts"] += is_cut
                if is_cut and random.choice(["before", "after"]) == "before":
                    return
                self._note(header(head, b"casebook-delivery"), orjson.loads(body))
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
        self.received.take(UUID(str(event["ticket_id"])), int(str(event["version"])))

    def has(self, events: int) -> bool:
        return self.received.counted["events"] >= events


async def webhooks(url: str, events: int, cuts: int = _CUTS, kills: int = _KILLS) -> Counter[str]:
    """Write so many events and see them arrive. Raises PromiseBroken."""
    receiver = Receiver(max(2, events // cuts))
    async with (
        log_at(url) as (database, store),
        listening(receiver.take) as port,
        listening(_read_and_never_answer) as silent,
    ):
        await Deliveries(database).prepare()
        for at in (port, silent):
            await add_webhook(database, store, f"http://127.0.0.1:{at}/")
        async with background(_write(store, events)):
            for kill in with_progress(range(1, kills + 1), "arriving", "kills"):
                goal = events * kill // kills
                async with child(send, url):  # which is killed when the block ends
                    arrived = partial(receiver.has, goal)
                    await until(arrived, _PATIENCE_SECONDS, f"{goal} events have arrived")
        received = receiver.received
        require(await received.is_all_of(store), f"the log has other events than {received}")
        require(not received.counted["doubles"], "an event came with two deliveries")
    return received.counted + receiver.counted + Counter(kills=kills)


async def _write(store: EventStore, events: int) -> None:
    tickets = await open_tickets(store, min(_TICKETS, events))
    await write_notes(store, tickets, events - len(tickets), _WRITERS)


async def send(url: str) -> None:
    """Send to webhooks, until killed."""
    database = Database(url)
    patience = Patience(first_seconds=0.05, longest_seconds=0.5)
    await WebhookWorker(database, EventStore(database), patience, _LEASE_SECONDS).run()


async def add_webhook(database: Database, store: EventStore, url: str) -> None:
    """Have events from now on told to a receiver."""
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


async def _read_and_never_answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    with suppress(OSError):
        while await reader.read(65536):
            pass
    writer.close()
