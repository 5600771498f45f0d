"""The clock that runs on a ticket from its opening, against what the desk has promised.

A *policy* of the desk is what it promises for some tickets; written into one, these are its
*targets*. A target that runs out is *overdue* until the log says so (`SlaBreached`), then
*breached*. The clock runs while the desk is to act, and stands while the ticket waits for its
requester or is solved. While it runs, the calendar says which time counts; without one, all does.

The first response is an agent's reply to the ticket; the next response one to the first message of
its requester since an agent's last reply. So the first can be missed once, the next many times.

Pure arithmetic on times that come in. What is overdue is a matter of the times of a ticket's events
alone, so it is found whether or not any process was running when it happened.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Literal, cast
from uuid import UUID

from pydantic import ConfigDict

from domain.calendars import Calendar, counted_ms, later
from domain.codec import with_fields
from domain.copies import replace
from domain.values import JsonObject

SlaTarget = Literal["first_response", "next_response", "resolution"]


@dataclass(frozen=True, slots=True)
class SlaTargets:
    """What was promised for a ticket, in minutes of its clock; null for no promise. `calendar`:
    which minutes count, as of the version that held; null if all do.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    first_response_minutes: int | None
    resolution_minutes: int | None
    next_response_minutes: int | None = None
    calendar: Calendar | None = None

    @property
    def promises(self) -> bool:
        """Whether anything was promised."""
        made = self.first_response_minutes, self.next_response_minutes, self.resolution_minutes
        return made != (None, None, None)

    def minutes(self) -> dict[SlaTarget, int]:
        """Return how many were promised for each target, of those of which any were."""
        promised: tuple[tuple[SlaTarget, int | None], ...] = (
            ("first_response", self.first_response_minutes),
            ("next_response", self.next_response_minutes),
            ("resolution", self.resolution_minutes),
        )
        return {target: minutes for target, minutes in promised if minutes is not None}


without_promise = with_fields(sla={"first_response_minutes": None, "resolution_minutes": None})
"""Upcasts an event of a time when nothing was promised."""


def round_the_clock(data: JsonObject) -> JsonObject:
    """Upcast an event of a time when all time counted, and no next response was promised."""
    return {**data, "sla": {**cast("JsonObject", data["sla"]), **_ROUND_THE_CLOCK}}


NO_PROMISE = SlaTargets(None, None)
_ROUND_THE_CLOCK: JsonObject = {"next_response_minutes": None, "calendar": None}
_MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class TakenOver:
    """A promise that a merge has brought. `limit_ms`: as those of the ticket itself are counted;
    `ticket`: whose it was, null for who may not know.
    """

    target: SlaTarget
    limit_ms: int
    ticket: UUID | None


@dataclass(frozen=True, kw_only=True)
class SlaClock:
    """Where a ticket's clock stands. Times are UTC.

    `running`, `since`: whether it runs, and when it was last set going, stopped, or given another
    calendar; `elapsed_ms`: what had counted by then; `answered`: whether an agent has replied;
    `asked`: whether a message of the requester's waits for the next response, and `asked_ms` what
    had counted when it came, null once that time has run out; `overdue`: when the targets ran out
    of which the log says nothing yet, in order; `breached`: when those did of which it last said
    so; `taken_over`: promises of tickets that were merged into this one. Of two, the earlier holds.
    """

    targets: SlaTargets
    since: datetime
    running: bool = True
    elapsed_ms: int = 0
    answered: bool = False
    asked: bool = False
    asked_ms: int | None = None
    overdue: Mapping[SlaTarget, tuple[datetime, ...]] = field(default_factory=dict)
    breached: Mapping[SlaTarget, datetime] = field(default_factory=dict)
    taken_over: tuple[TakenOver, ...] = ()

    def due(self) -> dict[SlaTarget, datetime]:
        """Return when each target runs out that still can; nothing while the clock stands."""
        if not self.running or self.targets == NO_PROMISE:
            return {}
        return {
            target: later(self.targets.calendar, self.since, left_ms)
            for target, left_ms in self.left_ms().items()
        }

    def left_ms(self) -> dict[SlaTarget, int]:
        """Return what is left of each target that still can run out, as of `since`."""
        begun: dict[SlaTarget, int | None] = {
            "first_response": None if self.answered else 0,
            "next_response": self.asked_ms,
            "resolution": 0,
        }
        return {
            target: limit_ms - (self.elapsed_ms - from_ms)
            for target, limit_ms in self.limits_ms().items()
            if (from_ms := begun[target]) is not None
            and (target == "next_response" or not self.has_run_out(target))
        }

    def limits_ms(self) -> dict[SlaTarget, int]:
        """Return within which time of the clock each target holds of which the desk has promised
        anything: it may have been promised earlier for a ticket that was merged into this one.
        """
        limits = {
            target: minutes * _MINUTE_MS for target, minutes in self.targets.minutes().items()
        }
        for each in self.taken_over:
            if each.target in limits:
                limits[each.target] = min(limits[each.target], each.limit_ms)
        return limits

    def has_run_out(self, target: SlaTarget) -> bool:
        """Say whether it has: of the next response, for any message."""
        return target in self.overdue or target in self.breached

    def shown(self) -> dict[SlaTarget, datetime]:
        """Return when each target runs out, or ran out; that of a next response only while it is
        waited for.
        """
        overdue = {target: times[-1] for target, times in self.overdue.items()}
        shown = {**self.breached, **overdue}
        if not self.asked or self.asked_ms is not None:
            shown.pop("next_response", None)
        return {**shown, **self.due()}

    def next_due(self) -> tuple[datetime, SlaTarget] | None:
        """Return the target that is overdue, or will be next, and when it runs out."""
        overdue = ((times[0], target) for target, times in self.overdue.items())
        return min((*overdue, *((at, target) for target, at in self.due().items())), default=None)

    def at(self, now: datetime) -> "SlaClock":
        """Let time pass: what has run out by `now` is overdue."""
        if not (due := self.due()):
            return self
        ran_out = {target: at for target, at in due.items() if at <= now}
        if not ran_out:
            return self
        new = {target: (*self.overdue.get(target, ()), at) for target, at in ran_out.items()}
        asked_ms = None if "next_response" in ran_out else self.asked_ms
        return replace(self, overdue={**self.overdue, **new}, asked_ms=asked_ms)

    def switched(self, now: datetime, *, running: bool) -> "SlaClock":
        """Set going or stop. A time before the last switch, as in an unordered log, adds none."""
        return self if running == self.running else replace(self._counted(now), running=running)

    def promising(self, targets: SlaTargets, now: datetime) -> "SlaClock":
        """Promise something else, counted from the same beginning: by another calendar from now."""
        same = targets.calendar == self.targets.calendar
        return replace(self if same else self._counted(now), targets=targets)

    def with_answer(self) -> "SlaClock":
        """Note an agent's reply."""
        left = tuple(each for each in self.taken_over if each.target == "resolution")
        return replace(self, answered=True, asked=False, asked_ms=None, taken_over=left)

    def with_question(self, now: datetime) -> "SlaClock":
        """Note a requester's message, which waits for the next response unless one does already, or
        for the first if there was none.
        """
        if self.asked or not self.answered:
            return self
        return replace(self, asked=True, asked_ms=self.elapsed_ms + self._passed_ms(now))

    def taking_over(self, target: SlaTarget, due_at: datetime, ticket: UUID | None) -> "SlaClock":
        """Promise as well what another ticket was promised for `due_at`."""
        left_ms = counted_ms(self.targets.calendar, self.since, due_at)
        from_ms = self.asked_ms or 0 if target == "next_response" else 0
        limit_ms = left_ms + self.elapsed_ms - from_ms
        return replace(self, taken_over=(*self.taken_over, TakenOver(target, limit_ms, ticket)))

    def giving_back(self, target: SlaTarget) -> "SlaClock":
        """Take the last promise of a kind away that was taken over."""
        last = [each for each in self.taken_over if each.target == target][-1:]
        return replace(self, taken_over=tuple(t for t in self.taken_over if t not in last))

    def with_breach(self, target: SlaTarget, due_at: datetime) -> "SlaClock":
        """Note that the log says it."""
        left = {**self.overdue, target: self.overdue.get(target, ())[1:]}
        is_new = target == "next_response" and target not in self.overdue
        return replace(
            self,
            asked_ms=None if is_new else self.asked_ms,
            overdue={other: times for other, times in left.items() if times},
            breached={**self.breached, target: due_at},
        )

    def _counted(self, now: datetime) -> "SlaClock":
        """Count up to now."""
        elapsed_ms = self.elapsed_ms + self._passed_ms(now)
        return replace(self, since=max(now, self.since), elapsed_ms=elapsed_ms)

    def _passed_ms(self, now: datetime) -> int:
        """Return what has counted since `since`."""
        if not self.running or now <= self.since:
            return 0
        return counted_ms(self.targets.calendar, self.since, now)
