"""Who acts on tickets, and what roles people have."""

from dataclasses import dataclass
from typing import Literal

PrincipalRole = Literal["requester", "agent", "supervisor", "auditor", "admin"]
"""What a caller of the API does at the desk."""
STAFF: frozenset[PrincipalRole] = frozenset({"agent", "supervisor"})
EVERYONE: frozenset[PrincipalRole] = STAFF | {"requester"}
"""All who work on tickets or have some."""

Role = Literal["requester", "agent", "system"]
"""As whom an actor appears in the log."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: an id that is unique among all actors, and the role in which they act."""

    id: str
    role: Role
