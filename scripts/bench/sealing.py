"""What it costs that personal data is sealed: commands and replays with it and without."""

import random
import statistics
from collections import defaultdict
from contextlib import AsyncExitStack

from api.settings import Settings
from eventstore.driver import connect
from eventstore.store import EventStore
from projections.generations import Generations
from projections.rebuild import Rebuild
from projections.workers import workers
from scripts.bench.commands import load, open_tickets
from scripts.bench.replay import EVENTS_PER_TICKET, make_up
from scripts.console import progress
from scripts.soak.promises import free_port, let_in, process, ready

_KINDS = {"unsealed": "as it is", "group": "sealed"}
_CONNECTIONS = 32


async def sealing(url: str, rounds: int, seconds: float, events: int) -> None:
    """Measure both in turn, and print a table."""
    base, _, options = url.partition("?")
    of = {kind: f"{base.rstrip('/')}/bench_{kind}?{options}" for kind in _KINDS}
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    await _commands(of, rounds, seconds, rates)
    await _replays(of, rounds, events, rates)
    print("\n| | as it is | sealed | ratio |")
    print("| --- | ---: | ---: | ---: |")
    for what in ("commands/s", "events/s replayed"):
        plain, sealed = (rates[what, kind] for kind in _KINDS)
        ratio = statistics.median(s / p for s, p in zip(sealed, plain, strict=True))
        medians = (f"{statistics.median(each):.0f}" for each in (plain, sealed))
        print(f"| {what} | {' | '.join(medians)} | {ratio:.2f}x |")


async def _commands(
    of: dict[str, str], rounds: int, seconds: float, rates: dict[tuple[str, str], list[float]]
) -> None:
    async with AsyncExitStack() as stack:
        ports = {kind: free_port() for kind in _KINDS}
        tickets: dict[str, list[str]] = {}
        for kind, port in ports.items():
            words = ("scripts.bench", "_serve", kind, of[kind], str(port))
            await stack.enter_async_context(process(*words))
            await ready(port)
            await let_in(of[kind])
            tickets[kind] = await open_tickets(port)
        bar = stack.enter_context(progress())
        task = bar.add_task("commands", total=(rounds + 1) * len(_KINDS), rate="stretches")
        for round_ in range(rounds + 1):
            for kind in random.sample(list(_KINDS), len(_KINDS)):
                found = await load(ports[kind], tickets[kind], _CONNECTIONS, seconds)
                if round_ > 0:  # the first is for warming up
                    rates["commands/s", kind].append(found.rate)
                bar.advance(task)


async def _replays(
    of: dict[str, str], rounds: int, events: int, rates: dict[tuple[str, str], list[float]]
) -> None:
    driver = Settings.from_environment().mongo_driver
    logs = {
        kind: connect(address.replace("/bench_", "/bench_log_"), driver)
        for kind, address in of.items()
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
