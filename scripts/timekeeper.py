"""Do what is due in a process of its own: wake, close, put missed promises on record.

Runs until it is stopped. The server does it too, unless CASEBOOK_TIMEKEEPER_SECONDS is 0; any
number may run at once.
"""

import argparse
import asyncio
from contextlib import suppress

from api.desk.store import Desks
from api.settings import Settings
from api.timekeeper.timekeeper import LOOK_SECONDS, Timekeeper
from eventstore.log import EventStore
from scripts.cli import at_work, database, screen, start


async def main(_: argparse.Namespace) -> int:
    settings = Settings.from_environment()
    async with database(settings) as db:
        store = EventStore(db)
        await store.prepare()
        seconds = settings.timekeeper_seconds or LOOK_SECONDS
        screen.print("keeping time; Ctrl-C to stop")
        with suppress(asyncio.CancelledError):  # how it ends
            async with at_work(db, "timekeeper"):
                await Timekeeper(db, store, Desks(db), look_seconds=seconds).run()
    return 0


if __name__ == "__main__":
    start("timekeeper", main)
