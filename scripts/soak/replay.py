"""Views built anew under load, again and again, and killed at every moment (L7, L9).

*Under load*: a server with its projector, another projector apart, clients that send commands and
others that read lists and the dashboard; one replay after the other. No request may fail, and no
reader's lists may lose anything that it has seen. It is measured how long after its answer a
command is in the lists, in the rounds with a replay and in pauses of the same length without.

*Killed*: before and after each step, under load; each replay is followed by the next.
"""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast
from uuid import UUID

from eventstore.database import Database
from eventstore.log import EventStore
from projections.daemon import project
from projections.generations import DROP_SECONDS, Generations
from projections.projector.checkpoints import Checkpoints
from projections.replay import rebuild
from projections.replay.rebuild import Rebuild
from projections.workers import workers
from scripts.console import with_progress
from scripts.soak.views import die_at, under_load
from scripts.testbed.judging import Check, audited, caught_up
from scripts.testbed.load import Connection
from scripts.testbed.patience import patience
from scripts.testbed.promises import (
    HEADERS,
    accepted,
    code_of,
    connected,
    process,
    require,
    service,
)

_SENDERS = 4
_READERS = 2
_COMMANDS_PER_SECOND = 40
_PAGE = 200
_REPLAY_SECONDS = 300
_SWEPT_SECONDS = DROP_SECONDS + 120
_PAUSE_SECONDS = 0.01
_RANGES_EACH = 10

STEPS: tuple[tuple[object, str], ...] = (
    (Generations, "begin"),
    (rebuild, "prepare"),
    (rebuild, "fold_range"),
    (Rebuild, "_scan"),
    (Checkpoints, "write"),
    (Rebuild, "_catch_up"),
    (Rebuild, "_prove"),
    (Checkpoints, "fence"),
    (Generations, "switch"),
    (Rebuild, "_hand_over"),
    (Generations, "sweep"),
)
"""What a replay goes through; it can be killed before and after each."""
POINTS = tuple(f"{when} {step}" for _, step in STEPS for when in ("before", "after"))


async def kill_replay(
    url: str, rounds: int, check: Check = audited, points: Sequence[str] = POINTS
) -> Counter[str]:
    """Kill a replay at one point after the other; the last one is let be."""
    counted: Counter[str] = Counter()
    async with (
        under_load(url, check) as database,
        process("scripts.soak", "_keep", url),
    ):
        for round_ in with_progress(range(rounds), "killing", "rounds"):
            point = points[round_ % len(points)]
            nth = random.randint(1, 3) if "fold_range" in point else 1  # noqa: S311
            code = await _replay(url, point, nth)
            require(code == -signal.SIGKILL, f"{point}: the replay ended with {code}")
            counted["killed"] += 1
            await caught_up(database)
        require(await _replay(url, "never", 1) == 0, "the last replay")
        if points is POINTS:  # that takes some minutes
            await _swept(database)
    return counted


async def _replay(url: str, point: str, nth: int) -> int | None:
    words = ("scripts.soak", "_replay", url, point, str(nth))
    return await code_of(*words, seconds=_REPLAY_SECONDS)


async def _swept(database: Database) -> None:
    """Wait until one generation is left."""
    generations = Generations(database)
    async with asyncio.timeout(patience(_SWEPT_SECONDS)):
        while True:
            active = set((await generations.active()).names.values())
            there = {name for name in await database.collections() if name[-1].isdigit()}
            if there == active:
                return
            await asyncio.sleep(1)


async def keep(url: str) -> int:
    """Keep what is shown current, until killed."""
    database = Database(url)
    await project(database, EventStore(database))
    return 0


async def replay_and_die(url: str, point: str, nth: str) -> int:
    """Build everything anew until a point is reached for the nth time, and die as by kill -9."""
    die_at(STEPS, point, nth)
    setattr(EventStore, "ranges", _small_ranges)  # noqa: B010 to die between two
    database = Database(url)
    async with workers(database, 0) as here:
        await Rebuild(database, here).everything()
    return 0


_ranges = EventStore.ranges


async def _small_ranges(store: EventStore) -> object:
    return await _ranges(store, await store.count() // _RANGES_EACH + 1)


# --- under load -----------------------------------------------------------------------------------


@dataclass
class _Seen:
    """What clients have been told, and when it was in the lists."""

    answered: dict[UUID, tuple[int, float]] = field(default_factory=dict)
    late_seconds: list[float] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)


async def replay_under_load(url: str, rounds: int, check: Check = audited) -> Counter[str]:
    """Replay again and again under load; return counts, and milliseconds until it was visible."""
    seen = _Seen()
    stop = asyncio.Event()
    with_, without = [0.0], [0.0]
    async with (
        service("projecting", url) as port,
        process("scripts.soak", "_keep", url),
        connected(url) as database,
    ):
        clients = [asyncio.create_task(_send(port, seen, stop)) for _ in range(_SENDERS)]
        clients += [asyncio.create_task(_read(port, seen, stop)) for _ in range(_READERS)]
        try:
            await asyncio.sleep(2)
            for _ in with_progress(range(rounds), "replaying", "rounds"):
                seen.late_seconds.clear()
                began = time.perf_counter()
                code = await code_of(
                    "scripts.replay", seconds=_REPLAY_SECONDS, CASEBOOK_MONGODB_URL=url
                )
                require(code == 0, f"the replay ended with {code}")
                took = time.perf_counter() - began
                _take_latest(seen, clients, with_)
                await asyncio.sleep(took)
                _take_latest(seen, clients, without)
                seen.counted["replays"] += 1
            stop.set()
            await asyncio.gather(*clients)
        finally:
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
        await caught_up(database)
        await check(database)
    seen.counted["longest_until_visible_ms"] = round(1000 * max(with_))
    seen.counted["longest_without_replay_ms"] = round(1000 * max(without))
    return seen.counted


def _take_latest(seen: _Seen, clients: Sequence[asyncio.Task[None]], latest: list[float]) -> None:
    """Take how late the latest was, unless a client has failed."""
    for client in clients:
        if client.done():
            client.result()
    latest.append(max(seen.late_seconds, default=0.0))
    seen.late_seconds.clear()


async def _send(port: int, seen: _Seen, stop: asyncio.Event) -> None:
    """Send commands at a steady rate."""
    mine: list[str] = []
    opening = {"subject": "Soak", "requester": "soak", "body": "It jams."}
    async with Connection(port, HEADERS) as connection:
        while not stop.is_set():
            if not mine or random.random() < 0.1:  # noqa: S311
                answer = await connection.post("/tickets", opening)
            else:
                path = f"/tickets/{random.choice(mine[-20:])}/add_note"  # noqa: S311
                answer = await connection.post(path, {"body": "odd"})
            told = accepted(answer).json()
            ticket_id, version = str(told["ticket_id"]), cast("int", told["version"])
            if version == 1:
                mine.append(ticket_id)
            seen.answered[UUID(ticket_id)] = (version, time.perf_counter())
            seen.counted["commands"] += 1
            await asyncio.sleep(_SENDERS / _COMMANDS_PER_SECOND)


async def _read(port: int, seen: _Seen, stop: asyncio.Event) -> None:
    """Read lists and dashboard; nothing that was seen may be gone, and note what is late."""
    versions: dict[UUID, int] = {}
    tickets = 0
    async with Connection(port, HEADERS) as connection:
        while not stop.is_set():
            answer = accepted(await connection.get(f"/tickets?limit={_PAGE}"))
            listed = cast("list[dict[str, object]]", answer.json()["tickets"])
            now = time.perf_counter()
            page = {UUID(str(t["id"])): cast("int", t["version"]) for t in listed}
            for ticket_id, version in page.items():
                known = versions.get(ticket_id, 0)
                require(version >= known, f"{ticket_id} went back from {known} to {version}")
                asked, at = seen.answered.get(ticket_id, (0, 0.0))
                if version < asked:
                    seen.late_seconds.append(now - at)
            # The list has what was opened last: all of it that was ever there, or it is full.
            gone = versions.keys() - page.keys()
            require(not gone or len(page) == _PAGE, f"{len(gone)} tickets are gone from the list")
            versions = {**versions, **page} if len(page) < _PAGE else page
            answer = accepted(await connection.get("/dashboard"))
            shown = sum(cast("dict[str, int]", answer.json()["tickets"]).values())
            require(shown >= max(tickets, len(page)), f"{shown} tickets after {tickets}")
            tickets = shown
            seen.counted["reads"] += 2
            await asyncio.sleep(_PAUSE_SECONDS)
