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
from eventstore.database import Database
from eventstore.event_document import Envelope, EventDocument
from eventstore.failures import StoreUnavailable
from eventstore.log import EventStore
from eventstore.mongo import embedded
from eventstore.mongo.driver import Session
from scripts.console import counting, with_progress
from scripts.soak.kill import kill_database_of
from scripts.soak.race import race_processes
from scripts.testbed.judging import streams
from scripts.testbed.patience import patience
from scripts.testbed.promises import ACTOR, OPEN, code_of, connected, require

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
        async with connected(url) as database:
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

    asyncio.run(main())


async def opposite_merges(url: str, rounds: int) -> Counter[str]:
    """Merge A into B and B into A at once, from two processes. Raises PromiseBroken."""
    async with connected(url) as database:
        store = EventStore(database)
        await store.prepare()
        seed = uuid4().hex
        told: dict[int, list[str]] = {}

        def took(answer: tuple[int, str]) -> None:
            told.setdefault(answer[0], []).append(answer[1])

        shares = [(url, seed, way, rounds) for way in (0, 1)]
        await race_processes(_merge_in_process, shares, rounds, took)
        found = await streams(store)
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
    with tempfile.TemporaryDirectory(prefix="casebook-soak-") as folder:
        async with embedded.run(Path(folder)) as url, connected(url) as database:
            store = EventStore(database)
            await store.prepare()
            handler = Handler(store)
            for _ in with_progress(range(rounds), "killing", "rounds"):
                one, other = await _killed_merge(url, handler)
                require(kill_database_of(Path(folder)), "no database to kill")
                before = await _read(store, one, other)
                require(before == [[], []], f"one half without the other: {before}")
                await handler.handle(one, _merging(other))
                await _require_completed(store, one, other)
            await streams(store)
    return Counter(killed_and_completed=rounds)


async def killed_alone(url: str) -> Counter[str]:
    """Kill only the process, while the database lives: nothing is there, and then all of it.

    The database keeps both tickets locked until it ends the transaction, up to a minute or so: a
    merge sent again meanwhile is told that nobody knows, and is sent again. Raises PromiseBroken.
    """
    told = 0
    async with connected(url) as database:
        store = EventStore(database)
        await store.prepare()
        one, other = await _killed_merge(url, Handler(store))
        require(await _read(store, one, other) == [[], []], "one half without the other")
        with counting("waiting for the database to let go", None) as count:
            async with asyncio.timeout(patience(_ROUND_SECONDS)):
                while True:
                    try:
                        await Handler(store).handle(one, _merging(other))
                        break
                    except StoreUnavailable:
                        told += 1
                        count()
        await _require_completed(store, one, other)
    return Counter(killed_alone_and_completed=1, told_nobody_knows=told)


async def _killed_merge(url: str, handler: Handler) -> Pair:
    """Open two tickets, and have a process killed that merges them."""
    one, other = uuid4(), uuid4()
    await _open(handler, one, other)
    words = ("scripts.soak", "_merge", url, str(one), str(other))
    code = await code_of(*words, seconds=_ROUND_SECONDS)
    require(code == -signal.SIGKILL, f"it ended with {code}, and not by a kill")
    return one, other


async def _require_completed(store: EventStore, one: UUID, other: UUID) -> None:
    after = await _read(store, one, other)
    require(after == [[_HALVES[0]], [_HALVES[1]]], f"not completed: {after}")


async def merge_and_die(url: str, one: str, other: str) -> int:
    """Merge, and die as by kill -9 when one half is written and the other is not."""

    class Mortal(EventStore):
        async def _insert_all(self, documents: list[EventDocument], session: Session) -> None:
            await super()._insert_all(documents[:1], session)
            os.kill(os.getpid(), signal.SIGKILL)

    handler = Handler(Mortal(Database(url)))
    await handler.handle(UUID(one), _merging(UUID(other)))
    return 0


async def _read(store: EventStore, *tickets: UUID) -> list[list[str]]:
    """Return the merges in each ticket's stream, once the database is there again."""
    async with asyncio.timeout(patience(_ROUND_SECONDS)):
        while True:
            try:
                return [_halves(await store.load(ticket)) for ticket in tickets]
            except StoreUnavailable:
                await asyncio.sleep(0.1)


def _halves(stream: Sequence[Envelope]) -> list[str]:
    return [event.type for event in stream if event.type in _HALVES]
