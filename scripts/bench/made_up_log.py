"""Events for logs: of many tickets, from a seed, and of a ticket that is as long as wanted.

A log's tickets have as many events as those of a real helpdesk log had (4.9 on the mean, most of
them four to six, some twenty), and are stored as they happened, the events of some thousand tickets
between each other.
"""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from api.commands.handler import Handler, Submission
from domain.codec import EventData
from domain.tickets import decode, encode
from domain.tickets.conversation import AddNote
from domain.values import JsonObject
from eventstore.database import Database
from eventstore.event_document import (
    EMPTY,
    CommandRef,
    EventDocument,
    Head,
    Metadata,
    chained,
    to_document,
    utc_now,
)
from eventstore.log import EventStore
from projections.workers import workers
from scripts.cli import counting
from scripts.testbed.services import ACTOR, NOTE, OPEN

SEED = 20_260
EVENTS_PER_TICKET = 5
COMMAND = Submission(command=AddNote(body=NOTE), actor=ACTOR)
_TICKETS_AT_ONCE = 2_000
_INSERTED_AT_ONCE = 1_000
_FIRST_DAY = datetime(2023, 1, 2, 8, tzinfo=UTC)
_LENGTHS = {1: 8, 2: 18, 3: 4, 4: 110, 5: 200, 6: 95, 7: 22, 8: 9, 9: 6, 11: 5, 13: 4, 16: 3, 20: 2}
"""How many of some hundred tickets have so many events."""


async def make_up(database: Database, tickets: int, *, sealing: bool = True) -> None:
    """Write a log of so many tickets."""
    parts = range(0, tickets, _TICKETS_AT_ONCE)
    each = [(n, min(_TICKETS_AT_ONCE, tickets - n), sealing) for n in parts]
    with counting("making up a log", tickets, "tickets") as count:
        async with workers(database, 2) as two:
            await two.each(write_tickets, each, count)


async def write_tickets(database: Database, part: tuple[int, int, bool]) -> int:
    """Write some tickets' events in the order in which they happened; return how many tickets.

    `part`: the number of the first ticket, how many, and whether what is personal is sealed.
    """
    first, count, sealing = part
    store = EventStore(database, sealing=sealing)
    documents: list[EventDocument] = []
    for number in range(first, first + count):
        documents += await _life(store, random.Random(f"{SEED}/{number}"), number)  # noqa: S311
    documents.sort(key=lambda document: document["occurred_at"])
    for start in range(0, len(documents), _INSERTED_AT_ONCE):
        await store.restore(documents[start : start + _INSERTED_AT_ONCE])
    return count


async def ticket_of(store: EventStore, handler: Handler, length: int) -> UUID:
    """Make a ticket of so many events that a handler knows."""
    ticket = uuid4()
    await handler.handle(ticket, Submission(command=OPEN, actor=ACTOR))
    [opening] = await store.load(ticket)
    head = Head(1, opening.hash)
    for start in range(1, length, 1000):
        notes = [EventData("NoteAdded", 1, {"body": NOTE})] * min(1000, length - start)
        about = Metadata(ACTOR, CommandRef(f"{start}", "f"))
        events = chained(ticket, head, notes, about, utc_now(), utc_now())
        await store.append(events)
        head = Head(events[-1].version, events[-1].hash)
    await handler.handle(ticket, COMMAND)
    return ticket


async def _life(store: EventStore, chance: random.Random, number: int) -> list[EventDocument]:
    """Return the stored events of one ticket."""
    ticket_id = UUID(int=chance.getrandbits(128), version=4)
    [length] = chance.choices([*_LENGTHS], [*_LENGTHS.values()])
    at = _FIRST_DAY + timedelta(seconds=30 * number)
    about = Metadata(ACTOR, CommandRef("bench", "f" * 64))
    head: Head = EMPTY
    documents: list[EventDocument] = []
    requester = ""
    for type_, data in _story(chance, length):
        requester = str(data.get("requester", requester))
        encoded = encode(decode(type_, 1, data), requester)
        [event] = await store.chain(ticket_id, head, [encoded], about, at, at)
        head = Head(event.version, event.hash)
        documents.append(to_document(event))
        at += timedelta(seconds=chance.expovariate(1 / 40_000))
    return documents


def _story(chance: random.Random, length: int) -> Iterator[tuple[str, JsonObject]]:
    agents = [f"agent {n}" for n in range(60)]
    yield (
        "TicketOpened",
        {
            "subject": f"Printer {chance.randrange(1000)} jams",
            "body": "It jams on every page, whatever the tray. " * chance.randrange(1, 6),
            "requester": f"customer {chance.randrange(5000)}",
            "priority": chance.choice(["low", "normal", "normal", "high", "urgent"]),
            "group": f"group {chance.randrange(12)}",
            "tags": chance.sample(["paper", "toner", "network", "vip"], chance.randrange(3)),
            "fields": {"floor": chance.randrange(9)},
        },
    )
    between: list[tuple[str, JsonObject]] = [
        ("TicketAssigned", {"assignee": chance.choice(agents)}),
        ("AgentReplied", {"body": "Please try the other tray, and tell us how it went."}),
        ("PriorityChanged", {"priority": "high"}),
        ("StatusUpdated", {"status": "pending", "reason": "customer", "resume_at": None}),
        ("RequesterReplied", {"body": "It still jams."}),
        ("TicketMovedToGroup", {"group": f"group {chance.randrange(12)}"}),
        ("TicketAssigned", {"assignee": chance.choice(agents)}),
        ("NoteAdded", {"body": "A known fault of this series."}),
    ]
    for n in range(length - 3):
        yield between[n % len(between)]
    if length > 1:
        yield "TicketResolved", {"resolution": "a new drum"}
    if length > 2:
        yield "TicketClosed", {"reason": None}
