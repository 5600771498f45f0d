"""Rebuild the views from the log: all of them, or those of single tickets.

Without --ticket the views are emptied and the whole log is folded into them. Until that is done
lists and dashboard show what has been folded so far; single tickets and timelines show everything
throughout. Interrupted, it is finished by the next projector, or by running it again.

With --ticket single tickets are folded again from their first event; that frees parked ones.
"""

import argparse
import asyncio
from uuid import UUID

from api.settings import Settings
from eventstore.driver import Database
from eventstore.store import EventStore
from projections import projector
from projections.parked import ParkedTickets
from scripts.catch_up import caught_up, projecting
from scripts.console import UsageError, database, fail, run, screen

_LOOK_SECONDS = 0.1
_PATIENCE_SECONDS = 60.0


async def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.replay",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--ticket", type=UUID, nargs="+", default=[], metavar="ID", help="only these"
    )
    options = parser.parse_args()
    async with database(Settings.from_environment()) as db:
        store = EventStore(db)
        await store.prepare()
        await projector.prepare(db)
        if options.ticket:
            return await _repair(db, store, options.ticket)
        try:
            async with projecting(db, store) as working:
                await working.begin_rebuild()
                events = await caught_up(db, store, "replaying")
        except asyncio.CancelledError:
            fail("stopped: lists are incomplete until a projector, or another replay, has finished")
            raise
        screen.print(f"{events} events replayed", highlight=False)
    return 0


async def _repair(db: Database, store: EventStore, ids: list[UUID]) -> int:
    parked = ParkedTickets(db)
    for ticket_id in ids:
        if not await store.stored(ticket_id, limit=1):
            raise UsageError(f"there is no ticket {ticket_id}")
    code = 0
    async with projecting(db, store):
        for ticket_id in ids:
            await parked.ask(ticket_id)
        for ticket_id in ids:
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    # Done by whoever has its partition.
                    while await parked.is_asked(ticket_id):  # noqa: ASYNC110
                        await asyncio.sleep(_LOOK_SECONDS)
            except TimeoutError:
                fail(f"ticket {ticket_id}: the projector of its partition does not get to it")
                code = 1
                continue
            still = [p for p in await parked.all() if p.ticket_id == ticket_id]
            if still:
                fail(f"ticket {ticket_id} stays parked: {still[0].error}")
                code = 1
            else:
                screen.print(f"ticket {ticket_id} replayed", highlight=False)
    return code


if __name__ == "__main__":
    run(main)
