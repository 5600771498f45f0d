"""The HTTP server: uvicorn's, with bounds on what connections may cost."""

import asyncio
import resource
import socket
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address, ip_network

import uvicorn
from fastapi import FastAPI

from api.access.quotas import network_of
from api.feed.feeds import Feeds
from api.settings import Settings, is_loopback
from scripts.http_protocol import HttpProtocol

HEAD_SECONDS = 20.0
"""How long the head of a request may take: sent byte by byte, it holds a connection."""
_MOST_CONNECTIONS = 2_000
_ADDRESSES_CONNECTIONS = 500
"""How many one address, or network of IPv6, may keep open without asking anything; a proxy that is
trusted, and this very machine, stand for many.
"""
_TICKS_A_SECOND = 10


class Server(uvicorn.Server):
    """Serves, and closes connections on which the head of a request does not come to its end."""

    def __init__(
        self,
        config: uvicorn.Config,
        stands_for_many: Callable[[str], bool] = is_loopback,
        on_started: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`stands_for_many`: whether others connect by an address; `on_started`: once it serves."""
        super().__init__(config)
        self._stands_for_many = stands_for_many
        self._on_started = on_started
        self._waiting: dict[HttpProtocol, tuple[object, float]] = {}

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve, and call `on_started`."""
        await super().startup(sockets)
        if self.started and self._on_started is not None:
            await self._on_started()

    async def on_tick(self, counter: int) -> bool:
        """Look after connections now and then."""
        if counter % _TICKS_A_SECOND == 0:
            self._close_what_waits()
        return await super().on_tick(counter)

    def _close_what_waits(self) -> None:
        """Close connections that wait for a request's head too long, and the longest waiting of
        those that are too many: of one address, or in all.
        """
        now = asyncio.get_running_loop().time()
        before, self._waiting = self._waiting, {}
        for connection in self.server_state.connections:
            if isinstance(connection, HttpProtocol):
                last = connection.cycle  # None until the head of the first request has come
                if last is None or last.response_complete:
                    of, since = before.get(connection, (last, now))
                    self._waiting[connection] = (last, since if of is last else now)
        idle = sorted(self._waiting, key=lambda connection: self._waiting[connection][1])
        closing = {each for each in idle if now - self._waiting[each][1] > HEAD_SECONDS}
        of_network: dict[str, list[HttpProtocol]] = defaultdict(list)
        for connection in idle:
            if connection.client is not None and not self._stands_for_many(connection.client[0]):
                of_network[network_of(connection.client[0])].append(connection)
        for each in of_network.values():
            closing.update(each[:-_ADDRESSES_CONNECTIONS])
        closing.update(idle[: max(0, len(self.server_state.connections) - _most_connections())])
        for connection in closing:
            connection.transport.close()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone: they end the whole command, of which this server is a part."""
        yield


def _most_connections() -> int:
    """Return how many connections may be open: files are needed for more than them."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_CONNECTIONS if files < 0 else min(_MOST_CONNECTIONS, files // 2)


def _standing_for_many(trusted_proxies: str | None) -> Callable[[str], bool]:
    """Return what says whether an address is this machine's, or of a trusted proxy."""
    trusted = {part.strip() for part in (trusted_proxies or "").split(",")}
    networks = []
    for part in trusted:
        with suppress(ValueError):  # `*`, and whatever else is no address
            networks.append(ip_network(part, strict=False))

    def stands_for_many(address: str) -> bool:
        is_trusted = False
        with suppress(ValueError):
            is_trusted = any(ip_address(address) in network for network in networks)
        return is_trusted or is_loopback(address) or "*" in trusted

    return stands_for_many


async def serve(
    app: FastAPI,
    settings: Settings,
    listening: socket.socket,
    feeds: Feeds,
    on_started: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Serve until cancelled; then let requests end, and the application stop in good order.

    Streams do not end by themselves. `on_started`: called once it serves.
    """
    server = Server(
        uvicorn.Config(
            app,
            http=HttpProtocol,
            ws="none",
            reset_contextvars=True,
            proxy_headers=settings.trusted_proxies is not None,
            forwarded_allow_ips=settings.trusted_proxies,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=10,
        ),
        _standing_for_many(settings.trusted_proxies),
        on_started,
    )
    serving = asyncio.create_task(server.serve([listening]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        feeds.end()
        server.should_exit = True
        await serving
