"""What a request leaves behind, and what its answer gives away: in logs, in caches, in time."""

from collections import Counter

import pytest
from pymongo.monitoring import CommandListener, register

from api.access.access_log import AccessLog
from api.access.path_masking import mask_path
from api.people.erasure import ErasureWorker
from eventstore.log import EventStore
from tests.api.test_api import NOBODY, OPEN, client, serving
from tests.callers import ADMIN, AGENT, AUDITOR, REQUESTER, SUPERVISOR, as_
from tests.conftest import fresh
from tests.projecting import caught_up, until

__all__ = ["client"]


# --- names in paths -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        (f"/tickets/{NOBODY}/timeline", f"/tickets/{NOBODY}/timeline"),
        (f"/keys/{'0a' * 12}", f"/keys/{'0a' * 12}"),
        ("/persons/Bob", "/persons/*"),
        ("/persons/bob smith/data", "/persons/*/data"),
        ("/tickets/bob@example.org", "/tickets/*"),
        ("/views/bobs-tickets", "/views/*"),
        ("/bob", "/*"),
        ("/tickets/", "/tickets/"),
        (f"/persons/{NOBODY}bob", "/persons/*"),
        ("//x", "//*"),
    ],
)
def test_of_a_path_only_ids_and_the_routes_own_words_are_kept(path, kept):
    assert mask_path(path) == kept
    assert mask_path(kept) == kept
    assert len(mask_path(path * 1000)) <= 600


async def test_what_is_typed_into_a_path_is_in_no_log(client, database, capfd):
    """Whoever is let in, and whoever is not."""
    for method, path, headers in (
        ("GET", "/persons/canary", ADMIN),  # recorded before it is looked at
        ("GET", "/persons/canary/data", ADMIN),
        ("DELETE", "/keys/canary", ADMIN),
        ("GET", "/persons/canary", AGENT),
        ("GET", "/views/canary", REQUESTER),
        ("GET", "/canary/canary", {"Authorization": ""}),
        ("GET", "/tickets/canary?q=canary", {"Authorization": ""}),
    ):
        await client.request(method, path, headers=headers)
    records = database.collection("access_log")

    async def recorded():
        found = await records.find().to_list()
        return found if len(found) >= 6 else None

    for record in await until(recorded):
        assert "canary" not in str(record)
        assert record["path"].startswith("/")
    shown = (await client.get("/access_log?limit=200", headers=ADMIN)).text
    assert "canary" not in shown


async def test_an_erasure_takes_names_out_of_what_was_recorded_before(database, store):
    """By a former version, which kept paths as they were typed; and names in correlation ids."""
    records = database.collection("access_log")
    await AccessLog(database).prepare()
    about = {"principal": {"id": "ada", "role": "admin", "key": None}}
    for path, correlation in (
        ("/persons/bob", "import of bob"),
        (f"/tickets/{NOBODY}", "bobsleigh"),
    ):
        await records.insert_one({**about, "path": path, "correlation_id": correlation})
    await ErasureWorker(database, store)._unname({"bob"})
    found = await records.find().sort("path", 1).to_list()
    assert [(each["path"], each["correlation_id"]) for each in found] == [
        ("/persons/*", "[erased]"),
        (f"/tickets/{NOBODY}", "bobsleigh"),
    ]


# --- caches ---------------------------------------------------------------------------------------


async def test_nobody_keeps_a_copy_of_what_is_personal(client):
    path = (await client.post("/tickets", json=OPEN, headers=REQUESTER)).headers["location"]
    for method, asked, headers in (
        ("GET", path, REQUESTER),
        ("GET", f"{path}/timeline", REQUESTER),
        ("GET", "/tickets", REQUESTER),
        ("GET", "/tickets?q=jam", AGENT),
        ("POST", f"{path}/reply", AGENT),
        ("GET", "/events", AUDITOR),
        ("GET", "/dashboard", SUPERVISOR),
        ("GET", "/me", REQUESTER),
        ("GET", "/access_log", ADMIN),
        ("GET", f"/persons/{NOBODY}/data", ADMIN),
        ("GET", f"/tickets/{NOBODY}", REQUESTER),
        ("GET", "/tickets", {"Authorization": ""}),
        ("GET", "/nothing", AGENT),
    ):
        answer = await client.request(method, asked, headers=headers)
        assert answer.headers.get_list("cache-control") == ["no-store"], (method, asked)
    for public in ("/", "/docs", "/openapi.json", "/console/console.js"):
        assert (await client.get(public)).headers["cache-control"] == "no-cache"


# --- time -----------------------------------------------------------------------------------------


class Overheard(CommandListener):
    """Counts what the database is asked, by command and collection."""

    def __init__(self):
        self.asked: Counter[str] = Counter()

    def started(self, event):
        name = event.command.get(event.command_name)
        if event.command_name in ("find", "aggregate"):
            self.asked[str(name)] += 1

    def succeeded(self, event):
        pass

    def failed(self, event):
        pass


OVERHEARD = Overheard()
EVE = as_("requester", "eve")
BODIES = {
    "reply": {"body": "x"},
    "reopen": {},
    "attach": {"name": "a", "media_type": "a/b", "size_bytes": 1, "sha256": "0a" * 32},
    "rate": {"score": 5},
}


async def asked_for(client, method, path, **about):
    """What the database is asked for an answer, and the answer."""
    OVERHEARD.asked.clear()
    answer = await client.request(method, path, **about)
    found = Counter(OVERHEARD.asked)
    del found["access_log"]
    del found["log_identity"], found["generations"]  # which are read now and then, whoever asks
    return found, answer.status_code, answer.content


async def test_tickets_that_are_not_for_one_and_that_are_not_there_make_the_same_work(
    server_url, monkeypatch
):
    """The same answer, after the same questions to the database: before and after it is known."""
    monkeypatch.setattr("api.desk.store.KEPT_SECONDS", 600.0)
    register(OVERHEARD)
    async for database in fresh(server_url):
        async with serving(database) as served:
            opening = await served.post("/tickets", json=OPEN, headers=REQUESTER)
            ticket = opening.headers["location"]
            await caught_up(database, EventStore(database))
        async with serving(database, project=False) as served:
            await served.get(f"/tickets/{NOBODY}", headers=EVE)  # who is who is known from now on
            own = await served.post("/tickets", json={**OPEN, "requester": "eve"}, headers=EVE)
            await served.get(own.headers["location"], headers=EVE)
            wanted: list[tuple[str, str, dict[str, object]]] = [
                ("GET", "", {}),
                ("GET", "/timeline", {}),
                ("GET", "/diff?to=1", {}),
            ]
            wanted += [("GET", "?version=1", {}), ("GET", "?as_of=2100-01-01T00:00:00Z", {})]
            for verb, body in BODIES.items():
                wanted.append(("POST", f"/{verb}", {"json": body}))
                keyed = {"json": body, "headers": {**EVE, "If-Match": '"7"'}}
                wanted.append(("POST", f"/{verb}", keyed))
            for _ in range(2):  # the second time the ticket is in memory
                for method, end, about in wanted:
                    more = {"headers": EVE, **about}
                    unseen = await asked_for(served, method, f"{ticket}{end}", **more)
                    missing = await asked_for(served, method, f"/tickets/{NOBODY}{end}", **more)
                    assert unseen == missing, (method, end, about)
                    assert unseen[1] == 404
            for named in (ticket.rpartition("/")[2], NOBODY):
                told = await asked_for(served, "GET", f"/tickets?after={named}@1", headers=EVE)
                assert told[1] == 404
            body = {"tickets": [ticket.rpartition("/")[2]], "command": {"body": "x"}}
            unseen = await asked_for(served, "POST", "/bulk/reply", json=body, headers=EVE)
            missing = await asked_for(
                served, "POST", "/bulk/reply", json={**body, "tickets": [NOBODY]}, headers=EVE
            )
            assert unseen[:2] == missing[:2]
