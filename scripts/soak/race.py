"""Writers of several processes race for the versions of tickets (L2)."""

import asyncio
import multiprocessing
from collections import Counter
from contextlib import suppress
from typing import NamedTuple
from uuid import UUID, uuid4, uuid5

from api.commands.handler import Handler, Submission, TooContended
from domain.tickets.conversation import AddNote
from eventstore.log import EventStore
from eventstore.mongo.driver import Database, connect
from scripts.console import progress
from scripts.soak.patience import patience
from scripts.soak.promises import ACTOR, OPEN, require, streams

_ROUND_SECONDS = 120.0  # a round that takes longer means that a process has died


class Attempt(NamedTuple):
    """One writer's command in a race, and the version it was told; None if it was told no."""

    ticket: UUID
    key: str
    version: int | None


def _race_in_process(
    url: str,
    number: int,
    seed: str,
    rounds: int,
    writers: int,
    together: "multiprocessing.synchronize.Barrier",
    attempts: "multiprocessing.queues.Queue[list[Attempt]]",
) -> None:
    async def race_one(database: Database) -> None:
        # A handler of its own for each writer: they are to race, not to take turns.
        stores = [EventStore(database) for _ in range(writers)]
        for round_ in range(rounds):
            await asyncio.to_thread(together.wait, patience(_ROUND_SECONDS))
            done = await asyncio.gather(
                *(write(Handler(store), round_, w) for w, store in enumerate(stores))
            )
            attempts.put(done)

    async def write(handler: Handler, round_: int, writer: int) -> Attempt:
        key = f"{number}-{writer}-{round_}"
        # Even rounds: all on one ticket. Odd rounds: on ten.
        which = 0 if round_ % 2 == 0 else writer % 10
        ticket = uuid5(UUID(int=0), f"{seed}-{round_}-{which}")
        opening = Submission(command=OPEN, actor=ACTOR, key="opening")
        note = Submission(command=AddNote(body=key), actor=ACTOR, key=key)
        with suppress(TooContended):
            await handler.handle(ticket, opening)
            return Attempt(ticket, key, (await handler.handle(ticket, note)).version)
        return Attempt(ticket, key, None)

    async def main() -> None:
        database = connect(url)
        await race_one(database)
        await database.close()

    asyncio.run(main())


async def race(url: str, rounds: int, writers: int = 50, processes: int = 3) -> Counter[str]:
    """Let writers race for the versions of tickets. Raises PromiseBroken."""
    database = connect(url)
    store = EventStore(database)
    await store.prepare()
    spawn = multiprocessing.get_context("spawn")
    together, queue = spawn.Barrier(processes), spawn.Queue()
    shares = [writers // processes + (n < writers % processes) for n in range(processes)]
    seed = uuid4().hex
    workers = [
        spawn.Process(target=_race_in_process, args=(url, n, seed, rounds, share, together, queue))
        for n, share in enumerate(shares)
    ]
    for worker in workers:
        worker.start()
    attempts: list[Attempt] = []
    with progress() as bar:
        task = bar.add_task("racing", total=rounds * processes, rate="rounds x processes")
        for _ in range(rounds * processes):
            attempts += await asyncio.to_thread(queue.get, timeout=patience(_ROUND_SECONDS))
            bar.advance(task)
    for worker in workers:
        worker.join()
    found = await streams(store)
    await database.close()
    written = Counter(
        Attempt(e.ticket_id, e.metadata.command.id, e.version) for s in found.values() for e in s
    )
    keys = {(attempt.ticket, attempt.key) for attempt in written}
    for attempt in attempts:
        if attempt.version is None:
            require((attempt.ticket, attempt.key) not in keys, f"{attempt}: refused, but written")
        else:
            require(written[attempt] == 1, f"{attempt}: acknowledged, but {written[attempt]} times")
    won = sum(attempt.version is not None for attempt in attempts)
    events = sum(map(len, found.values()))
    require(events == won + len(found), f"{events} events of {won} commands")
    return Counter(
        rounds=rounds, commands=len(attempts), acknowledged=won, told_no=len(attempts) - won
    )
