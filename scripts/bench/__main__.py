"""Measure Casebook and what one would do otherwise, in one run.

    casebook bench commands     the write path, a CRUD service, and no database
    casebook bench durability   the same with each command on disk, and without
    casebook bench reads        tickets and lists, and the same bytes from memory
    casebook bench lists        pages of lists over histories of different shapes
    casebook bench growth       how cost grows with tickets, logs, clients and more
    casebook bench projections  from acknowledged to visible; what a projector can take
    casebook bench dashboard    the dashboard, and an aggregation over the same tickets
    casebook bench replay       all views built anew, and a mere scan of the log
    casebook bench sealing      commands and replays with personal data sealed and not
    casebook bench peer         the library `eventsourcing`
    casebook bench rest         what a server at rest asks of its database
    casebook bench console      the desk in a browser, over many tickets and live
    casebook bench all

Everything runs on this machine on an embedded database of its own, with its default durability.
Machines are noisy: what is compared takes turns, round by round, and the medians are reported. The
ratios mean more than the numbers. `--record` puts what was found into
docs/explanation/performance.md.
"""

import argparse
import os
import platform
from collections.abc import Awaitable, Callable
from importlib import import_module

from api.settings import Settings
from api.suggestions import did_you_mean
from scripts.bench.found import Table, record
from scripts.bench.measuring import Options
from scripts.cli import UsageError, start
from scripts.testbed.harness import scratch

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
    "rest",
    "console",
)
"""Measurements, each the `measure` of the module that has its name."""


async def main(words: argparse.Namespace) -> int:
    if words.what not in (*_WHAT, "all"):
        raise UsageError(f"there is no benchmark {words.what}{did_you_mean(words.what, _WHAT)}")
    options = Options(words.rounds, words.seconds, sorted(words.tickets), words.events)
    driver = Settings.from_environment().mongo_driver
    machine = (
        f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, "
        f"{driver}; the database, the service and the load share them; {options.rounds} rounds"
    )
    print(machine)
    for what in _WHAT if words.what == "all" else (words.what,):
        try:
            # Imported by name: not everywhere is what some of them need.
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
    start("bench", main)
