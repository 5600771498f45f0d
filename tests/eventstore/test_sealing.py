"""What is personal in an event is stored sealed, and opened by its person's key alone."""

import asyncio
import contextlib
import os
from typing import Any, get_args, get_type_hints
from unittest.mock import Mock
from uuid import UUID, uuid4

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import tickets
from domain.actors import Actor
from domain.codec import EventData
from domain.errors import HistoryError, PersonGone
from domain.people import PersonErased
from domain.tickets import EVENT_TYPES, decode, encode
from domain.tickets.assignment import FollowerAdded
from domain.tickets.conversation import AgentReplied, NoteAdded
from domain.tickets.details import FieldSet
from domain.tickets.opening import TicketOpened
from domain.tickets.relations import TicketMergedFrom
from domain.tickets.ticket import TicketEvent
from domain.values import ERASED
from eventstore.background import Supervisor, background
from eventstore.database import Database
from eventstore.event_document import (
    EMPTY,
    CommandRef,
    Metadata,
    chain_is_whole,
    chained,
    from_document,
    to_document,
    utc_now,
)
from eventstore.failures import StoreUnavailable
from eventstore.key_files import KeyUnusable
from eventstore.log import EventStore
from eventstore.mongo.limits import SCAN_SECONDS
from eventstore.personal.erasure_news import STALE_SECONDS
from eventstore.personal.master_keys import MasterKeys, new_master_key
from eventstore.personal.sealing import (
    FINGERPRINT,
    UNOPENED,
    ErasedKey,
    PersonKey,
    all_personal,
    opened,
    sealed,
    whose_command,
)
from eventstore.personal.vault import NoMasterKey, UnknownPerson, Vault
from projections.erasure.progress import Erasures
from scripts.testbed.wire import Fate, through
from tests.projecting import until
from tests.spec import ALICE, BOB, NOW
from tests.spec import opened as opening

TICKET = UUID(int=7)
CODEC: bson.CodecOptions[dict[str, object]] = bson.CodecOptions(uuid_representation=4)
NUMBERS = st.integers(-(2**63), 2**63 - 1)
NOT_PERSONAL = {
    "MessageRedacted": {"fields"},
    "TicketOpened": {"group", "internal_fields", "tags"},
    "TicketAssigned": {"assignee"},
    "TicketMovedToGroup": {"group"},
    "TagsAdded": {"tags"},
    "TagsRemoved": {"tags"},
    "FieldSet": {"key"},
    "FileAttached": {"media_type"},
}
"""The texts that stay readable: what an organisation has done, and its own people's names."""


def text_in(hint):
    """Whether a field of this type may hold text that was written by somebody."""
    return hint is str or any(text_in(part) for part in get_args(hint))


def keys_of(*names):
    return {name: PersonKey(uuid4(), bytes([n]) * 32) for n, name in enumerate(names)}


def written(event, keys, actor=ALICE, requester="bob", version=1):
    """The stored document of an event."""
    about = Metadata(actor, CommandRef("key-of-a-command", "fingerprint"))
    head = EMPTY._replace(version=version - 1)
    data = encode(event, requester)

    def protect(document, each):
        return sealed(document, all_personal(each, about, whose_command([each])), keys)

    [envelope] = chained(TICKET, head, [data], about, NOW, NOW, protect)
    return to_document(envelope)


def by_id(keys):
    return {key.person: key for key in keys.values()}


def test_every_text_of_every_event_is_personal_or_said_not_to_be():
    for name, cls in EVENT_TYPES.items():
        hints = get_type_hints(cls)
        fields = {
            name for name in hints.keys() - get_type_hints(TicketEvent) if text_in(hints[name])
        }
        personal = tickets.CODEC.personal_fields[name].keys()
        assert fields - personal == NOT_PERSONAL.get(name, set()), name


@given(
    st.text(min_size=1),
    st.text(min_size=1),
    st.dictionaries(st.sampled_from("abc"), NUMBERS | st.text(min_size=1)),
)
def test_what_is_sealed_comes_out_as_it_was(subject, body, fields):
    keys = keys_of("bob")
    event = opening(subject=subject, body=body, fields=fields)
    document = written(event, keys)
    again = from_document(opened(document, by_id(keys)))
    assert decode(*again.readable[:3]) == event
    assert again.metadata.command.fingerprint == "fingerprint"


def test_nothing_personal_is_in_what_is_stored():
    keys = keys_of("bob", "carla")
    events = [
        opening(subject="canary-1", body="canary-2", fields={"phone": "canary-3", "floor": 987654}),
        AgentReplied("canary-4"),
        NoteAdded("canary-5"),
        FieldSet("phone", "canary-6"),
        FollowerAdded("carla"),
        TicketMergedFrom(uuid4(), ("bob", "carla")),
    ]
    for event in events:
        document = written(event, keys, BOB)
        bytes_ = bson.encode(document, codec_options=CODEC)
        for word in (b"canary", b"bob", b"carla", b"key-of-a", b"fingerprint\x00\x0c"):
            assert word not in bytes_
        assert bson.Int64(987654) not in document["data"].values()
        assert from_document(opened(document, by_id(keys))).metadata.actor == BOB


def test_an_agents_name_and_command_are_no_secret():
    document = written(NoteAdded("x"), keys_of("bob"))
    assert (document["actor"]["id"], document["command"]["id"]) == ("alice", "key-of-a-command")
    assert document["command"]["fingerprint"] is None


def test_the_chain_holds_over_what_is_sealed():
    """L11: whether there are keys or not."""
    keys = keys_of("bob")
    about = Metadata(BOB, CommandRef("k", "f"))

    def protect(document, each):
        return sealed(document, all_personal(each, about, whose_command([each])), keys)

    events = [encode(opening()), encode(NoteAdded("x"), "bob")]
    stream = [to_document(e) for e in chained(TICKET, EMPTY, events, about, NOW, NOW, protect)]
    assert chain_is_whole(stream)
    forged = {**stream[1], "sealed": [{**stream[1]["sealed"][0], "text": "AAAA"}]}
    assert not chain_is_whole([stream[0], forged])
    without = {k: v for k, v in stream[1].items() if k != "sealed"}
    assert not chain_is_whole([stream[0], without])


@pytest.mark.parametrize("change", [{"ticket_id": UUID(int=8)}, {"version": 2}])
def test_what_is_moved_elsewhere_cannot_be_opened(change):
    keys = keys_of("bob")
    document: Any = {**written(NoteAdded("x"), keys), **change}
    with pytest.raises(HistoryError, match="cannot be opened"):
        _ = from_document(opened(document, by_id(keys))).readable


def test_what_is_swapped_between_fields_or_persons_cannot_be_opened():
    keys = keys_of("bob", "carla")
    document = written(opening(), keys)
    first, second, *rest = document["sealed"]
    swapped = [{**first, "text": second["text"]}, {**second, "text": first["text"]}, *rest]
    other = [{**first, "person": keys["carla"].person}, second, *rest]
    for fields in (swapped, other):
        changed: Any = {**document, "sealed": fields}
        event = from_document(opened(changed, by_id(keys)))
        with pytest.raises(HistoryError):
            _ = event.readable


@pytest.mark.parametrize(
    "fields",
    [7, [7], [{}], [{"path": "/data/no/such", "person": UUID(int=1), "text": "AA=="}], {"a": 1}],
)
def test_what_is_no_sealed_field_is_left_as_it_is(fields):
    document: Any = {**written(NoteAdded("x"), keys_of("bob")), "sealed": fields}
    assert opened(document, {UUID(int=1): ErasedKey()}) == document


def test_a_missing_key_is_an_error_and_an_erased_person_is_not():
    keys = keys_of("bob")
    document = written(opening(body="x"), keys)
    with pytest.raises(HistoryError, match="the key of person"):
        _ = from_document(opened(document, {})).readable
    gone = from_document(opened(document, {keys["bob"].person: ErasedKey()}))
    event = decode(*gone.readable[:3])
    assert isinstance(event, TicketOpened)
    assert (event.subject, event.body, event.requester) == (ERASED, ERASED, ERASED)
    assert gone.metadata.actor == ALICE


def test_what_tells_of_a_command_may_stay_sealed():
    """Then nobody misses the key that it alone is sealed with."""
    keys = keys_of("bob")
    stored = written(NoteAdded("x"), keys)
    document = opened(stored, by_id(keys), command=False)
    assert (document["data"]["body"], document["command"]["fingerprint"]) == ("x", UNOPENED)
    [of_command] = [field for field in stored["sealed"] if field["path"] == FINGERPRINT]
    stored["data"], stored["sealed"] = document["data"], [of_command]
    assert "sealed" not in opened(stored, {}, command=False)
    assert "sealed" in opened(stored, {})


def test_whose_words_they_are_must_be_known():
    with pytest.raises(TypeError, match="whose"):
        encode(NoteAdded("x"))


# --- master keys --------------------------------------------------------------------------------


def test_a_secret_opens_by_the_key_that_wrapped_it_and_for_whom_it_was():
    first, second = new_master_key(), new_master_key()
    old = MasterKeys.read(first)
    both = MasterKeys.read(f"{second}, {first}\n")
    wrapped = old.wrap(b"secret", b"bob")
    assert both.unwrap(wrapped, b"bob") == b"secret"
    assert both.wrap(b"x", b"bob").master == both.first != old.first
    with pytest.raises(KeyUnusable, match="tampered"):
        both.unwrap(wrapped, b"carla")
    with pytest.raises(KeyUnusable, match=f"master key {old.first}"):
        MasterKeys.read(second).unwrap(wrapped, b"bob")


@pytest.mark.parametrize("text", ["", "  \n", "AAAA", "not base64!", "A" * 40])
def test_what_is_no_master_key_is_refused(text, tmp_path):
    with pytest.raises(KeyUnusable):
        MasterKeys.read(text)
    path = tmp_path / "key"
    path.write_text(text)
    with pytest.raises(KeyUnusable, match=str(path)):
        MasterKeys.in_file(path)
    with pytest.raises(KeyUnusable, match="cannot read"):
        MasterKeys.in_file(tmp_path / "none")


def test_a_master_key_is_not_in_what_python_shows_of_it():
    secret = new_master_key()
    assert secret not in repr(MasterKeys.read(secret))


def test_the_environment_gives_one_or_names_its_file(tmp_path):
    path = tmp_path / "key"
    path.write_text(new_master_key())
    by_file = MasterKeys.given({"CASEBOOK_MASTER_KEY_FILE": str(path)})
    assert (
        by_file
        == MasterKeys.in_file(path)
        != MasterKeys.given({"CASEBOOK_MASTER_KEY": new_master_key()})
    )
    assert MasterKeys.given({}) is None


# --- the keys of persons ------------------------------------------------------------------------


def another(database):
    """The vault as another process has it."""
    client, name = database.client, database.name
    return Vault(client[f"{name}_keys"], client[name], database.masters)


async def erase(database, name):
    """The fence alone."""
    person = await database.vault.find(name)
    known_by = (await database.vault.known_as(person.id)).hex()
    erasures = Erasures(database)
    await erasures.prepare()
    assert await erasures.take(person.id, PersonErased("asked for it", known_by))
    return person.id


async def test_a_person_has_one_key_whoever_makes_it(any_database):
    vaults = [another(any_database) for _ in range(5)]
    made = await asyncio.gather(*(vault.of_names(["bob", "carla"]) for vault in vaults))
    assert len({keys["bob"].person for keys in made}) == 1
    assert len({keys["carla"].person for keys in made}) == 1
    assert (await vaults[0].find("bob")).name == "bob"
    [document] = (
        await any_database.client[f"{any_database.name}_keys"]["persons"]
        .find({"_id": made[0]["bob"].person})
        .to_list()
    )
    assert b"bob" not in bson.encode(document, codec_options=CODEC)


async def test_no_other_process_uses_a_key_for_long_after_its_person_was_erased(database):
    """A law of erasing: within STALE_SECONDS."""
    there = another(database)
    key = (await there.of_names(["bob"]))["bob"]
    assert isinstance((await there.of_ids([key.person]))[key.person], PersonKey)
    other = Mock(spec=["invalidate"])
    there.news.on_news(other)
    await erase(database, "bob")
    await asyncio.sleep(STALE_SECONDS)
    assert isinstance((await there.of_ids([key.person]))[key.person], ErasedKey)
    other.invalidate.assert_called_once_with()
    with pytest.raises(PersonGone):
        await there.of_names(["bob"])


async def test_who_watches_forgets_without_being_asked(database):
    there = another(database)
    await there.of_names(["bob"])
    watching = asyncio.create_task(there.news.watch(Supervisor()))
    await until(lambda: asyncio.sleep(0, there.news._seen is not None))
    assert there._by_name
    await erase(database, "bob")
    await until(lambda: asyncio.sleep(0, not there._by_name))
    assert not watching.done()
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching


async def test_nobody_waits_for_who_watches_and_can_wait(database, monkeypatch):
    """A command that has to look asks at once, and the watcher's question goes along."""
    monkeypatch.setattr("eventstore.personal.erasure_news.CAN_WAIT_SECONDS", 3600)
    vault = another(database)
    await vault.news.latest()
    forgotten = vault._forgotten
    async with background(vault.news.watch(Supervisor())):
        await until(lambda: asyncio.sleep(0, len(vault.news._reads._waiting)))
        vault.news.look_again()
        await vault.news.latest()
    assert vault._forgotten == forgotten  # as it does when its own time is over


async def test_a_key_that_is_read_while_its_person_is_erased_is_not_used(database, monkeypatch):
    there = another(database)
    person = (await database.vault.of_names(["bob"]))["bob"].person
    fetch = there._fetch

    read = []

    async def slowly(ids):
        found = await fetch(ids)
        read.append(found[person])
        if len(read) == 1:
            await erase(database, "bob")
            await there.news._look()
        return found

    monkeypatch.setattr(there, "_fetch", slowly)
    assert isinstance((await there.of_ids([person]))[person], ErasedKey)
    assert [type(key) for key in read] == [PersonKey, ErasedKey]


async def test_a_key_from_an_old_backup_is_of_no_use(database):
    """The fence is in the log's database, and holds whatever the keys say."""
    persons = database.client[f"{database.name}_keys"]["persons"]
    key = (await database.vault.of_names(["bob"]))["bob"]
    backup = await persons.find_one({"_id": key.person})
    await erase(database, "bob")
    await database.vault.destroy(key.person, await database.vault.known_as(key.person))
    await persons.replace_one({"_id": key.person}, backup)
    there = another(database)
    assert isinstance((await there.of_ids([key.person]))[key.person], ErasedKey)
    with pytest.raises(PersonGone):
        await there.of_names(["bob"])
    # And where the backup is older than the person.
    await persons.delete_one({"_id": key.person})
    there = another(database)
    assert isinstance((await there.of_ids([key.person]))[key.person], ErasedKey)
    with pytest.raises(PersonGone):
        await there.of_names(["bob"])


async def test_an_erasure_that_only_the_keys_remember_holds(database):
    """As when the log was restored to before it."""
    key = (await database.vault.of_names(["bob"]))["bob"]
    await erase(database, "bob")
    await database.vault.destroy(key.person, await database.vault.known_as(key.person))
    await database.collection("person_events").drop()
    there = another(database)
    assert isinstance((await there.of_ids([key.person]))[key.person], ErasedKey)
    with pytest.raises(PersonGone):
        await there.of_names(["bob"])


async def test_keys_are_wrapped_anew_while_they_are_used(database):
    first, second = new_master_key(), new_master_key()
    client, name = database.client, database.name

    def vault(text):
        return Vault(client[f"{name}_keys"], client[name], MasterKeys.read(text))

    old = (await vault(first).of_names(["bob", "carla"]))["bob"].person
    both = vault(f"{second} {first}")
    assert await both.to_rewrap() == 3
    done = []
    await both.rewrap(lambda: done.append(1))
    assert (len(done), await both.to_rewrap()) == (3, 0)
    new = vault(second)
    assert (await new.of_names(["bob"]))["bob"].person == old
    with pytest.raises(KeyUnusable):
        await vault(first).of_names(["bob"])


@pytest.mark.skipif("CASEBOOK_TEST_MONGODB_URL" in os.environ, reason="one host only")
async def test_what_may_be_all_keys_is_read_for_longer_than_an_operation_may_last(any_database):
    """By a scan: the database ends what any other cursor reads after 5 s of its work in all."""
    first, second = new_master_key(), new_master_key()
    client, name = any_database.client, any_database.name
    old = Vault(client[f"{name}_keys"], client[name], MasterKeys.read(first))
    await old.of_names([f"person {n}" for n in range(1100)])  # more than one answer holds
    commands: list[dict[str, Any]] = []

    def hears(command):
        commands.append(command)
        return Fate.PASSED

    done: list[int] = []
    async with through(any_database.url, hears) as (url, _):
        there = Database(url, any_database.driver, MasterKeys.read(f"{second} {first}"))
        try:
            assert await there.vault.to_rewrap() == 1101
            await there.vault.rewrap(lambda: done.append(1))
            assert (len(done), await there.vault.to_rewrap()) == (1101, 0)
            assert await there.vault.erased() == {}
        finally:
            await there.close()
    reading = [each for each in commands if each.get("find", each.get("aggregate")) == "persons"]
    assert len(reading) == 4
    assert {each["maxTimeMS"] for each in reading} == {SCAN_SECONDS * 1000}


async def test_what_is_missing_is_said(database):
    client, name = database.client, database.name
    without = Vault(client[f"{name}_keys"], client[name], None)
    with pytest.raises(NoMasterKey):
        await without.of_names(["bob"])
    await database.vault.of_names(["bob"])
    with pytest.raises(UnknownPerson):
        await database.vault.find("nobody")
    with pytest.raises(UnknownPerson):
        await database.vault.person(uuid4())
    await client[f"{name}_keys"]["keyring"].drop()
    with pytest.raises(KeyUnusable, match="restore"):
        await another(database).of_names(["bob"])
    nowhere = Database(
        "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=100", masters=database.masters
    )
    with pytest.raises(StoreUnavailable):
        await nowhere.vault.of_names(["bob"])
    await nowhere.close()


async def test_the_log_gives_events_opened_and_keeps_them_sealed(any_database):
    store = EventStore(any_database)
    await store.prepare()
    about = Metadata(Actor("bob", "requester"), CommandRef("k", "f"))
    events = [encode(opening(body="hidden words")), EventData("NoteAdded", 1, {"body": "plain"})]
    chain = await store.chain(TICKET, EMPTY, events, about, NOW, utc_now())
    await store.append(chain)
    [first, _] = await store.load(TICKET)
    assert (first.data["body"], first.metadata.actor.id) == ("hidden words", "bob")
    [stored, _] = await store.stored(TICKET)
    shown: Any = stored
    assert shown["data"]["body"] is shown["actor"]["id"] is None
    assert chain_is_whole(await store.stored(TICKET))
    [person] = {field["person"] for field in stored["sealed"]}
    assert await store.tickets_of(person) == [TICKET]
    opened_here = await store.open([to_document(event) for event in chain])
    assert [from_document(document) for document in opened_here] == await store.load(TICKET)
    assert first._replace(sealed=()) == first
