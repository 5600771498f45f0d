"""What is kept of who was let in where, and who was not.

Each failed access, and each one that `RIGHTS` calls for, is a document of `access_log`; it is kept
for a year:

    _id            UUIDv7
    at             when (the database's clock)
    outcome        "granted"; "denied": known, and not allowed to; "unseen": a ticket that is not
                   for them; "unknown": nobody is known by what was shown
    principal      {id, role, key}, or null
    method, route, path, address, correlation_id

Of a path only the routes' own words and ids are kept (`paths.py`).

An access that is to be recorded is not given unless it could be. A failed one fails all the same;
at most five a second are recorded of one principal, and of strangers at one address.
"""

import asyncio
import logging
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal, NamedTuple, Self, cast
from uuid import UUID

from starlette.types import Scope
from uuid_utils.compat import uuid7

from api.access.rights import Principal
from api.http.paths import kept_path
from domain.errors import CasebookError
from domain.events import JsonObject
from eventstore.documents import Document, Reader, strictly
from eventstore.failures import answering
from eventstore.mongo.driver import Database
from eventstore.mongo.limits import make_index

COLLECTION = "access_log"
Outcome = Literal["granted", "denied", "unseen", "unknown"]
_KEPT_SECONDS = 366 * 24 * 3600
_ADDRESS_CHARACTERS = 100
_MOST_WRITING = 100

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asking:
    """What was asked for, and from where."""

    method: str
    route: str | None
    path: str
    address: str | None
    correlation_id: str | None

    @classmethod
    def of(cls, scope: Scope) -> Self:
        """Read it from a request's ASGI scope; the route is there once it has been found."""
        client = scope.get("client")
        return cls(
            method=scope["method"],
            route=getattr(scope.get("route"), "path", None),
            path=kept_path(scope["path"]),
            address=client[0][:_ADDRESS_CHARACTERS] if client else None,
            correlation_id=scope.get("state", {}).get("correlation_id"),
        )


class AccessLog:
    """The records in one database."""

    def __init__(self, database: Database) -> None:
        self._records = database.collection(COLLECTION)
        self._now = database.clock.now
        self._reader = Reader(database.unreadable, COLLECTION, record_from)
        self._writing: set[asyncio.Task[None]] = set()

    async def prepare(self) -> None:
        """Make the indexes. Safe to call again."""
        await make_index(self._records, [("at", 1)], expireAfterSeconds=_KEPT_SECONDS)
        await make_index(self._records, [("principal.id", 1), ("_id", -1)])

    async def granted(self, asking: Asking, who: Principal) -> None:
        """Record an access before it is given. Raises StoreUnavailable."""
        async with answering():
            await self._records.insert_one(_record(self._now(), "granted", asking, who))

    def note(self, outcome: Outcome, asking: Asking, who: Principal | None) -> None:
        """Record that somebody was not let in, soon, if the database will take it.

        Nobody waits for it: how long an answer takes must not tell why it is no other.
        """
        if len(self._writing) < _MOST_WRITING:
            writing = asyncio.create_task(self._write(outcome, asking, who))
            self._writing.add(writing)
            writing.add_done_callback(self._writing.discard)

    async def written(self) -> None:
        """Wait until all that was noted is written, or could not be."""
        await asyncio.gather(*self._writing)

    async def _write(self, outcome: Outcome, asking: Asking, who: Principal | None) -> None:
        try:
            async with answering():
                await self._records.insert_one(_record(self._now(), outcome, asking, who))
        except CasebookError as error:
            _log.warning("a failed access could not be recorded: %s", error)

    async def page(
        self, principal: str | None, outcome: Outcome | None, before: UUID | None, limit: int
    ) -> tuple[list[JsonObject], UUID | None]:
        """Return records, the last first, behind one; and the id behind which there are more, if
        there are. Raises StoreUnavailable.
        """
        wanted: JsonObject = {}
        if principal is not None:
            wanted["principal.id"] = principal
        if outcome is not None:
            wanted["outcome"] = outcome
        if before is not None:
            wanted["_id"] = {"$lt": before}
        async with answering():
            found = self._records.find(wanted).sort("_id", -1).limit(limit + 1)
            documents = await found.to_list()
        page = documents[:limit]
        following = cast("UUID", page[-1]["_id"]) if documents[limit:] else None
        return self._reader.each(page), following


def _record(at: datetime, outcome: Outcome, asking: Asking, who: Principal | None) -> JsonObject:
    known = None if who is None else {"id": who.id, "role": who.role, "key": who.key}
    return {
        "_id": uuid7(),
        "at": at,
        "outcome": outcome,
        "principal": known,
        **asdict(asking),
    }


class _Stored(NamedTuple):
    """A record as it is stored. Its words are whatever the version knew that wrote it."""

    id: UUID
    at: datetime
    outcome: str
    principal: dict[str, object] | None
    method: str
    route: str | None
    path: str
    address: str | None
    correlation_id: str | None


class _StoredPrincipal(NamedTuple):
    id: str
    role: str
    key: str | None = None


_STORED = strictly(_Stored)
_PRINCIPAL = strictly(_StoredPrincipal, id_field=None)


def record_from(document: Document) -> JsonObject:
    """Read a record, as it is told. Raises ValidationError."""
    stored = _STORED(document)
    who = None if stored.principal is None else _PRINCIPAL(stored.principal)._asdict()
    return {**stored._asdict(), "principal": who}
