"""Export, restore and the verifier's command (L3, L11)."""

import json
import re
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.codec import EventData
from domain.errors import HistoryError
from domain.tickets.opening import TicketOpened
from eventstore.archive import (
    ManifestBuilder,
    UnreadableArchive,
    from_line,
    lines,
    manifest_path,
    to_line,
)
from eventstore.event_document import EMPTY, CommandRef, Metadata, chained, to_document
from eventstore.log import COLLECTION, EventStore
from scripts.hash_chains import CannotVerify, Verification
from scripts.restore import restore
from scripts.restore_source import RestoreRefused, read
from scripts.verify import verify_file
from tests.oracle import assert_views_equal_the_log
from tests.processes import environment, script
from tests.projecting import by_utc, caught_up, open_some, running
from tests.scripts.test_import import SAMPLE
from tests.spec import ALICE, NOW

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_a_line_is_an_event_and_back(data):
    """L3: nothing of an event is lost in a file."""
    about = Metadata(ALICE, CommandRef("k", "f"), "c", None)
    for event in chained(uuid4(), EMPTY, [EventData("T", 1, data)] * 2, about, NOW, NOW):
        document = to_document(event)
        line = to_line(document)
        assert line.endswith(b"\n")
        assert from_line(line) == document


@pytest.mark.parametrize("line", [b"", b"{}\n", b"[]\n", b"rubbish\n", b'{"id": 1}\n'])
def test_a_line_that_no_export_wrote_is_refused(line):
    with pytest.raises(UnreadableArchive):
        from_line(line)


async def exported(database, path: Path) -> bytes:
    summing = ManifestBuilder()
    with path.open("wb") as file:
        async for line in lines(EventStore(database), summing):
            file.write(line)
    summing.manifest().write(manifest_path(path))
    return path.read_bytes()


@pytest.fixture
async def archive(database, store, tmp_path):
    """A file of 30 tickets' events, exported; the log it came from is emptied."""
    await open_some(store, 30)
    path = tmp_path / "log.ndjson"
    await exported(database, path)
    await database.collection(COLLECTION).delete_many({})
    return path


async def test_a_restored_log_exports_to_the_same_bytes(database, store, archive, tmp_path):
    """L3, L11: all of it is there, and verifies."""
    await restore(database, read(archive), incomplete=True)
    assert await exported(database, tmp_path / "again.ndjson") == archive.read_bytes()
    async with running(by_utc(database, store)):
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_a_restore_that_was_cut_off_is_finished_by_running_it_again(
    database, archive, tmp_path, monkeypatch
):
    monkeypatch.setattr("scripts.restore._BATCH_EVENTS", 20)
    insert, calls = EventStore.restore, 0

    async def dying(self, documents):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        await insert(self, documents)

    monkeypatch.setattr(EventStore, "restore", dying)
    with pytest.raises(KeyboardInterrupt):
        await restore(database, read(archive), incomplete=True)
    assert await EventStore(database).count(exact=True) == 40
    await restore(database, read(archive), incomplete=True)
    assert await exported(database, tmp_path / "again.ndjson") == archive.read_bytes()


@pytest.mark.parametrize(
    "change",
    [{"$unset": {"actor": 1}}, {"$unset": {"hash": 1}}, {"$set": {"ticket_id": "x"}}],
    ids=str,
)
async def test_a_log_that_was_tampered_with_is_not_exported_as_if_it_were_whole(
    database, store, tmp_path, change
):
    """L11: an export never leaves out what it cannot write."""
    await open_some(store, 3)
    await database.collection(COLLECTION).update_one({"version": 1}, change)
    with pytest.raises((UnreadableArchive, HistoryError)):
        await exported(database, tmp_path / "log.ndjson")


async def test_a_log_that_is_not_empty_is_left_alone(database, store, archive):
    await open_some(store, 1)
    with pytest.raises(RestoreRefused, match="holds other events"):
        await restore(database, read(archive), incomplete=True)
    assert await store.count(exact=True) == 3


async def test_a_restore_is_not_finished_beside_events_of_others(database, store, archive):
    """Marked as begun, and then someone else wrote: nothing is mixed."""
    manifest = json.loads(manifest_path(archive).read_bytes())
    await database.collection("restores").insert_one({"_id": manifest["sha256"], "done": False})
    await open_some(store, 1)
    with pytest.raises(RestoreRefused, match="holds other events"):
        await restore(database, read(archive), incomplete=True)
    assert await store.count(exact=True) == 3


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (rb'"body":"1"', b'"body":"9"'),
        (rb"\A[^\n]*\n", b""),
        (rb"[^\n]*\n\Z", b""),
        (rb"\A([^\n]*\n)([^\n]*\n)", rb"\2\1"),
        (rb'"schema":1', b'"schema": 1'),
    ],
    ids=["edited", "first line gone", "last line gone", "lines swapped", "written otherwise"],
)
async def test_a_file_that_was_tampered_with_restores_nothing(
    database, archive, pattern, replacement
):
    """L11: found before a single event is written."""
    content = archive.read_bytes()
    changed = re.sub(pattern, replacement, content, count=1)
    assert changed != content
    archive.write_bytes(changed)
    with pytest.raises(RestoreRefused, match="tampered"):
        await restore(database, read(archive), incomplete=True)
    assert await EventStore(database).count(exact=True) == 0


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"rubbish\n",
        b"[]\n",
        b"[" * 100_000 + b"\n",
        b'{"ticket_id": "x", "version": 1}\n',
        b'{"version": 1}\n',
    ],
    ids=range(6),
)
async def test_what_is_no_export_cannot_be_verified(archive, line):
    content = archive.read_bytes()
    archive.write_bytes(line + (content if line else b""))
    if line:
        with pytest.raises(CannotVerify):
            verify_file(archive, Verification())
    else:
        verification = Verification()
        verify_file(archive, verification)
        assert [fault.ticket for fault in verification.finish()] == ["(file)"]


SCHEMA = b'"schema":%d' % TicketOpened.schema


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"hash":"', b'"hash":"zz'),
        (b'"version":1', b'"version":"1"'),
        (b'"version":1', b'"version":1.0'),
        (SCHEMA, b'"schema":NaN'),
        (SCHEMA, b'"schema":1e999'),
    ],
    ids=str,
)
async def test_a_line_of_other_types_is_found(archive, old, new):
    archive.write_bytes(archive.read_bytes().replace(old, new, 1))
    verification = Verification()
    verify_file(archive, verification)
    [fault] = verification.finish()
    assert (fault.version, fault.kind) == (1, "edited")


async def test_a_file_without_its_manifest_cannot_be_verified(database, archive):
    manifest_path(archive).unlink()
    with pytest.raises(CannotVerify):
        verify_file(archive, Verification())
    with pytest.raises(UnreadableArchive):
        await restore(database, read(archive), incomplete=True)


async def test_export_verify_checkpoint_and_restore_as_commands(tmp_path):
    """The whole of it as an operator does it: exit 0 ok, 1 tampered, 3 cannot verify."""
    env = environment(tmp_path)
    file, kept, other = tmp_path / "log.ndjson", tmp_path / "kept.checkpoint", tmp_path / "other"

    async def does(*words: str, code: int = 0, changed: dict[str, str] | None = None) -> str:
        process = await script(*words, env={**env, **(changed or {})})
        out, err = await process.communicate()
        assert process.returncode == code, (out + err).decode()
        assert b"Traceback" not in err
        return (out + err).decode()

    await does("scripts.import_log", "servicenow", str(SAMPLE))
    said = await does("scripts.checkpoint", "--export", str(kept))
    assert "checkpoint 0: 70 tickets, 752 events" in said
    assert "nothing new" in await does("scripts.checkpoint")
    key = tmp_path / "data" / "signing-key.pem"
    assert key.stat().st_mode & 0o777 == 0o600
    assert "70 tickets, 752 events" in await does("scripts.export", str(file))
    assert "tickets 70, events 752, checkpoints 1" in await does("scripts.verify")
    public = str(key.with_suffix(".pub"))
    checked = ("scripts.verify", "--file", str(file), "--checkpoint", str(kept), "--key", public)
    assert "ok: every event is as it was written" in await does(*checked)
    assert "nothing vouches" in await does("scripts.verify", "--file", str(file), code=3)

    restored = {"CASEBOOK_DATA_DIR": str(other)}
    refused = await does("scripts.restore", str(file), changed=restored, code=1)
    assert "70 tickets will not read" in refused
    incomplete = ("scripts.restore", str(file), "--incomplete")
    assert "752 events restored" in await does(*incomplete, changed=restored)
    once_more = await does(*incomplete, changed=restored)
    assert "752 events restored" in once_more  # and nothing has changed
    again = tmp_path / "again.ndjson"
    await does("scripts.export", str(again), changed=restored)
    assert again.read_bytes() == file.read_bytes()
    assert manifest_path(again).read_bytes() == manifest_path(file).read_bytes()

    lines = file.read_bytes().splitlines(keepends=True)
    cut = json.loads(lines[-1])
    file.write_bytes(b"".join(lines[:-1]))
    found = await does(*checked, code=1)
    where = f"TAMPERED ticket {cut['ticket_id']} version {cut['version']}: deleted"
    assert where in found
    assert "cannot verify" in await does("scripts.verify", "--file", "nowhere", code=3)
    assert "cannot verify" in await does("scripts.verify", "--key", str(file), code=3)
    elsewhere = {"CASEBOOK_DATA_DIR": str(tmp_path / "nothing")}
    assert "no database" in await does("scripts.verify", code=3, changed=elsewhere)
    assert not (tmp_path / "nothing").exists()
    assert "cannot verify" in await does("scripts.verify", code=3, changed={"CASEBOOK_PORT": "x"})
    nobody = {"CASEBOOK_MONGODB_URL": "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=100"}
    assert "cannot verify" in await does("scripts.verify", code=3, changed=nobody)
