"""What the database says goes neither to clients nor into the log: they are told in our words."""

import asyncio
import os
from pathlib import Path

import httpx
import pytest
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
)

from domain.errors import NotFound
from domain.values import JsonObject
from eventstore.database import Database
from eventstore.failures import StoreFailed, StoreUnavailable
from eventstore.mongo.driver import InsertOne
from eventstore.mongo.errors import describe, is_unavailable, translate_driver_errors, translated
from eventstore.mongo.resend import insert_new
from scripts.testbed.harness import free_port
from scripts.testbed.patience import patience
from scripts.testbed.wire import Done, Fate, through
from tests.api.test_api import OPEN, is_problem, serving
from tests.callers import AGENT, AUDITOR, SUPERVISOR
from tests.failing import failing
from tests.processes import environment, script
from tests.projecting import until

REPLY = {
    "errmsg": "secret words",
    "code": 13,
    "codeName": "Unauthorized",
    "$clusterTime": {"clusterTime": 1, "signature": {"hash": b"", "keyId": 0}},
}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OperationFailure("secret words", 13, REPLY), "refuses (Unauthorized, code 13)"),
        (OperationFailure("secret words", 2), "refuses (code 2)"),
        (BulkWriteError({"writeErrors": [{"code": 121, "errmsg": "secret words"}]}), "code 121"),
        (BulkWriteError({"writeErrors": [], "writeConcernErrors": [{"code": 64}]}), "refuses"),
        (AutoReconnect("secret words"), "does not answer (AutoReconnect)"),
        (NotPrimaryError("secret words"), "does not answer (NotPrimaryError)"),
        (PyMongoError("secret words"), "fails (PyMongoError)"),
        (ValueError("secret words"), "ValueError"),
        (NotFound("x", "there is nothing"), "there is nothing"),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, Exception) else "",
)
def test_errors_are_described_without_what_the_database_says(error, said):
    told = describe(error)
    assert said in told
    for raw in ("secret", "signature", "clusterTime", "full error"):
        assert raw not in told
        if isinstance(error, PyMongoError):
            assert raw not in translated(error).detail


CODES = [1, 8, 6, 89, 91, 112, 133, 134, 189, 246, 251, 262, 264, 10107, 11600, 11602, 13436, 14031]


@pytest.mark.parametrize("code", CODES)
def test_what_may_be_over_in_a_moment_is_unavailable(code):
    """L12: what is not known is never refused."""
    assert type(translated(OperationFailure("x", code))) is StoreUnavailable
    one = BulkWriteError({"writeErrors": [{"index": 0, "code": code, "errmsg": "x"}]})
    assert type(translated(one)) is StoreUnavailable
    assert is_unavailable(OperationFailure("x", code))


@pytest.mark.parametrize("code", [64, 91])
async def test_what_no_majority_has_confirmed_is_unavailable(any_database, code):
    """L12: it is done, and a failover may undo it; so it is neither refused nor written."""
    if "CASEBOOK_TEST_MONGODB_URL" in os.environ:
        pytest.skip("one host only")
    unconfirmed = Done({"writeConcernError": {"code": code, "errmsg": "secret words"}})
    things = any_database.collection("things")
    await things.insert_one({"_id": 1})

    def heard(sent: JsonObject) -> Fate | Done:
        return unconfirmed if {"insert", "bulkWrite"} & sent.keys() else Fate.PASSED

    async with through(any_database.url, heard) as (url, _):
        database = Database(url, any_database.driver)
        with pytest.raises(StoreUnavailable), translate_driver_errors():
            await database.write([InsertOne({"_id": 2}, namespace=things.full_name)])
        for id_ in (1, 3):
            with pytest.raises(StoreUnavailable), translate_driver_errors():
                await insert_new(database.collection("things"), [{"_id": id_}])
        await database.close()
    assert await things.count_documents({}) == 3


@pytest.mark.parametrize("code", [2, 9, 13, 14, 18, 26, 59, 121, 8000])
def test_what_trying_again_does_not_mend_is_failed(code):
    assert type(translated(OperationFailure("x", code))) is StoreFailed


@pytest.mark.parametrize(("code", "status"), [(1, 503), (14031, 503), (13, 500)])
async def test_clients_are_told_in_our_words(database, code, status, monkeypatch):
    """Commands, tickets, lists and the rest, whoever asks: 503 with a time, or 500."""
    monkeypatch.setattr("eventstore.failures.PATIENCE_SECONDS", patience(1))
    async with serving(database, project=False) as client:
        ticket = (await client.post("/tickets", json=OPEN, headers=AGENT)).headers["location"]
        for path in ("/projections", "/tickets"):  # so that the keys are known
            for headers in (AGENT, SUPERVISOR, AUDITOR):
                await client.get(path, headers=headers)
        refused = ("insert", "find", "aggregate", "bulkWrite", "update", "count")
        async with failing(database, *refused, errorCode=code):
            opening = await client.post("/tickets", json=OPEN, headers=AGENT)
            # An append of which nobody knows; or it is known that it was refused.
            is_problem(opening, status, "outcome_unknown" if status == 503 else "store_failed")
            for answer in [
                opening,
                await client.post(f"{ticket}/add_note", json={"body": "x"}, headers=AGENT),
                await client.get(ticket, headers=AGENT),
                await client.get(f"{ticket}/timeline", headers=SUPERVISOR),
                await client.get("/tickets", headers=SUPERVISOR),
                await client.get("/dashboard", headers=SUPERVISOR),
                await client.get("/views", headers=SUPERVISOR),
                await client.get("/webhooks", headers=SUPERVISOR),
                await client.get("/projections", headers=AUDITOR),
            ]:
                if answer.status_code in (403, 404):
                    continue  # decided before the database is asked
                if answer is not opening:
                    said = "store_unavailable" if status == 503 else "store_failed"
                    is_problem(answer, status, said)
                assert ("retry-after" in answer.headers) == (status == 503)
                for raw in ("failpoint", "failCommand", "clusterTime", "signature", "errmsg"):
                    assert raw not in answer.text
        assert (await client.get(ticket, headers=AGENT)).status_code == 200


@pytest.mark.parametrize("form", ["text", "json"])
async def test_the_log_has_nothing_of_the_databases_replies(tmp_path, form):
    port = free_port()
    env = {**environment(tmp_path, port), "CASEBOOK_LOG_FORMAT": form}
    made = await script("scripts.keys", "make", "sam", "supervisor", env=env)
    key = (await made.communicate())[0].decode().strip()
    served = await script("scripts.serve", env=env)
    lines: list[str] = []

    async def read():
        assert served.stderr is not None
        while line := (await served.stderr.readline()).decode():
            lines.append(line)

    assert served.stdout is not None
    async with asyncio.timeout(120):
        while b"Ctrl-C to stop" not in await served.stdout.readline():
            pass
    reading = asyncio.create_task(read())
    address = f"http://127.0.0.1:{port}"
    database = Database((Path(env["CASEBOOK_DATA_DIR"]) / "database.url").read_text())
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        headers = {"Authorization": f"Bearer {key}"}
        assert (await client.get("/tickets", headers=headers)).status_code == 200
        async with failing(database, "insert", "find", "aggregate", "bulkWrite", errorCode=13):
            answer = await client.post(
                "/tickets", json={"subject": "x", "requester": "bob"}, headers=headers
            )
            is_problem(answer, 500, "store_failed")

            async def told_of_both():
                said = "".join(lines)
                return "store_failed" in said and said.count("code 13") > 3

            await until(told_of_both)
        assert (await client.get("/tickets", headers=headers)).status_code == 200
    await database.close()
    served.terminate()
    await served.wait()
    await reading
    said = "".join(lines)
    assert "Traceback" in said or '"exc_type"' in said  # where it came from is there
    for raw in ("clusterTime", "signature", "keyId", "full error"):
        assert raw not in said
