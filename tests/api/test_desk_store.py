"""The desk's set-up as it is kept, and as commands see it."""

import asyncio
from datetime import UTC, date, datetime
from uuid import uuid4

import pytest

from api.commands.handler import Handler, Submission, VersionMismatch
from api.desk import store as module
from api.desk.store import Desks, NoSuchDesk
from domain.desk import EMPTY_DESK, BusinessHours, Desk, FieldDefinition, SlaPolicy, SlaRule
from domain.errors import Refusal, Unacceptable
from domain.sla import SlaTargets
from domain.tickets.assignment import AssignTicket
from domain.tickets.opening import OpenTicket
from tests.spec import ALICE, BOB

PRINT = Desk(
    groups={"print": ("alice",), "L2.network $1": ()},
    fields={"cause": FieldDefinition(type="choice", choices=("paper",), required_on="resolve")},
    sla={"urgent": SlaPolicy(first_response_minutes=15)},
    close_resolved_after_days=7,
    time_zone="Europe/Berlin",
    other_time_zones=("Asia/Tokyo", "UTC"),
)


async def test_one_starts_with_an_empty_desk(database):
    first = await Desks(database).read()
    assert (first.version, first.desk) == (0, EMPTY_DESK)


async def test_every_set_up_there_was_can_be_seen(database):
    desks = Desks(database)
    await desks.replace(PRINT, ALICE, None)
    await desks.replace(EMPTY_DESK, BOB, None)
    made = [await desks.read(version) for version in range(3)]
    assert [m.desk for m in made] == [EMPTY_DESK, PRINT, EMPTY_DESK]
    assert [m.changed_by for m in made[1:]] == [ALICE, BOB]
    assert made[2] == await desks.read()
    with pytest.raises(NoSuchDesk):
        await desks.read(3)


async def test_the_same_set_up_again_is_no_new_version(database):
    desks = Desks(database)
    for _ in range(2):
        assert (await desks.replace(PRINT, ALICE, None)).version == 1


async def test_who_changes_what_he_has_not_seen_is_told(database):
    desks = Desks(database)
    await desks.replace(PRINT, ALICE, 0)
    with pytest.raises(VersionMismatch):
        await desks.replace(EMPTY_DESK, BOB, 0)
    assert (await desks.read()).desk == PRINT


async def test_of_many_changes_at_once_all_are_kept_in_some_order(database):
    wanted = [Desk(close_resolved_after_days=days) for days in range(1, 11)]
    made = await asyncio.gather(*(Desks(database).replace(desk, ALICE, None) for desk in wanted))
    assert sorted(m.version for m in made) == list(range(1, 11))
    found = {(await Desks(database).read(n)).desk.close_resolved_after_days for n in range(1, 11)}
    assert found == set(range(1, 11))


async def test_a_process_goes_by_what_it_last_read_for_some_seconds(database, monkeypatch):
    here, elsewhere = Desks(database), Desks(database)
    assert await here.current() == EMPTY_DESK
    await elsewhere.replace(PRINT, ALICE, None)
    assert await elsewhere.current() == PRINT
    assert await here.current() == EMPTY_DESK
    monkeypatch.setattr(module, "KEPT_SECONDS", 0.0)
    assert await here.current() == PRINT


async def test_a_refusal_is_never_made_from_an_old_set_up(database, store):
    """Whoever was just made an agent can be assigned; whoever was removed, for some seconds."""
    desks, elsewhere = Desks(database), Desks(database)
    handler, ticket = Handler(store, desks), uuid4()
    opening = OpenTicket(subject="x", requester="bob", group="print")
    await handler.handle(ticket, Submission(command=opening, actor=BOB))
    await desks.replace(PRINT, ALICE, None)
    carol = Submission(command=AssignTicket(assignee="carol"), actor=ALICE)
    with pytest.raises(Refusal):
        await handler.handle(ticket, carol)
    with_carol = PRINT.model_copy(update={"groups": {"print": ("alice", "carol")}})
    await elsewhere.replace(with_carol, ALICE, None)
    assert (await handler.handle(ticket, carol)).version == 2


async def test_many_who_must_be_sure_at_once_are(database):
    desks = Desks(database)
    await asyncio.gather(*(desks.current(sure=n % 2 == 0) for n in range(50)))
    await Desks(database).replace(PRINT, ALICE, None)
    assert await asyncio.gather(*(desks.current(sure=True) for _ in range(50))) == [PRINT] * 50


async def test_what_was_read_before_a_change_does_not_come_back_after_it(database, monkeypatch):
    desks = Desks(database)
    read = desks.read

    async def slow(version=None):
        found = await read(version)
        if found.version == 0:
            await asyncio.sleep(0.05)
        return found

    monkeypatch.setattr(desks, "read", slow)
    reading = asyncio.create_task(desks.current(sure=True))
    await asyncio.sleep(0.02)
    await Desks(database).replace(PRINT, ALICE, None)
    newer = PRINT.model_copy(update={"close_resolved_after_days": 3})
    await desks.replace(newer, ALICE, None)
    await reading
    assert await desks.current() == newer


async def test_it_says_since_when_tickets_are_closed_by_themselves(database):
    desks = Desks(database)
    first = await desks.replace(PRINT, ALICE, None)
    assert first.closing_since == first.changed_at
    other = PRINT.model_copy(update={"groups": {}})
    assert (await desks.replace(other, ALICE, None)).closing_since == first.changed_at
    sooner = PRINT.model_copy(update={"close_resolved_after_days": 3})
    changed = await desks.replace(sooner, ALICE, None)
    assert changed.closing_since == changed.changed_at


def office(**more):
    hours = {"monday": ["09:00-12:00", "13:00-17:00"]}
    return BusinessHours.model_validate({"zone": "Europe/Berlin", "hours": hours, **more})


async def test_public_holidays_become_dates_when_the_desk_is_set_up(database):
    year = 2026
    desks = Desks(database, lambda: datetime(year, 3, 1, tzinfo=UTC))
    asked = Desk(calendars={"office": office(public_holidays={"of": "DE-BY"})})
    made = await desks.replace(asked, ALICE, None)
    holidays = made.desk.calendars["office"].public_holidays
    assert holidays is not None
    assert {date(2026, 11, 1), date(2029, 1, 6)} <= {*holidays.dates}  # which not all of DE has
    assert {day.year for day in holidays.dates} == {2026, 2027, 2028, 2029}
    assert made == await Desks(database).read()
    for again in (asked, made.desk):
        assert (await desks.replace(again, ALICE, None)).version == 1
    year = 2027
    assert (await desks.replace(made.desk, ALICE, None)).version == 2
    for unknown in ("XX", "DE-QQ", "Bavaria"):
        asked = Desk(calendars={"office": office(public_holidays={"of": unknown})})
        with pytest.raises(Unacceptable, match="no public holidays"):
            await desks.replace(asked, ALICE, None)


async def test_a_calendar_has_the_version_of_the_desk_that_made_it_so(database):
    desks = Desks(database)
    first = Desk(calendars={"a": office(), "b": office(groups=("x",), version=77)})

    async def versions(desk):
        made = await desks.replace(desk, ALICE, None)
        return {name: calendar.version for name, calendar in made.desk.calendars.items()}

    assert await versions(first) == {"a": 1, "b": 1}
    other = first.model_copy(update={"close_resolved_after_days": 3})
    assert await versions(other) == {"a": 1, "b": 1}
    changed = {"a": office(), "b": office(groups=("x", "y"))}
    assert await versions(other.model_copy(update={"calendars": changed})) == {"a": 1, "b": 3}
    rules = (SlaRule(group="x", value=1, first_response_minutes=5),)
    ruled = Desk(calendars=changed, sla_field="plan", sla_rules=rules)
    assert await versions(ruled) == {"a": 1, "b": 3}
    read = (await Desks(database).read()).desk
    assert read.targets("low", "x", {"plan": 1}) == SlaTargets(
        5, None, None, read.calendars["b"].named("b")
    )
