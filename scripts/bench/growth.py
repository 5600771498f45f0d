"""What a command costs on a long stream, warm and cold, and in a long log."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import cycle
from uuid import UUID, uuid4

from api.commands.handler import Handler, Submission
from domain.codec import EventData
from domain.tickets.conversation import AddNote
from eventstore.event_document import CommandRef, Head, Metadata, chained, utc_now
from eventstore.log import EventStore
from scripts.bench.found import Table, ratio, told
from scripts.bench.measuring import median, milliseconds, prepared, turns
from scripts.bench.replay import EVENTS_PER_TICKET, make_up
from scripts.testbed.services import ACTOR, NOTE, OPEN, database_at

_LENGTHS = (10, 1_000, 9_000)  # a ticket takes 10,000 at most
_EACH_TIME = 10
_COMMAND = Submission(command=AddNote(body=NOTE), actor=ACTOR)


async def growth(url: str, rounds: int, logs: Sequence[int]) -> list[Table]:
    """Measure a command on streams of different length, and in logs of different size."""
    return [await _streams(url, rounds * _EACH_TIME), await _logs(url, rounds, logs)]


async def _streams(url: str, rounds: int) -> Table:
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    async with prepared(url) as database:
        store = EventStore(database)
        warm = Handler(store)
        tickets = {length: await ticket_of(store, warm, length) for length in _LENGTHS}
        for length, _ in turns(_LENGTHS, rounds, "long streams", warming_up=False):
            await _measure(store, warm, tickets[length], found, length)
    return _table(
        "A command on a long stream: its events in memory, or not",
        ["events of the ticket", "warm, ms", f"of warm on {_LENGTHS[0]}"],
        _LENGTHS,
        found,
    )


async def _logs(url: str, rounds: int, logs: Sequence[int]) -> Table:
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        stores: dict[int, EventStore] = {}
        for size in logs:
            database = await stack.enter_async_context(prepared(database_at(url, f"log_{size}")))
            await make_up(database, size // EVENTS_PER_TICKET)
            stores[size] = EventStore(database)
        handlers = {size: Handler(store) for size, store in stores.items()}
        tickets = {
            size: cycle([await ticket_of(store, handlers[size], 10) for _ in range(_EACH_TIME)])
            for size, store in stores.items()
        }
        for size, _ in turns(logs, rounds * _EACH_TIME, "long logs", warming_up=False):
            await _measure(stores[size], handlers[size], next(tickets[size]), found, size)
    return _table(
        "The same command in a longer log",
        ["events of the log", "warm, ms", "of warm in the shortest"],
        logs,
        found,
    )


async def _measure(
    store: EventStore,
    warm: Handler,
    ticket: UUID,
    found: dict[tuple[str, int], list[float]],
    size: int,
) -> None:
    """Measure a command by a handler that knows the ticket, and by one that does not."""
    found["warm", size].append(await milliseconds(warm.handle(ticket, _COMMAND)))
    found["cold", size].append(await milliseconds(Handler(store).handle(ticket, _COMMAND)))
    await warm.handle(ticket, _COMMAND)  # it catches up


def _table(
    about: str,
    columns: list[str],
    sizes: Sequence[int],
    found: dict[tuple[str, int], list[float]],
) -> Table:
    shortest = found["warm", sizes[0]]
    rows = [
        [
            f"{size:,}",
            *(
                text
                for kind, digits in (("warm", 2), ("cold", 1))
                for text in (
                    median(found[kind, size], digits),
                    told(ratio(found[kind, size], shortest)),
                )
            ),
        ]
        for size in sizes
    ]
    bars = {f"{name}, {size:,} events": each for (name, size), each in found.items()}
    return Table(about, [*columns, "cold, ms", columns[-1]], rows, "ms", bars)


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
