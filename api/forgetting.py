"""Forgetting: the second step of an erasure, by whoever serves, and a look after old backups.

API keys of who is erased are revoked and name nobody, the access log names them no more, saved
views and webhooks that ask for their tickets are deleted, and their key is destroyed. The third
step is that of whoever projects (`projections/erasing.py`).

A key of somebody who has been erased, back in a restored database of keys, is destroyed again; an
erasure that only the keys remember is done again in a restored log.
"""

import asyncio
import logging
from contextlib import suppress
from typing import cast
from uuid import UUID

from api import access_log, keys
from domain.events import ERASED
from domain.persons import KeyDestroyed, PersonErased
from eventstore.driver import Database
from eventstore.store import EventStore
from eventstore.vault import UnknownPerson
from projections import tickets
from projections.beside import again_and_again
from projections.erasures import Erasures
from projections.generations import Generations
from projections.saved_views import SavedViews
from projections.webhooks import Webhooks

_LOOK_SECONDS = 1.0
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
        self._webhooks = Webhooks(database)
        self._views = SavedViews(database)
        self._reconciled = float("-inf")

    async def run(self) -> None:
        """Go on until cancelled. A failure is logged and tried again."""
        await again_and_again(self._step, "forgetting a person", _LOOK_SECONDS)

    async def _step(self) -> None:
        clock = asyncio.get_running_loop().time
        if clock() - self._reconciled > _RECONCILE_SECONDS:
            await self.reconcile()
            self._reconciled = clock()
        for person in await self._erasures.at(PersonErased):
            await self.forget(person)

    async def forget(self, person: UUID) -> None:
        """Destroy a person's key, and what names them beside the log and its views.

        Raises StoreUnavailable, what the driver raises.
        """
        known_by = await self._erasures.known_by(person)
        name: str | None = None
        with suppress(UnknownPerson):
            name = (await self._vault.person(person)).name
        # By the name, so before the key goes: only that knows it.
        done = KeyDestroyed(0, 0, 0, 0, 0) if name is None else await self._unname(person, name)
        await self._vault.destroy(person, known_by)
        await self._erasures.take(person, done)

    async def _unname(self, person: UUID, name: str) -> KeyDestroyed:
        records = await self._database.collection(access_log.COLLECTION).update_many(
            {"principal.id": name}, {"$set": {"principal.id": ERASED}}
        )
        of_keys = await keys.Keys(self._database).forget(name)
        views = [v for v in await self._views.all() if v.filter.requester == name]
        for view in views:
            await self._views.delete(view.name)
        hooks = [h for h in await self._webhooks.all() if h.filter.requester == name]
        for hook in hooks:
            await self._webhooks.delete(hook.id)
        sealed = set(await self._store.tickets_of(person))
        plain = await named_tickets(self._database, name) - sealed
        return KeyDestroyed(records.modified_count, of_keys, len(views), len(hooks), len(plain))

    async def reconcile(self) -> None:
        """Have log and keys say the same of who has been erased, as after a backup was restored.

        Raises StoreUnavailable, what the driver raises.
        """
        fenced = await self._erasures.all()
        for person in await self._vault.still_there(fenced):
            if len(await self._erasures.steps(person)) > 1:  # or it is about to be destroyed
                _log.warning("the key of an erased person is back, and destroyed again")
                await self._vault.destroy(person, await self._erasures.known_by(person))
        known = set(fenced)
        for gone in await self._vault.erased():
            if gone.id not in known:
                _log.warning("the log does not know an erasure any more; it is done again")
                known_by = (await self._vault.known_as(gone.id)).hex()
                await self._erasures.take(gone.id, PersonErased(_RESTORED, known_by))


async def named_tickets(database: Database, name: str) -> set[UUID]:
    """Give the tickets that the views show as somebody's."""
    shown = (await Generations(database).shown()).collection(tickets.COLLECTION)
    return {cast("UUID", d["_id"]) async for d in shown.find({"requester": name}, {"_id": 1})}
