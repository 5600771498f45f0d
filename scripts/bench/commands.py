"""The write path beside a CRUD service and no database at all."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import chain, product
from uuid import uuid4

import orjson

from scripts.bench.found import Table, ratio, told
from scripts.bench.measuring import Measured, load, median, turns
from scripts.testbed.load import request
from scripts.testbed.promises import HEADERS
from scripts.testbed.services import NOTE, OPEN, Service, services

SERVICES = {
    "crud": "CRUD: update_one, find_one, replace_one",
    "group": "Casebook, group commit",
    "two": "Casebook as it is served, two workers",
    "projecting": "Casebook, group commit, projector in the process",
    "nothing": "validates the body, no database",
}
CONNECTIONS = (1, 32, 128)
OPENING_CONNECTIONS = 32


Stretches = dict[str, list[Measured]]
"""By kind of service."""


def _notes(tickets: Sequence[str]) -> Callable[[], bytes]:
    """Return what makes requests that add a note to one of some tickets."""
    body = orjson.dumps({"body": NOTE})
    return lambda: _request(f"/tickets/{random.choice(tickets)}/add_note", body)  # noqa: S311


def _opening() -> bytes:
    return _request("/tickets", OPEN.model_dump_json().encode())


def _request(path: str, body: bytes) -> bytes:
    return request("POST", path, body, {"Idempotency-Key": uuid4().hex, **HEADERS})


async def load_notes(service: Service, connections: int, seconds: float) -> Measured:
    """Keep some connections busy with notes on the tickets of a service."""
    return await load(service.port, _notes(service.tickets), connections, seconds)


async def commands(url: str, rounds: int, seconds: float) -> list[Table]:
    """Measure the write path of all services in turn."""
    changes: dict[int, Stretches] = {n: defaultdict(list) for n in CONNECTIONS}
    opened: Stretches = defaultdict(list)

    async def measure(kind: str, connections: int | None) -> Measured:
        if connections is None:
            return await load(running[kind].port, _opening, OPENING_CONNECTIONS, seconds)
        return await load_notes(running[kind], connections, seconds)

    async with services(dict.fromkeys(SERVICES, url)) as running:
        # Opening comes last: what is changed is to be among few tickets in each round.
        changing = list(product(CONNECTIONS, SERVICES))
        stretches = chain(
            turns(changing, rounds - 1, "changes"),
            turns([(None, kind) for kind in SERVICES], rounds - 1, "opening"),
        )
        for (connections, kind), is_counted in stretches:
            found = await measure(kind, connections)
            if kind == "projecting":
                await asyncio.sleep(seconds)  # to catch up before others are measured
            if is_counted:
                (opened if connections is None else changes[connections])[kind].append(found)
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
        for kind, is_counted in turns(names, rounds, "durability"):
            measured = await load_notes(running[kind], 32, seconds)
            if is_counted:
                found[kind].append(measured)
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
        median([m.rate for m in measured]),
        median([m.p50 for m in measured], 1),
        median([m.p99 for m in measured], 1),
    ]
