"""Leases: one owner at a time, and what a former owner still has in hand is refused (L7)."""

import asyncio
from datetime import datetime, timedelta
from typing import NamedTuple

import pytest

from eventstore.documents import Reader, strict_decoder
from eventstore.lease import Lease, LeaseLost, is_alive
from tests.spec import NOW

NAME = "webhook_dispatch"


class Claim(NamedTuple):
    """What the work keeps in its lease."""

    owner: str | None
    epoch: int
    seen_at: datetime
    done: int = 0


def lease(database):
    reader = Reader(database.unreadable, NAME, strict_decoder(Claim, id_field=None))
    return Lease(database, reader, database.collection(NAME), "work")


async def test_one_of_many_that_ask_at_once_gets_it(database):
    leases = [lease(database) for _ in range(8)]
    taken = await asyncio.gather(*(each.take(f"p{n}", {}) for n, each in enumerate(leases)))
    assert sum(claim is not None for claim in taken) == 1


async def test_a_living_owner_keeps_it_and_goes_on_from_what_was_kept(database):
    mine, other = lease(database), lease(database)
    assert await mine.take("me", {"done": 0})
    await mine.renew({"done": 7})
    assert await other.take("other", {"done": 0}) is None
    await mine.release()
    claim = await other.take("other", {"done": 0})
    assert claim is not None
    assert (claim.done, claim.epoch) == (7, 1)


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_router_whose_clock_is_wrong_takes_nothing_from_the_living(
    database, monkeypatch, hours
):
    """L7: of a sharded cluster; what is dead is taken, whichever clock is asked."""
    mine, other = lease(database), lease(database)
    assert await mine.take("me", {})
    right = await database.server_time()

    async def wrong(_):
        return right + timedelta(hours=hours)

    monkeypatch.setattr(type(database), "server_time", wrong)
    assert await other.take("other", {}) is None
    await database.collection(NAME).update_one({}, {"$set": {"seen_at": NOW}})
    assert await other.take("other", {}) is not None


async def test_a_former_owner_writes_nothing_and_takes_nothing_away(database):
    """L7: it was frozen for longer than its lease."""
    frozen, other = lease(database), lease(database)
    assert await frozen.take("frozen", {})
    await asyncio.sleep(0.05)
    assert await other.take("other", {}, lease_seconds=0.01)
    with pytest.raises(LeaseLost):
        await frozen.renew({"done": 1})
    await frozen.release()
    found = await database.collection(NAME).find_one()
    assert (found["owner"], found.get("done")) == ("other", None)


async def test_a_lease_that_was_not_got_writes_nothing(database):
    """L7: its epoch would be the winner's."""
    mine, other = lease(database), lease(database)
    assert await mine.take("me", {})
    assert await other.take("other", {}) is None
    with pytest.raises(LeaseLost):
        await other.renew()


async def test_its_owner_may_take_it_again(database):
    """A process begins its work anew after a failure, and need not wait for itself."""
    first, again = lease(database), lease(database)
    assert await first.take("me", {})
    assert await again.take("me", {})
    with pytest.raises(LeaseLost):
        await first.renew()


def test_a_sign_of_life_from_the_future_is_none():
    lease_seconds = 10.0
    for seconds, alive in ((0, True), (9, True), (11, False), (-9, True), (-11, False)):
        seen_at = NOW - timedelta(seconds=seconds)
        assert is_alive(seen_at, NOW, lease_seconds) is alive
