"""What signed checkpoints vouch for, and that nothing else is taken for it (L11)."""

import asyncio
import json
import logging
import os
import shutil
import stat
from datetime import timedelta
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from eventstore.key_files import KeyUnusable, place
from eventstore.log import COLLECTION, EventStore, Heads
from eventstore.transparency.checkpoints import CheckpointMemory, CheckpointsGone, LogCheckpoints
from eventstore.transparency.heads import PackedHeads
from eventstore.transparency.statements import last_path, signing_key
from scripts import verify
from scripts.commands import parse
from scripts.hash_chains import Verification
from scripts.signed_checkpoints import Known, compare_kept, expect_database_checkpoints
from scripts.verify import verify_database
from tests.api.test_api import serving
from tests.callers import ADMIN
from tests.eventstore.test_sealing import erase
from tests.processes import environment, script
from tests.projecting import add, caught_up, open_some, running, until
from tests.scripts.test_soak import scratch_url

__all__ = ["scratch_url"]


@pytest.fixture
async def signing(database, store, tmp_path):
    """A log of three tickets with two checkpoints, signed by a key in a file."""
    path = tmp_path / "signing-key.pem"
    key = signing_key(path)
    checkpoints = LogCheckpoints(database, store, key, last_path(path))
    ids = await open_some(store, 3)
    await checkpoints.take()
    await add(store, ids[0], "NoteAdded", body="more")
    await checkpoints.take()
    return checkpoints, key, path


async def verified(database, key):
    verification = Verification()
    signed = await expect_database_checkpoints(database, key.public_key(), verification)
    await verify_database(database, verification)
    return verification, signed


async def emptied(database) -> None:
    for name in ("log_checkpoints", "log_checkpoint_heads"):
        await database.collection(name).delete_many({})


async def test_checkpoints_do_not_begin_anew_after_they_were_removed(database, store, signing):
    """L11: nor by a process that was started since, nor by one that has no file."""
    checkpoints, key, path = signing
    assert json.loads(last_path(path).read_bytes())["number"] == 1
    await emptied(database)
    for each in (checkpoints, LogCheckpoints(database, store, key, last_path(path))):
        with pytest.raises(CheckpointsGone, match="checkpoint 1 of this log was signed"):
            await each.take()
    assert await database.collection("log_checkpoints").count_documents({}) == 0


async def test_a_process_without_the_file_remembers_what_it_has_seen(database, store, signing):
    """L11."""
    _, key, _ = signing
    checkpoints = LogCheckpoints(database, store, key)
    await checkpoints.take()
    await emptied(database)
    with pytest.raises(CheckpointsGone):
        await checkpoints.take()


async def test_checkpoints_that_go_back_are_shouted_by_every_server(database, signing, caplog):
    """L11: whether it signs or not."""
    witness = CheckpointMemory(database)
    assert await witness.look() is not None
    await database.collection("log_checkpoints").delete_one({"_id": 1})
    with pytest.raises(CheckpointsGone):
        await witness.look()
    assert witness.missing is not None
    watching = asyncio.create_task(witness.watch())

    async def told():
        return "checkpoint 1 of this log was signed, and is gone" in caplog.text

    await until(told)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_projections_name_the_missing_checkpoint(database, signing, monkeypatch):
    """L11."""
    monkeypatch.setattr("eventstore.transparency.checkpoints._LOOK_SECONDS", 0.1)
    look, looked = CheckpointMemory.look, asyncio.Event()

    async def looking(self):
        found = await look(self)
        looked.set()
        return found

    monkeypatch.setattr(CheckpointMemory, "look", looking)
    async with serving(database) as client:

        async def shown():
            return (await client.get("/projections", headers=ADMIN)).json()

        assert (await shown())["missing_checkpoint"] is None
        await looked.wait()
        await database.collection("log_checkpoints").delete_one({"_id": 1})

        async def named():
            return (await shown())["missing_checkpoint"] == 1

        await until(named)


async def test_a_checkpoint_that_another_key_has_signed_is_not_remembered(database, store, signing):
    """L11: or a number too high would keep the log from being signed for ever."""
    checkpoints, _, path = signing
    [last] = await database.collection("log_checkpoints").find({"_id": 1}).to_list()
    await database.collection("log_checkpoints").insert_one({**last, "_id": 99})
    with pytest.raises(KeyUnusable, match="not as it was signed"):
        await checkpoints.take()
    assert json.loads(last_path(path).read_bytes())["number"] == 1


async def test_the_key_is_not_made_anew_where_it_has_signed(tmp_path, signing):
    """L11."""
    _, _, path = signing
    path.unlink()
    with pytest.raises(KeyUnusable, match="restore it"):
        signing_key(path)


async def test_what_is_kept_beside_the_key_is_compared(database, signing):
    """L11: with the database in hand and no key, the checkpoints are emptied."""
    _, key, path = signing
    kept = json.loads(last_path(path).read_bytes())
    await emptied(database)
    verification, signed = await verified(database, key)
    assert compare_kept(Known(**kept), signed, verification) is None
    [fault] = verification.finish()
    assert (fault.ticket, fault.kind) == ("(checkpoint 1)", "deleted")


async def test_two_that_take_a_checkpoint_at_once_log_no_failure(database, store, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = tmp_path / "signing-key.pem"
    key = signing_key(path)
    for n in range(5):
        await open_some(store, 2)
        several = [LogCheckpoints(database, store, key, last_path(path)) for _ in range(4)]
        keeping = [asyncio.create_task(each.keep(0.01)) for each in several]

        async def taken(number: int = n) -> bool:
            found = await database.collection("log_checkpoints").find().to_list()
            return [each["_id"] for each in found] == list(range(number + 1))

        await until(taken)
        for task in keeping:
            task.cancel()
        await asyncio.gather(*keeping, return_exceptions=True)
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
    verification, _ = await verified(database, key)
    assert verification.finish() == []


async def read_by(checkpoints, monkeypatch) -> set[UUID]:
    """Return the tickets whose events are read for a checkpoint."""
    read, hashes = set[UUID](), EventStore.hashes

    async def reading(store, *since):
        async for ticket_id, *head in hashes(store, *since):
            read.add(ticket_id)
            yield ticket_id, *head

    monkeypatch.setattr(EventStore, "hashes", reading)
    assert await checkpoints.take() is not None
    return read


async def test_a_checkpoint_reads_what_was_recorded_since_the_last_one(
    database, store, signing, monkeypatch
):
    """L11: it stands for all of the log, and for what another process has signed meanwhile. What
    was recorded long ago and came late is found by reading everything, once in a while.
    """
    checkpoints, key, path = signing
    now = store.clock.now() + timedelta(hours=1)
    monkeypatch.setattr(type(store.clock), "now", lambda _: now)
    monkeypatch.setattr("tests.projecting.utc_now", lambda: now)
    others = await open_some(store, 2)
    assert await LogCheckpoints(database, store, key, last_path(path)).take() is not None
    for _ in range(2):
        assert await checkpoints.take() is None
        now += timedelta(hours=1)
    [new] = await open_some(store, 1)
    await add(store, others[0], "NoteAdded", body="more")
    assert await read_by(checkpoints, monkeypatch) == {others[0], new}
    assert (await checkpoints.latest()).statement.tickets == 6
    now -= timedelta(days=30)
    [late] = await open_some(store, 1)
    now += timedelta(days=30)
    assert await checkpoints.take() is None
    now += timedelta(days=1)
    assert late in await read_by(checkpoints, monkeypatch)
    now -= timedelta(seconds=30)
    [sooner] = await open_some(store, 1)
    now += timedelta(seconds=30)
    assert sooner in await read_by(checkpoints, monkeypatch)
    now -= timedelta(days=300)  # the clock was ahead until now
    [right] = await open_some(store, 1)
    assert right in await read_by(checkpoints, monkeypatch)
    verification, signed = await verified(database, key)
    assert (verification.finish(), signed.latest.tickets) == ([], 9)


HEADS = st.dictionaries(
    st.uuids(), st.tuples(st.integers(1, 9), st.binary(min_size=32, max_size=32))
)


@given(st.lists(HEADS))
def test_packed_heads_are_a_dictionary_of_heads(changes):
    packed, plain = PackedHeads(), Heads()
    for change in changes:
        packed, plain = packed.updated(change), plain | change
        assert dict(packed.items()) == plain
        assert (len(packed), packed.events) == (len(plain), sum(v for v, _ in plain.values()))
        newer = {ticket: (version + 1, hash_) for ticket, (version, hash_) in change.items()}
        assert packed.newer(plain | newer) == newer
    assert [*packed.items()] == sorted(plain.items())
    assert b"".join(packed.parts(3)) == b"".join(packed.leaves())


# --- restores ----------------------------------------------------------------------------------


async def test_signing_goes_on_behind_a_signed_restore(database, store, signing):
    """L11: the log went back to before its last event and its last checkpoint."""
    checkpoints, key, _ = signing
    first = await database.collection("log_checkpoints").find_one({"_id": 0})
    await database.collection("log_checkpoints").delete_one({"_id": 1})
    await database.collection(COLLECTION).delete_one({"version": 4})
    identity = database.identity
    log = await identity.replace("the disk was lost")
    taken = await checkpoints.take_restored("the disk was lost", log)
    assert taken.statement.number == 2
    assert taken.statement.restored.since.number == first["_id"] == 0
    assert taken.statement.restored.last.number == 1
    await open_some(store, 1)
    assert (await checkpoints.take()).statement.number == 3
    verification, signed = await verified(database, key)
    assert verification.finish() == []
    assert verification.uncovered == 0
    assert sorted(signed.digests) == [0, 2, 3]
    assert signed.restores[2].why == "the disk was lost"
    # Whoever kept the one that was given up is told so.
    said = compare_kept(Known(number=1, digest="00"), signed, verification)
    assert said is not None
    assert "given up by the restore of 2" in said


async def test_a_restore_gives_up_checkpoints_that_the_log_contradicts(database, signing):
    """L11: only events were put back, and the checkpoints stayed."""
    checkpoints, key, _ = signing
    await database.collection(COLLECTION).delete_one({"version": 4})
    _, before = await verified(database, key)
    assert sorted(before.digests) == [0, 1]
    taken = await checkpoints.take_restored("why", await database.identity.replace("why"))
    said = taken.statement
    assert (said.number, said.events, said.restored.since.number) == (2, 9, 0)
    verification, _ = await verified(database, key)
    assert verification.finish() == []


async def test_a_second_restore_goes_on_from_the_first(database, store, signing):
    """L11."""
    checkpoints, key, _ = signing
    await database.collection(COLLECTION).delete_one({"version": 4})
    await checkpoints.take_restored("one", await database.identity.replace("one"))
    await database.collection(COLLECTION).delete_many({"version": 3})
    taken = await checkpoints.take_restored("two", await database.identity.replace("two"))
    assert taken.statement.restored.since is None
    await open_some(store, 1)
    await checkpoints.take()
    verification, signed = await verified(database, key)
    assert verification.finish() == []
    assert sorted(signed.restores) == [2, 3]


@pytest.mark.parametrize(
    "change",
    [
        {"$set": {"restored.why": "another"}},
        {"$set": {"restored.from": None}},
        {"$unset": {"restored": 1}},
        {"$set": {"restored": "x"}},
    ],
    ids=str,
)
async def test_a_forged_restore_is_found(database, signing, change):
    """L11."""
    checkpoints, key, _ = signing
    await checkpoints.take_restored("why", await database.identity.replace("why"))
    await database.collection("log_checkpoints").update_one({"_id": 2}, change)
    verification, _ = await verified(database, key)
    [fault] = verification.finish()
    assert (fault.ticket, fault.kind) == ("(checkpoint 2)", "edited")


@pytest.fixture
async def restored(database, store, signing, tmp_path):
    """A log that went back behind checkpoint 0, with a signed restore; and the signing of another
    host, which has a key and a last checkpoint (1) of its own.
    """
    checkpoints, key, path = signing
    own = tmp_path / "another-host.last"
    shutil.copy(last_path(path), own)
    await database.collection("log_checkpoints").delete_one({"_id": 1})
    await database.collection(COLLECTION).delete_one({"version": 4})
    await checkpoints.take_restored("why", await database.identity.replace("why"))
    return LogCheckpoints(database, store, key, own), own


async def test_another_host_goes_on_behind_a_signed_restore(database, store, signing, restored):
    """L11: the restore gave up what that host remembers."""
    there, own = restored
    await open_some(store, 1)
    assert (await there.take()).statement.number == 3
    assert json.loads(own.read_bytes())["number"] == 3
    verification, _ = await verified(database, signing[1])
    assert verification.finish() == []


async def test_a_checkpoint_that_is_another_one_is_given_up_too(database, store, restored):
    """L11: of the number that the host remembers."""
    there, _ = restored
    first = await database.collection("log_checkpoints").find_one({"_id": 0})
    await database.collection("log_checkpoints").insert_one({**first, "_id": 1})
    await open_some(store, 1)
    assert (await there.take()).statement.number == 3


@pytest.mark.parametrize(
    "change", [{"$set": {"restored.why": "another"}}, {"$set": {"restored.from": None}}], ids=str
)
async def test_a_forged_restore_gives_nothing_up(database, restored, change):
    """L11: nor is it remembered."""
    there, own = restored
    await database.collection("log_checkpoints").update_one({"_id": 2}, change)
    with pytest.raises(CheckpointsGone, match="checkpoint 1 of this log"):
        await there.take()
    assert json.loads(own.read_bytes())["number"] == 1


async def test_a_restore_gives_up_only_what_is_behind_where_it_goes_on(database, restored):
    """L11."""
    there, own = restored
    first = await database.collection("log_checkpoints").find_one({"_id": 2})
    own.write_text(json.dumps(first["restored"]["from"]))
    await database.collection("log_checkpoints").delete_one({"_id": 0})
    with pytest.raises(CheckpointsGone, match="checkpoint 0 of this log"):
        await there.take()


async def test_a_restore_is_not_signed_by_another_key(database, store, signing):
    """L11."""
    other = LogCheckpoints(database, store, Ed25519PrivateKey.generate())
    with pytest.raises(KeyUnusable, match="are signed by key"):
        await other.take_restored("why", await database.identity.replace("why"))


# --- the command ---------------------------------------------------------------------------------


async def test_verify_says_what_vouches_for_the_log(scratch_url, tmp_path, database, store):
    """L11: exit 0 only where a signature stands for the log, or none is asked for."""
    key = tmp_path / "signing-key.pem"
    env = environment(tmp_path) | {
        "CASEBOOK_MONGODB_URL": scratch_url,
        "CASEBOOK_SIGNING_KEY": str(key),
    }

    async def does(*words: str, code: int = 0) -> str:
        process = await script(*words, env=env)
        out, err = await process.communicate()
        assert process.returncode == code, (out + err).decode()
        assert b"Traceback" not in err
        return (out + err).decode()

    ids = await open_some(store, 3)
    assert "nothing vouches for this log" in await does("scripts.verify", code=3)
    assert "may be forged" in await does("scripts.verify", "--unsigned")
    assert "checkpoint 0" in await does("scripts.checkpoint")
    assert "checkpoints stand for 9 of 9 events" in await does("scripts.verify")
    await add(store, ids[0], "NoteAdded", body="more")
    said = await does("scripts.verify")
    assert "checkpoints stand for 9 of 10 events" in said
    assert "only their own chain vouches for 1" in said
    assert "the last is checkpoint 0 of" in said
    assert "the rest may be forged" in said
    assert "no checkpoint stands for" in await does("scripts.verify", "--within", "0", code=3)
    # Erasures are events too.
    await store.vault.of_names(["bob"])
    await erase(database, "bob")
    assert "steps of erasures 1" in await does("scripts.verify")
    await database.collection("person_events").update_one({}, {"$set": {"type": "Other"}})
    assert "TAMPERED ticket (person " in await does("scripts.verify", code=1)
    await database.collection("person_events").delete_many({})
    # With the database and no key: everything is rewritten, and the checkpoints are begun anew.
    await emptied(database)
    assert "(checkpoint 0)" in await does("scripts.verify", code=1)
    assert "checkpoint 0 of this log was signed" in await does("scripts.checkpoint", code=1)
    said = await does("scripts.checkpoint", "--restored", "it was us")
    assert "checkpoint 1:" in said
    assert "goes on from no checkpoint" in said
    assert "restored, going on from no checkpoint: it was us" in await does("scripts.verify")


async def test_a_checkpoint_that_is_taken_meanwhile_is_not_said_to_be_missing(
    scratch_url, tmp_path, monkeypatch, capsys, store, signing
):
    """L11: a live system goes on being signed while it is verified."""
    checkpoints, _, path = signing

    async def expecting(*arguments):
        signed = await expect_database_checkpoints(*arguments)
        await open_some(store, 1)
        assert (await checkpoints.take()).statement.number == 2
        return signed

    monkeypatch.setattr("scripts.verify.expect_database_checkpoints", expecting)
    monkeypatch.setenv("CASEBOOK_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("CASEBOOK_MONGODB_URL", scratch_url)
    monkeypatch.setenv("CASEBOOK_SIGNING_KEY", str(path))
    code = await verify.main(parse("verify", []))
    said = capsys.readouterr()
    assert code == 0, said
    assert json.loads(last_path(path).read_bytes())["number"] == 2


async def test_events_that_vanished_since_are_remembered_by_the_views(
    scratch_url, tmp_path, database, store
):
    """L11: cut off behind the last checkpoint, where no chain and no signature can tell."""
    [ticket, _] = await open_some(store, 2)
    async with running(database):
        await caught_up(database, store)
    await database.collection(COLLECTION).delete_one({"ticket_id": ticket, "version": 3})
    env = environment(tmp_path) | {"CASEBOOK_MONGODB_URL": scratch_url}
    process = await script("scripts.verify", "--unsigned", "--views", env=env)
    out, err = await process.communicate()
    assert process.returncode == 1, (out + err).decode()
    assert f"ticket {ticket} version 3: deleted: the views show version 3".encode() in out


# --- files of keys -------------------------------------------------------------------------------


def test_two_of_the_same_process_id_place_a_file_at_once(tmp_path, monkeypatch):
    """As in containers that share a volume: one wins, and its file is whole."""
    path, sync = tmp_path / "key.pem", os.fsync
    meanwhile = [b"theirs"]

    def syncing(descriptor):
        if meanwhile:
            assert place(path, meanwhile.pop())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", syncing)
    assert not place(path, b"ours")
    assert path.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_a_placed_file_has_its_mode_and_follows_no_link(tmp_path):
    for mode in (0o600, 0o644):
        path = tmp_path / f"{mode:o}"
        assert place(path, b"key", mode)
        assert stat.S_IMODE(path.stat().st_mode) == mode
    link, elsewhere = tmp_path / "link", tmp_path / "elsewhere"
    link.symlink_to(elsewhere)
    assert not place(link, b"key")
    assert not elsewhere.exists()
