"""Take a signed checkpoint of the log now; with --export, write it to a file to keep elsewhere."""

import argparse
from pathlib import Path

from api.settings import Settings
from eventstore.log_checkpoints import LogCheckpoint, LogCheckpoints, signing_key, write_file
from eventstore.store import EventStore
from scripts.console import UsageError, database, run


async def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.checkpoint", description=__doc__)
    parser.add_argument("--export", type=Path, metavar="FILE", help="with all heads, to be kept")
    options = parser.parse_args()
    settings = Settings.from_environment()
    if settings.mongodb_url is not None and settings.signing_key is None:
        raise UsageError("name the key that signs this log's checkpoints in CASEBOOK_SIGNING_KEY")
    key = signing_key(settings.signing_key_path)
    async with database(settings) as db:
        store = EventStore(db)
        await store.prepare()
        checkpoints = LogCheckpoints(db, store, key)
        taken = await checkpoints.take()
        print("nothing new since the last checkpoint" if taken is None else _describe(taken))
        if options.export is not None:
            latest = taken or await checkpoints.latest()
            if latest is not None:
                try:
                    write_file(options.export, latest, key.public_key())
                except OSError as error:
                    raise UsageError(f"cannot write {options.export}: {error}") from error
                print(f"checkpoint {latest.statement.number} written to {options.export}")
    return 0


def _describe(checkpoint: LogCheckpoint) -> str:
    said = checkpoint.statement
    return (
        f"checkpoint {said.number}: {said.tickets} tickets, {said.events} events, root {said.root}"
    )


if __name__ == "__main__":
    run(main)
