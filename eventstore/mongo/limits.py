"""How long what is asked of the database may take: every operation has a limit.

An answer that gets lost on a connection that stays open would be waited for for ever: by a thread
of Motor's, by the one writer of a group commit, by a projector. So an operation ends after
OPERATION_SECONDS: in the process by the drivers' client-side operation timeout (`timeoutMS`), and
on the server by the `maxTimeMS` that it sends along. `MongoDatabase` (`driver.py`) sets that for
all that is asked, and nothing that is added later can go without.

How much is sent at once is bounded here too, for what is too large would not be done in time.

What may take longer says so here: an index, a dropped collection, an exact count; and a cursor over
a whole collection is of a client of its own (`Database.scan`), for which each answer has a limit
and the cursor another.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import orjson
import pymongo
from bson.raw_bson import RawBSONDocument
from pymongo import IndexModel
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import NetworkTimeout

from domain.errors import CasebookError
from domain.values import JsonObject
from eventstore.mongo.errors import NOT_ALLOWED, OperationFailure

T = TypeVar("T")
D = TypeVar("D", bound=Mapping[str, object])
Index = IndexModel
"""An index: its fields in their order, and its options."""

OPERATION_SECONDS = 5.0
"""One try of one operation, the opening of a change stream, and each answer of one."""
TRANSACTION_SECONDS = 2 * OPERATION_SECONDS
"""After which one that fails is not tried again: long enough for one lost answer in it."""
ANSWER_SECONDS = 10.0
"""One answer of a scan, with the next documents."""
SCAN_SECONDS = 24 * 3600.0
"""All that the server does for one cursor over a whole collection."""
BUILD_SECONDS = 24 * 3600.0
"""The indexes of a collection."""
COUNT_SECONDS = 600.0
"""An exact count of a collection. No request waits for one."""
BATCH_BYTES = 8 * 2**20
"""What is sent, or waits in memory, at once: far below the 48 MB of a message, so that it is done
within the time of an operation, whatever a document holds.
"""
_PART = 1_000


def size_of(document: Mapping[str, object]) -> int:
    """Return about how many bytes a document has as it is sent; 0 if JSON has no form for a value.

    It is the length of its JSON, which takes a quarter of the time of BSON. Casebook stores no
    values without a form: of a document that holds one, only the number in a batch is bounded.
    """
    if isinstance(document, RawBSONDocument):
        return len(document.raw)
    try:
        return len(orjson.dumps(document, default=bytes.hex))
    except TypeError:
        return 0


def in_batches(items: Iterable[T], most: int, size: Callable[[T], int]) -> Iterator[list[T]]:
    """Yield what is to be sent together: at most so many of the items, and no more than BATCH_BYTES
    of them unless one alone has more.
    """
    batch: list[T] = []
    room = BATCH_BYTES
    for item in items:
        needed = size(item)
        if batch and (len(batch) == most or needed > room):
            yield batch
            batch, room = [], BATCH_BYTES
        batch.append(item)
        room -= needed
    if batch:
        yield batch


class IndexMissing(CasebookError):
    """Only an administrator can make an index: for example one of the log that a version adds."""

    def __init__(self, collection: str) -> None:
        super().__init__(
            "index_missing",
            f"{collection} lacks an index that this database user may not make: run"
            " `casebook migrate` with an administrator's URL",
        )


async def count(collection: AsyncCollection[D]) -> int:
    """Count all documents of a collection. Raises what the driver raises."""
    with pymongo.timeout(COUNT_SECONDS):
        return await collection.count_documents({})


async def make_indexes(collection: AsyncCollection[D], *indexes: Index) -> None:
    """Make those indexes that are not there; with many documents that takes long.

    They are asked for at once: the database reads the documents once for all of them. Raises
    IndexMissing, and what the driver raises.
    """
    limit = int(BUILD_SECONDS * 1000)
    try:
        await until_answered(lambda: collection.create_indexes([*indexes], maxTimeMS=limit))
    except OperationFailure as error:
        if error.code in NOT_ALLOWED:
            raise IndexMissing(collection.name) from error
        raise


async def in_parts(
    collection: AsyncCollection[D], which: Mapping[str, object], change: JsonObject | None = None
) -> int:
    """Change documents, or delete them without `change`, as many at once as an operation may take.

    What has been changed must not be `which` any more. Returns how many were changed or deleted.
    Raises what the driver raises.
    """
    done = 0
    while found := await collection.find(which, {"_id": 1}).limit(_PART).to_list():
        part = {**which, "_id": {"$in": [each["_id"] for each in found]}}
        if change is None:
            done += (await collection.delete_many(part)).deleted_count
        else:
            done += (await collection.update_many(part, change)).modified_count
    return done


async def until_answered(send: Callable[[], Awaitable[T]]) -> T:
    """Send what may take long, and may be done twice, until it is answered.

    An answer that got lost and one that takes its time cannot be told from each other. So after
    OPERATION_SECONDS it is sent again, and waits in the database for what is under way there.
    Raises what the driver raises.
    """
    clock = asyncio.get_running_loop().time
    began = clock()
    while True:
        try:
            # Zero: the socket's limit holds, which is OPERATION_SECONDS, and the work goes on.
            with pymongo.timeout(0):
                return await send()
        except NetworkTimeout:
            if clock() - began > BUILD_SECONDS:
                raise
