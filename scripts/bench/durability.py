"""Commands on a database that waits for the disk, and on one that does not."""

from scripts.bench.commands import NOTES_CONNECTIONS, notes_in_turns, rates_table
from scripts.bench.found import Table
from scripts.bench.measuring import Options
from scripts.testbed.harness import scratch

_KINDS = {"group": "as embedded by default: synced", "unsynced": "not synced"}


async def measure(url: str, options: Options) -> list[Table]:
    """Measure both in turn."""
    async with scratch(durable=False) as unsynced:
        found = await notes_in_turns({"group": url, "unsynced": unsynced}, options)
    about = f"One-event commands, {NOTES_CONNECTIONS} connections, each acknowledged on disk or not"
    return [rates_table(about, ["database", "of synced"], _KINDS, found, ["group"])]
