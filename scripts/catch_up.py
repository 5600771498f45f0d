"""Projecting until the views are current, with a progress bar: for scripts that need them so."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from domain.errors import CasebookError
from eventstore.background import background
from eventstore.database import Database
from eventstore.log import EventStore
from projections.daemon import project
from projections.generations import Generations
from projections.projector.health import look
from scripts.cli import at_work, progress

_WAIT_SECONDS = 0.25
_FAILING_SECONDS = 20.0
_EXACT_SECONDS = 2.0


class ViewsStuck(CasebookError):
    """The views do not get on: for example because the disk is full."""


@asynccontextmanager
async def projecting(database: Database, store: EventStore) -> AsyncIterator[None]:
    """Project inside the block, beside whoever else does.

    Raises LogReplaced, having cancelled what is done inside, when the log is restored meanwhile;
    RestoreUnderWay.
    """
    async with at_work(database, "script"), background(project(database, store)):
        yield


async def caught_up(database: Database, store: EventStore, doing: str) -> int:
    """Wait until the log is folded, by whoever does it; return the number of events.

    Raises ViewsStuck.
    """
    generations = Generations(database)
    clock = asyncio.get_running_loop().time
    moved, folded = clock(), -1
    with progress() as bar:
        task = bar.add_task(doing, total=None, rate="events")
        while True:
            # The estimate may be wrong; what does not move is counted.
            exact = folded >= 0 and clock() - moved > _EXACT_SECONDS
            count = partial(store.count, exact=exact)
            report = await look(await generations.shown(), store, count)
            bar.update(task, total=report.log_events, completed=report.folded_events)
            live = all(partition.phase == "live" for partition in report.state.partitions)
            if live and report.missing_events <= 0:
                return report.folded_events
            if report.folded_events != folded:
                moved, folded = clock(), report.folded_events
            state = report.state
            failures = [m.failure for m in state.members.values() if state.is_alive(m.id)]
            if clock() - moved > _FAILING_SECONDS and any(failures):
                why = next(filter(None, failures))
                raise ViewsStuck("views_stuck", f"the views do not get on: {why}")
            await asyncio.sleep(_WAIT_SECONDS)
