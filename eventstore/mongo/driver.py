"""One door to MongoDB for two drivers: Motor, and PyMongo's own async client.

They share nearly every call. The few that differ (sessions, change streams, closing) are hidden
here, and all other code is written and typed against PyMongo's async API. That Motor's objects
answer to the same calls is what the test suite shows by running on both.

All that is asked has a limit in time, which is set here (`limits.py`).
"""

import asyncio
import logging
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from inspect import isawaitable
from typing import ClassVar, Literal, Self, TypeVar, cast, overload
from urllib.parse import parse_qsl, urlsplit

import bson
import bson.errors
import bson.raw_bson
import pymongo
import pymongo.asynchronous.collection
from bson.binary import UUID_SUBTYPE, Binary, UuidRepresentation
from motor.motor_asyncio import AsyncIOMotorClient
from pydantic import BaseModel, Field
from pymongo import AsyncMongoClient
from pymongo.asynchronous.change_stream import AsyncChangeStream
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.cursor import AsyncCursor
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import (
    ClientBulkWriteException,
    ConfigurationError,
    DuplicateKeyError,
    InvalidURI,
    NetworkTimeout,
    OperationFailure,
    WriteConcernError,
)
from pymongo.read_concern import ReadConcern

from domain.errors import CasebookError
from domain.values import JsonObject
from eventstore.mongo import wait_for
from eventstore.mongo.clock import DatabaseClock
from eventstore.mongo.errors import DUPLICATE_KEY, NOT_ALLOWED
from eventstore.mongo.limits import (
    ANSWER_SECONDS,
    BUILD_SECONDS,
    OPERATION_SECONDS,
    SCAN_SECONDS,
    TRANSACTION_SECONDS,
    until_answered,
)
from eventstore.mongo.transaction import to_its_end, with_transaction
from eventstore.mongo.watchdog import Watchdog

_log = logging.getLogger(__name__)

# What other rooms use of the driver, whichever it is.
BSONError = bson.errors.BSONError
CodecOptions = bson.CodecOptions[JsonObject]
DeleteOne = pymongo.DeleteOne
InsertOne = pymongo.InsertOne
RawBSONDocument = bson.raw_bson.RawBSONDocument
ReplaceOne = pymongo.ReplaceOne
AsyncCollection = pymongo.asynchronous.collection.AsyncCollection
ReturnDocument = pymongo.ReturnDocument
UpdateMany = pymongo.UpdateMany
UpdateOne = pymongo.UpdateOne
_CODEC: CodecOptions = bson.CodecOptions(
    tz_aware=True, uuid_representation=UuidRepresentation.STANDARD
)
encode_bson = partial(bson.encode, codec_options=_CODEC)
decode_bson = partial(bson.decode, codec_options=_CODEC)
"""Documents to bytes and back, as clients that are made here do it."""

DriverName = Literal["motor", "pymongo"]
Session = AsyncClientSession
Collection = AsyncCollection[JsonObject]
Cursor = AsyncCursor[JsonObject]
ChangeStream = AsyncChangeStream[JsonObject]
Namespace = AsyncDatabase[JsonObject]
"""The collections of one name: a deployment has many, and Casebook's log and keys have one each."""
Write = InsertOne[JsonObject] | ReplaceOne[JsonObject] | UpdateOne | UpdateMany | DeleteOne
"""A write that names its collection: `namespace=collection.full_name`."""

T = TypeVar("T")

wait_for.mend()

_DATABASE_NAME = "casebook"  # unless the URL names one
_SERVER_SELECTION_SECONDS = 10
_SCANNED_AT_ONCE = 1000
_OLDEST_WIRE_VERSION = 25  # MongoDB 8.0
_WRITE_CONFLICT = 112
_COMMAND_NOT_FOUND, _COMMAND_NOT_SUPPORTED = 59, 115
_CONSISTENCY = {
    "journal": "true",
    "readConcernLevel": "majority",
    "readPreference": "primary",
    "w": "majority",
}
"""Options of a URL that would have something else be read or promised than what Casebook needs."""
_OF_SECONDARIES = ("readPreferenceTags", "maxStalenessSeconds")


class DatabaseAddressError(CasebookError):
    """The database URL cannot be used: for example `mongo://host`, or an unknown option."""

    def __init__(self, reason: object) -> None:
        super().__init__("bad_database_url", f"cannot use the database URL: {reason}")


class DatabaseTooOld(CasebookError):
    """MongoDB writes to several collections at once since version 8.0."""

    def __init__(self) -> None:
        super().__init__(
            "database_too_old",
            "MongoDB with feature compatibility version 8.0 or later is needed, and this is older",
        )


class DatabaseStandsAlone(CasebookError):
    """Only a replica set or a sharded cluster has transactions and change streams."""

    def __init__(self) -> None:
        super().__init__(
            "database_stands_alone",
            "a replica set or a sharded cluster is needed, and this is a server of neither:"
            " a replica set can have a single member",
        )


@dataclass(slots=True)
class _KeptSession:
    """The session of a user whose transactions come one after the other, once there is one."""

    session: Session | None = None


class _Hello(BaseModel):
    """What a server says of itself."""

    time: datetime = Field(alias="localTime")
    wire_version: int = Field(alias="maxWireVersion")
    set_name: str | None = Field(alias="setName", default=None)
    message: str | None = Field(alias="msg", default=None)

    @property
    def is_router(self) -> bool:
        """Whether it stands before a sharded cluster."""
        return self.message == "isdbgrid"


@dataclass(slots=True)
class _Server:
    """What is known of the server, once it has been asked."""

    is_embedded: bool | None = None
    is_router: bool | None = None


class MongoDatabase:
    """One database of a deployment. Bound to the event loop in which it is first used.

    Writes wait for a majority, on disk; reads see only what a majority has, so that nothing that
    was read, or answered from, can be rolled back in a failover.
    """

    readable: ClassVar[str]
    """A collection that every user may read."""
    writable: ClassVar[str]
    """A collection in which all may write who write anything."""

    def __init__(self, url: str, driver: DriverName = "motor") -> None:
        """Sends nothing yet. Raises DatabaseAddressError if the URL cannot be read, or has an
        option that the driver would pass over with a warning: `tls=yes` would be without TLS.
        """
        try:
            _check_url(url)
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                operation = int(OPERATION_SECONDS * 1000)
                self.client = _client(url, driver, timeoutMS=operation, socketTimeoutMS=operation)
                # It connects when it is used.
                answer = int(ANSWER_SECONDS * 1000)
                self._scans = _client(url, driver, timeoutMS=None, socketTimeoutMS=answer)
        except (ConfigurationError, InvalidURI, UserWarning, ValueError) as error:
            raise DatabaseAddressError(error) from error
        self.name = self.client.get_default_database(_DATABASE_NAME).name
        self.url = url
        self.driver: DriverName = driver
        self.clock = DatabaseClock(self._ask_time)
        """What its events are dated by."""
        self.watchdog = Watchdog()
        """What must get on in this process."""
        self._names: Mapping[str, str] = {}
        self._namespace = self.name  # where those names are
        # Shared by all that `renaming` makes of this one.
        self._kept: _KeptSession | None = None
        self._server = _Server()

    async def _hello(self) -> _Hello:
        admin = self.client.admin
        hello = await admin.command("hello", codec_options=admin.codec_options)
        return _Hello.model_validate(hello)

    async def _ask_time(self) -> datetime:
        return (await self._hello()).time

    def _place(self, name: str) -> tuple[str, str]:
        renamed = self._names.get(name)
        return (self.name, name) if renamed is None else (self._namespace, renamed)

    def collection(self, name: str) -> Collection:
        namespace, name = self._place(name)
        return self.client[namespace][name]

    def scan(
        self,
        name: str,
        condition: Mapping[str, object] | None = None,
        wanted: Mapping[str, object] | None = None,
        codec_options: CodecOptions | None = None,
        *,
        namespace: str | None = None,
    ) -> Cursor:
        """Return all documents of a collection, or as many as there are, in the order of storage.

        That lasts for as long as the next ones come within ANSWER_SECONDS. It can be part of no
        transaction. `namespace`: of another database of the deployment.
        """
        namespace, name = (namespace, name) if namespace else self._place(name)
        collection = self._scans[namespace][name]
        if codec_options is not None:
            collection = collection.with_options(codec_options=codec_options)
        limit = int(SCAN_SECONDS * 1000)
        return collection.find(condition, wanted, batch_size=_SCANNED_AT_ONCE, max_time_ms=limit)

    def renaming(self, names: Mapping[str, str], namespace: str | None = None) -> Self:
        """Return the same database with other collections behind some names.

        `namespace`: the database of the deployment that they are in; this one unless given.
        """
        same = copy(self)
        same._names, same._namespace = names, namespace or self.name  # noqa: SLF001 it is one of us
        return same

    async def collections(self, namespace: str) -> dict[str, str | None]:
        """Return the names of what is really in a database of the deployment; with each database
        view's, what it is a view of.

        None for a collection.
        """
        found: dict[str, str | None] = {}
        async for each in await maybe_await(self.client[namespace].list_collections()):
            if not (name := str(each["name"])).startswith("system."):
                is_view = each.get("type") == "view"
                found[name] = str(each["options"]["viewOn"]) if is_view else None
        return found

    async def drop(self, namespace: str, name: str) -> None:
        """Drop a collection or a view of a database of the deployment, by its real name.

        Not a collection that a transaction may be open in, even one that a killed process has left
        so: the embedded server would wait for its end, and all transactions for the drop. Those
        that have lasted for more than a minute are ended first.
        """
        await self.clear_abandoned_transactions()
        await until_answered(lambda: self.client[namespace].drop_collection(name))

    async def spread(self, name: str) -> None:
        """Have a collection that is empty be spread over the shards of a cluster by the hashes of
        its ids. It stays on one where there is one, or the right to do so is missing.
        """
        collection = self.collection(name)
        if not (await self._hello()).is_router or await collection.find_one({}, {"_id": 1}):
            return
        sharding = {"shardCollection": collection.full_name, "key": {"_id": "hashed"}}
        limit = int(BUILD_SECONDS * 1000)
        try:
            await until_answered(lambda: self.client.admin.command(sharding, maxTimeMS=limit))
        except OperationFailure as error:
            if error.code not in NOT_ALLOWED:
                raise
            _log.warning("%s stays on one shard: this user lacks enableSharding", name)

    async def show(self, namespace: str, name: str, of: str) -> None:
        """Make a database view of a collection beside it, in the place of what had the name."""
        # collMod would do without, and does nothing on the embedded server.
        await self.drop(namespace, name)
        await self.client[namespace].command({"create": name, "viewOn": of, "pipeline": []})

    async def in_transaction(
        self, work: Callable[[Session], Awaitable[T]], *, snapshot: bool = False
    ) -> T:
        """Run `work` in a transaction, again as a whole if the database asks for it.

        `work` passes the session to every call that belongs to the transaction and must be safe to
        run several times. The transaction is always ended: an open one would block others.
        `snapshot`: all that is read is as of one moment, on a sharded cluster too.

        Raises what `work` and `with_transaction` raise.
        """
        concern = ReadConcern("snapshot") if snapshot else None

        def run(session: Session) -> Coroutine[object, object, T]:
            limit = TRANSACTION_SECONDS
            return with_transaction(session, work, seconds=limit, read_concern=concern)

        if self._kept is not None:
            return await to_its_end(run(await self._session(self._kept)))
        session = await maybe_await(self.client.start_session())
        try:
            return await to_its_end(run(session))
        finally:  # leaving a block of Motor's session would stop the event loop meanwhile
            await session.end_session()

    async def write(self, writes: Sequence[Write], session: Session | None = None) -> int:
        """Do writes to any collections, in no order, in one round trip; return how many documents
        they have found or made.

        In a transaction, only behind something that was read in it: the embedded server takes no
        read concern here, which the first question of a transaction has. Raises DuplicateKeyError,
        and what the driver raises.
        """
        if not writes:
            return 0
        try:
            done = await self.client.bulk_write(writes, ordered=False, session=session)
        except ClientBulkWriteException as error:
            raise _of_one_write(error) from None
        return done.inserted_count + done.matched_count + done.upserted_count + done.deleted_count

    def keeping_session(self) -> Self:
        """Return the same database for a user whose transactions come one after the other.

        They are all of one session, whose id others can use to end what it has left open.
        """
        same = copy(self)
        same._kept = _KeptSession()  # noqa: SLF001 it is one of us
        return same

    async def session_id(self) -> bytes | None:
        """Return the id of the session that is kept; None if none is."""
        if self._kept is None:
            return None
        return bytes((await self._session(self._kept)).session_id["id"])

    async def _session(self, kept: _KeptSession) -> Session:
        if kept.session is None:
            kept.session = await maybe_await(self.client.start_session())
        return kept.session

    async def end_session(self) -> None:
        """End the session that is kept, as after a failure; the next transaction starts another."""
        if self._kept is not None and self._kept.session is not None:
            session, self._kept.session = self._kept.session, None
            await session.end_session()

    async def kill_session(self, session_id: bytes) -> None:
        """Abort what a process that died, or was frozen, has left open in its session.

        Otherwise its locks would last until the database ends the transaction, after a minute.
        """
        session = {"id": Binary(session_id, UUID_SUBTYPE)}
        with suppress(OperationFailure):  # it may be gone, or another user's
            await self.client.admin.command("killSessions", [session])

    async def clear_abandoned_transactions(self) -> None:
        """Make the embedded server let go of transactions whose process was killed.

        Like MongoDB, it ends them after a minute; but there, only once another transaction comes
        along. Until then they block writers. MongoDB needs no such help.
        """

        async def look(session: Session) -> None:
            await self.collection(self.readable).find_one({}, {"_id": 1}, session=session)

        if await self.is_embedded():
            await self.in_transaction(look)

    @asynccontextmanager
    async def watch(
        self,
        collection: Collection,
        pipeline: Sequence[Mapping[str, object]],
        *,
        resume_after: Mapping[str, object] | None,
        wait_milliseconds: int,
    ) -> AsyncIterator[ChangeStream]:
        """Open a change stream. It is open when the block is entered."""
        opening = collection.watch(
            pipeline, resume_after=resume_after, max_await_time_ms=wait_milliseconds
        )
        async with await maybe_await(opening) as stream:
            yield stream

    async def server_time(self) -> datetime:
        """Read the database's clock (UTC, milliseconds): the one that all processes share."""
        return await self.clock.measure()

    async def check(self) -> None:
        """See that there is a database that can be used.

        Raises DatabaseAddressError, DatabaseTooOld, DatabaseStandsAlone, and what the driver raises
        if there is none.
        """
        try:
            hello = await self._hello()
        except NetworkTimeout:  # one answer that got lost is no reason not to start
            hello = await self._hello()
        except ConfigurationError as error:  # as where mongodb+srv finds nothing
            raise DatabaseAddressError(error) from error
        if hello.set_name is None and not hello.is_router:
            raise DatabaseStandsAlone
        if hello.wire_version < _OLDEST_WIRE_VERSION:
            raise DatabaseTooOld
        await self._try_bulk_write()
        await self.clock.measure()

    async def _try_bulk_write(self) -> None:
        """Have nothing changed by the command that is taken only since the feature compatibility
        version 8.0, whatever version the server is of. Raises DatabaseTooOld.
        """
        name = self.collection(self.writable).full_name
        try:
            await self.write([UpdateOne({"_id": "none"}, {"$set": {"at": None}}, namespace=name)])
        except OperationFailure as error:
            if error.code in (_COMMAND_NOT_FOUND, _COMMAND_NOT_SUPPORTED):
                raise DatabaseTooOld from error
            if error.code not in NOT_ALLOWED:  # an auditor may write nothing anywhere
                raise

    async def is_embedded(self) -> bool:
        """Say whether this is the embedded server: what it does otherwise is in decision 1."""
        if self._server.is_embedded is None:
            build = await self.client.admin.command("buildInfo")
            self._server.is_embedded = "secantusVersion" in build
        return self._server.is_embedded

    async def is_router(self) -> bool:
        """Say whether this is a router, behind which several shards answer."""
        if self._server.is_router is None:
            self._server.is_router = (await self._hello()).is_router
        return self._server.is_router

    async def close(self) -> None:
        for client in (self._scans, self.client):
            # In a thread: Motor's would stop the event loop until it is answered.
            await maybe_await(await asyncio.to_thread(client.close))


def adding(
    collection: Collection, id_: str, numbers: Mapping[str, int], labels: Mapping[str, str]
) -> Write:
    """Return the write that adds to numbers of a document, which is made with these labels if it is
    not there.
    """
    change = {"$inc": dict(numbers), "$setOnInsert": dict(labels)}
    return UpdateOne({"_id": id_}, change, upsert=True, namespace=collection.full_name)


def _of_one_write(error: ClientBulkWriteException) -> Exception:
    """Return what went wrong as a single write would have raised it, without what was written."""
    if not error.details["writeErrors"]:
        if isinstance(error.error, Exception):
            return error.error
        # Done, but not on a majority in time: it may be taken back in a failover.
        concern: Mapping[str, object] = error.details["writeConcernErrors"][0]
        code = cast("int", concern["code"])
        return WriteConcernError("not confirmed by a majority", code, concern)
    first: Mapping[str, object] = error.details["writeErrors"][0]
    code, message = cast("int", first["code"]), str(first["errmsg"])
    if code == DUPLICATE_KEY:
        return DuplicateKeyError(message, code)
    if code == _WRITE_CONFLICT:
        # The embedded server says so of each write, where MongoDB says so of the command.
        return OperationFailure(message, code, {"errorLabels": ["TransientTransactionError"]})
    return OperationFailure(message, code)


def _check_url(url: str) -> None:
    """Refuse a URL that asks for other reads, or promises, than are given here; or names a
    collection, of which the driver would take what is before the dot.

    Raises DatabaseAddressError, and ValueError if it cannot be read.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("mongodb", "mongodb+srv"):
        raise DatabaseAddressError("it must begin with mongodb:// or mongodb+srv://")
    if "." in parts.path:
        # Unnamed: behind a `/` that is not escaped it is part of a password.
        raise DatabaseAddressError("a database's name has no dot")
    needed = {name.lower(): (name, value) for name, value in _CONSISTENCY.items()}
    needed |= {name.lower(): (name, "") for name in _OF_SECONDARIES}
    for given, value in parse_qsl(parts.query, keep_blank_values=True):
        name, ours = needed.get(given.lower(), (given, value))
        if value.lower() != ours.lower():
            wanted = f"{name}={ours}" if ours else "what the primary has"
            raise DatabaseAddressError(
                f"it asks for {given}={value}, and Casebook needs {wanted}: leave it out"
            )


def _client(url: str, driver: DriverName, **limits: int | None) -> AsyncMongoClient[JsonObject]:
    make: Callable[..., object] = AsyncIOMotorClient if driver == "motor" else AsyncMongoClient
    operation = int(OPERATION_SECONDS * 1000)
    client = make(
        url,
        appname="casebook",
        connectTimeoutMS=operation,
        # No look at a server lasts longer than it is waited for one.
        heartbeatFrequencyMS=operation,
        **_CONSISTENCY,
        serverSelectionTimeoutMS=_SERVER_SELECTION_SECONDS * 1000,
        tz_aware=True,
        uuidRepresentation="standard",
        waitQueueTimeoutMS=operation,
        **limits,
    )
    return cast("AsyncMongoClient[JsonObject]", client)


@overload
async def maybe_await(result: Awaitable[T]) -> T: ...
@overload
async def maybe_await(result: T) -> T: ...
async def maybe_await(result: object) -> object:
    """Wait for what one driver gives at once and the other as an awaitable."""
    return await result if isawaitable(result) else result
