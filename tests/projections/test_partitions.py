"""Who keeps which part of the views: plans, leases, epochs (L7)."""

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from eventstore.partition import PARTITIONS
from eventstore.subscription import present
from projections.daemon import project
from projections.generations import Generations
from projections.projector.checkpoints import Checkpoints
from projections.projector.partitions import Member, Partition, State, plan
from tests.oracle import assert_views_equal_the_log
from tests.projecting import (
    add,
    caught_up,
    hasty,
    open_some,
    owning_all,
    running,
    stored_events,
    until,
)
from tests.projecting import writer as writer_of

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LEASE = 10.0


def state(owners: dict[int, str], members: dict[str, float], leaving: str = "") -> State:
    """Return a state: owners of partitions, how many seconds ago members were seen, who leaves."""
    return State(
        NOW,
        [Partition(n, owner=owners.get(n)) for n in range(PARTITIONS)],
        {
            name: Member(name, NOW - timedelta(seconds=age), leaving=name == leaving)
            for name, age in members.items()
        },
        LEASE,
    )


def planned(found: State, me: str) -> list[int]:
    return [p.number for p in plan(found, me)]


def everything(owner: str) -> dict[int, str]:
    return dict.fromkeys(range(PARTITIONS), owner)


def test_who_is_alone_takes_all():
    assert planned(state({}, {"me": 0}), "me") == list(range(64))


def test_who_has_none_takes_half_of_who_has_all():
    both = {"me": 0.0, "other": 0.0}
    assert planned(state(everything("me"), both), "me") == []
    assert planned(state(everything("me"), both), "other") == list(range(32, 64))


def test_the_partitions_of_the_dead_are_taken_and_those_of_the_living_are_not():
    found = state(everything("other"), {"me": 0, "other": LEASE - 1})
    assert planned(found, "me") == list(range(32, 64))
    found = state(everything("other"), {"me": 0, "other": LEASE})
    assert planned(found, "me") == list(range(64))


def test_a_time_to_come_is_no_sign_of_life():
    """L7: the database's clock was set back an hour; a dead owner would live for that long."""
    found = state(everything("other"), {"me": 0, "other": -3600})
    assert planned(found, "me") == list(range(64))
    halves = {n: ("me", "other")[n % 2] for n in range(64)}
    assert planned(state(halves, {"me": 0, "other": -1}), "me") == []


def test_what_someone_who_leaves_has_is_taken_by_the_others():
    """L7: who leaves goes on with it until then, and takes nothing more."""
    found = state(everything("old"), {"old": 0, "a": 0, "b": 0}, leaving="old")
    assert planned(found, "old") == []
    assert planned(found, "a") == list(range(32))
    assert planned(state({}, {"old": 0}, leaving="old"), "old") == []


def test_nobody_takes_from_one_who_fences_while_it_lives():
    """L7: it is about to show other views."""
    found = state(everything("fence"), {"fence": 0, "a": 0})
    found = replace(found, members={**found.members, "fence": Member("fence", NOW, fencing=True)})
    assert planned(found, "a") == []
    long_ago = Member("fence", NOW - timedelta(seconds=LEASE), fencing=True)
    found = replace(found, members={**found.members, "fence": long_ago})
    assert planned(found, "a") == list(range(64))


@given(
    st.lists(st.sampled_from(["a", "b", "c", "dead"]), min_size=64, max_size=64),
    st.sets(st.sampled_from(["a", "b", "c"]), min_size=1),
    st.data(),
)
def test_whoever_is_there_they_share_all_evenly_in_the_end(owners, alive, data):
    """L7: in any order of turns; of the living nobody loses more than they have too much of."""
    owned = dict(enumerate(owners))
    had, fair = Counter(owners), -(-64 // len(alive))
    members = {name: 0.0 if name in alive else 99.0 for name in ("a", "b", "c", "dead")}
    for _ in range(3):
        for me in data.draw(st.permutations(sorted(alive))):
            owned |= dict.fromkeys(planned(state(owned, members), me), me)
            for other in alive - {me}:
                has = sum(owner == other for owner in owned.values())
                assert has >= min(had[other], fair)
            had = Counter(owned.values())
    shares = [sum(owner == me for owner in owned.values()) for me in alive]
    assert sum(shares) == 64
    assert max(shares) <= fair


async def test_of_two_who_want_a_partition_one_gets_it(database, store):
    """L7: the epoch decides."""
    partitions = Checkpoints(database)
    await partitions.beat("a")
    await partitions.beat("b")
    seen = await partitions.read()
    await asyncio.gather(*(partitions.take(me, seen, seen.partitions) for me in ("a", "b")))
    after = await partitions.read()
    assert {p.epoch for p in after.partitions} == {1}
    assert len(after.of("a")) + len(after.of("b")) == 64


async def test_who_takes_partitions_that_are_behind_does_not_say_to_be_up_to_date(database, store):
    """L9: the age of what is shown is that of the oldest part."""
    partitions = Checkpoints(database)
    owned = await owning_all(database, "dead")
    await open_some(store, 5)
    behind = await present(store)
    await partitions.follow(owned.epochs, behind.token)
    await partitions.beat("dead", behind._replace(at=NOW))
    await partitions.beat("me", behind)
    found = await partitions.read()
    await partitions.take("me", found, found.partitions)
    after = await partitions.read()
    assert {after.as_of(p) for p in after.partitions} == {NOW}


async def shares(database):
    found = await Checkpoints(database, 0.5).read()
    return sorted(len(found.of(m)) for m in found.members if found.is_alive(m))


async def test_those_who_come_and_go_share_the_work(database, store):
    """L7: one, three, two, none; the log grows all the time."""
    ids = await open_some(store, 30)

    async def shared_by(n):
        found = await shares(database)
        return len(found) == n and sum(found) == 64 and found[-1] <= -(-64 // n)

    async def grow():
        while True:
            for ticket_id in ids:
                await add(store, ticket_id, "AgentReplied", body="more")

    growing = asyncio.create_task(grow())
    async with running(*(hasty(database, store) for _ in range(3))) as [first, second, third]:
        await until(partial(shared_by, 3))
        first.cancel()
        await until(partial(shared_by, 2))
        second.cancel()
        await until(partial(shared_by, 1))
        async with running(hasty(database, store), hasty(database, store)):
            await until(partial(shared_by, 3))
            third.cancel()
            await until(partial(shared_by, 2))
            growing.cancel()
            await asyncio.gather(growing, return_exceptions=True)
            await caught_up(database, store)
    await assert_views_equal_the_log(database)
    assert {p.owner for p in (await Checkpoints(database).read()).partitions} == {None}


async def test_a_dead_owner_is_replaced_once_its_lease_has_lapsed(database, store):
    """L7, L8: and what it has not folded is."""
    await open_some(store, 5)
    owned = await owning_all(database, "dead")
    await writer_of(database, store).write(owned, (await stored_events(store))[:4])
    async with running(hasty(database, store)):
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_who_keeps_the_views_current_gives_back_what_it_has_when_it_ends(database, store):
    """L7: others need not wait for its lease to lapse."""
    keeping = asyncio.create_task(project(database, store))
    checkpoints = Checkpoints(await Generations(database).shown())

    async def owned():
        return all(p.owner for p in (await checkpoints.read()).partitions)

    await until(owned)
    keeping.cancel()
    with suppress(asyncio.CancelledError):
        await keeping
    state = await checkpoints.read()
    assert not state.members
    assert not any(p.owner for p in state.partitions)
