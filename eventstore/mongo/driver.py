"""One door to MongoDB for two drivers: Motor, and PyMongo's own async client.

They share nearly every call. The few that differ (sessions, change streams, closing) are hidden
here, and all other code is written and typed against PyMongo's async API. That Motor's objects
answer to the same calls is what the test suite shows by running on both.

All that is asked has a limit in time, which is set here (`limits.py`).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from inspect import isawaitable
from typing import Literal, TypeVar, cast, overload

from bson import CodecOptions
from bson.binary import UUID_SUBTYPE, Binary
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient, DeleteOne, InsertOne, ReplaceOne, UpdateMany, UpdateOne
from pymongo.asynchronous.change_stream import AsyncChangeStream
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.cursor import AsyncCursor
from pymongo.errors import (
    ClientBulkWriteException,
    ConfigurationError,
    DuplicateKeyError,
    InvalidURI,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
)
from pymongo.read_concern import ReadConcern

from domain.errors import CasebookError
from domain.values import JsonObject
from eventstore.background import Supervisor
from eventstore.documents import Unreadable
from eventstore.limits import (
    ANSWER_SECONDS,
    OPERATION_SECONDS,
    SCAN_SECONDS,
    TRANSACTION_SECONDS,
    until_answered,
)
from eventstore.log_identity import LogIdentity
from eventstore.mongo.clock import DatabaseClock
from eventstore.mongo.progress import Progresses
from eventstore.personal.master_keys import MasterKeys
from eventstore.personal.vault import Vault, keys_of

DriverName = Literal["motor", "pymongo"]
Session = AsyncClientSession
Collection = AsyncCollection[JsonObject]
Write = InsertOne[JsonObject] | ReplaceOne[JsonObject] | UpdateOne | UpdateMany | DeleteOne
"""A write that names its collection: `namespace=collection.full_name`."""

T = TypeVar("T")

_DATABASE_NAME = "casebook"  # unless the URL names one
_SERVER_SELECTION_SECONDS = 10
_ENDING_SECONDS = OPERATION_SECONDS
_SCANNED_AT_ONCE = 1000
_OLDEST_WIRE_VERSION = 25  # MongoDB 8.0
_DUPLICATE_KEY, _WRITE_CONFLICT = 11000, 112


class DatabaseAddressError(CasebookError):
    """The database URL cannot be used: for example `mongo://host`, or an unknown option."""


class DatabaseTooOld(CasebookError):
    """MongoDB writes to several collections at once since version 8.0."""

    def __init__(self) -> None:
        super().__init__("database_too_old", "MongoDB 8.0 or later is needed, and this is older")


@dataclass(slots=True)
class _Kept:
    """The session of one who does one transaction after the other."""

    session: Session | None = None


@dataclass(slots=True)
class _Server:
    """What is known of the server, once it has been asked."""

    is_embedded: bool | None = None


@dataclass(frozen=True, slots=True)
class Database:
    """A connected database. Bound to the event loop in which it is first used.

    `vault`: the keys of the persons whose words are in it. `clock`: what its events are dated by.
    `identity`: which log is in it. `unreadable`: what this process could not read of it.
    """

    client: AsyncMongoClient[JsonObject]
    name: str
    url: str = field(repr=False)  # a password is in it
    driver: DriverName
    masters: MasterKeys | None = field(repr=False)
    _scans: AsyncMongoClient[JsonObject] = field(repr=False, compare=False)
    vault: Vault = field(repr=False, compare=False)
    clock: DatabaseClock = field(repr=False, compare=False)
    identity: LogIdentity = field(repr=False, compare=False)
    progresses: Progresses = field(default_factory=Progresses, repr=False, compare=False)
    """What must get on in this process."""
    supervisor: Supervisor = field(default_factory=Supervisor, repr=False, compare=False)
    """What does this process's background work."""
    unreadable: Unreadable = field(default_factory=Unreadable, repr=False, compare=False)
    _server: _Server = field(default_factory=_Server, compare=False)
    _kept: _Kept | None = None
    _names: Mapping[str, str] = field(default_factory=dict)

    def collection(self, name: str) -> Collection:
        return self.client[self.name][self._names.get(name, name)]

    def scan(
        self,
        name: str,
        condition: Mapping[str, object] | None = None,
        wanted: Mapping[str, object] | None = None,
        codec_options: "CodecOptions[JsonObject] | None" = None,
        *,
        of_keys: bool = False,
    ) -> AsyncCursor[JsonObject]:
        """Return all documents of a collection, or as many as there are, in the order of storage.

        That lasts for as long as the next ones come within ANSWER_SECONDS. It can be part of no
        transaction. `of_keys`: of the database of the keys of persons.
        """
        database = keys_of(self.name) if of_keys else self.name
        collection = self._scans[database][self._names.get(name, name)]
        if codec_options is not None:
            collection = collection.with_options(codec_options=codec_options)
        return _all_of(collection, condition, wanted)

    def renaming(self, names: Mapping[str, str]) -> "Database":
        """Return the same database with other collections behind some names."""
        return replace(self, _names=names)

    async def collections(self) -> dict[str, str | None]:
        """Return the names of what is really there; with each database view's, what it is a view
        of.

        None for a collection.
        """
        found: dict[str, str | None] = {}
        async for each in await settled(self.client[self.name].list_collections()):
            name, options = str(each["name"]), cast("JsonObject", each.get("options") or {})
            if not name.startswith("system."):
                of = options.get("viewOn") if each.get("type") == "view" else None
                found[name] = None if of is None else str(of)
        return found

    async def drop(self, name: str) -> None:
        """Drop a collection or a view by its real name.

        Not a collection that a transaction may be open in, even one that a killed process has left
        so: the embedded server would wait for its end, and all transactions for the drop. Those
        that have lasted for more than a minute are ended first.
        """
        await self.clear_abandoned_transactions()
        await until_answered(lambda: self.client[self.name].drop_collection(name))

    async def show(self, name: str, of: str) -> None:
        """Make a database view of a collection, in the place of one that had the name."""
        await self.drop(name)  # collMod would do without, and does nothing on the embedded server
        await self.client[self.name].command({"create": name, "viewOn": of, "pipeline": []})

    async def in_transaction(
        self, work: Callable[[Session], Awaitable[T]], *, snapshot: bool = False
    ) -> T:
        """Run `work` in a transaction, again as a whole if the database asks for it.

        `work` passes the session to every call that belongs to the transaction and must be safe to
        run several times. The transaction is always ended: an open one would block others.
        `snapshot`: all that is read is as of one moment, on a sharded cluster too.

        Raises NetworkTimeout if it was begun again and again for too long; nothing is written then.
        """
        clock = asyncio.get_running_loop().time
        began = clock()

        async def limited(session: Session) -> T:
            try:
                return await work(session)
            except PyMongoError as error:
                again = error.has_error_label("TransientTransactionError")
                if again and clock() - began > TRANSACTION_SECONDS:  # the drivers': two minutes
                    raise NetworkTimeout(
                        f"the transaction does not come to its end: {error}"
                    ) from error
                raise

        concern = ReadConcern("snapshot") if snapshot else None
        if self._kept is not None:
            session = await self._session(self._kept)
            return await _to_its_end(session.with_transaction(limited, read_concern=concern))
        session = await settled(self.client.start_session())
        try:
            return await _to_its_end(session.with_transaction(limited, read_concern=concern))
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

    def keeping_session(self) -> "Database":
        """Return the same database for one whose transactions come one after the other.

        They are all of one session, whose id others can use to end what it has left open.
        """
        return replace(self, _kept=_Kept())

    async def session_id(self) -> bytes | None:
        """Return the id of the session that is kept; None if none is."""
        if self._kept is None:
            return None
        return bytes(cast("bytes", (await self._session(self._kept)).session_id["id"]))

    async def _session(self, kept: _Kept) -> Session:
        if kept.session is None:
            kept.session = await settled(self.client.start_session())
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
        along. Until then they block writers. MongoDB needs no such help, and is not harmed by it.
        """

        async def look(session: Session) -> None:
            await self.collection("projections").find_one({}, {"_id": 1}, session=session)

        await self.in_transaction(look)

    @asynccontextmanager
    async def watch(
        self,
        collection: Collection,
        pipeline: Sequence[Mapping[str, object]],
        *,
        resume_after: Mapping[str, object] | None,
        wait_milliseconds: int,
    ) -> AsyncIterator[AsyncChangeStream[JsonObject]]:
        """Open a change stream. It is open when the block is entered."""
        opening = collection.watch(
            pipeline, resume_after=resume_after, max_await_time_ms=wait_milliseconds
        )
        async with await settled(opening) as stream:
            yield stream

    async def server_time(self) -> datetime:
        """Read the database's clock (UTC, milliseconds): the one that all processes share."""
        return await self.clock.measure()

    async def check(self) -> None:
        """See that there is a database that can be used. Raises DatabaseTooOld, and what the driver
        raises if there is none.
        """
        try:
            hello = await self.client.admin.command("hello")
        except NetworkTimeout:  # one answer that got lost is no reason not to start
            hello = await self.client.admin.command("hello")
        if cast("int", hello["maxWireVersion"]) < _OLDEST_WIRE_VERSION:
            raise DatabaseTooOld
        await self.clock.measure()

    async def is_embedded(self) -> bool:
        """Say whether this is the embedded server: what it does otherwise is in decision 1."""
        if self._server.is_embedded is None:
            told = await self.client.admin.command("buildInfo")
            self._server.is_embedded = "secantusVersion" in told
        return self._server.is_embedded

    async def close(self) -> None:
        for client in (self._scans, self.client):
            # In a thread: Motor's would stop the event loop until it is answered.
            await settled(await asyncio.to_thread(client.close))


def adding(
    collection: Collection, id_: str, numbers: Mapping[str, int], labels: Mapping[str, str]
) -> Write:
    """Return the write that adds to numbers of a document, which is made with these labels if it is
    not there.
    """
    change = {"$inc": dict(numbers), "$setOnInsert": dict(labels)}
    return UpdateOne({"_id": id_}, change, upsert=True, namespace=collection.full_name)


def _all_of(
    collection: Collection,
    condition: Mapping[str, object] | None,
    wanted: Mapping[str, object] | None = None,
) -> AsyncCursor[JsonObject]:
    """Return documents for as long as the next ones come, by the scanning client."""
    limit = int(SCAN_SECONDS * 1000)
    return collection.find(condition, wanted, batch_size=_SCANNED_AT_ONCE, max_time_ms=limit)


def _of_one_write(error: ClientBulkWriteException) -> Exception:
    """Return what went wrong as a single write would have raised it, without what was written."""
    if not error.details["writeErrors"]:
        return error.error if isinstance(error.error, Exception) else error
    first: Mapping[str, object] = error.details["writeErrors"][0]
    code, message = cast("int", first["code"]), str(first["errmsg"])
    if code == _DUPLICATE_KEY:
        return DuplicateKeyError(message, code)
    if code == _WRITE_CONFLICT:
        # The embedded server says so of each write, where MongoDB says so of the command.
        return OperationFailure(message, code, {"errorLabels": ["TransientTransactionError"]})
    return OperationFailure(message, code)


def connect(url: str, driver: DriverName = "motor", masters: MasterKeys | None = None) -> Database:
    """Return a database for `url`; nothing is sent yet.

    The keys of persons are in another (`keys_of`). `masters`: what wraps them;
    what the environment gives unless given here.

    Writes wait for a majority, on disk; reads see only what a majority has, so that nothing that
    was read, or answered from, can be rolled back in a failover.

    Raises DatabaseAddressError if the URL cannot be read.
    """
    make: Callable[..., object] = AsyncIOMotorClient if driver == "motor" else AsyncMongoClient
    operation, answer = int(OPERATION_SECONDS * 1000), int(ANSWER_SECONDS * 1000)

    def made(**limits: int | None) -> "AsyncMongoClient[JsonObject]":
        client = make(
            url,
            appname="casebook",
            connectTimeoutMS=operation,
            heartbeatFrequencyMS=operation,
            journal=True,
            readConcernLevel="majority",
            serverSelectionTimeoutMS=_SERVER_SELECTION_SECONDS * 1000,
            tz_aware=True,
            uuidRepresentation="standard",
            w="majority",
            waitQueueTimeoutMS=operation,
            **limits,
        )
        return cast("AsyncMongoClient[JsonObject]", client)

    try:
        client = made(timeoutMS=operation, socketTimeoutMS=operation)
        scans = made(timeoutMS=None, socketTimeoutMS=answer)  # it connects when it is used
    except (ConfigurationError, InvalidURI, ValueError) as error:
        raise DatabaseAddressError(
            "bad_database_url", f"cannot use the database URL: {error}"
        ) from error
    name = client.get_default_database(_DATABASE_NAME).name
    masters = masters or MasterKeys.given()
    admin = client.admin

    async def ask_time() -> datetime:
        hello = await admin.command("hello", codec_options=admin.codec_options)
        return cast("datetime", hello["localTime"])

    def scan_keys(of: str, condition: JsonObject) -> AsyncCursor[JsonObject]:
        return _all_of(scans[keys_of(name)][of], condition)

    clock, unreadable = DatabaseClock(ask_time), Unreadable()
    vault = Vault(client[keys_of(name)], client[name], masters, clock.now, unreadable, scan_keys)
    supervisor = Supervisor()
    identity = LogIdentity(client[name], clock.now, supervisor)
    return Database(
        client,
        name,
        url,
        driver,
        masters,
        scans,
        vault,
        clock,
        identity,
        supervisor=supervisor,
        unreadable=unreadable,
    )


async def _to_its_end(transaction: Coroutine[object, object, T]) -> T:
    """Run a transaction; who is cancelled meanwhile waits for its end.

    Cut off in the middle of a call, it would be aborted before that call arrives, which would then
    begin it anew: and its locks would last until the database ends it, after a minute.
    """
    running = asyncio.ensure_future(transaction)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        clock = asyncio.get_running_loop().time
        until = clock() + _ENDING_SECONDS
        while not running.done() and (left := until - clock()) > 0:
            with suppress(asyncio.CancelledError):  # who is cancelled again waits all the same
                await asyncio.wait([running], timeout=left)
        running.cancel()
        raise


@overload
async def settled(result: Awaitable[T]) -> T: ...
@overload
async def settled(result: T) -> T: ...
async def settled(result: object) -> object:
    """Wait for what one driver gives at once and the other as an awaitable."""
    return await result if isawaitable(result) else result
