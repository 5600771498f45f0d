"""What is left of a promise, and how that comes about: `GET /tickets/{id}/sla`."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest_asyncio

from api.queries.sla.intervals import Derivation
from domain.calendars import Calendar
from domain.sla import SlaTargets
from domain.tickets.promises import PromiseTakenOver
from domain.tickets.relations import TicketMergedFrom
from domain.tickets.ticket import Ticket, clock_at, evolve
from tests.api.test_api import is_problem, serving
from tests.callers import AGENT, REQUESTER
from tests.domain.test_promises_by_the_minute import history, walked
from tests.projecting import add, open_some
from tests.spec import NOW, opened

MINUTE_MS = 60_000


@pytest_asyncio.fixture
async def client(database):
    """The API without a projector: all of this is read from the log."""
    async with serving(database, project=False) as one:
        yield one


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


OFFICE = Calendar(
    "office",
    3,
    "Europe/Berlin",
    ((0, 540, 720), (0, 780, 1020), (1, 540, 1020), (6, 60, 240)),
    ("2026-03-31",),
)


async def test_every_interval_says_whether_it_counts_and_why_not(client, store):
    """From a Sunday in winter time to a holiday in summer time."""
    [ticket] = await open_some(store, 1, versions=1, sla=SlaTargets(None, 600, 30, OFFICE))
    await add(store, ticket, "AgentReplied", at("2026-03-02T08:00"), body="x")
    wait = {"status": "pending", "reason": "a photo", "resume_at": None}
    await add(store, ticket, "StatusUpdated", at("2026-03-02T09:30"), **wait)
    await add(store, ticket, "RequesterReplied", at("2026-03-28T23:00"), body="x")
    again = {"status": "open", "reason": None, "resume_at": None}
    await add(store, ticket, "StatusUpdated", at("2026-03-28T23:00"), **again)
    await add(store, ticket, "TicketResolved", at("2026-03-31T12:00"), resolution="x")
    answer = (await client.get(f"/tickets/{ticket}/sla", headers=AGENT)).json()
    *intervals, last = answer["intervals"]
    told = [
        (
            f"{datetime.fromisoformat(i['start']):%d %H:%M}",
            *(i["why"], i["counted_ms"] // MINUTE_MS, i["utc_offset_minutes"]),
            i["clock_change_minutes"],
        )
        for i in intervals
    ]
    assert told == [
        ("01 12:00", "closed", 0, 60, None),
        ("02 08:00", "open", 90, 60, None),
        ("02 09:30", "paused", 0, None, None),
        ("28 23:00", "closed", 0, 60, None),
        ("29 00:00", "open", 60, 60, None),
        ("29 01:00", "open", 60, 120, 60),  # two o'clock was three
        ("29 02:00", "closed", 0, 120, None),
        ("30 07:00", "open", 180, 120, None),
        ("30 10:00", "closed", 0, 120, None),
        ("30 11:00", "open", 240, 120, None),
        ("30 15:00", "closed", 0, 120, None),
        ("30 22:00", "holiday", 0, 120, None),
    ]
    assert (intervals[2]["status"], intervals[2]["reason"]) == ("pending", "a photo")
    assert intervals[1]["counts_for"] == ["resolution"]
    assert intervals[4]["counts_for"] == ["next_response", "resolution"]
    assert {i["calendar"] for i in answer["intervals"]} == {"office@3"}
    assert answer["calendars"]["office@3"]["holidays"] == ["2026-03-31"]
    assert (last["why"], last["status"], last["end"]) == ("paused", "resolved", answer["now"])
    following, resolution = answer["promises"]
    assert [p["target"] for p in answer["promises"]] == ["next_response", "resolution"]
    assert resolution["used_ms"] == 630 * MINUTE_MS
    assert (resolution["state"], resolution["left_ms"]) == ("missed", -30 * MINUTE_MS)
    assert (following["state"], following["used_ms"]) == ("missed", 540 * MINUTE_MS)
    assert datetime.fromisoformat(following["since"]) == at("2026-03-28T23:00")
    shown = (await client.get(f"/tickets/{ticket}", headers=AGENT)).json()
    for promise in answer["promises"]:
        assert promise["due_at"] == shown[f"{promise['target']}_due_at"]


async def test_requesters_are_told_when_and_not_how(client, store):
    [ticket] = await open_some(store, 1, versions=1, sla=SlaTargets(60, None))
    path = f"/tickets/{ticket}"
    assert (await client.get(path, headers=REQUESTER)).json()["first_response_due_at"]
    assert (await client.get(f"{path}/sla", headers=REQUESTER)).status_code == 403
    is_problem(
        await client.get(f"/tickets/{UUID(int=7)}/sla", headers=AGENT), 404, "ticket_not_found"
    )


async def test_without_a_calendar_all_time_counts(client, store):
    [ticket] = await open_some(store, 1, versions=2, sla=SlaTargets(60, None))
    await add(store, ticket, "AgentReplied", at("2026-03-01T12:40"), body="x")
    answer = (await client.get(f"/tickets/{ticket}/sla", headers=AGENT)).json()
    [promise] = answer["promises"]
    assert (promise["state"], promise["left_ms"]) == ("kept", 20 * MINUTE_MS)
    assert next(i["counted_ms"] for i in answer["intervals"]) == 40 * MINUTE_MS
    assert answer["calendars"] == {}


def followed(events, *derivations: Derivation) -> Ticket:
    """The ticket after its events, which the derivations have followed."""
    ticket = None
    for event, moment in events:
        for derivation in derivations:
            if ticket is not None:
                derivation.before(ticket, moment)
        ticket = evolve(ticket, event, moment)
        for derivation in derivations:
            derivation.after(ticket, moment)
    assert ticket is not None
    return ticket


def test_what_is_counted_is_what_a_walk_through_every_minute_counts():
    """L7: and it sums to what is used, in ten zones, around changes of their clocks."""
    counted = 0
    for seed in range(200):
        events, end = history(random.Random(seed))  # noqa: S311 not for secrets
        derivation = Derivation()
        ticket = followed(events, derivation)
        walk = walked(events, end)
        promises = {each.target: each for each in derivation.promises(ticket, end)}
        for target, used in walk.used.items():
            if target in promises:
                promise = promises[target]
                counted += used
                assert promise.used_ms == used * MINUTE_MS, (seed, target)
                assert promise.left_ms == promise.promised_ms - promise.used_ms
                assert promise.used_ms == sum(
                    interval.counted_ms
                    for interval in derivation.intervals
                    if target in interval.counts_for
                    and promise.since is not None
                    and interval.start >= promise.since
                )
        left_ms = clock_at(ticket, end)._counted(end).left_ms()
        assert all(promises[target].left_ms == ms for target, ms in left_ms.items())
        ends = [events[0][1], *(interval.end for interval in derivation.intervals)]
        assert [interval.start for interval in derivation.intervals] == ends[:-1]
        assert ends[-1] == end
    assert counted > 10_000


def test_of_too_many_intervals_the_newest_are_kept_and_the_others_summed_up():
    for seed in range(50):
        events, end = history(random.Random(seed))  # noqa: S311 not for secrets
        whole, short = Derivation(), Derivation(most=3)
        ticket = followed(events, whole, short)
        promises = zip(whole.promises(ticket, end), short.promises(ticket, end), strict=True)
        assert [*short.intervals] == [*whole.intervals][-3:]
        for full, cut in promises:
            assert replace(cut, omitted_ms=0) == full
            shown = (i for i in short.intervals if full.since and i.start >= full.since)
            shown_ms = sum(i.counted_ms for i in shown if full.target in i.counts_for)
            assert shown_ms + cut.omitted_ms == full.used_ms


def test_of_a_promise_that_a_merge_has_brought_it_says_whose_it_was():
    other, due_at = UUID(int=7), NOW + timedelta(minutes=20)
    derivation = Derivation()
    events = [(opened(sla=SlaTargets(60, 120)), NOW), (TicketMergedFrom(other, ()), NOW)]
    brought = PromiseTakenOver("first_response", due_at, other)
    ticket = followed([*events, (brought, NOW)], derivation)
    first, resolution = derivation.promises(ticket, NOW + timedelta(minutes=5))
    assert (first.promised_ms, first.left_ms) == (20 * MINUTE_MS, 15 * MINUTE_MS)
    assert (first.merged_from, resolution.merged_from) == (other, None)
