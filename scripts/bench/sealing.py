"""What it costs that personal data is sealed: commands and replays with it and without."""

from collections import defaultdict

from eventstore.log import EventStore
from projections.replay.rebuild import Rebuild
from projections.workers import workers
from scripts.bench.commands import load_notes
from scripts.bench.found import Table, ratio, told
from scripts.bench.measuring import median, prepared, turns
from scripts.bench.replay import EVENTS_PER_TICKET, make_up
from scripts.testbed.services import database_at, services

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
        medians = (median(each) for each in (plain, sealed))
        rows.append([what, *medians, told(ratio(sealed, plain))])
    bars = {f"{what}, {_KINDS[kind]}": found for (what, kind), found in rates.items()}
    about = "Personal data sealed, and as it is"
    return [Table(about, ["", "as it is", "sealed", "ratio"], rows, "per second", bars)]


async def _commands(
    url: str, rounds: int, seconds: float, rates: dict[tuple[str, str], list[float]]
) -> None:
    async with services(dict.fromkeys(_KINDS, url)) as running:
        for kind, is_counted in turns(_KINDS, rounds, "commands"):
            found = await load_notes(running[kind], _CONNECTIONS, seconds)
            if is_counted:
                rates["commands/s", kind].append(found.rate)


async def _replays(
    url: str, rounds: int, events: int, rates: dict[tuple[str, str], list[float]]
) -> None:
    async with (
        prepared(database_at(url, "log_unsealed")) as unsealed,
        prepared(database_at(url, "log_group")) as sealed,
    ):
        logs = {"unsealed": unsealed, "group": sealed}
        for kind, database in logs.items():
            await make_up(database, events // EVENTS_PER_TICKET, sealing=kind != "unsealed")
        for kind, _ in turns(logs, rounds, "replays", warming_up=False):
            stored = await EventStore(logs[kind]).count(exact=True)
            async with workers(logs[kind], 1) as one:
                summary = await Rebuild(logs[kind], one).everything()
            spent = sum(v for k, v in summary.seconds.items() if k not in ("wait", "prove"))
            rates["events/s replayed", kind].append(stored / spent)
