"""What keys are good for, and the roles that people have: words alone, which need no import."""

from typing import Literal, get_args

from domain.actors import PrincipalRole

Scope = Literal["read", "write", "feed", "desk", "operate", "keys", "persons"]
SignIn = Literal["sign_in"]
"""What the code of a sign-in link is good for, and no key."""
ROLES: tuple[PrincipalRole, ...] = get_args(PrincipalRole)
SCOPES: tuple[Scope, ...] = get_args(Scope)
