"""The driver's errors, told in the store's own (`failures.py`)."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType

from pymongo import errors

from domain.errors import CasebookError
from eventstore import failures
from eventstore.failures import StoreError, StoreFailed, StoreUnavailable, VersionConflict

NOT_ALLOWED = (13, 8000)
"""Codes by which a server, or Atlas, says that this user may not do what was asked."""
DUPLICATE_KEY = 11000
_TRANSIENT_LABELS = (
    "RetryableWriteError",
    "TransientTransactionError",
    "UnknownTransactionCommitResult",
)
# LockTimeout, LockBusy, MaxTimeMSExpired, WriteConflict, NoSuchTransaction, SnapshotUnavailable,
# ExceededTimeLimit, TemporarilyUnavailable; a read that was ended for another's sake.
_TRANSIENT_CODES = frozenset({24, 46, 50, 112, 237, 246, 251, 262, 365, 11601})
# A host that cannot be reached, a node that restarts, a primary that steps down, none to be found,
# a router whose map is old.
_TRANSIENT_CODES |= {6, 7, 89, 91, 133, 134, 189, 202, 234, 244, 9001, 10107, 13388}
_TRANSIENT_CODES |= {11600, 11602, 13435, 13436}
# InternalError, UnknownError, OutOfDiskSpace, TooManyFilesOpen: nothing is known of what was asked
# for, and an operator must look after the database. Of the embedded one that is its keeper.
_TRANSIENT_CODES |= {1, 8, 264, 14031}

BulkWriteError = errors.BulkWriteError
DuplicateKeyError = errors.DuplicateKeyError
OperationFailure = errors.OperationFailure
DriverError = errors.PyMongoError
"""The root of what the driver raises, for modules that need not know which driver it is."""


@contextmanager
def translate_driver_errors() -> Iterator[None]:
    """Raise the store's own errors for the drivers' in this block."""
    try:
        yield
    except DriverError as error:
        raise translated(error) from error


class time_limit:  # noqa: N801 it is used as a word
    """Raise the store's own errors in this block, and StoreUnavailable if it takes too long.

    Unless given, that is as long as a client is kept waiting for a database that does not answer.
    A class, not a generator: every request enters several.
    """

    __slots__ = ("_timeout",)

    def __init__(self, seconds: float | None = None) -> None:
        self._timeout = asyncio.timeout(failures.PATIENCE_SECONDS if seconds is None else seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError as late:
            raise StoreUnavailable from late
        if isinstance(error, TimeoutError):
            raise StoreUnavailable from error
        if isinstance(error, DriverError):
            raise translated(error) from error


def describe(error: Exception) -> str:
    """Say what went wrong, in words for anyone.

    What a database or a driver says itself may hold what people have written, addresses and
    signatures, and is not passed on.
    """
    if isinstance(error, CasebookError):
        return error.detail
    if not isinstance(error, DriverError):
        return type(error).__name__
    if isinstance(error, BulkWriteError):
        refused = error.details.get("writeErrors") or [{"code": error.code}]
        return _refusal(refused[0])
    if isinstance(error, OperationFailure):
        return _refusal({**(error.details or {}), "code": error.code})
    if isinstance(error, errors.ConnectionFailure):
        return f"the database does not answer ({type(error).__name__})"
    return f"the driver fails ({type(error).__name__})"


def _refusal(failure: Mapping[str, object]) -> str:
    name = failure.get("codeName")
    said = f"{name}, code {failure.get('code')}" if name else f"code {failure.get('code')}"
    return f"the database refuses ({said})"


def translated(error: DriverError) -> StoreError:
    """Return the store's own error for a driver's."""
    if isinstance(error, BulkWriteError):
        refused = error.details.get("writeErrors", [])
        if not refused or error.details.get("writeConcernErrors"):
            return StoreUnavailable()
        return write_failure(refused[0])
    if isinstance(error, DuplicateKeyError):
        return VersionConflict()
    unsure = errors.ConnectionFailure | errors.ExecutionTimeout | errors.WriteConcernError
    code = getattr(error, "code", None)
    labelled = any(error.has_error_label(label) for label in _TRANSIENT_LABELS)
    if isinstance(error, unsure) or labelled or code in _TRANSIENT_CODES:
        return StoreUnavailable()
    return StoreFailed(describe(error))


def is_unavailable(error: BaseException | None) -> bool:
    """Say whether nothing is wrong but that the database does not answer, or not now."""
    told = translated(error) if isinstance(error, DriverError) else error
    return isinstance(told, StoreUnavailable)


def write_failure(failure: Mapping[str, object]) -> StoreError:
    """Return the store's own error for one entry of a bulk write's `writeErrors`."""
    if failure["code"] == DUPLICATE_KEY:
        return VersionConflict()
    if failure["code"] in _TRANSIENT_CODES:
        return StoreUnavailable()
    return StoreFailed(_refusal(failure))
