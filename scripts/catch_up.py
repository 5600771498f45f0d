"""Projecting until the views are current, with a progress bar: for scripts that need them so."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from domain.errors import CasebookError
from eventstore.driver import Database
from eventstore.store import EventStore
from projections.health import Health
from projections.projector import Projector
from scripts.console import progress

_WAIT_SECONDS = 0.25


class ViewsStuck(CasebookError):
    """The views do not get on: for example because the disk is full."""

    def __init__(self, failure: str) -> None:
        super().__init__("views_stuck", f"the views do not get on: {failure}")


@asynccontextmanager
async def projecting(database: Database, store: EventStore) -> AsyncIterator[Projector]:
    """Project inside the block, beside whoever else does."""
    projector = Projector(database, store)
    task = asyncio.create_task(projector.run())
    try:
        yield projector
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def caught_up(database: Database, store: EventStore, doing: str) -> int:
    """Wait until the log is folded, by whoever does it; give the number of events.

    Raises ViewsStuck.
    """
    health = Health(database, store)
    with progress() as bar:
        task = bar.add_task(doing, total=None, rate="events")
        while True:
            report = await health.look()
            bar.update(task, total=report.log_events, completed=report.folded_events)
            live = all(partition.phase == "live" for partition in report.state.partitions)
            if live and report.missing_events <= 0:
                return report.folded_events
            failures = [m.failure for m in report.state.members.values() if m.failure]
            if report.condition == "stuck" and failures:
                raise ViewsStuck(failures[0])
            await asyncio.sleep(_WAIT_SECONDS)
