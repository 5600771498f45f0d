"""Export the log to a file, one event a line, with a manifest beside it.

The same log gives the same bytes. Events that are added meanwhile may or may not be in it; each
ticket is whole up to its last line.
"""

import argparse
from pathlib import Path

from eventstore.archive import Manifest, ManifestBuilder, lines, manifest_path
from eventstore.log import EventStore
from scripts.cli import counting, database, start, writing


async def main(options: argparse.Namespace) -> int:
    async with database() as db:
        manifest = await export(EventStore(db), options.file)
    print(f"{manifest.tickets} tickets, {manifest.events} events, sha256 {manifest.sha256}")
    return 0


async def export(store: EventStore, path: Path) -> Manifest:
    """Write a log to a file, which is there once it is whole, and its manifest beside it.

    Raises UsageError if that cannot be written.
    """
    unfinished = path.with_name(f"{path.name}.part")
    summing = ManifestBuilder()
    total = await store.count()
    with (
        writing(unfinished),
        unfinished.open("wb") as file,
        counting(f"exporting {path.name}", total, "events") as count,
    ):
        async for line in lines(store, summing):
            file.write(line)
            count()
    manifest = summing.manifest()
    manifest.write(manifest_path(path))
    unfinished.replace(path)
    return manifest


if __name__ == "__main__":
    start("export", main)
