"""Forgetting: the second step of an erasure, by whoever serves, and a look after old backups.

API keys of who is erased are revoked and name nobody, the access log names them no more, saved
views and webhooks that ask for their tickets are deleted, and their key is destroyed. The third
step is the projector's (`projections/erasure/views.py`). Names are looked for in the documents
themselves: what another version has stored, and this one cannot read, names nobody longer either.

What names them beside the log may come back: from a process that had not heard of it yet, or out of
a backup. So it is looked for again while the erasure goes on, and every some minutes for all who
were ever erased, whose names nobody knows any more: each name that is found is compared with what
theirs were known by. A key that is back is destroyed again, and an erasure that only the keys
remember is done again in the log.
"""

import asyncio
import logging
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import cast
from uuid import UUID

from api.access import access_log, keys
from api.http.paths import kept_path
from api.webhooks.store import UnknownWebhook, Webhooks
from domain.events import ERASED, JsonObject
from domain.persons import KeyDestroyed, PersonErased
from eventstore.documents import UnreadableDocument
from eventstore.log import EventStore
from eventstore.mongo.driver import Database
from eventstore.personal.key_files import KeyUnusable
from eventstore.personal.vault import UnknownPerson
from projections.erasure.progress import Erasures
from projections.projector.background import again_and_again
from projections.replay.generations import Generations
from projections.views import tickets
from projections.views.saved_views import SavedViews, UnknownView

_LOOK_SECONDS = 1.0
_AGAIN_SECONDS = 20.0
_RECONCILE_SECONDS = 600.0
_RESTORED = "erased before a backup was restored"

_log = logging.getLogger(__name__)


class Forgetting:
    """Takes the second step of erasures, and looks after old backups."""

    def __init__(self, database: Database, store: EventStore) -> None:
        self._database = database
        self._store = store
        self._vault = database.vault
        self._erasures = Erasures(database)
        self._keys = keys.Keys(database)
        self._records = database.collection(access_log.COLLECTION)
        self._webhooks = Webhooks(database)
        self._views = SavedViews(database)
        self._looked = self._reconciled = float("-inf")

    async def run(self) -> None:
        """Go on until cancelled. A failure is logged and tried again."""
        await asyncio.gather(
            again_and_again(self._step, "forgetting a person", _LOOK_SECONDS),
            again_and_again(self._look_after, "looking for what names the erased", _LOOK_SECONDS),
        )

    async def _step(self) -> None:
        for person in await self._erasures.at(PersonErased):
            await self.forget(person)

    async def _look_after(self) -> None:
        clock = asyncio.get_running_loop().time
        if clock() - self._reconciled > _RECONCILE_SECONDS:
            await self.reconcile()
            self._reconciled = self._looked = clock()
        elif clock() - self._looked > _AGAIN_SECONDS:
            unfinished = await self._erasures.at(KeyDestroyed)
            if unfinished:
                digests = {await self._erasures.known_by(person) for person in unfinished}
                await self._unname(await self._names(digests))
            self._looked = clock()

    async def forget(self, person: UUID) -> None:
        """Destroy a person's key, and what names them beside the log and its views.

        Raises StoreUnavailable, what the driver raises; HistoryError for who is not erased.
        """
        if len(await self._erasures.steps(person)) > 1:
            return
        known_by = await self._erasures.known_by(person)
        name: str | None = None
        with suppress(
            UnknownPerson, KeyUnusable, UnreadableDocument
        ):  # of no use to anybody, and it goes all the same
            name = (await self._vault.person(person)).name
        # By the name, so before the key goes: only that knows it.
        plain = None if name is None else len(await self._plain_tickets(name))
        await self._unname(await self._names({known_by}) if name is None else {name})
        await self._vault.destroy(person, known_by)
        await self._erasures.take(person, KeyDestroyed(plain))

    async def _plain_tickets(self, name: str) -> set[UUID]:
        """Give the tickets that the views show as somebody's, whose events name them plainly."""
        shown = await named_tickets(self._database, name)
        return await self._store.plainly_naming(name, shown)

    async def _unname(self, names: Collection[str]) -> None:
        """Let nothing beside the log and its views name somebody any more. Safe to repeat."""
        for name in names:
            named = {"principal.id": name}
            await self._records.update_many(named, {"$set": {"principal.id": ERASED}})
            await self._keys.forget(name)
            for view in await self._views.names_asking_for(name):
                with suppress(UnknownView):  # another process is at it as well
                    await self._views.delete(view)
            for hook in await self._webhooks.ids_asking_for(name):
                with suppress(UnknownWebhook):
                    await self._webhooks.delete(hook)
        if names:
            await self._unname_requests(names)

    async def _unname_requests(self, names: Collection[str]) -> None:
        """Take names out of what was sent with requests that are on record.

        Paths are kept without what is typed into them; those of a former version were not.
        """
        named = re.compile("|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in names))
        shown = {"path": 1, "correlation_id": 1}
        async for record in self._database.scan(access_log.COLLECTION, {}, shown):
            path, correlation = (str(record.get(name) or "") for name in shown)
            changed: JsonObject = {}
            if kept_path(path) != path:
                changed["path"] = kept_path(path)
            if named.search(correlation):
                changed["correlation_id"] = ERASED
            if changed:
                await self._records.update_one({"_id": record["_id"]}, {"$set": changed})

    async def _names(self, digests: Collection[bytes]) -> set[str]:
        """Give all names beside the log and its views that are known by one of some digests."""
        found: set[object] = set()
        async for record in self._database.scan(
            access_log.COLLECTION, {}, {"_id": 0, "principal.id": 1}
        ):
            principal = record.get("principal")
            found.add(principal.get("id") if isinstance(principal, Mapping) else None)
        found |= await self._keys.names()
        found |= await self._views.requesters() | await self._webhooks.requesters()
        names = [name for name in found if isinstance(name, str)]
        return {name for name in names if await self._vault.known_by(name) in digests}

    async def reconcile(self) -> None:
        """Have log, keys and all beside them say the same of who has been erased, as after a backup
        was restored.

        Raises StoreUnavailable, what the driver raises.
        """
        fences = await self._erasures.fences()
        for known_by in await self._vault.still_there(fences):
            if len(await self._erasures.steps(fences[known_by])) > 1:  # or it is about to be
                _log.warning("the key of an erased person is back, and destroyed again")
                await self._vault.destroy(fences[known_by], known_by)
        for known_by, person in (await self._vault.erased()).items():
            if known_by not in fences:
                _log.warning("the log does not know an erasure any more; it is done again")
                await self._erasures.take(person, PersonErased(_RESTORED, known_by.hex()))
        await self._unname(await self._names(fences.keys()))


async def named_tickets(database: Database, name: str) -> set[UUID]:
    """Give the tickets that the views show as somebody's, or as followed by them."""
    shown = (await Generations(database).shown()).collection(tickets.COLLECTION)
    found: set[UUID] = set()
    for field in ("requester", "followers"):
        found |= {cast("UUID", d["_id"]) async for d in shown.find({field: name}, {"_id": 1})}
    return found
