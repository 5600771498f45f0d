"""Whatever is done to the log behind Casebook's back is found, in the right place (L11)."""

import copy
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest
from bson import Binary, Code
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domain.codec import EventData
from eventstore.event_document import (
    EMPTY,
    CommandRef,
    Metadata,
    chained,
    content_hash,
    to_document,
)
from eventstore.key_files import KeyUnusable
from eventstore.log import COLLECTION, EventStore
from eventstore.transparency.checkpoints import LogCheckpoints
from scripts.hash_chains import CannotVerify, Verification
from scripts.signed_checkpoints import expect_database_checkpoints
from scripts.verify import verify_database
from tests.spec import ALICE, NOW

Document = dict[str, Any]
Stream = list[Document]
ROUNDS = 50
EVENTS = 8


class Wrong(NamedTuple):
    """What a forger leaves of a stream, and the version that must be reported."""

    stream: Stream
    version: int


def rehash(document: Document) -> Document:
    document["hash"] = content_hash(document)  # type: ignore[arg-type]
    return document


def renumbered(stream: Stream) -> Stream:
    for version, document in enumerate(stream, start=1):
        document["version"] = version
    return stream


def edit_data(stream: Stream, at: int) -> Wrong:
    stream[at]["data"]["n"] = 99
    return Wrong(stream, at + 1)


def edit_actor(stream: Stream, at: int) -> Wrong:
    stream[at]["actor"]["id"] = "mallory"
    return Wrong(stream, at + 1)


def edit_time(stream: Stream, at: int) -> Wrong:
    stream[at]["occurred_at"] += timedelta(milliseconds=1)
    return Wrong(stream, at + 1)


def edit_type(stream: Stream, at: int) -> Wrong:
    stream[at]["type"] = "Undone"
    return Wrong(stream, at + 1)


def edit_hash(stream: Stream, at: int) -> Wrong:
    stream[at]["hash"] = bytes(32)
    return Wrong(stream, at + 1)


def add_a_field(stream: Stream, at: int) -> Wrong:
    stream[at]["approved"] = True
    return Wrong(stream, at + 1)


def edit_and_rehash(stream: Stream, at: int) -> Wrong:
    stream[at]["data"]["n"] = 99
    rehash(stream[at])
    return Wrong(stream, at + 1)


def delete(stream: Stream, at: int) -> Wrong:
    return Wrong(stream[:at] + stream[at + 1 :], at + 1)


def delete_and_renumber(stream: Stream, at: int) -> Wrong:
    return Wrong(renumbered(stream[:at] + stream[at + 1 :]), at + 1)


def insert(stream: Stream, at: int) -> Wrong:
    """A well-made forgery: numbered, chained and hashed, and the rest moved on."""
    forged = copy.deepcopy(stream[at])
    forged |= {"_id": uuid4(), "data": {"n": 99}}
    rehash(forged)
    return Wrong(renumbered([*stream[:at], forged, *stream[at:]]), at + 1)


def insert_clumsily(stream: Stream, at: int) -> Wrong:
    forged = copy.deepcopy(stream[at])
    forged |= {"_id": uuid4(), "data": {"n": 99}}
    return Wrong(renumbered([*stream[:at], forged, *stream[at:]]), at + 1)


def swap(stream: Stream, at: int) -> Wrong:
    at = min(at, len(stream) - 2)
    stream[at], stream[at + 1] = stream[at + 1], stream[at]
    return Wrong(renumbered(stream), at + 1)


def cut_the_end(stream: Stream, at: int) -> Wrong:
    at = max(at, 1)
    return Wrong(stream[:at], at + 1)


def remove_the_ticket(stream: Stream, at: int) -> Wrong:
    return Wrong([], 1)


def rewrite_the_end(stream: Stream, at: int) -> Wrong:
    """The last event forged, chained and hashed well: only a checkpoint can tell."""
    stream[-1]["data"]["n"] = 99
    rehash(stream[-1])
    return Wrong(stream, len(stream))


KINDS: dict[Callable[[Stream, int], Wrong], str] = {
    edit_data: "edited",
    edit_actor: "edited",
    edit_time: "edited",
    edit_type: "edited",
    edit_hash: "edited",
    add_a_field: "edited",
    edit_and_rehash: "edited",
    delete: "deleted",
    delete_and_renumber: "deleted",
    insert: "inserted",
    insert_clumsily: "inserted",
    swap: "reordered",
    cut_the_end: "deleted",
    remove_the_ticket: "deleted",
    rewrite_the_end: "edited",
}


@pytest.fixture
async def log(database):
    """A log of 60 tickets with a signed checkpoint; its database, tickets and key."""
    store = EventStore(database)
    await store.prepare()
    tickets = [uuid4() for _ in range(60)]
    events = [EventData("Done", 1, {"n": n}) for n in range(EVENTS)]
    about = Metadata(ALICE, CommandRef("k", "f"))
    documents = [
        to_document(envelope)
        for ticket in tickets
        for envelope in chained(ticket, EMPTY, events, about, NOW, NOW)
    ]
    await database.collection(COLLECTION).insert_many(documents)
    key = Ed25519PrivateKey.generate()
    assert await LogCheckpoints(database, store, key).take() is not None
    return database, tickets, key


async def verified(database, key):
    verification = Verification()
    await expect_database_checkpoints(database, key.public_key(), verification)
    await verify_database(database, verification)
    return verification, verification.finish()


async def replace(database, ticket: UUID, stream: Stream) -> None:
    events = database.collection(COLLECTION)
    await events.delete_many({"ticket_id": ticket})
    if stream:
        await events.insert_many(stream)


async def test_nothing_is_reported_on_an_untouched_log(log):
    database, tickets, key = log
    verification, faults = await verified(database, key)
    assert faults == []
    assert len(verification.heads) == len(tickets)
    assert verification.events == len(tickets) * EVENTS


@pytest.mark.parametrize("tamper", KINDS, ids=lambda t: t.__name__)
async def test_tampering_is_found_where_it_is(log, tamper):
    """L11: each kind on 50 random events; ticket, version and kind are right, and nothing else."""
    database, tickets, key = log
    chance = random.Random(tamper.__name__)  # noqa: S311 a test that can be repeated
    events = database.collection(COLLECTION)
    wrong: dict[str, int] = {}
    for ticket in chance.sample(tickets, ROUNDS):
        stream = await events.find({"ticket_id": ticket}).sort("version", 1).to_list()
        forged = tamper(stream, chance.randrange(EVENTS))
        await replace(database, ticket, forged.stream)
        wrong[str(ticket)] = forged.version
    _, faults = await verified(database, key)
    assert {fault.ticket: fault.version for fault in faults} == wrong
    for fault in faults:
        # An event at the end has nothing behind it that could tell a forgery put in from one that
        # was edited, or two that were swapped.
        at_the_end = fault.version >= EVENTS - 1
        assert fault.kind == KINDS[tamper] or at_the_end


async def test_without_a_checkpoint_a_cut_end_would_not_show(log):
    """L11: what a chain cannot see, so that nobody relies on it."""
    database, tickets, _ = log
    await database.collection(COLLECTION).delete_one({"ticket_id": tickets[0], "version": EVENTS})
    verification = Verification()
    await verify_database(database, verification)
    assert verification.finish() == []


@pytest.mark.parametrize(
    "change",
    [
        {"$set": {"events": 1}},
        {"$set": {"root": "00" * 32}},
        {"$set": {"signature": bytes(64)}},
        {"$set": {"heads": []}},
        {"$set": {"taken_at": 1}},
        {"$unset": {"previous": 1}},
    ],
    ids=str,
)
async def test_a_forged_checkpoint_is_found(log, change):
    database, _, key = log
    await database.collection("log_checkpoints").update_one({"_id": 0}, change)
    _, faults = await verified(database, key)
    assert [fault.ticket for fault in faults] == ["(checkpoint 0)"]


async def test_a_checkpoint_by_another_key_cannot_be_verified(log):
    """Not knowing is not the same as knowing that it is wrong; and nobody signs on behind it."""
    database, _, _ = log
    other = Ed25519PrivateKey.generate()
    with pytest.raises(CannotVerify, match="is signed by key"):
        await verified(database, other)
    with pytest.raises(KeyUnusable):
        await LogCheckpoints(database, EventStore(database), other).take()


BY_CHAIN_ALONE = [k for k in KINDS if k not in (cut_the_end, remove_the_ticket, rewrite_the_end)]


@pytest.mark.parametrize("tamper", BY_CHAIN_ALONE, ids=lambda t: t.__name__)
async def test_in_the_middle_of_a_stream_the_chain_alone_tells(log, tamper):
    """L11: with no checkpoint at all."""
    database, tickets, _ = log
    events = database.collection(COLLECTION)
    wrong: dict[str, int] = {}
    for at, ticket in enumerate(tickets[: EVENTS - 3]):
        stream = await events.find({"ticket_id": ticket}).sort("version", 1).to_list()
        forged = tamper(stream, at)
        await replace(database, ticket, forged.stream)
        wrong[str(ticket)] = forged.version
    verification = Verification()
    await verify_database(database, verification)
    faults = verification.finish()
    assert {fault.ticket: fault.version for fault in faults} == wrong
    assert {fault.kind for fault in faults} == {KINDS[tamper]}


@pytest.mark.parametrize(
    "change",
    [
        {"$set": {"id": "x"}},
        {"$set": {"data.n": Code("3")}},
        {"$set": {"data.n": 3.0}},
        {"$set": {"data.n": Decimal128("3")}},
        {"$set": {"hash": Binary(bytes(32), 5)}},
        {"$set": {"version": 4.0}},
        {"$set": {"version": "4"}},
        {"$set": {"occurred_at": DatetimeMS(253402300800000)}},
        {"$set": {"occurred_at": "2026-03-01T12:00:00Z"}},
        {"$set": {"previous": None}},
        {"$unset": {"actor": 1}},
        {"$unset": {"hash": 1}},
    ],
    ids=str,
)
async def test_a_document_that_casebook_never_wrote_is_found(log, change):
    """L11: other members or other types, whatever they look like."""
    database, tickets, key = log
    await database.collection(COLLECTION).update_one(
        {"ticket_id": tickets[7], "version": 4}, change
    )
    _, faults = await verified(database, key)
    assert [(f.ticket, f.version, f.kind) for f in faults] == [(str(tickets[7]), 4, "edited")]


async def test_documents_of_no_ticket_are_found(log):
    database, tickets, key = log
    events = database.collection(COLLECTION)
    stranger = await events.find_one({"ticket_id": tickets[0], "version": EVENTS})
    await events.insert_one({**stranger, "_id": uuid4(), "ticket_id": str(tickets[0])})
    await events.insert_one({"rubbish": True})
    _, faults = await verified(database, key)
    assert [fault.kind for fault in faults] == ["inserted", "inserted"]


async def test_checkpoints_follow_each_other_and_never_cover_up_a_loss(log):
    """L11: a checkpoint taken after a cut still speaks for what was there."""
    database, tickets, key = log
    store = EventStore(database)
    checkpoints = LogCheckpoints(database, store, key)
    assert await checkpoints.take() is None  # nothing new
    await database.collection(COLLECTION).delete_one({"ticket_id": tickets[0], "version": EVENTS})
    stream = await store.load(tickets[1])
    about = Metadata(ALICE, CommandRef("k", "f"))
    head = (stream[-1].version, stream[-1].hash)
    now = store.clock.now()
    more = chained(tickets[1], type(EMPTY)(*head), [EventData("More", 1, {})], about, now, now)
    await store.append(more)
    second = await checkpoints.take()
    assert second is not None
    assert second.statement.number == 1
    assert second.statement.events == len(tickets) * EVENTS + 1
    _, [fault] = await verified(database, key)
    assert (fault.ticket, fault.version, fault.kind) == (str(tickets[0]), EVENTS, "deleted")
    await database.collection("log_checkpoints").delete_one({"_id": 0})
    _, faults = await verified(database, key)
    assert "(checkpoint 0)" in [fault.ticket for fault in faults]
