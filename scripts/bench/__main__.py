"""Measure Casebook beside what one would do otherwise, in one run.

    python -m scripts.bench commands     the write path beside a CRUD service and no database
    python -m scripts.bench durability   the same with each command on disk, and without
    python -m scripts.bench reads        tickets and lists beside the same bytes from memory
    python -m scripts.bench lists        pages of lists over histories of different shapes
    python -m scripts.bench growth       what a command costs on a long stream, and in a long log
    python -m scripts.bench projections  from acknowledged to visible; what a projector can take
    python -m scripts.bench dashboard    the dashboard beside an aggregation over the same tickets
    python -m scripts.bench replay       all views built anew, beside a mere scan of the log
    python -m scripts.bench sealing      commands and replays with personal data sealed and not
    python -m scripts.bench peer         beside the library `eventsourcing`
    python -m scripts.bench console      the desk in a browser, over many tickets and live
    python -m scripts.bench all

Everything runs on this machine on an embedded database of its own, with its default durability.
Machines are noisy: what is compared takes turns, round by round, and the medians are reported. The
ratios mean more than the numbers. `--record` puts what was found into docs/performance.md.
"""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from api.settings import Settings
from eventstore.mongo import embedded
from eventstore.personal.master_keys import new_master_key
from scripts.bench.commands import commands, durability
from scripts.bench.dashboard import dashboard
from scripts.bench.found import Table, record
from scripts.bench.growth import growth
from scripts.bench.lists import lists
from scripts.bench.projections import projections
from scripts.bench.reads import reads
from scripts.bench.replay import replay
from scripts.bench.sealing import sealing
from scripts.console import UsageError, arguments, run
from scripts.testbed.services import serve

_WHAT = (
    "commands",
    "durability",
    "reads",
    "lists",
    "growth",
    "projections",
    "dashboard",
    "replay",
    "sealing",
    "peer",
    "console",
)


async def main() -> int:
    if sys.argv[1:2] == ["_serve"]:
        kind, url, port = sys.argv[2:]
        return await serve(kind, url, int(port))
    parser = arguments(__doc__, "bench")
    parser.add_argument("what", choices=[*_WHAT, "all"])
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds (5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of load at a time (3)")
    parser.add_argument(
        "--tickets",
        type=int,
        nargs="+",
        default=[10_000, 100_000, 1_000_000],
        help="of the dashboard (10000 100000 1000000); reads, lists and console: the second",
    )
    parser.add_argument(
        "--events", type=int, default=1_000_000, help="of the log that is replayed (1000000)"
    )
    parser.add_argument(
        "--record", action="store_true", help="put what is found into docs/performance.md"
    )
    options = parser.parse_args()
    os.environ.setdefault("CASEBOOK_MASTER_KEY", new_master_key())  # for all it starts
    driver = Settings.from_environment().mongo_driver
    machine = (
        f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, "
        f"{driver}; the database, the service and the load share them; {options.rounds} rounds"
    )
    print(machine)
    for what in _WHAT if options.what == "all" else (options.what,):
        try:
            tables = await _measure(what, options)
        except ImportError as error:
            raise UsageError(f"{error}: `make bench` sets up what is needed") from error
        for table in tables:
            print(f"\n{table.about}\n\n{table.markdown()}")
        if options.record:
            record(what, f"{machine}.", tables)
    return 0


async def _measure(what: str, options: argparse.Namespace) -> list[Table]:
    rounds, seconds = options.rounds, options.seconds
    sizes, events = sorted(options.tickets), options.events
    async with _database() as url:
        match what:
            case "commands":
                return await commands(url, rounds + 1, seconds)
            case "durability":
                async with _database(durable=False) as unsynced:
                    return await durability(url, unsynced, rounds, seconds)
            case "reads":
                return await reads(url, rounds, seconds, sizes[:2][-1])
            case "lists":
                return await lists(url, rounds, sizes[:2][-1])
            case "growth":
                return await growth(url, rounds, (events // 100, events // 10))
            case "projections":
                return await projections(url, rounds, seconds)
            case "replay":
                return await replay(url, rounds, events)
            case "sealing":
                return await sealing(url, rounds, seconds, events // 10)
            # Imported here, because servers of the benchmark need none of it, and may not have it.
            case "peer":
                from scripts.bench.peer import peer  # noqa: PLC0415

                return await peer(url, rounds, seconds)
            case "console":
                from scripts.bench.console import console  # noqa: PLC0415

                return await console(url, rounds, seconds, sizes[:2][-1])
            case _:
                return await dashboard(url, rounds, sizes)


@asynccontextmanager
async def _database(*, durable: bool = True) -> AsyncIterator[str]:
    with tempfile.TemporaryDirectory(prefix="casebook-bench-") as folder:
        os.environ["CASEBOOK_DATA_DIR"] = folder  # for all it starts
        async with embedded.run(Path(folder), durable=durable) as url:
            yield url


if __name__ == "__main__":
    run(main)
