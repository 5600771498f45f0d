"""What keys are good for, and the roles that people have: words alone, which need no import."""

from typing import Literal, get_args

from domain.actors import PrincipalRole

Scope = Literal["read", "write", "feed", "desk", "operate", "keys", "persons"]
ROLES: tuple[PrincipalRole, ...] = get_args(PrincipalRole)
SCOPES: tuple[Scope, ...] = get_args(Scope)
