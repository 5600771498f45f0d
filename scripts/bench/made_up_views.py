"""Views of tickets that no log has: folded from made-up lives, in as many copies as wanted."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice
from uuid import UUID, uuid4

from domain.codec import EventData
from domain.values import JsonObject
from eventstore.database import Database
from eventstore.event_document import EMPTY, CommandRef, Envelope, Metadata, chained
from projections.views import tickets
from projections.views.dashboard import word
from projections.views.dashboard_counters import Counters
from projections.views.tickets import TicketRead
from scripts.testbed.services import ACTOR

DAYS = 730
GROUPS = 12
_LIVES = 500
_INSERTED_AT_ONCE = 250
_FIRST_DAY = datetime(2024, 1, 1, 9, tzinfo=UTC)
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_YEAR = timedelta(days=365)


def made_up_lives(first: datetime = _FIRST_DAY, groups: int = GROUPS) -> list[TicketRead]:
    """Fold the lives of some tickets of so many groups, which were opened in the two years from a
    first day on.
    """
    return [_life(first, groups, random.Random(n)) for n in range(max(_LIVES, groups))]  # noqa: S311


def copies(lives: Sequence[TicketRead], count: int) -> Iterator[TicketRead]:
    """Yield so many tickets with these lives."""
    for life in islice(cycle(lives), count):
        yield replace(life, id=uuid4())


async def write_views(shown: Database, reads: Iterable[TicketRead]) -> None:
    """Write read documents and what they add to counters, as a projector would have."""
    counted: Counter[str] = Counter()
    waiting = iter(reads)
    while some := [*islice(waiting, _INSERTED_AT_ONCE)]:
        documents = [tickets.to_document(read) for read in some]
        await shown.collection(tickets.COLLECTION).insert_many(documents, ordered=False)
        for read in some:
            counted.update(read.counted)
        await asyncio.sleep(0)
    writes = Counters(shown).writes(counted, 0)
    for start in range(0, len(writes), _INSERTED_AT_ONCE):
        await shown.write(writes[start : start + _INSERTED_AT_ONCE])


def _life(first: datetime, groups: int, chance: random.Random) -> TicketRead:
    at = first + timedelta(hours=chance.randrange(24 * DAYS))
    opening: JsonObject = {
        "subject": "Printer jam",
        "body": "It jams on every page. " * 5,
        "requester": f"customer {chance.randrange(5000)}",
        "priority": chance.choice(["low", "normal", "normal", "high", "urgent"]),
        "group": f"group {chance.randrange(groups)}",
        "tags": [],
        "fields": {},
    }
    story: list[tuple[str, JsonObject, float]] = [
        ("TicketOpened", opening, 0),
        ("TicketAssigned", {"assignee": f"agent {chance.randrange(60)}"}, 2),
        ("AgentReplied", {"body": "Please try the other tray."}, chance.uniform(0.1, 30)),
    ]
    if chance.random() < 0.9:
        story.append(("TicketResolved", {"resolution": "toner"}, chance.uniform(1, 400)))
        if chance.random() < 0.1:
            story.append(("TicketReopened", {"reason": "no"}, 20))
        else:
            story.append(("TicketClosed", {"reason": None}, 72))
    about = Metadata(ACTOR, CommandRef("bench", "f"))
    envelopes: list[Envelope] = []
    for version, (type_, data, hours) in enumerate(story, start=1):
        at += timedelta(hours=hours)
        [event] = chained(UUID(int=1), EMPTY, [EventData(type_, 1, data)], about, at, at)
        envelopes.append(event._replace(version=version))
    read = tickets.fold(None, envelopes)
    if read is None:
        raise AssertionError("a life has events")
    return read


# --- histories of different shapes ----------------------------------------------------------------


def _gaps(chance: random.Random) -> datetime:
    """In bursts of a day; in the first and in the last there is less than a page."""
    [year] = chance.choices((1998, 2006, 2015, 2025), (1, 100, 100, 1))
    return datetime(year, 3, 1, tzinfo=UTC) + timedelta(days=1) * chance.random()


def _ahead(chance: random.Random) -> datetime:
    """Some of them in years to come."""
    return _even(chance) if chance.random() > 0.005 else _NOW + 10 * _YEAR * chance.random()


def _even(chance: random.Random) -> datetime:
    return _NOW - 2 * _YEAR * chance.random()


SHAPES: Mapping[str, Callable[[random.Random], datetime]] = {
    "even": _even,
    "all old": lambda chance: datetime(2009, 1, 1, tzinfo=UTC) + _YEAR * chance.random(),
    # Within a minute, a third at one moment.
    "one burst": lambda chance: _NOW + timedelta(minutes=1) * max(chance.random() - 1 / 3, 0),
    "gaps of years": _gaps,
    "dates ahead": _ahead,
}
"""When a ticket was opened, in histories of different shapes."""


def history(shape: str, count: int, seed: int = 1) -> Iterator[TicketRead]:
    """Yield tickets as the view holds them, opened as the shape says; of the counters they have
    those that say on which days there were tickets.
    """
    chance = random.Random(seed)  # noqa: S311
    for life in islice(cycle(made_up_lives()), count):
        by = SHAPES[shape](chance) - life.opened_at
        by -= timedelta(microseconds=by.microseconds % 1000)
        opened, updated = life.opened_at + by, life.updated_at + by
        group = word(life.ticket.group)
        yield replace(
            life,
            id=UUID(int=chance.getrandbits(128), version=4),
            opened_at=opened,
            updated_at=updated,
            resolved_at=None if life.resolved_at is None else life.resolved_at + by,
            counted={
                f"{opened.date()}|happened|{group}|created": 1,
                f"{updated.date()}|happened|{group}|closed": 1,
            },
        )
