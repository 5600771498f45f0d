"""Keep the views and the log's checkpoints current in a process of its own, until stopped.

Any number may run, and the server's own too: they share the work, and take over from each other.
"""

import argparse
import asyncio
from contextlib import suppress

from api.background import projecting
from api.settings import Settings
from eventstore.log import EventStore
from projections.erasure.progress import Erasures
from scripts.cli import at_work, database, screen, show_metrics, start
from scripts.tracing import trace_if_asked


async def main(_: argparse.Namespace) -> int:
    settings = Settings.from_environment()
    trace_if_asked()
    async with database(settings) as db:
        store = EventStore(db)
        await store.prepare()
        await Erasures(db).prepare()
        await db.identity.begin()  # which refuses where a restore is not done
        await db.vault.check()
        show_metrics(settings)
        screen.print("projecting; Ctrl-C to stop")
        with suppress(asyncio.CancelledError):  # how it ends
            async with at_work(db, "project"):
                work = projecting(db, store, settings)
                await asyncio.gather(db.vault.news.watch(db.supervisor), *(each() for each in work))
    return 0


if __name__ == "__main__":
    start("project", main)
