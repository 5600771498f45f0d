"""Events that vanished from the log are shouted, and not built away (L7, L11)."""

import logging

import pytest

from eventstore.log import COLLECTION
from projections.generations import Generations
from projections.replay.vanished import EventsVanished
from tests.api.test_api import serving
from tests.callers import ADMIN
from tests.processes import environment, script
from tests.projecting import caught_up, open_some, rebuilt, running, until
from tests.scripts.test_soak import scratch_url

__all__ = ["scratch_url"]


@pytest.fixture
async def shown(database, store):
    """Five tickets of three events each, shown."""
    ids = await open_some(store, 5)
    async with running(database):
        await caught_up(database, store)
    return ids


def cut(database, ticket):
    return database.collection(COLLECTION).delete_one({"ticket_id": ticket, "version": 3})


def hole(database, ticket):
    return database.collection(COLLECTION).delete_one({"ticket_id": ticket, "version": 2})


def gone(database, ticket):
    return database.collection(COLLECTION).delete_many({"ticket_id": ticket})


@pytest.mark.parametrize("remove", [cut, hole, gone], ids=lambda f: f.__name__)
async def test_a_rebuild_does_not_hide_what_vanished(database, shown, remove, caplog):
    """L7, L11: at the end of a ticket, in its middle, and all of it; unless one says so."""
    await remove(database, shown[2])
    with pytest.raises(EventsVanished, match=str(shown[2])):
        await rebuilt(database)
    assert f"of 1 tickets ({shown[2]})" in caplog.text
    versions = await versions_shown(database)
    assert versions == dict.fromkeys(shown, 3)
    await rebuilt(database, accept_loss=True)
    left = await versions_shown(database)
    assert left.pop(shown[2], None) == {"cut": 2, "hole": 1, "gone": None}[remove.__name__]
    assert left == {ticket: 3 for ticket in shown if ticket != shown[2]}


async def versions_shown(database):
    reads = (await Generations(database).shown()).collection("ticket_reads")
    return {each["_id"]: each["version"] async for each in reads.find()}


async def test_a_server_says_so_and_keeps_what_it_shows(database, shown, monkeypatch, caplog):
    """L7, L11: in its log, in /projections and in /readyz; and nothing is built away."""
    monkeypatch.setattr("projections.projector.projector.SWEEP_SECONDS", 0.1)
    caplog.set_level(logging.ERROR)
    await gone(database, shown[0])
    async with serving(database, project=False) as client, running(database):

        async def told():
            answer = (await client.get("/projections", headers=ADMIN)).json()
            return answer["vanished_events"] == 3 and "have vanished from the log" in caplog.text

        await until(told)
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["views"]) == (503, "stuck")

        async def kept_as_it_is():
            return "3 events have vanished from the log: see `casebook verify`" in caplog.text

        await until(kept_as_it_is)
        assert await versions_shown(database) == dict.fromkeys(shown, 3)


async def test_the_command_fails_unless_it_is_told(scratch_url, tmp_path, database, shown):
    """L11."""
    await cut(database, shown[0])
    env = environment(tmp_path) | {"CASEBOOK_MONGODB_URL": scratch_url}
    replay = await script("scripts.replay", "--workers", "0", env=env)
    _, err = await replay.communicate()
    assert replay.returncode == 1
    assert b"events have vanished from the log, of 1 tickets" in err
    replay = await script("scripts.replay", "--workers", "0", "--accept-loss", env=env)
    out, err = await replay.communicate()
    assert replay.returncode == 0, (out + err).decode()
