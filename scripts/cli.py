"""What all command lines share: the database, progress, one-line errors, a clean end on Ctrl-C."""

import argparse
import asyncio
import logging
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import orjson
import uvloop
from prometheus_client import start_http_server
from pydantic import ValidationError
from pymongo.errors import ConnectionFailure, ExecutionTimeout, PyMongoError
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from api.settings import Settings, is_loopback
from domain.errors import CasebookError
from eventstore.background import background
from eventstore.database import Database
from eventstore.gc_tuning import tune_gc
from eventstore.key_files import KeyUnusable, place
from eventstore.mongo import embedded
from eventstore.mongo.errors import describe
from eventstore.personal.master_keys import MasterKeys, new_master_key
from scripts.commands import fail, parse
from scripts.log_output import log_to_stderr

T = TypeVar("T")
Main = Callable[[argparse.Namespace], Coroutine[None, None, int]]

screen = Console()

_INTERRUPTED = 130
_NOT_READ = 141
_ENDING_SECONDS = 3.0


class UsageError(CasebookError):
    """What was asked for cannot be: for example of a file that is not there, or damaged."""

    def __init__(self, detail: str) -> None:
        super().__init__("usage", detail)


class DatabaseSilent(CasebookError):
    """Nothing answers at the database's address: it is not running, or the address is wrong."""


@contextmanager
def validating(name: str) -> Iterator[None]:
    """Raise UsageError if the block finds that what was typed as `name` is not valid."""
    try:
        yield
    except ValidationError as error:
        raise UsageError(f"{name}: {error.errors()[0]['msg']}") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise UsageError if the block cannot write a file or folder."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error}") from error


def start(name: str, main: Main) -> None:
    """Run the command of a name, with the words that this process was started with."""
    run(main, parse(name))


def run(main: Main, options: argparse.Namespace) -> None:
    """Run a command line to its end and exit with its code; 1 and one line for an error."""
    log_to_stderr()
    tune_gc()
    code = 1
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(_until_stopped(main, options))
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except (CasebookError, PyMongoError) as error:
        fail(describe(error))
    except BrokenPipeError:  # nobody reads on what is printed, as with `| head`
        code = _NOT_READ
    except OSError as error:
        fail(str(error) if error.filename is None else f"{error.filename}: {error.strerror}")
    except Exception as error:  # noqa: BLE001 no traceback is for who typed a command
        fail(f"{type(error).__name__}: {error} (a fault of Casebook: {_traceback_of(error)})")
    _end_soon(code)
    sys.exit(code)


def _traceback_of(error: Exception) -> str:
    """Put the traceback of an unexpected error where it can be found; return where that is."""
    if not sys.stderr.isatty():
        logging.getLogger(__name__).critical("unexpected error", exc_info=error)
        return "its traceback is in the log"
    with tempfile.NamedTemporaryFile("w", prefix="casebook-", suffix=".txt", delete=False) as file:
        traceback.print_exception(error, file=file)
    return f"its traceback is in {file.name}"


def _end_soon(code: int) -> None:
    """End the process within seconds, whatever Python waits for.

    One of a driver's threads may wait for an answer of the database that is a minute away, and
    Python for that thread. What it asked for may come to pass or not, as after any lost connection.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # or Python would try again, and tell that it cannot
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    ending = threading.Timer(_ENDING_SECONDS, os._exit, (code,))
    ending.daemon = True
    ending.start()


def check_host(settings: Settings) -> None:
    """Raise UsageError for an address that others reach, unless that is meant."""
    host = settings.host
    if not settings.beyond_loopback and not is_loopback(host):
        raise UsageError(
            f"others can reach {host}: put something that speaks TLS before it, and say that this "
            "is meant with CASEBOOK_BEYOND_LOOPBACK=yes"
        )


def address(host: str, port: int) -> str:
    """Return the address of a server."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def is_read_here(settings: Settings) -> bool:
    """Return whether what is printed is read at this machine's terminal, and kept in no log."""
    return sys.stdout.isatty() and is_loopback(settings.host) and settings.log_format != "json"


async def _until_stopped(main: Main, options: argparse.Namespace) -> int:
    """Run `main`; SIGTERM and Ctrl-C cancel it, so that everything is tidied up."""
    task = asyncio.create_task(main(options))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        return _INTERRUPTED


@asynccontextmanager
async def database(settings: Settings | None = None) -> AsyncIterator[Database]:
    """Connect to the configured database, or to the embedded one, started unless it runs.

    `settings`: those of the environment unless given.

    Raises EmbeddedError, DatabaseAddressError, DatabaseSilent, DatabaseTooOld, KeyUnusable.
    """
    settings = settings or Settings.from_environment()
    async with AsyncExitStack() as stack:
        url = settings.mongodb_url
        if url is None:
            url = await stack.enter_async_context(embedded.run(settings.data_dir))
        masters = await _master_keys(url, settings)
        yield await stack.enter_async_context(_connected(url, settings, masters))


@asynccontextmanager
async def _connected(
    url: str, settings: Settings, masters: MasterKeys | None
) -> AsyncIterator[Database]:
    connected = Database(url, settings.mongo_driver, masters)
    try:
        try:
            await connected.check()
        except (ConnectionFailure, ExecutionTimeout) as error:
            reason = str(error).partition(", Timeout: ")[0].partition(" (")[0]
            raise DatabaseSilent(
                "database_silent",
                f"no database answers: {reason}; does it run, and is CASEBOOK_MONGODB_URL right?",
            ) from error
        yield connected
    finally:
        await connected.close()


async def _master_keys(url: str, settings: Settings) -> MasterKeys | None:
    """Return what wraps the keys of persons: for an embedded database, of its folder if no other is
    named; made with the first database.

    Raises KeyUnusable.
    """
    given = MasterKeys.given()
    if given is not None or settings.mongodb_url is not None:
        return given
    path = settings.master_key_path
    if not path.exists():
        async with _connected(url, settings, None) as connected:
            if not await connected.vault.is_new():
                raise KeyUnusable(
                    f"{path} is gone, and without it nothing personal can be read: restore it"
                )
        try:
            place(path, new_master_key().encode() + b"\n")
        except OSError as error:
            raise KeyUnusable(f"cannot write the master key {path}: {error}") from error
    return MasterKeys.in_file(path)


@asynccontextmanager
async def at_work(db: Database, what: str) -> AsyncIterator[None]:
    """Count as a process at work on the log inside the block, and end it if the log is replaced.

    Raises RestoreUnderWay, LogReplaced, StoreError.
    """
    async with db.identity.at_work(what), background(db.identity.end_when_replaced()):
        yield


def show_metrics(settings: Settings) -> None:
    """Show this process's own metrics where the settings say, if they do. Raises UsageError."""
    port = settings.metrics_port
    if port is None:
        return
    check_host(settings)
    try:
        start_http_server(port, settings.host)
    except OSError as error:
        raise UsageError(f"cannot show metrics on {settings.host}:{port}: {error}") from error


def print_json(content: object) -> None:
    """Print a value as JSON on several lines."""
    print(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode())


def progress() -> Progress:
    """Return a progress bar for the terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=screen,
    )


def with_progress(items: Collection[T], doing: str, unit: str = "") -> Iterator[T]:
    """Yield items, with a progress bar."""
    with counting(doing, len(items), unit) as count:
        for item in items:
            yield item
            count()


@contextmanager
def counting(doing: str, total: float | None, unit: str = "") -> Iterator[Callable[..., None]]:
    """Show a progress bar. Yields what counts one more, or as many as it is called with."""
    with progress() as bar:
        task = bar.add_task(doing, total=total, rate=unit)
        yield partial(bar.advance, task)
