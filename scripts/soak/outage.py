"""Too many clients, and a database that stops: 503s and nothing else, then as before (L3, L5, L12).

`overload`: hundreds of connections send as fast as they can. No answer is a 5xx but a 503 with
`Retry-After`, the server's memory stays bounded, and it is itself again within seconds.

`outage`: the database is reached through a proxy that cuts connections off with the answer to a
write, and that passes nothing on for a while. No answer is a 5xx but a 503; then the server
recovers by itself.

What was acknowledged is in the log once; all else is sent again, and is there then.
"""

import asyncio
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import count

from domain.actors import PrincipalRole
from domain.values import JsonObject
from scripts.cli import with_progress
from scripts.soak.clients import Clients, until_well
from scripts.soak.kill import embedded_server, url_of
from scripts.testbed.harness import callers, free_port, memory_bytes, require, serving, until
from scripts.testbed.judging import Check, audited
from scripts.testbed.wire import Fate, passed, through

CONNECTIONS = 500
_BEYOND = 1300  # more than a process serves at once
_BEYOND_SECONDS = 5
_CALLERS = 20
_MOST_BYTES = 700 * 2**20  # of the server's memory
_RECOVERY_SECONDS = 20.0
_SHOWN_SECONDS = 1.0
_CLIENTS = 16
_TICKETS = 50
_CUT_EVERY = 200  # so-many-th answer of the database
_ENOUGH = 200  # answers, to say that it goes on as before


async def overload(
    _: str, seconds: int, check: Check = audited, connections: int = CONNECTIONS
) -> Counter[str]:
    """Send more than can be served. Raises PromiseBroken."""
    _allow_files(2 * _BEYOND)
    clients = Clients()
    async with embedded_server() as (port, api, folder):
        roles: list[PrincipalRole] = ["supervisor"] * _CALLERS
        supervisors = await callers(url_of(folder), *roles)
        for number, stretch in ((connections, seconds), (_BEYOND, _BEYOND_SECONDS)):
            async with clients.sending(port, number, _TICKETS, callers=supervisors):
                for _second in with_progress(range(stretch), f"{number} connections", "seconds"):
                    await asyncio.sleep(1)
                    held = memory_bytes(api.pid)
                    require(held < _MOST_BYTES, f"the server holds {held} bytes")
                    clients.counted["most_mb"] = max(clients.counted["most_mb"], held // 2**20)
        await _recover(clients, port, _RECOVERY_SECONDS)
        await clients.judge(port, url_of(folder), check)
    return clients.counted


async def _recover(clients: Clients, port: int, seconds: float) -> None:
    """Wait until the server is as before."""
    began = time.perf_counter()
    await until_well(port, seconds, _SHOWN_SECONDS)
    clients.counted["recovered_after_ms"] = round(1000 * (time.perf_counter() - began))


def _allow_files(wanted: int) -> None:
    """Let this process, and those that it starts, open so many files at least."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


async def outage(url: str, seconds: int, check: Check = audited) -> Counter[str]:
    """Let the database stand still for so long under load, and cut it off again and again.

    Raises PromiseBroken.
    """
    clients, port, commands = Clients(), free_port(), count(1)
    counted = clients.counted

    def cut_off(_: JsonObject) -> Fate:
        if next(commands) % _CUT_EVERY:
            return Fate.PASSED
        counted["cut_off"] += 1
        return Fate.CUT_OFF

    async def work_until(seen: Callable[[], bool], what: str) -> None:
        """Let clients send for a while, and until something is seen, however slow they are."""
        await asyncio.sleep(seconds)
        await until(seen, 10 * seconds, what)

    with tempfile.TemporaryDirectory(prefix="casebook-soak-") as folder:
        async with (
            through(url) as (reached_by, wire),
            serving("scripts.serve", port=port, url=reached_by, CASEBOOK_DATA_DIR=folder),
        ):
            async with clients.sending(port, _CLIENTS, _TICKETS):
                wire.heard = cut_off
                await work_until(lambda: counted["cut_off"] > 0, "an answer is cut off")
                wire.heard = passed
                wire.moving.clear()
                await work_until(lambda: counted["answered_503"] > 0, "the outage is felt")
                wire.moving.set()
                await clients.answered(_ENOUGH)
            # Lists lag behind clients that send as fast as they can; without them, they catch up.
            await _recover(clients, port, seconds + _RECOVERY_SECONDS)
            await clients.judge(port, url, check)
    return counted
