"""Two tickets that are merged into each other at once, and processes that die between the halves.

Whatever happens, a merge is on both tickets or on neither, and of two opposite ones there is one.
"""

import asyncio
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from api.commands.handler import Handler, Submission
from domain.errors import Refusal
from domain.tickets.relations import MergeTicket
from eventstore.background import run_all
from eventstore.database import Database
from eventstore.event_document import EventDocument
from eventstore.failures import StoreUnavailable
from eventstore.log import EventStore
from eventstore.mongo import embedded
from eventstore.mongo.driver import Session
from projections.workers import workers
from scripts.cli import with_progress
from scripts.soak.consumers import open_tickets
from scripts.soak.kill import kill_database_of
from scripts.testbed.child import killed
from scripts.testbed.harness import ACTOR, log_at, require
from scripts.testbed.judging import streams
from scripts.testbed.patience import patience

T = TypeVar("T")

_LET_GO_SECONDS = 120.0
_HALVES = ("TicketMergedInto", "TicketMergedFrom")
_COMPLETED = [[half] for half in _HALVES]

Pair = tuple[UUID, UUID]
"""A ticket, and another into which it is merged."""


async def merges(url: str, rounds: int) -> Counter[str]:
    """Do all of it: opposite merges, and kills of a process with the database and without."""
    counted = await opposite_merges(url, rounds)
    return counted + await killed_merges(rounds // 10) + await killed_alone(url)


async def opposite_merges(url: str, rounds: int) -> Counter[str]:
    """Merge A into B and B into A at once, from two processes. Raises PromiseBroken."""
    counted: Counter[str] = Counter()
    async with (
        log_at(url) as (database, store),
        workers(database, 1) as here,
        workers(database, 1) as there,
    ):
        for _ in with_progress(range(rounds), "racing", "rounds"):
            one, other = await open_tickets(store, 2)
            answers: list[str] = []
            await run_all(
                here.each(merge, [(one, other)], answers.append),
                there.each(merge, [(other, one)], answers.append),
            )
            halves = await _halves(store, (one, other))
            require(sorted(halves) == sorted(_COMPLETED), f"{halves}")
            refused = [answer for answer in answers if answer != "merged"]
            require(len(refused) == 1, f"{answers}")
            counted["merged"] += 1
            counted[f"refused_{refused[0]}"] += 1
        await streams(store)
    return counted


async def merge(database: Database, pair: Pair) -> str:
    """Merge; return "merged", or the code of a refusal."""
    try:
        await _merge(EventStore(database), *pair)
    except Refusal as refusal:
        return refusal.code
    return "merged"


async def _merge(store: EventStore, one: UUID, into: UUID) -> None:
    merging = Submission(command=MergeTicket(into=into), actor=ACTOR, key="merge")
    await Handler(store).handle(one, merging)


async def killed_merges(rounds: int) -> Counter[str]:
    """Kill a process between the halves of a merge, and the database too, as a power cut does.

    After the restart there is neither half; the merge sent again is completed. Raises
    PromiseBroken.
    """
    with tempfile.TemporaryDirectory(prefix="casebook-soak-") as folder:
        async with embedded.run(Path(folder)) as url, log_at(url) as (_, store):
            for _round in with_progress(range(rounds), "killing", "rounds"):
                pair = await _killed_merge(url, store)
                require(kill_database_of(Path(folder)), "no database to kill")
                await _complete(store, pair)
            await streams(store)
    return Counter(killed_and_completed=rounds)


async def killed_alone(url: str) -> Counter[str]:
    """Kill only the process, while the database lives: nothing is there, and then all of it.

    The database keeps both tickets locked until it ends the transaction, up to a minute or so: a
    merge sent again meanwhile gets a 503, and is sent again. Raises PromiseBroken.
    """
    async with log_at(url) as (_, store):
        unavailable = await _complete(store, await _killed_merge(url, store))
    return Counter(killed_alone_and_completed=1, unavailable=unavailable)


async def _killed_merge(url: str, store: EventStore) -> Pair:
    """Open two tickets, and have a process killed that merges them."""
    one, other = await open_tickets(store, 2)
    await killed(merge_and_die, url, one, other, seconds=_LET_GO_SECONDS)
    return one, other


async def _complete(store: EventStore, pair: Pair) -> int:
    """See that neither half is there, and merge again; return how often that got a 503."""
    _, before = await _once_available(partial(_halves, store, pair))
    require(before == [[], []], f"one half without the other: {before}")
    unavailable, _ = await _once_available(partial(_merge, store, *pair))
    _, after = await _once_available(partial(_halves, store, pair))
    require(after == _COMPLETED, f"not completed: {after}")
    return unavailable


async def _once_available(work: Callable[[], Awaitable[T]]) -> tuple[int, T]:
    """Do something until the store is available; return how often it was not, and the result."""
    async with asyncio.timeout(patience(_LET_GO_SECONDS)):
        for unavailable in count():
            with suppress(StoreUnavailable):
                return unavailable, await work()
            await asyncio.sleep(0.1)
    raise AssertionError("it has returned or raised")


async def _halves(store: EventStore, pair: Pair) -> list[list[str]]:
    """Return the merges in each ticket's stream."""
    both = [await store.load(ticket) for ticket in pair]
    return [[event.type for event in stream if event.type in _HALVES] for stream in both]


async def merge_and_die(url: str, one: str, other: str) -> None:
    """Merge, and die as by kill -9 when one half is written and the other is not."""

    class Mortal(EventStore):
        async def _insert_all(self, documents: list[EventDocument], session: Session) -> None:
            await super()._insert_all(documents[:1], session)
            os.kill(os.getpid(), signal.SIGKILL)

    await _merge(Mortal(Database(url)), UUID(one), UUID(other))
