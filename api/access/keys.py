"""API keys: where they are kept.

A key reads `casebook_<id>_<secret>`: 96 bits that name it and 256 that prove it, both from the
system's generator, in hexadecimal. Of the secret only a SHA-256 is kept, which is enough for what
nobody can guess; the key itself is shown once, to who has made it.

    api_keys   {_id: id, hash, principal, role, scopes, created_at, created_by,
                expires_at, revoked_at, made_by_key}

A key is never deleted: its documents say whose it was. A process keeps what it has read for some
seconds, so a revoked key is good for that long in other processes; and for ten minutes while the
database is silent.

No key outlives the key or token that it was made with, whose id, if it is a key, is its
`made_by_key`: so all that was made with a key, and with those, can be revoked with it. (It is null,
or missing in older documents, where a key was made by a token or at the command line.)

Keys that other versions have stored are read as `eventstore/documents.py` says: a scope that is not
known is good for nothing, and so is a key whose role is not known, or which cannot be read. It can
be revoked.
"""

import asyncio
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated

from cachetools import LRUCache
from pydantic import Field, TypeAdapter

from api.access.principals import Principal, Unauthenticated, is_reserved
from api.access.scopes import SCOPES, Scope
from api.model import ApiModel
from domain.actors import PrincipalRole
from domain.errors import NotFound, Unacceptable
from domain.lines import check_line
from domain.values import ERASED, JsonObject, Moment, Name, at_most
from eventstore.database import Database
from eventstore.documents import Document, Reader, UnreadableDocument, as_document, strict_decoder
from eventstore.failures import StoreUnavailable, VersionConflict
from eventstore.key_files import names_for, place
from eventstore.mongo.errors import time_limit
from eventstore.mongo.resend import insert

COLLECTION = "api_keys"
PREFIX = "casebook_"
KEPT_SECONDS = 5.0
_KEPT_IN_SILENCE_SECONDS = 600.0
_MOST_KEPT = 10_000
ID_BYTES = 12
_SECRET_BYTES = 32
_KEY = re.compile(r"casebook_(?P<id>[0-9a-f]{24})_(?P<secret>[0-9a-f]{64})")
_FIRST = "0" * 2 * ID_BYTES
"""The id of the key that the first start makes: of two that start at once, one makes it."""


class NoSuchKey(NotFound):
    """There is no key of that id: for example because it was mistyped."""

    def __init__(self) -> None:
        super().__init__("key_not_found", "there is no such key")


class ExpiryBeyondMaker(Unacceptable):
    """A key was to last longer than the key or token that it is made with: for example by a client
    that has been let in for a day and asks for a year.
    """

    def __init__(self, until: datetime) -> None:
        super().__init__(
            "expires_at_beyond",
            f"no key outlives what it is made with: expires_at must be {until.isoformat()} at most",
        )


@dataclass(frozen=True, slots=True)
class Key:
    """What is kept of a key. `scopes`: those that this version knows; `made_by_key`: the id of the
    key that it was made with.
    """

    id: str
    hash: bytes
    principal: str
    role: PrincipalRole
    scopes: frozenset[Scope]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    made_by_key: str | None = None


_STORED = strict_decoder(Key)
_WORDS: TypeAdapter[list[str]] = TypeAdapter(list[str])


class KeyOrder(ApiModel, str_strip_whitespace=True):
    """Whose the key is to be, and what it is good for."""

    principal: Name
    role: PrincipalRole
    scopes: Annotated[list[Scope], Field(min_length=1), *at_most(len(SCOPES))] = Field(
        default=list(SCOPES)
    )
    """What it is good for; unless given, all that its role may do."""
    expires_at: Moment | None = None
    """At the latest, and unless given, when the key or token ends that makes it."""


def new_key(
    principal: str, role: PrincipalRole, created_by: str, now: datetime, id_: str | None = None
) -> tuple[Key, str]:
    """Make a key with all scopes; return what is kept of it, and its text."""
    id_, secret = id_ or secrets.token_hex(ID_BYTES), secrets.token_hex(_SECRET_BYTES)
    scopes = frozenset(SCOPES)
    key = Key(id_, _hash(secret), principal, role, scopes, now, created_by, None, None)
    return key, f"{PREFIX}{id_}_{secret}"


class Keys:
    """The keys in one database."""

    def __init__(self, database: Database, now: Callable[[], datetime] | None = None) -> None:
        """`now`: the database's clock unless given."""
        self._documents = database.collection(COLLECTION)
        self._name = database.name
        self.vault = database.vault
        self._now = now or database.clock.now
        self._reader = Reader(database.unreadable, COLLECTION, from_document)
        self._kept: LRUCache[str, tuple[float, Key]] = LRUCache(_MOST_KEPT)

    async def make(
        self,
        order: KeyOrder,
        created_by: str,
        maker: Principal | None = None,
        id_: str | None = None,
    ) -> tuple[Key, str]:
        """Make a key; return it, and its text, which is nowhere else.

        `maker`: who makes it, by a key or token that it does not outlive; None: the operator, whose
        keys have no such limit. `id_`: its id, a new one unless given.
        Raises Unacceptable for an id that is nobody's to have, ExpiryBeyondMaker, PersonGone,
        StoreUnavailable; Unauthenticated if the maker's own key has been revoked meanwhile;
        VersionConflict if there is a key of that id.
        """
        await self.check_principal(order.principal)
        if order.expires_at is not None and order.expires_at <= self._now():
            raise Unacceptable("expires_at_past", "expires_at must lie in the future")
        limit = None if maker is None else maker.expires_at
        if limit is not None and order.expires_at is not None and order.expires_at > limit:
            raise ExpiryBeyondMaker(limit)
        key, text = new_key(order.principal, order.role, created_by, self._now(), id_)
        key = replace(
            key,
            scopes=frozenset(order.scopes),
            expires_at=order.expires_at or limit,
            made_by_key=None if maker is None else maker.key,
        )
        await self.add(key)
        if key.made_by_key is not None:
            # Asked after it is there: who revokes that key with all that it made looks for those
            # after it is revoked, and so has found this one, or it is found out here.
            async with time_limit():
                good: JsonObject = {"_id": key.made_by_key, "revoked_at": None}
                is_good = await self._documents.find_one(good, {"_id": 1}) is not None
            if not is_good:
                await self.revoke(key.id)
                raise Unauthenticated("the key has been revoked", maker)
        return key, text

    async def check_principal(self, name: str) -> None:
        """Raise Unacceptable or PersonGone for an id that nobody can have, StoreUnavailable."""
        check_line("principal", name)
        await self.vault.check_name(name)
        if is_reserved(name):
            raise Unacceptable("reserved_id", f"the id {name} is the server's own")

    async def is_there(self, id_: str) -> bool:
        """Return whether a key has this id, a revoked one too. Raises StoreUnavailable."""
        async with time_limit():
            return await self._documents.find_one({"_id": id_}, {"_id": 1}) is not None

    async def make_first(self, path: Path) -> tuple[str, Path] | None:
        """Make an administrator's key unless one was made so before; return its text and its file.

        It is kept in a file at `path`, or next to it if one is there. The file comes first: a key
        that nobody has would be the only one, and good for nobody. Raises OSError if it cannot be
        kept, and none is made then; StoreUnavailable.
        """
        if await self.is_there(_FIRST):
            return None
        key, text = new_key("admin", "admin", "the first start", self._now(), _FIRST)
        kept = keep_in_file(text, path, self._name)
        try:
            await self.add(key)
        except VersionConflict:  # by another process, meanwhile
            kept.unlink()
            return None
        return text, kept

    async def add(self, key: Key) -> None:
        """Keep a key that has been made. Raises StoreUnavailable, VersionConflict if it is kept."""
        await insert(self._documents, as_document(key))

    async def _find(self, id_: str) -> Key | None:
        """Return a key. Raises StoreUnavailable, UnreadableDocument."""
        async with time_limit():
            document = await self._documents.find_one({"_id": id_})
        return None if document is None else self._reader.one(document)

    async def all_apart(self) -> tuple[list[Key], list[Document]]:
        """Return all keys that can be read, the last made first, and the documents of those that
        cannot. Raises StoreUnavailable.
        """
        async with time_limit():
            found = self._documents.find().sort([("created_at", -1), ("_id", 1)])
            documents = await found.to_list()
        return self._reader.all_apart(documents)

    async def revoke(self, id_: str) -> None:
        """Make a key invalid; one that is so already stays so. One that cannot be read is revoked
        as any other.

        Raises NoSuchKey, StoreUnavailable.
        """
        not_yet: JsonObject = {"_id": id_, "revoked_at": {"$not": {"$type": "date"}}}
        async with time_limit():
            await self._documents.update_one(not_yet, {"$set": {"revoked_at": self._now()}})
        if not await self.is_there(id_):
            raise NoSuchKey
        self._kept.pop(id_, None)

    async def revoke_with_made(self, id_: str) -> list[str]:
        """Make a key invalid, and with it all that was made with it, with those, and so on; return
        the ids of all of them, that key's first.

        Raises NoSuchKey, StoreUnavailable.
        """
        await self.revoke(id_)
        revoked = [id_]
        for maker in revoked:  # each is revoked before it is asked what was made with it
            async with time_limit():
                made = await self._documents.find({"made_by_key": maker}, {"_id": 1}).to_list()
            for each in sorted({str(document["_id"]) for document in made}.difference(revoked)):
                await self.revoke(each)
                revoked.append(each)
        return revoked

    async def forget(self, principal: str) -> None:
        """Revoke a principal's keys, and let none name them."""
        await self._documents.update_many(
            {"principal": principal, "revoked_at": None}, {"$set": {"revoked_at": self._now()}}
        )
        for field in ("created_by", "principal"):
            await self._documents.update_many({field: principal}, {"$set": {field: ERASED}})

    async def names(self) -> set[str]:
        """Return all whose keys there are, and who made them, of keys that cannot be read too."""
        found = self._documents.find({}, {"principal": 1, "created_by": 1})
        return {
            name
            async for document in found
            for field in ("principal", "created_by")
            if isinstance(name := document.get(field), str)
        }

    async def principal(self, text: str) -> Principal:
        """Return whose a key is. Raises Unauthenticated, StoreUnavailable."""
        shown = _KEY.fullmatch(text)
        if shown is None:
            raise Unauthenticated("this is no key: one reads casebook_<id>_<secret>")
        try:
            key = await self._known(shown["id"])
        except UnreadableDocument as error:
            raise Unauthenticated("the key cannot be read by this version of the server") from error
        if key is None or not hmac.compare_digest(key.hash, _hash(shown["secret"])):
            raise Unauthenticated("there is no such key")
        who = Principal(key.principal, key.role, key.scopes, key.id, key.expires_at)
        if key.revoked_at is not None:
            raise Unauthenticated("the key has been revoked", who)
        if key.expires_at is not None and key.expires_at <= self._now():
            raise Unauthenticated("the key has expired", who)
        return who

    def is_kept(self, text: str) -> bool:
        """Return whether a key of this id is known already, so that it is looked up rarely."""
        return text.removeprefix(PREFIX)[: 2 * ID_BYTES] in self._kept

    async def _known(self, id_: str) -> Key | None:
        """Return a key as it was some seconds ago at most; None is always of now."""
        clock = asyncio.get_running_loop().time
        kept = self._kept.get(id_)
        if kept is not None and clock() - kept[0] < KEPT_SECONDS:
            return kept[1]
        began = clock()
        try:
            key = await self._find(id_)
        except StoreUnavailable:
            # Metrics are wanted most when the database is silent; then nothing else is served.
            if kept is not None and clock() - kept[0] < _KEPT_IN_SILENCE_SECONDS:
                return kept[1]
            raise
        if key is None:
            self._kept.pop(id_, None)
        else:
            self._kept[id_] = (began, key)
        return key


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def from_document(document: Document) -> Key:
    scopes = _WORDS.validate_python(document["scopes"], strict=True)
    return _STORED({**document, "scopes": frozenset(scopes) & frozenset(SCOPES)})


def keep_in_file(text: str, path: Path, database: str) -> Path:
    """Write a key where only its owner can read it, and return where.

    Never over a file that is there: it may hold the only key of another database. Raises OSError.
    """
    for name in names_for(path, database):
        if place(name, f"{text}\n".encode()):
            return name
    raise AssertionError("there are names without end")
