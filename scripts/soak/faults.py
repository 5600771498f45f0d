"""Each command that goes to the database fails, in each way that a MongoDB server or a network has:
what clients are told stays true, and all goes on by itself (L3, L4, L5, L7, L8, L12).

A server works for clients, its projector folds, a webhook is told, and views are built anew beside
it. Between each of these and the database stands a wire that has one command fail: one kind of
command after the other (its name, the collection, whether it is part of a transaction or a change
stream's), in one way after the other, on each driver. No later than 15 seconds after that all is as
before: a command is taken, lists show it, and the server is ready. Some kinds are only sent while a
server starts, and fail then.

A round has each kind fail once, each in another way than in the rounds before; so as many rounds as
there are ways are the whole matrix. At work one command fails at a time, whichever is sent first of
those that have not. A replay, or a start, takes seconds: several fail in the same one, and each
adds to the time until all is well.

At the end of a round each command is in the log once, as its client was told, the webhook has been
told of all of it, and the views equal the log. All of it takes hours: with `--done FILE` it can be
stopped, and goes on with what is left.
"""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx

from domain.values import JsonObject
from eventstore.background import background, run_all
from eventstore.failures import PATIENCE_SECONDS
from eventstore.mongo.driver import DriverName
from scripts.cli import screen
from scripts.soak.clients import OPENING, Clients, until_well
from scripts.soak.webhooks import Receiver, add_webhook
from scripts.testbed.harness import (
    HEADERS,
    PromiseBroken,
    code_of,
    free_port,
    let_in,
    listening,
    log_at,
    process,
    ready,
    require,
    stop,
    until,
)
from scripts.testbed.judging import Check, audited
from scripts.testbed.load import Answer, Connection
from scripts.testbed.patience import patience
from scripts.testbed.wire import (
    RAW,
    Done,
    Fate,
    Heard,
    Refused,
    Wire,
    database_at,
    kind_of,
    passed,
    through,
)

BACK_SECONDS = 15.0
DRIVERS: Sequence[DriverName] = ("motor", "pymongo")
_LEARNING_SECONDS = 20.0
_STUCK_SECONDS = 60.0  # after which it will not come back
_ASKED_SECONDS = 2.0
_SEEN_SECONDS = 60.0  # until a command of a kind is sent again
_CLIENTS = 3
_TICKETS = 120  # more than come in the first answer to a list
_PAUSE_SECONDS = 0.05
# Of clients and readers in the matrix: what they do is to be sent now and then, and leaves the
# processors to those who recover.
_WRITE_SECONDS = 0.2
_READ_SECONDS = 1.0
_BETWEEN_SECONDS = 4.0  # two replays, where nothing of them is to fail
_TOGETHER = 6  # commands of a start or a replay that fail in one
# A server that steps down tells whoever waits for news of it. The one behind the wire does not step
# down, and tells nothing for 5 seconds; so it is asked.
_POLLED = "&serverMonitoringMode=poll"
_READ = ("/tickets?limit=200", "/dashboard", "/projections", "/events")

AT_START: Collection[str] = (
    "aggregate stream ticket_events",
    "buildInfo",
    "bulkWrite",
    "create ticket_reads",
    "createIndexes access_log",
    "createIndexes person_events",
    "createIndexes persons",
    "createIndexes ticket_events",
    "createIndexes webhook_deliveries",
    "delete generations",
    "drop ticket_reads",
    "find access_log",
    "find in transaction generations",
    "find keyring",
    "find persons",
    "find processes",
    "find webhook_dispatch",
    "hello",
    "hello of the driver",
    "insert api_keys",
    "insert keyring",
    "insert log_identity",
    "insert persons",
    "insert projections",
    "insert webhook_dispatch",
    "listIndexes person_events",
    "listIndexes ticket_events",
    "saslContinue",
    "saslStart",
    "update generations",
)
"""What is only sent while a server starts on an empty database (of `create` and `drop`, one of
seven views), and what fails otherwise there: it ends with a line, and is started again."""
START, REPLAY = "at the start: ", "replay: "
"""What the kinds of commands begin with that a start, or a replay, sends."""

# --- how a command fails --------------------------------------------------------------------------

_CODES: Mapping[str, int] = {
    "ShutdownInProgress": 91,
    "WriteConflict": 112,
    "ReadConcernMajorityNotAvailableYet": 134,
    "PrimarySteppedDown": 189,
    "SnapshotUnavailable": 246,
    "NoSuchTransaction": 251,
    "ExceededTimeLimit": 262,
    "NotWritablePrimary": 10107,
    "InterruptedAtShutdown": 11600,
    "InterruptedDueToReplStateChange": 11602,
}
_WRITE_CONCERN: Mapping[str, int] = {
    "write concern: WriteConcernTimeout": 64,
    "write concern: ShutdownInProgress": 91,
}
_ON_THE_WAY: Mapping[str, Fate] = {
    "connection closed before": Fate.HELD,
    "connection closed behind": Fate.CUT_OFF,
    "connection blocked": Fate.ANSWER_LOST,
}
FAULTS = (*_CODES, *_WRITE_CONCERN, *_ON_THE_WAY)

# What servers label so (MongoDB, src/mongo/base/error_codes.yml and src/mongo/db/error_labels.cpp).
_RETRIABLE = {91, 134, 189, 262, 10107, 11600, 11602}
_ENDS_TRANSACTION = {112, 246, 251}
_WRITING = {"insert", "update", "delete", "findAndModify", "bulkWrite", "commitTransaction"}
_WRITING |= {"create", "createIndexes", "drop"}
_OF_NEW_CONNECTIONS = {"hello of the driver", "saslStart", "saslContinue"}
_CONNECTING = {"hello", "ismaster", "saslStart", "saslContinue", "endSessions"}


def failing(sent: JsonObject, fault: str) -> Fate | Done | Refused | None:
    """Return what becomes of a command that fails so; None if none of its kind does."""
    if fault in _ON_THE_WAY:
        return _ON_THE_WAY[fault]
    name = next(iter(sent))
    if fault in _WRITE_CONCERN:
        if name not in _WRITING or (_in_transaction(sent) and name != "commitTransaction"):
            return None
        code = _WRITE_CONCERN[fault]
        info = {"wtimeout": True} if code == 64 else {}
        error = {"code": code, "errmsg": RAW, "errInfo": info}
        return Done({"writeConcernError": error, "errorLabels": _labels(sent, code, done=True)})
    return _refused(sent, fault)


def _refused(sent: JsonObject, fault: str) -> Refused:
    code = _CODES[fault]
    labels = _labels(sent, code, done=False)
    answer = {"ok": 0.0, "code": code, "codeName": fault, "errmsg": RAW, "errorLabels": labels}
    return Refused(answer, is_kept="RetryableWriteError" in labels)


def _labels(sent: JsonObject, code: int, *, done: bool) -> list[str]:
    name = next(iter(sent))
    ends = name in ("commitTransaction", "abortTransaction")
    retriable, inside = code in _RETRIABLE, _in_transaction(sent)
    if inside and not done and (code in _ENDS_TRANSACTION or (retriable and not ends)):
        return ["TransientTransactionError"]
    if retriable and (ends or ("txnNumber" in sent and not inside)):
        return ["RetryableWriteError"]
    if retriable and "stream" in kind_of(sent).split():
        return ["ResumableChangeStreamError"]
    return []


def _in_transaction(sent: JsonObject) -> bool:
    return sent.get("autocommit") is False


class _Cell(NamedTuple):
    kind: str
    fault: str

    @property
    def sent(self) -> str:
        """The kind as it is heard."""
        return self.kind.removeprefix(START).removeprefix(REPLAY)


class _Faults:
    """Has the first command of each kind fail in its way, and counts what is sent."""

    def __init__(self, cells: Iterable[_Cell] = (), at_once: int = _TOGETHER) -> None:
        """`cells`: no two of one kind; `at_once`: how many fail before all is well again."""
        self._at_once = at_once
        self.seen: Counter[str] = Counter()
        self.waiting = {cell.sent: cell for cell in cells}
        self.happened: dict[_Cell, float] = {}
        """When each was, by the monotonic clock."""
        self.impossible: list[_Cell] = []
        """Those that no command of their kind can have."""

    @property
    def again(self) -> list[str]:
        """The kinds that were seen more than once."""
        return sorted(kind for kind, times in self.seen.items() if times > 1)

    def heard(self, sent: JsonObject) -> Fate | Done | Refused:
        kind = kind_of(sent)
        self.seen[kind] += 1
        if len(self.happened) == self._at_once or (cell := self.waiting.pop(kind, None)) is None:
            return Fate.PASSED
        if (fate := failing(sent, cell.fault)) is None:
            self.impossible.append(cell)
            return Fate.PASSED
        self.happened[cell] = time.monotonic()
        return fate

    async def happen(self, port: int, wire: Wire) -> bool:
        """Wait until one has happened, or cannot; return whether any of these kinds was sent."""

        async def has_happened() -> bool:
            with suppress(PromiseBroken):
                await until_well(port, _ASKED_SECONDS)  # which sends what is not sent otherwise
            if self.happened or self.impossible:
                return True
            if self.waiting.keys() <= _OF_NEW_CONNECTIONS:
                await wire.cut()
            return False

        with suppress(PromiseBroken):
            await until(has_happened, _SEEN_SECONDS, "one is sent")
        return bool(self.happened or self.impossible)


async def well_again(what: str, port: int, wire: Wire) -> float:
    """Wait until all is as before a fault; return when that is, by the monotonic clock."""
    await until(lambda: not wire.waiting, _STUCK_SECONDS, f"{what}: given up")
    try:
        await until_well(port, _STUCK_SECONDS)
    except PromiseBroken as error:
        raise PromiseBroken(f"{what}: {error}") from None
    return time.monotonic()


def require_soon(what: str, seconds: float, faults: int = 1) -> None:
    """Raises PromiseBroken if it took too long until all was as before; each fault adds to it."""
    most = faults * patience(BACK_SECONDS)
    require(seconds < most, f"{what}: back only after {seconds:.1f} s")


# --- what it works on -----------------------------------------------------------------------------


class _Table:
    """What has been seen: how many faults of each way, and how long it took until all was well."""

    def __init__(self, done: Path | None = None) -> None:
        """`done`: a file of what earlier runs have had fail, a line each, which is added to."""
        self.counted: Counter[str] = Counter()
        self._file = done
        self._done = set(done.read_text().splitlines()) if done and done.exists() else set()

    def left(self, driver: DriverName, cells: Iterable[_Cell]) -> list[_Cell]:
        """Return what no earlier run has had fail."""
        return [cell for cell in cells if "\t".join((driver, *cell)) not in self._done]

    def add(self, driver: DriverName, faults: _Faults, well_at: float) -> None:
        """Note what has failed, or cannot, and when all was well again."""
        for cell, at in faults.happened.items():
            seconds = well_at - at
            screen.print(f"{seconds:6.1f} s  {driver:8}{cell.fault:36}{cell.kind}", soft_wrap=True)
            self.counted["faults"] += 1
            self.counted[cell.fault] += 1
            self.counted["slowest_ms"] = max(self.counted["slowest_ms"], round(1000 * seconds))
        if self._file is not None:
            with self._file.open("a") as file:
                for cell in (*faults.happened, *faults.impossible):
                    print(driver, *cell, sep="\t", file=file)
        faults.happened.clear()
        faults.impossible.clear()

    def leave(self, driver: DriverName, faults: _Faults) -> None:
        """Note what is not sent any more, of which a later run may have it fail."""
        for cell in faults.waiting.values():
            screen.print(f"not sent  {driver:8}{cell.fault:36}{cell.kind}", soft_wrap=True)
        self.counted["not_sent"] += len(faults.waiting)
        faults.waiting.clear()


async def _fail(driver: DriverName, faults: _Faults, table: _Table, port: int, wire: Wire) -> None:
    """Wait until some commands have failed and all is as before, and note how long that took. If
    none of them is sent, they are left.
    """
    if not await faults.happen(port, wire):
        table.leave(driver, faults)
        return
    well_at, before = 0.0, -1
    while faults.happened and before < len(faults.happened):  # others may fail meanwhile
        before = len(faults.happened)
        what = "; ".join(f"{cell.fault}, {cell.kind}" for cell in faults.happened)
        well_at = await well_again(what, port, wire)
        first_at, *_, last_at = [*faults.happened.values()] * 2
        require_soon(what, well_at - first_at, before)
        require_soon(what, well_at - last_at)
    table.add(driver, faults, well_at)


async def _fail_all(
    driver: DriverName, faults: _Faults, table: _Table, port: int, wire: Wire
) -> None:
    """Wait until each of some commands has failed on a wire, and all is as before."""
    wire.heard = faults.heard
    while faults.waiting:
        await _fail(driver, faults, table, port, wire)


async def _fail_at_start(
    urls: Iterator[str], driver: DriverName, cells: Sequence[_Cell], table: _Table
) -> None:
    """Start servers on empty databases until each of some commands has failed meanwhile."""
    while cells:
        faults = _Faults(cells)
        async with _server(next(urls), driver, faults.heard, may_end=True) as (port, wire):
            await _fail(driver, faults, table, port, wire)
            cells = [*faults.waiting.values()]


async def _fail_at_work(
    url: str,
    driver: DriverName,
    cells: Sequence[_Cell] | None,
    table: _Table,
    check: Check,
) -> list[str]:
    """Have a server work, and one command after the other fail; judge log, views and webhook.

    Returns the kinds of commands that are sent again and again; without `cells` that is all that is
    done.
    """
    clients, receiver = Clients(), Receiver()
    learning, replaying, hurry = _Faults(), _Faults(), asyncio.Event()
    async with (
        _server(url, driver, learning.heard) as (port, wire),
        through(url, replaying.heard) as (replayed_by, replay_wire),
        listening(receiver.take) as hook,
        log_at(url) as (database, store),
    ):
        await add_webhook(database, store, f"http://127.0.0.1:{hook}/")
        await until_well(port, _STUCK_SECONDS)
        async with (
            clients.sending(port, _CLIENTS, _TICKETS, _WRITE_SECONDS),
            background(_read(port, clients)),
            background(_replay_again_and_again(replayed_by + _POLLED, driver, hurry)),
        ):
            if cells is None:
                hurry.set()
                learning.seen.clear()
                await asyncio.sleep(_LEARNING_SECONDS)
            of_replays, at_work = list[_Cell](), list[_Cell]()
            for cell in cells or ():
                (of_replays if cell.kind.startswith(REPLAY) else at_work).append(cell)
            # Each alone: one may show what another hides.
            await _fail_all(driver, _Faults(at_work, at_once=1), table, port, wire)
            hurry.set()
            await _fail_all(driver, _Faults(of_replays), table, port, replay_wire)
        table.counted.update(await clients.judge(port, url, check))
        await until(lambda: receiver.received.is_all_of(store), _STUCK_SECONDS, "webhook told all")
        table.counted.update(told=receiver.received.counted["events"])
        require(await replayed(url, driver) == 0, "a replay at the end fails")
    return [*learning.again, *(REPLAY + kind for kind in replaying.again)]


async def replayed(url: str, driver: DriverName) -> int | None:
    """Build the views anew; return the exit code, None if that does not end."""
    return await code_of("scripts.replay", CASEBOOK_MONGODB_URL=url, CASEBOOK_MONGO_DRIVER=driver)


async def _replay_again_and_again(url: str, driver: DriverName, hurry: asyncio.Event) -> None:
    """Build the views anew until cancelled, whether or not it succeeds; it must come to an end.
    With a pause in between, unless there is a hurry.
    """
    while True:
        require(await replayed(url, driver) is not None, "a replay stands still")
        with suppress(TimeoutError):
            async with asyncio.timeout(_BETWEEN_SECONDS):
                await hurry.wait()


async def _read(port: int, clients: Clients) -> None:
    """Read lists and the log, until cancelled."""
    base = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=base, headers=HEADERS, timeout=60.0) as client:
        while True:
            for path in _READ:
                await asyncio.sleep(_READ_SECONDS)
                with suppress(httpx.TransportError):
                    answer = await client.get(path)
                    clients.note(answer.status_code, answer.content)


@asynccontextmanager
async def _server(
    url: str, driver: DriverName, heard: Heard, *, may_end: bool = False, options: str = _POLLED
) -> AsyncIterator[tuple[int, Wire]]:
    """Run a server on a driver; yield its port, and the wire to its database. Raises PromiseBroken
    if it ends, unless it may: then it is started again. `options`: more of its database's URL.
    """
    with tempfile.TemporaryDirectory(prefix="casebook-soak-") as folder:
        async with through(url, heard) as (reached_by, wire):
            port = free_port()
            serve_again = serve_again_and_again(
                may_end=may_end,
                CASEBOOK_DATA_DIR=folder,
                CASEBOOK_MONGODB_URL=reached_by + options,
                CASEBOOK_MONGO_DRIVER=driver,
                CASEBOOK_PORT=str(port),
                CASEBOOK_LOG_REQUESTS="no",
            )
            async with background(serve_again):
                await ready(port)
                await let_in(url)
                yield port, wire


async def serve_again_and_again(*, may_end: bool, **settings: str) -> None:
    """Run a server until cancelled, as a supervisor does: one that finds no database when it
    starts ends with a line, and is started again. Raises PromiseBroken if it ends, and may not.
    """
    while True:
        async with process("scripts.serve", **settings) as server:
            try:
                await server.wait()
            except asyncio.CancelledError:
                await stop(server)
                raise
            require(may_end, f"the server ends at work: exit code {server.returncode}")
        await asyncio.sleep(_PAUSE_SECONDS)


def _own_database(url: str, name: str) -> str:
    """Return the URL of another database of the same server, named after this one's."""
    return database_at(url, f"{urlsplit(url).path.strip('/') or 'soak'}_{name}")


def no_primary(sent: JsonObject) -> Fate | Refused:
    """Refuse what a server refuses that is no primary any more: all but what keeps connections."""
    if next(iter(sent)) in _CONNECTING:
        return Fate.PASSED
    return _refused(sent, "NotWritablePrimary")


async def failover(url: str, seconds: int, check: Check = audited) -> Counter[str]:
    """Have no primary for so long under load, on each driver. A command that is sent just then is
    done, or answered with 503 when patience ends, and all goes on by itself. Raises PromiseBroken.
    """
    counted: Counter[str] = Counter()

    async def send(connection: Connection) -> tuple[Answer, float]:
        began = time.monotonic()
        return await connection.post("/tickets", OPENING), time.monotonic() - began

    async def outlast(driver: DriverName) -> None:
        own, clients = _own_database(url, driver), Clients()
        async with (
            _server(own, driver, passed, options="") as (port, wire),
            Connection(port, HEADERS) as one,
        ):
            await until_well(port, _STUCK_SECONDS)
            async with clients.sending(port, _CLIENTS, _TICKETS, _PAUSE_SECONDS):
                await clients.answered(_CLIENTS)
                wire.heard = no_primary
                sent = asyncio.create_task(send(one))
                await asyncio.sleep(seconds)
                at = time.monotonic()
                wire.heard = passed
                answer, waited = await sent
                is_unknown = answer.status == 503 and waited >= PATIENCE_SECONDS
                is_true = answer.status == 201 or is_unknown
                require(is_true, f"{answer.status} after {waited:.1f} s")
                counted[f"first_answered_{answer.status}"] += 1
                took = await well_again("no primary", port, wire) - at
                require_soon("no primary", took)
                counted["slowest_ms"] = max(counted["slowest_ms"], round(1000 * took))
            counted.update(await clients.judge(port, own, check))

    await run_all(*(outlast(driver) for driver in DRIVERS))
    return counted


def diagonal(kinds: Collection[str], round_: int) -> list[_Cell]:
    """Return each kind once with one way to fail, which is another in each round."""
    return [_Cell(kind, FAULTS[(n + round_) % len(FAULTS)]) for n, kind in enumerate(kinds)]


async def faults(
    url: str,
    rounds: int,
    check: Check = audited,
    kinds: Collection[str] | None = None,
    at_start: Collection[str] = AT_START,
    done: Path | None = None,
) -> Counter[str]:
    """Have each kind of command fail in so many ways on each driver; both drivers at once.

    `kinds`: those that are to fail while the server works, all that it is seen to send unless
    given; `at_start`: those while it starts; `done`: a file of what has failed in earlier runs,
    which is passed over, and added to. Raises PromiseBroken.
    """
    table = _Table(done)
    starts = [START + kind for kind in at_start]

    async def fail_on(driver: DriverName) -> None:
        first = len(FAULTS) // len(DRIVERS) * DRIVERS.index(driver)  # so that few rounds have most

        def own(name: str) -> str:
            return _own_database(url, f"{driver}_{name}")

        sent = kinds or await _fail_at_work(own("learning"), driver, None, table, check)
        for round_ in range(first, first + rounds):
            empty = (own(f"start_{round_}_{n}") for n in count())
            await _fail_at_start(empty, driver, table.left(driver, diagonal(starts, round_)), table)
            if cells := table.left(driver, diagonal(sent, round_)):
                await _fail_at_work(own(f"{round_}"), driver, cells, table, check)

    await run_all(*(fail_on(driver) for driver in DRIVERS))
    left = table.counted["not_sent"]
    require(not left, f"{left} were not sent again, and could not fail; another run may have them")
    return table.counted
