"""Counters by the days of several time zones, around changes of clock (L7)."""

import asyncio
from collections import Counter
from datetime import date, timedelta
from functools import partial
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.desk.store import Desks
from domain.actors import Actor
from domain.desk import Desk
from domain.tickets import encode
from domain.tickets.assignment import TicketAssigned, TicketMovedToGroup
from domain.tickets.conversation import AgentReplied
from domain.tickets.lifecycle import TicketClosed, TicketReopened, TicketResolved
from eventstore.event_document import (
    EMPTY,
    CommandRef,
    Head,
    Metadata,
    chained,
    to_document,
    utc_now,
)
from projections.desk_zones import desk_zones
from projections.generations import BuildRunning, Generations
from projections.replay.rebuild import CannotSwitch, Rebuild
from projections.views import tickets
from projections.views.agents import AgentWeeks
from projections.views.dashboard_counters import Counters
from projections.workers import workers
from scripts.testbed.patience import patience
from tests import oracle
from tests.api.test_api import is_problem, serving
from tests.domain.test_days import SOME, around_changes, utc
from tests.oracle import assert_views_equal_the_log, counted_zones, folded, recounted
from tests.projecting import add, caught_up, open_some, rebuilt, running, until
from tests.spec import ALICE, opened

LIFE = (
    opened(group="print"),
    TicketAssigned("alice"),
    AgentReplied("Hm."),
    TicketResolved("done"),
    TicketReopened("no"),
    TicketMovedToGroup("network"),
    AgentReplied("Ah."),
    TicketResolved("now"),
    TicketClosed(None),
)
gaps = st.integers(-3, 40).map(lambda hours: timedelta(hours=hours))
lives = st.tuples(around_changes, st.lists(gaps, max_size=len(LIFE) - 1))
named = st.lists(st.sampled_from(SOME), min_size=1, max_size=6, unique=True).map(tuple)


def lived(ticket_id, begun, gaps):
    """The events of a ticket, with so much time between them; a clock may be set back."""
    head, at = EMPTY, begun
    about = Metadata(Actor("alice", "agent"), CommandRef("k", "f"))
    for event, gap in zip(LIFE, (timedelta(), *gaps), strict=False):
        at += gap
        [envelope] = chained(ticket_id, head, [encode(event, "bob")], about, at, at)
        head = Head(envelope.version, envelope.hash)
        yield envelope


@given(st.lists(lives, min_size=1, max_size=3), named)
def test_each_zone_counts_by_its_own_days_what_it_would_alone(some, zones):
    """L7: against a recount that looks at the clock minute by minute."""
    streams = {UUID(int=n): [*lived(UUID(int=n), *life)] for n, life in enumerate(some, start=1)}
    events = [{**to_document(each)} for stream in streams.values() for each in stream]
    expected = folded(events, zones)
    numbers, weeks = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for ticket_id, stream in streams.items():
        read = tickets.fold(None, stream, zones)
        assert read is not None
        assert (read.counted, read.worked) == (
            expected[ticket_id]["counted"],
            expected[ticket_id]["worked"],
        )
        assert (Counters.read(read.counted), AgentWeeks.read(read.worked)) == (
            read.counted,
            read.worked,
        )
        for where, path, n in Counters.numbers(read.counted):
            numbers[where, path] += n
        for where, path, n in AgentWeeks.numbers(read.worked):
            weeks[where, path] += n
    for place, zone in enumerate(zones):
        mark = f"@{place}:" if place else ""
        alone = folded(events, (zone,))
        own = {key: n for key, n in numbers.items() if n and key[0].rpartition(":")[0] == mark[:-1]}
        assert own == {(mark + w, path): n for (w, path), n in recounted(alone).items()}
        done = Counter[tuple[str, str]]()
        for document in alone.values():
            for key, n in document["worked"].items():
                week, agent, what = key.split("|")
                done[f"{mark}{week}/{agent}", what] += n
        own = {key: n for key, n in weeks.items() if n and key[0].rpartition(":")[0] == mark[:-1]}
        assert own == {key: n for key, n in done.items() if n}


def test_of_one_zone_entries_are_what_they_were():
    """So what a former version has kept is read as it stands."""
    read = tickets.fold(None, lived(UUID(int=1), utc("2026-03-01T12:00"), [timedelta(hours=13)]))
    assert read is not None
    assert read.counted["2026-03-01|opened_on|print|2026-03-01"] == 1
    assert {where for where, _, _ in Counters.numbers({"2026-03-01|status|print|new": 1})} == {
        f"{period}/{group}"
        for period in ("2026", "2026-03", "2026-03-01")
        for group in ("", "print")
    }
    assert read.worked == {"2026-03-02|alice|assigned": 1}


# --- a desk whose zones change --------------------------------------------------------------------


def desk(own, *others):
    return Desk(time_zone=own, other_time_zones=others, other_fields_public=True)


async def counted_in(database, *zones):
    await until(partial(_is_counted_in, database, zones))


async def _is_counted_in(database, zones):
    return await counted_zones(database) == zones


@pytest.mark.slow
async def test_a_changed_list_of_zones_builds_the_views_anew_and_loses_no_number(database, store):
    """L7: under commands, which are shown all the while; nothing is ever of two lists."""
    desks, shown = Desks(database), Counter[str]()
    ids = await open_some(store, 12)
    stop = asyncio.Event()

    async def write():
        for n in range(10_000):
            at = utc("2026-03-28T20:00") + timedelta(hours=n % 40)
            ticket_id = ids[n % len(ids)]
            await add(store, ticket_id, "TicketAssigned", at, assignee=f"agent {n % 5}")
            if stop.is_set() and n > 100:
                return
            await asyncio.sleep(0.01)  # a busy desk, and not as fast as this machine can

    async def look(client):
        while not stop.is_set():
            answer = await client.get("/dashboard")
            assert answer.status_code == 200, answer.text
            told = answer.json()
            assert told["until_date"]["created"] == told["backlog"]["total"] == 12
            shown[told["covers"]["time_zone"]] += 1
            await asyncio.sleep(0.02)

    async with running(database), serving(database, project=False) as client:
        await caught_up(database, store)
        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            group.create_task(look(client))
            await desks.replace(desk("Asia/Tokyo", "America/St_Johns", "UTC"), ALICE, None)
            await counted_in(database, "Asia/Tokyo", "America/St_Johns", "UTC")
            await desks.replace(desk("UTC", "Asia/Kolkata"), ALICE, None)
            await counted_in(database, "UTC", "Asia/Kolkata")
            stop.set()
        await caught_up(database, store)
        await assert_views_equal_the_log(database)
    assert shown.keys() == {"UTC", "Asia/Tokyo"}


async def test_lists_go_on_while_days_are_counted_anew(database, store, monkeypatch):
    """L7: who builds keeps what is shown current; a build that fails is tried again later."""
    tried = asyncio.Event()

    async def fails(self, *_, **__):
        tried.set()
        await asyncio.sleep(3600)

    monkeypatch.setattr("projections.replay.rebuild.Rebuild.everything", fails)
    async with running(database):
        await Desks(database).replace(desk("Asia/Tokyo"), ALICE, None)
        await asyncio.wait_for(tried.wait(), patience(60))
        await open_some(store, 3)
        await caught_up(database, store)
        await assert_views_equal_the_log(database)
        assert await counted_zones(database) == ("UTC",)


async def test_the_first_views_are_counted_by_the_days_of_the_desk(database, store):
    """As after they were dropped; a replay goes by them too."""
    await Desks(database).replace(desk("Asia/Tokyo", "Asia/Tokyo", "UTC"), ALICE, None)
    await Generations(database)._documents.delete_one({"_id": "active"})
    assert (await Generations(database).prepare()).zones == ("Asia/Tokyo", "UTC")
    await open_some(store, 3)
    async with running(database):
        await caught_up(database, store)
        await assert_views_equal_the_log(database)
    await Desks(database).replace(desk("Europe/Berlin"), ALICE, None)
    await rebuilt(database)
    assert await counted_zones(database) == ("Europe/Berlin",)
    await assert_views_equal_the_log(database)


async def test_views_that_count_days_otherwise_than_the_desk_are_not_gone_back_to(database, store):
    """They would be built anew at once, and those gone back from be dropped."""
    await Generations(database).prepare()
    await open_some(store, 3)
    await Desks(database).replace(desk("Asia/Tokyo"), ALICE, None)
    await rebuilt(database, keep_former=True)
    async with workers(database, 0) as here:
        with pytest.raises(CannotSwitch, match="UTC"):
            await Rebuild(database, here).go_back()
        await Desks(database).replace(desk("UTC"), ALICE, None)
        await Rebuild(database, here).go_back()
    assert await counted_zones(database) == ("UTC",)


async def test_who_comes_too_late_to_build_does_not_say_that_the_build_failed(database, store):
    """As of several processes that see at once that the desk has other zones."""
    generations = Generations(database)
    old = await generations.prepare()
    await open_some(store, 1)
    await rebuilt(database)
    ended = await generations.ended()
    with pytest.raises(BuildRunning):
        await rebuilt(database, instead_of=old)
    assert await generations.ended() == ended


async def test_an_agent_whose_name_begins_like_another_zones_days_keeps_it(database, store):
    """L7: the mark is taken off days and weeks alone."""
    await Desks(database).replace(desk("Asia/Tokyo", "UTC"), ALICE, None)
    for ticket_id, name in zip(await open_some(store, 2), ("@1:bob", "bob"), strict=True):
        await add(store, ticket_id, "TicketAssigned", utc("2026-03-03T12:00"), assignee=name)
    await rebuilt(database)
    weeks = AgentWeeks(await Generations(database).shown(), 1)
    assert (await weeks.in_week(date(2026, 3, 2))).keys() == {"@1:bob", "bob"}
    of = await weeks.of("@1:bob", date(2026, 3, 2), date(2026, 3, 2))
    assert of.keys() == {"2026-03-02"}


@pytest.mark.parametrize(
    ("stored", "zones"),
    [
        ({}, ("UTC",)),
        (
            {"time_zone": "UTC", "other_time_zones": ["Europe/Berlin", "Asia/Tokyo", "UTC"]},
            ("UTC", "Asia/Tokyo", "Europe/Berlin"),
        ),
        (None, None),
        ({"time_zone": "Mars/Olympus"}, None),
        ({"time_zone": "Asia/Tokyo", "other_time_zones": [7, "UTC"]}, None),
        ({"time_zone": ["Asia/Tokyo"], "other_time_zones": "UTC"}, None),
    ],
)
async def test_a_desk_that_cannot_be_read_leaves_days_counted_as_they_are(database, stored, zones):
    """L7: whether it is damaged, or of a version that knows more zones; a replay goes on so too."""
    await Desks(database).replace(desk("Asia/Tokyo"), ALICE, None)
    await Generations(database).prepare()
    await database.collection("desks").insert_one({"_id": 2, "desk": stored})
    assert await desk_zones(database) == zones
    await rebuilt(database)
    assert await counted_zones(database) == (zones or ("Asia/Tokyo",))


async def test_days_of_a_zone_that_only_another_version_knows_are_left_to_it(database, store):
    """L12: they are refused; once the desk names zones that are known, those are counted."""
    generations, mars = Generations(database), "Mars/Olympus"
    await generations.prepare()
    await open_some(store, 1)
    await database.collection("desks").insert_one({"_id": 1, "desk": {"time_zone": mars}})
    await generations._documents.update_one({"_id": "active"}, {"$set": {"zones": [mars]}})
    async with running(database), serving(database, project=False) as client:
        for path in ("dashboard", "dashboard/series?metric=created", "agents"):
            is_problem(await client.get(f"/{path}"), 503, "time_zone_not_known")
        await database.collection("desks").insert_one(
            {"_id": 2, "desk": {"time_zone": "Asia/Tokyo"}}
        )
        await counted_in(database, "Asia/Tokyo")
        await caught_up(database, store)
        await assert_views_equal_the_log(database)


# --- asking ---------------------------------------------------------------------------------------


@pytest.fixture
async def spread(database, store):
    """A desk of four zones with tickets around a change of clock, and their events."""
    await Desks(database).replace(
        desk("Europe/Berlin", "Pacific/Kiritimati", "Pacific/Pago_Pago", "Asia/Kolkata"),
        ALICE,
        None,
    )
    for n in range(24):
        begun = utc("2026-03-28T00:30") + timedelta(hours=3 * n)
        about = Metadata(ALICE, CommandRef("k", "f"))
        stream = [encode(LIFE[0], "bob"), encode(LIFE[1], "bob"), encode(LIFE[3], "bob")]
        head = EMPTY
        for event in stream:
            [one] = chained(UUID(int=n + 1), head, [event], about, begun, begun)
            head = Head(one.version, one.hash)
            await store.append([one])
            begun += timedelta(hours=5)
    async with running(database):
        await counted_in(database, *(await desk_zones(database) or ()))
        await caught_up(database, store)
        await assert_views_equal_the_log(database)
    return await oracle.opened_events(database)


async def test_a_days_figures_are_those_of_the_time_it_says_it_covers(database, spread):
    """L7: counted by hand between the two instants that the answer tells, in each zone."""
    zones = (None, "Europe/Berlin", "Pacific/Kiritimati", "Pacific/Pago_Pago", "Asia/Kolkata")
    async with serving(database, project=False) as client:
        for tz in zones:
            await are_those_between(client, spread, tz)


async def are_those_between(client, spread, tz):
    asked = {} if tz is None else {"tz": tz}

    def between(covers, kind):
        first, behind = (utc(covers[end].removesuffix("+00:00")) for end in ("from", "until"))
        return sum(e["type"] == kind and first <= e["occurred_at"] < behind for e in spread)

    async def told(path, **more):
        answer = await client.get(path, params={**asked, **more})
        assert answer.status_code == 200, answer.text
        assert answer.json()["covers"]["time_zone"] == (tz or "Europe/Berlin")
        return answer.json()

    for day in ("2026-03-27", "2026-03-28", "2026-03-29", "2026-03-30", "2026-03-31"):
        shown = await told("/dashboard", date=day)
        for name, kind in (("created", "TicketOpened"), ("resolved", "TicketResolved")):
            assert shown["on_date"][name] == between(shown["covers"], kind)
            until_then = {"from": "1970-01-01T00:00", "until": shown["covers"]["until"]}
            assert shown["until_date"][name] == between(until_then, kind)
        assert shown["backlog"]["total"] == sum(shown["backlog"]["opened_on"].values())
    series = await told(
        "/dashboard/series", metric="created", **{"from": "2026-03-27", "to": "2026-04-01"}
    )
    assert sum(day["value"] for day in series["days"]) == 24
    assert series["covers"]["from"] == series["days"][0]["from"]
    assert series["covers"]["until"] == series["days"][-1]["until"]
    for day, following in zip(series["days"], [*series["days"][1:], None], strict=True):
        assert day["value"] == between(day, "TicketOpened")
        assert following is None or day["until"] == following["from"]
    week = await told("/agents", week="2026-03-28")
    alice = week["agents"]["alice"]
    assert alice["assigned"] == between(week["covers"], "TicketAssigned")
    weeks = await told(
        "/agents/series", agent="alice", **{"from": "2026-03-16", "to": "2026-04-06"}
    )
    assert sum(each["resolved"] for each in weeks["weeks"]) == 24
    assert [w["assigned"] for w in weeks["weeks"] if w["week"] == week["week"]] == [
        alice["assigned"]
    ]


async def test_days_of_a_zone_that_is_not_listed_are_refused_by_name(database, spread):
    """L12"""
    async with serving(database, project=False) as client:
        for path in ("dashboard?", "dashboard/series?metric=created&", "agents?"):
            for tz in ("Asia/Tokyo", "", "Nowhere", "%00", "Europe/Berlin%20"):
                answer = await client.get(f"/{path}tz={tz}")
                problem = is_problem(answer, 422, "time_zone_not_counted")
                assert "Europe/Berlin, Asia/Kolkata, Pacific/Kiritimati" in problem["detail"]
                assert problem["errors"][0]["pointer"] == "query tz"


async def test_a_list_by_a_day_says_whose_day_and_its_pages_are_of_one_zone(database, store):
    """L12: a cursor is refused once the desk's days are others."""
    by_day = {"q": "opened:2026-03-28", "limit": "1"}
    for n, hour in enumerate((14, 16), start=1):
        [event] = lived(UUID(int=n), utc(f"2026-03-28T{hour}:00"), [])
        await store.append([event])
    followed = dict[str, str]()
    for zone, shown in (("UTC", 2), ("Asia/Tokyo", 1)):
        await Desks(database).replace(desk(zone), ALICE, None)
        async with running(database), serving(database, project=False) as client:
            await caught_up(database, store)
            for name, asked in (("day", by_day), ("time", {"limit": "1"})):
                page = (await client.get("/tickets", params={**asked, "count": "true"})).json()
                assert page["time_zone"] == (zone if name == "day" else None)
                assert page["total"] == (shown if name == "day" else 2)
                cursor = followed.setdefault(name, page["next"])
                again = await client.get("/tickets", params={**asked, "cursor": cursor})
                if zone == "UTC" or name == "time":
                    assert again.status_code == 200
                else:
                    is_problem(again, 422, "bad_cursor")


async def test_a_period_counts_what_lies_within_what_it_covers(database, store):
    """L7: not what a clock that is ahead has dated behind it."""
    now = utc_now()
    for n, at in enumerate((now, now + timedelta(days=2)), start=1):
        [event] = lived(UUID(int=n), at, [])
        await store.append([event])
    async with running(database), serving(database, project=False) as client:
        await caught_up(database, store)
        shown = (await client.get("/dashboard?days=3")).json()
    assert shown["until_date"]["created"] == 2
    assert shown["period"]["happened"]["created"] == 1
