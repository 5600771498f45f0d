"""What is written for good is dated by the database's clock, whatever a process's own says."""

import asyncio
import logging
from contextlib import asynccontextmanager
from copy import copy
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from pymongo.errors import ConnectionFailure

from api.access.keys import KeyOrder, Keys
from api.app import create_app
from api.desk.store import Desks
from api.timekeeper.timekeeper import Timekeeper
from domain.desk import Desk, SlaPolicy
from eventstore.event_document import utc_now
from eventstore.log import EventStore
from eventstore.mongo.clock import FAR_OFF_SECONDS, DatabaseClock
from tests.api.test_api import OPEN, asking
from tests.callers import REQUESTER, access
from tests.projecting import by_utc, caught_up, running
from tests.spec import ALICE

HOUR = timedelta(hours=1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Times:
    """A database's clock, a process's, and seconds that pass; each is set by the test."""

    def __init__(self) -> None:
        self.database = self.own = NOON
        self.ticks = 100.0
        self.answer_seconds = 0.0
        self.asked = 0
        self.answers = True

    def clock(self) -> DatabaseClock:
        return DatabaseClock(self.ask, lambda: self.own, lambda: self.ticks)

    async def ask(self) -> datetime:
        self.asked += 1
        if not self.answers:
            raise ConnectionFailure
        self.pass_(self.answer_seconds / 2)
        told = self.database
        self.pass_(self.answer_seconds / 2)
        return told

    def pass_(self, seconds: float) -> None:
        self.ticks += seconds
        self.database += timedelta(seconds=seconds)
        self.own += timedelta(seconds=seconds)


async def test_the_time_is_the_databases_and_goes_on_between_questions():
    times = Times()
    times.own -= HOUR
    clock = times.clock()
    assert clock.now() == NOON - HOUR  # nothing better is known
    assert await clock.time() == NOON
    for _ in range(9):
        times.pass_(1)
        assert await clock.time() == clock.now() == times.database
    assert times.asked == 1
    times.pass_(2)
    times.database += timedelta(seconds=3)  # it was set
    assert await clock.time() == times.database
    assert times.asked == 2


async def test_a_clock_that_is_set_dates_nothing():
    times = Times()
    clock = times.clock()
    await clock.time()
    times.own += HOUR
    assert clock.now() == NOON
    assert await clock.time() == NOON
    assert times.asked == 2  # the machine may as well have slept
    assert (clock.off_seconds, clock.is_far_off) == (3600.0, True)


async def test_a_slow_answer_makes_no_clock_wrong():
    times = Times()
    clock = times.clock()
    times.answer_seconds = 4 * FAR_OFF_SECONDS
    assert await clock.measure() == NOON + timedelta(seconds=2 * FAR_OFF_SECONDS)
    assert clock.now() == times.database
    times.own += timedelta(seconds=2 * FAR_OFF_SECONDS)  # less than is known
    assert not clock.is_far_off
    times.answer_seconds = 0.0
    await clock.measure()
    assert clock.is_far_off


async def test_a_silent_database_is_not_asked_by_every_command():
    times = Times()
    clock = times.clock()
    times.answers = False
    assert await asyncio.gather(*(clock.time() for _ in range(20))) == [NOON] * 20
    assert times.asked == 1
    times.answers = True
    times.pass_(3)
    assert await clock.time() == times.database
    times.answers = False
    times.pass_(11)
    assert await asyncio.gather(*(clock.time() for _ in range(20))) == [times.database] * 20
    assert times.asked == 3


async def test_a_clock_that_is_far_off_is_told_once_and_when_it_is_right_again(caplog):
    caplog.set_level(logging.INFO, "eventstore.mongo.clock")
    times = Times()
    clock = times.clock()
    for off in (1, 3600, 3600, -7200, 0, 0):
        times.own = times.database + timedelta(seconds=off)
        await clock.measure()
        times.pass_(1)
    assert [record.getMessage().partition(" the database's")[0] for record in caplog.records] == [
        "this machine's clock is 3600 seconds ahead of",
        "this machine's clock agrees with",
    ]


def with_clock(database, clock):
    """The same database, dated by another clock."""
    same = copy(database)
    same.clock = clock
    return same


def wrong(database, by):
    """The same database, as a process knows it whose clock is wrong."""
    return with_clock(database, DatabaseClock(database.clock.ask, lambda: utc_now() + by))


@asynccontextmanager
async def serving(database, *beside):
    app = create_app(database, EventStore(database), beside, access=access(database))
    async with app.router.lifespan_context(app), asking(app) as client:
        yield client


PROMPT = Desk(sla={"normal": SlaPolicy(first_response_minutes=15, resolution_minutes=30)})


@pytest.mark.parametrize("by", [-HOUR, HOUR])
async def test_a_process_whose_clock_is_wrong_breaks_no_promise(database, store, by):
    """What it opens is not an hour old, and another process finds nothing due."""
    await Desks(database).replace(PROMPT, ALICE, None)
    async with running(by_utc(database, store)), serving(wrong(database, by)) as client:
        made = [await client.post("/tickets", json=OPEN, headers=REQUESTER) for _ in range(3)]
        ids = [UUID(answer.json()["ticket_id"]) for answer in made]
        ready = (await client.get("/readyz")).json()
        soon = (await database.server_time() + timedelta(minutes=5)).isoformat()
        wait = {"status": "pending", "reason": "a photo", "resume_at": soon}
        waiting = await client.post(f"/tickets/{ids[0]}/update_status", json=wait)
        assert waiting.status_code == 200, waiting.text
        await caught_up(database, store)
        assert await Timekeeper(database, store, Desks(database)).look() == 0
    assert (ready["status"], ready["clock"]) == ("ready", "far off")
    now = await database.server_time()
    for ticket_id in ids:
        for event in await store.load(ticket_id):
            assert abs(event.occurred_at - now) < timedelta(minutes=5)
            assert abs(event.recorded_at - now) < timedelta(minutes=5)
            assert event.type in ("TicketOpened", "StatusUpdated")


async def test_a_timekeeper_whose_clock_is_wrong_keeps_no_time(database, store, caplog):
    """What is due stays due until the clocks agree, or another does it."""
    await Desks(database).replace(PROMPT, ALICE, None)
    now = await database.server_time() - HOUR
    early = with_clock(database, DatabaseClock(lambda: asyncio.sleep(0, now), lambda: now))
    async with running(by_utc(database, store)):
        async with serving(early) as client:
            assert (await client.post("/tickets", json=OPEN, headers=REQUESTER)).status_code == 201
        await caught_up(database, store)
        for by in (-HOUR, HOUR):
            assert await Timekeeper(wrong(database, by), store, Desks(database)).look() == 0
            assert "this process keeps no time" in caplog.records[-1].getMessage()
        assert await Timekeeper(database, store, Desks(database)).look() == 1


async def test_keys_expire_by_the_databases_clock(database):
    """Also where the process's own is an hour slow, or fast."""
    now = await database.server_time()
    order = KeyOrder(
        principal="carol", role="agent", scopes=["read"], expires_at=now + timedelta(minutes=30)
    )
    for by in (-HOUR, HOUR):
        there = wrong(database, by)
        await there.clock.time()
        key, text = await Keys(there).make(order, "x")
        assert abs(key.created_at - now) < timedelta(minutes=5)
        assert (await Keys(there).principal(text)).id == "carol"


async def test_a_small_correction_dates_no_event_before_the_last():
    """The clock stands still instead; one that was set back by more is followed."""
    ticks, shown = 100.0, datetime(2026, 3, 1, 12, tzinfo=UTC)
    clock = DatabaseClock(lambda: asyncio.sleep(0, shown), lambda: shown, lambda: ticks)
    await clock.measure()
    ticks += 1.0
    before = clock.now()
    shown = before - timedelta(milliseconds=20)
    await clock.measure()
    assert clock.now() == before
    ticks += 0.05
    assert clock.now() == before + timedelta(milliseconds=30)
    shown -= HOUR
    await clock.measure()
    assert clock.now() == shown
