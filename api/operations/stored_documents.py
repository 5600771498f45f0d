"""What is stored outside the log and the views, looked through for what this version cannot read.

A document that cannot be read is noted where it is read (`eventstore/documents.py`). But a process
reads only what it needs: so the small collections are looked through now and then for `/readyz`,
and all of them by `casebook documents`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

from api import cursors
from api.access import access_log, keys
from api.desk import store as desk
from api.webhooks import deliveries
from api.webhooks import store as webhooks
from eventstore.cached_value import CachedValue
from eventstore.database import Database
from eventstore.documents import Document, EssentialUnreadable, Reader
from eventstore.transparency import statements as log_checkpoints
from projections import generations
from projections.generations import Generations
from projections.projector import checkpoints, parked
from projections.views import saved_views

LOOK_SECONDS = 10.0


class Kind(NamedTuple):
    """A collection: how each of its documents is read, and whether there are only a few of them."""

    collection: str
    read: Callable[[Document], object]
    few: bool = True


KINDS = (
    Kind(keys.COLLECTION, keys.from_document),
    Kind(saved_views.COLLECTION, saved_views.from_document),
    Kind(webhooks.WEBHOOKS, webhooks.webhook_of),
    Kind(webhooks.DISPATCH, webhooks.lease_of),
    Kind(cursors.COLLECTION, cursors.secret_of),
    Kind(generations.COLLECTION, generations.generation_of),
    Kind(checkpoints.COLLECTION, checkpoints.partition_from),
    Kind(checkpoints.MEMBERS, checkpoints.member_from),
    Kind(parked.COLLECTION, parked.parked_from),
    Kind(parked.REPAIRS, parked.repair_from),
    Kind(desk.COLLECTION, desk.from_document, few=False),
    Kind(log_checkpoints.COLLECTION, log_checkpoints.statement_of, few=False),
    Kind(webhooks.DELIVERIES, deliveries.delivery_of, few=False),
    Kind(access_log.COLLECTION, access_log.record_from, few=False),
)
"""All but the heads of the log's checkpoints, which are bytes, and restores, which say nothing but
that they are. The keys of persons are read by who has their master key.
"""


async def look_through(database: Database, *, everything: bool = False) -> AsyncIterator[str]:
    """Look through the small collections, or through all; what is found is noted in the
    database's `unreadable`. Yields the name of each collection once it has been looked through.

    Raises EssentialUnreadable where nothing right can be shown, what the driver raises.
    """
    shown = await Generations(database).shown()
    for kind in KINDS:
        if not (everything or kind.few):
            continue
        reader = Reader(database.unreadable, kind.collection, kind.read)
        unreadable: list[object] = []
        async for document in shown.scan(kind.collection):
            if kind.collection == checkpoints.COLLECTION and isinstance(document["_id"], str):
                continue  # of a version that kept something else there
            unreadable += [d["_id"] for d in reader.apart([document])[1]]
        database.unreadable.seen(kind.collection, unreadable)
        yield kind.collection


def readability_check(database: Database) -> Callable[[], Awaitable[bool]]:
    """Return what looks through the small collections once in a while, and says whether everything
    essential can be read. It raises StoreUnavailable, what the driver raises.
    """
    desks = desk.Desks(database)

    async def look() -> None:
        async for _ in look_through(database):
            pass

    looked = CachedValue(look)

    async def is_readable() -> bool:
        try:
            await looked.get(LOOK_SECONDS)
            await desks.current()
        except EssentialUnreadable:
            return False
        return True

    return is_readable
