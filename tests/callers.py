"""Who asks in tests: anybody in any role, by a token that is made here and checked as any other."""

from functools import cache

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from api.access.authentication import Access
from api.access.tokens import Tokens
from api.commands.handler import Submission
from api.settings import Issuer

_KEY = Ed25519PrivateKey.generate()
_FAR_AWAY = 4_102_444_800  # 2100
ISSUER = Issuer(
    kind="pem",
    keys=_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
    issuer="https://id.test",
    audience="casebook",
)


def token(key=_KEY, algorithm="EdDSA", headers=None, **claims):
    """A token of alice's, an agent, with other claims where some are given; None leaves one out."""
    told = {
        "sub": "alice",
        "role": "agent",
        "iss": ISSUER.issuer,
        "aud": ISSUER.audience,
        "exp": _FAR_AWAY,
        **claims,
    }
    told = {name: value for name, value in told.items() if value is not None}
    return jwt.encode(told, key, algorithm, headers)


@cache
def as_(role, id_):
    """The headers of somebody's requests."""
    return {"Authorization": f"Bearer {token(sub=id_, role=role)}"}


AGENT = as_("agent", "alice")
REQUESTER = as_("requester", "bob")
SUPERVISOR = as_("supervisor", "sam")
AUDITOR = as_("auditor", "audrey")
ADMIN = as_("admin", "ada")
SOMEBODY = as_("supervisor", "anonymous")
"""Who asks unless a test says who."""
EVERYBODY = (REQUESTER, AGENT, SUPERVISOR, AUDITOR, ADMIN)


def access(database, limit="1000000/second"):
    """Who is known in tests: by keys of the database, and by the tokens made here."""
    return Access(database, Tokens(ISSUER), limit)


def by(actor, command, **more):
    """A command as an actor sends it to a handler."""
    return Submission(command=command, actor=actor, **more)
