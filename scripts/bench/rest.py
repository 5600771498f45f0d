"""What a server at rest asks of its database, and how busy both are (Linux)."""

import asyncio
import os
from collections import Counter
from pathlib import Path

from domain.values import JsonObject
from scripts.bench.found import Table, median
from scripts.bench.measuring import Options
from scripts.testbed.harness import database_processes, free_port, serving
from scripts.testbed.services import open_tickets
from scripts.testbed.wire import Fate, kind_of, through

_STRETCH = 4  # so many times as long as one of load
_SETTLED_SECONDS = 65.0


async def measure(url: str, options: Options) -> list[Table]:
    """Measure a server that does everything by itself, with some tickets and nobody who asks."""
    heard = Counter[str]()

    def hear(command: JsonObject) -> Fate:
        heard[f"{kind_of(command)} of {str(command['$db']).removeprefix('casebook')}"] += 1
        return Fate.PASSED

    seconds, port = _STRETCH * options.seconds, free_port()
    everything, busy = Counter[str](), list[tuple[float, float]]()
    async with (
        through(url, hear) as (wired, _),
        serving("scripts.serve", port=port, url=wired) as server,
    ):
        [database] = database_processes(Path(os.environ["CASEBOOK_DATA_DIR"]))
        await open_tickets(port)
        await asyncio.sleep(_SETTLED_SECONDS)
        for _ in range(options.rounds):
            before = _busy_seconds(server.pid), _busy_seconds(database)
            heard.clear()
            await asyncio.sleep(seconds)
            everything += heard
            after = _busy_seconds(server.pid), _busy_seconds(database)
            busy.append((after[0] - before[0], after[1] - before[1]))
    of_both = [[100 * part / seconds for part in each] for each in zip(*busy, strict=True)]
    total = seconds * options.rounds
    kinds = [(kind, f"{count / total:.2f}") for kind, count in everything.most_common()]
    return [
        Table(
            "A server at rest",
            ["", "commands/s", "server, % of a processor", "database, % of a processor"],
            [["", f"{everything.total() / total:.1f}", *(median(each, 2) for each in of_both)]],
            "",
        ),
        Table("Its commands by kind", ["kind", "a second"], kinds, ""),
    ]


def _busy_seconds(pid: int) -> float:
    """Return how long a process has been on a processor (the manual page proc_pid_stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
