"""Two tickets that are merged into each other at once, and processes that die between the halves.

Whatever happens, a merge is on both tickets or on neither, and of two opposite ones there is one.
"""

import asyncio
import multiprocessing
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID, uuid4, uuid5

from api.commands.handler import Handler, Submission
from domain.errors import Refusal
from domain.tickets.relations import MergeTicket
from eventstore.event_document import Envelope, EventDocument
from eventstore.failures import StoreUnavailable
from eventstore.log import EventStore
from eventstore.mongo import embedded
from eventstore.mongo.driver import Session, connect
from scripts.console import progress
from scripts.soak.kill import database_processes
from scripts.soak.patience import patience
from scripts.soak.promises import ACTOR, OPEN, process, require, streams

_ROUND_SECONDS = 120.0
_HALVES = ("TicketMergedInto", "TicketMergedFrom")

Pair = tuple[UUID, UUID]


def _pair(seed: str, round_: int) -> Pair:
    return (uuid5(UUID(int=0), f"{seed}-{round_}-a"), uuid5(UUID(int=0), f"{seed}-{round_}-b"))


async def _open(handler: Handler, *tickets: UUID) -> None:
    for ticket in tickets:
        await handler.handle(ticket, Submission(command=OPEN, actor=ACTOR, key="opening"))


def _merging(into: UUID) -> Submission:
    return Submission(command=MergeTicket(into=into), actor=ACTOR, key="merge")


def _merge_in_process(
    url: str,
    seed: str,
    direction: int,
    rounds: int,
    together: "multiprocessing.synchronize.Barrier",
    answers: "multiprocessing.queues.Queue[tuple[int, str]]",
) -> None:
    async def main() -> None:
        database = connect(url)
        handler = Handler(EventStore(database))
        for round_ in range(rounds):
            pair = _pair(seed, round_)
            one, other = pair if direction == 0 else reversed(pair)
            await _open(handler, one, other)
            await asyncio.to_thread(together.wait, patience(_ROUND_SECONDS))
            try:
                await handler.handle(one, _merging(other))
                answers.put((round_, "merged"))
            except Refusal as refusal:
                answers.put((round_, refusal.code))
        await database.close()

    asyncio.run(main())


async def opposite_merges(url: str, rounds: int) -> Counter[str]:
    """Merge A into B and B into A at once, from two processes. Raises PromiseBroken."""
    database = connect(url)
    store = EventStore(database)
    await store.prepare()
    spawn = multiprocessing.get_context("spawn")
    together, queue = spawn.Barrier(2), spawn.Queue()
    seed = uuid4().hex
    workers = [
        spawn.Process(target=_merge_in_process, args=(url, seed, way, rounds, together, queue))
        for way in (0, 1)
    ]
    for worker in workers:
        worker.start()
    told: dict[int, list[str]] = {}
    with progress() as bar:
        task = bar.add_task("merging", total=2 * rounds, rate="merges")
        for _ in range(2 * rounds):
            round_, answer = await asyncio.to_thread(queue.get, timeout=patience(_ROUND_SECONDS))
            told.setdefault(round_, []).append(answer)
            bar.advance(task)
    for worker in workers:
        worker.join()
    found = await streams(store)
    await database.close()
    counted: Counter[str] = Counter()
    for round_, answers in told.items():
        halves = [_halves(found[ticket]) for ticket in _pair(seed, round_)]
        require(sorted(halves) == [["TicketMergedFrom"], ["TicketMergedInto"]], f"{halves}")
        refused = [answer for answer in answers if answer != "merged"]
        require(len(refused) == 1, f"round {round_}: {answers}")
        counted["merged"] += 1
        counted[f"refused_{refused[0]}"] += 1
    return counted


async def killed_merges(rounds: int) -> Counter[str]:
    """Kill a process between the halves of a merge, and the database too, as a power cut does.

    After the restart there is neither half; the merge sent again is completed. Raises
    PromiseBroken.
    """
    with tempfile.TemporaryDirectory(prefix="casebook-soak-") as folder, progress() as bar:
        task = bar.add_task("killing", total=rounds, rate="rounds")
        async with embedded.run(Path(folder)) as url:
            database = connect(url)
            store = EventStore(database)
            await store.prepare()
            handler = Handler(store)
            for _ in range(rounds):
                one, other = uuid4(), uuid4()
                await _open(handler, one, other)
                words = ("scripts.soak", "_merge", url, str(one), str(other))
                async with process(*words) as merging:
                    code = await asyncio.wait_for(merging.wait(), patience(_ROUND_SECONDS))
                require(code == -signal.SIGKILL, f"it ended with {code}, and not by a kill")
                pids = database_processes(Path(folder))
                require(pids, "no database to kill")
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
                before = await _read(store, one, other)
                require(before == [[], []], f"one half without the other: {before}")
                await handler.handle(one, _merging(other))
                after = await _read(store, one, other)
                require(after == [[_HALVES[0]], [_HALVES[1]]], f"not completed: {after}")
                bar.advance(task)
            await streams(store)
            await database.close()
    return Counter(killed_and_completed=rounds)


async def killed_alone(url: str) -> Counter[str]:
    """Kill only the process, while the database lives: nothing is there, and then all of it.

    The database keeps both tickets locked until it ends the transaction, up to a minute or so: a
    merge sent again meanwhile is told that nobody knows, and is sent again. Raises PromiseBroken.
    """
    database = connect(url)
    store = EventStore(database)
    await store.prepare()
    one, other = uuid4(), uuid4()
    await _open(Handler(store), one, other)
    async with process("scripts.soak", "_merge", url, str(one), str(other)) as merging:
        await asyncio.wait_for(merging.wait(), patience(_ROUND_SECONDS))
    require(await _read(store, one, other) == [[], []], "one half without the other")
    told = 0
    with progress() as bar:
        task = bar.add_task("waiting for the database to let go", total=None, rate="")
        async with asyncio.timeout(patience(_ROUND_SECONDS)):
            while True:
                try:
                    await Handler(store).handle(one, _merging(other))
                    break
                except StoreUnavailable:
                    told += 1
                    bar.advance(task)
    after = await _read(store, one, other)
    require(after == [[_HALVES[0]], [_HALVES[1]]], f"not completed: {after}")
    await database.close()
    return Counter(killed_alone_and_completed=1, told_nobody_knows=told)


async def merge_and_die(url: str, one: str, other: str) -> int:
    """Merge, and die as by kill -9 when one half is written and the other is not."""

    class Mortal(EventStore):
        async def _insert_all(self, documents: list[EventDocument], session: Session) -> None:
            await super()._insert_all(documents[:1], session)
            os.kill(os.getpid(), signal.SIGKILL)

    handler = Handler(Mortal(connect(url)))
    await handler.handle(UUID(one), _merging(UUID(other)))
    return 0


async def _read(store: EventStore, *tickets: UUID) -> list[list[str]]:
    """Give the merges in each ticket's stream, once the database is there again."""
    async with asyncio.timeout(patience(_ROUND_SECONDS)):
        while True:
            try:
                return [_halves(await store.load(ticket)) for ticket in tickets]
            except StoreUnavailable:
                await asyncio.sleep(0.1)


def _halves(stream: Sequence[Envelope]) -> list[str]:
    return [event.type for event in stream if event.type in _HALVES]
