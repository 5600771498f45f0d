"""A database in memory, for tests of logic: it does what the log and the keys of persons ask for.

`EventStore(MemoryDatabase())` is the real store with group commit, sealing and sending again; the
suite of its contract (tests/eventstore/test_log.py) holds this to the same as the two real drivers.
A query in another form than those of the store raises NotImplementedError: nothing is guessed.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from itertools import count

import bson
from bson.codec_options import CodecOptions
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure

from domain.values import JsonObject
from eventstore.event_document import utc_now
from eventstore.log_identity import LogIdentity
from eventstore.mongo.clock import DatabaseClock
from eventstore.mongo.watchdog import Watchdog
from eventstore.personal.master_keys import MasterKeys
from eventstore.personal.vault import Vault
from eventstore.ticket_numbers import Numbers

_STORED: CodecOptions[JsonObject] = CodecOptions(tz_aware=True, uuid_representation=4)
_DUPLICATE_KEY, _HISTORY_LOST = 11000, 286
Test = Callable[..., bool]
_COMPARED: dict[str, Test] = {
    "$gt": lambda value, other: value > other,
    "$gte": lambda value, other: value >= other,
    "$lt": lambda value, other: value < other,
    "$lte": lambda value, other: value <= other,
}


class MemoryDatabase:
    """One database and its keys. Stores that are made on it share its log."""

    def __init__(self) -> None:
        self._collections, keys = _collections(), _collections()
        self._committing = asyncio.Lock()
        self.watchdog = Watchdog()
        self.clock = DatabaseClock(_now)
        self.vault = _vault(keys, self._collections, self.clock)
        self.identity = _identity(self._collections, self.clock)
        self.numbers = _numbers(self._collections)

    def collection(self, name: str) -> "MemoryCollection":
        return self._collections[name]

    def scan(self, name, condition=None, wanted=None) -> "Found":
        return self._collections[name].find(condition, wanted)

    async def is_router(self) -> bool:
        return False

    async def clear_abandoned_transactions(self) -> None:
        """There are none: a transaction here is over when its task is."""

    async def in_transaction(self, work):
        """Keep what `work` inserts until it has ended, and then store all of it or nothing."""
        async with self._committing:
            session: Session = []
            made = await work(session)
            for collection, document in session:
                collection.check(document)
            for collection, document in session:
                collection.store(document)
            return made

    @asynccontextmanager
    async def watch(self, collection, pipeline, *, resume_after, wait_milliseconds):
        [stage] = pipeline
        yield Stream(collection, stage["$match"], resume_after, wait_milliseconds / 1000)


def _collections() -> "defaultdict[str, MemoryCollection]":
    """Return collections that are there once they are asked for, as a database's are."""
    return defaultdict(MemoryCollection)


def _vault(keys, collections, clock):
    return Vault(keys, collections, MasterKeys.given(), clock.now)


def _numbers(collections):
    return Numbers(collections["ticket_numbers"])


def _identity(collections, clock):
    return LogIdentity(collections, clock.now)


async def _now():
    return utc_now()


class MemoryCollection:
    """Documents in the order of storage, as BSON brings them back, with unique keys."""

    def __init__(self) -> None:
        self.documents: list[JsonObject] = []
        self._unique: dict[tuple[str, ...], set[tuple[object, ...]]] = {("_id",): set()}
        self._indexes: dict[str, JsonObject] = {"_id_": {}}
        self._ids = count()

    async def create_indexes(self, models, **_limits) -> None:
        for model in models:
            index = model.document
            self._indexes[index["name"]] = index
            fields = tuple(index["key"])
            if index.get("unique") and fields not in self._unique:
                self._unique[fields] = {_key(each, fields) for each in self.documents}

    async def index_information(self):
        return self._indexes

    def check(self, document: JsonObject) -> None:
        if any(_key(document, fields) in taken for fields, taken in self._unique.items()):
            raise DuplicateKeyError("a key is taken", _DUPLICATE_KEY)

    def store(self, document: JsonObject) -> None:
        self.check(document)
        for fields, taken in self._unique.items():
            taken.add(_key(document, fields))
        self.documents.append(document)

    async def insert_one(self, document, session=None) -> None:
        await asyncio.sleep(0)  # as by any call to a database, others have a turn
        stored = _as_stored({"_id": next(self._ids), **document})
        if session is None:
            self.store(stored)
        else:
            session.append((self, stored))

    async def insert_many(self, documents, *, ordered=True, session=None) -> None:
        for document in documents:
            bson.encode(document, codec_options=_STORED)  # all can be sent, or nothing is
        failures = []
        for index, document in enumerate(documents):
            try:
                await self.insert_one(document, session)
            except DuplicateKeyError:
                failures.append({"index": index, "code": _DUPLICATE_KEY})
                if ordered:
                    break
        if failures:
            raise BulkWriteError({"writeErrors": failures, "writeConcernErrors": []})

    async def find_one_and_update(self, condition, change, *, return_document) -> JsonObject | None:
        [(operator, numbers)] = change.items()
        if operator != "$inc" or not return_document:
            raise NotImplementedError(change)
        await asyncio.sleep(0)
        found = next((each for each in self.documents if meets(each, condition)), None)
        if found is not None:
            found |= {field: found[field] + n for field, n in numbers.items()}
        return found

    async def find_one(self, condition, wanted=None, *, sort=()) -> JsonObject | None:
        return next(iter(await self.find(condition, wanted, sort=sort).to_list()), None)

    def find(
        self, condition=None, wanted=None, *, sort=None, limit=0, session=None, batch_size=0
    ) -> "Found":
        if session:
            raise NotImplementedError("what a transaction reads of its own writes")
        found = Found(self, condition or {}, wanted, limit)
        for field, direction in sort or ():
            found.sort(field, direction)
        return found

    async def estimated_document_count(self) -> int:
        return len(self.documents)

    async def count_documents(self, condition, **_limits) -> int:
        return len(await self.find(condition).to_list())


Session = list[tuple[MemoryCollection, JsonObject]]


class Found:
    """The documents that meet a condition."""

    def __init__(self, collection: MemoryCollection, condition, wanted, limit: int) -> None:
        self._collection = collection
        self._condition = condition
        self._wanted = wanted
        self._limit = limit
        self._sort: tuple[str, int] | None = None

    def sort(self, field: str, direction: int) -> "Found":
        self._sort = field, direction
        return self

    def limit(self, limit: int) -> "Found":
        self._limit = limit
        return self

    async def to_list(self, length: int | None = None) -> list[JsonObject]:
        await asyncio.sleep(0)
        found = [each for each in self._collection.documents if meets(each, self._condition)]
        if self._sort is not None:
            field, direction = self._sort
            found.sort(key=lambda document: _key(document, (field,)), reverse=direction < 0)
        fields = self._wanted and {name for name, is_shown in self._wanted.items() if is_shown}
        shown = [_as_stored(each) for each in found[: length or self._limit or None]]
        if not fields:
            return shown
        if self._wanted.get("_id", 1):
            fields.add("_id")
        heads = {name.partition(".")[0] for name in fields}
        return [{k: v for k, v in each.items() if k in heads} for each in shown]

    async def __aiter__(self) -> AsyncIterator[JsonObject]:
        for document in await self.to_list():
            yield document


class Stream:
    """A change stream: its tokens count the documents that were there."""

    def __init__(self, collection: MemoryCollection, condition, resume_after, wait_seconds) -> None:
        self._documents = collection.documents
        self._condition = condition
        self._wait_seconds = wait_seconds
        self._at = len(self._documents)
        if resume_after is not None:
            token = resume_after["_data"]
            if not token.startswith("memory-") or int(token.removeprefix("memory-")) > self._at:
                raise OperationFailure("no such token", _HISTORY_LOST)
            self._at = int(token.removeprefix("memory-"))

    @property
    def resume_token(self) -> JsonObject:
        return {"_data": f"memory-{self._at:020d}"}

    async def try_next(self) -> JsonObject | None:
        for is_last_try in (False, True):
            while self._at < len(self._documents):
                document = self._documents[self._at]
                self._at += 1
                change = {"operationType": "insert", "fullDocument": _as_stored(document)}
                if meets(change, self._condition):
                    return {**change, "_id": self.resume_token}
            if not is_last_try:
                await asyncio.sleep(self._wait_seconds)
        return None


def meets(document: Mapping[str, object], condition) -> bool:
    """Whether a document meets a condition, in MongoDB's words."""
    return all(
        any(meets(document, each) for each in wanted)
        if field == "$or"
        else any(_meets(value, wanted) for value in _values(document, field))
        for field, wanted in condition.items()
    )


def _meets(value: object, wanted: object) -> bool:
    if isinstance(value, list):
        return any(_meets(each, wanted) for each in value)
    if not isinstance(wanted, dict):
        return value == wanted
    tests: dict[str, Test] = {**_COMPARED, "$in": _is_in, "$ne": _differs, "$bitsAllSet": _has_bits}
    tests["$bitsAllClear"] = partial(_has_bits, inverted=True)
    for operator, other in wanted.items():
        if operator not in tests:
            raise NotImplementedError(operator)
        # Of what is not there, or of another kind, nothing but an inequality holds.
        is_comparable = operator not in _COMPARED or type(value) is type(other)
        if not is_comparable or not tests[operator](value, other):
            return False
    return True


def _is_in(value, others):
    return value in others


def _differs(value, other):
    return value != other


def _has_bits(value, bits, *, inverted=False):
    """Bits are counted from the first byte's lowest on, as in MongoDB's binary data."""
    number = int.from_bytes(value.bytes, "little")
    return not any(bool(number >> bit & 1) == inverted for bit in bits)


def _values(document: Mapping[str, object], path: str) -> list[object]:
    """What is at a dotted path, of each element where there is an array; None if nothing is."""
    found: list[object] = [document]
    for step in path.split("."):
        found = [
            each[step] if isinstance(each, dict) and step in each else None
            for each in _elements(found)
        ]
    return found or [None]


def _elements(values: list[object]) -> Iterator[object]:
    for value in values:
        if isinstance(value, list):
            yield from value
        else:
            yield value


def _key(document, fields):
    """Return the values of some fields, which can be compared and counted."""
    return tuple(_values(document, field)[0] for field in fields)


def _as_stored(document: JsonObject) -> JsonObject:
    return bson.decode(bson.encode(document, codec_options=_STORED), _STORED)
