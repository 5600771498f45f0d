"""What it costs that personal data is sealed: commands and replays with it and without."""

import random
import statistics
from collections import defaultdict

from api.settings import Settings
from eventstore.log import EventStore
from eventstore.mongo.driver import connect
from projections.replay.generations import Generations
from projections.replay.rebuild import Rebuild
from projections.replay.workers import workers
from scripts.bench.commands import load
from scripts.bench.found import Table, ratio, told
from scripts.bench.replay import EVENTS_PER_TICKET, make_up
from scripts.bench.services import services
from scripts.console import progress

_KINDS = {"unsealed": "as it is", "group": "sealed"}
_CONNECTIONS = 32


async def sealing(url: str, rounds: int, seconds: float, events: int) -> list[Table]:
    """Measure both in turn."""
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    await _commands(url, rounds, seconds, rates)
    await _replays(url, rounds, events, rates)
    rows = []
    for what in ("commands/s", "events/s replayed"):
        plain, sealed = (rates[what, kind] for kind in _KINDS)
        medians = (f"{statistics.median(each):.0f}" for each in (plain, sealed))
        rows.append([what, *medians, told(ratio(sealed, plain))])
    bars = {f"{what}, {_KINDS[kind]}": found for (what, kind), found in rates.items()}
    about = "Personal data sealed, and as it is"
    return [Table(about, ["", "as it is", "sealed", "ratio"], rows, "per second", bars)]


async def _commands(
    url: str, rounds: int, seconds: float, rates: dict[tuple[str, str], list[float]]
) -> None:
    async with services(dict.fromkeys(_KINDS, url)) as running:
        with progress() as bar:
            task = bar.add_task("commands", total=(rounds + 1) * len(_KINDS), rate="stretches")
            for round_ in range(rounds + 1):
                for kind in random.sample(list(_KINDS), len(_KINDS)):
                    service = running[kind]
                    found = await load(service.port, service.tickets, _CONNECTIONS, seconds)
                    if round_ > 0:  # the first is for warming up
                        rates["commands/s", kind].append(found.rate)
                    bar.advance(task)


async def _replays(
    url: str, rounds: int, events: int, rates: dict[tuple[str, str], list[float]]
) -> None:
    driver = Settings.from_environment().mongo_driver
    base, _, options = url.partition("?")
    logs = {
        kind: connect(f"{base.rstrip('/')}/bench_log_{kind}?{options}", driver) for kind in _KINDS
    }
    for kind, database in logs.items():
        await EventStore(database).prepare()
        await Generations(database).prepare()
        await make_up(database, events // EVENTS_PER_TICKET, sealing=kind != "unsealed")
    with progress() as bar:
        task = bar.add_task("replays", total=rounds * len(logs), rate="replays")
        for _ in range(rounds):
            for kind in random.sample(list(_KINDS), len(_KINDS)):
                database = logs[kind]
                stored = await EventStore(database).count(exact=True)
                async with workers(database, 1) as one:
                    summary = await Rebuild(database, one).everything()
                spent = sum(v for k, v in summary.seconds.items() if k not in ("wait", "prove"))
                rates["events/s replayed", kind].append(stored / spent)
                bar.advance(task)
    for database in logs.values():
        await database.close()
