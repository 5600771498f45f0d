"""Commands on a database that waits for the disk, and on one that does not."""

from functools import partial

from scripts.bench.commands import load_notes, rates_table
from scripts.bench.found import Table
from scripts.bench.measuring import Options, in_turns
from scripts.testbed.promises import scratch
from scripts.testbed.services import services

_KINDS = {"group": "as embedded by default: synced", "unsynced": "not synced"}
_CONNECTIONS = 32


async def measure(url: str, options: Options) -> list[Table]:
    """Measure both in turn."""
    async with (
        scratch(durable=False) as unsynced,
        services({"group": url, "unsynced": unsynced}) as running,
    ):
        ways = {
            kind: partial(load_notes, running[kind], _CONNECTIONS, options.seconds)
            for kind in _KINDS
        }
        found = await in_turns(ways, options.rounds, "durability")
    about = f"One-event commands, {_CONNECTIONS} connections, each acknowledged on disk or not"
    return [rates_table(about, ["database", "of synced"], _KINDS, found, ["group"])]
