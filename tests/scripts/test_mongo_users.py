"""What database users need, told by what processes really ask of the database (L1)."""

import asyncio
import json
import os
import struct
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import bson
import httpx
import pytest

from api.access.keys import KeyOrder, Keys
from eventstore.database import Database
from projections.generations import FIRST, VIEWS
from scripts.mongo_users import (
    API,
    AUDITOR,
    PROJECTOR,
    REFUSED,
    USERS,
    _put,
    for_atlas,
    privileges,
)
from scripts.testbed.patience import patience
from scripts.testbed.promises import free_port
from scripts.testbed.wire import decoded, url_at
from tests.api.test_api import OPEN
from tests.processes import script
from tests.projecting import until
from tests.scripts.test_soak import scratch_url
from tests.unlimited import unlimited

__all__ = ["scratch_url"]
_OP_MSG = 2013
_OF_EVERYBODY = {
    "abortTransaction",
    "buildInfo",
    "commitTransaction",
    "endSessions",
    "hello",
    "isMaster",
    "ismaster",
    "killCursors",  # one's own
    "killSessions",  # of the same user
    "ping",
    "saslContinue",
    "saslStart",
}


def needed(command: dict[str, object]) -> Iterator[tuple[str, str]]:
    """Which actions on which collection MongoDB wants a user to have for a command."""
    verb = next(iter(command))
    on = command.get("collection") if verb == "getMore" else command[verb]
    name = on if isinstance(on, str) else ""
    match verb:
        case "find" | "getMore" | "count":
            yield "find", name
        case "aggregate":
            yield "find", name
            if "$changeStream" in str(command["pipeline"]):
                yield "changeStream", name
        case "insert":
            yield "insert", name
        case "update" | "findAndModify":
            yield "update", name
            if verb == "findAndModify":
                yield "find", name
            if "upsert': True" in str(command):
                yield "insert", name
        case "delete":
            yield "remove", name
        case "createIndexes":
            yield "createIndex", name
        case "listIndexes" | "listCollections":
            yield verb, "" if verb == "listCollections" else name
        case "create":
            yield "createCollection", name
            if "viewOn" in command:
                yield "find", str(command["viewOn"])
        case "drop":
            yield "dropCollection", name
        case _:
            assert verb in _OF_EVERYBODY, command


def needed_for_each(command) -> Iterator[tuple[str, str]]:
    """The same for writes to several collections, which MongoDB looks at one by one."""
    names = [place(*each["ns"].split(".", 1)) for each in command["nsInfo"]]
    for op in command["ops"]:
        verb, number = next(iter(op.items()))
        action = "remove" if verb == "delete" else verb
        yield action, names[number]
        if op.get("upsert"):
            yield "insert", names[number]


def place(database: str, collection: str) -> str:
    """A collection as REFUSED names it: behind what its database is called more than the log's."""
    beside = next((each for each in ("_keys/", "_views/") if database.endswith(each[:-1])), "")
    return beside + collection


class Heard(set[tuple[str, str]]):
    """What was asked for; and which commands said nothing of how long they may take."""

    def __init__(self):
        super().__init__()
        self.unlimited: set[str] = set()

    def hear(self, command):
        self.unlimited |= unlimited([command])
        if "bulkWrite" in command:
            self.update(needed_for_each(command))
        elif command["$db"] == "admin":
            assert next(iter(command)) in _OF_EVERYBODY, command
        else:
            self.update((action, place(command["$db"], on)) for action, on in needed(command))


class HeardOfUsers(list[dict[str, object]]):
    """The commands that make roles and users."""

    def hear(self, command):
        if next(iter(command)).endswith(("Role", "User")):
            self.append(command)


@asynccontextmanager
async def listening_in(url, kind=Heard):
    """A way to the database on which everything that is asked of it is heard."""
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port
    heard = kind()

    async def pass_on(reader, writer):
        try:
            while part := await reader.read(65536):
                writer.write(part)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def take(reader, writer):
        upstream, answering = await asyncio.open_connection(host, int(port))
        back = asyncio.create_task(pass_on(upstream, writer))
        try:
            while True:
                head = await reader.readexactly(16)
                length, _, _, opcode = struct.unpack("<iiii", head)
                body = await reader.readexactly(length - 16)
                answering.write(head + body)
                if opcode == _OP_MSG:
                    heard.hear(decoded(body))
        except (EOFError, OSError):
            pass
        finally:
            answering.close()
            await asyncio.wait([back])

    async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
        yield url_at(url, server.sockets[0].getsockname()[1]), heard


def beyond(heard, role, database):
    """What was asked for and the role does not hold, by itself or of the whole database."""
    held = {
        (action, place(privilege["resource"]["db"], privilege["resource"]["collection"]))
        for privilege in privileges(database)[role]
        for action in privilege["actions"]
    }
    return {
        (action, on)
        for action, on in heard
        if not held & {(action, on), (action, "".join(on.rpartition("/")[:2]))}
    }


@pytest.mark.skipif("CASEBOOK_TEST_MONGODB_URL" in os.environ, reason="speaks to one host")
async def test_each_process_asks_for_no_more_than_its_user_may(scratch_url, database, tmp_path):
    """L1: of the log the API finds and inserts, the projector and the auditor find."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CASEBOOK_")}
    without_master_key = {**clean, "CASEBOOK_DATA_DIR": str(tmp_path)}
    clean = without_master_key | {"CASEBOOK_MASTER_KEY": os.environ["CASEBOOK_MASTER_KEY"]}
    clean["CASEBOOK_SIGNING_KEY"] = str(tmp_path / "key.pem")
    name = database.name
    preparing = Database(scratch_url)
    keys = {
        role: (await Keys(preparing).make(KeyOrder(principal="x", role=role), "x"))[1]
        for role in ("supervisor", "admin", "auditor")
    }
    made = await script("scripts.project", env={**clean, "CASEBOOK_MONGODB_URL": scratch_url})

    async def prepared():  # whoever comes next is to have nothing left to do
        return set(VIEWS) <= set(await FIRST.of(preparing).collections())

    await until(prepared)
    made.terminate()
    await made.communicate()
    await preparing.close()
    async with (
        listening_in(scratch_url) as (api_url, of_api),
        listening_in(scratch_url) as (projector_url, of_projector),
        listening_in(scratch_url) as (auditor_url, of_auditor),
    ):
        api = await script(
            "scripts.serve",
            env={
                **clean,
                "CASEBOOK_MONGODB_URL": api_url,
                "CASEBOOK_PROJECTING": "no",
                "CASEBOOK_PORT": "0",
            },
        )
        of_views = {**clean, "CASEBOOK_MONGODB_URL": projector_url}
        of_views["CASEBOOK_CHECKPOINT_SECONDS"] = "1"
        of_metrics = free_port()
        projector = await script(
            "scripts.project", env={**of_views, "CASEBOOK_METRICS_PORT": f"{of_metrics}"}
        )
        assert api.stdout is not None
        address = ""
        while not address:
            line = (await api.stdout.readline()).decode()
            address = line.split()[1] if line.startswith("Casebook: ") else ""
        ticket = await _ask_for_everything(address, keys)
        async with httpx.AsyncClient() as client:
            shown = (await client.get(f"http://127.0.0.1:{of_metrics}/metrics")).text
        assert "casebook_projection_batch_events_count" in shown
        for words in ((), ("--ticket", ticket)):
            replay = await script("scripts.replay", *words, env=of_views)
            out, err = await replay.communicate()
            assert replay.returncode == 0, out + err
        pem = Path(clean["CASEBOOK_SIGNING_KEY"]).with_suffix(".pub")
        verify = await script(
            *("scripts.verify", "--key", str(pem)),
            env={**without_master_key, "CASEBOOK_MONGODB_URL": auditor_url},
        )
        out, err = await verify.communicate()
        assert verify.returncode == 0, out + err
        for process in (api, projector):
            process.terminate()
            await process.communicate()
    for heard in (of_api, of_projector, of_auditor):
        assert heard.unlimited == set()  # see eventstore/mongo/limits.py
    log = "ticket_events"
    assert {a for a, on in of_api if on == log} <= {"find", "insert", "listIndexes", "changeStream"}
    assert {a for a, on in of_projector if on == log} <= {"find", "listIndexes", "changeStream"}
    assert {a for a, on in of_auditor if on == log} == {"find"}
    assert ("insert", log) in of_api
    assert ("insert", "access_log") in of_api
    assert ("update", "_views/ticket_reads_1") in of_projector
    assert ("dropCollection", "_views/ticket_reads") in of_projector
    assert ("insert", "repairs") in of_api
    assert {a for a, on in of_api if on.startswith("_views/")} <= {"find", "listIndexes"}
    assert beyond(of_api, API, name) == set()
    assert beyond(of_projector, PROJECTOR, name) == set()
    probe = {("update", "processes")}  # of what the server knows: an auditor's is refused
    assert beyond(of_auditor, AUDITOR, name) <= probe


async def _ask_for_everything(address, keys) -> str:
    """Use the API as its users do; give the id of a ticket."""

    def by(role):
        return {"Authorization": f"Bearer {keys[role]}"}

    async with httpx.AsyncClient(base_url=address, headers=by("supervisor"), timeout=60) as client:
        one, two = [
            (await client.post("/tickets", json=OPEN, headers={"Prefer": "wait=20"})).json()
            for _ in range(2)
        ]
        await client.post("/tickets", json={**OPEN, "requester": "carla"})
        found = await client.post("/persons/find", json={"name": "carla"}, headers=by("admin"))
        person = f"/persons/{found.json()['id']}"
        assert (await client.get(f"{person}/data", headers=by("admin"))).status_code == 200
        order = {"reason": "asked for it"}
        done = await client.post(f"{person}/erase", json=order, headers=by("admin"))
        assert [s["step"] for s in done.json()["erasure"]] == ["PersonErased", "KeyDestroyed"]
        one, two = f"/tickets/{one['ticket_id']}", f"/tickets/{two['ticket_id']}"
        await client.post(f"{one}/assign", json={"assignee": "alice"})
        merged = await client.post(f"{one}/merge", json={"into": two.rpartition("/")[2]})
        assert merged.status_code == 200, merged.text
        hook = {"url": "http://127.0.0.1:9/x", "since": "2020-01-01T00:00:00Z"}
        made = (await client.post("/webhooks", json=hook)).json()
        await client.put("/views/all", json={})
        await client.put("/desk", json={}, headers=by("admin"))
        groups = {"groups": {"print": ["alice"]}}
        await client.put("/desk", json=groups, headers=by("admin"))
        order = {"principal": "x", "role": "agent"}
        key = (await client.post("/keys", json=order, headers=by("admin"))).json()
        await client.delete(f"/keys/{key['id']}", headers=by("admin"))
        repair = {"ticket_id": one.rpartition("/")[2]}
        await client.post("/projections/repairs", json=repair, headers=by("admin"))
        for path in (
            one,
            f"{one}/timeline",
            f"{one}/diff",
            f"{one}?version=1",
            "/tickets?count=true&limit=1",
            "/tickets?q=jam&view=all",
            "/dashboard",
            "/dashboard/series?metric=backlog",
            "/agents",
            "/views",
            "/desk",
            "/events",
            "/projections",
            "/metrics",
            "/readyz",
        ):
            answer = await client.get(path)
            assert answer.status_code == 200, (path, answer.text)
        export = (await client.get("/events")).text.splitlines()
        cursor = json.loads(export[-1])["cursor"]
        await client.get(f"/events?cursor={cursor}")
        async with client.stream("GET", f"/events/stream?cursor={cursor}") as stream:
            await anext(stream.aiter_lines())
        assert (await client.get("/access_log", headers=by("auditor"))).status_code == 200

        async def tried():
            log = await client.get(f"/webhooks/{made['id']}/deliveries")
            return any(d["attempts"] for d in log.json()["deliveries"])

        await until(tried)
        await client.post(
            f"/webhooks/{made['id']}/redeliver", json={"since": "2020-01-01T00:00:00Z"}
        )

        steps = []
        async with asyncio.timeout(patience(180)):
            while "ErasureCompleted" not in steps:  # a minute after, not before
                await asyncio.sleep(1)  # and every request is a line that nobody reads
                shown = (await client.get(person, headers=by("admin"))).json()
                steps = [step["step"] for step in shown["erasure"]]
        await client.delete(f"/webhooks/{made['id']}")
        await client.delete("/views/all")
        return two.rpartition("/")[2]


def test_what_a_user_must_be_refused_is_in_no_role_of_its():
    made = privileges("casebook")
    assert made.keys() == set(USERS) == REFUSED.keys()
    for user, refused in REFUSED.items():
        assert beyond(set(refused), user, "casebook") == set(refused)


_ACTIONS = frozenset(
    {
        *("find", "insert", "update", "remove", "bypassDocumentValidation", "changeStream"),
        *("createCollection", "dropCollection", "createIndex", "dropIndex", "collMod", "compact"),
        *("listCollections", "listIndexes", "collStats", "dbStats", "indexStats", "validate"),
        *("killCursors", "killAnyCursor", "killAnySession", "enableSharding", "dropDatabase"),
    }
)
"""Of MongoDB's privilege actions, those that have to do with data. A role that names another word
is refused by the server."""
ATLAS_ACTIONS = (
    *("FIND", "INSERT", "UPDATE", "REMOVE", "CREATE_COLLECTION", "DROP_COLLECTION"),
    *("CREATE_INDEX", "CHANGE_STREAM", "LIST_COLLECTIONS", "LIST_INDEXES", "COLL_STATS"),
    "ENABLE_SHARDING",
    "ENABLE_SHARDING",
)
"""Of the actions that Atlas lists for custom roles, those that have to do with data."""
_ON_A_DATABASE = frozenset({"listCollections", "dbStats", "dropDatabase", "enableSharding"})
_MOST_BYTES = 16 * 2**20


def unlawful(home: str, privileges) -> list[str]:
    """Why MongoDB would refuse a role: the rules of `createRole` in its manual.

    The embedded server takes any role, and enforces none.
    """
    found = []
    for privilege in privileges:
        resource, actions = privilege["resource"], set(privilege["actions"])
        if resource.keys() != {"db", "collection"}:
            found.append(f"{resource} is no resource of a database")
        elif home != "admin" and resource["db"] != home:
            found.append(f"a role of {home} can say nothing about {resource['db']}")
        if not actions or actions - _ACTIONS:
            found.append(f"{sorted(actions - _ACTIONS)} are no actions")
        if resource.get("collection") and actions & _ON_A_DATABASE:
            found.append(f"{sorted(actions & _ON_A_DATABASE)} are of a database as a whole")
    if len(bson.encode({"privileges": privileges})) > _MOST_BYTES:
        found.append("a role is a document, which cannot be that large")
    return found


def test_what_mongodb_refuses_in_a_role_is_known():
    def privilege(db, collection, *actions):
        return {"resource": {"db": db, "collection": collection}, "actions": list(actions)}

    elsewhere = privilege("desk_keys", "persons", "find")
    assert unlawful("admin", [elsewhere]) == []
    assert unlawful("desk", [elsewhere]) == ["a role of desk can say nothing about desk_keys"]
    assert unlawful("admin", [privilege("desk", "x", "delete")]) == ["['delete'] are no actions"]
    assert unlawful("admin", [privilege("desk", "x", "listCollections")])
    assert unlawful("admin", [{"resource": {"db": "desk"}, "actions": ["find"]}])
    many = [privilege("desk", f"{'x' * 100}{n}", "find") for n in range(120_000)]
    assert unlawful("admin", many) == ["a role is a document, which cannot be that large"]


@pytest.mark.skipif("CASEBOOK_TEST_MONGODB_URL" in os.environ, reason="speaks to one host")
async def test_roles_and_users_are_made_as_mongodb_takes_them(scratch_url, database):
    async with listening_in(scratch_url, HeardOfUsers) as (url, heard):
        env = {**os.environ, "CASEBOOK_ADMIN_URL": url, "CASEBOOK_API_PASSWORD": "given"}
        made = await script("scripts.mongo_users", "make", env=env)
        out, err = await made.communicate()
        assert made.returncode == 0, err
    roles = {c["createRole"]: c for c in heard if "createRole" in c}
    users = {c["createUser"]: c for c in heard if "createUser" in c}
    names = {f"{database.name}_{user}" for user in USERS}
    assert roles.keys() == users.keys() == names
    assert {command["$db"] for command in heard} == {"admin"}
    for name in names:
        assert unlawful("admin", roles[name]["privileges"]) == []
        assert users[name]["roles"] == [{"role": name, "db": "admin"}]
    shown = dict(line.split(": ") for line in out.decode().splitlines())
    assert shown.keys() == set(USERS)
    for user, address in shown.items():
        parts = urlsplit(address)
        assert parts.username == f"{database.name}_{user}"
        assert parts.path == f"/{database.name}"
        assert parts.query.endswith("authSource=admin")
    assert f"_{API}:***@" in shown[API]


class Admin(list[dict[str, object]]):
    """A database for users in which the role `old` is there."""

    async def command(self, command):
        self.append(command)
        return {"roles": [{}] if command.get("rolesInfo") == "old" else []}


async def test_a_role_keeps_what_it_had_while_processes_of_a_former_version_need_it():
    for change, verb in (("update", "updateRole"), ("grantPrivilegesTo", "grantPrivilegesToRole")):
        database: Any = SimpleNamespace(client={"admin": Admin()})
        for name in ("old", "new"):
            await _put(database, "Role", name, {"privileges": []}, change)
        assert database.client["admin"][1::2] == [
            {verb: "old", "privileges": []},
            {"createRole": "new", "roles": [], "privileges": []},
        ]


async def test_the_roles_are_printed_as_they_are_made():
    shown = await script("scripts.mongo_users", "print", "desk", env=dict(os.environ))
    out, _ = await shown.communicate()
    assert json.loads(out) == privileges("desk")


def test_the_roles_are_printed_as_atlas_takes_them():
    """By `atlas customDbRoles create`; the names of actions are those of its Administration API."""
    for command, user in zip(for_atlas("desk"), USERS, strict=True):
        words, _, named = command.rpartition(" ")
        assert words == f"atlas customDbRoles create desk_{user} --privilege"
        for each in named.split(","):
            action, _, on = each.partition("@")
            assert action in {*ATLAS_ACTIONS}
            assert on.split(".")[0] in ("desk", "desk_keys", "desk_views")
        granted = privileges("desk")[user]
        assert len(named.split(",")) == sum(len(each["actions"]) for each in granted)


async def test_what_is_not_refused_is_said_and_undone(scratch_url, store):
    """The embedded server refuses nothing: a check must change nothing there."""
    urls = {f"CASEBOOK_{user.upper()}_URL": scratch_url for user in USERS}
    tried = await script("scripts.mongo_users", "check", env={**os.environ, **urls})
    out, _ = await tried.communicate()
    assert tried.returncode == 1
    assert out.count(b"NOT REFUSED") == sum(map(len, REFUSED.values()))
    assert await store.count(exact=True) == 0


async def test_what_cannot_be_made_or_checked_is_said_in_a_line():
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CASEBOOK_")}
    nowhere = {"CASEBOOK_ADMIN_URL": "mongodb://127.0.0.1:9/x?serverSelectionTimeoutMS=100"}
    for words, more in (
        (("check",), {}),
        (("make",), {}),
        (("make",), nowhere),
    ):
        tried = await script("scripts.mongo_users", *words, env={**clean, **more})
        out, err = await tried.communicate()
        assert (tried.returncode, out) == (1, b"")
        assert err.startswith(b"error: ")
        assert b"Traceback" not in err
