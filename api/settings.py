"""Settings, by environment variables alone: docs/reference/settings.md has the table."""

import ipaddress
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import limits
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from domain.errors import CasebookError
from eventstore.mongo.driver import DriverName

_PREFIX = "CASEBOOK_"


class SettingsError(CasebookError):
    """A variable has a value that cannot be used: for example CASEBOOK_PORT=eighty."""


class Issuer(NamedTuple):
    """Whose tokens are taken. `keys`: a public key in PEM, or where a JWK Set is."""

    kind: Literal["pem", "jwks"]
    keys: str
    issuer: str
    audience: str


def is_loopback(host: str) -> bool:
    """Return whether a host's name can only be this very machine's."""
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return False


def _rate_limit(text: str) -> str:
    with suppress(ValueError):
        if len(limits.parse_many(text)) == 1:
            return text
    raise ValueError("a rate limit reads like 200/second")


class Settings(BaseModel):
    """What can be set; each field is the variable CASEBOOK_<FIELD>."""

    model_config = ConfigDict(frozen=True)

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    data_dir: Path = Path("data")
    mongodb_url: str | None = None
    mongo_driver: DriverName = "motor"
    signing_key: Path | None = None
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 3600.0
    timekeeper_seconds: Annotated[float, Field(ge=0)] = 1.0
    webhooks: bool = True
    projecting: bool = True
    beyond_loopback: bool = False
    log_requests: bool = True
    log_format: Literal["text", "json"] | None = None
    trusted_proxies: str | None = None
    metrics_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    rate_limit: Annotated[str, AfterValidator(_rate_limit)] = "200/second"
    jwt_key: Path | None = None
    jwks: str | None = None
    jwt_issuer: str | None = None
    jwt_audience: str | None = None

    @property
    def signing_key_path(self) -> Path:
        """Where the key is that signs checkpoints of the log."""
        return self.signing_key or self.data_dir / "signing-key.pem"

    @property
    def admin_key_path(self) -> Path:
        """Where the first key is kept."""
        return self.data_dir / "admin-key"

    @property
    def master_key_path(self) -> Path:
        """Where the embedded database's master key is, unless one is named."""
        return self.data_dir / "master-key"

    def issuer(self) -> Issuer | None:
        """Return whose tokens are taken, None for nobody's. Raises SettingsError."""
        if self.jwt_key is None and self.jwks is None:
            return None
        if self.jwt_key is not None and self.jwks is not None:
            raise SettingsError("bad_setting", "set CASEBOOK_JWT_KEY or CASEBOOK_JWKS, not both")
        if self.jwt_issuer is None or self.jwt_audience is None:
            raise SettingsError(
                "bad_setting", "tokens need CASEBOOK_JWT_ISSUER and CASEBOOK_JWT_AUDIENCE"
            )
        if self.jwt_key is None:
            return Issuer("jwks", self.jwks or "", self.jwt_issuer, self.jwt_audience)
        try:
            return Issuer("pem", self.jwt_key.read_text(), self.jwt_issuer, self.jwt_audience)
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError("bad_setting", f"CASEBOOK_JWT_KEY: {error}") from error

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Read the settings; a variable set to nothing counts as not set. Raises SettingsError."""
        given = {
            name: value
            for name in cls.model_fields
            if (value := environment.get(_PREFIX + name.upper(), "").strip())
        }
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            name = _PREFIX + str(first["loc"][0]).upper()
            raise SettingsError(
                "bad_setting", f"{name}={first['input']!r}: {first['msg']}"
            ) from error
