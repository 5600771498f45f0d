"""How the log and the views are judged when the load on them is over."""

from collections.abc import Awaitable, Callable
from uuid import UUID

from domain.values import JsonObject
from eventstore.database import Database
from eventstore.event_document import Envelope, chain_is_whole, to_document
from eventstore.log import EventStore
from eventstore.mongo.driver import encode_bson
from eventstore.personal.vault import keys_database
from projections.generations import Generations, views_database
from projections.projector.health import look
from projections.replay.audit import Auditor
from projections.views.saved_views import SavedViews
from projections.workers import workers
from scripts.testbed.harness import require, until

_CAUGHT_UP_SECONDS = 120

Check = Callable[[Database], Awaitable[None]]
"""Compares the views with the log. Raises if they differ."""


async def streams(store: EventStore) -> dict[UUID, list[Envelope]]:
    """Read the whole log and check every ticket's stream: versions 1..n, chain whole (L2, L11)."""
    found: dict[UUID, list[Envelope]] = {}
    async for event in store.scan():
        found.setdefault(event.ticket_id, []).append(event)
    for ticket, events in found.items():
        events.sort(key=lambda event: event.version)
        versions = [event.version for event in events]
        require(versions == list(range(1, len(events) + 1)), f"{ticket}: versions {versions}")
        require(chain_is_whole(map(to_document, events)), f"{ticket}: the chain is broken")
    return found


async def caught_up(database: Database) -> None:
    """Wait until every event is folded into the views, and every saved view is counted."""
    store, generations = EventStore(database), Generations(database)

    async def all_folded() -> bool:
        shown = await generations.shown()
        report = await look(shown, store, store.count)
        views = await SavedViews(shown).all()
        counted = all(v.id in p.views for p in report.state.partitions for v in views)
        return report.missing_events == 0 and counted

    await until(all_folded, _CAUGHT_UP_SECONDS, "all events are in the views")


async def audited(database: Database) -> None:
    """Compare all views with the log. Raises PromiseBroken."""
    async with workers(database, 0) as here:
        auditor = Auditor(database, await Generations(database).active(), here, most=5)
        await auditor.compare()
    told = [str(each) for each in auditor.first]
    require(not auditor.differences, f"the views differ from the log: {told}")


async def documents_with(database: Database, word: str) -> list[tuple[str, JsonObject]]:
    """Return the documents of a log's database, its keys' and its views', that contain a word."""
    found: list[tuple[str, JsonObject]] = []
    for name in (database.name, keys_database(database.name), views_database(database.name)):
        own = database.client[name]
        for collection in await own.list_collection_names():
            if collection.startswith("system."):
                continue
            found += [
                (collection, document)
                async for document in own[collection].find()
                if word.encode() in encode_bson(document).lower()
            ]
    return found
