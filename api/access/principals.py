"""Principals: who asks.

Keys are checked in `keys.py`, tokens in `tokens.py`, sign-in links in `sign_in_links.py`;
`authentication.py` asks them. `rights.py` says what each has a right to.

A role is a part that people have at the desk:

    requester    has tickets: sees and answers their own and those that they follow, without what is
                 internal
    agent        works on the tickets of their groups
    supervisor   works on all tickets, follows the log, has saved views and webhooks
    auditor      reads everything, changes nothing
    admin        keys, the desk's set-up, projections, persons: what is held on one, and no more of
                 any ticket
"""

from dataclasses import dataclass
from datetime import datetime

from api.access.scopes import SCOPES, Scope, SignIn
from domain.actors import Actor, PrincipalRole
from domain.errors import CasebookError, TicketNotFound

TIMEKEEPER = Actor("timekeeper", "system")
"""Who acts when nobody does. Its id is nobody else's, so that nobody uses up its keys."""


def is_reserved(id_: str) -> bool:
    """Return whether an id is the server's own, which no principal can have."""
    return id_ == TIMEKEEPER.id


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `key`: the id of their key, if it is by one; `scopes`: all that it is good for;
    `expires_at`: when the key or token ends, None for never.
    """

    id: str
    role: PrincipalRole
    scopes: frozenset[Scope | SignIn] = frozenset(SCOPES)
    key: str | None = None
    expires_at: datetime | None = None

    @property
    def share(self) -> str:
        """Whose share of what is bounded it is: all keys of one principal have one."""
        return f"{self.role}:{self.id}"

    @property
    def actor(self) -> Actor:
        """Return the actor, as the log knows it: a requester, or an agent for all other roles."""
        return Actor(self.id, "requester" if self.role == "requester" else "agent")


class Unauthenticated(CasebookError):
    """The request has no key or token, or one that is unknown, expired or revoked."""

    kind = "unauthenticated"

    def __init__(self, detail: str, who: Principal | None = None) -> None:
        """`who`: whose it was, if that is proven."""
        super().__init__("unauthenticated", detail)
        self.who = who


class Unseen(TicketNotFound):
    """There is such a ticket, but the caller may not see it. The answer does not tell which."""


class TooManyRequests(CasebookError):
    """The caller sends more requests than its rate limit allows: for example in a loop."""

    kind = "too_many"

    def __init__(self, seconds: int) -> None:
        super().__init__("too_many_requests", f"too many requests; ask again in {seconds} s")
        self.retry_after_seconds = seconds
