"""All views built anew from a long log, beside a mere scan of it.

The log is made up from a seed. Its tickets have as many events as those of a real helpdesk log had
(4.9 on the mean, most of them four to six, some twenty), and are stored as they happened, the
events of some thousand tickets between each other.

*scan*: every event is read and decoded to a dictionary, and that is all. *replay*: scan, fold, read
documents, sums, indexes, tail, switch; what the proof takes is told apart.
"""

import asyncio
import os
import random
import resource
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

from domain.tickets import decode, encode
from domain.values import JsonObject
from eventstore.database import Database
from eventstore.event_document import EMPTY, CommandRef, EventDocument, Head, Metadata, to_document
from eventstore.log import EventStore
from projections.replay.rebuild import Rebuild
from projections.workers import workers
from scripts.bench.found import Table, ratio, told
from scripts.bench.measuring import median, milliseconds, prepared, turns
from scripts.console import counting
from scripts.testbed.services import ACTOR

SEED = 20_260
WORKERS = (1, 2)
EVENTS_PER_TICKET = 5
_TICKETS_AT_ONCE = 2_000
_INSERTED_AT_ONCE = 1_000
_FIRST_DAY = datetime(2023, 1, 2, 8, tzinfo=UTC)
_LENGTHS = {1: 8, 2: 18, 3: 4, 4: 110, 5: 200, 6: 95, 7: 22, 8: 9, 9: 6, 11: 5, 13: 4, 16: 3, 20: 2}
"""How many of some hundred tickets have so many events."""


async def replay(url: str, rounds: int, events: int) -> list[Table]:
    """Measure one worker and two in turn, and the scan."""
    rates: dict[str, list[float]] = {"scan": []}
    rates |= {f"replay, {n} workers": [] for n in WORKERS}
    proofs: dict[str, list[float]] = {name: [] for name in rates}
    peak: dict[str, float] = dict.fromkeys(rates, 0.0)
    async with prepared(url) as database:
        store = EventStore(database)
        await make_up(database, events // EVENTS_PER_TICKET)
        stored = await store.count(exact=True)
        for (name, count), _ in turns(
            zip(rates, (0, *WORKERS), strict=True), rounds, "measuring", warming_up=False
        ):
            if name == "scan":
                took = await milliseconds(_scan(store))
                rates[name].append(1000 * stored / took)
                continue
            async with workers(database, count) as processes:
                summary = await Rebuild(database, processes).everything()
                peaks: list[tuple[int, float]] = []
                await processes.each(_peak, range(4 * count), peaks.append)
            spent = {k: v for k, v in summary.seconds.items() if k not in ("wait", "prove")}
            rates[name].append(stored / sum(spent.values()))
            proofs[name].append(summary.seconds["prove"])
            peak[name] = max(peak[name], sum(dict([*peaks, await _peak(database, 0)]).values()))
    rows = []
    for name, measured in rates.items():
        row = [name, median(measured), told(ratio(measured, rates["scan"]))]
        beside = [median(proofs[name] or [0]), f"{peak[name]:.0f}"]
        rows.append([*row, *(["", ""] if name == "scan" else beside)])
    columns = ["", "events/s", "of the scan", "proof, s", "memory, all processes, MB"]
    about = f"{stored:,} events of {events // EVENTS_PER_TICKET:,} tickets, seed {SEED}"
    return [Table(about, columns, rows, "events/s", rates)]


async def _scan(store: EventStore) -> None:
    async for _ in store.scan_stored():
        pass


async def _peak(_database: Database, _item: int) -> tuple[int, float]:
    """Return a process and the most memory that it has had, in MB."""
    await asyncio.sleep(0.05)  # so that each process gets one
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return os.getpid(), kilobytes / 1024


# --- the log --------------------------------------------------------------------------------------


async def make_up(database: Database, tickets: int, *, sealing: bool = True) -> None:
    """Write a log of so many tickets."""
    parts = range(0, tickets, _TICKETS_AT_ONCE)
    each = [(n, min(_TICKETS_AT_ONCE, tickets - n), sealing) for n in parts]
    with counting("making up a log", tickets, "tickets") as count:
        async with workers(database, 2) as two:
            await two.each(write_tickets, each, count)


async def write_tickets(database: Database, part: tuple[int, int, bool]) -> int:
    """Write some tickets' events in the order in which they happened."""
    first, count, sealing = part
    store = EventStore(database, sealing=sealing)
    documents: list[EventDocument] = []
    for number in range(first, first + count):
        documents += await _life(store, random.Random(f"{SEED}/{number}"), number)  # noqa: S311
    documents.sort(key=lambda document: document["occurred_at"])
    for start in range(0, len(documents), _INSERTED_AT_ONCE):
        await store.restore(documents[start : start + _INSERTED_AT_ONCE])
    return count


async def _life(store: EventStore, chance: random.Random, number: int) -> list[EventDocument]:
    """Return the stored events of one ticket."""
    ticket_id = UUID(int=chance.getrandbits(128), version=4)
    [length] = chance.choices([*_LENGTHS], [*_LENGTHS.values()])
    at = _FIRST_DAY + timedelta(seconds=30 * number)
    about = Metadata(ACTOR, CommandRef("bench", "f" * 64))
    head: Head = EMPTY
    made: list[EventDocument] = []
    requester = ""
    for type_, data in _story(chance, length):
        requester = str(data.get("requester", requester))
        encoded = encode(decode(type_, 1, data), requester)
        [event] = await store.chain(ticket_id, head, [encoded], about, at, at)
        head = Head(event.version, event.hash)
        made.append(to_document(event))
        at += timedelta(seconds=chance.expovariate(1 / 40_000))
    return made


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
