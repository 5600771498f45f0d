"""Views equal a fold of the log, whatever happens to the projector (L7, L8)."""

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import fields
from hashlib import sha256
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.handle import Handler, Submission
from domain.errors import Refusal
from domain.events import EventData, SlaTargets, encode
from domain.sla import SlaClock
from domain.ticket import Attachment, Link, Rating, Ticket
from eventstore.envelope import EMPTY, CommandRef, Head, Metadata, seal, utc_now
from eventstore.store import COLLECTION as EVENTS
from eventstore.store import EventStore
from projections import projector as module
from projections import tickets
from projections.checkpoint import Checkpoints, Fenced
from projections.projector import Projector
from tests.oracle import assert_views_equal_the_log
from tests.spec import ALICE, NOW, opened
from tests.strategies import actors, changes, openings

stories = st.lists(
    st.tuples(openings, st.lists(st.tuples(changes, actors), max_size=12)), min_size=1, max_size=4
)


async def write(store: EventStore, story) -> list[UUID]:
    """Run random commands on some tickets, one of each in turn."""
    handler = Handler(store)
    ids = [uuid4() for _ in story]
    for ticket_id, (opening, _) in zip(ids, story, strict=True):
        await handler.handle(ticket_id, Submission(command=opening, actor=ALICE, occurred_at=NOW))
    for turn in range(max(len(moves) for _, moves in story)):
        for ticket_id, (_, moves) in zip(ids, story, strict=True):
            if turn < len(moves):
                command, actor = moves[turn]
                with suppress(Refusal):
                    await handler.handle(
                        ticket_id, Submission(command=command, actor=actor, occurred_at=NOW)
                    )
    return ids


async def open_some(store: EventStore, n: int, versions: int = 3) -> list[UUID]:
    """Write `n` tickets of some events each."""
    ids = [uuid4() for _ in range(n)]
    for ticket_id in ids:
        about = Metadata(ALICE, CommandRef("k", "f"))
        events = [encode(opened())]
        events += [EventData("NoteAdded", 1, {"body": f"{i}"}) for i in range(1, versions)]
        await store.append(seal(ticket_id, EMPTY, events, about, NOW, utc_now()))
    return ids


async def caught_up(database, store):
    """Wait until as many events are folded as the log holds."""
    checkpoints = Checkpoints(database)
    async with asyncio.timeout(30):
        # Polled: the condition is in the database.
        while (await checkpoints.read()).applied != await store.count(exact=True):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(*projectors: Projector):
    tasks = [asyncio.create_task(p.run()) for p in projectors]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def quick(monkeypatch):
    """Make the projector's patience short, so that tests of it are."""
    monkeypatch.setattr(module, "SWEEP_SECONDS", 0.1)
    monkeypatch.setattr(module, "STANDBY_SECONDS", 0.05)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.2)


@given(story=stories)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_whatever_is_done_the_views_equal_a_fold_of_the_log(database, store, story):
    """L7: random commands, followed live; the log keeps growing from example to example."""
    async with running(Projector(database, store)):
        await write(store, story)
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_a_projector_that_starts_late_finds_everything(database, store):
    """L8: from scratch, the log is scanned and then followed."""
    await open_some(store, 20)
    async with running(Projector(database, store)):
        await caught_up(database, store)
        await open_some(store, 5)
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_a_projector_goes_on_where_the_last_one_stopped(database, store):
    """L8: what is written while nobody projects is found by the token."""
    for _ in range(3):
        await open_some(store, 5)
        async with running(Projector(database, store)):
            await caught_up(database, store)
    await open_some(store, 5)
    async with running(Projector(database, store)):
        await caught_up(database, store)
    await assert_views_equal_the_log(database)
    assert (await Checkpoints(database).read()).phase == "live"


async def test_an_event_that_comes_twice_counts_once(database, store):
    """L7: any part of the log delivered again, in any batch, changes nothing."""
    await open_some(store, 5)
    events = [e async for e in store.scan()]
    projector = Projector(database, store)
    held = await Checkpoints(database).acquire("test")
    assert held is not None
    for batch in (events[:7], events[:7], events[3:], events, events[::-1]):
        await projector._write(held.epoch, batch, None)
    await assert_views_equal_the_log(database)


async def test_a_gap_is_filled_from_the_log(database, store):
    """L8: version 3 arrives before 2, or without it."""
    [ticket_id] = await open_some(store, 1, versions=5)
    first, _, third, _, fifth = await store.load(ticket_id)
    projector = Projector(database, store)
    held = await Checkpoints(database).acquire("test")
    assert held is not None
    await projector._write(held.epoch, [third], None)
    await projector._write(held.epoch, [first], None)
    await projector._write(held.epoch, [fifth], None)
    await assert_views_equal_the_log(database)


async def test_what_the_stream_never_brings_is_found_by_counting(database, store, quick):
    """L8: a stream that silently skips whole tickets, until the count shows it."""

    class Deaf(EventStore):
        deaf = True

        @asynccontextmanager
        async def watch(self, after):
            async with super().watch(after) as feed:
                hear = feed.next

                class Skipping:
                    token = feed.token

                    async def next(_):  # noqa: N805 self is the store
                        change = await hear()
                        return None if self.deaf else change

                yield Skipping()

    deaf = Deaf(database)
    async with running(Projector(database, deaf)):
        await caught_up(database, store)
        await open_some(store, 5)
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_a_lost_history_is_scanned_again(database, store, quick):
    """L8: the token is no longer known; nothing is skipped."""
    async with running(Projector(database, store)):
        await open_some(store, 3)
        await caught_up(database, store)
    await open_some(store, 3)
    await database.collection("projections").update_one(
        {"_id": "tickets"}, {"$set": {"token": {"_data": "00" * 20}}}
    )
    async with running(Projector(database, store)):
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_a_projector_that_was_replaced_writes_nothing(database, store):
    """L7: its epoch is gone, and its whole batch with it."""
    await open_some(store, 3)
    events = [e async for e in store.scan()]
    zombie = await Checkpoints(database).acquire("zombie")
    assert zombie is not None
    owner = await Checkpoints(database).acquire("owner", steal=True)
    assert owner is not None
    with pytest.raises(Fenced):
        await Projector(database, store)._write(zombie.epoch, events, None)
    assert await database.collection(tickets.COLLECTION).count_documents({}) == 0
    await Projector(database, store)._write(owner.epoch, events, None)
    await assert_views_equal_the_log(database)


@pytest.mark.parametrize("phase", ["reset", "scan"])
async def test_a_rebuild_that_was_replaced_empties_and_writes_nothing(database, store, phase):
    """L7: held up before it empties the views or scans, it finds its epoch gone."""
    await open_some(store, 3)
    async with running(Projector(database, store)):
        await caught_up(database, store)
    zombie = await Checkpoints(database).acquire("zombie")
    assert zombie is not None
    await Projector(database, store).rebuild()
    with pytest.raises(Fenced):
        await Projector(database, store)._scan(zombie.epoch, phase)
    await assert_views_equal_the_log(database)
    assert (await Checkpoints(database).read()).phase == "live"


async def test_a_lease_that_is_held_is_not_given_away(database, store):
    checkpoints = Checkpoints(database)
    first = await checkpoints.acquire("first")
    assert first is not None
    assert await checkpoints.acquire("second") is None
    await checkpoints.release(first.epoch)
    assert await checkpoints.acquire("second") is not None


async def test_a_lapsed_lease_is_taken_over(database, store, quick, monkeypatch):
    """L7: an owner that shows no life, by the database's clock, is replaced."""
    monkeypatch.setattr("projections.checkpoint.LEASE_SECONDS", 0.3)
    assert await Checkpoints(database).acquire("dead") is not None
    await open_some(store, 3)
    async with running(Projector(database, store)):
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_two_projectors_at_once_do_the_work_once(database, store, quick):
    """L7: one works, the other stands by and goes on when the first is gone."""
    async with running(Projector(database, store), Projector(database, store)) as [first, _]:
        await open_some(store, 5)
        await caught_up(database, store)
        first.cancel()
        await open_some(store, 5)
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_a_failing_fold_is_tried_again_until_it_works(database, store, quick, monkeypatch):
    """L8: nothing is passed over because it failed."""
    fold = tickets.fold

    def broken(read, envelopes):
        raise RuntimeError("a bug in a fold")

    monkeypatch.setattr(tickets, "fold", broken)
    async with running(Projector(database, store)):
        await open_some(store, 3)
        await asyncio.sleep(0.3)
        assert (await Checkpoints(database).read()).applied == 0
        monkeypatch.setattr(tickets, "fold", fold)
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_a_rebuild_gives_the_same_views_whatever_was_there(database, store):
    """L7: damaged views, rebuilt beside a live projector that stands by and takes over again."""
    ids = await open_some(store, 10)
    async with running(Projector(database, store)):
        await caught_up(database, store)
        reads = database.collection(tickets.COLLECTION)
        await reads.update_one({"_id": ids[0]}, {"$set": {"status": "closed"}})
        await reads.delete_one({"_id": ids[1]})
        await database.collection("dashboard_counters").update_many({}, {"$inc": {"n": 5}})
        await Projector(database, store).rebuild()
        await open_some(store, 3)
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_a_rebuild_that_was_cut_off_is_finished_by_the_next_projector(
    database, store, quick, monkeypatch
):
    """L7: killed between emptying and scanning, or within the scan."""
    await open_some(store, 10)
    monkeypatch.setattr(module, "BATCH_EVENTS", 7)
    async with running(Projector(database, store)):
        await caught_up(database, store)
    checkpoints = Checkpoints(database)
    for phase in ("reset", "scan"):
        held = await checkpoints.acquire("killed", steal=True)
        assert held is not None
        await checkpoints.enter(held.epoch, "reset", None)
        if phase == "scan":
            await database.collection(tickets.COLLECTION).drop()
            await database.collection("dashboard_counters").drop()
            await module.prepare(database)
            await checkpoints.enter(held.epoch, "scan", None)
            events = [e async for e in store.scan()]
            await Projector(database, store)._write(held.epoch, events[:9], None)
        await checkpoints.release(held.epoch)
        async with running(Projector(database, store)):
            await caught_up(database, store)
        await assert_views_equal_the_log(database)


async def test_views_of_events_that_are_gone_are_emptied(database, store, quick):
    """L7: a log that was restored from an older copy is followed by its views."""
    async with running(Projector(database, store)):
        ids = await open_some(store, 4)
        await caught_up(database, store)
        await database.collection(EVENTS).delete_many({"ticket_id": ids[0]})
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_views_of_another_shape_are_folded_again(database, store):
    """L7: as after an upgrade; until it is done, a single ticket is folded from the log."""
    ids = await open_some(store, 20)
    async with running(Projector(database, store)):
        await caught_up(database, store)
    reads = database.collection("ticket_reads")
    await reads.update_many({}, {"$unset": {"shape": 1, "sla": 1}})
    await database.collection("projections").update_one(
        {"_id": "tickets"}, {"$unset": {"shape": 1}}
    )
    assert tickets.from_document(await reads.find_one({"_id": ids[0]})) is None
    async with running(Projector(database, store)):
        await all_have_a_shape(reads)
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


@pytest.mark.parametrize("while_it_runs", [True, False])
async def test_documents_of_another_shape_are_noticed_where_the_checkpoint_says_otherwise(
    database, store, while_it_runs
):
    """L7: a former version has rebuilt the views, and knows nothing of the number."""
    ids = await open_some(store, 3)
    reads = database.collection("ticket_reads")
    async with running(Projector(database, store)):
        await caught_up(database, store)
        if while_it_runs:
            await reads.update_many({}, {"$unset": {"shape": 1}})
            about = Metadata(ALICE, CommandRef("k2", "f"))
            [last] = await store.load(ids[0], after=2)
            head = Head(last.version, last.hash)
            note = EventData("NoteAdded", 1, {"body": "x"})
            await store.append(seal(ids[0], head, [note], about, NOW, utc_now()))
            await all_have_a_shape(reads)
            await caught_up(database, store)
    if not while_it_runs:
        await reads.update_many({}, {"$unset": {"shape": 1}})
        async with running(Projector(database, store)):
            await all_have_a_shape(reads)
            await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def all_have_a_shape(reads):
    async with asyncio.timeout(30):
        while await reads.find_one({"shape": {"$exists": False}}):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def test_a_change_of_what_is_folded_has_a_new_number():
    """If this fails: raise SHAPE, and write the new digest here."""
    folded = (tickets.TicketRead, Ticket, SlaClock, SlaTargets, Link, Attachment, Rating)
    names = [f"{cls.__name__}.{field.name}" for cls in folded for field in fields(cls)]
    digest = sha256(" ".join(names).encode()).hexdigest()
    assert (tickets.SHAPE, digest[:16]) == (2, "828de892dbb0124d")
