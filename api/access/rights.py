"""What each role has a right to.

`RIGHTS` has a row for every route, and a route without one is denied to all. Which tickets a
principal sees, and how much of them, is the visibility policy (`api/queries/visibility.py`).
"""

from collections.abc import Mapping
from typing import NamedTuple

from api.access.scopes import Scope, SignIn
from domain.actors import EVERYONE, STAFF, PrincipalRole
from domain.tickets import COMMANDS
from domain.tickets.opening import OpenTicket

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
