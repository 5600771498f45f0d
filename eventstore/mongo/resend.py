"""Sending what was sent, until it is known whether it is written.

When a connection breaks behind a write, nobody knows what becomes of it. Reading does not tell: it
may still be on its way. What can be sent twice without harm, because a unique key lets it in once,
is sent again: then it is written now, or was before; or its key is another's, and it never will be.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

from pymongo.errors import BulkWriteError

from domain.values import JsonObject
from eventstore import failures
from eventstore.failures import OutcomeUnknown, StoreError, StoreUnavailable, VersionConflict
from eventstore.mongo.driver import Collection
from eventstore.mongo.errors import DUPLICATE_KEY, translate_driver_errors

_PAUSE_SECONDS = 0.2


async def send_until_known(
    send: Callable[[], Awaitable[None]],
    is_written: Callable[[], Awaitable[bool | None]],
    *,
    patience_seconds: float | None = None,
    may_meet_itself: bool = False,
) -> None:
    """Send until it is known to be written.

    `is_written` says whether what has the key is what was sent; None if neither can be seen yet.
    It is asked about a conflict behind an unknown outcome; about any if `may_meet_itself`, as where
    the driver sends twice by itself. `patience_seconds`: some tries of what is given up after
    `limits.OPERATION_SECONDS`, unless given.

    Raises VersionConflict if its key is another's, OutcomeUnknown if time is up, and what else
    `send` raises of the first try.
    """
    if patience_seconds is None:
        patience_seconds = failures.PATIENCE_SECONDS
    try:
        async with asyncio.timeout(patience_seconds):
            await _send(send, is_written, may_meet_itself)
    except TimeoutError:
        raise OutcomeUnknown from None


async def _send(
    send: Callable[[], Awaitable[None]],
    is_written: Callable[[], Awaitable[bool | None]],
    may_meet_itself: bool,
) -> None:
    is_unknown = False
    while True:
        try:
            return await send()
        except VersionConflict:
            if not (is_unknown or may_meet_itself):
                raise
            with suppress(StoreUnavailable):
                found = await is_written()
                if found:
                    return None
                if found is False:
                    raise
        except StoreUnavailable:
            is_unknown = True
        except StoreError:  # refused now, which says nothing of what was sent before
            if not is_unknown:
                raise
        await asyncio.sleep(_PAUSE_SECONDS)


async def insert(collection: Collection, document: JsonObject) -> None:
    """Insert a document with an `_id`. Raises VersionConflict if another has that; OutcomeUnknown,
    StoreFailed.
    """

    async def send() -> None:
        with translate_driver_errors():
            await collection.insert_one(document)

    async def is_written() -> bool | None:
        with translate_driver_errors():
            found: Mapping[str, object] | None = await collection.find_one({"_id": document["_id"]})
        return None if found is None else found == document

    await send_until_known(send, is_written)


async def insert_new(collection: Collection, documents: Sequence[JsonObject]) -> bool:
    """Insert those documents whose unique keys are nobody's yet; return whether all were.

    Raises what the driver raises.
    """
    try:
        await collection.insert_many(documents, ordered=False)
    except BulkWriteError as error:
        details = error.details
        if details["writeConcernErrors"] or any(
            each["code"] != DUPLICATE_KEY for each in details["writeErrors"]
        ):
            raise
        return False
    return True
