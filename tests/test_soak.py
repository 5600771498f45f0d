"""Short forms of `scripts/soak`: the same checks, fewer rounds."""

from pathlib import Path

import pytest

from scripts.soak.follow import follow
from scripts.soak.kill import POINTS, kill_api, kill_database
from scripts.soak.merge import killed_merges, opposite_merges
from scripts.soak.race import race


@pytest.fixture
def scratch_url(database, server_url):
    """A database of the test's own on the running server, as a URL for other processes."""
    address, _, options = server_url.partition("?")
    return f"{address.rstrip('/')}/{database.name}?{options}"


async def test_a_race_of_50_writers_in_3_processes(scratch_url):
    """L2: no version twice, none missing; whoever is acknowledged is there, all others are told."""
    counted = await race(scratch_url, rounds=10)
    assert counted["commands"] == 500
    assert counted["acknowledged"] > 250


async def test_the_api_killed_at_bad_moments(scratch_url):
    """L3, L4, L5: what was acknowledged is there once; a retry is answered as the first time."""
    counted = await kill_api(scratch_url, rounds=20)
    assert all(counted[f"killed_{point}"] == 5 for point in POINTS)
    assert counted["ok"] > 300
    assert counted["ok_of_several_events"] > 50
    assert counted["failed"] > 0
    assert counted["unknown_then_retried"] > 0


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the database's process in /proc")
async def test_the_database_killed_under_load():
    """L3: no acknowledged command is lost, with the embedded database's default durability."""
    counted = await kill_database(rounds=20)
    assert counted["killed"] == 20
    assert counted["ok"] > 100


async def test_two_tickets_merged_into_each_other_at_once(scratch_url):
    """L4: one is merged, one is told no; never two that are closed for each other."""
    counted = await opposite_merges(scratch_url, rounds=20)
    assert counted["merged"] == 20


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the database's process in /proc")
async def test_a_merge_killed_between_its_halves():
    """L4: both halves or none, and the merge sent again completes it."""
    assert await killed_merges(rounds=3) == {"killed_and_completed": 3}


async def test_a_consumer_that_comes_and_goes(scratch_url):
    """L8: every event of every ticket in version order, under 8 writers."""
    counted = await follow(scratch_url, commands_=3000)
    assert counted["events"] >= 3000
    assert counted["stops"] > 3
