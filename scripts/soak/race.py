"""Writers of several processes race for the versions of tickets (L2)."""

import asyncio
import multiprocessing
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeVar
from uuid import UUID, uuid4, uuid5

from api.commands.handler import Handler, Submission, TooContended
from domain.tickets.conversation import AddNote
from eventstore.log import EventStore
from scripts.console import with_progress
from scripts.testbed.judging import streams
from scripts.testbed.patience import patience
from scripts.testbed.promises import ACTOR, OPEN, connected, require

T = TypeVar("T")
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
    async def main() -> None:
        async with connected(url) as database:
            # A store of its own for each writer: they are to race, not to take turns.
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

    asyncio.run(main())


async def race_processes(
    work: Callable[..., None],
    shares: Sequence[tuple[object, ...]],
    rounds: int,
    took: Callable[[T], object],
) -> None:
    """Do work in processes, one for each share, which is its arguments, with a barrier for the
    rounds and a queue for what comes of each of them: `took` is told that.
    """
    spawn = multiprocessing.get_context("spawn")
    together, queue = spawn.Barrier(len(shares)), spawn.Queue()
    workers = [spawn.Process(target=work, args=(*share, together, queue)) for share in shares]
    for worker in workers:
        worker.start()
    for _ in with_progress(range(rounds * len(shares)), "racing", "rounds x processes"):
        took(await asyncio.to_thread(queue.get, timeout=patience(_ROUND_SECONDS)))
    for worker in workers:
        worker.join()


async def race(url: str, rounds: int, writers: int = 50, processes: int = 3) -> Counter[str]:
    """Let writers race for the versions of tickets. Raises PromiseBroken."""
    attempts: list[Attempt] = []
    async with connected(url) as database:
        store = EventStore(database)
        await store.prepare()
        seed = uuid4().hex
        shares = [
            (url, n, seed, rounds, writers // processes + (n < writers % processes))
            for n in range(processes)
        ]
        await race_processes(_race_in_process, shares, rounds, attempts.extend)
        found = await streams(store)
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
