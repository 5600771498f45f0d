"""Up to which version tickets are shown: what the read documents say of themselves."""

from collections.abc import AsyncIterator, Iterable
from uuid import UUID

from eventstore.database import Database
from eventstore.documents import uuid_of
from eventstore.mongo.driver import Session
from projections.views import tickets

TICKETS_AT_ONCE = 1000


async def versions_of(
    views: Database, ids: Iterable[UUID], session: Session | None = None
) -> dict[UUID, int]:
    """Return the versions of those of some tickets that are shown; damaged ones are left out."""
    reads = views.collection(tickets.COLLECTION)
    found = reads.find({"_id": {"$in": [*ids]}}, {"version": 1}, session=session)
    return {
        uuid_of(document): version
        async for document in found
        if isinstance(version := document.get("version"), int)
    }


async def all_versions(views: Database) -> AsyncIterator[dict[UUID, int]]:
    """Yield the versions of all tickets that are shown, some at a time; of damaged ones, 0."""
    some: dict[UUID, int] = {}
    async for document in views.scan(tickets.COLLECTION, {}, {"version": 1}):
        version = document.get("version")
        some[uuid_of(document)] = version if isinstance(version, int) else 0
        if len(some) == TICKETS_AT_ONCE:
            yield some
            some = {}
    yield some
