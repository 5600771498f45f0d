"""Documents as every former version wrote them, and as newer ones may: read as they should be."""

import hashlib
import re
from typing import Any
from uuid import UUID

import pytest

from api.operations.stored_documents import KINDS, look_through
from eventstore.database import Database
from eventstore.documents import Unreadable, UnreadableDocument
from eventstore.personal.master_keys import MasterKeys
from eventstore.personal.sealing import opened
from eventstore.personal.vault import KEYRING, PERSONS
from projections.generations import Generations
from scripts.testbed.golden_documents import (
    GOLDEN,
    MASTER_KEY,
    changed,
    collection_of,
    golden,
    load,
)
from tests.processes import environment, script

WRITTEN = 74
DIGEST = "ae2e404543377b96f5cd4f74ea8bd82b51f7d86e70b60422a7434c23964bd635"
"""Of the lines that are written. Lines are added behind them, and both then; none is changed."""
BY_NAME = {kind.collection: kind for kind in KINDS}
UNTOLD = {"log_checkpoint_heads", "restores", PERSONS, KEYRING}
"""Collections whose documents have no reader of their own, or need a master key."""


def kind_of(each):
    return BY_NAME.get(re.sub(r"_\d+$", "", each.collection))


def test_golden_lines_are_never_changed():
    lines = GOLDEN.read_bytes().splitlines(keepends=True)
    assert hashlib.sha256(b"".join(lines[:WRITTEN])).hexdigest() == DIGEST
    assert len(lines) == WRITTEN, "WRITTEN and DIGEST are to hold what was added, too"


def test_there_are_golden_documents_of_everything():
    """Also of each collection one that this version cannot read, or knows only in part."""
    stored = {re.sub(r"_\d+$", "", each.collection) for each in golden()}
    assert stored == {*BY_NAME, *UNTOLD}
    future = {e.collection for e in golden() if e.version.startswith("future")}
    assert len(future) >= 11


@pytest.mark.parametrize(
    "each", [e for e in golden() if kind_of(e)], ids=lambda e: f"{e.collection}: {e.version}"
)
async def test_a_golden_document_is_read_as_it_should_be(database, each):
    """By itself, in an installation that has nothing else of its kind; and it stays as it was."""
    collection = collection_of(database, each.collection)
    await Generations(database).prepare()
    await collection.replace_one({"_id": each.document["_id"]}, each.document, upsert=True)
    if each.reads or each.document["_id"] != "active":
        assert {name async for name in look_through(database, everything=True)} == {*BY_NAME}
    assert database.unreadable.counts().total() == (0 if each.reads else 1)
    assert await collection.find_one({"_id": each.document["_id"]}) == each.document


@pytest.fixture
async def golden_database(database):
    connected = Database(database.url, masters=MasterKeys.read(MASTER_KEY))
    await load(connected)
    yield connected
    await connected.close()


async def test_persons_of_every_version_are_found(golden_database):
    vault = golden_database.vault
    assert (await vault.find("bob@example.org")).name == "bob@example.org"
    assert (await vault.find("alice")).name == "alice"
    carla = await vault.find("carla@example.org")
    assert carla.name is None
    assert carla.erased_at is not None
    with pytest.raises(UnreadableDocument):
        await vault.find("dora@example.org")
    ids = {each.document["_id"] for each in golden() if each.collection == PERSONS}
    found = await vault.of_ids(ids)
    assert len(found) == 4  # and dora keeps nobody waiting
    assert await changed(golden_database) == []


async def test_what_every_version_sealed_is_opened(golden_database):
    """L10: under a person's key, and since there are trees under a field's own."""
    person = await golden_database.vault.id_of("finn@example.org")
    key = (await golden_database.vault.of_ids([person]))[person]
    for version, path, text, said in (
        (1, "/data/subject", "field:jx6TQxH2jy8pVyyxMd2FS250478GVIlai1K8iCwE6sz3", "Jam"),
        (2, "/data/body", "FCSpPdT+1OsLXCYbjhM7p4ax8xFP0JjiOL09isP+VvXe5w==", "Old."),
    ):
        field = {"path": path, "person": person, "text": text}
        *_, name = path.split("/")
        event = {"ticket_id": UUID(int=7), "version": version, "data": {name: None}}
        stored: Any = {**event, "sealed": [field]}
        assert opened(stored, {person: key})["data"] == {name: said}


async def test_the_command_line_names_what_cannot_be_read(golden_database, tmp_path):
    env = environment(tmp_path)
    env |= {"CASEBOOK_MONGODB_URL": golden_database.url, "CASEBOOK_MASTER_KEY": MASTER_KEY}
    ran = await script("scripts.documents", env=env)
    out, _ = await ran.communicate()
    assert ran.returncode == 1
    *lines, last = out.decode().splitlines()
    told = {tuple(line.split("  ")[:2]) for line in lines}
    wanted = {
        (kind.collection, str(each.document["_id"]))
        for each in golden()
        if (kind := kind_of(each)) and not each.reads
    }
    assert told == wanted
    assert last.startswith(f"{len(wanted)} documents in {len(KINDS)} collections")
    empty = environment(tmp_path)
    ran = await script("scripts.documents", env=empty)
    out, _ = await ran.communicate()
    assert (ran.returncode, out.decode().split()[0]) == (0, "0")


def test_what_is_not_found_any_more_is_forgotten_and_memory_is_bounded():
    now = 0.0
    found = Unreadable(lambda: now)
    found.note("desks", 1, "why")
    found.note("desks", 2, "why")
    found.clear("desks", 1)
    assert found.all() == {"desks": {"2": "why"}}
    now = 901.0
    assert found.all() == {}
    for n in range(20_000):
        found.note("access_log", n, "why")
    assert found.counts() == {"access_log": 10_000}
    found.seen("access_log", [19_999])
    assert found.counts() == {"access_log": 1}
