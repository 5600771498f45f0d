"""Take a signed checkpoint of the log now; with --export, write it to a file to keep elsewhere.

With --restored, sign that the log was restored: from which checkpoint it goes on, when, and why.
What later checkpoints stood for is given up by that, and `casebook verify` tells it. A restore does
this by itself where the signing key is at hand.
"""

import argparse

from api.settings import Settings
from eventstore.database import Database
from eventstore.log import EventStore
from eventstore.log_identity import LogReplaced
from eventstore.transparency.checkpoints import LogCheckpoint, LogCheckpoints, write_file
from eventstore.transparency.statements import last_path, signing_key
from scripts.cli import UsageError, at_work, database, start, writing


async def main(options: argparse.Namespace) -> int:
    settings = Settings.from_environment()
    if settings.mongodb_url is not None and settings.signing_key is None:
        raise UsageError("name the key that signs this log's checkpoints in CASEBOOK_SIGNING_KEY")
    key = signing_key(settings.signing_key_path)
    async with database(settings) as db, at_work(db, "checkpoint"):
        store = EventStore(db)
        await store.prepare()
        checkpoints = LogCheckpoints(db, store, key, last_path(settings.signing_key_path))
        if options.restored is None:
            taken = await checkpoints.take()
        else:
            taken = await sign_restore(db, checkpoints, options.restored)
        print("nothing new since the last checkpoint" if taken is None else describe(taken))
        if options.export is not None:
            latest = taken or await checkpoints.latest()
            if latest is not None:
                with writing(options.export):
                    write_file(options.export, latest, key.public_key())
                print(f"checkpoint {latest.statement.number} written to {options.export}")
    return 0


async def sign_restore(db: Database, checkpoints: LogCheckpoints, why: str) -> LogCheckpoint:
    """Sign that the log was restored. Raises KeyUnusable, CheckpointsGone."""
    identity = await db.identity.read()
    if identity is None:
        raise LogReplaced
    return await checkpoints.take_restored(why, identity.log)


def describe(checkpoint: LogCheckpoint) -> str:
    """Return what a checkpoint says, for people."""
    said = checkpoint.statement
    what = (
        f"checkpoint {said.number}: {said.tickets} tickets, {said.events} events, root {said.root}"
    )
    if said.restored is None:
        return what
    since, last = said.restored.since, said.restored.last
    begins = "no checkpoint" if since is None else f"checkpoint {since.number}"
    given = ""
    if last is not None and last != since:
        given = f"; what was signed after that, up to {last.number}, is given up"
    return f"{what}; the log was restored and goes on from {begins}{given}"


if __name__ == "__main__":
    start("checkpoint", main)
