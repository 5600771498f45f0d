"""Restore an exported log into an empty database.

The file is verified before a single event is written: its manifest, every hash, every chain. A
restore that was interrupted is finished by running it again with the same file. At the end the log
is read back and must be the same bytes.
"""

import argparse
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from api.settings import Settings
from domain.errors import CasebookError
from eventstore.archive import Manifest, Summing, from_line, lines, manifest_path
from eventstore.driver import Database
from eventstore.store import EventStore
from projections.generations import Generations
from scripts.console import UsageError, database, progress, run
from scripts.verification import Verification
from scripts.verify import verify_file

_BATCH_EVENTS = 1000
_MARKS = "restores"


class RestoreRefused(CasebookError):
    """The file or the database is not as it must be: for example a log that is not empty."""

    def __init__(self, detail: str) -> None:
        super().__init__("restore_refused", detail)


async def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.restore", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    if not options.file.exists():
        raise UsageError(f"cannot read {options.file}: there is no such file")
    async with database(Settings.from_environment()) as db:
        manifest = await restore(db, options.file)
    print(f"{manifest.tickets} tickets, {manifest.events} events restored")
    return 0


async def restore(db: Database, path: Path) -> Manifest:
    """Restore a file, or finish restoring it. Raises RestoreRefused, UnreadableArchive."""
    manifest = Manifest.read(manifest_path(path))
    verification = Verification()
    verify_file(path, verification)
    if faults := verification.finish():
        first = faults[0]
        raise RestoreRefused(
            f"{path} was tampered with: ticket {first.ticket} version {first.version}: "
            f"{first.kind}, {first.detail}"
        )
    store = EventStore(db)
    await store.prepare()
    await Generations(db).prepare()
    marks = db.collection(_MARKS)
    if await store.count(exact=True):
        begun = await marks.find_one({"_id": manifest.sha256})
        if begun is None or not await _holds_only(store, path):
            raise RestoreRefused("the database holds other events; restore into an empty one")
    await marks.update_one({"_id": manifest.sha256}, {"$set": {"done": False}}, upsert=True)
    with path.open("rb") as file, progress() as bar:
        task = bar.add_task("restoring", total=manifest.events, rate="events")
        for some in _batches(file):
            await store.restore([from_line(line) for line in some])
            bar.advance(task, len(some))
    summing = Summing()
    async for _ in lines(store, summing):
        pass
    if summing.manifest() != manifest:
        raise RestoreRefused("what is in the database now is not what is in the file")
    await marks.update_one({"_id": manifest.sha256}, {"$set": {"done": True}})
    return manifest


async def _holds_only(store: EventStore, path: Path) -> bool:
    """Say whether every event that is there already is one of the file's."""
    with path.open("rb") as file:
        hashes = {from_line(line)["hash"] for line in file}
    async for event in store.scan():
        if event.hash not in hashes:
            return False
    return True


def _batches(lines_: Iterable[bytes]) -> Iterator[list[bytes]]:
    remaining = iter(lines_)
    while some := list(islice(remaining, _BATCH_EVENTS)):
        yield some


if __name__ == "__main__":
    run(main)
