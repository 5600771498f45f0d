"""The HTTP server: uvicorn's, with bounds on what connections may cost."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.feed import Feeds
from api.settings import Settings

HEAD_SECONDS = 20.0
"""How long the head of a request may take: who sends it byte by byte holds a connection."""
_MOST_CONNECTIONS = 2_000
_TICKS_A_SECOND = 10


class Server(uvicorn.Server):
    """Serves, and closes connections on which the head of a request does not come to its end."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._waiting: dict[H11Protocol, tuple[object, float]] = {}

    async def on_tick(self, counter: int) -> bool:
        """Look after connections now and then."""
        if counter % _TICKS_A_SECOND == 0:
            self._close_what_waits()
        return await super().on_tick(counter)

    def _close_what_waits(self) -> None:
        now = asyncio.get_running_loop().time()
        before, self._waiting = self._waiting, {}
        for connection in self.server_state.connections:
            if not isinstance(connection, H11Protocol):
                continue
            last = connection.cycle  # None until the head of the first request has come
            if last is None or last.response_complete:
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


async def serve(app: FastAPI, settings: Settings, listening: socket.socket, feeds: Feeds) -> None:
    """Serve until cancelled; then let requests end, and the application stop in good order.

    Streams do not end by themselves.
    """
    server = Server(
        uvicorn.Config(
            app,
            http=H11Protocol,
            reset_contextvars=True,
            proxy_headers=settings.trusted_proxies is not None,
            forwarded_allow_ips=settings.trusted_proxies,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=10,
        )
    )
    serving = asyncio.create_task(server.serve([listening]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        feeds.end()
        server.should_exit = True
        await serving
