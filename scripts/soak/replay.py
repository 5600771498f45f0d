"""Views built anew under load, again and again, and killed at every moment (L7, L9).

*Under load*: a server with its projector, another beside it, clients that send commands and others
that read lists and the dashboard; one replay after the other. No request may fail, and no reader's
lists may lose anything that it has seen. It is measured how long after its answer a command is in
the lists, in the rounds with a replay and in pauses of the same length without.

*Killed*: before and after each step, under load; each replay is followed by the next.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from uuid import UUID

from pydantic import BaseModel

from eventstore.background import background, run_all
from eventstore.database import Database
from eventstore.log import EventStore
from projections.generations import DROP_SECONDS, Generations, views_database
from projections.projector.checkpoints import Checkpoints
from projections.replay import rebuild
from projections.replay.rebuild import Rebuild
from projections.workers import workers
from scripts.cli import with_progress
from scripts.soak.clients import Clients
from scripts.soak.projectors import under_load
from scripts.testbed.child import Steps, die_at, in_turn, killed, points_of
from scripts.testbed.harness import HEADERS, accepted, code_of, require, until
from scripts.testbed.judging import Check, audited, caught_up
from scripts.testbed.load import Connection, Page
from scripts.testbed.services import service

_SENDERS = 4
_READERS = 2
_COMMANDS_PER_SECOND = 40
_PAGE = 200
_REPLAY_SECONDS = 300
_SWEPT_SECONDS = DROP_SECONDS + 120
_PAUSE_SECONDS = 0.01
_RANGES_EACH = 10

STEPS: Steps = {
    "begin": Generations,
    "prepare": rebuild,
    "fold_range": rebuild,
    "_scan": Rebuild,
    "write": Checkpoints,
    "_catch_up": Rebuild,
    "_prove": Rebuild,
    "fence": Checkpoints,
    "switch": Generations,
    "_hand_over": Rebuild,
    "sweep": Generations,
}
"""What a replay goes through."""
POINTS = points_of(STEPS)


async def kill_replay(
    url: str, rounds: int, check: Check = audited, points: Sequence[str] = POINTS
) -> Counter[str]:
    """Kill a replay at one point after the other; the last one ends."""
    async with under_load(url, check, "projecting") as database:
        for point in in_turn(points, rounds):
            nth = random.randint(1, 3) if "fold_range" in point else 1
            await killed(replay_and_die, url, point, nth, seconds=_REPLAY_SECONDS)
            await caught_up(database)
        await _replay(url)
        if points is POINTS:  # that takes some minutes
            await until(lambda: _is_swept(database), _SWEPT_SECONDS, "one generation is left")
    return Counter(killed=rounds)


async def _replay(url: str) -> None:
    code = await code_of("scripts.replay", seconds=_REPLAY_SECONDS, CASEBOOK_MONGODB_URL=url)
    require(code == 0, f"the replay ended with {code}")


async def _is_swept(database: Database) -> bool:
    active = await Generations(database).active()
    there = await database.collections(views_database(database.name))
    return {name for name in there if name[-1].isdigit()} == {*active.names.values()}


async def replay_and_die(url: str, point: str, nth: str) -> None:
    """Build everything anew until a point is reached for the nth time, and die as by kill -9."""
    die_at(STEPS, point, nth)
    setattr(EventStore, "ranges", _small_ranges)  # noqa: B010 to die between two
    database = Database(url)
    async with workers(database, 0) as here:
        await Rebuild(database, here).everything()


_ranges = EventStore.ranges


async def _small_ranges(store: EventStore) -> object:
    return await _ranges(store, await store.count() // _RANGES_EACH + 1)


# --- under load -----------------------------------------------------------------------------------


class _Dashboard(BaseModel):
    tickets: dict[str, int]


async def replay_under_load(url: str, rounds: int, check: Check = audited) -> Counter[str]:
    """Replay again and again under load; return counts, and milliseconds until it was visible."""
    clients, late_seconds = Clients(), [0.0]
    counted = clients.counted
    async with service("projecting", url) as port, service("projecting", url):
        pause_seconds = _SENDERS / _COMMANDS_PER_SECOND
        reading = run_all(*(_read(port, clients, late_seconds) for _ in range(_READERS)))
        async with clients.sending(port, _SENDERS, 1, pause_seconds), background(reading):
            await asyncio.sleep(2)
            for _ in with_progress(range(rounds), "replaying", "rounds"):
                began = time.perf_counter()
                late_seconds[:] = [0.0]
                await _replay(url)
                _keep_most(counted, "longest_until_visible_ms", late_seconds)
                await asyncio.sleep(time.perf_counter() - began)
                _keep_most(counted, "longest_without_replay_ms", late_seconds)
                counted["replays"] += 1
        failed = counted["unanswered"] + counted["answered_503"]
        require(not failed, f"{failed} requests failed")
        return await clients.judge(port, url, check)


def _keep_most(counted: Counter[str], name: str, late_seconds: list[float]) -> None:
    counted[name] = max(counted[name], round(1000 * max(late_seconds)))
    late_seconds[:] = [0.0]


async def _read(port: int, clients: Clients, late_seconds: list[float]) -> None:
    """Read lists and dashboard; nothing that was seen may be gone, and note what is late."""
    versions: dict[UUID, int] = {}
    tickets = 0
    async with Connection(port, HEADERS) as connection:
        while True:
            answer = accepted(await connection.get(f"/tickets?limit={_PAGE}"))
            now = time.perf_counter()
            listed = Page.model_validate_json(answer.body).tickets
            page = {ticket.id: ticket.version for ticket in listed}
            for ticket_id, version in page.items():
                known = versions.get(ticket_id, 0)
                require(version >= known, f"{ticket_id} went back from {known} to {version}")
                told, at = clients.acknowledged.get(ticket_id, (0, 0.0))
                if version < told:
                    late_seconds.append(now - at)
            # The list has what was opened last: all of it that was ever there, or it is full.
            gone = versions.keys() - page.keys()
            require(not gone or len(page) == _PAGE, f"{len(gone)} tickets are gone from the list")
            versions = {**versions, **page} if len(page) < _PAGE else page
            answer = accepted(await connection.get("/dashboard"))
            shown = sum(_Dashboard.model_validate_json(answer.body).tickets.values())
            require(shown >= max(tickets, len(page)), f"{shown} tickets after {tickets}")
            tickets = shown
            clients.counted["reads"] += 2
            await asyncio.sleep(_PAUSE_SECONDS)
