"""What was redacted cannot be read again by who has the log, all keys and the master key."""

import asyncio
import base64
from contextlib import suppress
from datetime import timedelta
from functools import reduce
from typing import Any
from uuid import uuid4

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from api.commands.handler import Handler, Submission
from api.people.erasure import ErasureWorker
from domain.actors import Actor
from domain.tickets.assignment import AssignTicket, FollowTicket
from domain.tickets.conversation import AddNote, Reply
from domain.tickets.lifecycle import CloseTicket, ResolveTicket, UpdateStatus
from domain.tickets.opening import OpenTicket
from domain.tickets.redaction import Redact
from domain.tickets.relations import MergeTicket
from domain.values import ERASED, REDACTED
from eventstore import log as logs
from eventstore import redactions
from eventstore.background import background
from eventstore.database import Database
from eventstore.event_document import chain_is_whole
from eventstore.failures import StoreUnavailable
from eventstore.key_files import KeyUnusable
from eventstore.log import EventStore
from eventstore.mongo.coalesced_reads import CoalescedReads
from eventstore.personal import vault as vaults
from eventstore.personal.erasure_news import STALE_SECONDS
from eventstore.personal.key_tree import KeyTree, _child
from eventstore.personal.sealing import PersonKey, all_personal, leaves, persons, whose_command
from eventstore.personal.vault import Vault
from eventstore.redactions import Redactions
from scripts.hash_chains import Verification
from scripts.verify import verify_database
from tests.eventstore.test_missing_keys import persons_of
from tests.eventstore.test_sealing import another, erase
from tests.projecting import until
from tests.spec import ALICE, BOB, NOW

CARD = "4111111111111111"
SUE = Actor("sue", "agent")


class FormerVault(Vault):
    """Seals as the version before keys of single fields did."""

    def _new(self, known_by, name):
        key, document = super()._new(known_by, name)
        del document["tree"]
        key.tree = None
        return key, document

    async def _plant(self, document):
        """It knows of no trees."""

    def _key(self, document):
        return super()._key({name: document[name] for name in document if name != "tree"})


def of_former_version(database):
    client, name = database.client, database.name
    other = Database(database.url, database.driver, database.masters)
    other.vault = FormerVault(client[f"{name}_keys"], client[name], database.masters)
    return other


async def said(store, *commands, ticket=None):
    """Have bob, and alice, say something on a ticket; its id."""
    ticket = ticket or uuid4()
    for command in commands:
        actor = ALICE if isinstance(command, AddNote) else BOB
        await Handler(store).handle(ticket, Submission(command=command, actor=actor))
    return ticket


async def redact(store, ticket, version, **more):
    order = Redact(version=version, reason="a card", **more)
    return (await Handler(store).handle(ticket, Submission(command=order, actor=SUE))).redaction


def opening(body="It jams."):
    return OpenTicket(subject="Jam", requester="bob", body=body)


async def readable(database, text):
    """Whether somebody with everything that is stored, and the master key, can read a text in what
    is sealed: by trying all keys, and all that can be made of them, with each field.
    """
    secrets: list[bytes] = []
    trees: list[KeyTree] = []
    async for document in persons_of(database).find({"key": {"$ne": None}}):
        wrapped = vaults._wrapped(document)
        secrets.append(database.masters.unwrap(wrapped, document["_id"].bytes))
        if "tree" in document:
            tree = PersonKey(document["_id"], secrets[-1]).with_tree(document["tree"]).tree
            assert tree is not None
            secrets += tree.secrets.values()
            trees.append(tree)
    async for event in EventStore(database).scan_stored():
        at_event: list[bytes] = []
        for tree in trees:
            way = tree._way(event["ticket_id"], event["version"])
            ways = [way[depth:] for depth in range(len(way) + 1)]
            # As if each stood there, wherever it stands.
            at_event += [
                reduce(_child, way, made) for made in tree.secrets.values() for way in ways
            ]
        for field in event.get("sealed", ()):
            place = f"{event['ticket_id']}\n{event['version']}\n{field['path']}\n{field['person']}"
            sealed = base64.b64decode(field["text"].removeprefix("field:"), validate=True)
            nonce, sealed = sealed[:12], sealed[12:]
            for secret in (*secrets, *(_child(made, field["path"]) for made in at_event)):
                with suppress(InvalidTag):
                    if text.encode() in AESGCM(secret).decrypt(nonce, sealed, place.encode()):
                        return True
    return False


async def bodies(database, ticket):
    """What the events of a ticket say, to a process that has just started."""
    other = Database(database.url, database.driver, database.masters)
    try:
        return [event.data.get("body") for event in await EventStore(other).load(ticket)]
    finally:
        await other.close()


async def test_what_was_redacted_cannot_be_read_with_all_keys_there_are(database, store):
    """And all else can: the same ticket's other messages, before and after, and other tickets'."""
    ticket = await said(store, opening(), AddNote(body="before"), Reply(body=f"It is {CARD}."))
    other = await said(store, opening("elsewhere"))
    assert await readable(database, CARD)
    assert await redact(store, ticket, 3) == "destroyed"
    assert not await readable(database, CARD)
    await said(store, AddNote(body="after"), Reply(body="and later"), ticket=ticket)
    assert await redact(store, ticket, 3) == "destroyed"  # as it was
    told = [event.data.get("body") for event in await store.load(ticket)]
    assert told == ["It jams.", "before", REDACTED, None, "after", "and later"]
    assert await bodies(database, ticket) == told
    assert await bodies(database, other) == ["elsewhere"]
    for text in ("before", "after", "and later", "elsewhere"):
        assert await readable(database, text)
    assert chain_is_whole(await store.stored(ticket))
    verification = Verification()
    await verify_database(database, verification)
    assert verification.finish() == []


async def test_a_part_of_an_event_is_destroyed_and_another_later(database, store):
    """Also what a short text could be guessed by: the command's fingerprint."""
    ticket = await said(store, opening(CARD))
    [event] = await store.stored(ticket)
    [print_] = [leaf for _, leaf in leaves(event) if leaf.path == "/command/fingerprint"]
    assert await redact(store, ticket, 1, fields=["body"]) == "destroyed"
    assert not await readable(database, CARD)
    key = (await another(database).of_names(["bob"]))["bob"]
    assert key.tree.key(*print_) is None
    [shown] = await store.load(ticket, limit=1)
    assert (shown.data["subject"], shown.data["body"]) == ("Jam", REDACTED)
    assert (shown.data["requester"], shown.metadata.actor) == ("bob", BOB)
    assert await redact(store, ticket, 1) == "destroyed"
    [shown] = await store.load(ticket, limit=1)
    assert (shown.data["subject"], shown.data["requester"]) == (REDACTED, "bob")
    assert not await readable(database, "Jam")


@pytest.mark.slow
async def test_no_other_event_of_its_command_tells_what_it_said(database, store):
    """By the fingerprint: of a reply that reopened a ticket, and one that went where it goes on."""
    mine, theirs, solved = [await said(store, opening()) for _ in range(3)]
    handler = Handler(store)

    async def does(ticket, command, actor=ALICE):
        return await handler.handle(ticket, Submission(command=command, actor=actor))

    await does(mine, MergeTicket(into=theirs))
    await does(solved, AssignTicket(assignee="alice"))
    await does(solved, ResolveTicket(resolution="done"))
    for ticket, stands_in in ((mine, theirs), (solved, solved)):
        before = len(await store.load(stands_in))
        await does(ticket, Reply(body=CARD), BOB)
        event = (await store.load(stands_in))[before]
        print_ = event.metadata.command.fingerprint
        assert event.data["body"] == CARD
        told = [*await store.load(ticket), *await store.load(stands_in)]
        assert len({e.id for e in told if e.metadata.command.fingerprint == print_}) == 2
        assert await readable(database, print_)
        assert await redact(store, stands_in, event.version) == "destroyed"
        told = [*await store.load(ticket), *await store.load(stands_in)]
        assert not [e for e in told if e.metadata.command.fingerprint == print_]
        assert await bodies(database, ticket)
        await ErasureWorker(database, store)._destroy_redacted()
        assert not await readable(database, print_)


async def test_events_of_its_command_that_say_nothing_have_no_fingerprint_left(database, store):
    """An agent's reply on a ticket of her own reopens it: no requester, no words in that event."""
    ticket, handler = uuid4(), Handler(store)
    orders = [
        OpenTicket(subject="Jam", requester="alice", body="b"),
        UpdateStatus(status="pending", reason="waits"),
        Reply(body="PIN 4711"),
    ]
    for command in orders:
        await handler.handle(ticket, Submission(command=command, actor=ALICE))
    _, _, said_, also = await store.stored(ticket)
    assert said_["command"] == also["command"]
    assert also["command"]["fingerprint"] is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Vault, "_cut", _not_done)
        assert await redact(store, ticket, 3) == "hidden"
    print_ = Submission(command=orders[2], actor=ALICE).ref().fingerprint
    assert await redact(store, ticket, 3) == "destroyed"
    assert not await readable(database, print_)


async def test_it_is_not_destroyed_while_an_event_of_its_command_tells_it(database, monkeypatch):
    """One that was written with its fingerprint in plain text."""
    ticket, store = uuid4(), EventStore(database)
    handler = Handler(store)
    for command in (
        OpenTicket(subject="Jam", requester="alice", body="b"),
        UpdateStatus(status="pending", reason="waits"),
        Reply(body="PIN 4711"),
    ):
        monkeypatch.setattr(logs, "all_personal", _by_itself)
        await handler.handle(ticket, Submission(command=command, actor=ALICE))
    assert await redact(store, ticket, 3) == "hidden"


async def test_a_follow_up_keeps_its_fingerprint_under_whose_words_it_is(database, store):
    """And not under the key of who follows it."""
    ticket, handler = await said(store, opening()), Handler(store)
    for command in (FollowTicket(follower="carla"), CloseTicket(reason="invalid")):
        await handler.handle(ticket, Submission(command=command, actor=ALICE))
    answer = await handler.handle(ticket, Submission(command=Reply(body=CARD), actor=BOB))
    bob = await store.vault.id_of("bob")
    for event in await store.stored(answer.follow_up):
        whose = {each["path"]: each["person"] for each in event["sealed"]}
        assert whose["/command/fingerprint"] == bob
    [event, *_] = await store.load(answer.follow_up)
    assert event.data["body"] == CARD
    assert await redact(store, answer.follow_up, 1) == "destroyed"
    assert not await readable(database, CARD)


async def test_a_key_that_looks_passed_on_names_no_other_command(database, store):
    """A client may choose any key: only what the other ticket's event has caused is followed."""
    one, other = await said(store, opening()), await said(store, opening())
    handler = Handler(store)
    for ticket, key in ((one, "k"), (other, f"{one}:k")):
        order = Submission(command=AddNote(body=CARD), actor=ALICE, key=key)
        await handler.handle(ticket, order)
    await redact(store, other, 2)
    [*_, event] = await store.load(other)
    assert event.data["same_command"] == []


async def test_the_reason_of_a_redaction_can_be_redacted(database, store):
    ticket = await said(store, opening(CARD))
    order = Redact(version=1, reason=f"said {CARD}")
    await Handler(store).handle(ticket, Submission(command=order, actor=SUE))
    assert await redact(store, ticket, 2) == "destroyed"
    assert not await readable(database, CARD)
    shown = await store.load(ticket)
    assert [event.data.get("reason") for event in shown] == [None, REDACTED, "a card"]
    assert await bodies(database, ticket) == [REDACTED, None, None]


async def test_what_a_former_version_wrote_is_hidden_and_the_answer_says_so(database, store):
    """L10: it stays readable, and what is written from now on can be destroyed alone."""
    former = of_former_version(database)
    ticket = await said(EventStore(former), opening(CARD), AddNote(body="old"))
    assert not [*leaves((await store.stored(ticket))[0])]
    assert await bodies(database, ticket) == [CARD, "old"]
    await said(store, Reply(body="4242"), ticket=ticket)
    assert await redact(store, ticket, 1) == "hidden"
    assert await bodies(database, ticket) == [REDACTED, "old", "4242", None]
    assert await readable(database, CARD)
    assert await redact(store, ticket, 3) == "destroyed"
    assert not await readable(database, "4242")
    assert await bodies(database, ticket) == [REDACTED, "old", REDACTED, None, None]
    await former.close()


async def test_a_former_version_takes_what_it_cannot_open_for_sealed(database, store):
    """In a rolling upgrade it says so, and shows or decides nothing by half."""
    former = of_former_version(database)
    ticket = await said(store, opening(CARD))
    [event] = await EventStore(former).load(ticket)
    assert event.sealed
    assert CARD not in str(event)
    await former.close()


async def test_a_process_that_knew_a_person_without_a_tree_opens_what_is_written_with_one(
    database, store
):
    former, other = of_former_version(database), Database(database.url, database.driver)
    ticket = await said(EventStore(former), opening("old"))
    there = EventStore(other)
    assert [event.data["body"] for event in await there.load(ticket)] == ["old"]
    await said(store, Reply(body="new"), ticket=ticket)
    assert [event.data["body"] for event in await there.load(ticket)] == ["old", "new"]
    await former.close()
    await other.close()


async def test_two_processes_that_give_a_person_a_tree_give_one(database):
    former = of_former_version(database)
    await former.vault.of_names(["bob"])
    found = await asyncio.gather(*(another(database).of_names(["bob"]) for _ in range(5)))
    assert len({keys["bob"].tree.secrets[""] for keys in found}) == 1
    await former.close()


async def test_a_key_that_a_killed_process_has_left_is_destroyed_by_the_next(
    database, store, monkeypatch
):
    """The redaction is durable first: from there on it is shown to nobody."""
    ticket = await said(store, opening(CARD))

    async def killed(*_):
        raise StoreUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(Vault, "_cut", killed)
        assert await redact(store, ticket, 1) == "pending"
    assert await readable(database, CARD)
    assert await bodies(database, ticket) == [REDACTED, None]
    other = Database(database.url, database.driver)
    await other.vault.news.latest()
    async with background(ErasureWorker(other, EventStore(other)).run()):
        await until(lambda: gone(database, CARD))
    assert await redact(store, ticket, 1) == "destroyed"
    await other.close()


async def gone(database, text):
    return not await readable(database, text)


async def test_a_key_that_an_old_backup_brings_back_is_destroyed_again(database, store):
    ticket = await said(store, opening(CARD), Reply(body="stays"))
    backup = await persons_of(database).find_one({"key": {"$ne": None}})
    await redact(store, ticket, 1)
    assert not await readable(database, CARD)
    await persons_of(database).replace_one({"_id": backup["_id"]}, backup)
    assert await readable(database, CARD)
    other = Database(database.url, database.driver)  # as of a server that is started after it
    await other.vault.news.latest()
    await ErasureWorker(other, EventStore(other))._destroy_redacted()
    await other.close()
    assert not await readable(database, CARD)
    assert await bodies(database, ticket) == [REDACTED, "stays", None]


async def test_a_log_from_before_a_redaction_is_read_without_what_was_destroyed(database, store):
    """It is taken neither for tampered with nor for missing; and what is said there anew is read,
    though its place has had a key that is gone.
    """
    ticket = await said(store, opening(), Reply(body=CARD))
    await redact(store, ticket, 2)
    await database.collection("ticket_events").delete_one({"ticket_id": ticket, "version": 3})
    assert await bodies(database, ticket) == ["It jams.", REDACTED]
    await database.collection("ticket_events").delete_one({"ticket_id": ticket, "version": 2})
    other = Database(database.url, database.driver)
    await said(EventStore(other), Reply(body="anew"), ticket=ticket)
    assert await bodies(database, ticket) == ["It jams.", "anew"]
    await other.close()


async def test_a_writer_that_has_not_heard_of_it_writes_on(database, store):
    """The tree that it holds makes the same keys as what is left of it."""
    ticket = await said(store, opening(), Reply(body=CARD))
    other = Database(database.url, database.driver)
    there = EventStore(other)
    await there.load(ticket)
    await other.vault.of_names(["bob"])
    with_whole_tree = dict(other.vault._by_name)
    assert await redact(store, ticket, 2) == "destroyed"
    other.vault._by_name.update(with_whole_tree)
    handler = Handler(there)
    await handler.handle(ticket, Submission(command=Reply(body="after"), actor=BOB))
    assert await bodies(database, ticket) == ["It jams.", REDACTED, None, "after"]
    assert not await readable(database, CARD)
    await other.close()


async def test_no_process_holds_a_destroyed_key_for_long(database, store):
    """Two processes: the other one has read the keys once more just before it was destroyed."""
    ticket = await said(store, opening(CARD))
    other = Database(database.url, database.driver)
    there = EventStore(other)
    person = next(persons((await there.stored(ticket))[0]))

    async def key():
        held = (await other.vault.of_ids([person]))[person]
        assert isinstance(held, PersonKey)
        assert held.tree is not None
        return held.tree.key(ticket, 1, "/data/body")

    before = await key()
    await other.vault.news.latest()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Vault, "_cut", _later)
        await redact(store, ticket, 1)
    await there.load(ticket)  # and hears of it
    assert await key() == before
    await store.destroy_redacted(ticket, 1)
    await asyncio.sleep(STALE_SECONDS)
    assert await key() is None
    await other.close()


async def _later(*_):
    return True


async def _unusable(*_):
    raise KeyUnusable("damaged")


async def _not_done(*_):
    return False


def _by_itself(event, about, _):
    return all_personal(event, about, whose_command([event]))


async def test_what_was_destroyed_is_not_looked_at_again_and_again(database, store):
    """The work of a process does not grow with all that was ever redacted; but for what failed."""
    tickets = [await said(store, opening(CARD)) for _ in range(2)]
    for ticket in tickets:
        await redact(store, ticket, 1)
    forgetting, vault = ErasureWorker(database, store), store.vault
    await forgetting.reconcile()
    assert vault.news.redactions.to_destroy == set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Vault, "destroy_redacted", _unusable)
        vault.news.redactions.to_destroy.add((tickets[0], 1))
        await forgetting._destroy_redacted()
        assert vault.news.redactions.to_destroy == set()
    await forgetting.reconcile()
    assert vault.news.redactions.to_destroy == {(tickets[0], 1)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vault._persons, "find_one", _unusable)  # the keys at hand say that it is done
        await forgetting._destroy_redacted()
    assert forgetting._unusable == set()


async def test_only_what_is_new_is_asked_for_and_all_now_and_then(database, monkeypatch):
    """What is known makes the question no longer."""
    asked: list[Any] = []

    async def find(_, __, condition, **___):
        asked.append(condition)
        data = {"redacts": 1, "fields": ["body"]}
        found = {"hash": bytes([len(asked)]), "ticket_id": uuid4(), "data": data}
        return [{**found, "recorded_at": NOW + timedelta(minutes=len(asked))}]

    monkeypatch.setattr(CoalescedReads, "find", find)
    known = Redactions(CoalescedReads(database.client[database.name]))
    for _ in range(3):
        assert await known.look()
    [first, *others] = asked
    assert first == {"data.redacts": {"$gt": 0}}
    since = [each["recorded_at"]["$gte"] for each in others]
    assert since == [NOW - timedelta(minutes=9), NOW - timedelta(minutes=8)]
    monkeypatch.setattr(redactions, "_ALL_SECONDS", -1.0)
    await known.look()
    assert asked[-1] == first


@pytest.mark.slow
async def test_redactions_of_two_processes_at_once_both_hold(database, store):
    tickets = [await said(store, opening(f"{CARD}-{n}")) for n in range(6)]
    others = [Database(database.url, database.driver) for _ in range(2)]
    stores = [EventStore(other) for other in others]
    orders = (redact(stores[n % 2], ticket, 1) for n, ticket in enumerate(tickets))
    assert set(await asyncio.gather(*orders)) == {"destroyed"}
    assert not await readable(database, CARD)
    for other in others:
        await other.close()


async def test_who_is_erased_afterwards_leaves_nothing(database, store):
    ticket = await said(store, opening(CARD), Reply(body="the rest"))
    await redact(store, ticket, 1)
    person = await erase(database, "bob")
    await ErasureWorker(database, store).forget(person)
    assert not await readable(database, "the rest")
    assert "tree" not in await persons_of(database).find_one({"_id": person})
    assert await bodies(database, ticket) == [REDACTED, ERASED, None]
    store.vault.news.redactions.to_destroy.add((ticket, 1))
    await ErasureWorker(database, store)._destroy_redacted()
    assert store.vault.news.redactions.to_destroy == set()


async def test_more_than_a_person_can_have_destroyed_is_hidden(database, store, monkeypatch):
    tickets = [await said(store, opening(CARD)) for _ in range(2)]
    monkeypatch.setattr(vaults, "_MOST_SECRETS", 300)
    assert [await redact(store, ticket, 1) for ticket in tickets] == ["destroyed", "hidden"]
    assert await bodies(database, tickets[1]) == [REDACTED, None]


async def test_a_damaged_tree_is_told_and_keeps_nobody_else_waiting(database, store):
    ticket = await said(store, opening())
    carla = uuid4()
    order = OpenTicket(subject="x", requester="carla")
    await Handler(store).handle(carla, Submission(command=order, actor=ALICE))
    bob = (await store.vault.find("bob")).id
    text = base64.b64encode(bytes(99)).decode()
    await persons_of(database).update_one({"_id": bob}, {"$set": {"tree": text}})
    other = Database(database.url, database.driver)
    assert [event.sealed != () for event in await EventStore(other).load(ticket)] == [True]
    assert [event.sealed for event in await EventStore(other).load(carla)] == [()]
    await other.close()
