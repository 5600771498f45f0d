"""Persons at the command line, and the master key without which nothing personal is read."""

import json
import os

import httpx

from eventstore.database import Database
from eventstore.personal.master_keys import MasterKeys, new_master_key
from scripts.testbed.patience import patience
from tests.api.test_operations import listens_at
from tests.processes import environment, script
from tests.projecting import open_some, until


async def run(env, *words, module="scripts.persons"):
    process = await script(module, *words, env=env)
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def bobs(database, store):
    """A ticket of bob's, and the environment of who has the database and the master key."""
    await open_some(store, 1, versions=1)
    await database.vault.of_names(["bob"])
    return {**os.environ, "CASEBOOK_MONGODB_URL": database.url}


async def test_a_person_is_shown_given_out_and_erased_at_the_command_line(database, store):
    env = await bobs(database, store)
    code, out, _ = await run(env, "show", "bob")
    assert (code, json.loads(out)["name"]) == (0, "bob")
    code, out, _ = await run(env, "data", "bob")
    told = [json.loads(line) for line in out.splitlines()]
    assert (code, told[0]["person"]["name"]) == (0, "bob")
    assert "end" in told[-1]
    code, out, _ = await run(env, "erase", "bob", "--reason", "asked for it")
    assert code == 0
    assert "KeyDestroyed" in out
    code, out, err = await run(env, "data", "bob")
    assert (code, out) == (1, "")
    assert err == "error: the person has been erased; nothing is held on them\n"


async def test_what_makes_no_sense_is_said_in_a_line(database, store):
    env = await bobs(database, store)
    for words, says in (
        (("show", "nobody"), "nothing is held on such a person"),
        (("show", "[erased]"), "NAME: "),
        (("erase", "bob", "--reason", " "), "--reason: "),
    ):
        code, out, err = await run(env, *words)
        assert (code, out) == (1, "")
        assert err.startswith("error: ")
        assert says in err
        assert err.count("\n") == 1
    assert (await database.vault.find("bob")).erased_at is None


async def test_the_master_key_is_changed_at_the_command_line(database, store):
    env = await bobs(database, store)
    code, out, _ = await run(env, "new-master-key")
    new = out.strip()
    assert code == 0
    old = env["CASEBOOK_MASTER_KEY"]
    code, out, _ = await run({**env, "CASEBOOK_MASTER_KEY": f"{new} {old}"}, "rewrap")
    assert (code, "2 wrapped anew; 0 are left" in out) == (0, True)
    with_new = Database(database.url, masters=MasterKeys.read(new))
    assert (await with_new.vault.find("bob")).name == "bob"
    await with_new.close()
    code, _, err = await run(env, "show", "bob")
    assert (code, "error: the keys of persons need master key" in err) == (1, True)


async def test_a_database_of_ones_own_needs_a_master_key(database, store):
    """Nothing personal is ever stored as it is for want of one."""
    env = {k: v for k, v in (await bobs(database, store)).items() if "MASTER_KEY" not in k}
    for module, words in (
        ("scripts.serve", ()),
        ("scripts.project", ()),
        ("scripts.persons", ("show", "bob")),
    ):
        code, _, err = await run({**env, "CASEBOOK_PORT": "0"}, *words, module=module)
        assert code == 1, module
        assert "CASEBOOK_MASTER_KEY_FILE" in err
        assert "Traceback" not in err
    wrong = {**env, "CASEBOOK_MASTER_KEY": "no key"}
    code, _, err = await run(wrong, "show", "bob")
    assert (code, err) == (1, "error: a master key is no base64\n")


async def test_an_embedded_database_without_its_master_key_is_not_given_another(tmp_path):
    env = environment(tmp_path)
    path = tmp_path / "data" / "master-key"
    code, _, err = await run(env, "make", "sam", "admin", module="scripts.keys")
    assert (code, err) == (0, "")
    assert path.stat().st_mode & 0o777 == 0o600
    first = path.read_text()
    code, _, _ = await run(
        env, "servicenow", "scripts/sample/servicenow.csv", module="scripts.import_log"
    )
    assert (code, path.read_text()) == (0, first)
    path.unlink()
    code, _, err = await run(env, "show", "bob")
    assert (code, "restore it" in err) == (1, True)
    assert not path.exists()
    path.write_text(new_master_key())
    code, _, err = await run(env, "show", "bob")
    assert (code, "need master key" in err) == (1, True)


async def test_what_processes_write_names_nobody_who_was_erased(tmp_path):
    """The log of a server, an export, and the files of the embedded database's collections."""
    env = {**environment(tmp_path), "CASEBOOK_CHECKPOINT_SECONDS": "0"}
    served = await script("scripts.serve", env=env)
    address = await listens_at(served)

    async def as_(principal, role):
        _, key, _ = await run(env, "make", principal, role, module="scripts.keys")
        return {"Authorization": f"Bearer {key.strip()}"}

    sue, ada = await as_("sue", "supervisor"), await as_("ada", "admin")
    canary = {"subject": "canary", "body": "canary", "requester": "canary@example.org"}
    other = {"subject": "bystander", "requester": "bob"}
    async with httpx.AsyncClient(base_url=address, timeout=patience(30)) as client:
        for order in (canary, other):
            wait = {"Prefer": "wait=20", **sue}
            made = await client.post("/tickets", json=order, headers=wait)
            assert made.status_code == 201
        await client.post("/tickets", json={**canary, "priority": "canary?"}, headers=sue)
        feed = (await client.get("/events", headers=sue)).text
        assert "canary@example.org" in feed
        name = {"name": canary["requester"]}
        person = (await client.post("/persons/find", json=name, headers=ada)).json()["id"]
        reason = {"reason": "asked for it"}
        answer = await client.post(f"/persons/{person}/erase", json=reason, headers=ada)
        assert answer.status_code == 202

        async def folded_anew():
            found = await client.get("/tickets?q=canary", headers=sue)
            return not found.json()["tickets"]

        await until(folded_anew)
        feed = (await client.get("/events", headers=sue)).text
        assert "canary" not in feed
        assert "bystander" in feed
    served.terminate()
    _, err = await served.communicate()
    assert b"/persons/" in err
    assert b"canary" not in err.lower()
    code, out, err = await run(env, str(tmp_path / "export.ndjson"), module="scripts.export")
    assert code == 0, err
    assert "canary" not in (tmp_path / "export.ndjson").read_text().lower() + out + err
    code, out, err = await run(env, "--unsigned", module="scripts.verify")
    assert code == 0, err
    files = [*(tmp_path / "data" / "database").glob("secantus_*.wt")]
    kept = {f.name: f.read_bytes() for f in files if "oplog" not in f.name}
    assert any(b"bystander" in content for content in kept.values())
    assert [name for name, content in kept.items() if b"canary" in content.lower()] == []
