"""Export the log to a file, one event a line, with a manifest beside it.

The same log gives the same bytes. Events that are added meanwhile may or may not be in it; each
ticket is whole up to its last line.
"""

import argparse
from pathlib import Path

from api.settings import Settings
from eventstore.archive import ManifestBuilder, lines, manifest_path
from eventstore.log import EventStore
from scripts.commands import parse
from scripts.console import counting, database, run, writing


async def main(options: argparse.Namespace) -> int:
    path: Path = options.file
    unfinished = path.with_name(f"{path.name}.part")
    async with database(Settings.from_environment()) as db:
        store = EventStore(db)
        summing = ManifestBuilder()
        total = await store.count()
        with (
            writing(unfinished),
            unfinished.open("wb") as file,
            counting("exporting", total, "events") as count,
        ):
            async for line in lines(store, summing):
                file.write(line)
                count()
    manifest = summing.manifest()
    manifest.write(manifest_path(path))
    unfinished.replace(path)
    print(f"{manifest.tickets} tickets, {manifest.events} events, sha256 {manifest.sha256}")
    return 0


if __name__ == "__main__":
    run(main, parse("export"))
