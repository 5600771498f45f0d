"""What database users need; that it is enough is in `test_database_commands.py` (L1)."""

import json
import os
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import bson
import pytest

from projections.generations import Generations
from scripts.mongo_users import API, REFUSED, USERS, _change, _put, for_atlas, privileges
from scripts.testbed.wire import passed, through
from tests.eventstore.test_driver import server
from tests.mongodb_rules import grants
from tests.processes import script
from tests.scripts.test_soak import scratch_url

__all__ = ["scratch_url"]


def test_what_a_user_must_be_refused_is_in_no_role_of_its():
    made = privileges("casebook")
    assert made.keys() == set(USERS) == REFUSED.keys()
    for user, refused in REFUSED.items():
        for action, on in refused:
            beside, _, name = on.rpartition("/")
            database = f"casebook{beside}"
            assert not any(grants(each, action, database, name) for each in made[user])


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
    heard = []

    def hear(command):
        if next(iter(command)).endswith(("Role", "User")):
            heard.append(command)
        return passed(command)

    async with through(scratch_url, hear) as (url, _):
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


async def test_roles_are_renewed_once_nothing_is_left_of_a_former_layout(database):
    """Not at the switch: who drops what was shown before it has only a former right to."""
    await Generations(database).prepare()
    assert await _change(database) == "update"
    left = database.client[database.name]["ticket_reads_4"]
    await left.insert_one({"version": 1})
    assert await _change(database) == "grantPrivilegesTo"
    await left.drop()
    assert await _change(database) == "update"


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


async def test_users_are_made_only_where_casebook_can_run(tmp_path):
    """What an operator runs first says so: a server that stands alone has no change streams."""
    async with server(tmp_path, "--standalone") as port:
        env = {**os.environ, "CASEBOOK_ADMIN_URL": f"mongodb://127.0.0.1:{port}/x"}
        tried = await script("scripts.mongo_users", "make", env=env)
        out, err = await tried.communicate()
    assert (tried.returncode, out) == (1, b"")
    assert err.startswith(b"error: a replica set or a sharded cluster is needed")
