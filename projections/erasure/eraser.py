"""The last step of an erasure: no view holds anything of an erased person any more.

Every generation of views is looked at, shown or kept or being built, and each ticket in whose
events something of theirs is sealed is folded anew up to the version that its document has. What is
opened for that has `ERASED` in the place of what was theirs, so it is in the documents, and in the
search terms; sums and checkpoints stay what they are, but for saved views that asked for them.

Once at first, so that it is soon done; and a second time, after the longest that a transaction or a
process that was frozen in the middle of its work can take to write what it had read before. It is
complete when by then nothing is left of builds that began before, of other versions' views, and of
those that are to be dropped. Until then it is tried again and again.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from domain.people import ErasureCompleted, KeyDestroyed
from eventstore.database import Database
from eventstore.log import EventStore
from eventstore.personal.erasure_news import STALE_SECONDS
from projections.erasure.progress import Erasures
from projections.generations import Generation, Generations
from projections.projector.batch import BatchWriter
from projections.projector.checkpoints import Checkpoints
from projections.views.saved_views import SavedViews, ids_of
from projections.views.tickets import SHAPE

SETTLED_SECONDS = 75.0
"""How long after a key is gone something may still be written that was opened by it."""
_LOOK_SECONDS = 1.0
_STALE_SECONDS = STALE_SECONDS + 1

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Seen:
    """When it was first seen that a person's key is gone, and whether views were renewed since."""

    at: float
    server_time: datetime
    renewed: bool = False


class Eraser:
    """Completes erasures in the views of one database."""

    def __init__(
        self, database: Database, store: EventStore, settled_seconds: float = SETTLED_SECONDS
    ) -> None:
        self._database = database
        self._store = store
        self._settled_seconds = settled_seconds
        self._erasures = Erasures(database)
        self._generations = Generations(database)
        self._seen: dict[UUID, _Seen] = {}
        self._redacted: set[bytes] = set()

    async def run(self) -> None:
        """Complete what is begun, until cancelled. A failure is logged and tried again."""
        await self._database.supervisor.keep(self._step, "an erasure", _LOOK_SECONDS)

    async def _step(self) -> None:
        for person in await self._erasures.at(KeyDestroyed):
            await self.complete(person)
        await self._renew_redacted()

    async def complete(self, person: UUID) -> bool:
        """Do what can be done by now; return whether that was all. The key must be gone already.

        Raises StoreUnavailable, what the driver raises.
        """
        clock = asyncio.get_running_loop().time
        if person not in self._seen:  # by clocks of ours: those of who took the step may differ
            self._seen[person] = _Seen(clock(), await self._database.server_time())
        seen = self._seen[person]
        since = clock() - seen.at
        if since < _STALE_SECONDS:
            return False
        if not seen.renewed:
            await self._renew(person)
            seen.renewed = True
        if since < self._settled_seconds or await self._others_may_write(seen.server_time):
            return False
        renewed = await self._renew(person)
        if renewed is None or await self._generations.leftovers():
            return False
        await self._erasures.take(person, ErasureCompleted(renewed))
        del self._seen[person]
        _log.info("person %s is erased: %d tickets were folded anew", person, renewed)
        return True

    async def _renew_redacted(self) -> None:
        """Fold tickets of which something was redacted anew in views that are not shown or are of
        the past, and so may never come to the event; where they do, projectors do it then.
        """
        known = self._store.vault.news.redactions.tickets
        new = known.keys() - self._redacted
        if not new:
            return
        shown = await self._generations.active()
        others = [g for g in await self._generations.holding_tickets() if g != shown]
        if await self._renew_in(others, {known[each] for each in new}):
            self._redacted |= new

    async def _others_may_write(self, gone_at: datetime) -> bool:
        """Return whether views are being built by a process that may have read before, or are of
        another version, which cannot be folded anew: those are dropped, unless they are shown.
        """
        began = await self._generations.build_began()
        if began is not None and began < gone_at + timedelta(seconds=_STALE_SECONDS):
            return True
        await self._generations.drop_foreign()
        return any(g.shape != SHAPE for g in await self._generations.holding_tickets())

    async def _renew(self, person: UUID) -> int | None:
        """Fold a person's tickets anew everywhere; return how many, None if some could not be."""
        ids = await self._store.tickets_of(person)
        everywhere = await self._generations.holding_tickets()
        return len(ids) if await self._renew_in(everywhere, ids) else None

    async def _renew_in(self, generations: Iterable[Generation], ids: Collection[UUID]) -> bool:
        """Fold some tickets anew in some views; return whether all could be."""
        saved, unreadable = await SavedViews(self._database).all_apart()
        done = True
        for generation in generations:
            views = generation.of(self._database)
            writer = BatchWriter(views, self._store, Checkpoints(views), generation.zones)
            for ticket_id in ids if generation.shape == SHAPE else ():
                if not await writer.renew(saved, ticket_id, ids_of(unreadable)):
                    done = False
                    _log.error("ticket %s cannot be folded anew: see `casebook verify`", ticket_id)
        return done
