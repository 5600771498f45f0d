"""Short forms of `scripts/soak`: the same checks, fewer rounds."""

import os
from pathlib import Path

import pytest

from scripts.soak.consumers import follow
from scripts.soak.contract import contract
from scripts.soak.erase import kill_erasure
from scripts.soak.faults import FAULTS, failover, faults, serve_again_and_again
from scripts.soak.feed import feed
from scripts.soak.kill import POINTS, kill_api, kill_database
from scripts.soak.merge import killed_merges, opposite_merges
from scripts.soak.outage import outage, overload
from scripts.soak.paging import page_through
from scripts.soak.projectors import POINTS as PROJECTOR_POINTS
from scripts.soak.projectors import come_and_go, freeze_projector, kill_projector
from scripts.soak.proxy import retry_through_proxy
from scripts.soak.race import race
from scripts.soak.replay import kill_replay, replay_under_load
from scripts.soak.upgrade import upgrade
from scripts.soak.webhooks import webhooks
from scripts.testbed.harness import PromiseBroken
from tests.oracle import assert_views_equal_the_log

pytestmark = pytest.mark.soak

FAILING = (
    "aggregate stream ticket_events",
    "bulkWrite",
    "bulkWrite in transaction",
    "commitTransaction",
    "find generations",
    "find in transaction ticket_reads",
    "find ticket_events",
    "getMore stream ticket_events",
    "getMore ticket_reads",
    "insert in transaction ticket_events",
    "insert ticket_events",
    "insert webhook_deliveries",
    "update projections",
    "update webhook_deliveries",
    "update webhook_dispatch",
    "replay: bulkWrite in transaction",
    "replay: create ticket_reads",
    "replay: createIndexes projections",
    "replay: find in transaction ticket_events",
    "replay: findAndModify generations",
    "replay: insert ticket_reads",
    "replay: update in transaction generations",
)
"""Kinds of commands that differ in what waits for them; more than there are ways to fail."""


@pytest.fixture
def scratch_url(database):
    """A database of the test's own on the running server, as a URL for other processes."""
    return database.url


async def test_a_race_of_50_writers_in_3_processes(scratch_url):
    """L2: no version twice, none missing; whoever is acknowledged is there, all others are told."""
    counted = await race(scratch_url, rounds=6)
    assert counted["commands"] == 300
    assert counted["acknowledged"] > 150


async def test_the_api_killed_at_bad_moments(scratch_url):
    """L3, L4, L5: what was acknowledged is there once; a retry is answered as the first time."""
    counted = await kill_api(scratch_url, rounds=4)
    assert all(counted[f"killed_{point}"] == 1 for point in POINTS)
    assert counted["ok"] > 50
    assert counted["ok_of_several_events"] > 5
    assert counted["without_events"] > 0
    assert counted["unknown_then_retried"] > 0


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the database's process in /proc")
async def test_the_database_killed_under_load():
    """L3, L7: no acknowledged command is lost, and the views follow; with default durability."""
    counted = await kill_database("", rounds=4, check=assert_views_equal_the_log)
    assert counted["killed"] == 4
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
    counted = await follow(scratch_url, commands=2000)
    assert counted["events"] >= 2000
    assert counted["stops"] > 3


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads the server's memory in /proc")
async def test_consumers_of_the_feed_cut_off_while_the_server_restarts(scratch_url):
    """L8: by Last-Event-ID and by cursor, every event in version order, none missing."""
    counted = await feed(scratch_url, events=300, cuts=12)
    assert counted["streamed"] == counted["exported"] >= 300
    assert counted["restarts"] == 2


async def test_webhooks_cut_off_while_their_sender_is_killed(scratch_url):
    """L3, L8: every event arrives, in version order per ticket."""
    counted = await webhooks(scratch_url, events=300, cuts=20, kills=2)
    assert counted["events"] == 300
    assert counted["cuts"] > 3
    assert counted["kills"] >= 2


async def test_a_projector_killed_between_any_two_steps_of_a_batch(scratch_url):
    """L7, L8: before each and after the last; the next one goes on, and the views are right."""
    points = PROJECTOR_POINTS[::2] + PROJECTOR_POINTS[-1:]
    counted = await kill_projector(scratch_url, len(points), assert_views_equal_the_log, points)
    assert counted == {"killed": len(points)}


async def test_a_projector_frozen_past_its_lease(scratch_url):
    """L7: another has its partitions when it wakes up with a batch in its hands."""
    counted = await freeze_projector(scratch_url, 2, assert_views_equal_the_log)
    assert counted["frozen"] == counted["taken_over"] == 2


async def test_clients_that_retry_while_every_tenth_answer_is_eaten(scratch_url):
    """L5: no double, no loss."""
    counted = await retry_through_proxy(scratch_url, 800)
    assert counted["answers"] >= 800
    assert counted["lost_by_proxy"] >= counted["unanswered"] > 80


async def test_any_request_is_answered_as_documented(scratch_url):
    """L12, L7: never a 5xx; afterwards the views are a fold of the log."""
    # The routes of many tickets are made by one function: some of them speak for all.
    without = "^/bulk/(?!assign|close|set_field)"
    counted = await contract(scratch_url, 600, assert_views_equal_the_log, without)
    assert counted["cases"] >= 600


async def test_a_list_read_page_by_page_while_tickets_change(scratch_url):
    """L7: what was there throughout comes exactly once."""
    counted = await page_through(scratch_url, 1_500)
    assert counted["pages"] > 20
    assert counted["changes"] > 10


async def test_three_projectors_that_come_and_go(scratch_url):
    """L7, L8: stopped and killed at random, under load."""
    counted = await come_and_go(scratch_url, 6, assert_views_equal_the_log)
    assert counted.total() >= 3


async def test_views_built_anew_under_clients_load(scratch_url):
    """L7, L9: no request fails, and nothing that was seen is gone."""
    counted = await replay_under_load(scratch_url, 1, assert_views_equal_the_log)
    assert counted["replays"] == 1
    assert counted["reads"] > 50


async def test_a_replay_killed_around_its_switch(scratch_url):
    """L7: what is shown is the old or the new, whole; the next one works."""
    points = ("after fence", "after switch")
    counted = await kill_replay(scratch_url, 2, assert_views_equal_the_log, points)
    assert counted == {"killed": 2}


async def test_who_erases_a_person_killed_between_two_steps(scratch_url):
    """L7, and all of erasing: the next one completes it, and nothing else is harmed."""
    points = ("after take", "after destroy", "after renew")
    counted = await kill_erasure(scratch_url, 3, assert_views_equal_the_log, points)
    assert counted["killed"] == counted["erased"] == 3


async def test_a_server_over_documents_as_every_version_wrote_them(scratch_url):
    """L12: no 5xx; what cannot be read costs only itself, and what is not known stays."""
    counted = await upgrade(scratch_url, rounds=2)
    assert counted["documents"] > 50
    assert counted["requests"] > 100


async def test_more_clients_than_can_be_served():
    """L3, L5, L12: 503 with Retry-After and no other 5xx; then as before, and nothing is lost."""
    counted = await overload("", 3, assert_views_equal_the_log, 100)
    assert counted["answered_503"] > 0
    assert counted["ok"] > 100


async def test_a_database_that_cuts_off_and_stands_still(scratch_url):
    """L3, L5, L12: 503s and no other 5xx; all of it is there once in the end."""
    counted = await outage(scratch_url, seconds=12, check=assert_views_equal_the_log)
    assert counted["cut_off"] > 0
    assert counted["ok"] > 100


@pytest.mark.skipif("CASEBOOK_TEST_MONGODB_URL" in os.environ, reason="speaks to one host")
async def test_commands_to_the_database_that_fail_in_every_way(scratch_url, tmp_path):
    """L3, L5, L7, L8, L12: within 15 s all is as before; each command is what its client knows."""
    at_start = ("createIndexes ticket_events",)
    done = tmp_path / "done"
    counted = await faults(scratch_url, 1, assert_views_equal_the_log, FAILING, at_start, done)
    assert all(counted[fault] for fault in FAULTS)
    assert counted["ok"] > 100
    assert counted["told"] > 100
    assert len(set(done.read_text().splitlines())) == 2 * len([*FAILING, *at_start])
    again = await faults(scratch_url, 1, assert_views_equal_the_log, FAILING, at_start, done)
    assert not again["faults"]


async def test_a_server_that_ends_at_work_is_not_started_again_in_silence():
    """L12: one whose supervisor brings it back would look as if it had gone on."""
    with pytest.raises(PromiseBroken, match="ends at work: exit code 1"):
        await serve_again_and_again(may_end=False, CASEBOOK_MONGODB_URL="mongo://nowhere")


@pytest.mark.skipif("CASEBOOK_TEST_MONGODB_URL" in os.environ, reason="speaks to one host")
async def test_a_failover(scratch_url):
    """L3, L5, L7, L12: what is sent at its start is done, or not known; all goes on by itself."""
    counted = await failover(scratch_url, 15, assert_views_equal_the_log)
    assert counted["ok"] > 20
