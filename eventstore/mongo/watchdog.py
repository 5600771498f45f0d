"""A watchdog for what must not stop: the one writer of the log, the one stream of a projector.

Many tasks wait for each of them, and when it waits itself nothing else shows it: the process lives,
and the database answers on other connections. So each notes when it asks and when it is answered,
and readiness is judged by that (`/readyz`).
"""

import time
from typing import Self
from weakref import WeakSet

from eventstore.mongo.errors import is_unavailable
from eventstore.mongo.limits import OPERATION_SECONDS

FORGOTTEN_SECONDS = OPERATION_SECONDS
"""For how long after a failure a task counts as unanswered if it does not ask again: a process that
gets no requests because it is not ready would never be ready again."""


class Watched:
    """A task that asks the database: since when it has had no answer. A block is one question."""

    def __init__(self, what: str) -> None:
        """`what`: its name, as operators see it."""
        self.what = what
        self._since: float | None = None
        self._failed_at: float | None = None

    def __enter__(self) -> Self:
        self._failed_at = None
        if self._since is None:
            self._since = time.monotonic()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if is_unavailable(error):
            self._failed_at = time.monotonic()
        else:  # a refusal is an answer; and a cancelled task asks no more
            self._since = None

    def unanswered_seconds(self) -> float:
        """Return for how long it has had no answer; 0 if it asks for none."""
        now = time.monotonic()
        if self._failed_at is not None and now - self._failed_at > FORGOTTEN_SECONDS:
            self._since = self._failed_at = None
        return 0.0 if self._since is None else now - self._since


class Watchdog:
    """All that is watched in a process, as far as one database is concerned."""

    def __init__(self) -> None:
        self._all: WeakSet[Watched] = WeakSet()

    def watch(self, what: str) -> Watched:
        """Watch a new task, for as long as the caller keeps what this returns."""
        made = Watched(what)
        self._all.add(made)
        return made

    def held_up(self) -> list[str]:
        """Name what has had no answer for longer than an operation may take."""
        late = [each for each in self._all if each.unanswered_seconds() > OPERATION_SECONDS]
        return sorted({each.what for each in late})
