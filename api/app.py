"""The composition root: one database in, one application out."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI

from api.access import routes as access_routes
from api.access.authentication import Access
from api.access.tokens import Tokens
from api.background import Work
from api.bulk import routes as bulk
from api.commands import routes as commands
from api.commands.handler import Handler
from api.console import routes as console
from api.desk import routes as desk
from api.desk.store import Desks
from api.feed import routes as feed
from api.feed.feeds import Feeds
from api.http.openapi import Application
from api.http.pipeline import Pipeline
from api.http.routing import Route
from api.operations import routes as health
from api.people import routes as persons
from api.queries.agents import routes as agents
from api.queries.dashboard import routes as dashboard
from api.queries.history import routes as history
from api.queries.lists import routes as lists
from api.queries.representations import Tickets
from api.queries.saved_views import routes as saved_views
from api.queries.sla import routes as sla
from api.queries.visibility import VisibilityPolicy
from api.queries.watermark import ReadModels
from api.settings import Settings
from api.version import version
from api.webhooks import routes as webhooks
from api.webhooks.deliveries import Deliveries
from eventstore.background import end
from eventstore.database import Database
from eventstore.log import EventStore
from eventstore.transparency.checkpoints import CheckpointMemory
from projections.erasure.progress import Erasures

_log = logging.getLogger(__name__)

DESCRIPTION = """
Every change to a ticket is a fact in an append-only log; everything shown is folded from that log.

Send **commands** (`POST`) with an `Idempotency-Key` to be able to send them again safely. A single
ticket and its timeline always show every acknowledged change; lists and the dashboard follow within
a moment. Errors are RFC 9457 problem documents with a stable `code`.
"""


def access_by(database: Database, settings: Settings) -> Access:
    """Return how callers are identified. Raises SettingsError, TokensUnusable."""
    issuer = settings.issuer()
    tokens = None if issuer is None else Tokens(issuer, database.clock.now)
    return Access(database, tokens, settings.rate_limit)


def create_app(
    database: Database,
    store: EventStore,
    background: Sequence[Work] = (),
    feeds: Feeds | None = None,
    access: Access | None = None,
    *,
    log_requests: bool = False,
) -> FastAPI:
    """Make the application over `database`, and run `background` for as long as it runs.

    `access`: how callers are identified; by keys alone unless given. A server ends `feeds` before
    it stops, since it waits for its responses to end.
    """
    feeds = feeds or Feeds(database, store)
    access = access or Access(database)
    checkpoints = CheckpointMemory(database)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await database.clock.time()
        stores = (Deliveries(database), Erasures(database))
        for part in (store, *stores, database.vault, access.log):
            await part.prepare()
        identity = database.identity
        keep_keys = partial(database.vault.news.watch, database.supervisor)
        works = (database.clock.keep, keep_keys, checkpoints.watch)
        async with identity.at_work("serve"):
            running = [asyncio.create_task(work()) for work in works]
            running += [asyncio.create_task(identity.until_replaced(work)) for work in background]
            for task in running:
                task.add_done_callback(_tell_failure)
            try:
                yield
            finally:
                feeds.end()
                await end(*running)
                await feeds.closed()
                await access.log.written()

    app = Application(
        title="Casebook",
        version=version(),
        description=DESCRIPTION.strip(),
        lifespan=lifespan,
        redirect_slashes=False,
        openapi_url=None,  # it and its pages are the console's: theirs load scripts from elsewhere
        telemetry={"metrics": False, "logs": False, "operation_spans": False},
    )
    app.router.route_class = Route
    desks, views = Desks(database), ReadModels(database)
    handler, tickets = Handler(store, desks), Tickets(store, views)
    policy = VisibilityPolicy(desks, tickets, views)
    for router in (
        commands.router(handler, views, tickets, policy, desks, database.clock.now),
        history.router(store, tickets, policy),
        sla.router(store, policy, database.clock.now),
        lists.router(database, policy),
        bulk.router(handler, views, policy),
        feed.router(feeds, access),
        webhooks.router(database, store),
        saved_views.router(database, views, policy),
        dashboard.router(policy),
        agents.router(views),
        desk.router(desks, views),
        health.router(database, store, checkpoints),
        access_routes.keys_router(access, database),
        access_routes.sign_in_router(access.links),
        persons.router(database, store),
        console.router(app.openapi),
    ):
        app.router.routes.extend(router.routes)
    # In the place of FastAPI's own layers, none of which has anything to do here.
    app.middleware_stack = Pipeline(
        app.router,
        routes=app.routes,
        access=access,
        identity=database.identity,
        log_all=log_requests,
    )
    return app


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a background task has ended", exc_info=error)
