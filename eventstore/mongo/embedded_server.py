"""The process of the embedded database: how it is started, whom it lets in, and how it is ended.

`embedded.py` says when; `embedded_guard.py` is the program that runs it.
"""

import asyncio
import fcntl
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote_plus

import orjson
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure, PyMongoError

from domain.errors import CasebookError
from domain.values import JsonObject
from eventstore.key_files import place
from eventstore.mongo import embedded_guard
from eventstore.mongo.embedded_guard import STOP_SECONDS
from eventstore.mongo.ephemeral_certificate import ephemeral_certificate

START_SECONDS = 60  # a server that was killed replays its journal first
_ANSWER_SECONDS = 5.0  # for one answer
_TAIL_LINES = 15
_TAIL_BYTES = 16_384
_FREE_TO_START_BYTES = 96 * 2**20
FREE_TO_RUN_BYTES = 64 * 2**20  # two files of its journal
_USER = "casebook"
_NO_SPACE = re.compile("No space left on device|Disk quota exceeded|File too large")
PANIC = "WT_PANIC"
_NOT_LET_IN = 18
_NOBODY = b" " * 16


def cache_gigabytes(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Return for how many gigabytes of pages the server has room: half of the memory, as MongoDB
    takes, but four at least. `limit`: the file that bounds the memory of a container.

    It takes no more than it has pages for. When a twentieth of the room is taken by pages that were
    changed, it begins to write them out, and in the end the same ones again and again.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):  # without a limit it says "max"
        memory = min(memory, int(limit.read_text()))
    return max(4, memory // 2**31)


class EmbeddedError(CasebookError):
    """The embedded database cannot be had: not installed, in use, or it did not come up."""


def unusable(data_dir: Path, error: OSError) -> EmbeddedError:
    """Return the error of a data folder that cannot be used."""
    reason = error.strerror or str(error)
    return EmbeddedError(
        "data_folder_unusable",
        f"cannot use the data folder {data_dir}: {reason}; choose another with CASEBOOK_DATA_DIR",
    )


def program() -> str:
    """Return the path of the server's program. Raises EmbeddedError if it is not installed."""
    beside_python = Path(sys.executable).parent
    found = shutil.which("secantusd-rs", path=f"{beside_python}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        raise EmbeddedError(
            "embedded_not_installed",
            "the embedded database is not installed: install casebook[embedded], "
            "or name a MongoDB replica set in CASEBOOK_MONGODB_URL",
        )
    return str(Path(found).absolute())


def open_private(path: Path) -> int:
    """Open a file, made for its owner alone if it is not there; return its descriptor."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def try_lock(path: Path) -> int | None:
    """Take a lock and return its descriptor; None if another has it."""
    descriptor = open_private(path)
    if is_free(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def is_free(descriptor: int, how: int = fcntl.LOCK_EX) -> bool:
    """Take or change a lock unless others are in the way; one that was held may be lost then."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Server:
    """The server of a folder, which may be another process's doing."""

    def __init__(self, program: str, folder: Path, *, durable: bool) -> None:
        self._program = program
        self._durable = durable
        self.folder = folder
        self.files = folder / "database"
        self._log_path = folder / "database.log"
        self.lock_path = folder / "database.lock"
        self.url_path = folder / "database.url"
        self.users_path = folder / "database.users"
        self._secret_path = folder / "database.secret"
        self._guarded: asyncio.StreamReader | None = None  # at its end when our guard is

    # --- starting ----------------------------------------------------------------------------

    async def start(self, lock: int, port: int) -> str:
        """Start a server that asks for the password; return its URL. Closes `lock`, which it keeps.

        Raises EmbeddedError.
        """
        try:
            if self.free_bytes() < _FREE_TO_START_BYTES:
                raise self._no_space()
            if place(self._secret_path, secrets.token_urlsafe(32).encode()):
                await self._make_user(lock)
            port = await self._launch(lock, port, self.users_path)
            if not await self._lets_in(lock, port):  # files of another version, or from elsewhere
                await self._end(lock)
                await self._make_user(lock)
                await self._launch(lock, port, self.users_path)
                if not await self._lets_in(lock, port):
                    await self._end(lock)
                    raise EmbeddedError(
                        "database_refuses",
                        f"the embedded database refuses the password {self._secret_path}",
                    )
            return self._url(port)
        except OSError as error:
            raise unusable(self.folder, error) from error
        finally:
            os.close(lock)

    async def _lets_in(self, lock: int, port: int) -> bool:
        """Say whether a server that was just started takes the password.

        Raises EmbeddedError, having ended it, if it does not answer.
        """
        deadline = clock() + START_SECONDS
        while (admits := await self.admits(self._url(port))) is None:
            if clock() > deadline or self._broken():
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
            ephemeral_certificate(certificate)
            mine = open_private(users)  # if this process is killed, the server ends
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
            async with client_of(url) as client:
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
        options += ["--cache-size", f"{cache_gigabytes()}G"]
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
                "url": str(self.url_path) if "--auth" in access else None,
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
            self.send_signal(number)
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

    def address(self) -> str | None:
        try:
            return self.url_path.read_text()
        except OSError:
            return None

    def last_port(self) -> int:
        found = re.search(r"@127\.0\.0\.1:(\d+)/", self.address() or "")
        return int(found[1]) if found else 0

    async def admits(self, url: str) -> bool | None:
        """Say whether a server takes the password at this address; None if it does not answer."""
        try:
            async with client_of(url) as client:
                await client.admin.command("ping")
        except OperationFailure as error:
            return False if error.code == _NOT_LET_IN else None
        except PyMongoError:
            return None
        return True

    def _broken(self) -> bool:
        return PANIC in self._printed(-_TAIL_BYTES)

    def guard(self) -> int | None:
        """Return the process that guards the server that runs, which is its group's id as well."""
        try:
            said = self.lock_path.read_text().strip()
        except OSError:
            return None
        return int(said) if said.isdecimal() else None

    def lost_its_guard(self) -> bool:
        guard = self.guard()
        return guard is not None and not _is_running(guard)

    def send_signal(self, number: signal.Signals) -> None:
        guard = self.guard()
        if guard is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(guard, number)

    def kill(self, *, gently: bool = False) -> None:
        """End a server that is of no use any more; the next process that looks starts it again."""
        lock = try_lock(self.lock_path)
        if lock is None:
            self.send_signal(signal.SIGTERM if gently else signal.SIGKILL)
        else:
            os.close(lock)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free

    def no_space(self, printed: str | None = None) -> bool:
        """Say whether what the server has printed speaks of too little space, or its disk does."""
        if printed is None:
            printed = self._printed(-_TAIL_BYTES)
        return bool(_NO_SPACE.search(printed)) or self.free_bytes() < FREE_TO_RUN_BYTES

    def _no_space(self) -> EmbeddedError:
        return EmbeddedError(
            "no_space_left",
            f"no space left on {self.folder}: the embedded database needs "
            f"{_FREE_TO_START_BYTES // 2**20} MB to start and {FREE_TO_RUN_BYTES // 2**20} to run",
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

    def silent(self) -> EmbeddedError:
        return EmbeddedError(
            "data_folder_in_use",
            f"the database of {self.folder}, which process {self.guard() or 'unknown'} runs, does "
            f"not answer; {self._log_path} may say why",
        )


def client_of(url: str) -> AsyncMongoClient[JsonObject]:
    patience = int(1000 * _ANSWER_SECONDS)
    return AsyncMongoClient(url, serverSelectionTimeoutMS=2000, timeoutMS=patience, maxPoolSize=2)


def clock() -> float:
    return asyncio.get_running_loop().time()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        return False
    return True
