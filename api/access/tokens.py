"""Bearer tokens of an identity provider: JWTs (RFC 7519) signed with a key that is known here.

`sub` says who it is, `role` in which role. A token must be signed by RS256, ES256 or EdDSA, be for
our audience, of our issuer, and not have expired; a key that signs for everybody (HS256) is none of
these, and neither is no signature at all. Keys are found by a JWK Set (RFC 7517), at an address or
in a file, or are one public key in PEM; RSA keys have 2048 bits at least (RFC 7518, section 3.3).

An issuer signs other things with the same keys. So a token whose `typ` says that it is something
else is refused (RFC 8725, section 3.11): a logout token, a proof, an id token. One that says
nothing is taken, as from many issuers.

A JWK Set is read again every ten minutes, and when a token names a key that is not in it, at most
twice a minute: keys are exchanged, and a stranger must not make this server ask and ask.
"""

import asyncio
import json
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import httpx
import jwt
from cachetools import TLRUCache
from pydantic import AfterValidator, BaseModel, Field, JsonValue, ValidationError

from api.access.principals import Principal, Unauthenticated, is_reserved
from api.settings import Issuer, is_loopback
from domain.actors import PrincipalRole
from domain.errors import CasebookError, Unacceptable, faults_of
from domain.lines import check_line
from domain.values import Name
from eventstore.event_document import utc_now

ALGORITHMS = ("RS256", "ES256", "EdDSA")
_LEEWAY_SECONDS = 30
_READ_AGAIN_SECONDS = 30.0
_OLD_SECONDS = 600.0
_KEPT_SECONDS = 60.0
_FETCH_SECONDS = 5.0
_MOST_BYTES = 2**20
_MOST_KEYS = 100
_RSA_BITS = range(2048, 8192 + 1)  # fewer can be broken, and more keep this server busy
_RSA_EXPONENTS = range(65537, 2**256, 2)  # FIPS 186-5, section A.1.1
_TYPES = frozenset({None, "jwt", "at+jwt"})  # RFC 7519, section 5.1; RFC 9068, section 2.1
_MOST_CHARACTERS = 8_000
_MOST_KEPT = 10_000
_LAST_DAY = datetime(9999, 12, 31, tzinfo=UTC)

_log = logging.getLogger(__name__)


class TokensUnusable(CasebookError):
    """What tokens are to be checked with cannot be read: for example, CASEBOOK_JWT_KEY names a
    file that is no public key.
    """

    def __init__(self, detail: str) -> None:
        super().__init__("tokens_unusable", detail)


class UnusableKey(Exception):
    """Tokens are not checked with this key: for example an RSA key of 1024 bits."""


class TokensUncheckable(CasebookError):
    """The JWK Set has not been read yet: for example while its server is down."""

    kind = "unavailable"

    def __init__(self) -> None:
        super().__init__("tokens_uncheckable", "tokens cannot be checked at the moment; try again")


def _as_it_is(sub: str) -> str:
    if sub != sub.strip():  # or two that the issuer tells apart might be one here
        raise ValueError("no blanks around it")
    try:
        check_line("sub", sub)
    except Unacceptable as error:
        raise ValueError(error.detail) from error
    return sub


_Seconds = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class _Claims(BaseModel):
    sub: Annotated[Name, AfterValidator(_as_it_is)]
    role: PrincipalRole
    exp: _Seconds
    nbf: _Seconds = 0
    iat: _Seconds = 0


class _Set(BaseModel):
    keys: Annotated[list[dict[str, JsonValue]], Field(max_length=_MOST_KEYS)]


class Tokens:
    """Checks the tokens of one issuer."""

    def __init__(self, issuer: Issuer, now: Callable[[], datetime] = utc_now) -> None:
        """Raises TokensUnusable for a public key that is none."""
        self._issuer = issuer
        self._now = now
        self._keys = _JwkSet(issuer.keys) if issuer.kind == "jwks" else _OneKey(issuer.keys)
        self._kept: TLRUCache[str, Principal] = TLRUCache(
            _MOST_KEPT, ttu=_kept_until, timer=lambda: now().timestamp()
        )

    async def principal(self, text: str) -> Principal:
        """Return whose a token is. Raises Unauthenticated."""
        if (kept := self._kept.get(text)) is not None:
            return kept
        claims = await self._checked(text)
        now = self._now().timestamp()
        if claims.exp <= now - _LEEWAY_SECONDS:
            raise Unauthenticated("the token is not good: it has expired")
        if max(claims.nbf, claims.iat) > now + _LEEWAY_SECONDS:
            raise Unauthenticated("the token is not good: it is not valid yet")
        if is_reserved(claims.sub):
            raise Unauthenticated(f"the id {claims.sub} is the server's own")
        end = datetime.fromtimestamp(min(claims.exp, _LAST_DAY.timestamp()), UTC)
        principal = Principal(claims.sub, claims.role, expires_at=end)
        self._kept[text] = principal
        return principal

    def is_kept(self, text: str) -> bool:
        """Return whether a token was checked a moment ago."""
        return text in self._kept

    async def _checked(self, text: str) -> _Claims:
        if len(text) > _MOST_CHARACTERS:
            raise Unauthenticated("the token is too long")
        try:
            header = jwt.get_unverified_header(text)
            _check_type(header.get("typ"))
            algorithm = header.get("alg")
            if algorithm not in ALGORITHMS:
                raise Unauthenticated(f"tokens are signed by one of {', '.join(ALGORITHMS)}")
            key = await self._keys.key(header.get("kid"))
            if key is None:
                raise Unauthenticated("the token is signed by a key that is not known here")
            if key.algorithm_name != algorithm:
                raise Unauthenticated("the token's key is of another algorithm")
            claims = jwt.decode(
                text,
                key,
                algorithms=[key.algorithm_name],
                issuer=self._issuer.issuer,
                audience=self._issuer.audience,
                options={
                    "require": ["exp", "iss", "aud", "sub"],
                    # Times are held against the database's clock, by `principal`.
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
            return _Claims.model_validate(claims)
        except jwt.PyJWTError as error:
            raise Unauthenticated(f"the token is not good: {error}") from error
        except RecursionError as error:
            raise Unauthenticated("the token is nested too deep") from error
        except ValidationError as error:
            raise Unauthenticated(
                f"the token's claims are not as needed: {faults_of(error)}"
            ) from error


def _kept_until(_: str, who: Principal, now: float) -> float:
    """Return until when (seconds since 1970) a token need not be checked again."""
    end = math.inf if who.expires_at is None else who.expires_at.timestamp()
    return min(end, now + _KEPT_SECONDS)


def _check_type(typ: object) -> None:
    """Raise Unauthenticated for something else that is signed than an access token."""
    name = typ.lower().removeprefix("application/") if isinstance(typ, str) else typ
    if not isinstance(name, str | None) or name not in _TYPES:
        raise Unauthenticated("the token's `typ` says that it is no access token")


class _JwkSet:
    """The keys at an address or in a file, by their ids."""

    def __init__(self, place: str) -> None:
        """Raises TokensUnusable."""
        self._is_remote = "://" in place
        if self._is_remote:
            _check_address(place)
        self._place = place
        self._keys: dict[str, jwt.PyJWK] = {}
        self._read_at: float | None = None
        self._has_been_read = False
        self._reading = asyncio.Lock()

    async def key(self, id_: object) -> jwt.PyJWK | None:
        """Return the key of this id, or None."""
        if not isinstance(id_, str):
            return None
        if self._is_due(id_) or (id_ not in self._keys and self._reading.locked()):
            async with self._reading:
                if self._is_due(id_):
                    self._read_at = asyncio.get_running_loop().time()
                    await self._read()
        if not self._has_been_read:
            raise TokensUncheckable
        return self._keys.get(id_)

    def _is_due(self, id_: str) -> bool:
        if self._read_at is None:
            return True
        age = asyncio.get_running_loop().time() - self._read_at
        return age > (_OLD_SECONDS if id_ in self._keys else _READ_AGAIN_SECONDS)

    async def _read(self) -> None:
        """Read the set; what was known stays if that fails."""
        try:
            described = _Set.model_validate_json(await self._text()).keys
        except ValidationError as error:
            _log.error("the JWK Set at %s is none: %s", self._place, faults_of(error))
            return
        except (OSError, ValueError, httpx.HTTPError, httpx.InvalidURL) as error:
            _log.error("the JWK Set at %s cannot be read: %s", self._place, error)
            return
        self._has_been_read = True
        self._keys = {}
        for each in described:
            kid = each.get("kid")
            if not isinstance(kid, str):
                continue
            try:
                self._keys[kid] = _checked(jwt.PyJWK(each))
            except Exception as error:  # noqa: BLE001 by members that are not what they should be
                # The library's words may hold the key, which may be a secret one.
                why = error if isinstance(error, UnusableKey) else type(error).__name__
                _log.warning("key %.80r of the set at %s is not used: %s", kid, self._place, why)

    async def _text(self) -> bytes:
        if not self._is_remote:
            return _bounded(await asyncio.to_thread(_read_file, Path(self._place)))
        text = b""
        async with (
            httpx.AsyncClient(timeout=_FETCH_SECONDS) as client,
            client.stream("GET", self._place) as answer,
        ):
            answer.raise_for_status()
            async for part in answer.aiter_bytes():
                text = _bounded(text + part)
        return text


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MOST_BYTES + 1)


def _bounded(text: bytes) -> bytes:
    if len(text) > _MOST_BYTES:
        raise ValueError("it is too long")
    return text


def _check_address(place: str) -> None:
    """Raise TokensUnusable unless what is read there can be believed."""
    try:
        url = httpx.URL(place)
    except httpx.InvalidURL as error:
        raise TokensUnusable(f"{place} is no address: {error}") from error
    if (url.scheme == "https" and url.host) or (url.scheme == "http" and is_loopback(url.host)):
        return
    raise TokensUnusable(f"keys are read by https, or from this very machine: not from {place}")


def _checked(key: jwt.PyJWK) -> jwt.PyJWK:
    """Return a key. Raises UnusableKey if it is for something else than signing; or an RSA key that
    can be broken, or keeps this server busy.
    """
    if key.algorithm_name not in ALGORITHMS or key.public_key_use not in (None, "sig"):
        raise UnusableKey("it does not sign")
    if key.key_type == "RSA":
        numbers = key.key.public_numbers()
        bits, fewest, most = numbers.n.bit_length(), _RSA_BITS.start, _RSA_BITS.stop - 1
        if bits not in _RSA_BITS:
            raise UnusableKey(f"an RSA key has {fewest} to {most} bits, and this one has {bits}")
        if numbers.e not in _RSA_EXPONENTS:
            raise UnusableKey("an RSA key's exponent is odd, and 65537 at least")
    return key


class _OneKey:
    """A public key in PEM: Ed25519, P-256 or strong RSA. It is of all ids."""

    def __init__(self, pem: str) -> None:
        """Raises TokensUnusable."""
        for name in () if "PRIVATE" in pem else ALGORITHMS:
            algorithm = jwt.get_algorithm_by_name(name)
            with suppress(jwt.PyJWTError, ValueError, TypeError):
                described = json.loads(algorithm.to_jwk(algorithm.prepare_key(pem)))
                break
        else:
            raise TokensUnusable("a token's key must be a public key in PEM: RSA, P-256 or Ed25519")
        try:
            self._key = _checked(jwt.PyJWK(described, name))
        except UnusableKey as error:
            raise TokensUnusable(str(error)) from error

    async def key(self, _: object) -> jwt.PyJWK:
        return self._key
