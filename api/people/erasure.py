"""The second step of an erasure, by any process that serves, and a look after old backups.

API keys of who is erased are revoked and name nobody, saved views and webhooks that ask for their
tickets are deleted, what was sent with requests names them no more, and their key is destroyed. The
access log knows persons by id, so there is nothing to do there. The third step is the projector's
(`projections/erasure/eraser.py`). Names are looked for in the documents themselves, also in those
of another version that this one cannot read.

What names them may come back: from a process that had not heard of the erasure yet, or out of a
backup. So it is looked for again while the erasure goes on, and every ten minutes for all who were
ever erased, whose names nobody knows any more: each name that is found is compared with their
lookup digests. A key that is back is destroyed again, and an erasure that only the keys remember is
done again in the log.

What is redacted goes the same way: the keys of single messages that a process which was killed has
left, or an old backup has brought back, are destroyed, by each process once it knows of a
redaction: of all there are when it starts.
"""

import asyncio
import logging
from collections.abc import Collection
from contextlib import suppress
from uuid import UUID

from api.access.access_log import AccessLog
from api.access.keys import Keys
from api.webhooks.store import UnknownWebhook, Webhooks
from domain.people import KeyDestroyed, PersonErased
from domain.tickets import CODEC
from domain.values import one_spelling
from eventstore.background import run_all
from eventstore.database import Database
from eventstore.documents import UnreadableDocument, uuid_of
from eventstore.key_files import KeyUnusable
from eventstore.log import EventStore
from eventstore.personal.vault import UnknownPerson
from eventstore.redactions import Place
from projections.erasure.progress import Erasures
from projections.generations import Generations
from projections.views import tickets
from projections.views.saved_views import SavedViews, UnknownView

_LOOK_SECONDS = 5.0  # for what a process that was killed has left
AGAIN_SECONDS = 20.0
_RECONCILE_SECONDS = 600.0
_RESTORED = "erased before a backup was restored"

_log = logging.getLogger(__name__)


class ErasureWorker:
    """Takes the second step of erasures, and looks after old backups."""

    def __init__(
        self, database: Database, store: EventStore, again_seconds: float = AGAIN_SECONDS
    ) -> None:
        """`again_seconds`: how often names are looked for while an erasure goes on."""
        self._database = database
        self._store = store
        self._again_seconds = again_seconds
        self._vault = database.vault
        self._erasures = Erasures(database)
        self._records = AccessLog(database)
        self._keys = Keys(database)
        self._webhooks = Webhooks(database)
        self._views = SavedViews(database)
        self._reconciled = float("-inf")
        self._unusable: set[Place] = set()  # redacted, with keys that could not be read

    async def run(self) -> None:
        """Go on until cancelled. A failure is logged and tried again."""
        keep = self._database.supervisor.keep
        await run_all(
            keep(self._look_after, "looking for what names the erased", _LOOK_SECONDS),
            keep(self._step, "forgetting a person", _LOOK_SECONDS),
            keep(self._destroy_redacted, "destroying what was redacted", _LOOK_SECONDS),
        )

    async def _step(self) -> None:
        for person in await self._erasures.at(PersonErased):
            await self.forget(person)

    async def _destroy_redacted(self) -> None:
        to_destroy = self._vault.news.redactions.to_destroy
        for place in list(to_destroy):
            try:
                await self._store.destroy_redacted(*place)
            except KeyUnusable:
                self._unusable.add(place)
            to_destroy.discard(place)

    async def _look_after(self) -> None:
        clock = asyncio.get_running_loop().time
        unfinished = await self._erasures.at(KeyDestroyed)
        if clock() - self._reconciled > (self._again_seconds if unfinished else _RECONCILE_SECONDS):
            await self.reconcile()
            self._reconciled = clock()

    async def forget(self, person: UUID) -> None:
        """Destroy a person's key, and what names them outside the log and its views.

        Raises StoreUnavailable, what the driver raises; HistoryError for who is not erased.
        """
        if len(await self._erasures.steps(person)) > 1:
            return
        known_by = await self._erasures.known_by(person)
        name: str | None = None
        with suppress(UnknownPerson, KeyUnusable, UnreadableDocument):  # the key goes all the same
            name = (await self._vault.person(person)).name
        # By the name, so before the key goes: only that knows it.
        plain = None if name is None else len(await self._plain_tickets(name))
        await self._unname(await self._names({known_by}) | ({name} if name else set()))
        await self._records.replace_names()
        await self._vault.destroy(person, known_by)
        await self._erasures.take(person, KeyDestroyed(plain))

    async def _plain_tickets(self, name: str) -> set[UUID]:
        """Return the tickets that the views show as a person's, whose events name them plainly."""
        shown = await named_tickets(self._database, name)
        return await self._store.unsealed_naming(name, CODEC.naming_fields, shown)

    async def _unname(self, names: Collection[str]) -> None:
        """Let nothing outside the log and its views name some persons. Safe to repeat."""
        for name in names:
            await self._keys.forget(name)
            for view in await self._views.names_asking_for(name):
                with suppress(UnknownView):  # another process is at it as well
                    await self._views.delete(view)
            for hook in await self._webhooks.ids_asking_for(name):
                with suppress(UnknownWebhook):
                    await self._webhooks.delete(hook)
        if names:
            await self._records.unname_requests(names)

    async def _names(self, digests: Collection[bytes]) -> set[str]:
        """Return all names outside the log and its views that have one of some lookup digests."""
        found = await self._keys.names()
        found |= await self._views.requesters() | await self._webhooks.requesters()
        return {
            name
            for name in found
            for spelled in {name, one_spelling(name)}
            if await self._vault.known_by(spelled) in digests
        }

    async def reconcile(self) -> None:
        """Have the log, the keys and everything else agree on who has been erased, also after an
        old backup was restored.

        Raises StoreUnavailable, what the driver raises.
        """
        self._vault.news.redactions.to_destroy.update(self._unusable)
        self._unusable.clear()
        tombstones = await self._erasures.tombstones()
        for known_by in await self._vault.still_there(tombstones):
            if len(await self._erasures.steps(tombstones[known_by])) > 1:  # or it is about to be
                _log.warning("the key of an erased person is back, and destroyed again")
                await self._vault.destroy(tombstones[known_by], known_by)
        for known_by, person in (await self._vault.erased()).items():
            if known_by not in tombstones:
                _log.warning("the log does not know an erasure any more; it is done again")
                await self._erasures.take(person, PersonErased(_RESTORED, known_by.hex()))
        await self._records.replace_names()
        if tombstones:
            await self._unname(await self._names(tombstones.keys()))
        if unfinished := await self._erasures.at(KeyDestroyed):
            await self._records.forget_requests(unfinished)


async def named_tickets(database: Database, name: str) -> set[UUID]:
    """Return the tickets that the views show as a person's, or as followed by them."""
    shown = (await Generations(database).shown()).collection(tickets.COLLECTION)
    found = shown.find({"participants": one_spelling(name)}, {"_id": 1})
    return {uuid_of(document) async for document in found}
