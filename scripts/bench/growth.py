"""What a command costs on a long stream, warm and cold, and in a long log."""

import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID, uuid4

from api.commands.handler import Handler, Submission
from api.settings import Settings
from domain.codec import EventData
from domain.tickets.conversation import AddNote
from eventstore.event_document import CommandRef, Head, Metadata, chained, utc_now
from eventstore.log import EventStore
from eventstore.mongo.driver import Database, connect
from scripts.bench.found import Table, ratio, told
from scripts.bench.replay import EVENTS_PER_TICKET, make_up
from scripts.bench.services import ACTOR, NOTE, OPEN
from scripts.console import progress

_LENGTHS = (10, 1_000, 10_000)
_EACH_TIME = 10
_COMMAND = Submission(command=AddNote(body=NOTE), actor=ACTOR)


async def growth(url: str, rounds: int, logs: Sequence[int]) -> list[Table]:
    """Measure a command on streams of different length, and in logs of different size."""
    return [await _streams(url, rounds * _EACH_TIME), await _logs(url, rounds, logs)]


async def _streams(url: str, rounds: int) -> Table:
    database = connect(url, Settings.from_environment().mongo_driver)
    store = EventStore(database)
    await store.prepare()
    warm = Handler(store)
    tickets = {length: await ticket_of(store, warm, length) for length in _LENGTHS}
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    with progress() as bar:
        task = bar.add_task("long streams", total=rounds, rate="rounds")
        for _ in range(rounds):
            for length, ticket in tickets.items():
                found["warm", length].append(await _milliseconds(warm, ticket))
                found["cold", length].append(await _milliseconds(Handler(store), ticket))
                await warm.handle(ticket, _COMMAND)  # it catches up
            bar.advance(task)
    await database.close()
    shortest = found["warm", _LENGTHS[0]]
    rows = [
        [
            f"{length:,}",
            f"{statistics.median(warm_ms):.2f}",
            told(ratio(warm_ms, shortest)),
            f"{statistics.median(cold_ms):.1f}",
            told(ratio(cold_ms, shortest)),
        ]
        for length in _LENGTHS
        for warm_ms, cold_ms in ((found["warm", length], found["cold", length]),)
    ]
    short = f"of warm on {_LENGTHS[0]}"
    columns = ["events of the ticket", "warm, ms", short, "cold, ms", short]
    bars = {f"{name}, {length:,} events": each for (name, length), each in found.items()}
    return Table(
        "A command on a long stream: its events in memory, or not", columns, rows, "ms", bars
    )


async def _logs(url: str, rounds: int, logs: Sequence[int]) -> Table:
    driver = Settings.from_environment().mongo_driver
    base, _, options = url.partition("?")
    of: dict[int, Database] = {}
    for size in logs:
        own = connect(f"{base.rstrip('/')}/bench_log_{size}?{options}", driver)
        await EventStore(own).prepare()
        await make_up(own, size // EVENTS_PER_TICKET)
        of[size] = own
    handlers = {size: Handler(EventStore(own)) for size, own in of.items()}
    tickets = {
        size: [await ticket_of(EventStore(own), handlers[size], 10) for _ in range(_EACH_TIME)]
        for size, own in of.items()
    }
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    with progress() as bar:
        task = bar.add_task("long logs", total=rounds * _EACH_TIME, rate="rounds")
        for n in range(rounds * _EACH_TIME):
            for size, own in of.items():
                ticket = tickets[size][n % _EACH_TIME]
                found["warm", size].append(await _milliseconds(handlers[size], ticket))
                cold = Handler(EventStore(own))
                found["cold", size].append(await _milliseconds(cold, ticket))
                await handlers[size].handle(ticket, _COMMAND)
            bar.advance(task)
    for own in of.values():
        await own.close()
    rows = [
        [
            f"{size:,}",
            *(
                text
                for kind in ("warm", "cold")
                for text in (
                    f"{statistics.median(found[kind, size]):.2f}",
                    told(ratio(found[kind, size], found[kind, logs[0]])),
                )
            ),
        ]
        for size in logs
    ]
    columns = ["events of the log", "warm, ms", "of the shortest", "cold, ms", "of the shortest"]
    bars = {f"{name}, {size:,} events": each for (name, size), each in found.items()}
    return Table("The same command in a longer log", columns, rows, "ms", bars)


async def ticket_of(store: EventStore, handler: Handler, length: int) -> UUID:
    """Make a ticket of so many events that a handler knows."""
    ticket = uuid4()
    await handler.handle(ticket, Submission(command=OPEN, actor=ACTOR))
    [opening] = await store.load(ticket)
    head = Head(1, opening.hash)
    for start in range(1, length, 1000):
        notes = [EventData("NoteAdded", 1, {"body": NOTE})] * min(1000, length - start)
        about = Metadata(ACTOR, CommandRef(f"{start}", "f"))
        sealed = chained(ticket, head, notes, about, utc_now(), utc_now())
        await store.append(sealed)
        head = Head(sealed[-1].version, sealed[-1].hash)
    await handler.handle(ticket, _COMMAND)
    return ticket


async def _milliseconds(handler: Handler, ticket: UUID) -> float:
    began = time.perf_counter()
    await handler.handle(ticket, _COMMAND)
    return 1000 * (time.perf_counter() - began)
