"""Settings, by environment variables alone: here is what each means.

`docs/reference/settings.md` is made of it, and so is what is said of a name that is misspelt.
"""

import ipaddress
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from api.suggestions import did_you_mean
from domain.errors import CasebookError
from eventstore.mongo.driver import DriverName

_PREFIX = "CASEBOOK_"
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_RATE = re.compile(
    rf"([1-9]\d*)\s*(?:/|per)\s*(?:([1-9]\d*)\s*)?({'|'.join(_SECONDS)})s?",
    re.ASCII | re.IGNORECASE,
)
OTHERS = {
    "CASEBOOK_MASTER_KEY_FILE": "A file with the master key, which wraps the keys of persons: "
    "without it nothing personal can be read. With the embedded database `master-key` in the data "
    "folder unless set.",
    "CASEBOOK_MASTER_KEY": "The master key itself.",
    "CASEBOOK_ADMIN_URL": "For `casebook mongo-users make`: an administrator's URL.",
    "CASEBOOK_API_PASSWORD": "For the same: the API's password; made unless set.",
    "CASEBOOK_PROJECTOR_PASSWORD": "For the same: the projector's password.",
    "CASEBOOK_AUDITOR_PASSWORD": "For the same: the auditor's password.",
    "CASEBOOK_API_URL": "For `casebook mongo-users check`: the API's URL.",
    "CASEBOOK_PROJECTOR_URL": "For the same: the projector's URL.",
    "CASEBOOK_AUDITOR_URL": "For the same: the auditor's URL.",
}
"""Variables that are read elsewhere, with what they mean."""
_NOT_OURS = re.compile(
    # of the tests
    "CASEBOOK_(TEST|REAL_LOGS$)"
    # of Kubernetes, which sets them where a Service is called casebook
    "|CASEBOOK_(SERVICE_(HOST|PORT)|PORT_[0-9]+_)"
)
_OF_KUBERNETES = (
    "; Kubernetes sets this for a Service of that name, without enableServiceLinks: false"
)


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


def read_rate(text: str) -> tuple[int, int]:
    """Return how many requests a rate limit allows, and in how many seconds. Raises ValueError."""
    found = _RATE.fullmatch(text)
    if found is None:
        raise ValueError("a rate limit reads like 200/second")
    return int(found[1]), int(found[2] or 1) * _SECONDS[found[3].lower()]


def _rate_limit(text: str) -> str:
    read_rate(text)
    return text


class Settings(BaseModel):
    """What can be set; each field is the variable CASEBOOK_<FIELD>."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """The address on which the server listens."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """The port on which it listens; 0: one that is free."""
    beyond_loopback: bool = False
    """Whether `CASEBOOK_HOST` may be an address that other machines reach."""
    trusted_proxies: str | None = None
    """The addresses of proxies whose `X-Forwarded-For` is believed, with commas between."""
    data_dir: Path = Path("data")
    """The folder of the embedded database, and of the keys that the first start makes."""
    mongodb_url: str | None = None
    """A MongoDB replica set or sharded cluster, 8.0 or later, to use instead of the embedded
    database. Its path names the database, `casebook` if it has none.
    """
    mongo_driver: DriverName = "motor"
    """The driver: Motor, or PyMongo's own async client, which takes its place."""
    signing_key: Path | None = None
    """A file with the Ed25519 key that signs checkpoints of the log, made if it is not there; with
    the embedded database `signing-key.pem` in the data folder unless set.
    """
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 3600.0
    """How often a checkpoint of the log is signed, in seconds; 0: never."""
    projecting: bool = True
    """Whether the server keeps views and checkpoints current; not, where `casebook project` does.
    """
    timekeeper_seconds: Annotated[float, Field(ge=0)] = 5.0
    """How often the server looks for what is due, in seconds; 0: `casebook timekeeper` does."""
    webhooks: bool = True
    """Whether the server sends to webhooks; of several servers one does."""
    rate_limit: Annotated[str, AfterValidator(_rate_limit)] = "200/second"
    """How many requests a key, or a principal by tokens, may send to each process, like
    `1000/minute`.
    """
    jwt_key: Path | None = None
    """A file with the public key, in PEM, that the tokens of an identity provider are signed for.
    """
    jwks: str | None = None
    """The address, or a file, of a JWK Set with such keys."""
    jwt_issuer: str | None = None
    """What `iss` of a token must be."""
    jwt_audience: str | None = None
    """What `aud` of a token must be."""
    log_format: Literal["text", "json"] | None = None
    """The form of the log; unless set, text at a terminal and JSON elsewhere."""
    log_requests: bool = True
    """Whether every request is logged, or only those that failed (5xx)."""
    metrics_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """The port on which a projector shows its metrics, without a key; with `serve --workers N` the
    first of N, one for each process.
    """

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
        if self.jwks is not None and "://" not in self.jwks and not Path(self.jwks).is_file():
            raise SettingsError("bad_setting", f"CASEBOOK_JWKS: there is no file {self.jwks}")
        if self.jwt_key is None:
            return Issuer("jwks", self.jwks or "", self.jwt_issuer, self.jwt_audience)
        try:
            return Issuer("pem", self.jwt_key.read_text(), self.jwt_issuer, self.jwt_audience)
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError("bad_setting", f"CASEBOOK_JWT_KEY: {error}") from error

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Read the settings; a variable set to nothing counts as not set.

        Raises SettingsError, of a name that is not known as well: a setting that is misspelt would
        be one that is not made.
        """
        for variable in environment:
            _check_name(variable)
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
            hint = _OF_KUBERNETES if str(first["input"]).startswith("tcp://") else ""
            raise SettingsError(
                "bad_setting",
                f"{name}={first['input']!r}: {first['msg'].removeprefix('Value error, ')}{hint}",
            ) from error


def variables() -> dict[str, str]:
    """Return all variables that Casebook reads, with what each means."""
    return {
        f"{_PREFIX}{name.upper()}": " ".join((about.description or "").split())
        for name, about in Settings.model_fields.items()
    } | OTHERS


def _check_name(variable: str) -> None:
    """Raise SettingsError for the name of a variable that reads like a setting and is none."""
    if not variable.startswith(_PREFIX) or _NOT_OURS.match(variable):
        return
    known = variables()
    if variable in known:
        return
    names = [name.removeprefix(_PREFIX) for name in known]
    hint = did_you_mean(variable.removeprefix(_PREFIX), names, _PREFIX)
    raise SettingsError("bad_setting", f"there is no setting {variable}{hint}")
