"""The embedded database: a bundled MongoDB-compatible server, shared by the processes of a folder.

For trying, developing, testing and small single-machine use. One folder holds everything:

    <data>/database/         the server's files
    <data>/database.toml     its configuration: empty, so that it reads no other
    <data>/database.log      what it prints
    <data>/database.secret   its password, which only the folder's owner can read
    <data>/database.url      where it listens, with the password, while it does
    <data>/database.lock     held (flock) while a server runs; the id of the process that guards it
    <data>/database.users    held, shared, by every process that uses the server
    <data>/database.keeper   held by the one of these that looks whether the server answers

Nobody owns the server. Whichever process comes first starts it, and it runs for as long as any of
them does: a guard of its own (`embedded_guard.py`) stops it when the last one is gone, however that
one ended. Every process looks whether the server is there, and the first to find it gone starts it
again, on the same port. One of them, the keeper, also asks it something now and then, for a server
whose disk was full lives on and refuses everything: it is killed, and started again once there is
space. So that it hardly comes to that, in which the last write may be lost, a server is stopped
while there is some space left. All of this rests on file locks, which the system lets go of
whenever a process ends, in whatever way.

The server asks for a password, for every user of the machine can reach its port, but only the
folder's owner can read the password. It can be given its first user only while it asks for none:
for that moment it asks for a certificate instead, which only the process has that starts it.
"""

import asyncio
import fcntl
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pymongo.errors import OperationFailure, PyMongoError

from eventstore.key_files import private_folder
from eventstore.mongo.embedded_guard import STOP_SECONDS
from eventstore.mongo.embedded_server import (
    FREE_TO_RUN_BYTES,
    PANIC,
    START_SECONDS,
    EmbeddedError,
    Server,
    client_of,
    clock,
    is_free,
    open_private,
    program,
    try_lock,
    unusable,
)

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
_ASK_SECONDS = 2.0
_SILENT_SECONDS = 120.0  # without any, though it runs: longer than an index takes to be built
_WRONG_ANSWERS = 3  # one after the other, of a kind that need not be the server's end
_AT_ONCE_SECONDS = 5.0  # a server that lives no longer than this has died at once
_PAUSE_SECONDS = 10.0  # at most, before it is started again


@asynccontextmanager
async def run(data_dir: Path, *, durable: bool = True) -> AsyncIterator[str]:
    """Use the server of `data_dir`, started if none runs, and give its URL.

    It is stopped when the block is left, unless other processes use it. While it is used, it is
    started again on the same port whenever it ends or fails.
    `durable=False` does not wait for the disk: for tests.
    Raises EmbeddedError if it cannot be started, or does not answer.
    """
    server = _SharedServer(program(), Path.cwd() / data_dir, durable=durable)
    try:
        private_folder(server.folder)
        private_folder(server.files)
        server.files.chmod(0o700)
        users = await server.join()
    except OSError as error:
        raise unusable(data_dir, error) from error
    try:
        url = await server.enter(users)
        keeping = asyncio.create_task(server.keep_up(url))
        try:
            yield url
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
    finally:
        try:
            if server.is_unused(users, leaving=True):
                await server.stop()
        finally:
            os.close(users)


class _SharedServer(Server):
    """The server of a folder with all processes that use it."""

    async def join(self) -> int:
        """Become one of the users of the server, and return the lock that says so.

        While one is being stopped, wait for that. Raises EmbeddedError, OSError.
        """
        users = open_private(self.users_path)
        deadline = clock() + 2 * STOP_SECONDS
        told = False
        while not is_free(users, fcntl.LOCK_SH):
            if clock() > deadline:
                os.close(users)
                raise self.silent()
            if not told:
                _log.info("waiting for the database of a former run to stop")
                told = True
            await asyncio.sleep(0.05)
        return users

    async def enter(self, users: int) -> str:
        """Return the URL of the server that runs, started if none does. Raises EmbeddedError."""
        deadline = clock() + START_SECONDS + STOP_SECONDS
        while True:
            lock = try_lock(self.lock_path)
            if lock is not None:
                # With other users it has only died: they know where it was.
                return await self.start(lock, 0 if self.is_unused(users) else self.last_port())
            url = self.address()
            if url is not None and "@" not in url:
                raise EmbeddedError(
                    "data_folder_in_use",
                    f"{self.folder} is in use by another version of Casebook (its process "
                    f"{self.guard() or 'is unknown'}); stop that one first",
                )
            if url is not None and await self.admits(url):
                return url
            if clock() > deadline:
                raise self.silent()
            await asyncio.sleep(0.05)

    def is_unused(self, users: int, *, leaving: bool = False) -> bool:
        """Say whether no other process uses the server; when leaving, none can begin to then."""
        door = os.open(self.files, os.O_RDONLY)
        try:
            # One at a time: to ask is to let go of the lock for a moment.
            fcntl.flock(door, fcntl.LOCK_EX)
            unused = is_free(users)
            if not leaving:
                fcntl.flock(users, fcntl.LOCK_SH)
        finally:
            os.close(door)
        return unused

    async def stop(self) -> None:
        """Let the server write its last checkpoint and end; nobody may be using it."""
        told: int | None = None
        deadline = clock() + STOP_SECONDS
        while (lock := try_lock(self.lock_path)) is None:
            if self.guard() != told:  # it may only just have been started
                told = self.guard()
                self.send_signal(signal.SIGTERM)
            if clock() > deadline:
                _log.warning("the database does not stop; killing it (its journal has all writes)")
                self.send_signal(signal.SIGKILL)
                deadline += STOP_SECONDS
            await asyncio.sleep(0.02)
        self.url_path.unlink(missing_ok=True)
        os.close(lock)

    async def keep_up(self, url: str) -> None:
        """Start the server again whenever it ends or fails, until cancelled."""
        port = int(url.rpartition("@")[2].partition("/")[0].partition(":")[2])
        pause, began, told = 0.0, clock(), ""
        keeper = _Keeper(self, url)
        try:
            while True:
                await asyncio.sleep(_LOOK_SECONDS)
                try:
                    lock = try_lock(self.lock_path)
                    if lock is None:
                        await keeper.look()
                        continue
                except OSError as error:  # for example, no descriptor is left
                    _log.warning("cannot look after the database: %s", error)
                    continue
                pause = min(2 * pause or 1.0, _PAUSE_SECONDS)
                if clock() - began > _AT_ONCE_SECONDS:
                    pause = 0.0
                    if not told:
                        _log.error("the database has stopped; starting it again")
                try:
                    await self.start(lock, port)
                except EmbeddedError as error:
                    if error.detail != told:
                        _log.error("%s", error.detail)
                    told = error.detail
                    await asyncio.sleep(max(1.0, pause))
                else:
                    if told:
                        _log.info("the database serves again")
                    told = ""
                    await asyncio.sleep(pause)
                began = clock()
        finally:
            await keeper.close()


class _Keeper:
    """Looks whether the server answers, and kills one that cannot: one process of all users does.

    A server whose storage has failed answers everything with an error, and goes on like that for
    ever, whatever becomes of its disk.
    """

    def __init__(self, server: Server, url: str) -> None:
        self._server = server
        self._client = client_of(url)
        self._lock: int | None = None
        self._asked = self._answered = clock()
        self._wrong = 0
        self._given_up: int | None = None
        self._given_up_at = 0.0

    async def look(self) -> None:
        """Ask the server something if it is our turn to. Raises OSError."""
        if self._lock is None:
            self._lock = try_lock(self._server.folder / "database.keeper")
            self._answered = clock()
        if self._lock is None:
            return
        if self._server.free_bytes() < FREE_TO_RUN_BYTES:
            self._give_up("its disk is full", gently=True)
            return
        if clock() - self._asked < _ASK_SECONDS:
            return
        if self._server.lost_its_guard():
            self._give_up("what stops the database at the end is gone", gently=True)
            return
        try:
            # A question to the storage, of a kind that nothing else asks.
            await self._client.admin.command({"distinct": "answers", "key": "_id"})
        except OperationFailure as error:
            self._wrong += 1
            self._answered = clock()
            if PANIC in str(error) or self._wrong >= _WRONG_ANSWERS:
                self._give_up("its storage has failed")
        except PyMongoError:
            if clock() - self._answered > _SILENT_SECONDS:
                self._give_up(f"it has not answered for {_SILENT_SECONDS:.0f} s")
        else:
            self._wrong, self._answered = 0, clock()
        self._asked = clock()

    def _give_up(self, why: str, *, gently: bool = False) -> None:
        self._wrong, self._answered = 0, clock()
        guard = self._server.guard()
        again = guard == self._given_up
        if gently and again and clock() - self._given_up_at < STOP_SECONDS:
            return
        where = self._server.folder
        reason = f"no space left on {where}" if self._server.no_space() else why
        _log.error("%s: the database is stopped, and started again as soon as it can", reason)
        self._server.kill(gently=gently and not again)
        self._given_up, self._given_up_at = guard, clock()

    async def close(self) -> None:
        await self._client.close()
        if self._lock is not None:
            os.close(self._lock)
