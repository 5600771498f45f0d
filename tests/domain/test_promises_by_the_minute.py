"""What was promised, walked through minute by minute, against the clock of `domain/sla.py`.

Short random histories around changes of clocks and holidays in ten zones. The oracle shares no code
with what it checks, and knows no arithmetic of times: it goes from one minute to the next, asks
what a clock on the wall shows (`tests/business_hours.py`), and adds a minute to what is used. Some
histories are walked in each run of the tests; `CASEBOOK_TEST_HISTORIES=100000` walks so many.
"""

import os
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from domain.calendars import Calendar
from domain.sla import SlaTargets
from domain.tickets.conversation import AgentReplied, RequesterReplied
from domain.tickets.lifecycle import StatusUpdated, TicketReopened, TicketResolved
from domain.tickets.promises import PriorityChanged, SlaChanged
from domain.tickets.ticket import TicketEvent, clock_at, evolve
from tests import business_hours
from tests.domain.test_calendars import ALWAYS, CHANGES, NIGHTS, NINE_TO_FIVE, WITH_LUNCH
from tests.spec import opened

HISTORIES = int(os.environ.get("CASEBOOK_TEST_HISTORIES", "300"))
MINUTE = timedelta(minutes=1)
ODD = tuple((day, *span) for day in range(7) for span in ((17, 95), (131, 1439)))
PATTERNS = (NINE_TO_FIVE, WITH_LUNCH, ALWAYS, NIGHTS, ODD, ((0, 0, 1440), (6, 90, 210)))


@dataclass
class Walk:
    """The oracle: where a ticket's promises stand at a minute."""

    now: datetime
    targets: SlaTargets
    status: str = "new"
    resume_at: datetime | None = None
    answered: bool = False
    asked: bool = False
    used: dict[str, int] = field(default_factory=lambda: {"first_response": 0, "resolution": 0})
    gone: set[str] = field(default_factory=set)
    missed: list[tuple[str, datetime]] = field(default_factory=list)

    def upto(self, time: datetime) -> None:
        while self.now < time:
            self.look()
            waits = self.status in ("pending", "resolved")
            if waits and self.resume_at is not None and self.resume_at <= self.now:
                waits = False
            if not waits and business_hours.counts(self.calendar, self.now):
                for target in self.used:
                    self.used[target] += 1
            self.now += MINUTE
        self.look()

    @property
    def calendar(self):
        return business_hours.as_stored(self.targets.calendar)

    def look(self) -> None:
        """Note what has run out by now."""
        for target, used in self.used.items():
            limit = getattr(self.targets, f"{target}_minutes")
            if limit is not None and used == limit and target not in self.gone:
                self.gone.add(target)
                self.missed.append((target, self.now))

    def take(self, event) -> None:
        match event:
            case AgentReplied():
                self.answered, self.asked = True, False
                self.used.pop("first_response", None)
                self.used.pop("next_response", None)
                self.status = "open" if self.status == "new" else self.status
            case RequesterReplied() if self.answered and not self.asked:
                self.asked = True
                self.used["next_response"] = 0
                self.gone.discard("next_response")
            case StatusUpdated(status, _, resume_at):
                self.status, self.resume_at = status, resume_at
            case TicketResolved():
                self.status, self.resume_at = "resolved", None
            case TicketReopened():
                self.status, self.resume_at = "open", None
            case PriorityChanged(_, sla) | SlaChanged(sla):
                self.targets = sla


def walked(events: list[tuple[TicketEvent, datetime]], end: datetime) -> Walk:
    """Walk through a ticket's events, and on to `end`."""
    (first, start), *others = events
    walk = Walk(start, evolve(None, first, start).sla.targets)
    for event, at in others:
        walk.upto(at)
        walk.take(event)
    walk.upto(end)
    return walk


def targets(chance: random.Random, zone: str, day: datetime) -> SlaTargets:
    holidays = {f"{day + timedelta(days=chance.randint(-2, 3)):%Y-%m-%d}" for _ in range(2)}
    calendar = Calendar(
        chance.choice("ab"), 1, zone, chance.choice(PATTERNS), tuple(sorted(holidays))
    )
    # More than has been used, or a target has run out at a time when it had not been promised.
    first, after, whole = (
        chance.choice((None, chance.randint(1, most))) for most in (400, 200, 900)
    )
    return SlaTargets(first, whole, after, chance.choice((calendar, calendar, calendar, None)))


def history(chance: random.Random):
    """A ticket's events with their times, within three days of a change of clock."""
    zone = chance.choice(sorted(CHANGES))
    day = datetime.fromisoformat(chance.choice(CHANGES[zone])).replace(tzinfo=UTC)
    now = day + chance.randint(-2160, 720) * MINUTE
    promised = targets(chance, zone, day)
    events: list[tuple[TicketEvent, datetime]] = [(opened(sla=promised), now)]
    status = "new"
    for _ in range(chance.randint(0, 10)):
        now += chance.choice((1, 20, 60, 200)) * chance.randint(0, 4) * MINUTE
        event: TicketEvent
        if status == "resolved":
            event = TicketReopened(None)
        else:
            resume_at = now + chance.randint(1, 600) * MINUTE if chance.random() < 0.5 else None
            # Another calendar, and the same times: shorter ones may have run out in the past.
            other = targets(chance, zone, day)
            event = chance.choice(
                (
                    *(AgentReplied("x"), AgentReplied("x")),
                    RequesterReplied("x"),
                    RequesterReplied("x"),
                    StatusUpdated("pending", "x", resume_at),
                    StatusUpdated("on_hold", "x", None),
                    StatusUpdated("open", None, None),
                    TicketResolved("x"),
                    SlaChanged(replace(promised, calendar=other.calendar)),
                )
            )
        match event:
            case TicketResolved():
                status = "resolved"
            case TicketReopened() | StatusUpdated():
                status = "open"
            case SlaChanged(sla):
                promised = sla
        events.append((event, now))
    return events, now + chance.randint(0, 600) * MINUTE


def check(seed: int) -> Counter[str]:
    """Walk one history; return what was in it."""
    events, end = history(random.Random(seed))  # noqa: S311 not for secrets
    ticket = None
    for event, at in events:
        ticket = evolve(ticket, event, at)
    assert ticket is not None
    now = clock_at(ticket, end)
    walk = walked(events, end)
    missed = sorted((target, at) for target, times in now.overdue.items() for at in times)
    assert missed == sorted(walk.missed), seed
    foreseen = {target: at for target, at in now.due().items() if at <= end + timedelta(days=2)}
    if now.running:
        known = len(walk.missed)
        walk.upto(max(foreseen.values(), default=end))
        assert foreseen == dict(walk.missed[known:]), seed
    return Counter(
        histories=1,
        events=len(events),
        missed=len(missed),
        missed_next=sum(target == "next_response" for target, _ in missed),
        foreseen=len(foreseen),
    )


def test_a_walk_through_every_minute_says_the_same():
    """L7: of what was missed, and of what will be."""
    seen: Counter[str] = Counter()
    for seed in range(HISTORIES):
        seen += check(seed)
    print(dict(seen))
    assert min(seen[name] for name in ("missed", "missed_next", "foreseen")) > HISTORIES // 20
