"""Everything backed up, and restored into an empty place (L3, L11)."""

import asyncio
import json
import os
import re
import signal
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from api.settings import Settings
from domain.errors import PersonGone
from eventstore.event_document import utc_now
from eventstore.key_files import KeyUnusable
from eventstore.log_identity import LogIdentity
from eventstore.mongo.extended_json import from_line
from eventstore.personal.master_keys import MasterKeys, new_master_key
from eventstore.personal.sealed_file import (
    Writer,
    key_for,
    new_header,
    read,
    read_header,
)
from eventstore.ticket_numbers import BEHIND_A_RESTORE
from eventstore.transparency.checkpoints import LogCheckpoints
from eventstore.transparency.statements import last_path, signing_key
from projections import generations
from projections.erasure.progress import Erasures
from projections.generations import FIRST, FormerLayout, Generations
from projections.projector.checkpoints import Checkpoints
from scripts.after_restore import send_from_now_on
from scripts.backup import back_up
from scripts.restore import refuse_while_processes_run, restore
from scripts.restore_source import RestoreRefused, open_keys
from scripts.restore_source import read as read_source
from scripts.testbed.harness import free_port
from tests.eventstore.test_missing_keys import opened_by, persons_of
from tests.eventstore.test_sealing import another, erase
from tests.processes import environment, script
from tests.projecting import by_utc, caught_up, open_some, running, until
from tests.scripts.test_soak import scratch_url

__all__ = ["scratch_url"]
CARLA = "carla@example.org"


# --- the file of keys ----------------------------------------------------------------------


def sealed(path: Path, lines: list[bytes], masters: MasterKeys | None, passphrase: str | None):
    header = new_header(masters, passphrase)
    with path.open("wb") as file:
        writer = Writer(file, header, key_for(header, masters, passphrase))
        for line in lines:
            writer.add(line)
        writer.end()


def opened(path: Path, masters: MasterKeys | None, passphrase: str | None) -> list[bytes]:
    with path.open("rb") as file:
        header = read_header(file)
        return list(read(file, header, key_for(header, masters, passphrase)))


LINES = [b'{"n": %d}\n' % n for n in range(200_000)]


@pytest.mark.parametrize("passphrase", [None, "correct horse battery"])
def test_a_sealed_file_opens_with_what_sealed_it_alone(tmp_path, passphrase):
    masters, others = (MasterKeys.read(new_master_key()) for _ in range(2))
    path = tmp_path / "keys.sealed"
    sealed(path, LINES, masters, passphrase)
    assert b'"n"' not in path.read_bytes()
    assert opened(path, masters, passphrase) == LINES
    with pytest.raises(KeyUnusable):
        opened(path, others, passphrase and "another horse battery")
    with pytest.raises(KeyUnusable):
        opened(path, None, None)


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[:-1],
        lambda lines: [lines[0], *lines[2:]],
        lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [lines[0].replace(b'"format":1', b'"format":1,"x":1'), *lines[1:]],
        lambda lines: [*lines[:-1], b"rubbish\n"],
        lambda lines: [b"[]\n", *lines[1:]],
        lambda lines: [b"{}\n", *lines[1:]],
        lambda lines: [b"", b""],
    ],
    ids=["cut off", "left out", "swapped", "twice", "header", "rubbish", "list", "empty", "none"],
)
def test_a_sealed_file_that_was_changed_does_not_open(tmp_path, change):
    """L11: of its chunks none is left out, moved or cut off unseen."""
    masters = MasterKeys.read(new_master_key())
    path = tmp_path / "keys.sealed"
    sealed(path, LINES, masters, None)
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) > 3
    path.write_bytes(b"".join(change(lines)))
    with pytest.raises(KeyUnusable):
        opened(path, masters, None)


# --- the drill -----------------------------------------------------------------------------


class Installation:
    """A data folder, and the commands of who runs it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.data = folder / "data"
        self.env = environment(folder)
        self.env.pop("CASEBOOK_MASTER_KEY", None)
        self.env.pop("CASEBOOK_MONGODB_URL", None)

    async def does(self, *words: str, code: int = 0) -> str:
        process = await script(*words, env=self.env)
        out, err = await process.communicate()
        assert process.returncode == code, (out + err).decode()
        assert b"Traceback" not in err
        return (out + err).decode()

    async def serving(self):
        port = free_port()
        process = await script("scripts.serve", env={**self.env, "CASEBOOK_PORT": str(port)})
        client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30)

        async def ready():
            try:
                return (await client.get("/readyz")).status_code == 200
            except httpx.HTTPError:
                return False

        await until(ready, 90)
        return process, client


async def stopped(process, client) -> None:
    await client.aclose()
    process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(process.communicate(), 90)


async def test_everything_comes_back_into_an_empty_place(tmp_path):
    """L3, L11: tickets, their words, keys, the desk, views, webhooks, erasures, checkpoints."""
    here, there = Installation(tmp_path / "here"), Installation(tmp_path / "there")
    folder, passphrase = tmp_path / "backup", tmp_path / "passphrase"
    passphrase.write_text("correct horse battery staple\n")
    by_passphrase = ("--passphrase-file", str(passphrase))
    process, client = await here.serving()
    try:
        key = (here.data / "admin-key").read_text().strip()
        admin = {"Authorization": f"Bearer {key}"}
        order = {"principal": "sue", "role": "supervisor"}
        made = await client.post("/keys", json=order, headers=admin)
        assert made.status_code == 201, made.text
        sue = {"Authorization": f"Bearer {made.json()['key']}"}
        opening = {"subject": "a canary", "body": "sings", "requester": "bob"}
        wait = {**sue, "Prefer": "wait=20"}
        answer = await client.post("/tickets", json=opening, headers=wait)
        assert answer.status_code == 201, answer.text
        path = answer.headers["location"]
        erased = {**opening, "requester": CARLA}
        await client.post("/tickets", json=erased, headers=wait)
        found = await client.post("/persons/find", json={"name": CARLA}, headers=admin)
        person = found.json()["id"]
        reason = {"reason": "asked for it"}
        await client.post(f"/persons/{person}/erase", json=reason, headers=admin)
        desk = {"groups": {"billing": ["alice"]}}
        answer = await client.put("/desk", json=desk, headers=admin)
        assert answer.status_code in (200, 201), answer.text
        await client.put("/views/bobs", json={"requester": "bob"}, headers=sue)
        hook = {"url": "http://127.0.0.1:9/hook"}
        answer = await client.post("/webhooks", json=hook, headers=sue)
        assert answer.status_code == 201, answer.text
        assert "processes are at work" in await here.does(
            "scripts.restore", "--by-database-tools", code=1
        )
    finally:
        await stopped(process, client)
    await here.does("scripts.checkpoint")
    said = await here.does("scripts.backup", str(folder), *by_passphrase)
    assert "is sealed under the passphrase" in said
    plain = b"".join(p.read_bytes() for p in folder.iterdir())
    for secret in (b"canary", b"sings", CARLA.encode(), b'"bob"', key.encode()):
        assert secret not in plain
    assert "is there already" in await here.does("scripts.backup", str(folder), code=1)

    # What is missing is said before anything is written.
    refused = await there.does("scripts.restore", str(folder), code=1)
    assert "sealed by a passphrase" in refused
    assert "1 tickets will not read" in refused
    wrong = tmp_path / "wrong"
    wrong.write_text("another horse battery\n")
    refused = await there.does(
        "scripts.restore", str(folder), "--passphrase-file", str(wrong), code=1
    )
    assert "does not open" in refused
    said = await there.does("scripts.restore", str(folder), *by_passphrase, "--why", "a drill")
    assert "2 of 2 tickets read" in said
    assert "the log was restored and goes on from checkpoint" in said
    again = await there.does("scripts.restore", str(folder), *by_passphrase)
    assert "2 of 2 tickets read" in again
    assert "goes on from" not in again  # it had been done
    said = await there.does("scripts.verify")
    assert ": a drill" in said
    assert "ok: every event is as it was written" in said
    process, client = await there.serving()
    try:
        ticket = (await client.get(path, headers=sue)).json()
        assert (ticket["subject"], ticket["requester"]) == ("a canary", "bob")

        async def listed():  # once the views have been built
            tickets = (await client.get("/tickets", headers=sue)).json()["tickets"]
            return {each["requester"] for each in tickets} == {"bob", "[erased]"}

        await until(listed)
        assert "billing" in (await client.get("/desk", headers=admin)).text
        assert "bobs" in (await client.get("/views", headers=sue)).text
        assert hook["url"] in (await client.get("/webhooks", headers=sue)).text
        answer = await client.post("/tickets", json=erased, headers=sue)
        assert (answer.status_code, answer.json()["code"]) == (409, "person_erased")
        assert ticket["number"] == "C-1"
        answer = await client.post("/tickets", json=opening, headers=sue)
        opened = (await client.get(answer.headers["location"], headers=sue)).json()
        assert int(opened["number"].removeprefix("C-")) > BEHIND_A_RESTORE
        await client.post(f"{path}/add_note", json={"body": "on"}, headers=wait)
        hooks = (await client.get("/webhooks", headers=sue)).json()["webhooks"]

        async def delivered():
            answer = await client.get(f"/webhooks/{hooks[0]['id']}/deliveries", headers=sue)
            return answer.json()["deliveries"]

        deliveries = await until(delivered)
        assert {each["type"] for each in deliveries} <= {
            "NoteAdded",
            "TicketOpened",
        }  # nothing of before
    finally:
        await stopped(process, client)
    assert "checkpoint 2:" in await there.does("scripts.checkpoint")
    refused = await there.does("scripts.restore", str(folder), *by_passphrase, code=1)
    assert "holds other events" in refused


async def test_a_backup_without_its_keys_is_restored_only_if_that_is_meant(tmp_path):
    here, there = Installation(tmp_path / "here"), Installation(tmp_path / "there")
    sample = Path(__file__).parents[2] / "scripts" / "sample" / "servicenow.csv"
    await here.does("scripts.import_log", "servicenow", str(sample))
    folder = tmp_path / "backup"
    assert "is sealed under the master key" in await here.does("scripts.backup", str(folder))
    refused = await there.does("scripts.restore", str(folder), code=1)
    assert "sealed under master key" in refused
    assert "not at hand" in refused
    (folder / "keys.sealed").rename(tmp_path / "apart")
    refused = await there.does("scripts.restore", str(folder), code=1)
    assert "there is no keys.sealed" in refused
    assert "70 tickets will not read" in refused
    said = await there.does("scripts.restore", str(folder), "--incomplete")
    assert "missing: the keyring" in said
    assert "0 of 70 tickets read" in said
    assert "the keys of the persons in this log are gone" in await there.does(
        "scripts.serve", code=1
    )
    # Found again, they are brought in by the same command.
    (tmp_path / "apart").rename(folder / "keys.sealed")
    there.env["CASEBOOK_MASTER_KEY_FILE"] = str(here.data / "master-key")
    assert "70 of 70 tickets read" in await there.does("scripts.restore", str(folder))


async def test_a_backup_that_was_changed_restores_nothing(tmp_path):
    """L11: whichever file it is."""
    here, there = Installation(tmp_path / "here"), Installation(tmp_path / "there")
    sample = Path(__file__).parents[2] / "scripts" / "sample" / "servicenow.csv"
    await here.does("scripts.import_log", "servicenow", str(sample))
    folder = tmp_path / "backup"
    await here.does("scripts.backup", str(folder))
    there.env["CASEBOOK_MASTER_KEY_FILE"] = str(here.data / "master-key")
    for name in ("log.ndjson", "keys.sealed", "desks.ndjson"):
        path = folder / name
        content = path.read_bytes()
        path.write_bytes(content + b"{}\n")
        refused = await there.does("scripts.restore", str(folder), code=1)
        assert re.search(rf"{re.escape(name)} was tampered with", refused)
        path.write_bytes(content)
    (folder / "desks.ndjson").unlink()
    assert "cannot read" in await there.does("scripts.restore", str(folder), code=1)
    (folder / "backup.json").write_text(json.dumps({"format": 1}))
    assert "cannot read" in await there.does("scripts.restore", str(folder), code=1)
    assert not (there.data / "database").exists()


async def test_a_restore_that_was_killed_is_finished_and_nothing_starts_before(
    tmp_path, scratch_url, database, store
):
    """L2: killed at whatever moment; then the same command again."""
    here = Installation(tmp_path / "here")
    sample = Path(__file__).parents[2] / "scripts" / "sample" / "servicenow.csv"
    await here.does("scripts.import_log", "servicenow", str(sample))
    folder = tmp_path / "backup"
    await here.does("scripts.backup", str(folder))
    env = {
        **here.env,
        "CASEBOOK_MONGODB_URL": scratch_url,
        "CASEBOOK_MASTER_KEY_FILE": str(here.data / "master-key"),
        "CASEBOOK_SIGNING_KEY": str(tmp_path / "no-such-key.pem"),
    }
    restoring = await script("scripts.restore", str(folder), env=env)
    identity = LogIdentity(database.client[database.name])

    async def begun():
        assert restoring.returncode is None, await restoring.communicate()
        found = await identity.read()
        return found is not None and found.restoring is not None

    await until(begun)
    os.kill(restoring.pid, signal.SIGKILL)
    await restoring.communicate()
    serve = await script("scripts.serve", env={**env, "CASEBOOK_PORT": "0"})
    _, err = await serve.communicate()
    assert serve.returncode == 1
    assert b"a restore into this database is not done" in err
    restoring = await script("scripts.restore", str(folder), env=env)
    out, err = await restoring.communicate()
    assert restoring.returncode == 0, (out + err).decode()
    assert b"70 of 70 tickets read" in out
    found = await identity.read()
    assert found is not None
    assert found.restoring is None


async def test_the_signing_key_comes_back_with_what_it_has_signed_last(database, store, tmp_path):
    """L11: a checkpoint that was taken while the backup ran is in that alone, and is given up."""
    here, there = Settings(data_dir=tmp_path / "here"), Settings(data_dir=tmp_path / "there")
    folder = tmp_path / "backup"
    folder.mkdir()
    await Erasures(database).prepare()
    await open_some(store, 2)
    last = last_path(here.signing_key_path)
    await LogCheckpoints(database, store, signing_key(here.signing_key_path), last).take()
    last.write_text(json.dumps({"number": 5, "digest": "00"}))
    await back_up(database, here, folder, None)
    await emptied(database)
    source = read_source(folder)
    open_keys(source, database, None)
    assert await restore(database, source, settings=there) == 0
    found = await database.collection("log_checkpoints").find().sort("_id", -1).to_list()
    assert [each["_id"] for each in found] == [6, 0]
    assert found[0]["restored"]["last"]["number"] == 5


async def emptied(database) -> None:
    for name in (database.name, f"{database.name}_keys"):
        for collection in await database.client[name].list_collection_names(
            filter={"type": "collection"}
        ):
            await database.client[name][collection].delete_many({})


@pytest.mark.parametrize("where", ["in the database", "beside the key"])
async def test_a_restore_that_is_not_signed_though_it_was_before_fails(
    database, scratch_url, tmp_path, where
):
    """L11: whoever looks at the exit code alone is told."""
    key = tmp_path / "keys" / "signing-key.pem"
    key.parent.mkdir()
    env = environment(tmp_path)
    env |= {"CASEBOOK_MONGODB_URL": scratch_url, "CASEBOOK_SIGNING_KEY": str(key)}
    env["CASEBOOK_MASTER_KEY"] = new_master_key()

    async def restored() -> tuple[int | None, str]:
        process = await script("scripts.restore", "--by-database-tools", env=env)
        out, err = await process.communicate()
        return process.returncode, (out + err).decode()

    code, said = await restored()
    assert (code, "not signed" in said) == (0, False), said
    if where == "in the database":
        await database.collection("log_checkpoints").insert_one({"_id": 0})
    else:
        last_path(key).write_text(json.dumps({"number": 0, "digest": "00"}))
    code, said = await restored()
    assert code == 1, said
    assert "casebook checkpoint --restored" in said


async def test_who_was_erased_since_stays_erased(database, store, tmp_path):
    """By the list of erasures of a later backup."""
    settings = Settings(data_dir=tmp_path)
    early, late = tmp_path / "early", tmp_path / "late"
    for folder in (early, late):
        folder.mkdir()
    await Erasures(database).prepare()
    await opened_by(store, "bob")
    await back_up(database, settings, early, None)
    await erase(database, "bob")
    await back_up(database, settings, late, None)
    await emptied(database)
    source = read_source(early, late / "person_events.ndjson")
    open_keys(source, database, None)
    assert source.missing == []
    assert await restore(database, source) == 0
    assert await persons_of(database).count_documents({"key": {"$ne": None}}) == 1
    with pytest.raises(PersonGone):
        await another(database).of_names(["bob"])
    with pytest.raises(RestoreRefused, match="lacks erasures"):
        read_source(late, early / "person_events.ndjson")


async def test_a_restore_refuses_while_a_projector_of_a_former_version_runs(database, store):
    """L2: that shows life among the projectors alone."""
    await refuse_while_processes_run(database)
    former = FormerLayout(FIRST.numbers).of(database)
    await generations.prepare(former)

    async def shows_life():
        return (await Checkpoints(former).read()).members

    async with running(by_utc(former, store)):
        await until(shows_life)
        with pytest.raises(RestoreRefused, match="projector "):
            await refuse_while_processes_run(database)


async def test_views_of_a_replaced_log_are_built_anew(database, store):
    """L7: of what the database's own tools have put back."""
    await open_some(store, 3)
    async with running(database):
        await caught_up(database, store)
    await database.collection("ticket_events").delete_many({"version": 3})
    await database.identity.replace("restored by the database's own tools")
    async with running(database):

        async def anew():
            shown = (await Generations(database).shown()).collection("ticket_reads")
            found = await shown.find().to_list()
            return [each["version"] for each in found] == [2, 2, 2]

        await until(anew)


def test_documents_keep_their_types_in_a_line():
    assert from_line(b'{"a": {"$numberLong": "1"}}\n') == {"a": 1}
    with pytest.raises(ValueError, match="Expecting"):
        from_line(b"{\n")


async def test_a_restored_webhook_is_told_of_what_comes_from_now_on(database, store):
    """Nor is it told of the past that somebody wished for before the backup."""
    hooks = database.collection("webhooks")
    wish = {"since": utc_now(), "again": True}
    await hooks.insert_one({"_id": uuid4(), "since": None, "backfill": wish})
    await send_from_now_on(database, store)
    [hook] = await hooks.find().to_list()
    assert hook["backfill"] is None
    await open_some(store, 1, versions=2)
    async with store.watch(hook["since"]) as stream:
        change = await until(stream.next)
    assert change.document["version"] == 1
