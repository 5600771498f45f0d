"""A transaction, run again as the drivers' specification of the convenient API has it.

Motor's own ends the transaction while it leaves a block, where a commit whose outcome is unknown is
never tried again, and nothing slows it down while the server refuses at once. PyMongo's tries for
two minutes. This one is for the sessions of both, and ends when its time is over.

From the specification (github.com/mongodb/specifications, transactions-convenient-api): the work is
done anew after an error labelled TransientTransactionError, of the work or of the commit; the
commit alone is sent anew after one labelled UnknownTransactionCommitResult. Between two runs of the
work there is a pause that grows, of random length, for two transactions that conflict would do so
again. Other than there, a commit is also sent anew whose own time limit is over: it is that of one
try (`limits.py`), and `seconds` is the limit of all.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from inspect import isawaitable
from typing import TypeVar

from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import NetworkTimeout, PyMongoError
from pymongo.read_concern import ReadConcern

from eventstore.mongo.limits import OPERATION_SECONDS

T = TypeVar("T")

_FIRST_PAUSE_SECONDS, _GROWTH, _LONGEST_PAUSE_SECONDS = 0.005, 1.5, 0.5
_ENDING_SECONDS = OPERATION_SECONDS


async def with_transaction(
    session: AsyncClientSession,
    work: Callable[[AsyncClientSession], Awaitable[T]],
    *,
    seconds: float,
    read_concern: ReadConcern | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    jitter: Callable[[], float] = random.random,
) -> T:
    """Run `work` in a transaction of `session`, commit it, and return what it returned.

    `work` may end the transaction itself. `seconds`: after them nothing is tried again.

    Raises what `work` raises. Raises NetworkTimeout if the work failed again and again for too
    long: then nothing is written. Raises the driver's error of the commit, with its label, if
    nobody knows whether it was committed.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + seconds
    runs = 0
    while True:
        begun = session.start_transaction(read_concern)
        if isawaitable(begun):  # PyMongo's; Motor's is a block that nobody has entered
            await begun
        runs += 1
        try:
            result = await work(session)
            if session.in_transaction:
                await _commit(session, until)
        except BaseException as error:
            if session.in_transaction:
                await session.abort_transaction()
            if not _is(error, "TransientTransactionError"):
                raise
            pause = min(_FIRST_PAUSE_SECONDS * _GROWTH**runs, _LONGEST_PAUSE_SECONDS) * jitter()
            if clock() + pause >= until:
                raise NetworkTimeout(f"the transaction does not end: {error}") from error
            await sleep(pause)
        else:
            return result


async def _commit(session: AsyncClientSession, until: float) -> None:
    """Send the commit until its outcome is known. Raises what the driver raises last."""
    clock = asyncio.get_running_loop().time
    while True:
        try:
            return await session.commit_transaction()
        except PyMongoError as error:
            if not _is(error, "UnknownTransactionCommitResult") or clock() >= until:
                raise


def _is(error: BaseException, label: str) -> bool:
    return isinstance(error, PyMongoError) and error.has_error_label(label)


async def to_its_end(transaction: Coroutine[object, object, T]) -> T:
    """Run a transaction; a caller that is cancelled meanwhile waits for its end, for some
    seconds.

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
            with suppress(asyncio.CancelledError):  # cancelled again, it waits all the same
                await asyncio.wait([running], timeout=left)
        running.cancel()
        with suppress(asyncio.CancelledError):  # its session is to be ended by nobody meanwhile
            await asyncio.wait([running], timeout=_ENDING_SECONDS)
        raise
