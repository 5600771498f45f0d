"""The embedded database: a bundled MongoDB-compatible server run as a child process.

For trying, developing, testing and small single-machine use. One folder holds everything:

    <data>/database/        the server's files
    <data>/database.toml    its configuration: empty, so that it reads no other
    <data>/database.log     what it prints
    <data>/database.lock    held (flock) for as long as a server uses the folder; who started it
    <data>/database.url     where it listens, while it does

A small shell stands between us and the server: it reads a pipe that only we hold open, so that the
server is told to stop even if we are killed, and it inherits the lock, so that the lock lasts until
the server's last byte is written. The server gets a session of its own: Ctrl-C reaches Casebook,
which then stops the server when it no longer needs it.
"""

import asyncio
import fcntl
import logging
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from domain.errors import CasebookError

_log = logging.getLogger(__name__)

START_SECONDS = 60  # a server that was killed replays its journal first
STOP_SECONDS = 60  # after heavy writing the last checkpoint takes its time
_TAIL_LINES = 15
_AT_ONCE_SECONDS = 1.0  # a server that lives no longer than this has died at once
_PAUSE_SECONDS = 10.0  # at most, before it is started again

_SHELL = """
exec 3<&0
"$@" </dev/null 3<&- &
server=$!
{ read -r _ <&3; kill -TERM "$server"; } 2>/dev/null &
wait "$server"
code=$?
kill $! 2>/dev/null
exit "$code"
"""


class EmbeddedError(CasebookError):
    """The embedded database cannot be had: not installed, in use, or it did not come up."""


class InUse(EmbeddedError):
    """Another process runs the database on this folder. `url` says where, once it listens."""

    def __init__(self, data_dir: Path, owner: str, url: str | None) -> None:
        super().__init__(
            "data_folder_in_use",
            f"{data_dir} is in use by process {owner or 'unknown'}; stop that one first, "
            "or choose another folder with CASEBOOK_DATA_DIR",
        )
        self.url = url


@asynccontextmanager
async def run(data_dir: Path, *, durable: bool = True) -> AsyncIterator[str]:
    """Run a server on `data_dir` and give its URL; it is stopped when the block is left.

    A server that dies is started again on the same port.
    `durable=False` does not wait for the disk: for tests.
    Raises InUse if another process runs one there, EmbeddedError if it cannot be started.
    """
    program = _program()
    (data_dir / "database").mkdir(parents=True, exist_ok=True)
    lock = await _lock(data_dir)
    address = data_dir / "database.url"
    try:
        server = _Server(program, data_dir, lock, durable=durable)
        await server.start()
        address.write_text(server.url)
        keeper = asyncio.create_task(server.keep_up())
        try:
            yield server.url
        finally:
            address.unlink(missing_ok=True)
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper
            await server.stop()
    finally:
        os.close(lock)


def listens_at(data_dir: Path) -> str | None:
    """Give the URL of the server that runs on `data_dir`, if one does."""
    try:
        return (data_dir / "database.url").read_text()
    except OSError:
        return None


def _program() -> str:
    beside_python = Path(sys.executable).parent
    found = shutil.which("secantusd-rs", path=f"{beside_python}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        raise EmbeddedError(
            "embedded_not_installed",
            "the embedded database is not installed: install casebook[embedded], "
            "or name a MongoDB replica set in CASEBOOK_MONGODB_URL",
        )
    return found


async def _lock(data_dir: Path) -> int:
    """Take the folder's lock and give its file descriptor. Raises InUse.

    If the process that started the server is gone, the server is about to stop: wait for that.
    """
    path = data_dir / "database.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = asyncio.get_running_loop().time() + STOP_SECONDS
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode().strip()
            if _is_running(owner) or asyncio.get_running_loop().time() > deadline:
                os.close(descriptor)
                with suppress(FileNotFoundError):
                    raise InUse(data_dir, owner, (data_dir / "database.url").read_text()) from None
                raise InUse(data_dir, owner, None) from None
            if not told:
                _log.info("waiting for the database of a former run to stop")
                told = True
            await asyncio.sleep(0.1)
        else:
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            return descriptor


def _is_running(pid: str) -> bool:
    if not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class _Server:
    def __init__(self, program: str, data_dir: Path, lock: int, *, durable: bool) -> None:
        self._program = program
        self._data_dir = data_dir
        self._lock = lock
        self._durable = durable
        self._port = 0  # the system's choice at first, then kept over restarts
        self._log_path = data_dir / "database.log"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        # retryWrites: the server's record of retryable writes is lost on a restart, and a write
        # that counts could then be applied twice. Casebook retries by itself, by key.
        return f"mongodb://127.0.0.1:{self._port}/?retryWrites=false"

    async def start(self) -> None:
        """Start the server and wait until it listens. Raises EmbeddedError."""
        config = self._data_dir / "database.toml"
        config.write_text("# Left empty: settings are given on the command line.\n")
        options = ["--config", str(config), "--port", str(self._port)]
        options += ["--storage-path", str(self._data_dir / "database")]
        options += ["--oplog-max-entries", "2000000", "--oplog-retention-seconds", "86400"]
        if self._durable:
            options += ["--sync-on-commit", "--log-file-max", "32MB"]
        else:
            options += ["--log-file-max", "4MB"]
        with self._log_path.open("ab") as log:
            begin = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                "/bin/sh",
                "-c",
                _SHELL,
                "database",
                self._program,
                *options,
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(self._lock,),
                start_new_session=True,
            )
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while True:
            printed = self._printed(begin)
            if listening := re.search(r"listening on 127\.0\.0\.1:(\d+)", printed):
                self._port = int(listening[1])
                return
            if self._process.returncode is not None:
                raise self._failure(f"stopped with code {self._process.returncode}", printed)
            if asyncio.get_running_loop().time() > deadline:
                await self.stop()
                raise self._failure(f"did not listen within {START_SECONDS} s", printed)
            await asyncio.sleep(0.02)

    async def keep_up(self) -> None:
        """Start the server again whenever it dies, until cancelled; slower if it dies at once."""
        clock = asyncio.get_running_loop().time
        pause = 0.0
        while self._process is not None:
            began = clock()
            code = await self._process.wait()
            pause = 0.0 if clock() - began > _AT_ONCE_SECONDS else min(pause + 1, _PAUSE_SECONDS)
            _log.error("the database stopped with code %s; starting it again", code)
            await asyncio.sleep(pause)
            try:
                await self.start()
            except EmbeddedError as error:
                _log.error("%s", error.detail)

    async def stop(self) -> None:
        """Let the server write its last checkpoint and end."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            _log.warning("the database does not stop; killing it (its journal keeps all writes)")
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    def _printed(self, begin: int) -> str:
        with self._log_path.open("rb") as log:
            log.seek(begin)
            return log.read().decode(errors="replace")

    def _failure(self, what: str, printed: str) -> EmbeddedError:
        tail = "\n".join(f"    {line}" for line in printed.splitlines()[-_TAIL_LINES:])
        return EmbeddedError(
            "database_did_not_start",
            f"the embedded database {what}; the end of {self._log_path}:\n{tail or '    (empty)'}",
        )
