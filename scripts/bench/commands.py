"""The write path, compared with a CRUD service and with no database at all."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from uuid import uuid4

import orjson

from scripts.bench.found import Table, median, ratio
from scripts.bench.measuring import Measured, Options, in_turns, load
from scripts.testbed.harness import HEADERS
from scripts.testbed.load import request
from scripts.testbed.services import NOTE, OPEN, open_tickets, services

SERVICES = {
    "crud": "CRUD: update_one, find_one, replace_one",
    "group": "Casebook, group commit",
    "two": "Casebook as it is served, two workers",
    "projecting": "Casebook, group commit, projector in the process",
    "nothing": "validates the body, no database",
}
CONNECTIONS = (1, 32, 128)
OPENING_CONNECTIONS = NOTES_CONNECTIONS = 32


async def measure(url: str, options: Options) -> list[Table]:
    """Measure the write path of all services in turn."""
    rounds, seconds = options.rounds, options.seconds
    async with services(dict.fromkeys(SERVICES, url)) as running:

        async def measured(kind: str, connections: int | None) -> Measured:
            if connections is None:
                found = await load(running[kind], _opening, OPENING_CONNECTIONS, seconds)
            else:
                found = await load_notes(running[kind], connections, seconds)
            if kind == "projecting":
                await asyncio.sleep(seconds)  # to catch up before others are measured
            return found

        changing = {way: partial(measured, *way) for way in product(SERVICES, CONNECTIONS)}
        changed = await in_turns(changing, rounds, "changes")
        # Opening comes last: what is changed is to be among few tickets.
        opening = {kind: partial(measured, kind, None) for kind in SERVICES}
        opened = await in_turns(opening, rounds, "opening")
    stretches = {
        f"One-event commands on existing tickets, {count} connections": {
            kind: changed[kind, count] for kind in SERVICES
        }
        for count in CONNECTIONS
    }
    stretches[f"Opening tickets, {OPENING_CONNECTIONS} connections"] = opened
    columns = ["service", "of CRUD", "of no database"]
    return [
        rates_table(about, columns, SERVICES, found, ("crud", "nothing"))
        for about, found in stretches.items()
    ]


def rates_table(
    about: str,
    columns: Sequence[str],
    names: Mapping[str, str],
    found: Mapping[str, Sequence[Measured]],
    others: Sequence[str],
) -> Table:
    """Return a row for each kind of service: its figures, and its rate as ratio to those of others.

    `columns`: the heads of the first column, and of the ratios.
    """
    rates = {kind: [each.rate for each in found[kind]] for kind in names}
    rows = [
        [
            name,
            median(rates[kind]),
            median([each.p50 for each in found[kind]], 1),
            median([each.p99 for each in found[kind]], 1),
            *(ratio(rates[kind], rates[other]) for other in others),
        ]
        for kind, name in names.items()
    ]
    head = [columns[0], "requests/s", "p50 ms", "p99 ms", *columns[1:]]
    return Table(
        about, head, rows, "requests/s", {name: rates[kind] for kind, name in names.items()}
    )


async def notes_in_turns(urls: Mapping[str, str], options: Options) -> dict[str, list[Measured]]:
    """Load some kinds of services with notes, each on the server at its URL; return by round what
    was measured of each.
    """
    async with services(urls) as running:
        ways = {
            kind: partial(load_notes, running[kind], NOTES_CONNECTIONS, options.seconds)
            for kind in urls
        }
        return await in_turns(ways, options.rounds, "commands")


async def load_notes(port: int, connections: int, seconds: float) -> Measured:
    """Keep some connections busy with notes on new tickets: round by round on the same ones, they
    would become longer than any that somebody has, and what is kept in memory too large for it.
    """
    tickets, body = await open_tickets(port), orjson.dumps({"body": NOTE})

    def note() -> bytes:
        return _command(f"/tickets/{random.choice(tickets)}/add_note", body)  # noqa: S311

    return await load(port, note, connections, seconds)


def _opening() -> bytes:
    return _command("/tickets", OPEN.model_dump_json().encode())


def _command(path: str, body: bytes) -> bytes:
    return request("POST", path, body, {"Idempotency-Key": uuid4().hex, **HEADERS})
