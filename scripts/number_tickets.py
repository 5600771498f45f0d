"""Give numbers to the tickets that were opened before tickets had any, as they are stored.

Each gets an event that says so, which processes of a former version cannot read: upgrade all of
them before. They may go on with their work meanwhile. Can be stopped and run again: a ticket that
has a number keeps it.
"""

import argparse
import asyncio

from api.commands.handler import Handler, Submission
from domain.actors import Actor
from domain.errors import HistoryError, Refusal
from domain.tickets.opening import NumberTicket
from eventstore.background import run_all
from eventstore.database import Database
from eventstore.log import EventStore
from scripts.cli import at_work, counting, database, start
from scripts.commands import fail

_AT_ONCE = 32
_NUMBERING = Submission(command=NumberTicket(), actor=Actor("numbering", "system"))


async def main(_: argparse.Namespace) -> int:
    async with database() as db, at_work(db, "script"):
        return await number_all(db)


async def number_all(db: Database) -> int:
    """Number all tickets that have no number; return 1 if some cannot be, else 0."""
    store = EventStore(db)
    await store.prepare()
    handler, taking = Handler(store), asyncio.Lock()
    openings = store.scan_stored(("ticket_id", "data.number"), {"version": 1})
    numbered = failed = 0
    with counting("numbering", None, "tickets") as count:

        async def work() -> None:
            nonlocal numbered, failed
            while True:
                async with taking:
                    opening = await anext(aiter(openings), None)
                if opening is None:
                    return
                count()
                if opening["data"].get("number") is not None:
                    continue
                try:
                    outcome = await handler.handle(opening["ticket_id"], _NUMBERING)
                    numbered += len(outcome.events)
                except (Refusal, HistoryError) as error:
                    failed += 1
                    fail(f"ticket {opening['ticket_id']}: {error.detail}")

        await run_all(*(work() for _ in range(_AT_ONCE)))
    print(f"{numbered} tickets have got a number")
    return 1 if failed else 0


if __name__ == "__main__":
    start("number-tickets", main)
