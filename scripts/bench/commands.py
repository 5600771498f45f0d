"""The write path beside a CRUD service and no database at all."""

import asyncio
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple
from uuid import uuid4

import orjson

from scripts.bench.found import Table, ratio, told
from scripts.bench.services import NOTE, OPEN, services
from scripts.console import progress
from scripts.load import Connection, request
from scripts.soak.promises import HEADERS

SERVICES = {
    "crud": "CRUD: update_one, find_one, replace_one",
    "group": "Casebook, group commit",
    "two": "Casebook as it is served, two workers",
    "projecting": "Casebook, group commit, projector in the process",
    "nothing": "validates the body, no database",
}
CONNECTIONS = (1, 32, 128)
OPENING_CONNECTIONS = 32


class Measured(NamedTuple):
    """One stretch of load: requests per second, and latencies in milliseconds."""

    rate: float
    p50: float
    p99: float


Stretches = dict[str, list[Measured]]
"""By kind of service."""


async def load(port: int, tickets: Sequence[str], connections: int, seconds: float) -> Measured:
    """Keep some connections busy for a while, with changes of tickets or, of none, opening some."""
    note, opening = orjson.dumps({"body": NOTE}), OPEN.model_dump_json().encode()
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def one() -> None:
        async with Connection(port) as connection:
            while (began := time.perf_counter()) < end:
                path, body = "/tickets", opening
                if tickets:
                    path, body = f"/tickets/{random.choice(tickets)}/add_note", note  # noqa: S311
                key = {"Idempotency-Key": uuid4().hex, **HEADERS}
                answer = await connection.send(request("POST", path, body, key))
                if answer.status != (200 if tickets else 201):
                    raise RuntimeError(f"{answer.status}: {answer.body!r}")
                latencies.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(connections)))
    taken = time.perf_counter() - began
    latencies.sort()
    return Measured(
        rate=len(latencies) / taken,
        p50=1000 * latencies[len(latencies) // 2],
        p99=1000 * latencies[int(len(latencies) * 0.99)],
    )


async def commands(url: str, rounds: int, seconds: float) -> list[Table]:
    """Measure the write path of all services in turn."""
    changes: dict[int, Stretches] = {n: defaultdict(list) for n in CONNECTIONS}
    opened: Stretches = defaultdict(list)
    async with services(dict.fromkeys(SERVICES, url)) as running:
        with progress() as bar:
            # Opening comes last: what is changed is to be among few tickets in each round.
            turns: list[int | None] = [*CONNECTIONS] * rounds + [None] * rounds
            task = bar.add_task("", total=len(turns) * len(SERVICES), rate="stretches")
            warming = {*CONNECTIONS, None}  # the first of each is for that
            for connections in turns:
                for kind in random.sample(list(SERVICES), len(SERVICES)):
                    bar.update(task, description=f"{connections or 'opening'}: {kind}")
                    service = running[kind]
                    some = service.tickets if connections else []
                    at_once = connections or OPENING_CONNECTIONS
                    found = await load(service.port, some, at_once, seconds)
                    if kind == "projecting":
                        await asyncio.sleep(seconds)  # to catch up before others are measured
                    if connections not in warming:
                        (changes[connections] if connections else opened)[kind].append(found)
                    bar.advance(task)
                warming.discard(connections)
    return [
        *(
            _table(f"One-event commands on existing tickets, {count} connections", changes[count])
            for count in CONNECTIONS
        ),
        _table(f"Opening tickets, {OPENING_CONNECTIONS} connections", opened),
    ]


async def durability(synced: str, unsynced: str, rounds: int, seconds: float) -> list[Table]:
    """Measure the same on a database that waits for the disk and one that does not, in turn."""
    names = {"group": "as embedded by default: synced", "unsynced": "not synced"}
    found: Stretches = defaultdict(list)
    async with services({"group": synced, "unsynced": unsynced}) as running:
        with progress() as bar:
            task = bar.add_task("durability", total=(rounds + 1) * 2, rate="stretches")
            for round_ in range(rounds + 1):
                for kind in random.sample(list(names), 2):
                    service = running[kind]
                    measured = await load(service.port, service.tickets, 32, seconds)
                    if round_ > 0:
                        found[kind].append(measured)
                    bar.advance(task)
    rates = {kind: [m.rate for m in measured] for kind, measured in found.items()}
    rows = [
        [
            name,
            *_figures(found[kind]),
            told(ratio(rates[kind], rates["group"])),
        ]
        for kind, name in names.items()
    ]
    columns = ["database", "requests/s", "p50 ms", "p99 ms", "of synced"]
    bars = {name: rates[kind] for kind, name in names.items()}
    about = "One-event commands, 32 connections, each acknowledged on disk or not"
    return [Table(about, columns, rows, "requests/s", bars)]


def _table(about: str, found: Stretches) -> Table:
    rates = {kind: [m.rate for m in measured] for kind, measured in found.items()}
    rows = [
        [
            name,
            *_figures(found[kind]),
            told(ratio(rates[kind], rates["crud"])),
            told(ratio(rates[kind], rates["nothing"])),
        ]
        for kind, name in SERVICES.items()
    ]
    columns = ["service", "requests/s", "p50 ms", "p99 ms", "of CRUD", "of no database"]
    bars = {name: rates[kind] for kind, name in SERVICES.items()}
    return Table(about, columns, rows, "requests/s", bars)


def _figures(measured: Sequence[Measured]) -> list[str]:
    return [
        f"{statistics.median(m.rate for m in measured):.0f}",
        f"{statistics.median(m.p50 for m in measured):.1f}",
        f"{statistics.median(m.p99 for m in measured):.1f}",
    ]
