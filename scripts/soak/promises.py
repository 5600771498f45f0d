"""What a soak works with, and how it tells that a promise was broken."""

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast
from uuid import UUID

from api.access.keys import KeyOrder, Keys, new_key
from domain.actors import Actor, PrincipalRole
from domain.errors import CasebookError
from domain.tickets.opening import OpenTicket
from eventstore.event_document import Envelope, chain_is_whole, to_document, utc_now
from eventstore.failures import VersionConflict
from eventstore.log import EventStore
from eventstore.mongo import embedded
from eventstore.mongo.driver import connect
from scripts.load import Connection
from scripts.soak.patience import patience

ACTOR = Actor("soak", "agent")
OPEN = OpenTicket(subject="Soak", requester="soak")

READY_SECONDS = 60

_KEY, _TEXT = new_key(ACTOR.id, "supervisor", "a soak", utc_now())
HEADERS = {"Authorization": f"Bearer {_TEXT}"}
"""By what servers know who asks, once `let_in` has told them."""


async def let_in_many(url: str, count: int) -> list[dict[str, str]]:
    """Return the headers of so many callers, each somebody else: of what is bounded each has a
    share.
    """
    connected = connect(url)
    try:
        orders = [KeyOrder(principal=f"{ACTOR.id}-{n}", role="supervisor") for n in range(count)]
        made = [await Keys(connected).make(order, "a soak") for order in orders]
    finally:
        await connected.close()
    return [{"Authorization": f"Bearer {text}"} for _, text in made]


async def let_in(url: str, role: PrincipalRole = "supervisor") -> dict[str, str]:
    """Make who asks with HEADERS known to servers of a database; or give others, for a role."""
    connected = connect(url)
    try:
        if role != "supervisor":
            _, text = await Keys(connected).make(
                KeyOrder(principal=f"{ACTOR.id}-{role}", role=role), "a soak"
            )
            return {"Authorization": f"Bearer {text}"}
        with suppress(VersionConflict):
            await Keys(connected).add(_KEY)
        return HEADERS
    finally:
        await connected.close()


class PromiseBroken(CasebookError):
    """The log is not what was promised. This is what a soak looks for."""

    def __init__(self, detail: str) -> None:
        super().__init__("promise_broken", detail)


def require(condition: object, detail: str) -> None:
    if not condition:
        raise PromiseBroken(detail)


@asynccontextmanager
async def scratch() -> AsyncIterator[str]:
    """Run an embedded database in a temporary folder and give its URL.

    What is started meanwhile keeps its files there as well, unless told otherwise.
    """
    with tempfile.TemporaryDirectory(prefix="casebook-soak-") as folder:
        os.environ["CASEBOOK_DATA_DIR"] = folder
        async with embedded.run(Path(folder)) as url:
            yield url


async def streams(store: EventStore) -> dict[UUID, list[Envelope]]:
    """Read the whole log and check every ticket's stream: versions 1..n, chain whole (L2, L11)."""
    found: dict[UUID, list[Envelope]] = {}
    async for event in store.scan():
        found.setdefault(event.ticket_id, []).append(event)
    for ticket, events in found.items():
        events.sort(key=lambda event: event.version)
        versions = [event.version for event in events]
        require(versions == list(range(1, len(events) + 1)), f"{ticket}: versions {versions}")
        require(chain_is_whole(map(to_document, events)), f"{ticket}: the chain is broken")
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return cast("int", listening.getsockname()[1])


@asynccontextmanager
async def process(*words: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a script of this project; kill it at the end if it still runs."""
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *words,
        env={**os.environ, "CASEBOOK_RATE_LIMIT": "1000000/second", **environment},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def ready(port: int) -> None:
    """Wait until a server answers."""
    async with asyncio.timeout(patience(READY_SECONDS)):
        while True:
            with suppress(ConnectionError):
                async with Connection(port) as connection:
                    await connection.get("/healthz")
                    return
            await asyncio.sleep(0.02)
