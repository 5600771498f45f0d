"""Kill -9 of the API and of its database at bad moments, under clients (L3, L4, L5, L7)."""

import asyncio
import os
import random
import signal
import tempfile
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import chain
from pathlib import Path

from api.queries.visibility import Visibility
from eventstore.log import EventStore
from scripts.cli import with_progress
from scripts.soak.clients import Clients
from scripts.testbed.child import NEVER, child, die_at, in_turn
from scripts.testbed.harness import (
    READY_SECONDS,
    connected,
    database_processes,
    free_port,
    let_in,
    ready,
    require,
    serving,
)
from scripts.testbed.judging import Check, audited
from scripts.testbed.patience import patience
from scripts.testbed.services import serve

POINTS = ("random", "before append", "after append", "before outcome")
_CLIENTS = 8
_TICKETS = 3


async def kill_api(url: str, rounds: int) -> Counter[str]:
    """Kill the API process in every round, at random or at a named point. Raises PromiseBroken."""
    clients, killed = Clients(), Counter[str]()
    async with connected(url) as database:
        for point in chain(in_turn(POINTS, rounds), [NEVER]):
            # Not before the retries and openings with which a round begins are through.
            port, nth = free_port(), random.randrange(2 * _CLIENTS + 10, 70)
            async with child(serve_and_die, url, port, point, nth) as api:
                await ready(port)
                await let_in(url)
                await clients.check(database)
                if point == NEVER:
                    killed += await clients.judge(port, url)
                    break
                await clients.retry(port)
                async with clients.sending(port, _CLIENTS, _TICKETS):
                    if point == "random":
                        await clients.answered(random.randrange(20, 200))
                        api.kill()
                    code = await asyncio.wait_for(api.wait(), patience(READY_SECONDS))
                    require(code == -signal.SIGKILL, f"the API ended with {code}, not by a kill")
            killed[f"killed_{point}"] += 1
    return killed


async def serve_and_die(url: str, port: str, point: str, nth: str) -> None:
    """Serve until the nth command reaches a point, and die there as by kill -9."""
    die_at({"append": EventStore, "outcome": Visibility}, point, nth)
    await serve("group", url, port)


async def kill_database(_: str, rounds: int, check: Check = audited) -> Counter[str]:
    """Kill the embedded database under load, while the API lives and projects.

    Raises PromiseBroken.
    """
    clients, killed = Clients(), 0
    async with embedded_server() as (port, _api, folder):
        for _round in with_progress(range(rounds), "killing", "rounds"):
            async with clients.sending(port, _CLIENTS, _TICKETS):
                await clients.answered(random.randrange(60, 200))
                killed += kill_database_of(folder)
                await asyncio.sleep(random.uniform(0.0, 0.5))
            async with connected(url_of(folder)) as database:
                await clients.check(database)
            await clients.retry(port)
        counted = await clients.judge(port, url_of(folder), check)
    require(killed == rounds, f"{killed} of {rounds} databases could be killed")
    return Counter(killed=killed) + counted


@asynccontextmanager
async def embedded_server() -> AsyncIterator[tuple[int, Process, Path]]:
    """Run a server with a database of its own; yield its port, its process and its folder."""
    with tempfile.TemporaryDirectory(prefix="casebook-soak-") as folder:
        port = free_port()
        async with serving("scripts.serve", port=port, CASEBOOK_DATA_DIR=folder) as api:
            await let_in(url_of(Path(folder)))
            yield port, api, Path(folder)


def url_of(folder: Path) -> str:
    """Return the URL of the embedded database in a folder."""
    return (folder / "database.url").read_text()


def kill_database_of(folder: Path) -> int:
    """Kill the embedded database of a folder; return how many processes it had."""
    pids = database_processes(folder)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return len(pids)
