"""Command lines as processes of their own that start at once.

Importing Casebook takes a second, and the tests run two hundred command lines. So each test worker
has one process that has imported all of it and does nothing but fork: each command line runs in
such a copy, as `python -m` would run it, with an environment, output, signals and exit code of its
own. A true start is what `tests/scripts/test_casebook.py` and the soaks test.
"""

import asyncio
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import scripts
from eventstore.gc_tuning import tune_gc
from scripts.openapi import document

ROOT = Path(__file__).parents[1]
_MOST_OUTPUT_BYTES = 1 << 30
_MOST_BYTES = 1 << 20  # of a request: the words and the environment of one command line


class Process:
    """A command line that was started; what is used here of `asyncio.subprocess.Process`."""

    def __init__(
        self,
        pid: int,
        stdout: asyncio.StreamReader,
        stderr: asyncio.StreamReader,
        status: asyncio.StreamReader,
    ) -> None:
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr
        self._ended = asyncio.create_task(self._end(status))

    async def _end(self, status: asyncio.StreamReader) -> int:
        return int(await status.readline())

    @property
    def returncode(self) -> int | None:
        """The exit code, or minus the signal that ended it; None while it runs."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    async def communicate(self) -> tuple[bytes, bytes]:
        """Return all that it still writes to its output and to its errors, once it has ended."""
        out, err = await asyncio.gather(self.stdout.read(), self.stderr.read())
        await self.wait()
        return out, err

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def environment(folder: Path, port: int = 0) -> dict[str, str]:
    """Return the environment of an installation of its own in a folder."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CASEBOOK_")}
    return {**clean, "CASEBOOK_DATA_DIR": str(folder / "data"), "CASEBOOK_PORT": str(port)}


@asynccontextmanager
async def process(*words: str, **environment: str) -> AsyncIterator[Process]:
    """Run a module until the block ends, and kill it then if it still runs."""
    env = {**os.environ, "CASEBOOK_RATE_LIMIT": "1000000/second", **environment}
    started = await script(*words, env=env)
    reading = asyncio.create_task(started.communicate())
    try:
        yield started
    finally:
        started.kill()
        await reading


async def script(*words: str, env: dict[str, str]) -> Process:
    """Start a module with words, as `python -m` does."""
    pipes = [os.pipe() for _ in range(3)]
    request = json.dumps({"words": words, "env": env, "cwd": str(ROOT)}).encode()
    forking, _ = _forking()
    socket.send_fds(forking, [request], [writes for _, writes in pipes])
    for _, writes in pipes:
        os.close(writes)
    out, err, status = [await _reader(reads) for reads, _ in pipes]
    return Process(int(await status.readline()), out, err, status)


@contextmanager
def asked_at(address: str) -> Iterator[None]:
    """Run what other processes ask for at a socket of that path: `forked.py`, for shells."""
    forking, _ = _forking()

    def pass_on() -> None:
        connection, _ = listening.accept()
        with connection:
            request, files, _, _ = socket.recv_fds(connection, _MOST_BYTES, 3)
        socket.send_fds(forking, [request], files)
        for file in files:
            os.close(file)

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(address)
        listening.listen()
        loop = asyncio.get_running_loop()
        loop.add_reader(listening, pass_on)
        try:
            yield
        finally:
            loop.remove_reader(listening)


async def _reader(file: int) -> asyncio.StreamReader:
    # All of it is read, whether a test looks at it or not: a full pipe would stop the process.
    reader = asyncio.StreamReader(limit=_MOST_OUTPUT_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(file, "rb")
    )
    return reader


@cache
def _forking() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start the process that forks. It ends when this one does."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        return ours, subprocess.Popen(
            [sys.executable, "-m", "tests.processes", str(its.fileno())],
            pass_fds=[its.fileno()],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )


def _fork(requests: socket.socket) -> None:
    """Fork for each request; returns in those that have run one."""
    for module in iter_modules(scripts.__path__, "scripts."):
        import_module(module.name)
    document()  # which each server that shows a console would make anew
    tune_gc()  # here, or each copy would look for garbage in all that was imported
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that wait for a command line, below
    while True:
        request, files, _, _ = socket.recv_fds(requests, _MOST_BYTES, 3)
        if not request:
            return
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            *outputs, status = files
            pid = os.fork()
            if pid == 0:
                os.close(status)
                _run(json.loads(request), outputs)
                return
            for file in outputs:
                os.close(file)
            os.write(status, f"{pid}\n".encode())
            _, ended = os.waitpid(pid, 0)
            os.write(status, f"{os.waitstatus_to_exitcode(ended)}\n".encode())
            os._exit(0)
        for file in files:
            os.close(file)


def _run(request: dict[str, object], outputs: list[int]) -> None:
    for number, file in enumerate(outputs, start=1):
        os.dup2(file, number)
        os.close(file)
    words, env, cwd = (request[name] for name in ("words", "env", "cwd"))
    assert isinstance(words, list)
    assert isinstance(env, dict)
    assert isinstance(cwd, str)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = words
    sys.modules.pop(words[0], None)  # it runs as a module that nobody has imported
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _fork(socket.socket(fileno=int(sys.argv[1])))
