"""How the views say that they are: by progress against the log (L8, L9)."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID, uuid4

import pytest

from domain.days import UTC_ONLY
from eventstore.database import Database
from eventstore.event_document import TICKET_EVENTS, EventDocument
from eventstore.log import EventStore
from eventstore.personal.erasure_news import PERSON_EVENTS
from eventstore.subscription import LateEventCheck
from projections.projector import health
from projections.projector.checkpoints import Checkpoints
from projections.projector.health import condition
from projections.projector.log_count import LogCountCheck
from projections.projector.partitions import Member, Partition, State
from projections.projector.projector import Projector
from scripts.testbed.patience import patience
from scripts.testbed.wire import Fate, through
from tests.api.test_api import OPEN, WAIT, is_problem, serving
from tests.callers import ADMIN, AGENT
from tests.oracle import assert_views_equal_the_log
from tests.projecting import (
    LEASE_SECONDS,
    add,
    all_live,
    by_utc,
    caught_up,
    hasty,
    open_some,
    running,
    until,
)
from tests.streams import leaving_out

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def judged(*, as_of: float | None, seen: float, progressed: float | None, phase="live", owner="me"):
    """Judge a partition by how many seconds ago things were."""

    def ago(seconds):
        return None if seconds is None else NOW - timedelta(seconds=seconds)

    member = Member("me", ago(seen), progressed_at=ago(progressed), as_of=ago(as_of))
    partition = Partition(0, owner=owner, phase=phase, as_of=ago(as_of))
    return condition(State(NOW, [partition], {"me": member}), partition)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"as_of": 1, "seen": 1, "progressed": 1}, "current"),
        ({"as_of": 60, "seen": 1, "progressed": 1}, "slow"),
        ({"as_of": 60, "seen": 1, "progressed": 60}, "stuck"),  # it lives, and does nothing
        ({"as_of": 60, "seen": 60, "progressed": 60}, "stuck"),  # it is dead
        ({"as_of": 12, "seen": 12, "progressed": 12}, "slow"),  # someone will take over
        ({"as_of": None, "seen": 1, "progressed": None}, "stuck"),
        ({"as_of": 1, "seen": 1, "progressed": 1, "phase": "scan"}, "slow"),
        ({"as_of": 60, "seen": 1, "progressed": 60, "phase": "scan"}, "stuck"),
        ({"as_of": 1, "seen": 1, "progressed": 1, "owner": None}, "slow"),
        ({"as_of": 60, "seen": 1, "progressed": 1, "owner": None}, "stuck"),
        ({"as_of": -3600, "seen": -3600, "progressed": -3600}, "stuck"),  # the clock went back
    ],
)
def test_a_partition_is_judged_by_how_far_it_is_and_whether_it_gets_on(told, expected):
    assert judged(**told) == expected


@pytest.mark.parametrize(("ahead", "expected"), [(-7, 7.0), (1, 0.0), (3600, None)])
def test_views_of_a_time_to_come_are_of_unknown_age(ahead, expected):
    """L9: a clock was put back, and nobody projects: they may be as old as they like."""
    partition = Partition(0, phase="live", as_of=NOW + timedelta(seconds=ahead))
    assert health.age_seconds(State(NOW, [partition], {})) == expected


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(health, "STUCK_SECONDS", 1.0)


async def ready(client, status):
    return (await client.get("/readyz")).status_code == status


async def test_ready_while_the_views_are_kept_and_not_when_nobody_does(database, store, impatient):
    """A dead projector is no healthy one, even where there is nothing to do."""
    async with serving(database, project=False) as client:
        assert await ready(client, 503)
        async with running(by_utc(database, store)):
            await until(partial(ready, client, 200))

            async def current():
                shown = (await client.get("/readyz")).json()
                return (shown["status"], shown["views"]) == ("ready", "current")

            await until(current)
        await until(partial(ready, client, 503))
        assert (await client.get("/readyz")).json()["views"] == "stuck"
        assert (await client.get("/healthz")).json() == {"status": "ok"}


async def test_a_projector_that_fails_again_and_again_is_stuck_and_says_why(
    database, store, impatient, monkeypatch
):
    """L8: its lease is fresh and it gets nowhere; that is not health."""
    monkeypatch.setattr("projections.projector.projector.RETRY_SECONDS", 0.05)
    failing = by_utc(database, store)
    async with serving(database, project=False) as client, running(failing):
        await all_live(database)
        await until(partial(ready, client, 200))
        write = failing._writer.write

        async def broken(*_, **__):
            raise RuntimeError("the disk is full")

        failing._writer.write = broken  # type: ignore[method-assign]
        await open_some(store, 1)
        await until(partial(ready, client, 503))

        async def told():
            shown = (await client.get("/projections")).json()
            return shown["condition"] == "stuck" and shown["failures"]

        [failure] = await until(told)
        assert "the disk is full" in failure

        async def missing():
            return (await client.get("/projections")).json()["missing_events"] == 3

        await until(missing)
        failing._writer.write = write  # type: ignore[method-assign]
        await until(partial(ready, client, 200))
        assert (await client.get("/projections")).json()["failures"] == []


async def test_a_projector_that_believes_to_be_up_to_date_is_not_believed(
    database, store, impatient, monkeypatch
):
    """L8: its stream is silent, its heart beats, and it never counts: the log knows better."""
    monkeypatch.setattr("projections.projector.projector.SWEEP_SECONDS", 1000.0)
    deaf = by_utc(database, leaving_out(database, lambda _event: True))
    async with serving(database, project=False) as client, running(deaf):
        await all_live(database)  # a partition that is still being scanned would find it
        await until(partial(ready, client, 200))
        await open_some(store, 1)
        await until(partial(ready, client, 503))


async def test_what_is_lost_while_much_goes_on_is_found_and_folded(database, store, monkeypatch):
    """L8: no quiet moment, no count that ever agrees; the event is looked up."""
    monkeypatch.setattr(health, "OVERDUE_SECONDS", 1.0)
    monkeypatch.setattr(health, "STUCK_SECONDS", 1.5)
    victim, other = await open_some(store, 2)
    late = LateEventCheck(0.5, timedelta(seconds=1))

    class Looking(Projector):
        looks = True

        async def _not_shown(self, events):
            return await super()._not_shown(events) if self.looks else ()

    projector = Looking(database, store, zones=UTC_ONLY, lease_seconds=LEASE_SECONDS, late=late)
    write = projector._writer.write
    lost: list[EventDocument] = []

    async def losing(owned, batch, token=None):
        kept = [e for e in batch if e["ticket_id"] != victim or e["version"] < 4]
        lost.extend(e for e in batch if e not in kept)
        return await write(owned, kept, token) if kept else 0

    async def go_on():
        while True:
            await add(store, other, "AgentReplied", body="x")
            await asyncio.sleep(0.05)

    async with serving(database, project=False) as client, running(projector):
        await until(partial(ready, client, 200))
        going_on = asyncio.create_task(go_on())
        projector.looks = False
        projector._writer.write = losing  # type: ignore[method-assign]
        await add(store, victim, "AgentReplied", body="lost")
        await until(partial(ready, client, 503))
        assert (await client.get("/projections")).json()["overdue_events"] == 1
        projector.looks = True
        # Under another owner it may have come twice.
        assert {(event["ticket_id"], event["version"]) for event in lost} == {(victim, 4)}
        projector._writer.write = write  # type: ignore[method-assign]
        await until(partial(ready, client, 200))
        going_on.cancel()
        await asyncio.gather(going_on, return_exceptions=True)
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_slow_is_not_stuck(database, store, monkeypatch):
    """It is behind and gets on: ready, and it says so."""
    monkeypatch.setattr(health, "STUCK_SECONDS", 5.0)
    slow = by_utc(database, store)
    slow._beat_seconds = 0.5
    write = slow._writer.write
    clock = asyncio.get_running_loop().time
    took: list[float] = []

    async def slowly(owned, batch, token=None):
        began = clock()
        await asyncio.sleep(3.0)
        try:
            return await write(owned, batch, token)
        finally:
            took.append(clock() - began)

    async with serving(database, project=False) as client, running(slow):
        await all_live(database)
        await until(partial(ready, client, 200))
        slow._writer.write = slowly  # type: ignore[method-assign]
        ids = await open_some(store, 3)
        told: list[tuple[int, str]] = []

        async def said_often():
            await add(store, ids[len(told) % 3], "AgentReplied", body="x")
            answer = await client.get("/readyz")
            told.append((answer.status_code, answer.json()["views"]))
            return told.count((200, "slow")) == 20

        await until(said_often)
    # Unless the machine was so busy that a batch did take about as long as what is called stuck.
    assert max(took) > 4.0 or {status for status, _ in told} == {200}


async def test_views_do_not_stay_as_new_as_a_clock_once_said_that_was_wrong(database, store):
    """L9: it is put back by an hour, and they are not called new for an hour."""
    async with running(hasty(database, store)):
        await until(partial(_known, database))
        ahead = await database.server_time() + timedelta(hours=1)
        await database.collection("projectors").update_many({}, {"$set": {"as_of": ahead}})

        async def is_told():
            state = await Checkpoints(database).read()
            shown = health.as_of(state)
            return shown is not None and shown <= state.now

        await until(is_told, patience(10))


async def test_with_every_projector_stopped_nothing_fails_and_lists_say_how_old_they_are(database):
    """L9: single tickets show everything; lists what they can."""
    store = EventStore(database)
    async with serving(database) as client:
        path = (await client.post("/tickets", json=OPEN, headers=WAIT)).headers["location"]
        await until(partial(_known, database))

        async def young():
            age = (await client.get("/tickets")).headers["casebook-views-age"]
            return age != "unknown" and 0.0 <= float(age) < 5.0

        await until(young)
    async with serving(database, project=False) as client:
        await client.post(f"{path}/add_note", json={"body": "odd"}, headers=AGENT)
        new = (await client.post("/tickets", json=OPEN)).headers["location"]

        async def older():
            return float((await client.get("/tickets")).headers["casebook-views-age"]) >= 1.0

        await until(older)
        for each in (path, new):
            shown = await client.get(each)
            assert shown.status_code == 200
            assert shown.json()["version"] == len(await store.load(UUID(each[-36:])))
        for listing in ("/tickets", "/dashboard", "/views", "/dashboard/series?metric=backlog"):
            answer = await client.get(listing)
            assert answer.status_code == 200
            assert 1.0 <= float(answer.headers["casebook-views-age"]) < patience(30.0)
        assert len((await client.get("/tickets")).json()["tickets"]) == 1
        assert (await client.get("/projections")).status_code == 200


async def test_views_that_were_never_made_are_of_unknown_age(database, store):
    async with serving(database, project=False) as client:
        answer = await client.get("/tickets")
        assert (answer.status_code, answer.headers["casebook-views-age"]) == (200, "unknown")


# --- as new as a command --------------------------------------------------------------------------


async def test_a_list_can_be_asked_to_show_a_command(database):
    """L9: without having waited for it when it was sent."""
    async with serving(database) as client:
        for n in range(1, 6):
            opened = (await client.post("/tickets", json=OPEN)).json()
            after = f"{opened['ticket_id']}@{opened['version']}"
            for listing in ("/tickets", "/dashboard", "/views", "/dashboard/series?metric=created"):
                parameters = {"after": after, "metric": "created"} if "series" in listing else {
                    "after": after
                }  # fmt: skip
                answer = await client.get(listing.partition("?")[0], params=parameters)
                assert answer.status_code == 200, answer.text
            listed = (await client.get("/tickets", params={"after": after})).json()["tickets"]
            assert len(listed) == n


async def test_a_list_that_cannot_show_a_command_in_time_says_so(database, store):
    """L9, L12: refused, and not answered with something older."""
    async with serving(database, project=False) as client:
        opened = (await client.post("/tickets", json=OPEN)).json()
        after = {"after": [f"{opened['ticket_id']}@1", f"{uuid4()}@1"]}
        answer = await client.get("/tickets", params=after, headers={"Prefer": "wait=0"})
        is_problem(answer, 412, "views_behind")
        assert answer.headers["retry-after"]
        async with running(by_utc(database, store)):
            mine = {"after": f"{opened['ticket_id']}@1"}
            answer = await client.get("/tickets", params=mine, headers={"Prefer": "wait=20"})
            assert len(answer.json()["tickets"]) == 1
            at_once = await client.get("/tickets", params=mine, headers={"Prefer": "wait=0"})
            assert at_once.status_code == 200


# --- /projections ---------------------------------------------------------------------------------


async def test_operators_see_each_partition(database, store):
    ids = await open_some(store, 20)
    async with serving(database, project=False) as client, running(by_utc(database, store)):
        await caught_up(database, store)
        await all_live(database)
        shown = (await client.get("/projections")).json()
        assert (shown["log_events"], shown["applied_events"], shown["missing_events"]) == (
            60,
            60,
            0,
        )
        [projector] = [m for m in shown["projectors"] if m["alive"]]
        assert projector["partitions"] == 64
        for number, partition in enumerate(shown["partitions"]):
            own = [i for i in ids if i.int % 64 == number]
            assert partition["partition"] == number
            assert partition["owner"] == projector["id"]
            assert partition["epoch"] == 1
            assert partition["applied_events"] == 3 * len(own)
            if own:
                assert partition["last_event"]["ticket_id"] in map(str, own)
                assert partition["last_event"]["age_seconds"] >= 0
            else:
                assert partition["last_event"] is None


async def test_the_lag_is_told_by_partition(database, store):
    """What is in the log and not in the views, found in the log."""
    ids = await open_some(store, 5)
    async with serving(database, project=False) as client:
        async with running(by_utc(database, store)):
            await caught_up(database, store)
            await all_live(database)
            await until(partial(_known, database))
        for ticket_id in ids[:2]:
            await add(store, ticket_id, "AgentReplied", body="x")
        await add(store, ids[0], "AgentReplied", body="y")
        await asyncio.sleep(0.3)
        shown = (await client.get("/projections")).json()
        assert shown["missing_events"] == 3
        expected = dict.fromkeys(range(64), 0)
        for ticket_id in (*ids[:2], ids[0]):
            expected[ticket_id.int % 64] += 1
        for partition in shown["partitions"]:
            lag = partition["lag"]
            assert lag["events"] == expected[partition["partition"]]
            assert (lag["seconds"] >= 0.3) == (lag["events"] > 0)
            assert lag["at_least"] is False


async def _known(database):
    return health.age_seconds(await Checkpoints(database).read()) is not None


async def test_a_parked_ticket_is_shown_and_can_be_repaired(database, store, monkeypatch):
    from projections.views import tickets  # noqa: PLC0415

    apply = tickets.apply

    def broken(read, envelope, zones):
        if envelope.type == "AgentReplied":
            raise RuntimeError("a bug in a fold: canary")
        return apply(read, envelope, zones)

    monkeypatch.setattr(tickets, "apply", broken)
    [ticket_id] = await open_some(store, 1)
    hasty = by_utc(database, store, lease_seconds=LEASE_SECONDS)
    async with serving(database, project=False) as client, running(hasty):
        await add(store, ticket_id, "AgentReplied", body="x")
        await caught_up(database, store)
        shown = (await client.get("/projections")).json()
        [parked] = shown["parked"]
        assert parked["ticket_id"] == str(ticket_id)
        assert (parked["version"], parked["waiting_events"]) == (4, 1)
        assert parked["error"].startswith("RuntimeError: in broken, line ")  # not what it held
        assert (await client.get("/projections")).json()["parked_tickets"] == 1
        monkeypatch.setattr(tickets, "apply", apply)
        asked = await client.post(
            "/projections/repairs", json={"ticket_id": str(ticket_id)}, headers=ADMIN
        )
        assert asked.status_code == 202

        async def repaired():
            return (await client.get("/projections")).json()["parked"] == []

        await until(repaired)
        unknown = await client.post(
            "/projections/repairs", json={"ticket_id": str(uuid4())}, headers=ADMIN
        )
        is_problem(unknown, 404, "ticket_not_found")
    await assert_views_equal_the_log(database)


async def test_looking_costs_nothing_that_grows_with_tickets(database, store):
    """What is waited for by nobody is not missing: events of parked tickets."""
    [ticket_id] = await open_some(store, 1)
    async with running(by_utc(database, store)):
        await add(store, ticket_id, "NobodyKnows")
        await add(store, ticket_id, "AgentReplied", body="x")
        await caught_up(database, store)
    report = await health.look(database, store, store.count)
    assert (report.log_events, report.folded_events, report.missing_events) == (5, 3, 0)


# --- counting the log -----------------------------------------------------------------------------


class Estimated(EventStore):
    """A log whose estimate is off, as after an unclean shutdown; `counts`: how it was counted."""

    off = 7

    def __init__(self, database):
        super().__init__(database)
        self.counts: list[bool] = []

    async def count(self, *, exact=False):
        self.counts.append(exact)
        return await super().count(exact=exact) + (0 if exact else self.off)


@pytest.mark.parametrize("off", [-7, 7])
async def test_a_wrong_estimate_is_corrected_once(database, store, monkeypatch, off):
    """It is a reason to count exactly, and then it is remembered: by who comes later as well."""
    monkeypatch.setattr("projections.projector.projector.SWEEP_SECONDS", 0.05)
    log = Estimated(database)
    log.off = off
    late = LateEventCheck(1000.0, timedelta(seconds=0.1))

    async def counted(times):
        return len(log.counts) >= times

    async def projected(client, events):
        """While some sweeps go on, and events are written."""
        projector = by_utc(database, log, lease_seconds=LEASE_SECONDS, late=late)
        async with running(projector):
            await until(partial(ready, client, 200))
            for _ in range(2):
                await open_some(store, 1)
                await until(partial(counted, len(log.counts) + 5))

            async def told():
                shown = (await client.get("/projections")).json()
                return (shown["log_events"], shown["missing_events"]) == (events, 0)

            await until(told)
            assert (await client.get("/readyz")).json()["views"] == "current"

    async with serving(database, project=False) as client:
        await projected(client, 6)
        assert 1 <= log.counts.count(True) <= 2  # again if it was counted while something came
        log.counts.clear()
        await projected(client, 12)
        assert True not in log.counts
        log.off = 0
        await projected(client, 18)
        assert 1 <= log.counts.count(True) <= 2


async def test_what_comes_while_the_log_is_counted_hides_nothing_that_vanishes(
    database, store, monkeypatch
):
    """L8: what an estimate is off by is not taken for more than it is."""

    async def no_sweep(_projector):
        pass

    monkeypatch.setattr(Projector, "_sweep", no_sweep)

    class Busy(Estimated):
        async def count(self, *, exact=False):
            if exact:
                await open_some(self, 1)
            return await super().count(exact=exact)

    log, checkpoints = Busy(database), Checkpoints(database)
    log.off = -7

    async def compared(log):
        _, counted = await LogCountCheck(database, log, checkpoints, timedelta()).compare()
        await checkpoints.keep_count(counted)
        return counted.difference

    async def project():
        async with running(hasty(database, store)):
            await caught_up(database, store)

    await open_some(log, 1)
    await project()
    assert await compared(log) == 0
    assert True in log.counts
    await project()
    await database.collection(TICKET_EVENTS).delete_one({"version": 3})
    quiet = Estimated(database)
    quiet.off = log.off
    assert await compared(quiet) == 1


async def test_what_scanning_does_not_mend_is_told_and_not_scanned_for_for_ever(
    database, store, monkeypatch
):
    """L8: though more is written meanwhile: a document of the log that is no event, for one."""
    monkeypatch.setattr("projections.projector.projector.SWEEP_SECONDS", 0.05)
    late = LateEventCheck(1000.0, timedelta(seconds=0.1))
    projector = by_utc(database, store, lease_seconds=LEASE_SECONDS, late=late)
    checkpoints, scan_all = projector._checkpoints, projector._checkpoints.scan_all
    scans = []

    async def scan():
        scans.append(await open_some(store, 1))
        await scan_all()

    monkeypatch.setattr(checkpoints, "scan_all", scan)

    async def difference():
        return (await checkpoints.read()).counted.difference

    async with running(projector):
        await open_some(store, 1)
        await caught_up(database, store)
        damaged = {"_id": uuid4(), "ticket_id": uuid4(), "version": "one"}
        await database.collection(TICKET_EVENTS).insert_one(damaged)
        assert await until(difference, patience(20)) == -1
        assert len(scans) == 1
        # And once it is mended, that is told as well.
        await database.collection(TICKET_EVENTS).delete_one({"_id": damaged["_id"]})

        async def mended():
            return await difference() == 0

        await until(mended)


async def test_no_request_counts_the_log(database, store):
    """Nor aggregates: however often readiness is asked for, it costs what a few finds do."""
    await open_some(store, 3)
    sent: list[str] = []

    def heard(command):
        name = next(iter(command))
        # Several finds may be one command; who was erased is looked for in the background.
        if "$unionWith" not in str(command) and command[name] != PERSON_EVENTS:
            sent.append(name)
        return Fate.PASSED

    async with running(database):
        await caught_up(database, store)
        await all_live(database)
        async with through(database.url, heard) as (url, _):
            reader = Database(url, "pymongo")
            async with serving(reader, project=False) as client:
                sent.clear()
                for path in ("/readyz", "/projections", "/metrics"):
                    assert (await client.get(path, headers=ADMIN)).status_code == 200
            await reader.close()
    assert "find" in sent
    assert not {"count", "aggregate", "distinct"} & {*sent}, Counter(sent)


async def test_a_log_whose_estimate_takes_long_is_not_estimated_again_at_once(database, store):
    """The embedded server counts every event for it."""

    class Slow(Estimated):
        async def count(self, *, exact=False):
            await asyncio.sleep(1.0)
            return await super().count(exact=exact)

    counting = LogCountCheck(database, Slow(database), Checkpoints(database), timedelta())
    assert counting.is_due
    await counting.compare()
    assert not counting.is_due  # for 50 times as long
