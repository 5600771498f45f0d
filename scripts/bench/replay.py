"""All views built anew from a long log, compared with a mere scan of it.

*scan*: every event is read and decoded to a dictionary, and that is all. *replay*: scan, fold, read
documents, sums, indexes, tail, switch; the time of the proof has a column of its own.
"""

import asyncio
import os
import resource
import time
from functools import partial
from typing import NamedTuple

from eventstore.database import Database
from eventstore.log import EventStore
from projections.replay.rebuild import Rebuild
from projections.workers import workers
from scripts.bench.found import Table, median, ratio
from scripts.bench.made_up_log import EVENTS_PER_TICKET, SEED, make_up
from scripts.bench.measuring import Options, in_turns, prepared

WORKERS = (1, 2)


class Replayed(NamedTuple):
    """One replay, or a scan: events per second without the proof, the proof's seconds, and the
    memory that all processes had at most, in MB.
    """

    rate: float
    proof_seconds: float = 0.0
    peak_mb: float = 0.0


async def measure(url: str, options: Options) -> list[Table]:
    """Measure one worker and two in turn, and the scan."""
    tickets = options.events // EVENTS_PER_TICKET
    async with prepared(url) as database:
        await make_up(database, tickets)
        stored = await EventStore(database).count(exact=True)
        ways = {f"replay, {n} workers": partial(replay, database, n) for n in WORKERS}
        found = await in_turns(
            {"scan": partial(_scan, database), **ways},
            options.rounds,
            "measuring",
            warming_up=False,
        )
    rates = {name: [each.rate for each in rounds] for name, rounds in found.items()}
    rows = []
    for name, rounds in found.items():
        proof = median([each.proof_seconds for each in rounds])
        peak = f"{max(each.peak_mb for each in rounds):.0f}"
        row = [name, median(rates[name]), ratio(rates[name], rates["scan"])]
        rows.append([*row, *(["", ""] if name == "scan" else [proof, peak])])
    columns = ["", "events/s", "of the scan", "proof, s", "memory, all processes, MB"]
    about = f"{stored:,} events of {tickets:,} tickets, seed {SEED}"
    return [Table(about, columns, rows, "events/s", rates)]


async def replay(database: Database, count: int) -> Replayed:
    """Build all views anew with so many worker processes."""
    stored = await EventStore(database).count(exact=True)
    peaks: list[tuple[int, float]] = []
    async with workers(database, count) as processes:
        summary = await Rebuild(database, processes).everything()
        await processes.each(_peak, range(4 * count), peaks.append)
    peaks.append(await _peak(database, 0))
    spent = sum(s for phase, s in summary.seconds.items() if phase not in ("wait", "prove"))
    return Replayed(stored / spent, summary.seconds["prove"], sum(dict(peaks).values()))


async def _scan(database: Database) -> Replayed:
    count = 0
    began = time.perf_counter()
    async for _ in EventStore(database).scan_stored():
        count += 1
    return Replayed(count / (time.perf_counter() - began))


async def _peak(_database: Database, _item: int) -> tuple[int, float]:
    """Return a process and the most memory that it has had, in MB."""
    await asyncio.sleep(0.05)  # so that each process gets one
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return os.getpid(), kilobytes / 1024
