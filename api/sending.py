"""Sending to webhooks: each event as a signed POST, at least once, in version order per ticket.

A ticket's first event that has not arrived is sent; the others of that ticket wait for it, all
other tickets go on. A failure is tried again after a pause that doubles, up to an hour; after too
many the ticket is parked for that webhook, until somebody resumes it. A receiver that fails again
and again rests as a whole.

    Casebook-Delivery    the delivery's id, the same each time it is sent
    Casebook-Event       the event's type
    Casebook-Timestamp   seconds since 1970
    Casebook-Signature   v1=<HMAC-SHA-256, hexadecimal, of "<timestamp>.<body>" under the secret>
    Correlation-Id       of the request that the event came of; `traceparent` too if it was traced

2xx means that it has arrived. Of the answer nothing but its status is read, and redirects are not
followed. Addresses at which machines keep their own secrets (link-local ones) are not sent to.

One process does this for all (`Dispatch`); one that is killed is replaced within its lease, and
what was under way is sent again.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import random
import socket
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit
from uuid import UUID

import httpx
from pymongo.errors import PyMongoError

from api.correlation import outgoing
from api.dispatch import Feeder
from api.feed_format import told_line
from domain.errors import CasebookError
from domain.events import JsonObject
from eventstore.driver import Database
from eventstore.failures import StoreUnavailable, describe
from eventstore.store import EventStore
from projections.projector import member_id
from projections.webhooks import (
    LEASE_SECONDS,
    Deliveries,
    Delivery,
    Dispatch,
    DispatchLost,
    Webhook,
    Webhooks,
)

_log = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0
_AT_ONCE = 16  # to one webhook
_DUE_AT_ONCE = 500
_LOOK_SECONDS = 0.5
_RETRY_SECONDS = 1.0
_FAILURES_BEFORE_REST = 3
_LONGEST_REST_SECONDS = 60.0
_ERROR_CHARACTERS = 300
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_METADATA = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200")))
"""Where two large clouds answer beside the link-local address that all have."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a failure is tried again, and after how long at first and at most."""

    attempts: int = 12
    first_seconds: float = 2.0
    longest_seconds: float = 3600.0

    def pause(self, failures: int) -> timedelta | None:
        """Give how long to wait after so many failures, some of it by chance; None: no longer."""
        if failures >= self.attempts:
            return None
        seconds = min(self.first_seconds * 2 ** (failures - 1), self.longest_seconds)
        return timedelta(seconds=seconds * random.uniform(0.5, 1.0))  # noqa: S311


class AddressRefused(CasebookError):
    """A webhook's address is one that is not sent to: for example a cloud's metadata service."""

    def __init__(self, address: str) -> None:
        super().__init__("address_refused", f"{address} is not sent to")


class Sender:
    """Sends what is due."""

    def __init__(
        self, database: Database, store: EventStore, news: asyncio.Event, patience: Patience
    ) -> None:
        self._database = database
        self._store = store
        self._news = news
        self._patience = patience
        self._hooks = Webhooks(database)
        self._deliveries = Deliveries(database)
        self._failed_in_a_row: dict[UUID, int] = defaultdict(int)
        self._rests_until: dict[UUID, float] = {}
        self._busy: set[UUID] = set()

    async def run(self) -> None:
        """Send until cancelled. Raises what the driver raises.

        Each receiver is sent to by a task of its own: a slow one keeps no other waiting.
        """
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        async with httpx.AsyncClient(
            timeout=ANSWER_SECONDS, follow_redirects=False, limits=limits, trust_env=False
        ) as client:
            try:
                async with asyncio.TaskGroup() as group:
                    while True:
                        self._news.clear()
                        await self._start_due(client, group)
                        with suppress(TimeoutError):
                            async with asyncio.timeout(_LOOK_SECONDS):
                                await self._news.wait()
            except BaseExceptionGroup as failed:
                raise failed.exceptions[0] from None

    async def _start_due(self, client: httpx.AsyncClient, group: asyncio.TaskGroup) -> None:
        """Begin to send what is due, to each receiver that is not being sent to."""
        clock = asyncio.get_running_loop().time
        hooks = {hook.id: hook for hook in await self._hooks.all()}
        # What is still to be fed of the past comes before what is new.
        waiting = {hook.id for hook in hooks.values() if hook.backfill is not None}
        waiting |= {id_ for id_, until in self._rests_until.items() if until > clock()}
        waiting |= self._busy
        now = await self._database.server_time()
        for id_ in hooks.keys() - waiting:
            tickets = await self._deliveries.due(id_, now, _DUE_AT_ONCE)
            if tickets:
                self._busy.add(id_)
                group.create_task(self._send_to(client, hooks[id_], tickets))

    async def _send_to(
        self, client: httpx.AsyncClient, hook: Webhook, tickets: Sequence[UUID]
    ) -> None:
        clock = asyncio.get_running_loop().time
        waiting = iter(tickets)

        async def lane() -> None:
            for ticket_id in waiting:
                if self._rests_until.get(hook.id, 0.0) > clock():
                    return
                await self._send_of(client, hook, ticket_id)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(_AT_ONCE, len(tickets))):
                    group.create_task(lane())
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            self._busy.discard(hook.id)
            self._news.set()  # there may be more

    async def _send_of(self, client: httpx.AsyncClient, hook: Webhook, ticket_id: UUID) -> None:
        """Send a ticket's events, the first first, until one is not due or does not arrive."""
        while waiting := await self._deliveries.waiting(hook.id, ticket_id):
            for first in waiting:
                now = await self._database.server_time()
                if first.status == "parked" or first.next_at > now:
                    await self._deliveries.wait_behind(first)
                    return
                if not await self._attempt(client, hook, first, now):
                    return

    async def _attempt(
        self, client: httpx.AsyncClient, hook: Webhook, delivery: Delivery, now: datetime
    ) -> bool:
        """Send one, and note what has become of it; say whether it has arrived."""
        status, error = await self._post(client, hook, delivery, now)
        attempt: JsonObject = {"at": now, "status": status, "error": error}
        if error is None:
            self._failed_in_a_row[hook.id] = 0
            await self._deliveries.delivered(delivery.id, attempt, now)
            return True
        pause = self._patience.pause(delivery.failures + 1)
        next_at = None if pause is None else await self._database.server_time() + pause
        await self._deliveries.failed(delivery.id, attempt, next_at)
        self._rest(hook)
        return False

    def _rest(self, hook: Webhook) -> None:
        """Leave a receiver in peace that has failed several times in a row."""
        self._failed_in_a_row[hook.id] += 1
        more = self._failed_in_a_row[hook.id] - _FAILURES_BEFORE_REST
        if more >= 0:
            first = self._patience.first_seconds
            seconds = min(first * 2 ** min(more, 10), _LONGEST_REST_SECONDS)
            clock = asyncio.get_running_loop().time
            self._rests_until[hook.id] = clock() + seconds

    async def _post(
        self, client: httpx.AsyncClient, hook: Webhook, delivery: Delivery, now: datetime
    ) -> tuple[int | None, str | None]:
        """Send one; give the answer's status, and what went wrong if anything did."""
        after = delivery.version - 1
        events = await self._store.stored(delivery.ticket_id, after=after, limit=1)
        if not events:
            return None, "the log has no such event any more"
        [event] = await self._store.open(events)
        if "sealed" in event:  # nulls would be taken for what was said
            return None, "a key is missing, and the event cannot be opened"
        body = told_line(events[0], event).rstrip(b"\n")
        timestamp = str(int(now.timestamp()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "Casebook",
            "Casebook-Delivery": delivery.id,
            "Casebook-Event": delivery.type,
            "Casebook-Timestamp": timestamp,
            "Casebook-Signature": f"v1={signature(hook.secret, timestamp, body)}",
            **outgoing(events[0]["correlation_id"]),
        }
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await _check_address(hook.url)
                async with client.stream("POST", hook.url, content=body, headers=headers) as answer:
                    status = answer.status_code
        except TimeoutError:
            return None, f"no answer within {ANSWER_SECONDS:.0f} seconds"
        except (httpx.HTTPError, httpx.InvalidURL, OSError, CasebookError) as error:
            return None, f"{type(error).__name__}: {error}"[:_ERROR_CHARACTERS]
        return status, None if 200 <= status < 300 else f"answered with {status}"


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Sign a body, as its receiver does to compare."""
    return hmac.digest(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hex()


def is_refused(address: str) -> bool:
    """Say whether an IP address is one that is not sent to; a name is none."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = ipaddress.IPv4Address(int(found) % 2**32) if found in _NAT64 else None
        found = found.ipv4_mapped or found.sixtofour or inner or found
    if found in _METADATA:
        return True
    return found.is_link_local or found.is_multicast or found.is_unspecified


async def _check_address(url: str) -> None:
    """Raise AddressRefused if the name of a webhook's host has become one that is not sent to."""
    host = urlsplit(url).hostname or ""
    loop = asyncio.get_running_loop()
    for *_, address in await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM):
        if is_refused(str(address[0])):
            raise AddressRefused(str(address[0]))


class Dispatcher:
    """Feeds and sends, if no other process does."""

    def __init__(
        self,
        database: Database,
        store: EventStore,
        patience: Patience | None = None,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._database = database
        self._store = store
        self._patience = patience or Patience()
        self._lease_seconds = lease_seconds
        self._me = member_id()

    async def run(self) -> None:
        """Share in it until cancelled. A failure is logged and tried again."""
        prepared = False
        while True:
            try:
                if not prepared:
                    await Deliveries(self._database).prepare()
                    prepared = True
                dispatch = Dispatch(self._database)
                if await dispatch.take(self._me, self._lease_seconds):
                    await self._work(dispatch)
            except (PyMongoError, StoreUnavailable) as error:
                _log.warning("webhooks wait for the database: %s", describe(error))
            except DispatchLost:
                _log.info("another process sends to webhooks now")
            except Exception:  # noqa: BLE001 as in the projector: never give up
                _log.exception("sending to webhooks failed; trying again")
            await asyncio.sleep(min(_RETRY_SECONDS, self._lease_seconds))

    async def _work(self, dispatch: Dispatch) -> None:
        news = asyncio.Event()
        feeder = Feeder(self._database, self._store, dispatch, news)
        sender = Sender(self._database, self._store, news, self._patience)

        async def stay() -> None:
            while True:
                await asyncio.sleep(self._lease_seconds / 5)
                await dispatch.beat()

        try:
            async with asyncio.TaskGroup() as group:
                for work in (feeder.run(), feeder.run_backfills(), sender.run(), stay()):
                    group.create_task(work)
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            with suppress(PyMongoError):
                await dispatch.leave()
