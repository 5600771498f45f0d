"""Build the views anew from the log, while everything runs.

Without an option that says otherwise: all views, while others are shown; they are compared
with the log, and take their place in one instant. Until then nothing of it is seen; stopped or
killed at any moment, it leaves what is shown as it was. What was shown before is dropped soon
after, unless --keep-old keeps it for --rollback. Not where events have vanished from the log that
are shown, or of which a later version is there: --accept-loss says that this is known.

  --verify            write nothing; compare what is shown with the log, and say what differs
  --ticket ID...      fold single tickets again, in place; that frees parked ones
  --until TIME        build views as of a time, or of the end of a day by the desk's time zone,
                      next to those of now; ask for them by ?as_of_view=NAME, --list lists them,
                      --drop NAME drops them
  --rollback          show again what was shown before, once it has caught up

Exit 0: done, or all equal; 1: not done (what is shown is what was), or something differs; 2: the
options make no sense; 130: stopped by Ctrl-C.
"""

import argparse
import asyncio
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from domain.days import UTC_ONLY, ends
from eventstore.database import Database
from eventstore.log import EventStore
from projections.desk_zones import desk_zones
from projections.generations import Generations
from projections.projector.parked import ParkedTickets
from projections.replay.audit import Auditor
from projections.replay.rebuild import Progress, Rebuild
from projections.views.saved_views import ViewName
from projections.views.tickets import SHAPE
from projections.workers import Workers, workers
from scripts.catch_up import projecting
from scripts.cli import UsageError, at_work, database, start
from scripts.commands import fail
from scripts.replay_report import Report, reporting

_LOOK_SECONDS = 0.1
_PATIENCE_SECONDS = 60.0
_NAME: TypeAdapter[str] = TypeAdapter(ViewName)


async def main(options: argparse.Namespace) -> int:
    if options.name is not None:
        try:
            _NAME.validate_python(options.name)
        except ValidationError:
            refusal = f"--name {options.name!r} must be letters a-z, digits, - and _, at most 64"
            raise UsageError(refusal) from None
    with reporting(json=options.json) as report:
        async with database() as db:
            if options.verify:
                async with workers(db, options.workers) as processes:
                    return await _verify(db, processes, report, options.most)
            await EventStore(db).prepare()
            generations = Generations(db)
            await generations.prepare()
            if options.list:
                for built in await generations.all_as_of():
                    report.say(f"{built.name}: as of {built.until.isoformat()}, by {built.by}_at")
            elif options.drop is not None:
                await generations.drop_as_of(options.drop)
                report.say(f"{options.drop} dropped")
            elif options.ticket:
                return await _repair(db, options.ticket, report)
            else:
                await _build(db, options, report)
    return 0


async def _build(db: Database, options: argparse.Namespace, report: Report) -> None:
    """Build all views, or those as of a time, or go back to what was shown before."""
    until = await _last_moment(db, options.until)
    if until is not None and until > db.clock.now():
        raise UsageError(f"{until.isoformat()} has not come yet: nobody knows what will be so")
    async with at_work(db, "replay"), workers(db, options.workers) as processes:
        rebuild = Rebuild(db, processes, report.progress)
        try:
            if options.rollback:
                summary = await rebuild.go_back()
                outcome = "what was shown before is shown again"
            elif until is not None:
                name = options.name or f"{until:%Y%m%dt%H%M%Sz}"
                summary = await rebuild.as_of(name, until, options.by or "occurred")
                outcome = f"ask for them by ?as_of_view={name}"
            else:
                summary = await rebuild.everything(
                    keep_former=options.keep_old, accept_loss=options.accept_loss
                )
                outcome = "the new views are shown"
        except asyncio.CancelledError:
            done = "it had just been done" if rebuild.has_switched else "what is shown is what was"
            fail(f"stopped: {done}")
            raise
    report.summary(summary, outcome)


async def _last_moment(db: Database, until: date | None) -> datetime | None:
    """Return a time, or the last moment of a day by the desk's time zone."""
    if until is None or isinstance(until, datetime):
        return until
    [zone, *_] = await desk_zones(db) or UTC_ONLY
    return ends(zone, until) - timedelta(milliseconds=1)


async def _verify(db: Database, processes: Workers, report: Report, most: int) -> int:
    generations = Generations(db)
    while True:
        active = await generations.active()
        if active.shape != SHAPE:
            raise UsageError("the views are of another version: the server builds them anew")
        report.progress(Progress("verify"))
        auditor = Auditor(
            db,
            active,
            processes,
            lambda done, total: report.progress(Progress("verify", done, total)),
            most,
        )
        await auditor.compare()
        if await generations.active() == active:
            report.verified(auditor)
            return 1 if auditor.differences else 0
        report.say("other views are shown by now: comparing those")


async def _repair(db: Database, ids: Sequence[UUID], report: Report) -> int:
    """Have single tickets folded again, each by the projector of its partition."""
    store, generations = EventStore(db), Generations(db)
    for ticket_id in ids:
        if not await store.stored(ticket_id, limit=1):
            raise UsageError(f"there is no ticket {ticket_id}")

    asked = ParkedTickets(db)

    async def failure(ticket_id: UUID) -> str | None:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while await asked.is_asked(ticket_id):  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError:
            return f"ticket {ticket_id}: the projector of its partition does not get to it"
        parked = await ParkedTickets(await generations.shown()).all()
        still = [each for each in parked if each.ticket_id == ticket_id]
        return f"ticket {ticket_id} stays parked: {still[0].error}" if still else None

    code = 0
    async with projecting(db, store):
        for ticket_id in ids:
            await asked.ask(ticket_id)
        for ticket_id in ids:
            if why := await failure(ticket_id):
                fail(why)
                code = 1
            else:
                report.say(f"ticket {ticket_id} replayed")
    return code


if __name__ == "__main__":
    start("replay", main)
