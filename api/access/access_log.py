"""The access log: which accesses were granted where it matters, and which were not granted.

Each failed access, and each one that `RIGHTS` calls for, is a document of `access_log`; it is kept
for a year:

    _id            UUIDv7
    at             when (the database's clock)
    outcome        "granted"; "denied": known, and not allowed to; "unseen": a ticket that is not
                   for them; "unknown": the key or token is not valid
    principal      {id: "", role, key}, or null
    person         the principal's id in the vault; null if there is none, or it has been erased
    method, route, path, address, correlation_id

Records hold no names: the vault has them, so an erasure has nothing to look for here. Records of
former versions, also out of a backup, have the name in `principal.id`; `replace_names` puts the
person in its place. (Former versions read the new form too, with an empty name.)

Of a path only the routes' own words and ids are kept (`path_masking.py`).

An access that is to be recorded is not granted unless it could be. A failed one fails all the
same; at most five a second are recorded of one principal, and of unknown callers at one address.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Literal, NamedTuple, cast
from uuid import UUID

from uuid_utils.compat import uuid7

from api.access.path_masking import mask_path
from api.access.principals import Principal
from api.model import ApiModel
from domain.actors import PrincipalRole
from domain.errors import CasebookError, PersonGone
from domain.values import ERASED, JsonObject
from eventstore.database import Database
from eventstore.documents import Reader, strict_decoder, uuid_of
from eventstore.key_files import KeyUnusable
from eventstore.mongo.errors import time_limit
from eventstore.mongo.limits import Index, make_indexes

COLLECTION = "access_log"
Outcome = Literal["granted", "denied", "unseen", "unknown"]
_KEPT_SECONDS = 366 * 24 * 3600
_ADDRESS_CHARACTERS = 100
_MOST_WRITING = 100
_AT_A_TIME = 1_000

_log = logging.getLogger(__name__)


class RequestInfo(NamedTuple):
    """What was asked for, and from where."""

    method: str
    route: str | None
    path: str
    address: str | None
    correlation_id: str | None


class AccessLog:
    """The access log of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._records = database.collection(COLLECTION)
        self._vault = database.vault
        self._now = database.clock.now
        self._reader = Reader(database.unreadable, COLLECTION, record_from)
        self._writing: set[asyncio.Task[None]] = set()

    async def prepare(self) -> None:
        """Make the indexes. Safe to call again."""
        await make_indexes(
            self._records,
            Index([("at", 1)], expireAfterSeconds=_KEPT_SECONDS),
            Index([("principal.id", 1), ("_id", -1)]),
            Index([("person", 1), ("_id", -1)]),
        )

    def note(self, outcome: Outcome, asking: RequestInfo, who: Principal | None) -> None:
        """Record a failed access in the background, if the database takes it.

        The response does not wait for it: its time must not tell why the access failed.
        """
        if len(self._writing) < _MOST_WRITING:
            writing = asyncio.create_task(self._try_to_record(outcome, asking, who))
            self._writing.add(writing)
            writing.add_done_callback(self._writing.discard)

    async def written(self) -> None:
        """Wait until all that was noted is written, or has failed."""
        await asyncio.gather(*self._writing)

    async def _try_to_record(
        self, outcome: Outcome, asking: RequestInfo, who: Principal | None
    ) -> None:
        try:
            await self.record(outcome, asking, who)
        except CasebookError as error:
            _log.warning("a failed access could not be recorded: %s", error)

    async def record(self, outcome: Outcome, asking: RequestInfo, who: Principal | None) -> None:
        """Record an access. Raises StoreUnavailable."""
        async with time_limit():
            await self._records.insert_one(
                {
                    "_id": uuid7(),
                    "at": self._now(),
                    "outcome": outcome,
                    "principal": who and {"id": "", "role": who.role, "key": who.key},
                    "person": who and await self._person(who.id),
                    **asking._asdict(),
                    "path": mask_path(asking.path),
                    "address": asking.address and asking.address[:_ADDRESS_CHARACTERS],
                }
            )

    async def _person(self, name: str) -> UUID | None:
        """Return the id of the person of a name; None if they have been erased."""
        with suppress(PersonGone):
            try:
                return (await self._vault.of_names([name]))[name].person
            except KeyUnusable:
                return await self._vault.id_of(name)
        return None

    async def page(
        self, principal: str | None, outcome: Outcome | None, before: UUID | None, limit: int
    ) -> tuple[list[JsonObject], UUID | None]:
        """Return records with the principals' names, the last first, behind one; and the id behind
        which there are more, if there are. Raises StoreUnavailable.
        """
        wanted: JsonObject = {}
        if outcome is not None:
            wanted["outcome"] = outcome
        if before is not None:
            wanted["_id"] = {"$lt": before}
        async with time_limit():
            if principal is not None:
                with suppress(PersonGone):
                    await self._vault.check_name(principal)
                    wanted["person"] = await self._vault.id_of(principal)
                if wanted.get("person") is None:
                    return [], None
            found = self._records.find(wanted).sort("_id", -1).limit(limit + 1)
            documents = await found.to_list()
            page = self._reader.each(documents[:limit])
            names = await self._vault.names({each.person for each in page if each.person})
        following = uuid_of(documents[limit - 1]) if documents[limit:] else None
        return [_named(each, names) for each in page], following

    async def of(self, person: UUID, name: str) -> AsyncIterator[JsonObject]:
        """Yield the documents of a person's accesses, with their name."""
        async for record in self._records.find({"person": person}, {"person": 0}):
            yield {**record, "principal": {**cast("JsonObject", record["principal"]), "id": name}}

    async def replace_names(self) -> None:
        """Put the person in the place of the name, in all records that have one. Safe to repeat.

        Costs one look into an index if there are none. Raises what the driver and the vault raise.
        """
        named: JsonObject = {"principal.id": {"$gt": ""}}
        while True:
            found = self._records.find(named, {"principal.id": 1}).sort("principal.id", 1)
            some: dict[str, list[object]] = {}
            for record in await found.limit(_AT_A_TIME).to_list():
                name = str(cast("JsonObject", record["principal"])["id"])
                some.setdefault(name, []).append(record["_id"])
            if not some:
                return
            for name, ids in some.items():
                person = await self._person(name)
                change: JsonObject = {"principal.id": "", "person": person}
                if person is None:
                    change["correlation_id"] = ERASED
                await self._records.update_many({"_id": {"$in": ids}}, {"$set": change})

    async def unname_requests(self, names: Collection[str]) -> None:
        """Take names out of what was sent with the requests on record.

        That is a scan. Paths are kept without what is typed into them; those of a former version
        were not.
        """
        named = re.compile("|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in names))
        shown = {"path": 1, "correlation_id": 1}
        async for record in self._database.scan(COLLECTION, {}, shown):
            path, correlation = (str(record.get(name) or "") for name in shown)
            changed: JsonObject = {}
            if mask_path(path) != path:
                changed["path"] = mask_path(path)
            if named.search(correlation):
                changed["correlation_id"] = ERASED
            if changed:
                await self._records.update_one({"_id": record["_id"]}, {"$set": changed})

    async def forget_requests(self, persons: Collection[UUID]) -> None:
        """Remove what persons have sent with their requests: an erased person's correlation ids."""
        theirs: JsonObject = {
            "person": {"$in": [*persons]},
            "correlation_id": {"$nin": [None, ERASED]},
        }
        await self._records.update_many(theirs, {"$set": {"correlation_id": ERASED}})


class Known(ApiModel):
    """Who it was."""

    id: str
    role: PrincipalRole | str
    """Another version may know others."""
    key: str | None
    """Null: by a token."""


class AccessRecord(ApiModel):
    """An access that was granted or refused."""

    id: UUID
    at: datetime
    outcome: Outcome | str
    """Another version may know others."""
    principal: Known | None
    method: str
    route: str | None
    path: str
    address: str | None
    correlation_id: str | None


class _StoredPrincipal(Known, extra="ignore"):
    key: str | None = None


class _Stored(AccessRecord):
    """A record as it is stored."""

    principal: _StoredPrincipal | None
    person: UUID | None = None


record_from = strict_decoder(_Stored)


def _named(record: _Stored, names: Mapping[UUID, str]) -> JsonObject:
    """Return a record as it is shown. A person whose name cannot be read is shown by id."""
    shown = record.model_dump(exclude={"person"})
    if (who := record.principal) is not None:
        name = ERASED if record.person is None else names.get(record.person, str(record.person))
        shown["principal"]["id"] = who.id or name
    return shown
