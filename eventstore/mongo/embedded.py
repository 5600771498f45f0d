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
import re
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import quote_plus

import orjson
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure, PyMongoError

from domain.errors import CasebookError
from domain.values import JsonObject
from eventstore.key_files import place, private_folder
from eventstore.mongo import embedded_guard
from eventstore.mongo.embedded_guard import STOP_SECONDS
from eventstore.mongo.passing_certificate import passing_certificate

_log = logging.getLogger(__name__)

START_SECONDS = 60  # a server that was killed replays its journal first
_LOOK_SECONDS = 0.5
_ASK_SECONDS = 2.0
_ANSWER_SECONDS = 5.0  # for one answer
_SILENT_SECONDS = 120.0  # without any, though it runs: longer than an index takes to be built
_WRONG_ANSWERS = 3  # one after the other, of a kind that need not be the server's end
_AT_ONCE_SECONDS = 5.0  # a server that lives no longer than this has died at once
_PAUSE_SECONDS = 10.0  # at most, before it is started again
_TAIL_LINES = 15
_TAIL_BYTES = 16_384
_FREE_TO_START_BYTES = 96 * 2**20
_FREE_TO_RUN_BYTES = 64 * 2**20  # two files of its journal
_USER = "casebook"
_NO_SPACE = re.compile("No space left on device|Disk quota exceeded|File too large")
_PANIC = "WT_PANIC"
_NOT_LET_IN = 18
_NOBODY = b" " * 16


class EmbeddedError(CasebookError):
    """The embedded database cannot be had: not installed, in use, or it did not come up."""


@asynccontextmanager
async def run(data_dir: Path, *, durable: bool = True) -> AsyncIterator[str]:
    """Use the server of `data_dir`, started if none runs, and give its URL.

    It is stopped when the block is left, unless other processes use it. While it is used, it is
    started again on the same port whenever it ends or fails.
    `durable=False` does not wait for the disk: for tests.
    Raises EmbeddedError if it cannot be started, or does not answer.
    """
    server = _Server(_program(), Path.cwd() / data_dir, durable=durable)
    try:
        private_folder(server.folder)
        private_folder(server.files)
        server.files.chmod(0o700)
        users = await server.join()
    except OSError as error:
        raise _unusable(data_dir, error) from error
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


def _unusable(data_dir: Path, error: OSError) -> EmbeddedError:
    reason = error.strerror or str(error)
    return EmbeddedError(
        "data_folder_unusable",
        f"cannot use the data folder {data_dir}: {reason}; choose another with CASEBOOK_DATA_DIR",
    )


def _program() -> str:
    beside_python = Path(sys.executable).parent
    found = shutil.which("secantusd-rs", path=f"{beside_python}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        raise EmbeddedError(
            "embedded_not_installed",
            "the embedded database is not installed: install casebook[embedded], "
            "or name a MongoDB replica set in CASEBOOK_MONGODB_URL",
        )
    return str(Path(found).absolute())


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _try_lock(path: Path) -> int | None:
    """Take a lock and return its descriptor; None if another has it."""
    descriptor = _open(path)
    if _is_free(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def _is_free(descriptor: int, how: int = fcntl.LOCK_EX) -> bool:
    """Take or change a lock unless others are in the way; one that was held may be lost then."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _Server:
    """The server of a folder, which may be another process's doing."""

    def __init__(self, program: str, folder: Path, *, durable: bool) -> None:
        self._program = program
        self._durable = durable
        self.folder = folder
        self.files = folder / "database"
        self._log_path = folder / "database.log"
        self._lock_path = folder / "database.lock"
        self._url_path = folder / "database.url"
        self._users_path = folder / "database.users"
        self._secret_path = folder / "database.secret"
        self._guarded: asyncio.StreamReader | None = None  # at its end when our guard is

    # --- coming and going --------------------------------------------------------------------

    async def join(self) -> int:
        """Become one of the users of the server, and return the lock that says so.

        While one is being stopped, wait for that. Raises EmbeddedError, OSError.
        """
        users = _open(self._users_path)
        deadline = _clock() + 2 * STOP_SECONDS
        told = False
        while not _is_free(users, fcntl.LOCK_SH):
            if _clock() > deadline:
                os.close(users)
                raise self._silent()
            if not told:
                _log.info("waiting for the database of a former run to stop")
                told = True
            await asyncio.sleep(0.05)
        return users

    async def enter(self, users: int) -> str:
        """Return the URL of the server that runs, started if none does. Raises EmbeddedError."""
        deadline = _clock() + START_SECONDS + STOP_SECONDS
        while True:
            lock = _try_lock(self._lock_path)
            if lock is not None:
                # With other users it has only died: they know where it was.
                return await self._start(lock, 0 if self.is_unused(users) else self._last_port())
            url = self._address()
            if url is not None and "@" not in url:
                raise EmbeddedError(
                    "data_folder_in_use",
                    f"{self.folder} is in use by another version of Casebook (its process "
                    f"{self.guard() or 'is unknown'}); stop that one first",
                )
            if url is not None and await self._admits(url):
                return url
            if _clock() > deadline:
                raise self._silent()
            await asyncio.sleep(0.05)

    def is_unused(self, users: int, *, leaving: bool = False) -> bool:
        """Say whether no other process uses the server; when leaving, none can begin to then."""
        door = os.open(self.files, os.O_RDONLY)
        try:
            # One at a time: to ask is to let go of the lock for a moment.
            fcntl.flock(door, fcntl.LOCK_EX)
            unused = _is_free(users)
            if not leaving:
                fcntl.flock(users, fcntl.LOCK_SH)
        finally:
            os.close(door)
        return unused

    async def stop(self) -> None:
        """Let the server write its last checkpoint and end; nobody may be using it."""
        told: int | None = None
        deadline = _clock() + STOP_SECONDS
        while (lock := _try_lock(self._lock_path)) is None:
            if self.guard() != told:  # it may only just have been started
                told = self.guard()
                self._signal(signal.SIGTERM)
            if _clock() > deadline:
                _log.warning("the database does not stop; killing it (its journal has all writes)")
                self._signal(signal.SIGKILL)
                deadline += STOP_SECONDS
            await asyncio.sleep(0.02)
        self._url_path.unlink(missing_ok=True)
        os.close(lock)

    async def keep_up(self, url: str) -> None:
        """Start the server again whenever it ends or fails, until cancelled."""
        port = int(url.rpartition("@")[2].partition("/")[0].partition(":")[2])
        pause, began, told = 0.0, _clock(), ""
        keeper = _Keeper(self, url)
        try:
            while True:
                await asyncio.sleep(_LOOK_SECONDS)
                try:
                    lock = _try_lock(self._lock_path)
                    if lock is None:
                        await keeper.look()
                        continue
                except OSError as error:  # for example, no descriptor is left
                    _log.warning("cannot look after the database: %s", error)
                    continue
                pause = min(2 * pause or 1.0, _PAUSE_SECONDS)
                if _clock() - began > _AT_ONCE_SECONDS:
                    pause = 0.0
                    if not told:
                        _log.error("the database has stopped; starting it again")
                try:
                    await self._start(lock, port)
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
                began = _clock()
        finally:
            await keeper.close()

    # --- starting ----------------------------------------------------------------------------

    async def _start(self, lock: int, port: int) -> str:
        """Start a server that asks for the password; return its URL. Closes `lock`, which it keeps.

        Raises EmbeddedError.
        """
        try:
            if self.free_bytes() < _FREE_TO_START_BYTES:
                raise self._no_space()
            if place(self._secret_path, secrets.token_urlsafe(32).encode()):
                await self._make_user(lock)
            port = await self._launch(lock, port, self._users_path)
            if not await self._lets_in(lock, port):  # files of another version, or from elsewhere
                await self._end(lock)
                await self._make_user(lock)
                await self._launch(lock, port, self._users_path)
                if not await self._lets_in(lock, port):
                    await self._end(lock)
                    raise EmbeddedError(
                        "database_refuses",
                        f"the embedded database refuses the password {self._secret_path}",
                    )
            return self._url(port)
        except OSError as error:
            raise _unusable(self.folder, error) from error
        finally:
            os.close(lock)

    async def _lets_in(self, lock: int, port: int) -> bool:
        """Say whether a server that was just started takes the password.

        Raises EmbeddedError, having ended it, if it does not answer.
        """
        deadline = _clock() + START_SECONDS
        while (admits := await self._admits(self._url(port))) is None:
            if _clock() > deadline or self._broken():
                await self._end(lock)
                raise self._failure("does not answer", self._printed(-_TAIL_BYTES))
            await asyncio.sleep(0.05)
        return admits

    async def _make_user(self, lock: int) -> None:
        """Make the one user, by a server that only a process with its certificate can talk to.

        Raises EmbeddedError, OSError.
        """
        with tempfile.TemporaryDirectory(prefix="database.setup-", dir=self.folder) as folder:
            certificate, users = Path(folder) / "certificate", Path(folder) / "users"
            passing_certificate(certificate)
            mine = _open(users)  # if this process is killed, the server ends
            try:
                fcntl.flock(mine, fcntl.LOCK_SH)
                options = [f"--tls-{what}-file={certificate}" for what in ("cert", "key", "ca")]
                port = await self._launch(lock, 0, users, [*options, "--tls-require-client-cert"])
                try:
                    await self._make_user_at(port, quote_plus(str(certificate)))
                finally:
                    await self._end(lock)
            finally:
                os.close(mine)

    async def _make_user_at(self, port: int, certificate: str) -> None:
        options = f"tls=true&tlsCAFile={certificate}&tlsCertificateKeyFile={certificate}"
        url = f"mongodb://127.0.0.1:{port}/?retryWrites=false&{options}"
        try:
            async with _client(url) as client:
                with suppress(OperationFailure):  # there is none
                    await client.admin.command({"dropUser": _USER})
                roles = [{"role": "root", "db": "admin"}]
                user = {"createUser": _USER, "pwd": self._secret(), "roles": roles}
                await client.admin.command(user)
        except PyMongoError as error:
            raise EmbeddedError(
                "database_refuses",
                f"the embedded database takes no user: {type(error).__name__}",
            ) from error

    async def _launch(
        self, lock: int, port: int, users: Path, access: Sequence[str] = ("--auth",)
    ) -> int:
        """Start a guard with a server, wait until it listens, and return its port.

        `users`: the file of their lock. `access`: the options that say whom it lets in.
        Raises EmbeddedError, OSError.
        """
        config = self.folder / "database.toml"
        place(config, b"# Left empty: settings are given on the command line.\n")
        options = ["--config", str(config), "--port", str(port), "--storage-path", str(self.files)]
        options += ["--oplog-max-entries", "2000000", "--oplog-retention-seconds", "86400"]
        options += ["--sync-on-commit", "--log-file-max", "32MB"] if self._durable else []
        options += [] if self._durable else ["--log-file-max", "4MB"]
        options += access
        begin = self._log_path.stat().st_size if self._log_path.exists() else 0
        os.pwrite(lock, _NOBODY, 0)
        told, tell = os.pipe()
        try:
            order: embedded_guard.Order = {
                "command": [self._program, *options],
                "log": str(self._log_path),
                "lock": lock,
                "users": str(users),
                "tell": tell,
                "url": str(self._url_path) if "--auth" in access else None,
                "address": self._url("PORT"),
            }
            starting = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                embedded_guard.__file__,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                pass_fds=(lock, tell),
                start_new_session=True,  # Ctrl-C is for the processes that use the server
            )
            await starting.communicate(orjson.dumps(order))
        except BaseException:
            os.close(told)
            raise
        finally:
            os.close(tell)
        what, _, number = (await self._told(told)).partition(" ")
        if what == "listening":
            return int(number)
        if what == "late":
            await self._end(lock)
        printed = self._printed(begin)
        reason = {
            "late": f"did not listen within {START_SECONDS} s",
            "stopped": f"stopped with code {number}",
        }.get(what, f"did not start: {what} {number}".rstrip())
        raise self._failure(reason, printed)

    async def _told(self, descriptor: int) -> str:
        """Return what the guard tells of the start; "late" if that takes too long."""
        reader = self._guarded = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0)
        )
        try:
            async with asyncio.timeout(START_SECONDS):
                return (await reader.readline()).decode().strip()
        except TimeoutError:
            return "late"

    async def _end(self, lock: int) -> None:
        """End the server that was started last, whose lock is ours too."""
        if self._guarded is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._signal(number)
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await self._guarded.read()  # not its process: nobody may have looked after that
                break
        os.pwrite(lock, _NOBODY, 0)

    # --- what is known of it -----------------------------------------------------------------

    def _url(self, port: int | str) -> str:
        # retryWrites: the server's record of retryable writes is lost on a restart, and a write
        # that counts could then be applied twice. Casebook retries by itself, by key.
        options = "authSource=admin&retryWrites=false"
        return f"mongodb://{_USER}:{self._secret()}@127.0.0.1:{port}/?{options}"

    def _secret(self) -> str:
        return self._secret_path.read_text().strip()

    def _address(self) -> str | None:
        try:
            return self._url_path.read_text()
        except OSError:
            return None

    def _last_port(self) -> int:
        found = re.search(r"@127\.0\.0\.1:(\d+)/", self._address() or "")
        return int(found[1]) if found else 0

    async def _admits(self, url: str) -> bool | None:
        """Say whether a server takes the password at this address; None if it does not answer."""
        try:
            async with _client(url) as client:
                await client.admin.command("ping")
        except OperationFailure as error:
            return False if error.code == _NOT_LET_IN else None
        except PyMongoError:
            return None
        return True

    def _broken(self) -> bool:
        return _PANIC in self._printed(-_TAIL_BYTES)

    def guard(self) -> int | None:
        """Return the process that guards the server that runs, which is its group's id as well."""
        try:
            said = self._lock_path.read_text().strip()
        except OSError:
            return None
        return int(said) if said.isdecimal() else None

    def lost_its_guard(self) -> bool:
        guard = self.guard()
        return guard is not None and not _is_running(guard)

    def _signal(self, number: signal.Signals) -> None:
        guard = self.guard()
        if guard is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(guard, number)

    def kill(self, *, gently: bool = False) -> None:
        """End a server that is of no use any more; the next process that looks starts it again."""
        lock = _try_lock(self._lock_path)
        if lock is None:
            self._signal(signal.SIGTERM if gently else signal.SIGKILL)
        else:
            os.close(lock)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free

    def no_space(self, printed: str | None = None) -> bool:
        """Say whether what the server has printed speaks of too little space, or its disk does."""
        if printed is None:
            printed = self._printed(-_TAIL_BYTES)
        return bool(_NO_SPACE.search(printed)) or self.free_bytes() < _FREE_TO_RUN_BYTES

    def _no_space(self) -> EmbeddedError:
        return EmbeddedError(
            "no_space_left",
            f"no space left on {self.folder}: the embedded database needs "
            f"{_FREE_TO_START_BYTES // 2**20} MB to start and {_FREE_TO_RUN_BYTES // 2**20} to run",
        )

    def _printed(self, begin: int) -> str:
        with suppress(OSError), self._log_path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(begin if begin >= 0 else max(0, size + begin))
            return log.read().decode(errors="replace")
        return ""

    def _failure(self, what: str, printed: str) -> EmbeddedError:
        if self.no_space(printed):
            return self._no_space()
        tail = "\n".join(f"    {line}" for line in printed.splitlines()[-_TAIL_LINES:])
        return EmbeddedError(
            "database_did_not_start",
            f"the embedded database {what}; the end of {self._log_path}:\n{tail or '    (empty)'}",
        )

    def _silent(self) -> EmbeddedError:
        return EmbeddedError(
            "data_folder_in_use",
            f"the database of {self.folder}, which process {self.guard() or 'unknown'} runs, does "
            f"not answer; {self._log_path} may say why",
        )


class _Keeper:
    """Looks whether the server answers, and kills one that cannot: one process of all users does.

    A server whose storage has failed answers everything with an error, and goes on like that for
    ever, whatever becomes of its disk.
    """

    def __init__(self, server: _Server, url: str) -> None:
        self._server = server
        self._client = _client(url)
        self._lock: int | None = None
        self._asked = self._answered = _clock()
        self._wrong = 0
        self._given_up: int | None = None
        self._given_up_at = 0.0

    async def look(self) -> None:
        """Ask the server something if it is our turn to. Raises OSError."""
        if self._lock is None:
            self._lock = _try_lock(self._server.folder / "database.keeper")
            self._answered = _clock()
        if self._lock is None:
            return
        if self._server.free_bytes() < _FREE_TO_RUN_BYTES:
            self._give_up("its disk is full", gently=True)
            return
        if _clock() - self._asked < _ASK_SECONDS:
            return
        if self._server.lost_its_guard():
            self._give_up("what stops the database at the end is gone", gently=True)
            return
        try:
            # A question to the storage, of a kind that nothing else asks.
            await self._client.admin.command({"distinct": "answers", "key": "_id"})
        except OperationFailure as error:
            self._wrong += 1
            self._answered = _clock()
            if _PANIC in str(error) or self._wrong >= _WRONG_ANSWERS:
                self._give_up("its storage has failed")
        except PyMongoError:
            if _clock() - self._answered > _SILENT_SECONDS:
                self._give_up(f"it has not answered for {_SILENT_SECONDS:.0f} s")
        else:
            self._wrong, self._answered = 0, _clock()
        self._asked = _clock()

    def _give_up(self, why: str, *, gently: bool = False) -> None:
        self._wrong, self._answered = 0, _clock()
        guard = self._server.guard()
        again = guard == self._given_up
        if gently and again and _clock() - self._given_up_at < STOP_SECONDS:
            return
        where = self._server.folder
        reason = f"no space left on {where}" if self._server.no_space() else why
        _log.error("%s: the database is stopped, and started again as soon as it can", reason)
        self._server.kill(gently=gently and not again)
        self._given_up, self._given_up_at = guard, _clock()

    async def close(self) -> None:
        await self._client.close()
        if self._lock is not None:
            os.close(self._lock)


def _client(url: str) -> AsyncMongoClient[JsonObject]:
    patience = int(1000 * _ANSWER_SECONDS)
    return AsyncMongoClient(url, serverSelectionTimeoutMS=2000, timeoutMS=patience, maxPoolSize=2)


def _clock() -> float:
    return asyncio.get_running_loop().time()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        return False
    return True
