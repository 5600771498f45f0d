"""Sign-in links: each lets a person in once, within minutes of being made.

    http://127.0.0.1:8000/#sign-in_<code>

No browser sends what stands behind `#`, so the code is in no log of requests, here or at a proxy.
The console exchanges it for a key, by a request that the code authorises as a key would. Besides
that it only says whose it is, by `GET /me`.

Nothing is stored before that. The code says whose the key is to be, its id and how long the code is
good, behind a keyed hash that only processes with the database can make (`api/cursors.py`). A key's
id is unique, so of two requests with one code the later is refused, whichever process it reaches.
"""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from api.access.keys import ID_BYTES, Key, KeyOrder, Keys
from api.access.principals import Principal, Unauthenticated
from api.cursors import Cursors
from domain.actors import PrincipalRole
from domain.errors import Unacceptable
from eventstore.database import Database
from eventstore.failures import VersionConflict

PREFIX = "sign-in_"
GOOD_FOR = timedelta(minutes=15)
KEY_GOOD_FOR = timedelta(hours=12)


class _Code(NamedTuple):
    key: str
    principal: str
    role: PrincipalRole
    until: int
    """Seconds since 1970."""


class SignInLinks:
    """Makes the codes of sign-in links, and exchanges them for keys."""

    def __init__(
        self, database: Database, keys: Keys, now: Callable[[], datetime] | None = None
    ) -> None:
        """`now`: the database's clock unless given."""
        self._codes = Cursors(database, "sign-in", _Code)
        self._keys = keys
        self._now = now or database.clock.now

    async def make(self, principal: str, role: PrincipalRole) -> str:
        """Return the code of a new link, which stands behind `#`. Raises StoreUnavailable."""
        until = int((self._now() + GOOD_FOR).timestamp())
        code = _Code(secrets.token_hex(ID_BYTES), principal, role, until)
        return PREFIX + await self._codes.write([*code])

    async def principal(self, code: str) -> Principal:
        """Return whose key a code is exchanged for. Raises Unauthenticated, StoreUnavailable."""
        try:
            found = await self._codes.read(code.removeprefix(PREFIX))
        except Unacceptable:
            found = None
        if found is None:
            raise Unauthenticated("this is no sign-in link of this server")
        until = datetime.fromtimestamp(found.until, UTC)
        who = Principal(found.principal, found.role, frozenset(["sign_in"]), found.key, until)
        if until <= self._now():
            raise Unauthenticated("the sign-in link is too old", who)
        if await self._keys.is_there(found.key):
            raise _used_before(who)
        return who

    async def exchange(self, who: Principal) -> tuple[Key, str]:
        """Return a key, and its text, for the principal of a code that was not exchanged before.

        Raises Unauthenticated, PersonGone, StoreUnavailable.
        """
        order = KeyOrder(principal=who.id, role=who.role, expires_at=self._now() + KEY_GOOD_FOR)
        try:
            return await self._keys.make(order, "a sign-in link", id_=who.key)
        except VersionConflict:
            raise _used_before(who) from None


def _used_before(who: Principal) -> Unauthenticated:
    return Unauthenticated("the sign-in link was used before", who)
