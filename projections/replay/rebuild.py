"""Building views anew from the log, under live traffic, and putting them in the place of the old.

    scan    processes fold ranges of tickets, each ticket whole, and write each document once;
            sums are added up in memory
    tail    a projector of its own follows the stream from the token that was taken before the scan
    prove   every document and every sum is compared with the log, while the tail goes on
    switch  the live projectors are fenced; as soon as the new views show all that the old ones do,
            one pointer names the new ones
    hand    the live projectors take over, each partition without a gap

Until the switch nobody sees anything of it: killed at any moment, it leaves the live views as they
were, and what it has built is dropped by the next who sweeps (`generations.py`). After the switch
the new views are like any others: a projector that is gone is replaced.

Nothing is lost between scan and tail: what is written during the scan is found behind the token,
and what comes twice is passed over by its version (laws L7, L8). The fence keeps time from running
backwards: whatever a reader has seen in the old views is in the new ones when they are first shown.

Memory: some ranges of events in each process, the sums, and sixty-four checkpoints. Nothing grows
with the log but the list of tickets that cannot be folded, or lack events.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from domain.errors import CasebookError
from eventstore.background import background
from eventstore.database import Database
from eventstore.documents import UnreadableDocument
from eventstore.log import EventStore
from eventstore.log_identity import new_member_id
from eventstore.mongo.errors import DriverError, describe, is_unavailable
from eventstore.mongo.resume_tokens import ResumeToken
from eventstore.partition import PARTITIONS
from projections.desk_zones import desk_zones
from projections.generations import (
    BUILD_LEASE_SECONDS,
    OF_ANOTHER_LOG,
    BuildLost,
    BuildRunning,
    By,
    Ended,
    Generation,
    Generations,
    NoFormer,
    prepare,
)
from projections.projector import health
from projections.projector.checkpoints import Applied, Checkpoints, Fenced
from projections.projector.parked import ParkedTickets
from projections.projector.partitions import Partition
from projections.projector.projector import Projector
from projections.replay.audit import Auditor
from projections.replay.comparing import Difference
from projections.replay.scan import Folded, Job, fold_range
from projections.replay.vanished import require_all_that_is_shown
from projections.views import sums
from projections.views.saved_views import SavedView, SavedViews
from projections.views.shown_versions import versions_of
from projections.views.tickets import SHAPE
from projections.workers import Workers

_log = logging.getLogger(__name__)

What = Literal["rebuild", "as_of", "rollback"]
Phase = Literal["wait", "scan", "tail", "prove", "switch", "hand over", "verify"]

_SHOW_SECONDS = 1.0
_LOOK_SECONDS = 0.02
_PAUSE_SECONDS = 0.5
_BEAT_SECONDS = 0.25
_FENCED_SECONDS = 3.0
_SWITCH_TRIES = 20
_RECENT_SECONDS = 15.0
_HAND_OVER_SECONDS = 15.0
_FAILING_SECONDS = 30.0
_MOST_TOLD = 5
_WRITES_AT_ONCE = 1000


class NotProved(CasebookError):
    """What was built differs from the log: a bug, or a log that was changed meanwhile."""

    def __init__(self, count: int, some: Sequence[Difference]) -> None:
        # Not what stands there: a log may be read by anyone.
        told = "; ".join(f"{each.what}: {each.field}" for each in some)
        super().__init__(
            "not_proved", f"not shown, for {count} things differ from the log: {told}"
        )  # fmt: skip


class CannotSwitch(CasebookError):
    """The new views do not catch up with the old ones: for example because a fold fails."""

    def __init__(self, why: str) -> None:
        super().__init__("cannot_switch", f"the new views cannot be shown: {why}")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a rebuild is. `done` and `total` count events; `lag_seconds` is that of the tail."""

    phase: Phase
    done: int = 0
    total: int = 0
    lag_seconds: float | None = None


@dataclass(slots=True)
class Summary:
    """What was done. `fenced_seconds`: for how long no projector could write to what is shown."""

    numbers: Mapping[str, int] = field(default_factory=dict)
    tickets: int = 0
    events: int = 0
    parked: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    fenced_seconds: float = 0.0
    checked_documents: int = 0
    checked_numbers: int = 0


Tell = Callable[[Progress], None]


class Rebuild:
    """Builds views of one database; `tell` is told how far it is. For one build each."""

    def __init__(
        self, database: Database, workers: Workers, tell: Tell = lambda _progress: None
    ) -> None:
        self._database = database
        self._workers = workers
        self._tell_others = tell
        self._progress = Progress("wait")
        self._store = EventStore(database)
        self._generations = Generations(database)
        self._me = new_member_id()
        self._clock = asyncio.get_running_loop().time
        self._summary = Summary()
        self._phase: tuple[Phase, float] = ("wait", self._clock())
        self._ending = False
        self._others = False
        self._gaps: list[UUID] = []
        self._what: What = "rebuild"
        self._began_at: datetime | None = None

    async def everything(
        self,
        *,
        keep_former: bool = False,
        instead_of: Generation | None = None,
        accept_loss: bool = False,
    ) -> Summary:
        """Build all views from the log, prove them, and show them in the place of the old ones.

        Or in the place of `instead_of`, and of no others. `accept_loss`: even if the log has less
        than what is shown. Raises EventsVanished if it has, BuildRunning, BuildLost, NotProved,
        CannotSwitch, WorkerFailed, ViewsKeptChanging, and what the driver raises: then what is
        shown is what was.
        """
        async with self._building() as generation:
            active = await self._generations.active()
            if active.shape > SHAPE:
                raise CannotSwitch("those of a newer version are")
            if instead_of not in (None, active):  # another process has just built them
                raise BuildRunning
            await self._fold_log(Job(generation))
            # The views of another log, which a restore has replaced, show what it had.
            holds = None if accept_loss or active.shape == OF_ANOTHER_LOG else active
            await self._show(
                generation,
                lambda: self._generations.switch(self._me, self._me, keep_former=keep_former),
                holds,
            )
        return self._summary

    async def as_of(self, name: str, until: datetime, by: By) -> Summary:
        """Build views as of a time, to be asked for by name. Raises as `everything` does."""
        self._what = "as_of"
        async with self._building() as generation:
            await self._fold_log(Job(generation, until, by))
            self._ending = True
            await self._generations.keep_as_of(self._me, name, until, by)
            self._summary.numbers = generation.numbers
        return self._summary

    async def go_back(self) -> Summary:
        """Show the former generation again, once it has caught up and is proved.

        Raises NoFormer, NotProved, CannotSwitch.
        """
        self._what = "rollback"
        former = await self._generations.former()
        if former.shape != SHAPE:
            raise CannotSwitch("the former ones were folded by another version")
        wanted = await desk_zones(self._database)
        if wanted not in (None, former.zones):  # or they would be built anew at once
            raise CannotSwitch(
                f"the former ones count days in {', '.join(former.zones)}, not in the desk's time "
                "zones: put these back, and views that count so are built by themselves"
            )
        drop_after = await self._generations.keep_former()
        async with self._telling_its_end():
            try:
                await self._show(former, lambda: self._generations.go_back(former, self._me))
            finally:
                if not self.has_switched:
                    with suppress(DriverError, NoFormer):
                        await asyncio.shield(self._generations.keep_former(drop_after))
        return self._summary

    async def _fold_log(self, job: Job) -> None:
        """Fold the log into new views, and set their checkpoints."""
        views = job.generation.of(self._database)
        await prepare(views)
        began = await self._database.server_time()
        # Before the scan; what is of a time is followed by nothing.
        token = await self._store.position() if job.until is None else None
        saved = await SavedViews(views).all()
        applied = await self._scan(job, saved)
        await Checkpoints(views).write(_partitions(applied, token, began, saved))

    async def _show(
        self,
        generation: Generation,
        point: Callable[[], Awaitable[Generation]],
        holds: Generation | None = None,
    ) -> None:
        """Keep views current, prove them, and show them as soon as they show all that is shown.

        `holds`: views of which the log must have all that they show.
        """
        views, zones = generation.of(self._database), generation.zones
        projector = Projector(
            views, self._store, zones=zones, beat_seconds=_BEAT_SECONDS, repairs=False
        )
        async with background(projector.run()):
            await self._catch_up(views)
            if holds is not None:
                await require_all_that_is_shown(
                    self._store, holds.of(self._database), views, self._gaps
                )
            await self._prove(generation)
            await self._switch(views, point)
            await self._keep_end()  # as far as it is known: nobody is to see neither it nor its end
            await self._hand_over(views, projector)

    # --- one after the other -------------------------------------------------------------------

    @property
    def has_switched(self) -> bool:
        """Return whether what was built is shown, or kept."""
        return bool(self._summary.numbers)

    def _tell(self, progress: Progress) -> None:
        self._progress = progress
        self._tell_others(progress)

    def _begin(self, phase: Phase) -> None:
        self._end_phase()
        self._phase = (phase, self._clock())
        self._tell(Progress(phase))

    def _end_phase(self) -> None:
        phase, began = self._phase
        seconds = self._summary.seconds
        if phase != "wait":
            seconds[phase] = seconds.get(phase, 0.0) + self._clock() - began

    @asynccontextmanager
    async def _building(self) -> AsyncIterator[Generation]:
        """Build inside the block; what is not shown or kept at its end is given up."""
        generation = await self._first_in_line()
        async with self._telling_its_end():
            try:
                async with background(self._show_life()):
                    with suppress(UnreadableDocument):  # what cannot be read stays: no harm is done
                        await self._generations.sweep()  # of what a former build has left
                    yield generation
            except BaseException:
                with suppress(DriverError):
                    await asyncio.shield(self._generations.give_up(self._me))
                raise

    @asynccontextmanager
    async def _telling_its_end(self) -> AsyncIterator[None]:
        """Have it be kept how the block ended, for those who look later."""
        self._began_at = await self._database.server_time()
        try:
            yield
        except BaseException as error:
            # Who was too late to build has built nothing: the other's end is the one to be told.
            if not self.has_switched and not isinstance(error, BuildRunning):
                why = describe(error) if isinstance(error, Exception) else "it was stopped"
                await asyncio.shield(self._keep_end(why))
            raise
        self._end_phase()
        await self._keep_end()

    async def _keep_end(self, failure: str | None = None) -> None:
        known = asdict(self._summary)
        del known["numbers"]  # or what it has built would be taken for something that is used
        with suppress(DriverError):  # that it ended is so all the same
            now = await self._database.server_time()
            began = self._began_at or now
            await self._generations.keep_ended(Ended(began, now, self._what, failure, **known))

    async def _first_in_line(self) -> Generation:
        """Begin; wait for a build that was killed to be taken for dead. Raises BuildRunning."""
        patient_until = self._clock() + BUILD_LEASE_SECONDS + 2 * _PAUSE_SECONDS
        while True:
            try:
                return await self._generations.begin(self._me)
            except BuildRunning:
                if self._clock() > patient_until:
                    raise
            self._tell(Progress("wait"))
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _show_life(self) -> None:
        while True:
            try:
                at = self._progress
                await self._generations.beat(self._me, at.phase, at.done, at.total)
            except BuildLost:
                if not self._ending:
                    raise
            except Exception as error:
                if not is_unavailable(error):  # it may be back before the lease is over
                    raise
            await asyncio.sleep(_SHOW_SECONDS)

    async def _scan(self, job: Job, saved: Sequence[SavedView]) -> Mapping[int, Applied]:
        """Fold everything; return what that does to the checkpoints."""
        self._begin("scan")
        views = job.generation.of(self._database)
        total = await self._store.count()
        folded = Folded()

        def took(more: Folded) -> None:
            folded.add(more)
            self._tell(Progress("scan", folded.read, max(folded.read, total)))

        ranges = await self._store.ranges()
        await self._workers.each(fold_range, [(job, saved, part) for part in ranges], took)
        for view in sums.of(views):
            writes = view.writes(folded.added[view.field], 0)
            for start in range(0, len(writes), _WRITES_AT_ONCE):
                await views.write(writes[start : start + _WRITES_AT_ONCE])
        for failure in folded.failures:
            await ParkedTickets(views).park(*failure, None)
        self._gaps = folded.gaps
        self._summary.tickets = folded.tickets
        self._summary.events = sum(each.events for each in folded.applied.values())
        self._summary.parked = len(folded.failures)
        return folded.applied

    async def _catch_up(self, views: Database) -> None:
        """Wait until views show what is shown now. Raises CannotSwitch."""
        self._begin("tail")
        began = await self._database.server_time()
        total = await self._store.count()  # once: some servers count for it
        failing_since: float | None = None
        while True:
            state = await Checkpoints(views).read()
            applied = sum(partition.applied for partition in state.partitions)
            self._tell(Progress("tail", applied, max(applied, total), health.age_seconds(state)))
            shown = health.as_of(state)
            if shown is not None and shown >= began and await self._shows_all(views):
                return
            failures = [m.failure for m in state.members.values() if m.failure is not None]
            failing_since = failing_since or self._clock() if failures else None
            if failing_since is not None and self._clock() - failing_since > _FAILING_SECONDS:
                raise CannotSwitch(failures[0])
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _shows_all(self, views: Database) -> bool:
        """Return whether views show at least what is shown now of all that was written lately.

        And count every saved view that is counted now.
        """
        shown = await self._generations.shown()
        if not await _counted(shown) <= await _counted(views):
            return False
        now = await self._database.server_time()
        newest: Counter[UUID] = Counter()
        for event in await self._store.since(now - timedelta(seconds=_RECENT_SECONDS), 0):
            newest[event.ticket_id] = max(event.version, newest[event.ticket_id])
        for parked in await ParkedTickets(views).all():
            newest.pop(parked.ticket_id, None)
        there, here = await asyncio.gather(versions_of(shown, newest), versions_of(views, newest))
        # No more than the log has: what is shown now may be damaged.
        return all(
            here.get(ticket_id, 0) >= min(there.get(ticket_id, 0), version)
            for ticket_id, version in newest.items()
        )

    async def _prove(self, generation: Generation) -> None:
        self._begin("prove")
        auditor = Auditor(
            self._database,
            generation,
            self._workers,
            lambda done, total: self._tell(Progress("prove", done, total)),
            _MOST_TOLD,
        )
        await auditor.compare()
        if auditor.differences:
            raise NotProved(auditor.differences, auditor.first)
        self._summary.checked_documents = auditor.tickets
        self._summary.checked_numbers = auditor.numbers

    async def _switch(self, views: Database, point: Callable[[], Awaitable[Generation]]) -> None:
        """Fence who writes to what is shown, and show `views` as soon as they show all of it."""
        for _ in range(_SWITCH_TRIES):
            await self._catch_up(views)
            self._begin("switch")
            shown = Checkpoints(await self._generations.shown())
            state = await shown.read()
            self._others = any(state.is_alive(member) for member in state.members)
            async with self._fenced(shown):
                patient_until = self._clock() + _FENCED_SECONDS
                while not (caught_up := await self._shows_all(views)):
                    if self._clock() > patient_until:
                        break
                    await asyncio.sleep(_LOOK_SECONDS)
                if caught_up:
                    self._ending = True
                    with suppress(Fenced):  # then we were frozen for longer than the lease
                        self._summary.numbers = (await point()).numbers
                        return
                    self._ending = False
        raise CannotSwitch("they do not catch up")

    @asynccontextmanager
    async def _fenced(self, shown: Checkpoints) -> AsyncIterator[None]:
        """Have nobody write to what is shown inside the block; it is to be short."""
        began = self._clock()
        await shown.prepare()  # they may have been dropped by hand

        async def stay() -> None:
            while True:
                await asyncio.sleep(_PAUSE_SECONDS)
                await shown.get_on(self._me)

        await shown.fence(self._me)
        try:
            async with background(stay()):
                yield
        finally:
            with suppress(DriverError):
                await asyncio.shield(shown.leave(self._me))
            self._summary.fenced_seconds += self._clock() - began

    async def _hand_over(self, views: Database, projector: Projector) -> None:
        """Go on with the new views until the live projectors have taken them, if there are any."""
        self._begin("hand over")
        patient_until = self._clock() + _HAND_OVER_SECONDS
        try:
            await Checkpoints(views).hand_over(projector.id)
            while self._others and self._clock() < patient_until:
                state = await Checkpoints(views).read()
                if not state.of(projector.id):
                    return
                await asyncio.sleep(_LOOK_SECONDS)
        except DriverError as error:  # they are shown: that has been done
            _log.warning("the new views are shown, but: %s", describe(error))


def _partitions(
    applied: Mapping[int, Applied],
    token: ResumeToken | None,
    as_of: datetime,
    saved: Iterable[SavedView],
) -> Iterator[Partition]:
    """Return the checkpoints of what was built; `token` was taken before the log was read."""
    ids = frozenset(view.id for view in saved)
    for number in range(PARTITIONS):
        events, last = applied.get(number, Applied())
        yield Partition(
            number,
            phase="live",
            token=token,
            applied=events,
            last=None if last is None else last._asdict(),
            as_of=as_of,
            views=ids,
        )


async def _counted(views: Database) -> frozenset[str]:
    """Return the saved views that are counted everywhere."""
    partitions = (await Checkpoints(views).read()).partitions
    saved = {view.id for view in await SavedViews(views).all()}
    return frozenset.intersection(*(p.views for p in partitions)) & saved
