"""Numbers for people to say: each is given once, in any process; some are given to nobody.

    ticket_numbers   {_id: "ticket", last}    the last that has been reserved

A process reserves a block of them by one atomic step. What is left of it when the process ends is a
gap, so blocks are as small as the work is: one number, and twice as many each time that a block did
not last for a second.
"""

import asyncio
from typing import NamedTuple

from domain.values import JsonObject
from eventstore.documents import strict_decoder
from eventstore.mongo.driver import Collection, ReturnDocument
from eventstore.mongo.errors import time_limit, translate_driver_errors
from eventstore.mongo.resend import insert_new

COLLECTION = "ticket_numbers"
BEHIND_A_RESTORE = 1_000_000
"""How far behind the highest number of a restored log the next ones are: those between may have
been told to somebody, of tickets that are not in it."""
_SECONDS, _MOST = 1.0, 256
_ID: JsonObject = {"_id": "ticket"}


class Numbers:
    """The numbers of one database's tickets, from 1 on."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._block = iter(range(0))
        self._size = 1
        self._reserved_at = float("-inf")
        self._reserving = asyncio.Lock()

    async def take(self) -> int:
        """Return a number that nobody has been given. Raises StoreError."""
        number = next(self._block, None)
        while number is None:
            async with time_limit(), self._reserving:
                number = next(self._block, None)  # if another task was first
                if number is None:
                    await self._reserve()
                    number = next(self._block, None)
        return number

    async def _reserve(self) -> None:
        now = asyncio.get_running_loop().time()
        lasted = now - self._reserved_at
        self._size = 1 if lasted > _SECONDS else min(2 * self._size, _MOST)
        reserved = await self._increase()
        if reserved is None:
            # Not by an upsert: of two that make the document at once, one may be told nothing.
            await insert_new(self._collection, [{**_ID, "last": 0}])
            reserved = await self._increase()
        last = _RESERVED(reserved or {}).last
        self._block = iter(range(last - self._size + 1, last + 1))
        self._reserved_at = now

    async def _increase(self) -> JsonObject | None:
        found: JsonObject | None = await self._collection.find_one_and_update(
            _ID, {"$inc": {"last": self._size}}, return_document=ReturnDocument.AFTER
        )
        return found

    async def restored(self, highest: int) -> None:
        """Go on far above the highest number of a log that was restored. Raises StoreError."""
        with translate_driver_errors():
            await self._collection.update_one(
                _ID, {"$max": {"last": highest + BEHIND_A_RESTORE}}, upsert=True
            )


class _Reserved(NamedTuple):
    last: int


_RESERVED = strict_decoder(_Reserved, id_field=None)
