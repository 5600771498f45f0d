"""What a ticket adds to the dashboard's counters, as a pure fold of its events.

Every number of the dashboard, of today and of any past day, is a sum of *entries*. An entry is

    day | metric | group | label: n

(day, the ticket's group, how many), and each event of a ticket adds some. They are of two
kinds. *Happenings* are counted on their day: what was created, resolved ..., and how long it took.
*States* are kept as what changed: a ticket that goes from open to pending adds -1 to open and +1 to
pending on that day, so that the sum of all days up to one is how it stood at the end of that day.

    metric          labels
    happened        created, resolved, reopened, closed, breached_first_response,
                    breached_next_response, breached_resolution: how often
    first_response  b<i>: answers that took a time of bucket i; ms: their milliseconds in all
    resolution      the same for resolutions, each counted from the opening of its ticket
    status          all tickets by status
    priority        unsolved tickets (neither resolved nor closed) by priority
    group, assignee, opened_on, sla
                    unsolved tickets by these; sla: none, running, paused, breached
    rating          rated tickets by score

A ticket's entries are kept in its read document. So what a ticket has added is known exactly, a
change of a ticket changes the counters by the difference, and all counters are at all times the sum
over the read documents, whatever a fold has done in the past.

A day is never before that of the ticket's event before: if a clock was set back, the sums up to a
day would come out negative otherwise.

Days are those of the time zones of a generation (`Generation.zones`), the desk's own first. An
entry has its day in each, as `days.written` writes them: `2026-03-01,,2026-03-02` is one day in the
first two zones and another in the third. So has the label of `opened_on`.
"""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, timedelta
from functools import lru_cache
from math import ceil
from typing import Literal, NamedTuple, get_args
from urllib.parse import unquote

from domain import days
from domain.days import DAYS, Zones
from domain.tickets.conversation import AgentReplied
from domain.tickets.lifecycle import TicketClosed, TicketReopened, TicketResolved
from domain.tickets.promises import SlaBreached
from domain.tickets.relations import TicketMergedInto
from domain.tickets.ticket import UNSOLVED, Status, Ticket, TicketEvent
from domain.values import Priority
from projections.views.sum_view import Entries, mark

State = Literal["status", "priority", "group", "assignee", "opened_on", "sla", "rating"]
Time = Literal["first_response", "resolution"]
Metric = Literal["happened", State, Time]
STATES: tuple[State, ...] = get_args(State)
TIMES: tuple[Time, ...] = get_args(Time)

_MILLISECOND = timedelta(milliseconds=1)
_BUCKETS_PER_DOUBLING = 4
_DOUBLINGS = 27  # from a second to four years
BOUNDS_MS = tuple(
    round(1000 * 2 ** (i / _BUCKETS_PER_DOUBLING))
    for i in range(_BUCKETS_PER_DOUBLING * _DOUBLINGS + 1)
)
"""Bucket i holds times above bound i - 1 and up to bound i; one more bucket what is longer."""
_NONE = "%"
_EMPTY = "%%"
"""How no name, and the empty one, are written; the quoting of a name never gives these."""
_Standing = tuple[Status, str | None, Priority, str | None, int | None, str]
"""Status, group, priority, assignee, rating and clock: what the states of a ticket go by."""
_QUOTED = re.compile(r"[%.$|\x00]")
ENTRY = re.compile(rf"{DAYS}\|[a-z_]+\|[^|.$\x00]+\|[^|.$\x00]+")
"""Entries' keys `day|metric|group|label`, group and label as `word` writes them."""


class Before(NamedTuple):
    """What is to be known of a ticket as it was before an event, which changes it in place."""

    standing: _Standing
    answered: bool

    @classmethod
    def of(cls, ticket: Ticket) -> "Before":
        return cls(_standing(ticket), ticket.sla.answered)


def entries(
    before: Before | None,
    after: Ticket,
    event: TicketEvent,
    zones: Zones,
    *,
    opened_at: datetime,
    at: datetime,
) -> dict[str, int]:
    """Return what one event adds; `at`: its time, or that of the event before if that was later."""
    change: dict[str, int] = {}
    stood = None if before is None else before.standing
    stands = _standing(after)
    happened = [*_happened(before, event, at - opened_at)]
    if stood == stands and not happened:
        return change
    day, group = days.written(zones, at), word(after.group)
    if stood != stands:
        opened_on = days.written(zones, opened_at)
        was = () if stood is None else _states(stood, opened_on)
        is_ = _states(stands, opened_on)
        change.update((f"{day}|{state}", -1) for state in was if state not in is_)
        change.update((f"{day}|{state}", 1) for state in is_ if state not in was)
    for metric, label, n in happened:
        change[f"{day}|{metric}|{group}|{label}"] = n
    return change


def took(age: timedelta) -> tuple[tuple[str, int], tuple[str, int]]:
    """Return the labels of a time that something took: its bucket once, and its milliseconds."""
    milliseconds = max(0, age // _MILLISECOND)
    return (f"b{bisect_left(BOUNDS_MS, milliseconds)}", 1), ("ms", milliseconds)


def _standing(ticket: Ticket) -> _Standing:
    rating = None if ticket.rating is None else ticket.rating.score
    group, assignee = ticket.group, ticket.assignee
    return ticket.status, group, ticket.priority, assignee, rating, _sla(ticket)


@lru_cache(maxsize=8192)
def _states(standing: _Standing, opened_on: str) -> tuple[str, ...]:
    """Return the states that a ticket is counted in: as many are alike, each is written once."""
    status, group_name, priority, assignee, rating, sla = standing
    group = word(group_name)
    found = [f"status|{group}|{status}"]
    if rating is not None:
        found.append(f"rating|{group}|{rating}")
    if status in UNSOLVED:
        found += [
            f"priority|{group}|{priority}",
            f"group|{group}|{group}",
            f"assignee|{group}|{word(assignee)}",
            f"opened_on|{group}|{opened_on}",
            f"sla|{group}|{sla}",
        ]
    return tuple(found)


def _sla(ticket: Ticket) -> str:
    clock = ticket.sla
    if clock.breached:
        return "breached"
    if not clock.targets.promises:
        return "none"
    return "running" if clock.running else "paused"


def _happened(
    before: Before | None, event: TicketEvent, age: timedelta
) -> Iterator[tuple[Metric, str, int]]:
    """Yield what has happened, and how long it took: metric, label, how many."""
    if before is None:
        yield "happened", "created", 1
    match event:
        case AgentReplied(automatic=False) if before is not None and not before.answered:
            yield from (("first_response", label, n) for label, n in took(age))
        case TicketResolved():
            yield "happened", "resolved", 1
            yield from (("resolution", label, n) for label, n in took(age))
        case TicketReopened():
            yield "happened", "reopened", 1
        case TicketClosed() | TicketMergedInto():
            yield "happened", "closed", 1
        case SlaBreached(target):
            yield "happened", f"breached_{target}", 1
        case _:
            return


def add(total: dict[str, int], more: Entries) -> None:
    """Add entries to a sum of entries, without zeros, or to what a first event adds."""
    for key, n in more.items():
        if sum_ := total.get(key, 0) + n:
            total[key] = sum_
        else:
            total.pop(key, None)


def happened(counted: Entries, label: str) -> int:
    """Return how often something has happened to a ticket: `resolved`, `reopened` ..."""
    return sum(n for key, n in counted.items() if key.split("|")[1::2] == ["happened", label])


# --- the counters that are kept: sums by day, month and year --------------------------------------

Span = Literal["day", "month", "year"]
SPANS: Mapping[int, Span] = {10: "day", 7: "month", 4: "year"}
"""By the length of a period as it is written."""
_OF_A_DAY = 2 * len(SPANS)
"""In so many places what is of a day is counted: by each span, in all and of its group."""


def numbers(entries: Entries) -> Iterator[tuple[str, str, int]]:
    """Yield which counters entries change: `<period>/<group>`, of all ("") and of their group.

    Kept by month and year as well, so that the sum of all days up to one takes some fifty
    counters and not thousands.
    """
    for key, n in entries.items():
        of_zones, metric, group, label = key.split("|")
        places = _places(of_zones, group)
        if metric == "opened_on" and "," in label:
            for where, opened_on in zip(places, days.read(label) * _OF_A_DAY, strict=False):
                yield where, f"{metric}.{opened_on}", n
            continue
        path = f"{metric}.{label}"
        for where in places:
            yield where, path, n


@lru_cache(maxsize=8192)
def _places(of_zones: str, group: str) -> tuple[str, ...]:
    """Return where what is of a day and a group is counted, again and again for each zone: as many
    entries are of one day, each place is written once.
    """
    listed = days.read(of_zones)
    return tuple(
        f"{mark(zone)}{day[:length]}/{of}"
        for length in SPANS
        for of in ("", group)
        for zone, day in enumerate(listed)
    )


def until(day: date) -> list[tuple[Span, str, str]]:
    """Return the periods that make up all time until the end of a day: span, from, before."""
    today = day.isoformat()
    year, month = today[:4], today[:7]
    return [("year", "", year), ("month", year, month), ("day", month, f"{today}~")]


# --- what is told ---------------------------------------------------------------------------------


def quantile_ms(buckets: Mapping[int, int], total_ms: int, share: float) -> int | None:
    """Return a time within which at least this share stayed, of times that add up to `total_ms`;
    None if there is nothing.

    The upper bound of the bucket in which it lies: at most 19 % above the exact one, for times of
    a second and more. Or what all that took as long or longer can have taken each, if that is less:
    so of a single time it is exact.
    """
    count = sum(buckets.values())
    wanted = max(1, ceil(share * count))
    reached = 0
    for bucket, n in sorted(buckets.items()):
        reached += n
        if n and reached >= wanted:
            bound = BOUNDS_MS[min(bucket, len(BOUNDS_MS) - 1)]
            return min(bound, total_ms // (count - wanted + 1))
    return None


AGES: tuple[tuple[str, int], ...] = (
    ("today", 1),
    ("1-2 days", 3),
    ("3-6 days", 7),
    ("7-29 days", 30),
    ("30-89 days", 90),
)
_OLDER = "90 days or more"


def by_age(opened_on: Iterable[tuple[str, int]], day: date) -> dict[str, int]:
    """Return how many of the tickets that were opened on certain days are how old on a day."""
    ages: Counter[str] = Counter()
    for opened, n in opened_on:
        age = (day - date.fromisoformat(opened)).days
        ages[next((name for name, below in AGES if age < below), _OLDER)] += n
    return {name: ages[name] for name in (*(name for name, _ in AGES), _OLDER) if ages[name]}


@lru_cache(maxsize=4096)
def word(name: str | None) -> str:
    """Write a name, or None, so that it can be part of a key and of a document's path."""
    if not name:
        return _NONE if name is None else _EMPTY
    return _QUOTED.sub(lambda found: f"%{ord(found[0]):02X}", name)


def name(word: str) -> str | None:
    """Read what `word` has written."""
    if word in (_NONE, _EMPTY):
        return None if word == _NONE else ""
    return unquote(word)
