"""Authentication: a request's caller is known, or gets nothing; and nobody asks too often.

Every request but those for `OPEN_PATHS` shows a key or a token in `Authorization: Bearer`. `Access`
finds out whose it is before anything of the request is read, and holds the request to `RIGHTS` once
its route is known. Both are put into the access log.

Each key, or principal by token, may ask so many times a second or minute in each process, and each
principal so many things at once; an address that shows what nobody has is put off in the same way,
sooner.
"""

import math
import time
from collections import Counter
from contextlib import suppress

from prometheus_client import Counter as Metric

from api.access import sign_in_links
from api.access.access_log import AccessLog, Outcome, RequestInfo
from api.access.keys import PREFIX, Keys
from api.access.principals import Principal, TooManyRequests, Unauthenticated
from api.access.quotas import network_of
from api.access.rights import Right
from api.access.tokens import Tokens
from api.settings import read_rate
from domain.errors import Forbidden, PersonGone
from eventstore.database import Database
from eventstore.failures import StoreUnavailable
from eventstore.mongo.errors import time_limit

AT_ONCE = 200
"""How many requests of one principal may be under way: nobody is to take all there is."""
_FAILURES = "5/second"
_LOOK_SECONDS = 1.0
_LOOKED_UP = "100/second"
_FAILED = Metric("casebook_accesses_failed", "Accesses that were refused.", ["outcome"])


class RateLimit:
    """How often each caller has asked in the present window of time (a fixed window)."""

    def __init__(self, limit: str) -> None:
        """`limit`: like `200/second` or `1000 per minute`."""
        self._most, self._seconds = read_rate(limit)
        self._window, self._asked = 0, Counter[str]()

    def left(self, whose: str) -> int:
        """Return how often a caller may still ask in this window."""
        window = int(time.monotonic() // self._seconds)
        if window != self._window:
            self._window, self._asked = window, Counter()
        return self._most - self._asked[whose]

    def count(self, whose: str) -> None:
        """Count a request. Raises TooManyRequests."""
        if self.left(whose) <= 0:
            raise TooManyRequests(math.ceil(self._seconds - time.monotonic() % self._seconds))
        self._asked[whose] += 1


class Access:
    """By what it is known who asks, and how often they may."""

    def __init__(
        self, database: Database, tokens: Tokens | None = None, limit: str = "200/second"
    ) -> None:
        """`limit`: how often each principal may ask."""
        self.keys = Keys(database)
        self.links = sign_in_links.SignInLinks(database, self.keys)
        self.log = AccessLog(database)
        self._tokens = tokens
        self._requests, self._failures = RateLimit(limit), RateLimit(_FAILURES)
        self._looked_up = RateLimit(_LOOKED_UP)
        self._under_way: Counter[str] = Counter()

    async def identify(self, authorization: str | None) -> Principal:
        """Return whose key, token or sign-in code this is.

        Raises Unauthenticated, StoreUnavailable.
        """
        if authorization is None:
            raise Unauthenticated("send a key in the header `Authorization: Bearer <key>`")
        scheme, _, shown = authorization.partition(" ")
        if scheme.lower() != "bearer" or not shown.strip():
            raise Unauthenticated("the header Authorization must read `Bearer <key>`")
        shown = shown.strip()
        if shown.startswith(sign_in_links.PREFIX):
            return await self.links.principal(shown)
        if shown.startswith(PREFIX) or self._tokens is None:
            return await self.keys.principal(shown)
        who = await self._tokens.principal(shown)
        # An erased person's keys are revoked. Their tokens are the issuer's to end, and what
        # they ask for would put their name on record here.
        try:
            async with time_limit(_LOOK_SECONDS):
                await self.keys.vault.check_name(who.id)
        except PersonGone:
            raise Unauthenticated("the token's `sub` has been erased here") from None
        except StoreUnavailable:
            pass  # metrics are wanted most when the database is silent; nothing else is served then
        return who

    def _is_known(self, authorization: str | None) -> bool:
        """Return whether a key or token may be known already, so that `identify` costs little."""
        shown = (authorization or "").partition(" ")[2].strip()
        return self.keys.is_kept(shown) or (
            self._tokens is not None and self._tokens.is_kept(shown)
        )

    async def admit(self, asking: RequestInfo, authorization: str | None) -> Principal:
        """Return who sends a request, which is under way until its `end`.

        Raises Unauthenticated, TooManyRequests, StoreUnavailable, TokensUncheckable.
        """
        try:
            is_known = self._is_known(authorization)  # or to find out costs
            if not (is_known or self._looked_up.left(_from(asking)) > 0):
                raise TooManyRequests(1)
            who = await self.identify(authorization)
        except Unauthenticated as error:
            address = _from(asking)
            with suppress(TooManyRequests):
                self._looked_up.count(address)
            self._failures.count(address)  # what is not recorded is bounded as well
            self.note("unknown", asking, error.who)
            raise
        self.begin(who)
        return who

    def begin(self, who: Principal) -> None:
        """Count a request, and that it is under way until its `end`. Raises TooManyRequests."""
        self._requests.count(_whose(who))
        if self._under_way[who.share] >= AT_ONCE:
            raise TooManyRequests(1)
        self._under_way[who.share] += 1

    async def authorise(self, asking: RequestInfo, who: Principal, right: Right | None) -> None:
        """Hold a request to what is said of its route.

        Raises Forbidden; StoreUnavailable if an access that is to be recorded cannot be.
        """
        if right is None or who.role not in right.roles:
            raise Forbidden(f"this is not for the role {who.role}")
        if right.scope is not None and right.scope not in who.scopes:
            raise Forbidden(f"this key is not good for the scope {right.scope}")
        if right.recorded:
            await self.log.record("granted", asking, who)

    def end(self, who: Principal) -> None:
        """Count that a request is under way no more."""
        self._under_way[who.share] -= 1
        if not self._under_way[who.share]:
            del self._under_way[who.share]

    def note(self, outcome: Outcome, asking: RequestInfo, who: Principal | None) -> None:
        """Put on record that a caller was refused, unless they have been too often."""
        _FAILED.labels(outcome).inc()
        with suppress(TooManyRequests):
            if who is not None:
                self._failures.count(f"denied {_whose(who)}")
            self.log.note(outcome, asking, who)


def _whose(who: Principal) -> str:
    return who.key or who.share


def _from(asking: RequestInfo) -> str:
    return f"at {network_of(asking.address)}"
