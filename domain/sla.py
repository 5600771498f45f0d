"""The clock that runs on a ticket from its opening, against what the desk has promised.

A *policy* of the desk is what it promises for a priority; written into a ticket, these are its
*targets*. A target that runs out is *overdue* until the log says so (`SlaBreached`), then
*breached*. The clock runs while the desk is to act, and stands while the ticket waits
for its requester or is solved.

Pure arithmetic on times that come in. What is overdue is a matter of the times of a ticket's events
alone, so it is found whether or not any process was running when it happened.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Literal

from pydantic import ConfigDict

from domain.copies import replace
from domain.values import JsonObject

SlaTarget = Literal["first_response", "resolution"]


@dataclass(frozen=True, slots=True)
class SlaTargets:
    """What was promised for a ticket, in minutes of its clock; null for no promise."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    first_response_minutes: int | None
    resolution_minutes: int | None


def without_promise(data: JsonObject) -> JsonObject:
    """Upcast an event of a time when nothing was promised."""
    return {**data, "sla": {"first_response_minutes": None, "resolution_minutes": None}}


_MINUTE_MS = 60_000
_MILLISECOND = timedelta(milliseconds=1)
_NOTHING = SlaTargets(None, None)
_NEVER = datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class SlaClock:
    """Where a ticket's clock stands. Times are UTC.

    `running`, `since`: whether it runs, and when it was last set going or stopped; `elapsed_ms`:
    what had passed by then; `overdue`, `breached`: when the targets ran out that did.
    """

    targets: SlaTargets
    since: datetime
    running: bool = True
    elapsed_ms: int = 0
    answered: bool = False
    overdue: Mapping[SlaTarget, datetime] = field(default_factory=dict)
    breached: Mapping[SlaTarget, datetime] = field(default_factory=dict)

    def due(self) -> dict[SlaTarget, datetime]:
        """Return when each target runs out that still can; nothing while the clock stands."""
        if not self.running or self.targets == _NOTHING:
            return {}
        minutes: dict[SlaTarget, int | None] = {
            "first_response": None if self.answered else self.targets.first_response_minutes,
            "resolution": self.targets.resolution_minutes,
        }
        return {
            target: _later(self.since, limit * _MINUTE_MS - self.elapsed_ms)
            for target, limit in minutes.items()
            if limit is not None and target not in self.overdue and target not in self.breached
        }

    def next_due(self) -> tuple[datetime, SlaTarget] | None:
        """Return the target that is overdue, or will be next, and when it runs out."""
        return min(
            ((at, target) for target, at in (*self.overdue.items(), *self.due().items())),
            default=None,
        )

    def at(self, now: datetime) -> "SlaClock":
        """Let time pass: what has run out by `now` is overdue."""
        ran_out = {target: at for target, at in self.due().items() if at <= now}
        return replace(self, overdue={**self.overdue, **ran_out}) if ran_out else self

    def switched(self, now: datetime, *, running: bool) -> "SlaClock":
        """Set going or stop. A time before the last switch, as in an unordered log, adds none."""
        if running == self.running:
            return self
        now = max(now, self.since)
        passed_ms = (now - self.since) // _MILLISECOND if self.running else 0
        return replace(self, running=running, since=now, elapsed_ms=self.elapsed_ms + passed_ms)

    def promising(self, targets: SlaTargets) -> "SlaClock":
        """Promise something else, counted from the same beginning."""
        return replace(self, targets=targets)

    def with_answer(self) -> "SlaClock":
        """Note the first response."""
        return replace(self, answered=True)

    def with_breach(self, target: SlaTarget, due_at: datetime) -> "SlaClock":
        """Note that the log says it."""
        overdue = {other: at for other, at in self.overdue.items() if other != target}
        return replace(self, overdue=overdue, breached={**self.breached, target: due_at})


def _later(time: datetime, milliseconds: int) -> datetime:
    """Add, and stop at the end of the calendar: a fold must not fail over a time."""
    try:
        return min(time + timedelta(milliseconds=milliseconds), _NEVER)
    except OverflowError:
        return _NEVER
