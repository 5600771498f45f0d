"""The process that keeps the views current: log in, `ticket_reads` and counters out.

Any number may run. They share 64 partitions (`partitions.py`); each follows the log of its own and
writes it in batches (`batch.py`).

The log is followed by a `Subscription` to one's own partitions, which fills gaps and looks for what
has not come: here, for what should be shown and is not. And the checkpoints count what has been
folded: when that differs from the log's count (`log_count.py`), everything is scanned again.
Scanning is always safe: what is there already is passed over.

Where to start: from the earliest token of the partitions that one has; doubles cost little. A
partition without a token, or whose token the database has forgotten, is scanned: from the beginning
of the log, and then followed from the token that was taken before.
Nothing waits for a batch to fill up: while one is written the next one gathers.

A `Projector` keeps one generation of views current; `project` keeps the one that is shown so,
whichever that is, and has another built where it cannot be kept (`rebuild.py`).
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from uuid import UUID

from pydantic import ValidationError

from domain.days import Zones
from domain.errors import CasebookError
from eventstore.background import background
from eventstore.database import Database
from eventstore.failures import HistoryLost
from eventstore.lease import LEASE_SECONDS
from eventstore.log import SILENT_SECONDS, EventStore, Recorded
from eventstore.log_identity import new_member_id
from eventstore.mongo.errors import DriverError, describe, is_unavailable
from eventstore.mongo.resume_tokens import stream_order
from eventstore.partition import partition_of
from eventstore.subscription import (
    BATCH_EVENTS,
    LateEventCheck,
    Position,
    Subscription,
    beginning,
    read_ahead,
)
from projections.folding import describe_error
from projections.projector import health
from projections.projector.batch import BatchWriter, OwnedPartitions
from projections.projector.checkpoints import Checkpoints, Fenced
from projections.projector.log_count import LogCountCheck
from projections.projector.parked import Parked, ParkedTickets
from projections.projector.partitions import Partition, plan
from projections.projector.saved_view_backfill import SavedViewBackfill
from projections.views.saved_views import SavedViews, ids_of

_log = logging.getLogger(__name__)

STANDBY_SECONDS = 1.0
RETRY_SECONDS = 1.0
SWEEP_SECONDS = 10.0
_BEATS_PER_LEASE = 5
_SILENT_ALONE = 0.8
"""Of the time between beats: two silences of the stream, so three beats a lease, where nobody waits
to take over."""
_BEATS_UNTIL_LET_GO = 5
_FAILURE_CHARACTERS = 500
_FEWEST_EVENTS = 50


class Unusable(CasebookError):
    """The views cannot be kept current as they are, and have to be built anew from the log."""

    def __init__(self, detail: str) -> None:
        super().__init__("views_unusable", detail)


class Projector:
    """Keeps its share of one generation of views current for as long as `run` runs."""

    def __init__(
        self,
        database: Database,
        store: EventStore,
        *,
        zones: Zones,
        lease_seconds: float = LEASE_SECONDS,
        beat_seconds: float | None = None,
        keeps_lost: bool = False,
        repairs: bool = True,
        late: LateEventCheck | None = None,
    ) -> None:
        """`database` as it is with these views (`Generation.of`).

        `zones`: in which they count days (`Generation.zones`).
        `keeps_lost`: go on with views that show events which have vanished from the log.
        `repairs`: do those that are asked for; else who keeps what is shown current does.

        `beat_seconds`: how often it shows life, and how far it is; five times a lease unless given.
        """
        self._database = database = database.keeping_session()
        self._store = store
        self._checkpoints = Checkpoints(database, lease_seconds)
        self._writer = BatchWriter(database, store, self._checkpoints, zones)
        self._views = SavedViews(database)
        self._parked = ParkedTickets(database)
        self._beat_seconds = beat_seconds or lease_seconds / _BEATS_PER_LEASE
        self.id = self._me = new_member_id()
        self._mine: dict[int, Partition] = {}
        self._owned = OwnedPartitions(self._me, {})
        self._is_alone = False
        self._keeps_lost = keeps_lost
        self._repairs = repairs
        self._late = late or LateEventCheck()
        self._backfill = SavedViewBackfill(database, self._writer, self._checkpoints)
        self._log_count = LogCountCheck(
            database, store, self._checkpoints, self._late.overdue, self._me
        )
        self._told_difference = 0
        self._unusable: Unusable | None = None
        self._watched = database.watchdog.watch("following the log for the views")
        self._as_of: datetime | None = None
        self._looked_until: datetime | None = None
        self._written_until = store.clock.now()
        self._most_events = BATCH_EVENTS

    async def run(self) -> None:
        """Share in the work until cancelled; then give back what one has.

        A failure is logged and tried again from the checkpoints, which tell everyone about it.
        Raises Unusable.
        """
        what = "comparing the views with the log"
        async with background(self._database.supervisor.keep(self._sweep, what, SWEEP_SECONDS)):
            await self._keep_current()

    async def _keep_current(self) -> None:
        failure = ""
        try:
            while True:
                try:
                    await self._work()
                    failure = ""
                    continue
                except Fenced:
                    _log.info("another projector has taken over some partitions")
                except Unusable:
                    raise
                except HistoryLost as error:
                    _log.warning("the change stream lost its place: %s; scanning", error.detail)
                    with suppress(DriverError, Fenced):
                        await self._checkpoints.scan(self._owned.epochs)
                except Exception as error:  # noqa: BLE001
                    if is_unavailable(error):
                        _log.warning("trying again: %s", describe(error))
                        # It may be that so many are too many for the time of an operation.
                        self._most_events = max(_FEWEST_EVENTS, self._most_events // 2)
                    else:
                        # Whatever it is, giving up would leave the views stale for good. The log
                        # has everything, and the checkpoints tell everyone that we fail, and why.
                        again, failure = failure == _told(error), _told(error)
                        with suppress(DriverError):
                            await self._checkpoints.fail(self._me, failure)
                        _log.error(
                            "projection failed; trying again: %s",
                            failure,
                            exc_info=None if again or isinstance(error, DriverError) else error,
                        )
                    await asyncio.sleep(RETRY_SECONDS)
                await self._database.end_session()
        finally:
            with suppress(DriverError):
                await self._checkpoints.leave(self._me)
                await self._database.end_session()

    async def _work(self) -> None:
        """Do what the partitions that one has need most, until that changes."""
        await self._share()
        if not self._mine:
            self._looked_until = None
            await asyncio.sleep(min(STANDBY_SECONDS, self._beat_seconds))
            return
        unread = [p for p in self._mine.values() if p.phase == "scan" or p.token is None]
        if unread:
            await self._scan(unread)
        else:
            await self._follow()

    # --- sharing -------------------------------------------------------------------------------

    async def _share(self, behind: Position | None = None, *, progressed: bool = False) -> bool:
        """Show life, see what one has, take what is to be taken; do what was asked for.

        `behind`: up to where all has been written, `progressed`: with something new in it. Say
        whether one now has other partitions, or they need something else than to be followed.
        """
        await self._checkpoints.beat(self._me, behind, progressed=progressed)
        state, waiting = await asyncio.gather(
            self._checkpoints.read(self._me), self._parked.of(self._mine)
        )
        if await self._checkpoints.take(self._me, state, plan(state, self._me)):
            state = await self._checkpoints.read(self._me)
        await self._checkpoints.remove_expired(state)
        self._as_of = me.as_of if (me := state.members.get(self._me)) else None
        self._is_alone = not any(map(state.is_alive, state.members.keys() - {self._me}))
        had, self._mine = self._mine, {p.number: p for p in state.of(self._me)}
        (views, unreadable), asked = await asyncio.gather(
            self._views.all_apart(), self._parked.asked_of(self._mine if self._repairs else ())
        )
        uncounted = ids_of(unreadable)
        await self._forget_views({view.id for view in views} | uncounted)
        marked = {n: p.epoch for n, p in self._mine.items() if not uncounted.isdisjoint(p.views)}
        await self._checkpoints.uncount(marked, uncounted)  # before anything is written without
        epochs = {number: partition.epoch for number, partition in self._mine.items()}
        slot = await self._checkpoints.slot(self._me, state) if epochs else 0
        self._owned = OwnedPartitions(self._me, epochs, views, self._owned.parked, uncounted, slot)
        new = {n for n, p in self._mine.items() if n not in had or had[n].epoch != p.epoch}
        if new:
            waiting = await self._parked.of(self._mine)
        await self._look_after(waiting, asked, new)
        self._backfill.see(views, self._mine)
        live = all(p.phase == "live" for p in self._mine.values())
        return had.keys() != self._mine.keys() or bool(new) or not live or not self._mine

    async def _forget_views(self, known: Collection[str]) -> None:
        """Remove what is left of saved views that are gone; done by who has the first partition."""
        gone = {i for p in self._mine.values() for i in p.views} - {*known}
        if gone and 0 in self._mine:
            await self._views.forget_counts(sorted(gone))
            await self._checkpoints.forget(sorted(gone))

    async def _look_after(
        self,
        waiting: Iterable[Parked],
        asked: Mapping[UUID, Collection[UUID]],
        new: set[int],
    ) -> None:
        """Fold tickets again: those that were asked for, and the parked ones of new partitions."""
        self._owned.parked = {p.ticket_id for p in waiting}
        parked_anew = {t for t in self._owned.parked if partition_of(t) in new}
        for ticket_id in {*asked, *parked_anew}:
            error = await self._writer.refold(self._owned, ticket_id)
            what = "is folded again" if error is None else f"stays parked: {error}"
            _log.info("ticket %s %s", ticket_id, what)
            if ticket_id in asked:
                await self._parked.done(asked[ticket_id])

    # --- following -----------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Follow the log until one has other partitions, or they are to be scanned."""
        clock = asyncio.get_running_loop().time
        beaten = let_go = 0.0
        log = self._subscribe()
        async with read_ahead(log, log.stream()) as buffer:
            while True:
                batch = await buffer.take(self._most_events, wait=not self._backfill.is_at_work)
                new = 0
                if events := batch.events:
                    new = await self._writer.write(self._owned, events, batch.position)
                    self._most_events = min(BATCH_EVENTS, 2 * self._most_events)
                self._written_until = batch.position.at
                await self._backfill.step(self._owned, self._mine)
                if self._unusable is not None:
                    raise self._unusable
                if clock() - beaten > self._beat_seconds:
                    # What was all folded before is no sign of getting on: it may fail again.
                    if await self._share(batch.position, progressed=new > 0 or not events):
                        return
                    beaten = clock()
                    if events:  # the batch's own transaction has done so
                        let_go = beaten
                    elif beaten - let_go > _BEATS_UNTIL_LET_GO * self._beat_seconds:
                        await self._database.clear_abandoned_transactions()
                        let_go = beaten
                self._looked_until = log.looked_until

    def _subscribe(self) -> Subscription:
        """Go on from the earliest token of the partitions that one has."""
        tokens = [p.token for p in self._mine.values() if p.token is not None]
        times = (self._store.clock.now(), self._as_of, self._looked_until)
        self._written_until = min(time for time in times if time is not None)
        return Subscription(
            self._store,
            Position(min(tokens, key=stream_order), self._written_until),
            frozenset(self._mine),
            look_back=True,
            late=self._late,
            missing=self._not_shown,
            written=lambda: self._written_until,
            watched=self._watched,
            silent_seconds=_SILENT_ALONE * self._beat_seconds if self._is_alone else SILENT_SECONDS,
        )

    async def _not_shown(self, events: Sequence[Recorded]) -> Sequence[Recorded]:
        """Return those of some events that should be shown, and are not (law L8).

        However much goes on: a count that always differs by what is on its way would not tell.
        """
        if not events:
            return ()
        waiting = {p.ticket_id for p in await self._parked.of(self._mine)}
        awaited = [event for event in events if event.ticket_id not in waiting]
        return await health.not_applied(self._database, awaited)

    async def _sweep(self) -> None:
        """Compare what has been folded with the log; done by who has the first partition, for all,
        and beside all else: nothing waits for it.
        """
        if 0 not in self._mine or not self._log_count.is_due:
            return
        known, counted = await self._log_count.compare()
        if counted != known and 0 in self._mine:  # else another counts by now
            await self._checkpoints.keep_count(counted)
        difference = counted.difference
        if difference > 0 and not self._keeps_lost:
            self._unusable = Unusable(f"the log has lost {difference} events, which the views show")
        elif difference != self._told_difference:
            self._told_difference = difference
            if difference > 0:
                _log.error(
                    "%d events have vanished from the log: see `casebook verify`", difference
                )
            elif difference < 0:
                _log.error("scanning has not mended it: see `casebook verify`, `casebook replay`")

    # --- scanning -----------------------------------------------------------------

    async def _scan(self, partitions: Iterable[Partition]) -> None:
        """Fold the whole log of some partitions, passing over what is there.

        The token comes first: what is written during the scan is then found behind it.
        """
        epochs = {each.number: self._owned.epochs[each.number] for each in partitions}
        clock = asyncio.get_running_loop().time
        beaten = clock()
        began = await self._database.server_time()
        log = Subscription(self._store, await beginning(self._store), frozenset(epochs))
        token = log.position.token
        async with background(self._stay_alive()), read_ahead(log, log.scan()) as buffer:
            position = log.position
            while not position.is_followed:
                batch = await buffer.take(self._most_events)
                position = batch.position
                if events := batch.events:
                    await self._writer.write(self._owned, events)
                if clock() - beaten > self._beat_seconds:
                    await self._checkpoints.get_on(self._me)
                    beaten = clock()
        await self._checkpoints.follow(epochs, token)
        if epochs == self._owned.epochs:
            await self._checkpoints.set_as_of(self._me, began)

    async def _stay_alive(self) -> None:
        """Show life, for it may take long until the scan brings the first event."""
        while True:
            await asyncio.sleep(self._beat_seconds)
            await self._checkpoints.beat(self._me)


def _told(error: Exception) -> str:
    """Say what went wrong, without the documents that a driver puts into its errors."""
    if isinstance(error, DriverError | ValidationError):
        return describe_error(error)[:_FAILURE_CHARACTERS]
    # Of no ticket, and gone with the next success: said as it is.
    return f"{type(error).__name__}: {error}"[:_FAILURE_CHARACTERS]
