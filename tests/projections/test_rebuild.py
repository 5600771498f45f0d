"""Views built anew under live traffic, and put in the place of the old ones in one instant (L7)."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from functools import partial
from itertools import pairwise
from typing import cast
from uuid import UUID, uuid4

import pytest
from pymongo.errors import AutoReconnect

from domain.errors import CasebookError
from eventstore.background import background
from eventstore.log import COLLECTION as EVENTS
from eventstore.log import TicketRange
from eventstore.mongo.driver import maybe_await
from projections import daemon as keeping
from projections import generations
from projections.generations import (
    VIEWS,
    BuildLost,
    BuildRunning,
    Generation,
    Generations,
    NoFormer,
    UnknownAsOf,
    views_database,
)
from projections.projector import health
from projections.projector.checkpoints import Checkpoints, Fenced
from projections.projector.parked import ParkedTickets
from projections.projector.partitions import plan
from projections.replay import audit, rebuild
from projections.replay.rebuild import NotProved, Rebuild
from projections.replay.scan import fold_range
from projections.views.saved_views import SavedViews, TicketFilter
from projections.views.tickets import SHAPE
from projections.workers import WorkerFailed, workers
from scripts.testbed.patience import patience
from tests.oracle import assert_views_equal_the_log
from tests.projecting import (
    LEASE_SECONDS,
    add,
    audited,
    by_utc,
    caught_up,
    open_some,
    rebuilt,
    running,
    until,
)
from tests.spec import NOW

DAY = timedelta(days=1)
DROP_SECONDS = generations.DROP_SECONDS
MONGODB_TRANSACTION_SECONDS = 60  # transactionLifetimeLimitSeconds
BEFORE_IT_IS_ENDED = MONGODB_TRANSACTION_SECONDS - 10


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(keeping, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(keeping, "_SWEEP_SECONDS", 0.1)
    monkeypatch.setattr(generations, "DROP_SECONDS", 0.5)


async def numbers(database):
    """Which numbers of generations have collections."""
    there = await database.collections(views_database(database.name))
    return {int(name.rpartition("_")[2]) for name in there if name.rpartition("_")[0] in VIEWS}


async def active(database) -> Generation:
    return await Generations(database).active()


async def shown(database, view="ticket_reads"):
    return (await Generations(database).shown()).collection(view)


async def test_the_same_views_come_out_whatever_was_there(database, store):
    """L7: damaged views, built anew beside live projectors, which go on with the new ones."""
    ids = await open_some(store, 10, group="print")
    async with running(database, database):
        await SavedViews(database).save("print", TicketFilter(group="print"))
        await add(store, ids[9], "NobodyKnows")
        await caught_up(database, store)
        reads = await shown(database)
        await reads.update_one({"_id": ids[0]}, {"$set": {"status": "closed"}})
        await reads.delete_one({"_id": ids[1]})
        await reads.update_one({"_id": ids[2]}, {"$set": {"version": 99}})
        await (await shown(database, "dashboard_counters")).update_many(
            {}, {"$inc": {"n.status.x": 5}}
        )
        await (await shown(database, "agent_weeks")).drop()
        summary = await rebuilt(database)
        assert (summary.tickets, summary.events, summary.parked) == (10, 30, 1)
        assert (summary.checked_documents, summary.checked_numbers > 20) == (10, True)
        assert set((await active(database)).numbers.values()) == {2}
        await add(store, ids[0], "AgentReplied", body="after")
        await open_some(store, 3)
        await caught_up(database, store)
        await assert_views_equal_the_log(database, parked=[ids[9]])

        ended = await Generations(database).ended()
        assert ended is not None
        assert (ended.what, ended.failure, ended.checked_documents) == ("rebuild", None, 10)
        assert ended.seconds.keys() == summary.seconds.keys()

        async def only_the_new():
            return await numbers(database) == {2}

        await until(only_the_new)
    await assert_views_equal_the_log(database, parked=[ids[9]])


@pytest.mark.slow
async def test_nobody_sees_a_list_go_back_while_all_is_built_anew_again_and_again(database, store):
    """L7, L9: each reader's lists only grow, and hold all that was shown before."""
    ids = await open_some(store, 20)
    stop = asyncio.Event()
    seen = 0

    async def write():
        while not stop.is_set():
            for ticket_id in ids[:10]:
                await add(store, ticket_id, "AgentReplied", body="x")
            ids.extend(await open_some(store, 1))
            # Steadily: all of them share one thread, and would else have no time to catch up.
            await asyncio.sleep(0.3)

    async def read():
        nonlocal seen
        asking = Generations(database)
        versions: dict[UUID, int] = {}
        while not stop.is_set():
            page = await asking.ask(lambda there: there.collection("ticket_reads").find().to_list())
            now = {cast("UUID", d["_id"]): cast("int", d["version"]) for d in page}
            assert all(now.get(ticket_id, 0) >= n for ticket_id, n in versions.items())
            versions = now
            seen += 1
            await asyncio.sleep(0.01)

    async with running(database, database):
        await caught_up(database, store)
        async with asyncio.TaskGroup() as group:
            for work in (write, read, read):
                group.create_task(work())
            for _ in range(2):
                await rebuilt(database)
            stop.set()
        await caught_up(database, store)
    assert seen > 20
    await assert_views_equal_the_log(database)


class Killed(Exception):
    """What happens in the place of a kill."""


PHASES = ("scan", "tail", "prove", "switch", "hand over")


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
async def test_stopped_in_any_phase_it_leaves_what_is_shown_as_it_was(database, store, phase):
    """L7: and what it has built is dropped; the next one works."""
    await open_some(store, 10)

    def tell(progress):
        if progress.phase == phase:
            raise Killed

    async with running(database):
        await caught_up(database, store)
        with pytest.raises(Killed):
            await rebuilt(database, tell)
        number = 2 if phase == "hand over" else 1
        assert set((await active(database)).numbers.values()) == {number}
        await open_some(store, 2)
        await caught_up(database, store)
        await assert_views_equal_the_log(database)

        async def swept():
            return await numbers(database) == {number}

        await until(swept)
        await rebuilt(database)
        await assert_views_equal_the_log(database)


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
async def test_killed_in_any_phase_it_is_taken_for_dead(database, store, phase, monkeypatch):
    """L7: nothing is tidied up; the next build waits for its sign of life to lapse."""
    for module in (generations, rebuild):
        monkeypatch.setattr(module, "BUILD_LEASE_SECONDS", 2 * LEASE_SECONDS)
    await open_some(store, 10)

    def tell(progress):
        if progress.phase == phase:
            raise Killed

    async def nothing(*_):
        pass

    async with running(database):
        await caught_up(database, store)
        with monkeypatch.context() as patched:
            patched.setattr(Generations, "give_up", nothing)
            patched.setattr(Checkpoints, "leave", nothing)
            with pytest.raises(Killed):
                await rebuilt(database, tell)
        await rebuilt(database)
        await caught_up(database, store)
        await assert_views_equal_the_log(database)


async def test_what_cannot_be_proved_is_not_shown(database, store, monkeypatch):
    """L7: a scan that leaves something out, for whatever reason."""
    monkeypatch.setattr(audit, "_BEHIND_SECONDS", 0.2)
    ids = await open_some(store, 4)
    scanned = fold_range

    async def forgetful(database, asked):
        folded = await scanned(database, asked)
        reads = asked[0].generation.of(database).collection("ticket_reads")
        await reads.update_one({"_id": ids[0]}, {"$set": {"status": "closed"}})
        return folded

    monkeypatch.setattr(rebuild, "fold_range", forgetful)
    async with running(database):
        await caught_up(database, store)
        with pytest.raises(NotProved, match=": status"):
            await rebuilt(database)
    ended = await Generations(database).ended()
    assert ended is not None
    assert ended.what == "rebuild"
    assert ended.failure == f"not shown, for 1 things differ from the log: ticket {ids[0]}: status"
    assert set((await active(database)).numbers.values()) == {1}
    await assert_views_equal_the_log(database)


async def test_two_do_not_build_at_once(database, store):
    """The second waits for as long as the first may be dead, and no longer."""
    building = Generations(database)
    first = await building.begin("first")
    with pytest.raises(BuildRunning):
        await building.begin("second")
    await building.give_up("first")
    second = await building.begin("second")
    assert second.numbers["ticket_reads"] > first.numbers["ticket_reads"]


async def begins(building, me):
    """Begin a build, unless another's lease has not lapsed yet."""
    try:
        return await building.begin(me)
    except BuildRunning:
        return None


async def test_a_builder_that_was_frozen_shows_nothing(database, store, monkeypatch):
    """L7: taken for dead while it was; what it had built may be gone."""
    monkeypatch.setattr(generations, "BUILD_LEASE_SECONDS", 0.1)
    building = Generations(database)
    await building.begin("frozen")
    await until(partial(begins, building, "other"))
    ended = await building.ended()
    assert ended is not None
    assert "killed" in (ended.failure or "")
    with pytest.raises(BuildLost):
        await building.beat("frozen", "scan", 0, 0)
    with pytest.raises(BuildLost):
        await building.switch("frozen", "frozen", keep_former=False)
    assert set((await active(database)).numbers.values()) == {1}


async def test_what_a_killed_build_has_left_open_holds_nobody_up(database, store, monkeypatch):
    """L3: its collections are dropped when the database has ended its transaction, not before."""
    assert DROP_SECONDS > MONGODB_TRANSACTION_SECONDS + 10
    monkeypatch.setattr(generations, "DROP_SECONDS", DROP_SECONDS)
    monkeypatch.setattr(generations, "BUILD_LEASE_SECONDS", 0.1)
    generation = await Generations(database).begin("killed")
    left_open = generation.of(database).collection("ticket_reads")
    await left_open.insert_one({"_id": uuid4()})
    session = await maybe_await(database.client.start_session())
    await maybe_await(session.start_transaction())
    await left_open.insert_one({"_id": uuid4()}, session=session)
    await asyncio.sleep(0.3)
    async with asyncio.timeout(BEFORE_IT_IS_ENDED), running(database):
        await Generations(database).sweep()
        ids = await open_some(store, 2)
        await caught_up(database, store)
    await assert_views_equal_the_log(database)
    assert len(ids) == 2
    assert (await Generations(database).begin("next")).numbers != generation.numbers
    assert generation.names["ticket_reads"] in await database.collections(
        views_database(database.name)
    )
    await session.end_session()


async def test_what_a_killed_builds_projector_has_left_open_is_ended(database, store, monkeypatch):
    """L8: on some servers no stream goes on behind a transaction that is open."""
    monkeypatch.setattr(generations, "DROP_SECONDS", DROP_SECONDS)  # not before it is looked at
    monkeypatch.setattr(generations, "BUILD_LEASE_SECONDS", 0.1)
    generation = await Generations(database).begin("killed")
    its = generation.of(database).keeping_session()
    await generations.prepare(its)
    reads = its.collection("ticket_reads")
    await reads.insert_one({"_id": uuid4()})
    opened, ended = asyncio.Event(), asyncio.Event()
    runs: list[bool] = []

    async def work(session):
        runs.append(opened.is_set())
        await reads.insert_one({"_id": uuid4()}, session=session)
        await Checkpoints(its).beat("its projector")
        opened.set()
        await ended.wait()

    working = asyncio.create_task(its.in_transaction(work))
    await opened.wait()
    await asyncio.sleep(0.3)
    async with asyncio.timeout(BEFORE_IT_IS_ENDED), running(database):
        await Generations(database).give_up_the_dead()
        await open_some(store, 2)
        await caught_up(database, store)
    await assert_views_equal_the_log(database)
    assert await reads.count_documents({}) == 1
    ended.set()
    await working  # its first transaction was ended, so all of it was done again
    assert runs == [False, True]
    assert await reads.count_documents({}) == 2


async def test_nothing_is_shown_without_a_fence(database, store):
    """L7: somebody may be writing to what is shown now."""
    building = Generations(database)
    await building.begin("me")
    checkpoints = Checkpoints(database)
    await checkpoints.fence("me")
    await checkpoints.beat("other")
    assert plan(await checkpoints.read(), "other") == []
    state = await checkpoints.read()
    await checkpoints.take("other", state, [state.partitions[7]])
    with pytest.raises(Fenced):
        await building.switch("me", "me", keep_former=False)
    assert set((await active(database)).numbers.values()) == {1}


async def test_a_sweep_drops_what_nothing_names_and_no_more(database, store):
    """L7: not what is being built, was kept, or is of another name."""
    async with running(database):
        await rebuilt(database, keep_former=True)
    await Generations(database).begin("me")
    views = database.client[f"{database.name}_views"]
    for name in ("ticket_reads_77", "ticket_reads_3", "ticket_reads_old", "unrelated_77"):
        await views[name].insert_one({})
    await asyncio.sleep(0.6)
    await Generations(database).sweep()
    there = set(await database.collections(views_database(database.name)))
    assert "ticket_reads_77" not in there
    assert {"ticket_reads_1", "ticket_reads_2", "ticket_reads_3", "ticket_reads_old"} <= there
    assert "unrelated_77" in there
    assert EVENTS in await database.collections(database.name)


async def test_the_views_names_show_what_is_active_to_those_who_look_by_hand(database, store):
    by_hand = database.client[f"{database.name}_views"]["ticket_reads"]

    async def seen():
        return {d["_id"] for d in await by_hand.find().to_list()}

    ids = await open_some(store, 3)
    async with running(database):
        for _ in range(2):
            await rebuilt(database)
            assert await seen() == set(ids)
            ids += await open_some(store, 1)
            await caught_up(database, store)
            assert await seen() == set(ids)
    assert (await database.collections(views_database(database.name)))[
        "agent_weeks"
    ] == "agent_weeks_3"


async def test_what_was_shown_before_can_be_shown_again(database, store):
    """L7: it catches up first; what was shown meanwhile is kept in its turn."""
    ids = await open_some(store, 5)
    async with running(database):
        await caught_up(database, store)
        await rebuilt(database, keep_former=True)
        await add(store, ids[0], "AgentReplied", body="only the new ones have this")
        await caught_up(database, store)
        async with workers(database, 0) as here:
            await Rebuild(database, here).go_back()
        assert set((await active(database)).numbers.values()) == {1}
        assert (await (await shown(database)).find_one({"_id": ids[0]}) or {})["version"] == 4
        await add(store, ids[0], "AgentReplied", body="and this")
        await caught_up(database, store)
        await assert_views_equal_the_log(database)
        async with workers(database, 0) as here:
            await Rebuild(database, here).go_back()
        await caught_up(database, store)
        await assert_views_equal_the_log(database)
    assert set((await active(database)).numbers.values()) == {2}


async def test_there_is_nothing_to_go_back_to_once_it_was_dropped(database, store):
    async with running(database):
        await rebuilt(database)

        async def dropped():
            return await numbers(database) == {2}

        await until(dropped)
        async with workers(database, 0) as here:
            with pytest.raises(NoFormer):
                await Rebuild(database, here).go_back()


async def test_who_fails_to_go_back_leaves_all_as_it_was(database, store, monkeypatch):
    """What was shown before is dropped when it was to be, as if nobody had asked."""
    monkeypatch.setattr(generations, "DROP_SECONDS", DROP_SECONDS)  # not before it is looked at

    async def former():
        return await database.collection("generations").find_one({"_id": "former"})

    ids = await open_some(store, 2)
    async with running(database):
        await caught_up(database, store)
        await rebuilt(database)
        before = await former()
        assert before["drop_after"] is not None
        old = Generation({"ticket_reads": 1}).of(database)
        await old.collection("ticket_reads").update_one({"_id": ids[0]}, {"$set": {"subject": "x"}})
        async with workers(database, 0) as here:
            with pytest.raises(NotProved):
                await Rebuild(database, here).go_back()
        assert await former() == before


@pytest.mark.slow
@pytest.mark.parametrize("view", ["dashboard_counters", "saved_view_counts", "agent_weeks"])
async def test_a_lost_sum_is_there_again_after_a_rebuild_while_others_write(database, store, view):
    """L7: though the documents that it is the sum of are right."""
    ids = await open_some(store, 6, group="print")
    stop = asyncio.Event()

    async def write():
        while not stop.is_set():
            await add(store, ids[0], "AgentReplied", body="x")
            await open_some(store, 1, group="print")

    async with running(database):
        await SavedViews(database).save("print", TicketFilter(group="print"))
        await caught_up(database, store)
        await (await shown(database, view)).delete_many({})
        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            await rebuilt(database)
            stop.set()
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_what_comes_right_after_a_rebuild_is_in_it(database, store):
    """L7: those who held what was shown before have nothing more to write to."""
    async with running(database, database):
        await SavedViews(database).save("all", TicketFilter())
        await open_some(store, 5)
        await caught_up(database, store)
        await rebuilt(database)
        await open_some(store, 20)
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_a_saved_view_that_changes_meanwhile_is_counted_right(database, store, monkeypatch):
    """L7: its count would be none of anybody's."""
    await open_some(store, 5, group="print")
    fence = Checkpoints.fence

    async def changed_before(checkpoints, me):
        await SavedViews(database).save("v", TicketFilter(group="print", solved=False))
        await fence(checkpoints, me)

    async with running(database):
        await SavedViews(database).save("v", TicketFilter(group="print"))
        await caught_up(database, store)
        with monkeypatch.context() as patched:
            patched.setattr(Checkpoints, "fence", changed_before)
            await rebuilt(database)
        await until(partial(is_counted, database, "v", 5))
    assert (await audited(database))[0] == []


async def is_counted(database, name, n):
    shown = await Generations(database).shown()
    view = await SavedViews(shown).find(name)
    everywhere = all(view.id in p.views for p in (await Checkpoints(shown).read()).partitions)
    return everywhere and (await SavedViews(shown).counts())[view.id] == n


async def test_the_count_of_a_view_that_was_saved_meanwhile_is_never_gone(database, store):
    """L9: the new views are shown once they count it too."""
    await open_some(store, 30)

    proving = asyncio.Event()

    def tell(progress):
        if progress.phase == "prove":
            proving.set()

    async with running(database):
        await caught_up(database, store)
        building = asyncio.create_task(rebuilt(database, tell))
        async with asyncio.timeout(patience(30)):
            await proving.wait()
        await SavedViews(database).save("late", TicketFilter())
        await until(partial(is_counted, database, "late", 30))
        while not building.done():
            assert await is_counted(database, "late", 30)
        await building
        assert await is_counted(database, "late", 30)


async def test_going_back_waits_until_the_former_views_have_caught_up(database, store, monkeypatch):
    """L9: however long ago what they lack was written."""
    monkeypatch.setattr(rebuild, "_RECENT_SECONDS", 0.0)
    await open_some(store, 5)
    async with running(database), workers(database, 0) as here:
        await caught_up(database, store)
        await rebuilt(database, keep_former=True)
        await open_some(store, 20)
        await caught_up(database, store)
        await asyncio.sleep(0.3)
        back = asyncio.create_task(Rebuild(database, here).go_back())
        asking = Generations(database)
        while not back.done():
            found = await asking.ask(
                lambda there: there.collection("ticket_reads").find().to_list()
            )
            assert len(found) == 25
        await back
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


@pytest.mark.slow
async def test_under_heavy_traffic_the_fence_holds(database, store):
    """L7: those who are fenced off take nothing back."""
    ids = await open_some(store, 5)
    stop = asyncio.Event()

    async def write(n):
        while not stop.is_set():
            await add(store, ids[n], "AgentReplied", body="x")

    async with running(database, database):
        await caught_up(database, store)
        async with asyncio.TaskGroup() as group:
            for n in range(3):
                group.create_task(write(n))
            summary = await rebuilt(database)
            stop.set()
        await caught_up(database, store)
    assert summary.fenced_seconds < patience(3)
    await assert_views_equal_the_log(database)


async def test_while_it_is_fenced_the_age_is_known(database, store):
    """L9: and nobody is told that the views are stuck."""
    async with running(by_utc(database, store)):
        await open_some(store, 3)
        await caught_up(database, store)
        checkpoints = Checkpoints(database)

        async def aged():
            return health.age_seconds(await checkpoints.read()) is not None

        await until(aged)
        await checkpoints.fence("me")
        look = await health.look(database, store)
        assert (look.condition, await aged()) == ("current", True)
        await checkpoints.leave("me")
        assert await aged()


async def test_views_of_another_shape_are_built_once_however_many_there_are(database, store):
    """L7"""
    await open_some(store, 5)
    await database.collection(generations.COLLECTION).update_one(
        {"_id": "active"}, {"$set": {"shape": 1}}
    )
    async with running(database, database, database):

        async def another():
            return set((await active(database)).numbers.values()) != {1}

        await until(another)
        first = await active(database)
        await asyncio.sleep(3)
        assert await active(database) == first
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_projecting_goes_on_when_a_rebuild_fails(database, store, monkeypatch):
    """L8: for whatever reason."""
    monkeypatch.setattr(keeping, "RETRY_SECONDS", 0.05)
    failing = [AutoReconnect("gone"), RuntimeError("a bug"), OSError("no processes")]

    async def rebuild_(_database, _active):
        if failing:
            raise failing.pop()

    monkeypatch.setattr(keeping, "_rebuild", rebuild_)
    documents = database.collection(generations.COLLECTION)
    await documents.update_one({"_id": "active"}, {"$set": {"shape": 1}})
    async with running(database) as [task]:

        async def tried():
            return not failing

        await until(tried)
        await documents.update_one({"_id": "active"}, {"$set": {"shape": SHAPE}})
        await open_some(store, 2)
        await caught_up(database, store)
        assert not task.done()
    await assert_views_equal_the_log(database)


@pytest.mark.parametrize("stopped", [False, True])
async def test_views_that_were_dropped_by_hand_are_built_anew(database, store, stopped):
    """L7: all of them, the checkpoints too, beside a projector or with none."""
    ids = await open_some(store, 5)
    async with running(database):
        await caught_up(database, store)
        if not stopped:
            for view in VIEWS:
                await (await shown(database, view)).drop()
            await rebuilt(database)
            await add(store, ids[0], "AgentReplied", body="x")
            await caught_up(database, store)
    if stopped:
        for view in VIEWS:
            await (await shown(database, view)).drop()
        await rebuilt(database)
    await assert_views_equal_the_log(database)


async def test_a_restart_scans_what_was_dropped_by_hand(database, store):
    """L7"""
    await open_some(store, 5)
    async with running(database):
        await caught_up(database, store)
    for view in VIEWS:
        await (await shown(database, view)).drop()
    async with running(database):
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_a_former_generation_that_was_damaged_is_not_shown_again(database, store):
    """L7"""
    await open_some(store, 5)
    async with running(database), workers(database, 0) as here:
        await caught_up(database, store)
        await rebuilt(database, keep_former=True)
        await database.collection("ticket_reads").update_many({}, {"$set": {"status": "pending"}})
        with pytest.raises(NotProved, match="5 things"):
            await Rebuild(database, here).go_back()
    assert set((await active(database)).numbers.values()) == {2}


@pytest.mark.parametrize(
    "damage", [{"$set": {"version": 99}}, {"$unset": {"worked": 1}}, {"$set": {"counted": 3}}]
)
async def test_a_repaired_ticket_is_right_to_the_last_sum(database, store, damage):
    """L7: whatever somebody has done to its document by hand."""
    ids = await open_some(store, 3)
    async with running(database):
        await caught_up(database, store)
        await (await shown(database)).update_one({"_id": ids[0]}, damage)
        await ParkedTickets(await Generations(database).shown()).ask(ids[0])
        await until(partial(nothing_parked, database))
    await assert_views_equal_the_log(database)


async def test_what_fails_after_the_switch_undoes_nothing(database, store, monkeypatch):
    async def gone(*_, **__):
        raise AutoReconnect("gone")

    async with running(database):
        await open_some(store, 2)
        await caught_up(database, store)
        monkeypatch.setattr(type(database), "show", gone)
        monkeypatch.setattr(Checkpoints, "hand_over", gone)
        await rebuilt(database)
        assert set((await active(database)).numbers.values()) == {2}


async def test_who_is_stopped_while_what_runs_beside_it_fails_stops():
    """Or a projector could not be stopped at the moment at which it fails."""

    async def fail():
        await asyncio.sleep(0)
        raise RuntimeError

    async def work():
        while True:
            with suppress(RuntimeError):
                async with background(fail()):
                    await asyncio.sleep(10)

    task = asyncio.create_task(work())
    for turn in range(50):
        for _ in range(turn % 7):
            await asyncio.sleep(0)
        task.cancel()
        [ended] = await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), patience(5))
        assert isinstance(ended, asyncio.CancelledError)
        task = asyncio.create_task(work())
    task.cancel()


async def test_who_fails_at_the_moment_at_which_what_runs_beside_it_does_goes_on():
    """Or a projector would end as if it had been stopped, and nobody would take its place."""
    now = asyncio.Event()

    async def fail():
        await now.wait()
        raise RuntimeError

    async def work(turns):
        with suppress(RuntimeError, ValueError):
            async with background(fail()):
                now.set()
                for _ in range(turns):
                    await asyncio.sleep(0)
                raise ValueError
        for _ in range(5):
            await asyncio.sleep(0)

    for turns in range(5):
        now.clear()
        await asyncio.create_task(work(turns))


async def unreadable(_database, _item):
    return lambda: None


@pytest.mark.parametrize("by", ["occurred", "recorded"])
async def test_views_as_of_a_time_show_what_was_so_then(database, store, by):
    """And stay so, whatever happens; what is shown now is not touched."""
    ids = await open_some(store, 3)
    then = NOW + 2 * DAY
    await add(store, ids[0], "TicketAssigned", NOW + DAY, assignee="alice")
    await add(store, ids[0], "TicketAssigned", NOW + 3 * DAY, assignee="bob")
    await add(store, ids[1], "TicketAssigned", NOW + DAY, assignee="carol")
    async with running(database), workers(database, 0) as here:
        await caught_up(database, store)
        await Rebuild(database, here).as_of("then", then, by)
        built = await Generations(database).as_of("then")
        assert (built.until, built.by) == (then, by)
        views = built.generation.of(database)
        found = await views.collection("ticket_reads").find().to_list()
        if by == "recorded":
            assert found == []  # all of it was recorded today
        else:
            versions = {d["_id"]: (d["version"], d["assignee"]) for d in found}
            assert versions == {ids[0]: (4, "alice"), ids[1]: (4, "carol"), ids[2]: (3, None)}
        await asyncio.sleep(0.5)
        assert await numbers(database) == {1, 2}
        await Rebuild(database, here).as_of("then", NOW, by)

        async def left(*expected):
            return await numbers(database) == {*expected}

        await until(partial(left, 1, 3))
        await Generations(database).drop_as_of("then")
        await until(partial(left, 1))
        with pytest.raises(UnknownAsOf):
            await Generations(database).as_of("then")
    await assert_views_equal_the_log(database)


async def test_views_of_another_shape_are_built_anew_beside_what_is_shown(database, store):
    """L7: as after an upgrade. Until it is done the old ones are shown."""
    ids = await open_some(store, 20)
    async with running(by_utc(database, store)):
        await caught_up(database, store)
    await database.collection(generations.COLLECTION).update_one(
        {"_id": "active"}, {"$set": {"shape": 1}}
    )
    await add(store, ids[0], "AgentReplied", body="x")
    async with running(database, database):

        async def another():
            return set((await active(database)).numbers.values()) != {1}

        await until(another)
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_views_of_a_newer_shape_are_left_to_those_who_know_it(database, store):
    """L7: during an upgrade."""
    await database.collection(generations.COLLECTION).update_one(
        {"_id": "active"}, {"$set": {"shape": 99_000_000}}
    )
    async with running(database):
        await open_some(store, 1)
        await asyncio.sleep(0.5)
        assert await (await shown(database)).find_one() is None


async def test_views_of_events_that_are_gone_are_built_anew_after_a_restore(database, store):
    """L7: a log that was restored from an older copy is followed by its views."""
    async with running(database):
        ids = await open_some(store, 4)
        await caught_up(database, store)
        await database.collection(EVENTS).delete_many({"ticket_id": ids[0]})
        await database.identity.replace("restored")
    async with running(database):

        async def gone():
            return await (await shown(database)).find_one({"_id": ids[0]}) is None

        await until(gone)
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_several_processes_build_the_same(database, store):
    """L7: each folds ranges of its own."""
    await open_some(store, 40)
    async with running(database):
        await caught_up(database, store)
        async with workers(database, 2) as two:
            summary = await Rebuild(database, two).everything()
    assert (summary.tickets, summary.events) == (40, 120)
    await assert_views_equal_the_log(database)


async def fails(_database, item):
    if item == 3:
        raise ValueError(item)
    await asyncio.sleep(0.01)
    return item * item


async def ends(_database, _item):
    raise SystemExit


@pytest.mark.parametrize("count", [0, 2])
async def test_workers_do_each_task_once(database, count):
    results: list[int] = []
    async with workers(database, count) as some:
        await some.each(fails, [n for n in range(20) if n != 3], results.append)
    assert sorted(results) == [n * n for n in range(20) if n != 3]


@pytest.mark.parametrize("task", [fails, ends, unreadable])
async def test_a_task_that_fails_elsewhere_is_told(database, task):
    async with workers(database, 1) as one:
        with pytest.raises(WorkerFailed):
            await one.each(task, range(10), lambda _: None)


async def test_ranges_hold_every_ticket_once(database, store, monkeypatch):
    """L8: those to come, too; and however many tickets the sample leaves out."""
    ids = await open_some(store, 60, versions=2)
    ranges: list[TicketRange] = []
    for most in (2**16, 7):
        monkeypatch.setattr("eventstore.log._MOST_SAMPLED", most)
        ranges = await store.ranges(10)
        assert len(ranges) > 3
        assert (ranges[0].first, ranges[-1].before) == (None, None)
        assert all(one.before == other.first for one, other in pairwise(ranges))
        found = [e["ticket_id"] for part in ranges for e in await store.of_range(part)]
        assert sorted(found) == sorted(2 * ids)
    for extreme in (UUID(int=0), UUID(int=2**128 - 1)):
        [event] = await store.stored(ids[0], limit=1)
        await database.collection(EVENTS).insert_one(
            {**event, "_id": uuid4(), "ticket_id": extreme}
        )
        found = [e["ticket_id"] for part in ranges for e in await store.of_range(part)]
        assert extreme in found
    assert await store.of_range(TicketRange(ids[0], ids[0])) == []


async def test_an_audit_of_long_ago_and_of_just_now_comes_out_the_same(
    database, store, monkeypatch
):
    """Its memory holds the versions of what was written to lately, and of nothing else."""
    monkeypatch.setattr(audit, "_CLOCKS_DIFFER_SECONDS", 0.0)
    monkeypatch.setattr(audit, "_RECENT_SECONDS", 0.5)
    ids = await open_some(store, 10)
    await asyncio.sleep(0.6)
    async with running(database):
        await caught_up(database, store)
        stop = asyncio.Event()

        async def write():
            while not stop.is_set():
                await add(store, ids[0], "AgentReplied", body="x")
                await add(store, ids[1], "TicketAssigned", assignee="alice")

        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            for _ in range(3):
                found, auditor = await audited(database)
                assert found == []
                assert not auditor._versions.keys() & set(ids[2:])
            stop.set()


async def test_a_parked_ticket_is_parked_in_the_new_views_and_can_be_repaired(database, store):
    """L8"""
    [stuck] = await open_some(store, 1)
    await add(store, stuck, "NobodyKnows")
    async with running(database):
        await caught_up(database, store)
        await rebuilt(database)
        await database.collection(EVENTS).update_one(
            {"type": "NobodyKnows"}, {"$set": {"type": "NoteAdded", "data": {"body": "x"}}}
        )
        await ParkedTickets(await Generations(database).shown()).ask(stuck)
        await until(partial(nothing_parked, database))
    await assert_views_equal_the_log(database)


async def nothing_parked(database):
    parked = ParkedTickets(await Generations(database).shown())
    return not (await parked.asked() or await parked.all())


def test_all_errors_of_a_build_are_told_as_one_line():
    for error in (BuildRunning(), BuildLost(), NoFormer(), NotProved(0, []), WorkerFailed("x")):
        assert isinstance(error, CasebookError)
        assert "\n" not in error.detail
