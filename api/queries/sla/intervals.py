"""What was promised for a ticket, and each interval of its time, counted or not, with the reason.

Followed event by event beside the ticket's own fold, whose clock it asks; which part of an interval
counts, and why another does not, is the calendar's to say. What the intervals count for a promise
is what is used of it, and with what is left all that was promised. (Where an imported log has
events out of order, the ticket's clock passes over time that comes twice, and they may differ.)
"""

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar, Literal, NamedTuple
from uuid import UUID

from pydantic import ConfigDict

from api.model import DESCRIBED
from domain.calendars import Calendar, Why, stretches
from domain.calendars import from_ms as time_of
from domain.sla import SlaClock, SlaTarget
from domain.tickets.ticket import Status, Ticket, clock_at

MOST_INTERVALS = 2000
_MILLISECOND = timedelta(milliseconds=1)

State = Literal["counting", "paused", "kept", "missed", "idle"]


@dataclass(frozen=True, slots=True)
class Interval:
    """Time of a ticket in which the same was so."""

    __pydantic_config__: ClassVar[ConfigDict] = DESCRIBED
    start: datetime
    end: datetime
    why: Why | Literal["paused"]
    """`open`: it counts. `closed`, `holiday`: not by the calendar. `paused`: the clock stood, by
    the ticket's status.
    """
    counted_ms: int
    counts_for: tuple[SlaTarget, ...]
    status: Status
    reason: str | None
    """Why the ticket waited."""
    calendar: str | None
    """`name@version`, as in `calendars`; null: none."""
    utc_offset_minutes: int | None
    """Of the calendar's zone."""
    clock_change_minutes: int | None
    """By how much its clock was set forward at `start`, or back."""


@dataclass(frozen=True, slots=True)
class Promise:
    """How a promise stands."""

    __pydantic_config__: ClassVar[ConfigDict] = DESCRIBED
    target: SlaTarget
    state: State
    """`idle`: no message waits for the next response. `missed` may still go on."""
    promised_ms: int
    used_ms: int
    """What has been counted for it since `since`."""
    left_ms: int
    """What was promised less what is used; below zero if missed."""
    omitted_ms: int
    """What of `used_ms` is in no interval that is shown."""
    since: datetime | None
    """The opening, or the message that waits."""
    due_at: datetime | None
    """As on the ticket: null while the clock stands."""
    merged_from: UUID | None
    """The merged ticket whose promise this is: it was due earlier than the own one."""


class _Standing(NamedTuple):
    """What an interval goes on for, as long as it does not change."""

    running: bool
    status: Status
    reason: str | None
    calendar: Calendar | None
    open: tuple[SlaTarget, ...]


class Derivation:
    """Follows a ticket: call `before` and `after` with each of its events, and then `promises`."""

    def __init__(self, most: int = MOST_INTERVALS) -> None:
        """`most`: how many intervals are kept, the newest."""
        self.intervals: deque[Interval] = deque()
        self._calendars: dict[str, Calendar] = {}
        self._most = most
        self._since: dict[SlaTarget, datetime] = {}
        self._used_ms: Counter[SlaTarget] = Counter()
        self._omitted_ms: Counter[SlaTarget] = Counter()
        self._standing: _Standing | None = None
        self._from: datetime | None = None

    def before(self, ticket: Ticket, at: datetime) -> None:
        """Take up that a wait was over by `at`, which has set the clock going."""
        clock = clock_at(ticket, at)
        if clock.running and not ticket.sla.running:
            self._go_on(ticket, clock, clock.since)

    def after(self, ticket: Ticket, at: datetime) -> None:
        """Take up where a ticket stands from `at` on."""
        self._go_on(ticket, ticket.sla, at)

    def promises(self, ticket: Ticket, now: datetime) -> list[Promise]:
        """Return how each promise stands at `now`, with `intervals` up to then."""
        self.before(ticket, now)
        self._close(now)
        return [*self._promises(ticket, clock_at(ticket, now))]

    def calendars(self) -> dict[str, Calendar]:
        """Return those that the intervals name."""
        named = {each.calendar for each in self.intervals}
        return {name: each for name, each in self._calendars.items() if name in named}

    def _promises(self, ticket: Ticket, clock: SlaClock) -> Iterator[Promise]:
        for target, promised_ms in clock.limits_ms().items():
            used_ms = self._used_ms[target]
            brought = (each for each in clock.taken_over if each.target == target)
            earlier = (each.ticket for each in brought if each.limit_ms == promised_ms)
            yield Promise(
                target,
                _state(target, ticket, clock),
                promised_ms,
                used_ms,
                promised_ms - used_ms,
                self._omitted_ms[target],
                self._since.get(target),
                clock.shown().get(target),
                next(earlier, None),
            )

    def _go_on(self, ticket: Ticket, clock: SlaClock, at: datetime) -> None:
        standing = _Standing(
            clock.running,
            ticket.status,
            ticket.waiting_reason,
            clock.targets.calendar,
            _still_open(ticket, clock),
        )
        if standing == self._standing:
            return
        if standing.calendar is not None:
            self._calendars[_name(standing.calendar)] = standing.calendar
        self._close(at)
        before = () if self._standing is None else self._standing.open
        for target in standing.open:
            if target not in before and (target == "next_response" or target not in self._since):
                self._since[target] = at
                self._used_ms[target] = self._omitted_ms[target] = 0
        self._standing = standing

    def _close(self, at: datetime) -> None:
        """End the interval that goes on, and begin another."""
        if self._standing is None or self._from is None:
            self._from = at
        elif at > self._from:
            for interval in _parts(self._standing, self._from, at):
                self._keep(interval)
            self._from = at

    def _keep(self, interval: Interval) -> None:
        for target in interval.counts_for:
            self._used_ms[target] += interval.counted_ms
        self.intervals.append(interval)
        if len(self.intervals) > self._most:
            gone = self.intervals.popleft()
            for target in gone.counts_for:
                if gone.start >= self._since[target]:
                    self._omitted_ms[target] += gone.counted_ms


def _name(calendar: Calendar) -> str:
    return f"{calendar.name}@{calendar.version}"


def _still_open(ticket: Ticket, clock: SlaClock) -> tuple[SlaTarget, ...]:
    going_on: dict[SlaTarget, bool] = {
        "first_response": not clock.answered,
        "next_response": clock.asked,
        "resolution": ticket.status not in ("resolved", "closed"),
    }
    return tuple(target for target, is_open in going_on.items() if is_open)


def _state(target: SlaTarget, ticket: Ticket, clock: SlaClock) -> State:
    """Return how a promise stands: of next responses, the one to the last message."""
    is_open = target in _still_open(ticket, clock)
    if target == "next_response":
        if not is_open:
            return "idle"
        is_missed = clock.asked_ms is None
    else:
        is_missed = clock.has_run_out(target)
    if is_missed:
        return "missed"
    if not is_open:
        return "kept"
    return "counting" if clock.running else "paused"


def _parts(standing: _Standing, start: datetime, end: datetime) -> Iterator[Interval]:
    by = None if standing.calendar is None else _name(standing.calendar)
    about = standing.status, standing.reason, by
    whole_ms = (end - start) // _MILLISECOND
    if not standing.running:
        yield Interval(start, end, "paused", 0, (), *about, None, None)
    elif standing.calendar is None:
        yield Interval(start, end, "open", whole_ms, standing.open, *about, None, None)
    else:
        ahead_ms = None
        for part in stretches(standing.calendar, start, end):
            changed_ms = 0 if ahead_ms is None else part.offset_ms - ahead_ms
            ahead_ms = part.offset_ms
            counted_ms = part.end - part.start if part.why == "open" else 0
            yield Interval(
                time_of(part.start),
                time_of(part.end),
                part.why,
                counted_ms,
                standing.open if counted_ms else (),
                *about,
                part.offset_ms // 60_000,
                changed_ms // 60_000 or None,
            )
