"""Principals, and what each role has a right to.

`RIGHTS` has a row for every route, and a route without one is denied to all. Which tickets a
principal sees, and how much of them, is the visibility policy (`api/queries/visibility.py`). Keys
are checked in `keys.py`, tokens in `tokens.py`, sign-in links in `sign_in_links.py`;
`authentication.py` asks them.

A role is a part that people have at the desk:

    requester    has tickets: sees and answers their own and those that they follow, without what is
                 internal
    agent        works on the tickets of their groups
    supervisor   works on all tickets, follows the log, has saved views and webhooks
    auditor      reads everything, changes nothing
    admin        keys, the desk's set-up, projections, persons: what is held on one, and no more of
                 any ticket
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from api.access.scopes import SCOPES, Scope, SignIn
from domain.actors import EVERYONE, STAFF, Actor, PrincipalRole
from domain.errors import CasebookError, TicketNotFound
from domain.tickets import COMMANDS
from domain.tickets.opening import OpenTicket

TIMEKEEPER = Actor("timekeeper", "system")
"""Who acts when nobody does. Its id is nobody else's, so that nobody uses up its keys."""


def is_reserved(id_: str) -> bool:
    """Return whether an id is the server's own, which no principal can have."""
    return id_ == TIMEKEEPER.id


CONSOLE = "/console/"
"""Below which the console's files are."""
OPEN_PATHS = frozenset(
    {*("/healthz", "/readyz", "/openapi.json", "/docs"), *("/", f"{CONSOLE}{{name:path}}")}
)
"""What anybody may ask for, as routes are declared: is the server there, what can it be asked, and
the page that asks it.
"""


def is_open(path: str) -> bool:
    """Return whether a path needs no key or token."""
    return path in OPEN_PATHS or path.startswith(CONSOLE)


class Unauthenticated(CasebookError):
    """The request has no key or token, or one that is unknown, expired or revoked."""

    kind = "unauthenticated"

    def __init__(self, detail: str, who: "Principal | None" = None) -> None:
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


_Roles = frozenset[PrincipalRole]


class Right(NamedTuple):
    """Whose a route is, and what of a key it needs, if it needs anything. `recorded`: each use is
    put on record.
    """

    scope: Scope | SignIn | None
    roles: _Roles
    recorded: bool = False


_SUPERVISOR = _Roles(["supervisor"])
_AUDITOR = _Roles(["auditor"])
_ADMIN = _Roles(["admin"])
_READERS = STAFF | _AUDITOR
_OVERSEERS = _SUPERVISOR | _AUDITOR

RIGHTS: Mapping[str, Right] = {
    "POST /tickets": Right("write", OpenTicket.allowed),
    **{
        f"POST /{path}/{verb}": Right("write", command.allowed)
        for verb, command in COMMANDS.items()
        if command is not OpenTicket
        for path in ("tickets/{ticket_id}", "bulk")
    },
    "GET /me": Right(None, EVERYONE | _AUDITOR | _ADMIN),
    "POST /sign_in": Right("sign_in", EVERYONE | _AUDITOR | _ADMIN, recorded=True),
    "GET /tickets": Right("read", EVERYONE | _AUDITOR),
    "GET /tickets/{ticket_id}": Right("read", EVERYONE | _AUDITOR),
    "GET /tickets/{ticket_id}/commands": Right("read", EVERYONE | _AUDITOR),
    "GET /tickets/{ticket_id}/timeline": Right("read", EVERYONE | _AUDITOR),
    "GET /tickets/{ticket_id}/diff": Right("read", EVERYONE | _AUDITOR),
    "GET /tickets/{ticket_id}/sla": Right("read", _READERS),
    "GET /dashboard": Right("read", _READERS),
    "GET /dashboard/series": Right("read", _READERS),
    "GET /views": Right("read", _READERS),
    "GET /views/{name}": Right("read", _READERS),
    "PUT /views/{name}": Right("write", _SUPERVISOR),
    "DELETE /views/{name}": Right("write", _SUPERVISOR),
    "GET /agents": Right("read", _OVERSEERS),
    "GET /agents/series": Right("read", _OVERSEERS),
    "GET /events": Right("feed", _OVERSEERS, recorded=True),
    "GET /events/stream": Right("feed", _OVERSEERS, recorded=True),
    "POST /webhooks": Right("feed", _SUPERVISOR, recorded=True),
    "GET /webhooks": Right("feed", _OVERSEERS),
    "GET /webhooks/{webhook_id}": Right("feed", _OVERSEERS),
    "PUT /webhooks/{webhook_id}": Right("feed", _SUPERVISOR, recorded=True),
    "DELETE /webhooks/{webhook_id}": Right("feed", _SUPERVISOR, recorded=True),
    "GET /webhooks/{webhook_id}/deliveries": Right("feed", _OVERSEERS),
    "POST /webhooks/{webhook_id}/resume": Right("feed", _SUPERVISOR, recorded=True),
    "POST /webhooks/{webhook_id}/redeliver": Right("feed", _SUPERVISOR, recorded=True),
    "GET /desk": Right("desk", _READERS | _ADMIN),
    "PUT /desk": Right("desk", _ADMIN, recorded=True),
    "GET /projections": Right("operate", _OVERSEERS | _ADMIN),
    "POST /projections/repairs": Right("operate", _ADMIN, recorded=True),
    "GET /metrics": Right("operate", _OVERSEERS | _ADMIN),
    "POST /keys": Right("keys", _ADMIN, recorded=True),
    "GET /keys": Right("keys", _ADMIN, recorded=True),
    "DELETE /keys/{key_id}": Right("keys", _ADMIN, recorded=True),
    "GET /access_log": Right("keys", _ADMIN | _AUDITOR, recorded=True),
    "GET /persons": Right("persons", _ADMIN),  # ids and times, of nobody who has a name
    "POST /persons/find": Right("persons", _ADMIN, recorded=True),
    "GET /persons/{person_id}": Right("persons", _ADMIN, recorded=True),
    "GET /persons/{person_id}/data": Right("persons", _ADMIN, recorded=True),
    "POST /persons/{person_id}/erase": Right("persons", _ADMIN, recorded=True),
}
"""What may be asked for: `<method> <path>`, as routes are declared. The rest is denied."""
