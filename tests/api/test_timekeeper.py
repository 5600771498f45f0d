"""What is due happens, once, at its time."""

import asyncio
import logging
import random
from collections import Counter
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple
from uuid import UUID, uuid4

import pytest

from api.access.principals import TIMEKEEPER
from api.commands.handler import Handler, Submission
from api.desk.store import Desks
from api.timekeeper import timekeeper as module
from api.timekeeper.timekeeper import Timekeeper
from domain.actors import Actor
from domain.codec import EventData
from domain.desk import BusinessHours, Desk, SlaPolicy
from domain.tickets.assignment import AssignTicket
from domain.tickets.command import Command
from domain.tickets.conversation import AddNote, Reply
from domain.tickets.lifecycle import ReopenTicket, ResolveTicket, UpdateStatus
from domain.tickets.opening import OpenTicket
from domain.tickets.promises import ChangePriority
from domain.tickets.ticket import Status
from domain.values import Priority
from eventstore import failures
from eventstore.event_document import CommandRef, Envelope, Head, Metadata, chained, utc_now
from eventstore.log import EventStore
from projections.generations import Generations
from projections.projector.checkpoints import Checkpoints
from scripts.testbed.patience import patience
from tests.oracle import assert_views_equal_the_log
from tests.processes import process
from tests.projecting import by_utc, caught_up, running, until
from tests.spec import ALICE, BOB, NOW

DESK = Desk(
    sla={
        "urgent": SlaPolicy(first_response_minutes=15, resolution_minutes=240),
        "high": SlaPolicy(first_response_minutes=60, resolution_minutes=24 * 60),
        "normal": SlaPolicy(resolution_minutes=5 * 24 * 60),
    },
    close_resolved_after_days=7,
)


class Clock:
    """A clock that stands until it is set."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    async def __call__(self) -> datetime:
        return self.now


class World:
    """One database with its projector, a desk, and a timekeeper whose clock the test sets."""

    def __init__(self, database, store) -> None:
        self.database, self.store = database, store
        self.desks = Desks(database, now=lambda: NOW)
        self.clock = Clock(NOW)
        self.handler = Handler(store, self.desks)
        self.keeper = self.timekeeper()

    def timekeeper(self) -> Timekeeper:
        return Timekeeper(self.database, EventStore(self.database), self.desks, clock=self.clock)

    async def do(self, ticket_id, command, actor=ALICE, at=None):
        submission = Submission(command=command, actor=actor, occurred_at=at or self.clock.now)
        await self.handler.handle(ticket_id, submission)

    async def opened(self, **more) -> UUID:
        ticket_id = uuid4()
        await self.do(ticket_id, OpenTicket(subject="x", requester="bob", **more), BOB)
        await self.do(ticket_id, AssignTicket(assignee="alice"))
        return ticket_id

    async def pass_time(self, **time) -> int:
        self.clock.now += timedelta(**time)
        done = 0
        while True:
            await caught_up(self.database, self.store)
            more = await self.keeper.look()
            if more == 0:
                return done
            done += more

    async def acts(self, ticket_id) -> list[Envelope]:
        stream = await self.store.load(ticket_id)
        return [event for event in stream if event.metadata.actor == TIMEKEEPER]


@pytest.fixture
async def world(database, store):
    made = World(database, store)
    await made.desks.replace(DESK, ALICE, None)
    async with running(by_utc(database, store)):
        yield made
        await caught_up(database, store)
        await assert_views_equal_the_log(database)


def later(**time):
    return NOW + timedelta(**time)


async def test_a_ticket_that_waits_is_opened_again_at_its_time(world):
    ticket = await world.opened(priority="low")
    wait = UpdateStatus(status="on_hold", reason="parts", resume_at=later(hours=5))
    await world.do(ticket, wait)
    assert await world.pass_time(hours=4) == 0
    assert await world.pass_time(hours=4) == 1
    [act] = await world.acts(ticket)
    assert (act.type, act.data["status"]) == ("StatusUpdated", "open")
    assert act.occurred_at == later(hours=5)
    waiting = (await world.store.load(ticket))[2]
    assert act.metadata.causation_id == str(waiting.id)
    assert await world.pass_time(hours=4) == 0


async def test_who_waits_longer_is_not_woken_earlier(world):
    """Also while the view still shows the former time."""
    ticket = await world.opened(priority="low")
    for hours in (5, 9):
        wait = UpdateStatus(status="pending", reason="a photo", resume_at=later(hours=hours))
        await world.do(ticket, wait)
    assert await world.pass_time(hours=6) == 0
    world.clock.now = later(hours=10)
    prolonged = UpdateStatus(status="pending", reason="a photo", resume_at=later(hours=20))
    await caught_up(world.database, world.store)
    await world.do(ticket, prolonged)
    assert await world.keeper.look() == 0
    assert await world.acts(ticket) == []


async def test_a_promise_that_was_missed_is_put_on_record_at_the_time(world):
    ticket = await world.opened(priority="urgent")
    assert await world.pass_time(minutes=14) == 0
    assert await world.pass_time(minutes=2) == 1
    await world.do(ticket, Reply(body="On it."))
    assert await world.pass_time(hours=4) == 1
    first, second = await world.acts(ticket)
    assert first.data["target"] == "first_response"
    assert first.occurred_at == later(minutes=15)
    assert second.data["target"] == "resolution"
    assert second.occurred_at == later(minutes=240)
    opening = (await world.store.load(ticket))[0]
    assert {e.metadata.causation_id for e in (first, second)} == {str(opening.id)}
    assert await world.pass_time(days=1) == 0


async def test_what_was_missed_while_nobody_kept_time_is_found_with_its_time(world):
    """It says when it was due; and it happens no earlier than what has happened since."""
    ticket = await world.opened(priority="urgent")
    await world.do(ticket, Reply(body="Sorry!"), at=later(minutes=40))
    wait = UpdateStatus(status="pending", reason="x", resume_at=later(hours=2))
    await world.do(ticket, wait, at=later(minutes=50))
    assert await world.pass_time(days=3) == 3
    missed, woken, missed_too = await world.acts(ticket)
    assert (missed.data["target"], missed.occurred_at) == ("first_response", later(minutes=50))
    assert missed.data["due_at"].startswith("2026-03-01T12:15:00")
    assert woken.occurred_at == later(hours=2)
    assert missed_too.data["target"] == "resolution"
    assert missed_too.occurred_at == later(minutes=240 + 70)  # it stood for 70 minutes


async def test_a_resolved_ticket_is_closed_after_some_days(world):
    ticket = await world.opened(priority="low")
    await world.do(ticket, ResolveTicket(resolution="toner"))
    assert await world.pass_time(days=6) == 0
    await world.do(ticket, Reply(body="Jams!"), BOB)
    await world.do(ticket, ResolveTicket(resolution="other toner"))
    assert await world.pass_time(days=6) == 0
    assert await world.pass_time(days=2) == 1
    [act] = await world.acts(ticket)
    assert (act.type, act.data, act.occurred_at) == (
        "TicketClosed",
        {"reason": None},
        later(days=13),
    )
    resolved = [e for e in await world.store.load(ticket) if e.type == "TicketResolved"][-1]
    assert act.metadata.causation_id == str(resolved.id)


async def test_a_desk_that_closes_nothing_closes_nothing(world):
    await world.desks.replace(Desk(), ALICE, None)
    ticket = await world.opened(priority="low")
    await world.do(ticket, ResolveTicket(resolution="toner"))
    assert await world.pass_time(days=3000) == 0


async def test_several_timekeepers_at_once_do_nothing_twice(world, caplog):
    """And who comes too late says nothing of it."""
    ids = [await world.opened(priority="urgent") for _ in range(20)]
    world.clock.now = later(days=1)
    await caught_up(world.database, world.store)
    done = 0
    for _ in range(3):
        done += sum(await asyncio.gather(*(world.timekeeper().look() for _ in range(4))))
        await caught_up(world.database, world.store)
    assert done == 40
    for ticket in ids:
        targets = [act.data["target"] for act in await world.acts(ticket)]
        assert sorted(targets) == ["first_response", "resolution"]
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_a_stale_view_makes_nothing_happen_twice(world):
    """What is due is asked of the view; what is done is decided from the log."""
    ticket = await world.opened(priority="high")
    assert await world.pass_time(hours=2) == 1
    reads = world.database.collection("ticket_reads")
    await caught_up(world.database, world.store)
    fresh = await reads.find_one({"_id": ticket})
    await reads.update_one({"_id": ticket}, {"$set": {"next_due_at": later(hours=1)}})
    assert await world.keeper.look() == 0
    await reads.replace_one({"_id": ticket}, fresh)


async def test_tickets_that_nothing_can_be_done_about_keep_no_other_from_its_due(
    world, caplog, monkeypatch
):
    """More of them than workers, and more than a page."""
    monkeypatch.setattr(module, "_PAGE_TICKETS", 5)
    bad = [await world.opened(priority="high") for _ in range(40)]
    world.clock.now += timedelta(seconds=1)
    good = [await world.opened(priority="high") for _ in range(12)]
    stored = world.keeper._store.stored

    async def broken(ticket_id, **more):
        stream = await stored(ticket_id, **more)
        return stream[1:] if ticket_id in bad[:20] else stream

    world.keeper._store.stored = broken
    for ticket in bad[20:]:  # somebody has used up the key
        stream = await world.store.load(ticket)
        about = Metadata(TIMEKEEPER, CommandRef("mark_sla_breach:3", "f"))
        note = EventData("NoteAdded", 1, {"body": "x"})
        head = Head(stream[-1].version, stream[-1].hash)
        await world.store.append(chained(ticket, head, [note], about, NOW, NOW))
    world.clock.now = later(hours=2)
    await caught_up(world.database, world.store)
    for _ in range(20):
        await world.keeper.look()
        await caught_up(world.database, world.store)
    for ticket in good:
        assert len(await world.acts(ticket)) == 1
    assert str(bad[0]) in caplog.text
    assert "KeyReused" in caplog.text
    assert "Traceback" not in caplog.text


async def test_a_human_who_comes_between_is_not_overtaken(world):
    """What was decided on one version is not done to another."""
    ticket = await world.opened(priority="low")
    wait = UpdateStatus(status="pending", reason="a photo", resume_at=later(hours=1))
    await world.do(ticket, wait)
    world.clock.now = later(hours=2)
    await caught_up(world.database, world.store)
    handle = world.keeper._handler.handle

    async def late(ticket_id, submission):
        longer = UpdateStatus(status="pending", reason="a call", resume_at=later(hours=9))
        await world.do(ticket_id, longer)
        return await handle(ticket_id, submission)

    world.keeper._handler.handle = late
    assert await world.keeper.look() == 0
    assert await world.acts(ticket) == []


async def test_what_hangs_does_not_hang_the_others(world, monkeypatch):
    monkeypatch.setattr(failures, "PATIENCE_SECONDS", patience(0.5))
    ids = [await world.opened(priority="high") for _ in range(3)]
    world.clock.now = later(hours=2)
    await caught_up(world.database, world.store)
    handle = world.keeper._handler.handle

    async def hanging(ticket_id, submission):
        if ticket_id == ids[0]:
            await asyncio.Event().wait()
        return await handle(ticket_id, submission)

    world.keeper._handler.handle = hanging
    async with asyncio.timeout(patience(10)):
        assert await world.keeper.look() == 2
        assert await world.keeper.look() == 0


async def test_a_late_wake_does_not_delay_what_was_promised(world):
    """The wait was over when it was over, even if nobody woke the ticket."""
    ticket = await world.opened(priority="urgent")
    await world.do(ticket, Reply(body="A photo?"), at=later(minutes=1))
    wait = UpdateStatus(status="pending", reason="x", resume_at=later(hours=2))
    await world.do(ticket, wait, at=later(minutes=2))
    await world.do(ticket, AddNote(body="odd"), at=later(hours=12))
    assert await world.pass_time(days=1) == 2
    woken, missed = sorted(await world.acts(ticket), key=lambda act: act.type, reverse=True)
    assert (woken.type, woken.occurred_at) == ("StatusUpdated", later(hours=12))
    assert datetime.fromisoformat(str(missed.data["due_at"])) == later(hours=5, minutes=58)


async def test_the_cause_of_a_breach_is_what_made_the_promise(world):
    ticket = await world.opened(priority="high")
    await world.do(ticket, ChangePriority(priority="urgent"), at=later(hours=3))
    assert await world.pass_time(days=1) == 2
    stream = await world.store.load(ticket)
    causes = {a.data["target"]: a.metadata.causation_id for a in await world.acts(ticket)}
    assert causes == {"first_response": str(stream[0].id), "resolution": str(stream[2].id)}


async def test_nothing_is_closed_as_of_a_time_before_the_desk_said_so(world):
    ticket = await world.opened(priority="low")
    await world.do(ticket, ResolveTicket(resolution="toner"), at=NOW - timedelta(days=400))
    assert await world.pass_time(hours=1) == 1
    [act] = await world.acts(ticket)
    assert act.occurred_at == (await world.desks.read()).closing_since == NOW


async def test_each_next_response_that_is_late_by_business_hours_is_put_on_record(world):
    """NOW is a Sunday's noon."""
    office = BusinessHours(
        zone="UTC", hours={"sunday": ("00:00-12:30",), "monday": ("09:00-17:00",)}
    )
    prompt = SlaPolicy(next_response_minutes=60)
    desk = Desk(calendars={"office": office}, sla={"normal": prompt})
    await world.desks.replace(desk, ALICE, None)
    ticket = await world.opened()
    await world.do(ticket, Reply(body="x"))
    for _ in range(2):
        await world.do(ticket, Reply(body="?"), BOB)
        assert await world.pass_time(hours=21) == 0
        assert await world.pass_time(hours=1) == 1
        await world.do(ticket, Reply(body="x"))
        world.clock.now += timedelta(days=6, hours=2)  # again a Sunday's noon
    acts = [(act.type, act.data["target"], act.occurred_at) for act in await world.acts(ticket)]
    due_at = [later(days=days, hours=21, minutes=30) for days in (0, 7)]
    assert acts == [("SlaBreached", "next_response", at) for at in due_at]
    asked = [event for event in await world.store.load(ticket) if event.type == "RequesterReplied"]
    causes = [act.metadata.causation_id for act in await world.acts(ticket)]
    assert causes == [str(event.id) for event in asked]


async def test_a_timekeeper_killed_again_and_again_does_all_of_it_once(world):
    """L5: kill -9 of the process itself, in the middle of its work."""
    opening = OpenTicket(subject="x", requester="bob", priority="urgent")
    for _ in range(150):
        await world.do(uuid4(), opening, BOB, utc_now() - timedelta(days=1))
    await caught_up(world.database, world.store)
    environment = {
        "CASEBOOK_MONGODB_URL": world.database.url,
        "CASEBOOK_TIMEKEEPER_SECONDS": "0.05",
    }

    async def breaches() -> int:
        events = world.database.collection("ticket_events")
        return int(await events.count_documents({"type": "SlaBreached"}))

    async with asyncio.timeout(patience(120)):
        for enough in (20, 100, 180, 300):
            async with process("scripts.timekeeper", **environment):  # killed at the end
                while await breaches() < enough:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
    assert await breaches() == 300
    found: Counter[tuple[UUID, object]] = Counter()
    async for event in world.store.scan():
        if event.type == "SlaBreached":
            found[event.ticket_id, event.data["target"]] += 1
    assert len(found) == 300


# --- a month ------------------------------------------------------------------------------------

STEP = timedelta(hours=12)
STEPS = 60  # a month
DOWN_AT = (8, 17, 29, 38, 50)
DOWN_STEPS = 2
BROUGHT_ABOUT_BY = {
    "StatusUpdated": "StatusUpdated",
    "TicketClosed": "TicketResolved",
    "SlaBreached": "TicketOpened",
}


class Deed(NamedTuple):
    """What somebody does to a ticket at the beginning of a step."""

    step: int
    command: Command
    actor: Actor


class Story(NamedTuple):
    """A ticket's month: what people do, and what must come of it by itself, in plain arithmetic."""

    ticket_id: UUID
    deeds: list[Deed]
    wakes: list[datetime]
    closes: list[datetime]
    breaches: dict[str, datetime]


def when(step: float) -> datetime:
    return NOW + step * STEP


def story(chance: random.Random, ticket_id: UUID) -> Story:
    """Make up a ticket's month. Whoever waits is left alone, but for a note, until after a
    possible downtime: a change of status would decide whether there is still something to wake.
    """
    step = chance.randrange(STEPS - 5)
    opened_at = when(step)
    priority: Priority = chance.choice(["low", "normal", "high", "urgent"])
    deeds = [Deed(step, OpenTicket(subject="x", requester="bob", priority=priority), BOB)]
    answered_at: datetime | None = None
    wakes, closes = [], []
    stood: list[tuple[datetime, datetime]] = []  # spans in which the clock stands
    if chance.random() < 0.4:
        step += chance.choice([0, 1, 1, 4])
        answered_at = when(step)
        deeds.append(Deed(step, Reply(body="On it."), ALICE))
    if chance.random() < 0.4:
        step += chance.choice([0, 1])
        ends = step + chance.uniform(0.1, 9)
        ends_at = when(ends).replace(second=0, microsecond=0)
        status: Status = chance.choice(["pending", "on_hold"])
        wait = UpdateStatus(status=status, reason="x", resume_at=ends_at)
        deeds.append(Deed(step, wait, ALICE))
        if ends_at <= when(STEPS) and step <= STEPS:
            wakes.append(ends_at)
        if status == "pending":
            stood.append((when(step), ends_at))
        if chance.random() < 0.5:  # somebody writes a note, perhaps before anybody wakes it
            note = AddNote(body="odd")
            deeds.append(Deed(int(ends) + chance.randrange(DOWN_STEPS + 3), note, ALICE))
        step = int(ends) + DOWN_STEPS + 3
    solved_at: datetime | None = None
    for _ in range(chance.choice([0, 0, 0, 1, 1, 2])):
        if solved_at is not None:
            step += chance.randrange(1, 10)  # reopened before it is closed
            deeds.append(Deed(step, ReopenTicket(), BOB))
            stood.append((solved_at, when(step)))
        step += chance.choice([1, 2, 6])
        deeds.append(Deed(step, AssignTicket(assignee="alice"), ALICE))
        deeds.append(Deed(step, ResolveTicket(resolution="x"), ALICE))
        solved_at = when(step)
    end = when(STEPS)
    if solved_at is not None:
        if solved_at + timedelta(days=7) <= end and step <= STEPS:
            closes.append(solved_at + timedelta(days=7))
        stood.append((solved_at, end + timedelta(days=1)))
    policy = DESK.sla.get(priority, SlaPolicy())
    breaches = {}
    for target, minutes in policy:
        if minutes is not None:
            due_at = opened_at + timedelta(minutes=minutes)
            for start, until in stood:
                if start < due_at:
                    due_at += until - start
            in_time = (
                target == "first_response_minutes"
                and answered_at is not None
                and answered_at < due_at
            )
            if due_at <= end and not in_time:
                breaches[target.removesuffix("_minutes")] = due_at
    deeds = [deed for deed in deeds if deed.step <= STEPS]
    return Story(ticket_id, deeds, wakes, closes, breaches)


class Counting(EventStore):
    """Counts what it appends: to count a long log again and again takes longer than the month."""

    appended = 0

    async def append(self, events, *, sent_before=False) -> None:
        await super().append(events)
        Counting.appended += len(events)


class Month(World):
    def timekeeper(self) -> Timekeeper:
        return Timekeeper(self.database, Counting(self.database), self.desks, clock=self.clock)

    async def views_are_current(self) -> None:
        partitions = Checkpoints(self.database)

        async def all_folded() -> bool:
            state = await partitions.read()
            return sum(p.applied for p in state.partitions) >= Counting.appended

        await until(all_folded, 120)

    async def everybody_acts(self, deeds: dict[UUID, list[Deed]], at: datetime) -> None:
        waiting = iter(deeds.items())

        async def work() -> None:
            for ticket_id, mine in waiting:
                for deed in mine:
                    await self.do(ticket_id, deed.command, deed.actor, at)

        await asyncio.gather(*(work() for _ in range(64)))

    async def all_is_done(self, *keepers: Timekeeper) -> None:
        while sum(await asyncio.gather(*(keeper.look() for keeper in keepers))):
            await self.views_are_current()


async def _acted_since(before: int) -> bool:
    return Counting.appended > before


@pytest.mark.parametrize("tickets", [50, pytest.param(800, marks=pytest.mark.slow)])
async def test_a_month_of_many_tickets(quick_database, tickets):
    """L2, L5: every due wake, close and breach once and at its time, across five restarts."""
    chance = random.Random(20260301)  # noqa: S311
    told = [story(chance, UUID(int=chance.getrandbits(128), version=4)) for _ in range(tickets)]
    by_step: dict[int, dict[UUID, list[Deed]]] = {}
    for one in told:
        for deed in one.deeds:
            by_step.setdefault(deed.step, {}).setdefault(one.ticket_id, []).append(deed)
    database, store = quick_database, Counting(quick_database)
    Counting.appended = 0
    await store.prepare()
    await Generations(database).prepare()
    month = Month(database, store)
    await month.desks.replace(DESK, ALICE, None)
    down_until = crashes_in_the_middle = 0
    keepers = [month.timekeeper()]
    async with running(by_utc(database, store)):
        for step in range(STEPS + 1):
            month.clock.now = when(step)
            if step in DOWN_AT:
                await month.views_are_current()
                at_first = Counting.appended
                crashing = asyncio.create_task(keepers[0].look())
                with suppress(TimeoutError):
                    await until(partial(_acted_since, at_first), 5)
                await asyncio.sleep(chance.uniform(0.0, tickets / 8000))
                crashing.cancel()
                with suppress(asyncio.CancelledError):
                    await crashing
                crashes_in_the_middle += Counting.appended > at_first
                Counting.appended = await store.count(exact=True)
                down_until = step + DOWN_STEPS
                keepers = [month.timekeeper() for _ in range(chance.choice([1, 2]))]
            elif step >= down_until:
                await month.views_are_current()
                await month.all_is_done(*keepers)
            await month.everybody_acts(by_step.get(step, {}), when(step))
        await month.views_are_current()
        await month.all_is_done(*keepers)
        await month.views_are_current()
    streams: dict[UUID, dict[int, Envelope]] = {one.ticket_id: {} for one in told}
    async for event in store.scan():
        streams[event.ticket_id][event.version] = event
    acts = 0
    for one in told:
        due: dict[str, list[datetime]] = {"StatusUpdated": [], "TicketClosed": []}
        breaches: dict[str, datetime] = {}
        for event in streams[one.ticket_id].values():
            if event.metadata.actor != TIMEKEEPER:
                continue
            acts += 1
            before = streams[one.ticket_id][event.version - 1].occurred_at
            if event.type == "SlaBreached":
                at = datetime.fromisoformat(str(event.data["due_at"]))
                assert breaches.setdefault(str(event.data["target"]), at) is at  # once
            else:
                at = (one.wakes if event.type == "StatusUpdated" else one.closes)[0]
                due[event.type].append(at)
            assert event.occurred_at == max(at, before)  # at its time
            causes = {str(e.id): e.type for e in streams[one.ticket_id].values()}
            assert causes[str(event.metadata.causation_id)] == BROUGHT_ABOUT_BY[event.type]
        assert due == {"StatusUpdated": one.wakes, "TicketClosed": one.closes}
        assert breaches == one.breaches
    assert acts > tickets
    assert crashes_in_the_middle >= 3
    await assert_views_equal_the_log(database)
