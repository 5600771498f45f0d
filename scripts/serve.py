"""Serve the API; project, keep time and send to webhooks in the same process.

The first start makes an administrator's key, shows it once, and keeps it in the data folder.
"""

import asyncio
import gc
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api.app import access_by, create_app, forgetting, projecting, sending, timekeeping
from api.feed import Feeds
from api.keys import Keys, keep_in_file
from api.outbox import STALLED_SECONDS
from api.settings import Settings
from eventstore.store import EventStore
from scripts.console import UsageError, check_host, database, run
from scripts.tracing import trace_if_asked

HEAD_SECONDS = 20.0
"""How long the head of a request may take: who sends it byte by byte holds a connection."""
_MOST_HEAD_BYTES = 64 * 2**10
_MOST_CONNECTIONS = 2_000
_TICKS_A_SECOND = 10
_COLLECTED_EVERY = 20_000  # objects made and not freed yet


async def main() -> int:
    settings = Settings.from_environment()
    trace_if_asked()
    check_host(settings)
    with _listen(settings) as listening:
        async with database(settings, attach=False) as db:
            if settings.mongodb_url is None:
                print(f"Embedded database in {settings.data_dir.resolve()}: for trying, developing")
                print("and small single-machine use. In production, name a MongoDB replica set in")
                print("CASEBOOK_MONGODB_URL.")
            if settings.master_key_path.exists() and await db.vault.is_new():
                print(
                    f"The master key is made: {settings.master_key_path}, which only you can read."
                )
                print("Keep a copy elsewhere: without it nothing personal can be read again.")
            await db.vault.prepare()  # here, so that what is wrong with the master key is one line
            await _make_first_key(Keys(db), settings)
            host, port = listening.getsockname()[:2]
            address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            print(f"Casebook: {address}  (try {address}/docs; Ctrl-C to stop)", flush=True)
            store = EventStore(db)
            beside = timekeeping(db, store, settings) + sending(db, store, settings)
            beside += forgetting(db, store)
            if settings.projecting:
                beside += projecting(db, store, settings)
            feeds = Feeds(db, store)
            access = access_by(db, settings)
            app = create_app(db, store, beside, feeds, access, log_requests=settings.log_requests)
            server = Server(
                uvicorn.Config(
                    app,
                    http=Protocol,
                    reset_contextvars=True,
                    proxy_headers=settings.trusted_proxies is not None,
                    forwarded_allow_ips=settings.trusted_proxies,
                    log_config=None,
                    access_log=False,
                    timeout_graceful_shutdown=10,
                )
            )
            spare_the_collector()
            await _serve(server, listening, feeds)
    return 0


async def _make_first_key(keys: Keys, settings: Settings) -> None:
    key = await keys.make_first()
    if key is not None:
        print("The administrator's key, which makes others (python -m scripts.keys), is made.")
        if sys.stdout.isatty():  # elsewhere it would be in somebody's log for good
            print(f"  {key}")
        try:
            keep_in_file(key, settings.admin_key_path)
            print(f"It is kept in {settings.admin_key_path}, which only you can read.")
        except OSError as error:
            print(f"It is not kept anywhere: {error}")


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


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 by httptools, which takes heads of any length: here they are bounded."""

    _head_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Parse what has come, unless it is too much for a head that is not whole yet."""
        super().data_received(data)
        self._head_bytes = self._head_bytes + len(data) if self.is_between_requests else 0
        if self._head_bytes > _MOST_HEAD_BYTES:
            self.transport.close()

    @property
    def is_between_requests(self) -> bool:
        """Say whether the head of the next request is awaited."""
        cycle: RequestResponseCycle | None = self.cycle  # None until the first head has come
        return cycle is None or cycle.response_complete


class Server(uvicorn.Server):
    """Serves, and closes connections on which the head of a request does not come to its end."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._waiting: dict[Protocol, tuple[object, float]] = {}

    async def on_tick(self, counter: int) -> bool:
        """Look after connections now and then."""
        if counter % _TICKS_A_SECOND == 0:
            self._close_what_waits()
        return await super().on_tick(counter)

    def _close_what_waits(self) -> None:
        now = asyncio.get_running_loop().time()
        before, self._waiting = self._waiting, {}
        for connection in self.server_state.connections:
            if not isinstance(connection, Protocol):
                continue
            last = connection.cycle  # None until the head of the first request has come
            if connection.is_between_requests:
                of, since = before.get(connection, (last, now))
                since = since if of is last else now
                self._waiting[connection] = (last, since)
                if now - since > HEAD_SECONDS:
                    connection.transport.close()
        beyond = len(self.server_state.connections) - _MOST_CONNECTIONS
        if beyond > 0:  # those first that have waited longest
            idle = sorted(self._waiting, key=lambda connection: self._waiting[connection][1])
            for connection in idle[:beyond]:
                connection.transport.close()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone: they end the whole command, of which this server is a part."""
        yield


def spare_the_collector() -> None:
    """Have garbage be looked for less often, and not among what has been imported."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECTED_EVERY, 20, 50)


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
