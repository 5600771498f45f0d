"""Projectors killed between any two steps, frozen, coming and going, under load (L7, L8).

In the end the views are audited: every document and every counter against the log.
"""

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from inspect import isawaitable
from uuid import UUID, uuid4

from api.commands.handler import Handler, Submission, TooContended
from domain.errors import Refusal
from domain.tickets.assignment import AssignTicket, MoveToGroup
from domain.tickets.command import Command
from domain.tickets.conversation import AddNote, Reply
from domain.tickets.lifecycle import ReopenTicket, ResolveTicket
from domain.tickets.promises import ChangePriority
from eventstore.database import Database
from eventstore.failures import StoreUnavailable
from eventstore.log import EventStore
from projections.generations import Generations
from projections.projector.batch import BatchWriter
from projections.projector.checkpoints import Checkpoints
from projections.projector.projector import Projector
from projections.views.saved_views import SavedViews, TicketFilter
from scripts.catch_up import projecting
from scripts.console import with_progress
from scripts.testbed.judging import Check, audited, caught_up
from scripts.testbed.patience import patience
from scripts.testbed.promises import ACTOR, OPEN, code_of, process, require

LEASE_SECONDS = 0.5
_CAUGHT_UP_SECONDS = 120
_TICKETS = 40
_PAUSE_SECONDS = 0.05

STEPS: tuple[tuple[type, str], ...] = (
    (Checkpoints, "beat"),
    (BatchWriter, "_read"),
    (BatchWriter, "_store_all"),
    (BatchWriter, "_write"),
    (BatchWriter, "write"),
    (BatchWriter, "recount"),
)
"""What a batch goes through; it can be killed before and after each."""
POINTS = tuple(f"{when} {step}" for _, step in STEPS for when in ("before", "after"))


async def kill_projector(
    url: str, rounds: int, check: Check = audited, points: Sequence[str] = POINTS
) -> Counter[str]:
    """Kill a projector at one point after the other; each is followed by the next."""
    counted: Counter[str] = Counter()
    async with under_load(url, check) as database:
        for round_ in with_progress(range(rounds), "killing", "rounds"):
            point = points[round_ % len(points)]
            nth = random.randint(1, 3)  # noqa: S311
            if "recount" in point:
                await SavedViews(database).save(f"all-{round_}", TicketFilter())
                nth = 1
            words = ("scripts.soak", "_project", url, point, str(nth))
            code = await code_of(*words, seconds=30)
            require(code == -signal.SIGKILL, f"{point}: the projector ended with {code}")
            counted["killed"] += 1
    return counted


async def freeze_projector(url: str, rounds: int, check: Check = audited) -> Counter[str]:
    """Freeze one of two projectors for longer than its lease, and wake it again."""
    counted: Counter[str] = Counter()
    async with (
        under_load(url, check) as database,
        process("scripts.soak", "_project", url, "never", "1") as first,
        process("scripts.soak", "_project", url, "never", "1") as second,
    ):
        await _shared_by(database, 2)
        for _ in with_progress(range(rounds), "freezing", "rounds"):
            frozen = random.choice([first, second])  # noqa: S311
            await asyncio.sleep(random.uniform(0.0, 0.5))  # noqa: S311
            frozen.send_signal(signal.SIGSTOP)
            before = await _epochs(database)
            await _shared_by(database, 1)
            await asyncio.sleep(random.uniform(0.0, 1.0))  # noqa: S311
            frozen.send_signal(signal.SIGCONT)
            counted["frozen"] += 1
            counted["taken_over"] += (await _epochs(database)) > before
            await _shared_by(database, 2)
    return counted


async def come_and_go(url: str, seconds: float, check: Check = audited) -> Counter[str]:
    """Start, stop and kill projectors at random, up to three at once, for a while."""
    counted: Counter[str] = Counter()
    clock = asyncio.get_running_loop().time
    end = clock() + seconds

    async def one() -> None:
        while clock() < end:
            async with process("scripts.soak", "_project", url, "never", "1") as running:
                await asyncio.sleep(random.uniform(0.5, 4.0))  # noqa: S311
                how = random.choice([signal.SIGTERM, signal.SIGKILL])  # noqa: S311
                running.send_signal(how)
                await running.wait()
                counted["stopped" if how == signal.SIGTERM else "killed"] += 1

    async with under_load(url, check):
        for going in with_progress(
            [*asyncio.as_completed([one() for _ in range(3)])], "coming and going"
        ):
            await going
    return counted


@asynccontextmanager
async def under_load(url: str, check: Check) -> AsyncIterator[Database]:
    """Write commands while the block runs; then let the views catch up, and check them."""
    database = Database(url)
    store = EventStore(database)
    await store.prepare()
    database = (await Generations(database).prepare()).of(database)
    await SavedViews(database).save("unsolved", TicketFilter(solved=False))
    await SavedViews(database).save("alices", TicketFilter(assignee="alice", solved=False))
    stop = asyncio.Event()
    writing = [asyncio.create_task(_write(store, stop)) for _ in range(2)]
    try:
        yield database
        stop.set()
        await asyncio.gather(*writing)
        async with projecting(database, store):
            await caught_up(database)
        await check(database)
    finally:
        for task in writing:
            task.cancel()
        await asyncio.gather(*writing, return_exceptions=True)
        await database.close()


async def _write(store: EventStore, stop: asyncio.Event) -> None:
    handler = Handler(store)
    tickets: list[UUID] = []
    commands: list[Command] = [
        AddNote(body="odd"),
        Reply(body="Please try the other tray."),
        AssignTicket(assignee="alice"),
        AssignTicket(assignee="bob"),
        ChangePriority(priority="urgent"),
        ChangePriority(priority="low"),
        MoveToGroup(group="print"),
        MoveToGroup(group="net.work"),
        ResolveTicket(resolution="toner"),
        ReopenTicket(reason="no"),
    ]
    while not stop.is_set():
        command: Command = random.choice(commands)  # noqa: S311
        if not tickets or random.random() < 0.1:  # noqa: S311
            tickets = [*tickets[-_TICKETS:], uuid4()]
            command = OPEN
        ticket = tickets[-1] if command is OPEN else random.choice(tickets)  # noqa: S311
        with suppress(Refusal, TooContended, StoreUnavailable):
            await handler.handle(ticket, Submission(command=command, actor=ACTOR))
        await asyncio.sleep(_PAUSE_SECONDS)


async def _shared_by(database: Database, members: int) -> None:
    """Wait until some living members have all partitions."""
    partitions = Checkpoints(database, LEASE_SECONDS)
    async with asyncio.timeout(patience(_CAUGHT_UP_SECONDS)):
        while True:
            state = await partitions.read()
            owners = {p.owner for p in state.partitions}
            if len(owners) == members and all(state.is_alive(owner) for owner in owners):
                return
            await asyncio.sleep(0.05)


async def _epochs(database: Database) -> int:
    return sum(p.epoch for p in (await Checkpoints(database).read()).partitions)


async def project_and_die(url: str, point: str, nth: str) -> int:
    """Project until a point is reached for the nth time, and die there as by kill -9."""
    die_at(STEPS, point, nth)
    shown = await Generations(Database(url)).shown()
    await Projector(shown, EventStore(shown), lease_seconds=LEASE_SECONDS).run()
    return 0


def die_at(steps: Sequence[tuple[object, str]], point: str, nth: str) -> None:
    """Have this process die, as by kill -9, where it comes to a point for the nth time."""
    reached = 0

    def reach(name: str) -> None:
        nonlocal reached
        reached += name == point
        if reached == int(nth):
            os.kill(os.getpid(), signal.SIGKILL)

    for owner, name in steps:
        setattr(owner, name, _telling(getattr(owner, name), name, reach))


def _telling(
    step: Callable[..., object], name: str, reach: Callable[[str], None]
) -> Callable[..., object]:
    async def finished(result: Awaitable[object]) -> object:
        done = await result
        reach(f"after {name}")
        return done

    def told(*args: object, **more: object) -> object:
        reach(f"before {name}")
        result = step(*args, **more)
        if isawaitable(result):
            return finished(result)
        reach(f"after {name}")
        return result

    return told
