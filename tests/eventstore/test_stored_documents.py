"""What other versions have stored, or what is damaged: each document costs only itself."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from api.access.keys import KeyOrder, Keys
from eventstore.event_document import utc_now
from tests.api.test_access import bearer
from tests.api.test_api import client, is_problem
from tests.callers import ADMIN, AGENT, token
from tests.processes import environment, script

__all__ = ["client"]


async def stored_key(database, **changed):
    """Make a key, change its document, and return its id and text."""
    key, text = await Keys(database).make(KeyOrder(principal="carol", role="supervisor"), "x")
    keys = database.collection("api_keys")
    document = {**(await keys.find_one({"_id": key.id})), **changed}
    document = {name: value for name, value in document.items() if value != "GONE"}
    await keys.replace_one({"_id": key.id}, document)
    return key.id, text


UNREADABLE_KEYS = [
    {"role": "overlord"},
    {"role": 1},
    {"scopes": "read"},
    {"scopes": "GONE"},
    {"expires_at": "tomorrow"},
    {"expires_at": "GONE"},
    {"revoked_at": "GONE"},
    {"created_at": None},
    {"hash": "x"},
    {"critical": ["addresses"], "addresses": ["10.0.0.0/8"]},
]


@pytest.mark.parametrize("changed", UNREADABLE_KEYS, ids=str)
async def test_a_key_that_cannot_be_read_costs_only_itself(client, database, changed):
    _, good = await stored_key(database)
    bad_id, bad = await stored_key(database, **changed)
    is_problem(await client.get("/tickets", headers=bearer(bad)), 401, "unauthenticated")
    assert (await client.get("/tickets", headers=bearer(good))).status_code == 200
    listed = await client.get("/keys", headers=ADMIN)
    assert listed.status_code == 200
    assert len(listed.json()["keys"]) == 1
    assert listed.json()["unreadable"] == [bad_id]
    assert (await client.delete(f"/keys/{bad_id}", headers=ADMIN)).status_code == 204
    stored = await database.collection("api_keys").find_one({"_id": bad_id})
    assert isinstance(stored["revoked_at"], datetime)


async def test_a_scope_that_is_not_known_grants_nothing_and_stays(client, database):
    """As of a version that renamed one: what else the key is good for it stays good for."""
    stored_scopes = ["read", "webhooks", "of the future"]
    id_, text = await stored_key(database, scopes=stored_scopes, of_the_future={"x": 1})
    assert (await client.get("/tickets", headers=bearer(text))).status_code == 200
    is_problem(await client.get("/webhooks", headers=bearer(text)), 403, "forbidden")
    assert (await client.delete(f"/keys/{id_}", headers=ADMIN)).status_code == 204
    stored = await database.collection("api_keys").find_one({"_id": id_})
    assert (stored["scopes"], stored["of_the_future"]) == (stored_scopes, {"x": 1})
    is_problem(await client.get("/tickets", headers=bearer(text)), 401, "unauthenticated")


async def test_a_key_with_no_scope_that_is_known_is_good_for_nothing(client, database):
    _, text = await stored_key(database, scopes=["webhooks"])
    is_problem(await client.get("/tickets", headers=bearer(text)), 403, "forbidden")
    assert (await client.get("/me", headers=bearer(text))).json()["scopes"] == []


# --- a key and its maker --------------------------------------------------------------------------


async def made(client, headers, status=201, **more):
    asked = {"principal": "carol", "role": "admin", **more}
    answer = await client.post("/keys", json=asked, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()


def at(text):
    return datetime.fromisoformat(text)


async def test_no_key_outlives_the_key_it_is_made_with(client):
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=7)
    maker = await made(client, ADMIN, expires_at=until.isoformat())
    headers = bearer(maker["key"])
    child = await made(client, headers)
    assert at(child["expires_at"]) == until  # and the answer says so
    assert child["made_by_key"] == maker["id"]
    sooner = until - timedelta(days=1)
    assert at((await made(client, headers, expires_at=sooner.isoformat()))["expires_at"]) == sooner
    assert at((await made(client, headers, expires_at=until.isoformat()))["expires_at"]) == until
    later = (until + timedelta(seconds=1)).isoformat()
    problem = await made(client, headers, 422, expires_at=later)
    assert problem["code"] == "expires_at_beyond"
    assert until.isoformat() in problem["detail"]


async def test_no_key_outlives_the_token_it_is_made_with(client):
    ends = int(utc_now().timestamp()) + 600
    headers = {"Authorization": f"Bearer {token(sub='ada', role='admin', exp=ends)}"}
    child = await made(client, headers)
    assert at(child["expires_at"]) == datetime.fromtimestamp(ends, UTC)
    assert child["made_by_key"] is None
    later = datetime.fromtimestamp(ends + 1, UTC).isoformat()
    assert (await made(client, headers, 422, expires_at=later))["code"] == "expires_at_beyond"
    far = token(sub="ada", role="admin", exp=10**15)
    assert at((await made(client, bearer(far)))["expires_at"]).year == 9999


async def test_what_a_key_has_made_is_revoked_with_it(client, database):
    root = await made(client, bearer((await stored_admin(database))[1]))
    child = await made(client, bearer(root["key"]))
    grandchild = await made(client, bearer(child["key"]))
    other = await made(client, ADMIN)
    path = f"/keys/{root['id']}"
    wrong = await client.delete(path, params={"with": "x"}, headers=ADMIN)
    is_problem(wrong, 422, "invalid_request")
    answer = await client.delete(path, params={"with_made": "true"}, headers=ADMIN)
    assert answer.status_code == 204
    for key in (root, child, grandchild):
        is_problem(await client.get("/me", headers=bearer(key["key"])), 401, "unauthenticated")
    assert (await client.get("/me", headers=bearer(other["key"]))).status_code == 200
    unknown = f"/keys/{'ab' * 12}?with_made=true"
    is_problem(await client.delete(unknown, headers=ADMIN), 404, "key_not_found")
    is_problem(await client.delete(unknown, headers=AGENT), 403, "forbidden")


async def stored_admin(database):
    return await Keys(database).make(KeyOrder(principal="root", role="admin"), "the operator")


async def test_what_a_key_has_made_stays_when_it_alone_is_revoked(client, database):
    root, text = await stored_admin(database)
    child = await made(client, bearer(text))
    assert (await client.delete(f"/keys/{root.id}", headers=ADMIN)).status_code == 204
    assert (await client.get("/me", headers=bearer(child["key"]))).status_code == 200


async def test_a_key_revoked_a_moment_ago_makes_no_other(client, database):
    """Although it is good for some seconds more in processes that have not heard of it."""
    root, text = await stored_admin(database)
    await made(client, bearer(text))
    revoked = await Keys(database).revoke_with_made(root.id)  # by another process
    assert len(revoked) == 2
    assert (await made(client, bearer(text), 401))["code"] == "unauthenticated"
    assert all(key.revoked_at is not None for key in (await Keys(database).all_apart())[0])


async def test_keys_of_before_makers_were_kept_are_read_and_revoked(client, database):
    id_, text = await stored_key(database, made_by_key="GONE")
    assert (await client.get("/me", headers=bearer(text))).status_code == 200
    [key] = (await client.get("/keys", headers=ADMIN)).json()["keys"]
    assert key["made_by_key"] is None
    path = f"/keys/{id_}?with_made=true"
    assert (await client.delete(path, headers=ADMIN)).status_code == 204


async def test_the_command_line_lists_what_cannot_be_read_and_revokes_what_was_made(
    tmp_path, database
):
    env = environment(tmp_path)
    env["CASEBOOK_MONGODB_URL"] = database.url
    bad_id, _ = await stored_key(database, role="overlord")
    root, text = await stored_admin(database)
    principal = await Keys(database).principal(text)
    child, _ = await Keys(database).make(KeyOrder(principal="x", role="agent"), "root", principal)

    async def keys(*words):
        ran = await script("scripts.keys", *words, env=env)
        out, err = await ran.communicate()
        assert ran.returncode == 0, err.decode()
        return out.decode().splitlines()

    listed = await keys("list")
    assert [line for line in listed if "unreadable" in line and bad_id in line]
    assert [line for line in listed if child.id in line and line.endswith(f"with {root.id}")]
    assert len(await keys("revoke", bad_id)) == 1
    revoked = await keys("revoke", root.id, "--with-made")
    assert [line.split()[1].rstrip(";") for line in revoked] == [root.id, child.id]


# --- the desk -------------------------------------------------------------------------------------


FUTURE_DESK: dict[str, Any] = {
    "_id": 1,
    "desk": {
        "groups": [
            {"name": "print", "members": ["alice"], "lead": "alice"},
            {"name": "net\u202e", "members": []},  # as was taken once
        ],
        "fields": {
            "floor": {"type": "text", "choices": [], "required_on": None, "longest": 10},
            "due": {"type": "place", "choices": [], "required_on": "resolve"},
            "cause": {"type": "text", "choices": [], "required_on": "close"},
        },
        "sla": {
            "urgent": {"first_response_minutes": 5, "resolution_minutes": None, "calendar": "x"},
            "apocalyptic": {"first_response_minutes": 1, "resolution_minutes": 2},
        },
        "close_resolved_after_days": None,
        "shifts": {"x": ["mo", "tu"]},
    },
    "changed_at": datetime(2026, 3, 1, tzinfo=UTC),
    "changed_by": {"id": "ada", "role": "agent"},
    "closing_since": datetime(2026, 3, 1, tzinfo=UTC),
}


async def opened(client, headers=AGENT, **more):
    asked = {"subject": "x", "requester": "bob", **more}
    return await client.post("/tickets", json=asked, headers=headers)


async def test_a_desk_of_a_newer_version_is_read_as_far_as_it_is_known(client, database):
    await database.collection("desks").insert_one(FUTURE_DESK)
    shown = (await client.get("/desk", headers=ADMIN)).json()["desk"]
    assert shown["groups"] == {"print": ["alice"], "net\u202e": []}
    assert shown["fields"].keys() == {"floor", "cause"}
    assert shown["sla"].keys() == {"urgent"}
    ticket = (await opened(client, priority="urgent")).json()["ticket_id"]

    async def fill(key, value):
        asked = {"key": key, "value": value}
        return await client.post(f"/tickets/{ticket}/set_field", json=asked, headers=AGENT)

    assert (await fill("floor", "3")).status_code == 200
    is_problem(await fill("due", "2026-03-01"), 422, "field_of_another_version")
    is_problem(await fill("shoe_size", 44), 422, "unknown_field")


async def test_a_desk_whose_only_field_is_not_known_takes_no_other(client, database):
    """As it would if it defined none."""
    desk = {**FUTURE_DESK["desk"], "fields": {"due": FUTURE_DESK["desk"]["fields"]["due"]}}
    await database.collection("desks").insert_one({**FUTURE_DESK, "desk": desk})
    ticket = (await opened(client)).json()["ticket_id"]
    asked = {"key": "shoe_size", "value": 44}
    answer = await client.post(f"/tickets/{ticket}/set_field", json=asked, headers=AGENT)
    is_problem(answer, 422, "unknown_field")


async def test_what_is_not_known_of_a_desk_stays_when_it_is_replaced(client, database):
    await database.collection("desks").insert_one(FUTURE_DESK)
    shown = (await client.get("/desk", headers=ADMIN)).json()["desk"]
    same = await client.put("/desk", json=shown, headers=ADMIN)
    assert same.json()["version"] == 1
    shown["groups"] = {"print": ["alice", "bob"], "new": []}
    shown["fields"]["floor"]["required_on"] = "open"
    shown["sla"]["urgent"]["resolution_minutes"] = 60
    changed = await client.put("/desk", json=shown, headers=ADMIN)
    assert (changed.status_code, changed.json()["version"]) == (200, 2)
    assert changed.json()["desk"] == {
        **shown,
        "retired": {**shown["retired"], "groups": {"net\u202e": None}},
    }
    former, stored = FUTURE_DESK["desk"], (await database.collection("desks").find_one({"_id": 2}))
    assert stored["desk"] == {
        "groups": [
            {"name": "print", "members": ["alice", "bob"], "lead": "alice"},
            {"name": "new", "members": []},
        ],
        "fields": {
            "floor": {**former["fields"]["floor"], "required_on": "open", "public": True},
            "due": former["fields"]["due"],
            "cause": {**former["fields"]["cause"], "public": True},
        },
        "other_fields_public": True,
        "sla": {
            "urgent": {
                **former["sla"]["urgent"],
                "next_response_minutes": None,
                "resolution_minutes": 60,
            },
            "apocalyptic": former["sla"]["apocalyptic"],
        },
        "close_resolved_after_days": None,
        "shifts": former["shifts"],
        "sla_rules": [],
        "sla_field": None,
        "calendars": {},
        "time_zone": "UTC",
        "other_time_zones": [],
        "retired": {
            "groups": [{"name": "net\u202e", "to": None}],
            "agents": [],
            "fields": [],
            "choices": [],
        },
    }


async def test_a_desk_stored_before_closing_since_was_kept_is_read(client, database):
    former = {name: value for name, value in FUTURE_DESK.items() if name != "closing_since"}
    await database.collection("desks").insert_one(former)
    assert (await client.get("/desk", headers=ADMIN)).status_code == 200
    assert (await opened(client)).status_code == 201


UNREADABLE_DESKS: list[dict[str, Any]] = [
    {"desk": {**FUTURE_DESK["desk"], "groups": "all"}},
    {"desk": {**FUTURE_DESK["desk"], "groups": [{"name": "print", "members": "alice"}]}},
    {"critical": ["tenants"]},
    {"desk": None},
]


@pytest.mark.parametrize("changed", UNREADABLE_DESKS, ids=str)
async def test_a_newest_desk_that_cannot_be_read_lets_nobody_see_more(client, database, changed):
    """Nothing older stands in for it; who does not go by it goes on; and it can be replaced."""
    desks = database.collection("desks")
    await desks.insert_many([FUTURE_DESK, {**FUTURE_DESK, "_id": 2, **changed}])
    is_problem(await opened(client), 503, "essential_unreadable")
    is_problem(await client.get("/tickets", headers=AGENT), 503, "essential_unreadable")
    is_problem(await client.get("/desk", headers=ADMIN), 503, "essential_unreadable")
    former = await client.get("/desk", params={"version": 1}, headers=ADMIN)
    assert former.status_code == 200
    at_2 = await client.get("/desk", params={"version": 2}, headers=ADMIN)
    is_problem(at_2, 409, "unreadable_document")
    assert (await client.get("/tickets")).status_code == 200  # a supervisor's
    new = former.json()["desk"]
    is_problem(await client.put("/desk", json=new, headers=ADMIN), 409, "desk_unreadable")
    by_name = {**ADMIN, "If-Match": '"2"'}
    assert (await client.put("/desk", json=new, headers=by_name)).json()["version"] == 3
    assert (await opened(client)).status_code == 201
