"""What a server does besides answering requests, as far as it is not done elsewhere."""

import logging
from collections.abc import Callable, Coroutine
from functools import partial

from api.desk.store import Desks
from api.people.erasure import ErasureWorker
from api.settings import Settings
from api.timekeeper.timekeeper import Timekeeper
from api.webhooks.sender import WebhookWorker
from eventstore.database import Database
from eventstore.log import EventStore
from eventstore.transparency.checkpoints import LogCheckpoints
from eventstore.transparency.statements import last_path, signing_key
from projections import daemon
from projections.erasure.eraser import Eraser

_log = logging.getLogger(__name__)

Work = Callable[[], Coroutine[None, None, None]]
"""A background task, which runs until it is cancelled."""


def serving(database: Database, store: EventStore, settings: Settings) -> list[Work]:
    """Return the background tasks of a server. Raises KeyUnusable."""
    work: list[Work] = [ErasureWorker(database, store).run]
    if seconds := settings.timekeeper_seconds:
        work.append(Timekeeper(database, store, Desks(database), look_seconds=seconds).run)
    if settings.webhooks:
        work.append(WebhookWorker(database, store).run)
    return work + projecting(database, store, settings) if settings.projecting else work


def projecting(database: Database, store: EventStore, settings: Settings) -> list[Work]:
    """Return what keeps a database's views and log checkpoints current. Raises KeyUnusable."""
    work: list[Work] = [partial(daemon.project, database, store), Eraser(database, store).run]
    if settings.mongodb_url is not None and settings.signing_key is None:
        # A key of each host's own would not do: they sign one chain.
        _log.info("no checkpoints of the log are taken: CASEBOOK_SIGNING_KEY names no key")
    elif settings.checkpoint_seconds:
        key, last = signing_key(settings.signing_key_path), last_path(settings.signing_key_path)
        checkpointer = LogCheckpoints(database, store, key, last)
        work.append(partial(checkpointer.keep, settings.checkpoint_seconds))
    return work
