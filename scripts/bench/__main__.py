"""Measure Casebook and what one would do otherwise, in one run.

    python -m scripts.bench commands     the write path, a CRUD service, and no database
    python -m scripts.bench durability   the same with each command on disk, and without
    python -m scripts.bench reads        tickets and lists, and the same bytes from memory
    python -m scripts.bench lists        pages of lists over histories of different shapes
    python -m scripts.bench growth       what a command costs on a long stream, and in a long log
    python -m scripts.bench projections  from acknowledged to visible; what a projector can take
    python -m scripts.bench dashboard    the dashboard, and an aggregation over the same tickets
    python -m scripts.bench replay       all views built anew, and a mere scan of the log
    python -m scripts.bench sealing      commands and replays with personal data sealed and not
    python -m scripts.bench peer         the library `eventsourcing`
    python -m scripts.bench console      the desk in a browser, over many tickets and live
    python -m scripts.bench all

Everything runs on this machine on an embedded database of its own, with its default durability.
Machines are noisy: what is compared takes turns, round by round, and the medians are reported. The
ratios mean more than the numbers. `--record` puts what was found into
docs/explanation/performance.md.
"""

import os
import platform
import sys
from collections.abc import Awaitable, Callable
from importlib import import_module

from api.settings import Settings
from eventstore.personal.master_keys import new_master_key
from scripts.bench.found import Table, record
from scripts.bench.measuring import Options
from scripts.console import UsageError, arguments, run
from scripts.testbed.promises import scratch
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
"""Measurements, each the `measure` of the module that has its name."""


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
        "--record",
        action="store_true",
        help="put what is found into docs/explanation/performance.md",
    )
    words = parser.parse_args()
    options = Options(words.rounds, words.seconds, sorted(words.tickets), words.events)
    os.environ.setdefault("CASEBOOK_MASTER_KEY", new_master_key())  # for all it starts
    driver = Settings.from_environment().mongo_driver
    machine = (
        f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, "
        f"{driver}; the database, the service and the load share them; {options.rounds} rounds"
    )
    print(machine)
    for what in _WHAT if words.what == "all" else (words.what,):
        try:
            # Imported by name: servers of the benchmark need none of them, and may not have what
            # some of them need.
            measure: Callable[[str, Options], Awaitable[list[Table]]] = import_module(
                f"scripts.bench.{what}"
            ).measure
            async with scratch() as url:
                tables = await measure(url, options)
            for table in tables:
                print(f"\n{table.about}\n\n{table.markdown()}")
            if words.record:
                record(what, f"{machine}.", tables)
        except ImportError as error:
            raise UsageError(f"{error}: `make bench` sets up what is needed") from error
    return 0


if __name__ == "__main__":
    run(main)
