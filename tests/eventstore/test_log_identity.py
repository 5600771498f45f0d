"""A log that was restored under a process that runs: nothing is written over the hole (L2, L12)."""

import asyncio
import os
import signal

import httpx
import pytest

from eventstore.database import Database
from eventstore.log import COLLECTION
from eventstore.log_identity import LogIdentity, LogReplaced, RestoreUnderWay
from projections.projector.parked import ParkedTickets
from scripts.hash_chains import Verification
from scripts.testbed.harness import free_port
from scripts.verify import verify_database
from tests.api.test_api import OPEN, is_problem, serving
from tests.callers import ADMIN, AGENT
from tests.processes import script
from tests.projecting import by_utc, open_some, running, until
from tests.scripts.test_soak import scratch_url

__all__ = ["scratch_url"]


def by_another_process(database) -> LogIdentity:
    return LogIdentity(database.client[database.name])


async def put_back(database, to_version: int) -> None:
    """Put the log back to an earlier time, as a restore does: the identity first."""
    await by_another_process(database).replace("a test")
    await database.collection(COLLECTION).delete_many({"version": {"$gt": to_version}})


async def versions(database) -> list[int]:
    return sorted([e["version"] async for e in database.collection(COLLECTION).find()])


async def test_a_process_writes_nothing_over_the_hole_of_a_restored_log(database):
    """L2: versions 1, 2, 3 and 5 are not acknowledged; the answer is 503, and never a refusal."""
    async with serving(database) as client:
        answer = await client.post("/tickets", json=OPEN, headers=AGENT)
        path = answer.headers["location"]
        for n in range(3):
            await client.post(f"{path}/add_note", json={"body": str(n)}, headers=AGENT)
        assert await versions(database) == [1, 2, 3, 4]
        await put_back(database, 3)
        await until(lambda: asyncio.sleep(0, database.identity.is_replaced))
        for command, body in (("add_note", {"body": "x"}), ("close", {}), ("resolve", {})):
            is_problem(
                await client.post(f"{path}/{command}", json=body, headers=AGENT),
                503,
                "log_replaced",
            )
        is_problem(await client.post("/tickets", json=OPEN, headers=AGENT), 503, "log_replaced")
        is_problem(await client.put("/desk", json={}, headers=ADMIN), 503, "log_replaced")
        assert await versions(database) == [1, 2, 3]
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["log"]) == (503, "replaced")


async def test_a_frozen_process_reads_the_identity_before_it_appends(database, store, monkeypatch):
    """L2: its watch is late, as that of every process that was stopped for a while."""
    monkeypatch.setattr("eventstore.log_identity.STALE_SECONDS", 0.0)
    await database.identity.begin()
    await put_back(database, 0)
    with pytest.raises(LogReplaced):
        await store.check_log()
    assert database.identity.is_replaced


async def test_a_log_whose_identity_is_gone_is_another_log(database, monkeypatch):
    monkeypatch.setattr("eventstore.log_identity.STALE_SECONDS", 0.0)
    await database.identity.begin()
    await database.collection("log_identity").delete_many({})
    with pytest.raises(LogReplaced):
        await database.identity.check()


async def test_background_work_stops_when_the_log_is_replaced(database):
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    async with database.identity.at_work("test"):
        running = asyncio.create_task(database.identity.until_replaced(work))
        await asyncio.sleep(0)
        await put_back(database, 0)
        await asyncio.wait_for(running, 30)
    assert ended.is_set()


async def test_background_work_that_fails_is_not_taken_for_replaced(database):
    async def work() -> None:
        raise ValueError("as it is")

    with pytest.raises(ValueError, match="as it is"):
        await database.identity.until_replaced(work)


async def test_no_process_starts_while_a_restore_is_not_done(database):
    other = by_another_process(database)
    await other.replace("a test", restoring="abc")
    with pytest.raises(RestoreUnderWay):
        await database.identity.begin()
    await other.restored("another one")
    with pytest.raises(RestoreUnderWay):
        await database.identity.begin()
    await other.restored("abc")
    await database.identity.begin()


async def test_processes_that_start_at_once_agree_on_the_identity(database):
    """L2: of a log that has none yet, as every log from before there was one."""
    others = [by_another_process(database) for _ in range(8)]
    await asyncio.gather(*(each.begin() for each in others))
    assert await database.collection("log_identity").count_documents({}) == 1
    for each in others:
        await each.check()


async def test_a_running_process_shows_life_until_it_ends(database):
    other = by_another_process(database)
    assert await other.running() == []
    async with database.identity.at_work("serve"):
        [one] = await other.running()
        assert one.startswith("serve ")
        assert await database.identity.running() == []  # one's own is not told
    assert await other.running() == []


async def test_what_was_left_long_ago_is_removed(database):
    processes = database.collection("processes")
    async with database.identity.at_work("serve"):
        [left] = await processes.find().to_list()
    old = left["seen_at"].replace(year=2020)
    await processes.insert_one({**left, "_id": "killed:1:x", "seen_at": old})
    assert await by_another_process(database).running() == []
    async with database.identity.at_work("serve"):
        assert await processes.count_documents({}) == 1


async def test_what_slips_in_is_parked_and_named(database, store):
    """L8, L11: an append in the second before the new identity was read leaves a hole."""
    [ticket] = await open_some(store, 1, versions=4)
    await database.collection(COLLECTION).delete_one({"version": 3})
    async with running(by_utc(database, store)):

        async def parked() -> bool:
            return bool(await ParkedTickets(database).all())

        await until(parked)
    [stopped] = await ParkedTickets(database).all()
    assert (stopped.ticket_id, stopped.version) == (ticket, 3)
    verification = Verification()
    await verify_database(database, verification)
    [fault] = verification.finish()
    assert (fault.version, fault.kind) == (3, "deleted")


async def test_processes_of_their_own_stop_when_the_log_is_replaced(scratch_url, tmp_path):
    """A server takes no commands and says so; the others end with one line."""
    port = free_port()
    env = {
        **os.environ,
        "CASEBOOK_MONGODB_URL": scratch_url,
        "CASEBOOK_PORT": str(port),
        "CASEBOOK_DATA_DIR": str(tmp_path),
    }
    database = Database(scratch_url)
    server = await script("scripts.serve", env=env)
    others = [await script(f"scripts.{name}", env=env) for name in ("project", "timekeeper")]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:

            async def ready() -> bool:
                try:
                    answer = await client.get("/readyz")
                except httpx.HTTPError:
                    return False
                return answer.status_code == 200 and len(await database.identity.running()) == 3

            await until(ready, 90)
            await database.identity.replace("a test")

            async def replaced() -> bool:
                return "replaced" in (await client.get("/readyz")).text

            await until(replaced)
            for other in others:
                _, err = await asyncio.wait_for(other.communicate(), 60)
                assert other.returncode == 1
                assert b"started again" in err.splitlines()[-1]
                assert b"Traceback" not in err
    finally:
        for process in (server, *others):
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                await asyncio.wait_for(process.communicate(), 60)
        await database.close()
