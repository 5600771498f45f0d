"""Runs the embedded database for as long as any process uses it: a program of its own.

`embedded.py` starts it with what it needs as JSON on standard input:

    command    the server's words
    log        the file to which the server prints
    lock       descriptor of the lock that the server holds, and this process, while they run
    users      the file that every process which uses the database holds a shared lock on
    tell       descriptor to tell how it went: `listening PORT`, or `stopped CODE`
    url        the file for the server's address, which is `address` with its port; or null

It leaves its parent at once, so it outlives whichever process happened to start it, whatever kills
that one. When nobody holds the users' lock any more, the server is told to stop, and the lock is
kept until it has: a process that comes meanwhile waits. Nothing but the standard library is
imported: this is to start in a moment and to be small.
"""

import _thread
import fcntl
import json
import os
import re
import signal
import sys
import time
from contextlib import suppress
from typing import NoReturn, TypedDict

STOP_SECONDS = 60  # after heavy writing the last checkpoint takes its time
_LOOK_SECONDS = 0.02


class Order(TypedDict):
    """What is to be run, and where."""

    command: list[str]
    log: str
    lock: int
    users: str
    tell: int
    url: str | None
    address: str


def main() -> NoReturn:
    order: Order = json.load(sys.stdin)
    if os.fork():
        os._exit(0)
    os.setsid()
    os.umask(0o077)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number, descriptor in enumerate((nothing, log, log)):
        os.dup2(descriptor, number)
    os.set_inheritable(order["tell"], False)
    os.fchmod(log, 0o600)  # as former versions have not
    # Its process group is told to stop: it ends with the server.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    begin = os.fstat(log).st_size
    server = _start(order["command"])
    os.pwrite(order["lock"], f"{os.getpid():<16}\n".encode(), 0)
    _thread.start_new_thread(_look_after, (order, begin, server))
    _, status = os.waitpid(server, 0)
    _tell(order, f"stopped {os.waitstatus_to_exitcode(status)}")
    os._exit(0)


def _look_after(order: Order, begin: int, server: int) -> None:
    """Tell where the server listens, and stop it when nobody uses it any more."""
    users = os.open(order["users"], os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _listening(order, begin)
    except OSError as error:
        _tell(order, f"its address could not be written: {error.strerror}")
        os.kill(server, signal.SIGKILL)
        return
    fcntl.flock(users, fcntl.LOCK_EX)  # waits for them; kept until this process ends
    if order["url"] is not None:
        with suppress(OSError):
            os.unlink(order["url"])  # noqa: PTH108 pathlib takes its time to be imported
    os.kill(server, signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os.kill(server, signal.SIGKILL)  # its journal has all writes


def _start(command: list[str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.execv(command[0], command)  # noqa: S606 no shell, and fixed words
    finally:
        os._exit(127)


def _listening(order: Order, begin: int) -> None:
    """Wait until the server says where it listens; put that where others find it."""
    while not (found := re.search(rb"listening on 127\.0\.0\.1:(\d+)", _printed(order, begin))):
        time.sleep(_LOOK_SECONDS)
    port = int(found[1])
    url = order["url"]
    if url is not None:
        address = order["address"].replace("PORT", str(port)).encode()
        known = b""
        with suppress(OSError), open(url, "rb") as file:  # noqa: PTH123
            known = file.read()
        if known != address:  # on a full disk nothing could be written, and need not be
            with open(f"{url}.new", "wb") as file:  # noqa: PTH123
                file.write(address)
            os.replace(f"{url}.new", url)  # noqa: PTH105
    _tell(order, f"listening {port}")


def _printed(order: Order, begin: int) -> bytes:
    with open(order["log"], "rb") as file:  # noqa: PTH123
        file.seek(begin)
        return file.read()


def _tell(order: Order, what: str) -> None:
    with suppress(OSError):  # the process that started it may be gone
        os.write(order["tell"], f"{what}\n".encode())


if __name__ == "__main__":
    main()
