"""Sending to webhooks: each event as a signed POST, at least once, in version order per ticket.

A ticket's first event that has not arrived is sent; the others of that ticket wait for it, all
other tickets go on. A failure is tried again after a pause that doubles, up to four hours; after
three days of failures the ticket is parked for that webhook, until somebody resumes it. A receiver
that fails again and again, or asks for it by `Retry-After`, rests as a whole. Once it takes
something again, all that waits for it is due.

    Casebook-Delivery    the delivery's id, the same each time it is sent
    Casebook-Event       the event's type
    Casebook-Timestamp   seconds since 1970
    Casebook-Signature   v1=<HMAC-SHA-256, hexadecimal, of "<timestamp>.<body>" under the secret>
    Correlation-Id       of the request that the event came of; `traceparent` too if it was traced

2xx means that it has arrived, and 410 that the receiver is gone: the webhook ends. Of the answer
nothing but its status and `Retry-After` is read, and redirects are not followed. Which addresses
are sent to is in `addresses.py`.

One process does this for all (`Dispatch`); one that is killed is replaced within its lease, and
what was under way is sent again.
"""

import asyncio
import hashlib
import hmac
import logging
import random
import ssl
from collections import defaultdict
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

import httpx

from api.feed.format import event_line
from api.http.correlation import outgoing
from api.webhooks.addresses import Resolve, addresses_of, resolve
from api.webhooks.enqueuer import Feeder
from api.webhooks.store import (
    Deliveries,
    Delivery,
    Dispatch,
    UnknownWebhook,
    Webhook,
    Webhooks,
)
from domain.errors import CasebookError
from domain.values import JsonObject
from eventstore.documents import UnreadableDocument
from eventstore.failures import DriverError
from eventstore.log import EventStore
from eventstore.mongo.driver import Database
from eventstore.mongo.lease import LEASE_SECONDS, LeaseLost
from eventstore.subscription import LateLook
from projections.projector.projector import member_id

_log = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0
_AT_ONCE = 16  # to one webhook
_DUE_AT_ONCE = 500
_LOOK_SECONDS = 0.5
_RETRY_SECONDS = 1.0
_FAILURES_BEFORE_REST = 3
_LONGEST_REST_SECONDS = 60.0
_ERROR_CHARACTERS = 300
_LONGEST_ASKED_SECONDS = 24 * 3600.0
_OF_SECONDS = frozenset("0123456789")


@dataclass(frozen=True, slots=True)
class Patience:
    """For how long a failure is tried again, and after how long at first and at most."""

    first_seconds: float = 2.0
    longest_seconds: float = 4 * 3600.0
    total_seconds: float = 3 * 24 * 3600.0

    def pause(self, failures: int, failing: timedelta) -> timedelta | None:
        """Return how long to wait after so many failures in so much time, some of it by chance, so
        that the last try is at the end of the time; None: no longer.
        """
        left = self.total_seconds - failing.total_seconds()
        if left <= 0:
            return None
        doubled = self.first_seconds * 2 ** min(failures - 1, 60)
        seconds = min(doubled, self.longest_seconds) * random.uniform(0.5, 1.0)  # noqa: S311
        return timedelta(seconds=min(seconds, max(left, self.first_seconds)))


def asked_pause(retry_after: str | None, now: datetime) -> timedelta:
    """Read how long a receiver asks to be left alone by the header `Retry-After`: a day at most.

    Seconds, or a date (RFC 9110, section 10.2.3); what cannot be read asks for nothing.
    """
    seconds = 0.0
    if retry_after is not None and (text := retry_after.strip()):
        if _OF_SECONDS.issuperset(text):
            seconds = float(text)
        else:
            with suppress(ValueError, OverflowError):
                date = parsedate_to_datetime(text)
                date = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
                seconds = (date - now).total_seconds()
    return timedelta(seconds=min(max(seconds, 0.0), _LONGEST_ASKED_SECONDS))


class _Answer(NamedTuple):
    """What came of sending one: a status or none, what went wrong if anything did, and how long
    the receiver asks to be left alone.
    """

    status: int | None
    error: str | None
    asked: timedelta = timedelta()


class Sender:
    """Sends what is due."""

    def __init__(
        self,
        database: Database,
        store: EventStore,
        news: asyncio.Event,
        patience: Patience,
        resolve: Resolve = resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`resolve` looks up receivers' names, `tls` says whose certificates are believed."""
        self._database = database
        self._store = store
        self._news = news
        self._patience = patience
        self._hooks = Webhooks(database)
        self._deliveries = Deliveries(database)
        self._failed_in_a_row: dict[UUID, int] = defaultdict(int)
        self._rests_until: dict[UUID, float] = {}
        self._busy: set[UUID] = set()
        self._resolve = resolve
        self._tls = tls or httpx.create_ssl_context(trust_env=False)
        self._clients: dict[str, httpx.AsyncClient] = {}

    async def run(self) -> None:
        """Send until cancelled. Raises what the driver raises.

        Each receiver is sent to by a task of its own: a slow one keeps no other waiting.
        """
        try:
            await self._end_deliveries()
            async with asyncio.TaskGroup() as group:
                while True:
                    self._news.clear()
                    await self._start_due(group)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK_SECONDS):
                            await self._news.wait()
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            await self._close_all_but(())

    async def _end_deliveries(self) -> None:
        """End what waits for webhooks that have ended: a process may have died between the two."""
        for hook in await self._hooks.all():
            if hook.ended_at is not None:
                await self._deliveries.end(hook.id, hook.ended_at)

    async def _start_due(self, group: asyncio.TaskGroup) -> None:
        """Begin to send what is due, to each receiver that is not being sent to."""
        clock = asyncio.get_running_loop().time
        hooks = {hook.id: hook for hook in await self._hooks.all() if hook.ended_at is None}
        if not self._busy:
            await self._close_all_but({_receiver(hook.url) for hook in hooks.values()})
        # What is still to be fed of the past comes before what is new.
        waiting = {hook.id for hook in hooks.values() if hook.backfill is not None}
        waiting |= {id_ for id_, until in self._rests_until.items() if until > clock()}
        waiting |= self._busy
        now = await self._database.server_time()
        waiting |= {hook.id for hook in hooks.values() if hook.rests(now)}
        for id_ in hooks.keys() - waiting:
            tickets = await self._deliveries.due(id_, now, _DUE_AT_ONCE)
            if tickets:
                self._busy.add(id_)
                group.create_task(self._send_to(hooks[id_], tickets))

    async def _close_all_but(self, receivers: Collection[str]) -> None:
        for gone in self._clients.keys() - receivers:
            await self._clients.pop(gone).aclose()

    async def _send_to(self, hook: Webhook, tickets: Sequence[UUID]) -> None:
        clock = asyncio.get_running_loop().time
        waiting = iter(tickets)

        async def lane() -> None:
            for ticket_id in waiting:
                if self._rests_until.get(hook.id, 0.0) > clock():
                    return
                if not await self._send_of(hook, ticket_id):
                    return

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(_AT_ONCE, len(tickets))):
                    group.create_task(lane())
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            self._busy.discard(hook.id)
            self._news.set()  # there may be more

    async def _send_of(self, hook: Webhook, ticket_id: UUID) -> bool:
        """Send a ticket's events, the first first, until one is not due or does not arrive.

        Return False if the webhook is not to be sent to any more as it was: it has got another
        URL meanwhile, or has ended, or is gone.
        """
        while waiting := await self._deliveries.waiting(hook.id, ticket_id):
            for first in waiting:
                now = await self._database.server_time()
                if first.status == "parked" or first.next_at > now:
                    await self._deliveries.wait_behind(first)
                    return True
                here = await self._still_there(hook)
                if here is None or here.ended_at is not None:
                    return False
                if not await self._attempt(here, first, now):
                    return True
        return True

    async def _still_there(self, hook: Webhook) -> Webhook | None:
        """Return a webhook as it is now; None if it has got another URL, or is gone."""
        try:
            now = await self._hooks.find(hook.id)
        except (UnknownWebhook, UnreadableDocument):
            return None
        return now if now.url == hook.url else None

    async def _attempt(self, hook: Webhook, delivery: Delivery, now: datetime) -> bool:
        """Send one, and note what has become of it; say whether it has arrived."""
        answer = await self._post(hook, delivery, now)
        attempt: JsonObject = {"at": now, "status": answer.status, "error": answer.error}
        if answer.error is None:
            await self._deliveries.delivered(delivery.id, attempt, now)
            if self._failed_in_a_row.pop(hook.id, 0) >= _FAILURES_BEFORE_REST:
                await self._deliveries.wake(hook.id, now)  # it is back
            return True
        at = await self._database.server_time()
        since = delivery.failing_since or now
        pause = self._patience.pause(delivery.failures + 1, at - since)
        next_at = None if pause is None else at + max(pause, answer.asked)
        await self._deliveries.failed(delivery.id, attempt, since, next_at)
        if answer.status == HTTPStatus.GONE:
            if await self._hooks.end(hook, at):
                _log.warning("webhook %s has ended: its address answers 410", hook.id)
            # What waits for another URL is left; what others who were answered note now is not.
            here = await self._still_there(hook)
            if here is not None and here.ended_at is not None:
                await self._deliveries.end(hook.id, at)
        elif answer.asked:
            await self._hooks.rest(hook, at + answer.asked)
        self._rest(hook, at_once=answer.status == HTTPStatus.GONE or bool(answer.asked))
        return False

    def _rest(self, hook: Webhook, *, at_once: bool) -> None:
        """Leave a receiver in peace that has failed several times in a row; `at_once`: until it is
        seen what is noted of it.
        """
        self._failed_in_a_row[hook.id] += 1
        more = self._failed_in_a_row[hook.id] - _FAILURES_BEFORE_REST
        seconds = _LOOK_SECONDS if at_once else 0.0
        if more >= 0:
            first = self._patience.first_seconds
            seconds = max(seconds, min(first * 2 ** min(more, 10), _LONGEST_REST_SECONDS))
        clock = asyncio.get_running_loop().time
        self._rests_until[hook.id] = max(clock() + seconds, self._rests_until.get(hook.id, 0.0))

    async def _post(self, hook: Webhook, delivery: Delivery, now: datetime) -> _Answer:
        """Send one."""
        after = delivery.version - 1
        events = await self._store.stored(delivery.ticket_id, after=after, limit=1)
        if not events:
            return _Answer(None, "the log has no such event any more")
        [event] = await self._store.open(events)
        if "sealed" in event:  # nulls would be taken for what was said
            return _Answer(None, "a key is missing, and the event cannot be opened")
        body = event_line(events[0], event).rstrip(b"\n")
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
                answer = await self._exchange(hook.url, headers, body)
        except TimeoutError:
            return _Answer(None, f"no answer within {ANSWER_SECONDS:.0f} seconds")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, CasebookError) as error:
            return _Answer(None, f"{type(error).__name__}: {error}"[:_ERROR_CHARACTERS])
        if answer.is_success:
            return _Answer(answer.status_code, None)
        asked = asked_pause(answer.headers.get("retry-after"), now)
        return _Answer(answer.status_code, f"answered with {answer.status_code}", asked)

    async def _exchange(self, url: str, headers: dict[str, str], body: bytes) -> httpx.Response:
        """Send to the first address of a URL's host that can be connected to; return the answer's
        head. Raises what httpx does, OSError, and AddressRefused.

        To the very addresses that were checked, in the name that was given. One that does not even
        refuse leaves time for the others.
        """
        to = httpx.URL(url)
        port = to.port or (443 if to.scheme == "https" else 80)
        client = self._client(url)
        headers = {**headers, "Host": to.netloc.decode()}
        extensions = {"sni_hostname": to.host.rstrip(".")}
        *others, last = await addresses_of(to.host, port, self._resolve)
        share = httpx.Timeout(ANSWER_SECONDS, connect=ANSWER_SECONDS / (len(others) + 2))
        for address in (*others, last):
            at = to.copy_with(host=address.partition("%")[0])
            request = client.build_request(
                "POST",
                at,
                content=body,
                headers=headers,
                extensions=extensions,
                timeout=ANSWER_SECONDS if address is last else share,
            )
            try:
                answer = await client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if address is last:
                    raise
            else:
                await answer.aclose()
                return answer
        raise AssertionError("the last one has answered or raised")

    def _client(self, url: str) -> httpx.AsyncClient:
        """Return the client of a receiver: connections are shared by nobody of another name, for
        whose certificate nobody would look again.
        """
        receiver = _receiver(url)
        client = self._clients.get(receiver)
        if client is None:
            client = self._clients[receiver] = httpx.AsyncClient(
                timeout=ANSWER_SECONDS,
                follow_redirects=False,
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
                verify=self._tls,
                trust_env=False,
            )
        return client


def _receiver(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Sign a body, as its receiver does to compare."""
    return hmac.digest(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hex()


class Dispatcher:
    """Feeds and sends, if no other process does."""

    def __init__(
        self,
        database: Database,
        store: EventStore,
        patience: Patience | None = None,
        lease_seconds: float = LEASE_SECONDS,
        resolve: Resolve = resolve,
        tls: ssl.SSLContext | None = None,
        late: LateLook | None = None,
    ) -> None:
        self._database = database
        self._store = store
        self._late = late or LateLook()
        self._patience = patience or Patience()
        self._lease_seconds = lease_seconds
        self._resolve = resolve
        self._tls = tls
        self._me = member_id()
        self._prepared = False

    async def run(self) -> None:
        """Share in it until cancelled. A failure is logged and tried again."""
        pause_seconds = min(_RETRY_SECONDS, self._lease_seconds)
        await self._database.supervisor.keep(self._step, "sending to webhooks", pause_seconds)

    async def _step(self) -> None:
        if not self._prepared:
            await Deliveries(self._database).prepare()
            self._prepared = True
        dispatch = Dispatch(self._database)
        with suppress(LeaseLost):
            if await dispatch.take(self._me, self._lease_seconds):
                await self._work(dispatch)

    async def _work(self, dispatch: Dispatch) -> None:
        news = asyncio.Event()
        feeder = Feeder(self._database, self._store, dispatch, news, self._late)
        sender = Sender(self._database, self._store, news, self._patience, self._resolve, self._tls)

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
            with suppress(DriverError):
                await dispatch.leave()
