"""Reads beside an endpoint that has the same bytes in memory.

The tickets are those of the dashboard's measurement, in the views of a log without events: so a
single ticket is its read document and a look for what the log has behind it, as always. Each answer
is asked for once, and kept by a service that does nothing but send it again.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from itertools import product

from eventstore.database import Database
from projections.generations import Generations
from projections.views import tickets
from scripts.bench.dashboard import fill, made_up_lives
from scripts.bench.found import Table, ratio, told
from scripts.bench.measuring import load, median, prepared, turns
from scripts.testbed.load import Connection, request
from scripts.testbed.promises import HEADERS, accepted, service
from scripts.testbed.services import ANSWERS

CONNECTIONS = 32
_ASKED = 200  # tickets
_KINDS = {"memory": "the same bytes from memory", "group": "Casebook"}
_LISTS = {
    "a page of 50": "/tickets",
    "a page of 50 of one group": "/tickets?group=group%203",
    "a search, 50 found": "/tickets?q=jams+status:open",
    "a search, nothing found": "/tickets?q=toner",
}


async def reads(url: str, rounds: int, seconds: float, count: int) -> list[Table]:
    """Measure each kind of read at so many tickets, both services in turn."""
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    p99s: dict[tuple[str, str], list[float]] = defaultdict(list)
    async with prepared(url) as database, service("group", url) as port:
        views = await Generations(database).shown()
        await fill(views, made_up_lives(), 0, count)
        some = views.collection(tickets.COLLECTION).find({}, {"_id": 1}).limit(count)
        ids = random.sample([str(d["_id"]) async for d in some], min(_ASKED, count))
        asked = {"a ticket": [f"/tickets/{id_}" for id_ in ids]}
        asked |= {name: [path] for name, path in _LISTS.items()}
        await _keep_answers(database, port, [p for each in asked.values() for p in each])
        async with service("memory", url) as memory:
            ports = {"group": port, "memory": memory}
            for (name, kind), is_counted in turns(product(asked, _KINDS), rounds, "reads"):
                asks = [request("GET", path, b"", HEADERS) for path in asked[name]]
                found = await load(ports[kind], partial(random.choice, asks), CONNECTIONS, seconds)
                if is_counted:
                    rates[name, kind].append(found.rate)
                    p99s[name, kind].append(found.p99)
    rows = [
        [
            name,
            *(median(rates[name, kind]) for kind in _KINDS),
            told(ratio(rates[name, "group"], rates[name, "memory"])),
            *(median(p99s[name, kind], 1) for kind in _KINDS),
        ]
        for name in asked
    ]
    columns = ["", *(f"{kind}, reads/s" for kind in _KINDS.values()), "ratio"]
    columns += [f"{kind}, p99 ms" for kind in _KINDS.values()]
    bars = {f"{name}, {_KINDS[kind]}": found for (name, kind), found in rates.items()}
    return [Table(f"{count:,} tickets, {CONNECTIONS} connections", columns, rows, "reads/s", bars)]


async def _keep_answers(database: Database, port: int, paths: Sequence[str]) -> None:
    """Ask once, and keep what is answered where the other service finds it."""
    kept = database.collection(ANSWERS)
    async with Connection(port, HEADERS) as connection:
        for path in paths:
            answer = accepted(await connection.get(path))
            await kept.insert_one({"_id": path, "body": answer.body})
