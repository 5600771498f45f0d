"""Clients behind a proxy that loses every tenth answer (L5).

The server has done the command, and its client does not learn of it: so it sends it again with its
key. In the end each command is in the log once, where its last answer says.
"""

import asyncio
from collections import Counter

from scripts.soak.clients import Clients
from scripts.testbed.harness import listening
from scripts.testbed.load import read_message
from scripts.testbed.services import service

_CLIENTS = 8
_TICKETS = 8
_LOST = 10  # every so-many-th answer


class _Proxy:
    """Passes requests on, one at a time on each connection, and most answers back."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._answers = 0
        self.lost = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a client's connection until it ends, or an answer on it is lost."""
        upstream, answering = await asyncio.open_connection("127.0.0.1", self._to_port)
        try:
            while True:
                answering.write(b"".join(await read_message(reader)))
                answer = b"".join(await read_message(upstream))
                self._answers += 1
                if self._answers % _LOST == 0:
                    self.lost += 1
                    return
                writer.write(answer)
        except (OSError, EOFError):
            pass
        finally:
            answering.close()
            writer.close()


async def retry_through_proxy(url: str, commands: int) -> Counter[str]:
    """Send commands through the proxy until so many are answered; check the log."""
    clients = Clients()
    async with service("group", url) as port:
        proxy = _Proxy(port)
        async with (
            listening(proxy.take) as through,
            clients.sending(through, _CLIENTS, _TICKETS),
        ):
            await clients.answered(commands)
        return await clients.judge(port, url) + Counter(lost_by_proxy=proxy.lost)
