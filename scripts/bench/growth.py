"""What a command costs on a long stream, warm and cold."""

import statistics
import time
from collections import defaultdict
from uuid import uuid4

from api.handle import Handler, Submission
from domain.commands import AddNote
from domain.events import EventData
from eventstore.driver import connect
from eventstore.envelope import CommandRef, Head, Metadata, chained, utc_now
from eventstore.store import EventStore
from scripts.bench.commands import ACTOR, NOTE, OPEN
from scripts.console import progress


async def growth(url: str, rounds: int) -> None:
    """Measure one command on streams of different length, warm and cold, and print a table."""
    database = connect(url)
    store = EventStore(database)
    await store.prepare()
    lengths = (10, 1_000, 10_000)
    tickets = {length: uuid4() for length in lengths}
    warm = Handler(store)
    measured: dict[tuple[str, int], list[float]] = defaultdict(list)
    for length, ticket in tickets.items():
        await warm.handle(ticket, Submission(command=OPEN, actor=ACTOR))
        [opening] = await store.load(ticket)
        head = Head(1, opening.hash)
        for start in range(1, length, 1000):
            notes = [EventData("NoteAdded", 1, {"body": NOTE})] * min(1000, length - start)
            about = Metadata(ACTOR, CommandRef(f"{start}", "f"))
            sealed = chained(ticket, head, notes, about, utc_now(), utc_now())
            await store.append(sealed)
            head = Head(sealed[-1].version, sealed[-1].hash)
        await warm.handle(ticket, Submission(command=AddNote(body=NOTE), actor=ACTOR))
    with progress() as bar:
        task = bar.add_task("growth", total=rounds, rate="rounds")
        for _ in range(rounds):
            for length, ticket in tickets.items():
                for name, handler in (("warm", warm), ("cold", Handler(store))):
                    note = Submission(command=AddNote(body=NOTE), actor=ACTOR)
                    began = time.perf_counter()
                    await handler.handle(ticket, note)
                    measured[name, length].append(1000 * (time.perf_counter() - began))
                    if name == "cold":  # let the warm one catch up outside of the measurement
                        await warm.handle(ticket, note)
            bar.advance(task)
    await database.close()
    print("\n| stream | warm ms | of 10 events | cold ms | of warm |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    short = statistics.median(measured["warm", lengths[0]])
    for length in lengths:
        hot, cold = (statistics.median(measured[name, length]) for name in ("warm", "cold"))
        print(f"| {length} | {hot:.2f} | {hot / short:.2f}x | {cold:.1f} | {cold / hot:.1f}x |")
