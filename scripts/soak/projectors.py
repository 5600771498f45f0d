"""Projectors killed between any two steps, frozen, coming and going, under load (L7, L8).

In the end the views are audited: every document and every counter against the log.
"""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import uuid4

from eventstore.database import Database
from eventstore.log import EventStore
from projections.generations import Generations
from projections.projector.batch import BatchWriter
from projections.projector.checkpoints import Checkpoints
from projections.projector.projector import Projector
from projections.views.saved_views import SavedViews, TicketFilter
from scripts.catch_up import projecting
from scripts.cli import with_progress
from scripts.soak.clients import Clients
from scripts.testbed.child import NEVER, Steps, child, die_at, in_turn, killed, points_of
from scripts.testbed.harness import connected, until
from scripts.testbed.judging import Check, audited
from scripts.testbed.services import service

LEASE_SECONDS = 0.5
_CAUGHT_UP_SECONDS = 120
_TICKETS = 10
_CLIENTS = 2
_PAUSE_SECONDS = 0.05

STEPS: Steps = {
    "beat": Checkpoints,
    "_read": BatchWriter,
    "_store_all": BatchWriter,
    "_write": BatchWriter,
    "write": BatchWriter,
    "recount": BatchWriter,
}
"""What a batch goes through."""
POINTS = points_of(STEPS)


@asynccontextmanager
async def under_load(url: str, check: Check, kind: str = "group") -> AsyncIterator[Database]:
    """Have a service of a kind take commands while the block runs; yield the views that are shown
    at first. Then compare the log with what clients were told, and the views with the log.
    """
    clients = Clients()
    async with service(kind, url) as port, connected(url) as database:
        shown = (await Generations(database).prepare()).of(database)
        await SavedViews(shown).save("unsolved", TicketFilter(solved=False))
        await SavedViews(shown).save("alices", TicketFilter(assignee="alice", solved=False))
        async with clients.sending(port, _CLIENTS, _TICKETS, _PAUSE_SECONDS):
            yield shown
        async with projecting(shown, EventStore(shown)):
            await clients.judge(port, url, check)


async def kill_projector(
    url: str, rounds: int, check: Check = audited, points: Sequence[str] = POINTS
) -> Counter[str]:
    """Kill a projector at one point after the other; each is followed by the next."""
    async with under_load(url, check) as database:
        for point in in_turn(points, rounds):
            nth = random.randint(1, 3)
            if "recount" in point:
                await SavedViews(database).save(f"all-{uuid4().hex}", TicketFilter())
                nth = 1
            await killed(project_and_die, url, point, nth)
    return Counter(killed=rounds)


async def freeze_projector(url: str, rounds: int, check: Check = audited) -> Counter[str]:
    """Freeze one of two projectors for longer than its lease, and wake it again."""
    counted: Counter[str] = Counter()
    async with (
        under_load(url, check) as database,
        child(project_and_die, url, NEVER, 1) as first,
        child(project_and_die, url, NEVER, 1) as second,
    ):
        await _shared_by(database, 2)
        for _ in with_progress(range(rounds), "freezing", "rounds"):
            frozen = random.choice([first, second])
            await asyncio.sleep(random.uniform(0.0, 0.5))
            frozen.send_signal(signal.SIGSTOP)
            before = await _epochs(database)
            await _shared_by(database, 1)
            await asyncio.sleep(random.uniform(0.0, 1.0))
            frozen.send_signal(signal.SIGCONT)
            counted["frozen"] += 1
            counted["taken_over"] += (await _epochs(database)) > before
            await _shared_by(database, 2)
    return counted


async def come_and_go(url: str, seconds: float, check: Check = audited) -> Counter[str]:
    """Start, stop and kill projectors at random, up to three at once, for a while."""
    counted: Counter[str] = Counter()
    clock = asyncio.get_running_loop().time

    async def one(end: float) -> None:
        while clock() < end:
            async with child(project_and_die, url, NEVER, 1) as running:
                await asyncio.sleep(random.uniform(0.5, 4.0))
                how = random.choice([signal.SIGTERM, signal.SIGKILL])
                running.send_signal(how)
                await running.wait()
                counted["stopped" if how == signal.SIGTERM else "killed"] += 1

    async with under_load(url, check):
        end = clock() + seconds
        await asyncio.gather(one(end), one(end), one(end))
    return counted


async def _shared_by(database: Database, members: int) -> None:
    """Wait until some living members have all partitions."""
    partitions = Checkpoints(database, LEASE_SECONDS)

    async def shared() -> bool:
        state = await partitions.read()
        owners = {p.owner for p in state.partitions}
        return len(owners) == members and all(state.is_alive(owner) for owner in owners)

    await until(shared, _CAUGHT_UP_SECONDS, f"{members} projectors have all partitions")


async def _epochs(database: Database) -> int:
    return sum(p.epoch for p in (await Checkpoints(database).read()).partitions)


async def project_and_die(url: str, point: str, nth: str) -> None:
    """Project until a point is reached for the nth time, and die there as by kill -9."""
    die_at(STEPS, point, nth)
    database = Database(url)
    active = await Generations(database).active()
    shown = active.of(database)
    await Projector(shown, EventStore(shown), zones=active.zones, lease_seconds=LEASE_SECONDS).run()
