"""What can go wrong in the store: a small tree of its own instead of the drivers' large ones.

StoreError
├── VersionConflict     another writer was first; read and decide again
├── StoreBusy           too much is waiting; nothing was written
├── StoreUnavailable    no answer in time
│   ├── OutOfTime       the database did answer, but all of it took too long
│   └── OutcomeUnknown  an append was sent, and nobody knows whether it was or will be applied
├── StoreFailed         the database refuses for a reason that trying again does not mend
├── NothingToAppend     no events were given to write: the caller's mistake
└── HistoryLost         the change stream cannot go on from a token
"""

from domain.errors import CasebookError

PATIENCE_SECONDS = 20.0
"""For how long a client is kept waiting for a database that does not answer: longer than it takes a
replica set to elect a primary, some 12 seconds."""


class StoreError(CasebookError):
    """Root of what the store raises."""


class VersionConflict(StoreError):
    """Another writer took the version first: for example two agents answering at once."""

    def __init__(self) -> None:
        super().__init__("version_conflict", "the ticket has changed since it was read")


class StoreBusy(StoreError):
    """The database has been slower than its writers for too long: for example under a flood."""

    kind = "unavailable"

    def __init__(self) -> None:
        super().__init__("store_busy", "too many commands are waiting; try again")


class StoreUnavailable(StoreError):
    """The database does not answer: for example while it restarts or elects a primary."""

    kind = "unavailable"

    def __init__(self) -> None:
        super().__init__("store_unavailable", "the database does not answer; try again")


class OutOfTime(StoreUnavailable):
    """The database answers, and there is too much to do: for example to fold 100,000 events."""

    def __init__(self) -> None:
        super(StoreUnavailable, self).__init__(
            "out_of_time",
            "the database answers, but this takes longer than a request may; ask for less of the "
            "ticket, or again when the server has less to do",
        )


class OutcomeUnknown(StoreUnavailable):
    """An append was sent and nothing answered: for example when a connection broke behind it.

    It may be in the log, arrive there later, or never.
    """

    def __init__(self) -> None:
        super(StoreUnavailable, self).__init__(
            "outcome_unknown",
            "nobody knows whether this was written; send it again with its idempotency key; "
            "without one, look first: sending it again may do it twice",
        )


class StoreFailed(StoreError):
    """The database refuses: for example because the user lacks a right."""

    def __init__(self, detail: str) -> None:
        super().__init__("store_failed", detail)


class NothingToAppend(StoreError):
    """A command that changes nothing has no events: for example an append of its empty list."""

    def __init__(self) -> None:
        super().__init__("nothing_to_append", "no events were given to be appended")


class HistoryLost(StoreError):
    """The change stream cannot go on from a token: for example after days of downtime."""

    def __init__(self, detail: str) -> None:
        super().__init__("history_lost", detail)
