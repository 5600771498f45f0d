"""Keeping what is shown current, whichever generation that is.

Views that another version has folded, and views whose count is not the log's, are built anew beside
what is shown, by one of those who project; the others wait. So are views that count days in other
time zones than the desk has by now, which are kept current meanwhile. Not where a ticket shows
events that have vanished from the log: that is said, loudly, and what is shown stays as it is.
"""

import asyncio
import logging
from contextlib import suppress
from functools import partial

from domain.calendars import zones
from domain.errors import CasebookError
from eventstore.background import background
from eventstore.database import Database
from eventstore.log import EventStore
from projections.desk_zones import desk_zones
from projections.generations import OF_ANOTHER_LOG, BuildRunning, Generation, Generations, prepare
from projections.projector.projector import RETRY_SECONDS, Projector, Unusable
from projections.replay.rebuild import Rebuild
from projections.replay.vanished import EventsVanished
from projections.views.tickets import SHAPE
from projections.workers import workers

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 4.0
_PAUSE_SECONDS = 0.1
_DEAD_SECONDS = 2.0
_SWEEP_SECONDS = 30.0
_TRY_AGAIN_SECONDS = 60.0
_VANISHED_SECONDS = 600.0


async def project(database: Database, store: EventStore) -> None:
    """Share in keeping the active generation current until cancelled; then give back what one has.

    A failure is logged and tried again.
    """
    generations = Generations(database)
    lost: Generation | None = None  # the views that show what has vanished from the log

    async def keep() -> None:
        nonlocal lost
        active = await generations.prepare()  # there are none at first, and after they were dropped
        reason = await _keep(active, generations, database, store, lost)
        if reason is not None:
            _log.warning("%s: building the views anew", reason)
            lost = active if await _rebuild(database, active) else lost

    tend, give_up = database.supervisor.keep, partial(generations.give_up_the_dead, _LOOK_SECONDS)
    # Not gathered: a gathering ends with the first that is cancelled, and the projector must leave.
    async with (
        background(tend(generations.sweep, "dropping former views", _SWEEP_SECONDS)),
        background(tend(give_up, "looking for dead rebuilds", _DEAD_SECONDS)),
    ):
        await tend(keep, "projecting", RETRY_SECONDS)


async def _keep(
    active: Generation,
    generations: Generations,
    database: Database,
    store: EventStore,
    lost: Generation | None,
) -> str | None:
    """Keep what is shown current until another generation is; or say why that cannot be done."""
    if active.shape > SHAPE:  # those who can fold it keep it current
        await asyncio.sleep(_LOOK_SECONDS)
        return None
    if active.shape == OF_ANOTHER_LOG:
        return "the views were folded from a log that was replaced by a restore"
    if active.shape < SHAPE:
        return "the views were folded by another version"
    if not zones().issuperset(active.zones):  # likewise, unless the desk has none of these any more
        changed = await _while_of_desk(generations, database, active)
        return "the desk has other time zones" if changed else None
    views = active.of(database)
    await prepare(views)  # what was dropped by hand is scanned again
    # Once it is known that they cannot be built anew, they are kept as they are.
    projector = Projector(views, store, zones=active.zones, keeps_lost=active == lost)
    try:
        async with background(projector.run()):
            while await _while_of_desk(generations, database, active):
                _log.info("the desk has other time zones: building the views anew")
                if await _rebuild(database, active):
                    await _while_active(generations, active, _VANISHED_SECONDS)
    except Unusable as unusable:
        return unusable.detail
    return None


async def _while_of_desk(generations: Generations, database: Database, active: Generation) -> bool:
    """Wait until another generation is shown, or the desk has other time zones than this one has;
    return whether that is it.
    """
    while True:  # along with what a projector asks anyway
        shown, wanted = await asyncio.gather(
            generations.active(within_seconds=_LOOK_SECONDS), desk_zones(database, _LOOK_SECONDS)
        )
        if shown != active or wanted not in (None, active.zones):
            return shown == active
        await asyncio.sleep(_PAUSE_SECONDS)


async def _while_active(generations: Generations, active: Generation, seconds: float) -> None:
    """Wait until another generation is shown, or the time is over."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            # Along with what a projector asks anyway.
            while await generations.active(within_seconds=_LOOK_SECONDS) == active:  # noqa: ASYNC110
                await asyncio.sleep(_PAUSE_SECONDS)


async def _rebuild(database: Database, active: Generation) -> bool:
    """Build views anew; return whether that was refused, for events have vanished."""
    try:
        async with workers(database, 1) as one:  # the API may live in this process
            summary = await Rebuild(database, one).everything(instead_of=active)
    except BuildRunning:
        pass
    except EventsVanished:  # which it has logged
        if active.shape != SHAPE:
            await _while_active(Generations(database), active, _VANISHED_SECONDS)
        return True
    except CasebookError as error:
        _log.error("the views could not be built anew: %s", error.detail)
        await _while_active(Generations(database), active, _TRY_AGAIN_SECONDS)
    else:
        _log.info("views of %d events built anew and proved", summary.events)
    return False
