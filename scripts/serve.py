"""Serve the API; project, keep time and send to webhooks in the same process.

The first start makes an administrator's key, and keeps it in the data folder. At a terminal, and on
an address of this machine alone, each start shows a link that signs in to the console once.

With `--workers N` there are N processes that answer requests, on one socket: this one, and others
that do nothing else. One that ends is started again, and all end with this one.
"""

import argparse
import errno
import socket
import sys
from collections.abc import Awaitable, Callable

from api.access.keys import Keys
from api.access.sign_in_links import SignInLinks
from api.app import access_by, create_app
from api.background import Work, serving
from api.feed.client import LIMITS
from api.feed.feeds import Feeds
from api.settings import Settings
from domain.actors import PrincipalRole
from eventstore.database import Database
from eventstore.log import EventStore
from scripts.cli import (
    UsageError,
    address,
    check_host,
    database,
    is_read_here,
    show_metrics,
    start,
)
from scripts.http_workers import end_with_parent, http_workers
from scripts.server import serve
from scripts.tracing import trace_if_asked

_WHO: tuple[str, PrincipalRole] = ("operator", "supervisor")
"""Whom the link signs in: one who sees all tickets, and can do what there is to be tried."""
_EMBEDDED = """\
Embedded database in {}: for trying, developing and small single-machine use.
In production, name a MongoDB replica set in CASEBOOK_MONGODB_URL."""
_MASTER_KEY = "Made {}, the master key. Keep a copy: without it nothing personal can be read."
_READY = """\
Console:   {console}
API pages: {address}/docs
Ctrl-C to stop"""


async def main(options: argparse.Namespace) -> int:
    settings = Settings.from_environment()
    trace_if_asked()
    if options.listening is not None:
        return await _answer(settings, options.listening)
    check_host(settings)
    settings.issuer()  # what is wrong with it is told before anything is started
    with _listen(settings) as listening:
        async with database(settings) as db:
            if settings.mongodb_url is None:
                print(_EMBEDDED.format(settings.data_dir.resolve()))
            await db.identity.begin()  # which refuses where a restore is not done
            if settings.master_key_path.exists() and await db.vault.is_new():
                print(_MASTER_KEY.format(settings.master_key_path))
            await db.vault.prepare()  # here, so that what is wrong with the master key is one line
            await _make_first_key(Keys(db), settings)
            background = serving(db, EventStore(db), settings)
            if options.workers > 1:
                show_metrics(settings)

            async def show_addresses() -> None:
                console = where = address(*listening.getsockname()[:2])
                if is_read_here(settings):
                    code = await SignInLinks(db, Keys(db)).make(*_WHO)
                    console = f"{where}/#{code}  (signs you in, once)"
                print(_READY.format(console=console, address=where), flush=True)

            async with http_workers(options.workers - 1, listening, db, settings):
                await _serve(db, settings, listening, background, show_addresses)
    return 0


async def _answer(settings: Settings, descriptor: int) -> int:
    """Answer requests on the socket of another process, and do nothing else."""
    show_metrics(settings)
    with socket.socket(fileno=descriptor) as listening:
        async with database(settings) as db, end_with_parent():
            await _serve(db, settings, listening, [])
    return 0


async def _serve(
    db: Database,
    settings: Settings,
    listening: socket.socket,
    background: list[Work],
    on_started: Callable[[], Awaitable[None]] | None = None,
) -> None:
    store = EventStore(db)
    feeds = Feeds(db, store)
    access = access_by(db, settings)
    app = create_app(db, store, background, feeds, access, log_requests=settings.log_requests)
    await serve(app, settings, listening, feeds, on_started)


async def _make_first_key(keys: Keys, settings: Settings) -> None:
    try:
        made = await keys.make_first(settings.admin_key_path)
    except OSError as error:
        print(f"No administrator's key is made, for it cannot be kept: {error}")
        print("Make one: casebook keys make NAME admin")
        return
    if made is not None:
        print(f"Made {made[1]}, an administrator's key, which makes others.")


def _listen(settings: Settings) -> socket.socket:
    """Take the port before anything else is started. Raises UsageError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listening = socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        why = str(error).partition(" (while")[0]
        hint = "; choose another with CASEBOOK_PORT" if error.errno == errno.EADDRINUSE else ""
        raise UsageError(
            f"cannot listen on {settings.host}:{settings.port}: {why}{hint}"
        ) from error
    if sys.platform == "linux":
        # Inherited by every connection: one whose client takes nothing for so long is closed. A
        # server that closes it by itself would wait for ever to have its last bytes taken.
        listening.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(LIMITS.stalled_seconds * 1000)
        )
    return listening


if __name__ == "__main__":
    start("serve", main)
