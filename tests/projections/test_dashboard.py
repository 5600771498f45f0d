"""The dashboard: counters, past days, series, quantiles (L7)."""

import asyncio
from bisect import bisect_left
from collections import Counter
from datetime import date, datetime, timedelta
from math import ceil
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.commands.handler import Handler, Submission
from domain.actors import Actor
from domain.tickets.assignment import AssignTicket, MoveToGroup
from domain.tickets.command import Command
from domain.tickets.conversation import Reply
from domain.tickets.lifecycle import (
    CloseTicket,
    RateTicket,
    ReopenTicket,
    ResolveTicket,
    UpdateStatus,
)
from domain.tickets.opening import OpenTicket
from domain.tickets.promises import ChangePriority
from eventstore.mongo.driver import encode_bson
from projections.generations import Generations
from projections.views import dashboard
from projections.views.dashboard_counters import Counters
from tests.api.test_api import is_problem, serving
from tests.oracle import assert_views_equal_the_log
from tests.projecting import by_utc, caught_up, open_some, running
from tests.spec import ALICE, BOB, NOW

DAY = timedelta(days=1)
NASTY = 'a.b|$c %41 "ü" /-'


@pytest.fixture
async def month(database, store):
    """Some tickets' lives over a month, with their history as plain rows to count over."""
    handler = Handler(store)
    first = NOW - 30 * DAY
    for n in range(12):
        at = first + n * DAY
        ticket = uuid4()
        opening = OpenTicket(
            subject="x", requester="bob", group=("print", NASTY, None)[n % 3], priority="high"
        )
        story: list[tuple[Command, Actor, datetime]] = [(opening, BOB, at)]
        story.append((AssignTicket(assignee="alice"), ALICE, at + DAY / 24))
        story.append((Reply(body="Hm."), ALICE, at + (n + 1) * DAY / 24))
        if n % 2:
            story.append((UpdateStatus(status="pending", reason="?"), ALICE, at + 2 * DAY))
        if n % 3 == 0:
            story.append((MoveToGroup(group="network"), ALICE, at + 3 * DAY))
            story.append((AssignTicket(assignee=NASTY), ALICE, at + 3 * DAY))
        if n % 4:
            story.append((ResolveTicket(resolution="done"), ALICE, at + (n + 3) * DAY))
        if n == 5:
            story.append((ReopenTicket(reason="no"), BOB, at + (n + 4) * DAY))
            story.append((ChangePriority(priority="low"), ALICE, at + (n + 5) * DAY))
            story.append((ResolveTicket(resolution="now"), ALICE, at + (n + 6) * DAY))
        if n % 4 == 1:
            story.append((RateTicket(score=1 + n % 5), BOB, at + (n + 7) * DAY))
            story.append((CloseTicket(), ALICE, at + (n + 8) * DAY))
        for command, actor, when in story:
            submission = Submission(command=command, actor=actor, occurred_at=when)
            await handler.handle(ticket, submission)
    async with running(by_utc(database, store)):
        await caught_up(database, store)
    await assert_views_equal_the_log(database)
    return first


async def as_it_stood(database, day: date):
    """Fold the events of days up to one by hand: what was open, and in what state."""
    found = await database.collection("ticket_events").find().sort("version", 1).to_list()
    tickets: dict[object, dict[str, Any]] = {}
    for event in sorted(found, key=lambda e: e["version"]):
        if event["occurred_at"].date() > day:
            continue
        ticket = tickets.setdefault(event["ticket_id"], {})
        data, kind = event["data"], event["type"]
        if kind == "TicketOpened":
            opened_on = event["occurred_at"].date()
            ticket |= {"status": "new", "assignee": None, "opened_on": opened_on, **data}
        elif kind == "TicketAssigned":
            ticket |= data | ({"status": "open"} if ticket["status"] == "new" else {})
        elif kind in ("TicketMovedToGroup", "PriorityChanged", "TicketUnassigned"):
            ticket |= {"assignee": None} if kind == "TicketUnassigned" else data
        elif kind == "TicketRated":
            ticket["rating"] = data["score"]
        elif kind == "StatusUpdated":
            ticket["status"] = data["status"]
        elif kind.startswith("Ticket") and kind.endswith(("Resolved", "Reopened", "Closed")):
            entered = {"TicketResolved": "resolved", "TicketReopened": "open"}
            ticket["status"] = entered.get(kind, "closed")
    return list(tickets.values())


@pytest.mark.parametrize("group", [None, "print", NASTY, "network", ""])
async def test_any_past_day_is_as_it_was(database, month, group):
    """L7: against the log folded up to that day, by hand."""
    async with serving(database, project=False) as client:
        for n in (-1, 0, 1, 5, 9, 14, 20, 29, 40):
            day = (month + n * DAY).date()
            parameters = {"date": str(day)} | ({} if group is None else {"group": group})
            answer = await client.get("/dashboard", params=parameters)
            shown = answer.json()
            stood = await as_it_stood(database, day)
            if group is not None:
                stood = [t for t in stood if t["group"] == (group or None)]
            unsolved = [t for t in stood if t["status"] not in ("resolved", "closed")]
            assert shown["tickets"] == Counter(t["status"] for t in stood)
            backlog = shown["backlog"]
            assert backlog["total"] == len(unsolved)
            assert backlog["priority"] == Counter(t["priority"] for t in unsolved)
            assert backlog["opened_on"] == Counter(str(t["opened_on"]) for t in unsolved)
            assert sum(backlog["age"].values()) == len(unsolved)
            assert backlog["group"] == Counter(t["group"] or "" for t in unsolved)
            assert backlog["assignee"] == Counter(t["assignee"] or "" for t in unsolved)
            scores = Counter(str(t["rating"]) for t in stood if "rating" in t)
            assert shown["ratings"]["scores"] == scores
            opened = [t for t in stood if t["opened_on"] == day]
            if group is None:
                assert shown["on_date"]["created"] == len(opened)
                assert shown["until_date"]["created"] == len(stood)


async def test_a_series_tells_each_day_what_the_dashboard_of_that_day_tells(database, month):
    """L7"""
    first, last = (month - 2 * DAY).date(), (month + 33 * DAY).date()
    async with serving(database, project=False) as client:

        async def series(metric):
            found = await client.get(f"/dashboard/series?metric={metric}&from={first}&to={last}")
            return {day["date"]: day["value"] for day in found.json()["days"]}

        metrics = ("backlog", "status", "assignee", "rating", "created", "resolved", "resolution")
        told = dict(zip(metrics, await asyncio.gather(*map(series, metrics)), strict=True))
        assert {len(days) for days in told.values()} == {36}
        for n in range(36):
            day = str(first + n * DAY)
            shown = (await client.get(f"/dashboard?date={day}")).json()
            assert told["backlog"][day] == shown["backlog"]["total"]
            assert told["status"][day] == shown["tickets"]
            assert told["assignee"][day] == shown["backlog"]["assignee"]
            assert told["rating"][day] == shown["ratings"]["scores"]
            for metric in ("created", "resolved", "resolution"):
                assert told[metric][day] == shown["on_date"][metric]
        assert sum(told["created"].values()) == 12


async def test_without_a_date_it_is_as_it_is(database, month):
    """L7"""
    async with serving(database, project=False) as client:
        now = (await client.get("/dashboard")).json()
        then = (await client.get(f"/dashboard?date={(month + 300 * DAY).date()}")).json()
        assert now["backlog"]["total"] == then["backlog"]["total"] > 0
        assert now["until_date"] == then["until_date"]
        assert now["until_date"]["reopened"] == 1
        times = now["until_date"]["first_response"]
        hours = sorted((n + 1) * 3600 for n in range(12))
        assert times["count"] == 12
        assert times["mean_seconds"] == sum(hours) / 12
        assert hours[5] <= times["p50_seconds"] <= 1.19 * hours[5]
        assert hours[10] <= times["p90_seconds"] <= 1.19 * hours[10]


async def test_a_period_is_what_its_days_add_up_to_and_is_compared_with_those_before(
    database, month
):
    """L7: as a recount of the days by the series says it."""
    last = (month + 8 * DAY).date()
    async with serving(database, project=False) as client:
        shown = (await client.get(f"/dashboard?date={last}&days=5")).json()
        assert (await client.get("/dashboard")).json()["period"] is None

        async def days(metric):
            first = last - 9 * DAY
            asked = f"/dashboard/series?metric={metric}&from={first}&to={last}"
            return [day["value"] for day in (await client.get(asked)).json()["days"]]

        period, backlog = shown["period"], await days("backlog")
        assert period["from"] == str(last - 4 * DAY)
        assert period["backlog_before"] == backlog[4]
        for metric in ("created", "resolved", "reopened"):
            values = await days(metric)
            assert period["happened"][metric] == sum(values[5:])
            assert period["before"][metric] == sum(values[:5])
        counts = [day["count"] for day in await days("first_response")]
        assert period["happened"]["first_response"]["count"] == sum(counts[5:])
        assert sum(counts) > 0
        long_ago = await client.get("/dashboard?date=0001-01-02&days=3660")
        assert long_ago.json()["period"]["from"] == "0001-01-02"


async def test_no_dashboard_looks_at_a_ticket(database, store, monkeypatch):
    """However many tickets there are: counters alone are read."""
    await open_some(store, 3)
    async with running(by_utc(database, store)):
        await caught_up(database, store)
    await database.collection("ticket_reads").drop()
    await database.collection("ticket_events").drop()
    async with serving(database, project=False) as client:
        shown = (await client.get("/dashboard")).json()
        assert shown["tickets"] == {"new": 3}
        days = (await client.get("/dashboard/series?metric=backlog&from=2026-02-27")).json()["days"]
        assert [day["value"] for day in days[:4]] == [0, 0, 3, 3]


@given(st.lists(st.integers(1_000, 10**11), min_size=1), st.sampled_from([0.5, 0.9, 1.0]))
def test_a_quantile_is_at_most_19_percent_above_the_exact_one(times, share):
    buckets = Counter(bisect_left(dashboard.BOUNDS_MS, time) for time in times)
    exact = sorted(times)[ceil(share * len(times)) - 1]
    told = dashboard.quantile_ms(buckets, sum(times), share)
    assert exact <= (told or 0) <= 1.19 * exact


@given(st.lists(st.integers(0, 10**7), min_size=1), st.sampled_from([0.5, 0.9, 1.0]))
def test_a_quantile_is_not_more_than_the_sum_allows(times, share):
    """Also of times below a second, which share one bucket: of a single one it is exact."""
    buckets = Counter(bisect_left(dashboard.BOUNDS_MS, time) for time in times)
    rank = ceil(share * len(times))
    told = dashboard.quantile_ms(buckets, sum(times), share)
    assert told is not None
    assert sorted(times)[rank - 1] <= told <= sum(times) // (len(times) - rank + 1)


def test_of_nothing_there_is_no_quantile():
    assert dashboard.quantile_ms({}, 0, 0.5) is None
    assert dashboard.quantile_ms({3: 0}, 0, 0.5) is None


@given(st.none() | st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_name_can_be_part_of_a_key_and_of_a_path(name):
    """L12: and comes back as it was."""
    word = dashboard.word(name)
    assert word
    assert not set(word) & set(".|$\0")
    assert dashboard.name(word) == name


@given(st.dates(), st.lists(st.dates(), max_size=30))
def test_the_periods_until_a_day_are_all_its_days_and_no_other(day, days):
    spans = {"day": 10, "month": 7, "year": 4}
    for other in days:
        times = sum(
            first <= str(other)[: spans[span]] < before
            for span, first, before in dashboard.until(day)
        )
        assert times == (other <= day)


async def test_names_may_be_many_and_long(database):
    """L7: no document gets too large, however many groups and agents there are in how many years,
    and the dashboard is read from as few documents as with one.
    """
    counters = Counters(database)
    await counters.prepare()
    groups = [dashboard.word(f"group {n:05}") for n in range(1000)]
    times = {f"b{bucket}": 1 for bucket in range(108)}
    agents = [f"{n:05}" + "\U0001f600" * 195 for n in range(2000)]
    for n, group in enumerate(groups):
        change = {f"20{n % 10:02}-03-01|resolution|{group}|{label}": 1 for label in times}
        change |= {f"2009-03-01|assignee|{groups[0]}|{agent}": 1 for agent in agents[2 * n :][:2]}
        await database.write(counters.writes(change, 0))
    found = database.collection("dashboard_counters").find()
    sizes = {str(d["_id"]): len(encode_bson(d)) async for d in found}
    assert max(sizes.values()) < 100_000
    assert sum("//" in id_ and id_.endswith("/0/0") for id_ in sizes) == 30
    told = await counters.until(date(2009, 3, 1))
    assert (told["assignee"].total(), told["resolution"]["b7"]) == (2000, 1000)
    assert (await counters.on(date(2007, 3, 1), groups[7]))["resolution"] == times


async def test_counters_of_a_former_version_are_not_read_as_ours(database, store):
    """L12: they would be zeros; until the views are built anew nothing is said, and lists are."""
    async with serving(database, project=False) as client:
        pointer = Generations(database)._documents
        await pointer.update_one({"_id": "active"}, {"$set": {"shape": Counters.since_shape - 1}})

        for path in ("/dashboard", "/dashboard/series?metric=created", "/agents"):
            is_problem(await client.get(path), 503, "sums_of_former_version")
        assert (await client.get("/tickets")).status_code == 200


def test_ages_are_told_in_days():
    day = date(2026, 3, 31)
    opened = [(str(day - n * DAY), 1) for n in (0, 1, 2, 3, 6, 7, 29, 30, 89, 90, 1000)]
    assert list(dashboard.by_age(opened, day).values()) == [1, 2, 2, 2, 2, 2]
