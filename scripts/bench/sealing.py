"""What it costs that personal data is sealed: commands and replays with it and without."""

from functools import partial

from scripts.bench.commands import notes_in_turns
from scripts.bench.found import Table, median, ratio
from scripts.bench.made_up_log import EVENTS_PER_TICKET, make_up
from scripts.bench.measuring import Options, in_turns, prepared
from scripts.bench.replay import replay
from scripts.testbed.wire import database_at

_KINDS = {"unsealed": "as it is", "group": "sealed"}


async def measure(url: str, options: Options) -> list[Table]:
    """Measure both in turn."""
    answered = await notes_in_turns(dict.fromkeys(_KINDS, url), options)
    async with (
        prepared(database_at(url, "bench_log_unsealed")) as unsealed,
        prepared(database_at(url, "bench_log_group")) as sealed,
    ):
        logs = {"unsealed": unsealed, "group": sealed}
        for kind, database in logs.items():
            tickets = options.events // 10 // EVENTS_PER_TICKET
            await make_up(database, tickets, sealing=kind == "group")
        replays = {kind: partial(replay, database, 1) for kind, database in logs.items()}
        replayed = await in_turns(replays, options.rounds, "replays", warming_up=False)
    rates = {
        "commands/s": {kind: [each.rate for each in answered[kind]] for kind in _KINDS},
        "events/s replayed": {kind: [each.rate for each in replayed[kind]] for kind in _KINDS},
    }
    rows = [
        [what, *(median(of[kind]) for kind in _KINDS), ratio(of["group"], of["unsealed"])]
        for what, of in rates.items()
    ]
    bars = {
        f"{what}, {name}": of[kind] for what, of in rates.items() for kind, name in _KINDS.items()
    }
    about = "Personal data sealed, and as it is"
    return [Table(about, ["", *_KINDS.values(), "ratio"], rows, "per second", bars)]
