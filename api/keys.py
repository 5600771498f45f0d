"""API keys: where they are kept, and their routes.

A key reads `casebook_<id>_<secret>`: 96 bits that name it and 256 that prove it, both from the
system's generator, in hexadecimal. Of the secret only a SHA-256 is kept, which is enough for what
nobody can guess; the key itself is shown once, to who has made it.

    api_keys   {_id: id, hash, principal, role, scopes, created_at, created_by,
                expires_at, revoked_at}

A key is never deleted: its documents say whose it was. A process keeps what it has read for some
seconds, so a revoked key is good for that long in other processes; and for ten minutes while the
database is silent.
"""

import asyncio
import hashlib
import hmac
import os
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Response
from fastapi import Path as PathParameter
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from api.access import (
    SCOPES,
    CurrentPrincipal,
    Principal,
    PrincipalRole,
    Scope,
    Unauthenticated,
    is_reserved,
)
from api.answers import described_headers, json_response
from api.problems import problem_responses
from domain.errors import Forbidden, NotFound, Unacceptable
from domain.events import ERASED, JsonObject
from domain.values import Moment, Name, at_most
from eventstore.driver import Database
from eventstore.envelope import utc_now
from eventstore.failures import StoreUnavailable, VersionConflict, answering

COLLECTION = "api_keys"
PREFIX = "casebook_"
KEPT_SECONDS = 5.0
_KEPT_IN_SILENCE_SECONDS = 600.0
_MOST_KEPT = 10_000
_ID_BYTES = 12
_SECRET_BYTES = 32
_KEY = re.compile(r"casebook_(?P<id>[0-9a-f]{24})_(?P<secret>[0-9a-f]{64})")
_FIRST = "0" * 2 * _ID_BYTES
"""The id of the key that the first start makes: of two that start at once, one makes it."""


class NoSuchKey(NotFound):
    """There is no key of that id: for example because it was mistyped."""

    def __init__(self) -> None:
        super().__init__("key_not_found", "there is no such key")


class Key(NamedTuple):
    """What is kept of a key."""

    id: str
    hash: bytes
    principal: str
    role: PrincipalRole
    scopes: frozenset[Scope]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None


_STORED: TypeAdapter[Key] = TypeAdapter(Key)


class KeyOrder(BaseModel):
    """Whose the key is to be, and what it is good for."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    principal: Name
    role: PrincipalRole
    scopes: Annotated[
        list[Scope], Field(min_length=1, max_length=len(SCOPES)), at_most(len(SCOPES))
    ] = Field(
        default=list(SCOPES),
        description="What it is good for, of what the role may do; all of it unless given.",
    )
    expires_at: Moment | None = Field(default=None, description="Never unless given.")


def new_key(principal: str, role: PrincipalRole, created_by: str, now: datetime) -> tuple[Key, str]:
    """Make a key that is good for all its role may do; give what is kept of it, and its text."""
    id_, secret = secrets.token_hex(_ID_BYTES), secrets.token_hex(_SECRET_BYTES)
    key = Key(
        id=id_,
        hash=_hash(secret),
        principal=principal,
        role=role,
        scopes=frozenset(SCOPES),
        created_at=now,
        created_by=created_by,
        expires_at=None,
        revoked_at=None,
    )
    return key, f"{PREFIX}{id_}_{secret}"


class Keys:
    """The keys in one database."""

    def __init__(self, database: Database, now: Callable[[], datetime] = utc_now) -> None:
        self._documents = database.collection(COLLECTION)
        self.vault = database.vault
        self._now = now
        self._kept: OrderedDict[str, tuple[float, Key]] = OrderedDict()

    async def make(self, order: KeyOrder, created_by: str) -> tuple[Key, str]:
        """Make a key; give it, and its text, which is nowhere else.

        Raises Unacceptable for an id that is nobody's to have, PersonGone, StoreUnavailable.
        """
        await self.vault.check_name(order.principal)
        if is_reserved(order.principal):
            raise Unacceptable("reserved_id", f"the id {order.principal} is the server's own")
        if order.expires_at is not None and order.expires_at <= self._now():
            raise Unacceptable("expires_at_past", "expires_at must lie in the future")
        key, text = new_key(order.principal, order.role, created_by, self._now())
        key = key._replace(scopes=frozenset(order.scopes), expires_at=order.expires_at)
        await self.add(key)
        return key, text

    async def make_first(self) -> str | None:
        """Make an administrator's key unless one was made so before; give its text, or None.

        Raises StoreUnavailable.
        """
        key, text = new_key("admin", "admin", "the first start", self._now())
        try:
            await self.add(key._replace(id=_FIRST))
        except VersionConflict:  # by an earlier start, or by another process
            return None
        return text.replace(key.id, _FIRST)

    async def add(self, key: Key) -> None:
        """Keep a key that has been made. Raises StoreUnavailable, VersionConflict if it is kept."""
        document: JsonObject = {**key._asdict(), "scopes": sorted(key.scopes)}
        document["_id"] = document.pop("id")
        async with answering():
            await self._documents.insert_one(document)

    async def find(self, id_: str) -> Key | None:
        """Give a key. Raises StoreUnavailable."""
        async with answering():
            document: Mapping[str, object] | None = await self._documents.find_one({"_id": id_})
        return None if document is None else _from_document(document)

    async def all(self) -> list[Key]:
        """Give all keys, the last made first. Raises StoreUnavailable."""
        async with answering():
            found = self._documents.find().sort([("created_at", -1), ("_id", 1)])
            return [_from_document(document) for document in await found.to_list()]

    async def revoke(self, id_: str) -> None:
        """Make a key good for nothing; one that is so already stays so.

        Raises NoSuchKey, StoreUnavailable.
        """
        async with answering():
            await self._documents.update_one(
                {"_id": id_, "revoked_at": None}, {"$set": {"revoked_at": self._now()}}
            )
        self._kept.pop(id_, None)
        if await self.find(id_) is None:
            raise NoSuchKey

    async def forget(self, principal: str) -> None:
        """Revoke somebody's keys, and let none name them."""
        await self._documents.update_many(
            {"principal": principal, "revoked_at": None}, {"$set": {"revoked_at": self._now()}}
        )
        for field in ("created_by", "principal"):
            await self._documents.update_many({field: principal}, {"$set": {field: ERASED}})

    async def principal(self, text: str) -> Principal:
        """Say whose a key is. Raises Unauthenticated, StoreUnavailable."""
        shown = _KEY.fullmatch(text)
        if shown is None:
            raise Unauthenticated("this is no key: one reads casebook_<id>_<secret>")
        key = await self._known(shown["id"])
        if key is None or not hmac.compare_digest(key.hash, _hash(shown["secret"])):
            raise Unauthenticated("there is no such key")
        who = Principal(key.principal, key.role, key.scopes, key.id)
        if key.revoked_at is not None:
            raise Unauthenticated("the key has been revoked", who)
        if key.expires_at is not None and key.expires_at <= self._now():
            raise Unauthenticated("the key has expired", who)
        return who

    def is_kept(self, text: str) -> bool:
        """Say whether a key of this id is known already: it is looked up now and then at most."""
        shown = _KEY.fullmatch(text)
        return shown is not None and shown["id"] in self._kept

    async def _known(self, id_: str) -> Key | None:
        """Give a key as it was some seconds ago at most; None is always of now."""
        clock = asyncio.get_running_loop().time
        kept = self._kept.get(id_)
        if kept is not None and clock() - kept[0] < KEPT_SECONDS:
            return kept[1]
        began = clock()
        try:
            key = await self.find(id_)
        except StoreUnavailable:
            # Metrics are wanted most when the database is silent; then nothing else is served.
            if kept is not None and clock() - kept[0] < _KEPT_IN_SILENCE_SECONDS:
                return kept[1]
            raise
        if key is None:
            self._kept.pop(id_, None)
            return None
        self._kept[id_] = (began, key)
        self._kept.move_to_end(id_)
        if len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        return key


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _from_document(document: Mapping[str, object]) -> Key:
    fields = {name: value for name, value in document.items() if name != "_id"}
    return _STORED.validate_python({"id": document["_id"], **fields})


def keep_in_file(text: str, path: Path) -> None:
    """Write a key where only its owner can read it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")


# --- routes -------------------------------------------------------------------------------------


class KeyAnswer(BaseModel, extra="forbid"):
    """What is kept of a key: not the key."""

    id: str
    principal: str
    role: PrincipalRole
    scopes: list[Scope]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None


class KeyMade(KeyAnswer):
    """A new key."""

    key: str = Field(description="Shown this once: for `Authorization: Bearer`.")


class KeysAnswer(BaseModel, extra="forbid"):
    """All keys, the last made first."""

    keys: list[KeyAnswer]


KeyId = Annotated[str, PathParameter(pattern="^[0-9a-f]{24}$")]


def router(keys: Keys) -> APIRouter:
    """Make the routes of keys."""
    routes = APIRouter(prefix="/keys", tags=["keys"])

    @routes.post(
        "",
        status_code=201,
        response_model=KeyMade,
        responses={
            201: {"headers": described_headers("Location")},
            **problem_responses(400, 409, 422, 503),
        },
    )
    async def make_key(order: KeyOrder, who: CurrentPrincipal) -> Response:
        """Make a key for somebody, good for no more than the one that is used for this."""
        beyond = set(order.scopes) - who.scopes
        if beyond:
            raise Forbidden(f"this key is not good for {', '.join(sorted(beyond))} itself")
        key, text = await keys.make(order, who.id)
        content = {**_told(key), "key": text}
        return json_response(content, {"Location": f"/keys/{key.id}"}, HTTPStatus.CREATED)

    @routes.get("", response_model=KeysAnswer, responses=problem_responses(422, 503))
    async def list_keys() -> Response:
        """List all keys, those that are good for nothing any more too."""
        return json_response({"keys": [_told(key) for key in await keys.all()]}, {})

    @routes.delete("/{key_id}", status_code=204, responses=problem_responses(404, 422, 503))
    async def revoke_key(key_id: KeyId) -> Response:
        """Make a key good for nothing: within five seconds in every process."""
        await keys.revoke(key_id)
        return Response(status_code=HTTPStatus.NO_CONTENT)

    return routes


def _told(key: Key) -> JsonObject:
    told = {name: value for name, value in key._asdict().items() if name != "hash"}
    return {**told, "scopes": sorted(key.scopes)}
