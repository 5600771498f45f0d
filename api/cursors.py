"""Cursors that only this service can have written.

A cursor says where a client is in a list or in the log. It is JSON behind a keyed hash
(HMAC-SHA-256, RFC 2104), so nothing that a client has made up reaches the database. The key is made
by the first process that needs it, and kept in the database for all others.

    secrets   {_id: "cursors", key: 32 bytes}
"""

import base64
import hashlib
import hmac
import secrets
from contextlib import suppress
from typing import Generic, NamedTuple, TypeVar

import orjson
from pydantic import TypeAdapter

from domain.errors import Unacceptable
from domain.values import JsonObject
from eventstore.database import Database
from eventstore.documents import EssentialUnreadable, Reader, UnreadableDocument, strict_decoder
from eventstore.mongo.errors import time_limit
from eventstore.mongo.resend import insert_new

T = TypeVar("T")

COLLECTION = "secrets"
_TAG_BYTES = 16
_KEY_BYTES = 32


class Cursors(Generic[T]):
    """Writes and reads the cursors of one kind of list: no other kind takes them."""

    def __init__(self, database: Database, kind: str, position: type[T]) -> None:
        """`position`: the type of what a cursor says, in JSON."""
        self._secrets = database.collection(COLLECTION)
        self._reader = Reader(database.unreadable, COLLECTION, secret_of)
        self._kind = kind.encode()
        self._positions: TypeAdapter[T] = TypeAdapter(position)
        self._key: bytes | None = None

    async def write(self, position: object) -> str:
        """Return the cursor for a position: JSON values, times and ids.

        Raises StoreUnavailable, EssentialUnreadable.
        """
        content = orjson.dumps(position)
        return _text(self._tag(await self._known_key(), content) + content)

    async def read(self, cursor: str | None) -> T | None:
        """Return the position; None without a cursor.

        Raises Unacceptable, StoreUnavailable, EssentialUnreadable.
        """
        if cursor is None:
            return None
        with suppress(ValueError):
            data = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
            tag, content = data[:_TAG_BYTES], data[_TAG_BYTES:]
            ours = _text(data) == cursor  # the decoder passes over what is no base 64
            if ours and hmac.compare_digest(tag, self._tag(await self._known_key(), content)):
                return self._positions.validate_json(content)
        raise Unacceptable("bad_cursor", "cursor must be one that an answer of this list has given")

    def _tag(self, key: bytes, content: bytes) -> bytes:
        return hmac.digest(key, self._kind + b"\n" + content, hashlib.sha256)[:_TAG_BYTES]

    async def _known_key(self) -> bytes:
        if self._key is None:
            async with time_limit():
                self._key = await self._read_key()
        return self._key

    async def _read_key(self) -> bytes:
        """Read the key, or make it; of several who do so at once all go by the first."""
        while (found := await self._secrets.find_one({"_id": "cursors"})) is None:
            made: JsonObject = {"_id": "cursors", "key": secrets.token_bytes(_KEY_BYTES)}
            await insert_new(self._secrets, [made])
        try:
            return self._reader.one(found).key
        except UnreadableDocument as error:
            raise EssentialUnreadable(COLLECTION, "cursors") from error


class _Stored(NamedTuple):
    key: bytes


secret_of = strict_decoder(_Stored, id_field=None)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
