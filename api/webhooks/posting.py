"""Posting one event to a receiver, and what its answer says.

    Casebook-Delivery    the delivery's id, the same each time it is sent
    Casebook-Event       the event's type
    Casebook-Timestamp   seconds since 1970
    Casebook-Signature   v1=<HMAC-SHA-256, hexadecimal, of "<timestamp>.<body>" under the secret>
    Correlation-Id       of the request that the event came of; `traceparent` too if it was traced

Of the answer nothing but its status and `Retry-After` is read, and redirects are not followed.
Which addresses are sent to is in `addresses.py`.
"""

import asyncio
import hashlib
import hmac
import ssl
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from typing import NamedTuple

import httpx

from api.webhooks.addresses import Resolve, addresses_of
from domain.errors import CasebookError

_ERROR_CHARACTERS = 300
_LONGEST_ASKED_SECONDS = 24 * 3600.0


class Answer(NamedTuple):
    """What came of posting an event: a status or none, what went wrong if anything did, and how
    long the receiver asks to be left alone.
    """

    status: int | None
    error: str | None
    asked: timedelta = timedelta()


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Sign a body, as its receiver does to compare."""
    return hmac.digest(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hex()


def asked_pause(retry_after: str | None, now: datetime) -> timedelta:
    """Read how long a receiver asks to be left alone by the header `Retry-After`: a day at most.

    Seconds, or a date (RFC 9110, section 10.2.3); what cannot be read asks for nothing.
    """
    text, seconds = (retry_after or "").strip(), 0.0
    if text.isascii() and text.isdecimal():
        seconds = float(text)
    else:
        with suppress(ValueError, OverflowError):
            date = parsedate_to_datetime(text)
            date = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
            seconds = (date - now).total_seconds()
    return timedelta(seconds=min(max(seconds, 0.0), _LONGEST_ASKED_SECONDS))


@cache
def _believed() -> ssl.SSLContext:
    """Return whose certificates are believed unless told otherwise."""
    return httpx.create_ssl_context(trust_env=False)


class Poster:
    """Posts to receivers."""

    def __init__(self, resolve: Resolve, tls: ssl.SSLContext | None, seconds: float) -> None:
        """`resolve` looks up receivers' names, `tls` says whose certificates are believed,
        `seconds` is how long an answer may take.
        """
        self._resolve = resolve
        self._tls = tls
        self._seconds = seconds

    async def client(self) -> httpx.AsyncClient:
        """Return a client for one receiver. Receivers share none: a connection is to an address,
        and its certificate was held against one receiver's name.
        """
        # Certificates take long to read, and most servers have no receivers.
        believed = self._tls
        if believed is None:
            believed = await asyncio.to_thread(_believed)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        return httpx.AsyncClient(
            follow_redirects=False, limits=limits, verify=believed, trust_env=False
        )

    async def post(
        self,
        client: httpx.AsyncClient,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        now: datetime,
    ) -> Answer:
        """Post a body, signed already; failures are in the answer."""
        try:
            async with asyncio.timeout(self._seconds):
                answer = await self._exchange(client, httpx.URL(url), headers, body)
        except TimeoutError:
            return Answer(None, f"no answer within {self._seconds:g} seconds")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, CasebookError) as error:
            return Answer(None, f"{type(error).__name__}: {error}"[:_ERROR_CHARACTERS])
        if answer.is_success:
            return Answer(answer.status_code, None)
        asked = asked_pause(answer.headers.get("retry-after"), now)
        return Answer(answer.status_code, f"answered with {answer.status_code}", asked)

    async def _exchange(
        self, client: httpx.AsyncClient, url: httpx.URL, headers: Mapping[str, str], body: bytes
    ) -> httpx.Response:
        """Post to the first address of the URL's host that can be connected to; return the answer's
        head. Raises what httpx does, OSError, and AddressRefused.

        To the very addresses that were checked, in the name that was given. One that does not even
        refuse leaves time for the others.
        """
        port = url.port or (443 if url.scheme == "https" else 80)
        addresses = await addresses_of(url.host, port, self._resolve)
        share = httpx.Timeout(self._seconds, connect=self._seconds / (len(addresses) + 1))
        for n, address in enumerate(addresses, 1):
            request = client.build_request(
                "POST",
                url.copy_with(host=address.partition("%")[0]),
                content=body,
                headers={**headers, "Host": url.netloc.decode()},
                extensions={"sni_hostname": url.host.rstrip(".")},
                timeout=self._seconds if n == len(addresses) else share,
            )
            try:
                answer = await client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if n == len(addresses):
                    raise
            else:
                await answer.aclose()
                return answer
        raise AssertionError("the last address has answered or raised")
