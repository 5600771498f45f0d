"""Serve the API; project, keep time and send to webhooks in the same process."""

import asyncio
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from api.app import create_app, projecting, sending, timekeeping
from api.feed import Feeds
from api.outbox import STALLED_SECONDS
from api.settings import Settings
from eventstore.store import EventStore
from scripts.console import UsageError, database, run


async def main() -> int:
    settings = Settings.from_environment()
    with _listen(settings) as listening:
        async with database(settings, attach=False) as db:
            if settings.mongodb_url is None:
                print(f"Embedded database in {settings.data_dir.resolve()}: for trying, developing")
                print("and small single-machine use. In production, name a MongoDB replica set in")
                print("CASEBOOK_MONGODB_URL.")
            host, port = listening.getsockname()[:2]
            address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            print(f"Casebook: {address}  (try {address}/docs; Ctrl-C to stop)", flush=True)
            store = EventStore(db)
            beside = projecting(db, store, settings) + timekeeping(db, store, settings)
            beside += sending(db, store, settings)
            feeds = Feeds(db, store)
            app = create_app(db, store, beside, feeds)
            server = _Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=10))
            await _serve(server, listening, feeds)
    return 0


def _listen(settings: Settings) -> socket.socket:
    """Take the port before anything else is started. Raises UsageError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listening = socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        raise UsageError(f"cannot listen on {settings.host}:{settings.port}: {error}") from error
    if sys.platform == "linux":
        # Inherited by every connection: one whose client takes nothing for so long is closed. A
        # server that closes it by itself would wait for ever to have its last bytes taken.
        listening.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STALLED_SECONDS * 1000)
        )
    return listening


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone: they end the whole command, of which this server is a part."""
        yield


async def _serve(server: uvicorn.Server, listening: socket.socket, feeds: Feeds) -> None:
    """Serve until cancelled; then let requests end, and the application stop in good order.

    Streams do not end by themselves.
    """
    serving = asyncio.create_task(server.serve([listening]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        feeds.end()
        server.should_exit = True
        await serving


if __name__ == "__main__":
    run(main)
