"""Reads, compared with an endpoint that has the same bytes in memory.

The tickets are those of the dashboard's measurement, in the views of a log without events: so a
single ticket is its read document and a look for what the log has behind it, as always. Each answer
is asked for once, and kept by a service that does nothing but send it again.
"""

import random
from collections.abc import Sequence
from functools import partial
from itertools import product

from eventstore.database import Database
from projections.generations import Generations
from projections.views import tickets
from scripts.bench.found import Table, median, ratio
from scripts.bench.made_up_views import copies, made_up_lives, write_views
from scripts.bench.measuring import Measured, Options, in_turns, load, prepared
from scripts.testbed.harness import HEADERS, accepted
from scripts.testbed.load import Connection, request
from scripts.testbed.services import ANSWERS, service

CONNECTIONS = 32
_ASKED = 200  # tickets
_KINDS = {"memory": "the same bytes from memory", "group": "Casebook"}
_LISTS = {
    "a page of 50": "/tickets",
    "a page of 50 of one group": "/tickets?group=group%203",
    "a search, 50 found": "/tickets?q=jams+status:open",
    "a search, nothing found": "/tickets?q=nowhere",
}


async def measure(url: str, options: Options) -> list[Table]:
    """Measure each kind of read, both services in turn."""
    count = options.tickets
    async with prepared(url) as database, service("group", url) as port:
        shown = await Generations(database).shown()
        await write_views(shown, copies(made_up_lives(), count))
        some = shown.collection(tickets.COLLECTION).find({}, {"_id": 1}).limit(count)
        ids = random.sample([str(d["_id"]) async for d in some], min(_ASKED, count))
        paths = {"a ticket": [f"/tickets/{id_}" for id_ in ids]}
        paths |= {name: [path] for name, path in _LISTS.items()}
        await _keep_answers(database, port, [p for each in paths.values() for p in each])
        async with service("memory", url) as memory:
            ports = {"group": port, "memory": memory}

            async def read(name: str, kind: str) -> Measured:
                asked = [request("GET", path, b"", HEADERS) for path in paths[name]]
                next_request = partial(random.choice, asked)
                return await load(ports[kind], next_request, CONNECTIONS, options.seconds)

            ways = {way: partial(read, *way) for way in product(paths, _KINDS)}
            found = await in_turns(ways, options.rounds, "reads")
    rates = {way: [each.rate for each in stretches] for way, stretches in found.items()}
    rows = [
        [
            name,
            *(median(rates[name, kind]) for kind in _KINDS),
            ratio(rates[name, "group"], rates[name, "memory"]),
            *(median([each.p99 for each in found[name, kind]], 1) for kind in _KINDS),
        ]
        for name in paths
    ]
    columns = ["", *(f"{kind}, reads/s" for kind in _KINDS.values()), "ratio"]
    columns += [f"{kind}, p99 ms" for kind in _KINDS.values()]
    bars = {f"{name}, {_KINDS[kind]}": each for (name, kind), each in rates.items()}
    return [Table(f"{count:,} tickets, {CONNECTIONS} connections", columns, rows, "reads/s", bars)]


async def _keep_answers(database: Database, port: int, paths: Sequence[str]) -> None:
    """Ask once, and keep what is answered where the other service finds it."""
    kept = database.collection(ANSWERS)
    async with Connection(port, HEADERS) as connection:
        for path in paths:
            answer = accepted(await connection.get(path))
            await kept.insert_one({"_id": path, "body": answer.body})
