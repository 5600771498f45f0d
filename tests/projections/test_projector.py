"""Views equal a fold of the log, whatever happens to the projector (L7, L8)."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from functools import partial
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymongo.errors import NetworkTimeout

from domain.days import UTC_ONLY
from eventstore.background import background
from eventstore.database import Database
from eventstore.event_document import EventDocument
from eventstore.log import COLLECTION as EVENTS
from eventstore.log import EventStore
from eventstore.mongo.resume_tokens import stream_order
from eventstore.partition import partition_of
from eventstore.subscription import LateEventCheck, Position, Subscription
from projections.generations import FIRST, Generations
from projections.projector import health
from projections.projector import projector as module
from projections.projector.batch import BatchWriter
from projections.projector.checkpoints import Checkpoints, Fenced
from projections.projector.parked import ParkedTickets
from projections.projector.partitions import plan
from projections.projector.projector import Projector
from projections.projector.saved_view_backfill import SavedViewBackfill
from projections.views import tickets
from scripts.testbed.wire import Fate, Refused, kind_of, through
from tests.oracle import assert_views_equal_the_log
from tests.projecting import (
    LEASE_SECONDS,
    add,
    all_live,
    by_utc,
    caught_up,
    hasty,
    open_some,
    owning_all,
    rebuilt,
    running,
    stored_events,
    until,
    write,
    writer,
)
from tests.spec import NOW
from tests.strategies import actors, changes, openings
from tests.streams import leaving_out

stories = st.lists(
    st.tuples(openings, st.lists(st.tuples(changes, actors), max_size=12)), min_size=1, max_size=4
)


@pytest.fixture
def quick(monkeypatch):
    """Make the projector's patience short, so that tests of it are."""
    monkeypatch.setattr(module, "SWEEP_SECONDS", 0.1)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.05)


@given(story=stories)
@settings(max_examples=25)
async def test_whatever_is_done_the_views_equal_a_fold_of_the_log(database, store, story):
    """L7: random commands, followed live; the log keeps growing from example to example."""
    async with running(by_utc(database, store)):
        await write(store, story)
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_a_projector_that_starts_late_finds_everything(database, store):
    """L8: from scratch, the log is scanned and then followed."""
    await open_some(store, 20)
    async with running(by_utc(database, store)):
        await caught_up(database, store)
        await open_some(store, 5)
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_a_projector_goes_on_where_the_last_one_stopped(database, store, monkeypatch):
    """L8: what is written while nobody projects is found by the token, and not by scanning."""
    await open_some(store, 5)
    async with running(by_utc(database, store)):
        await caught_up(database, store)
        await all_live(database)
    monkeypatch.delattr(EventStore, "of_range")
    for _ in range(3):
        await open_some(store, 5)
        async with running(by_utc(database, store)):
            await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_an_event_that_comes_twice_counts_once(database, store):
    """L7: any part of the log delivered again, in any batch, changes nothing."""
    await open_some(store, 5)
    events = await stored_events(store)
    owned = await owning_all(database)
    for batch in (events[:7], events[:7], events[3:], events, events[::-1], events + events):
        await writer(database, store).write(owned, batch)
    await assert_views_equal_the_log(database)


async def test_every_batch_delivered_twice_changes_nothing(database, store):
    """L7: live, under load, each batch is written again at once and once more later."""
    before: list[EventDocument] = []

    class Twice(Projector):
        def __init__(self, *args) -> None:
            super().__init__(*args, zones=UTC_ONLY)
            write_once = self._writer.write

            async def again(owned, batch, token=None):
                new = await write_once(owned, batch, token)
                assert await write_once(owned, batch, token) == 0
                if before and {p["ticket_id"].int % 64 for p in before} <= owned.epochs.keys():
                    assert await write_once(owned, before) == 0
                before[:] = batch
                return new

            self._writer.write = again  # type: ignore[method-assign]

    async with running(Twice(database, store)):
        for _ in range(5):
            await open_some(store, 8)
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_a_gap_is_filled_from_the_log(database, store):
    """L8: version 3 arrives before 2, or without it."""
    await open_some(store, 1, versions=5)
    first, _, third, _, fifth = await stored_events(store)
    owned = await owning_all(database)
    for batch in ([third], [first], [fifth]):
        await writer(database, store).write(owned, batch)
    await assert_views_equal_the_log(database)


async def test_what_the_stream_never_brings_is_found_by_counting(database, store, quick):
    """L8: a stream that silently skips whole tickets, until the count shows it."""
    deaf = leaving_out(database, lambda _event: True)
    async with running(by_utc(database, deaf, lease_seconds=LEASE_SECONDS)):
        await caught_up(database, store)
        await open_some(store, 5)
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_what_is_late_is_looked_for_until_it_is_written(database, store, monkeypatch):
    """L8: having been read is not enough; its batch fails for longer than is looked back."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.05)
    victim, other = await open_some(store, 2)
    leaky = leaving_out(database, lambda e: (e["ticket_id"], e["version"]) == (victim, 4))
    late = LateEventCheck(0.05, timedelta(seconds=0.2), timedelta(seconds=0.5))
    projector = by_utc(database, leaky, lease_seconds=LEASE_SECONDS, late=late)
    write = projector._writer.write
    failed: list[float] = []
    clock = asyncio.get_running_loop().time

    async def failing(owned, batch, token=None):
        if any(event["ticket_id"] == victim for event in batch):
            failed.append(clock())
            raise RuntimeError("the disk is full")
        return await write(owned, batch, token)

    async def go_on():
        while True:
            await add(store, other, "AgentReplied", body="x")
            await asyncio.sleep(0.02)

    async def failed_for_long():
        return failed and clock() - failed[0] > 3.0

    async with running(projector):
        await all_live(database)
        await until(partial(is_shown, database, victim, 3))
        projector._writer.write = failing  # type: ignore[method-assign]
        async with background(go_on()):
            await add(store, victim, "AgentReplied", body="late")
            await until(failed_for_long)
            projector._writer.write = write  # type: ignore[method-assign]
            await until(partial(is_shown, database, victim, 4))
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_a_scan_writes_no_more_at_once_than_is_done_in_time(database, store, monkeypatch):
    """L7: however large events are, a batch comes to its end within the time of an operation."""
    monkeypatch.setattr("eventstore.subscription.BATCH_BYTES", 1_000)
    await open_some(store, 4)
    projector = hasty(database, store)
    write, sizes = projector._writer.write, []

    async def noted(owned, batch, behind=None):
        sizes.append(len(batch))
        return await write(owned, batch, behind)

    monkeypatch.setattr(projector._writer, "write", noted)
    async with running(projector):
        await caught_up(database, store)
    assert 1 <= max(sizes) <= 3


async def test_a_scan_that_has_taken_long_reads_nothing_twice(database, store, monkeypatch):
    """What is written during it the stream brings, from the token that was taken before."""
    monkeypatch.setattr("eventstore.subscription.TRUSTED", timedelta(0))
    caught = []
    catch_up = Subscription._catch_up

    def noted(log):
        caught.append(log)
        return catch_up(log)

    monkeypatch.setattr(Subscription, "_catch_up", noted)
    await open_some(store, 4)
    async with running(hasty(database, store)):
        await caught_up(database, store)
        await all_live(database)
    assert caught == []


async def test_a_lost_history_is_scanned_again(database, store, quick):
    """L8: the token is no longer known; nothing is skipped."""
    async with running(by_utc(database, store)):
        await open_some(store, 3)
        await caught_up(database, store)
        await all_live(database)
    await open_some(store, 3)
    await database.collection("projections").update_many(
        {}, {"$set": {"token": {"_data": "00" * 20}}}
    )
    async with running(by_utc(database, store)):
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_tokens_are_compared_in_the_order_of_the_stream(database, store):
    """L8: who takes partitions that are behind starts from the earliest token."""
    tokens = [await store.position()]
    async with store.watch(tokens[0]) as feed:
        await open_some(store, 300, versions=1)
        while len(tokens) < 301:
            if (change := await feed.next()) is not None:
                tokens.append(change.token)
        tokens.append(await store.position())
    assert tokens == sorted(tokens, key=stream_order)
    assert len({stream_order(token) for token in tokens[:-1]}) == 301


async def test_a_projector_that_was_replaced_writes_nothing(database, store):
    """L7: its epoch is gone, and its whole batch with it."""
    await open_some(store, 3)
    events = await stored_events(store)
    zombie = await owning_all(database, "zombie")
    owner = await owning_all(database, "owner")
    with pytest.raises(Fenced):
        await writer(database, store).write(zombie, events)
    assert await database.collection(tickets.COLLECTION).count_documents({}) == 0
    await writer(database, store).write(owner, events)
    await assert_views_equal_the_log(database)


async def test_what_is_read_ahead_of_the_stream_makes_views_no_newer(database, store):
    """L9: a gap is filled with all that a ticket has, and others' events are still to come."""
    await open_some(store, 1)
    *_, event = await stored_events(store)
    owned = await owning_all(database)
    position = Position({"_data": "1"}, event["recorded_at"] - timedelta(hours=1))
    assert await writer(database, store).write(owned, [event], position) == 3
    state = await Checkpoints(database).read()
    assert state.members[owned.me].as_of == position.at


async def test_one_lost_partition_stops_the_whole_batch(database, store):
    """L7: nothing of it is written half."""
    ids = await open_some(store, 40)
    events = await stored_events(store)
    owned = await owning_all(database, "first")
    partitions = Checkpoints(database)
    state = await partitions.read()
    await partitions.take("second", state, [state.partitions[ids[0].int % 64]])
    with pytest.raises(Fenced):
        await writer(database, store).write(owned, events)
    assert await database.collection(tickets.COLLECTION).count_documents({}) == 0


async def test_two_projectors_forced_on_one_partition_count_once(database, store):
    """L7: both believe to be the owner, with the same epoch; each event has one effect."""
    await open_some(store, 30)
    events = await stored_events(store)
    owned = await owning_all(database)
    other = replace(owned, parked=set())
    first, second = writer(database, store), writer(database, store)
    for start in range(0, len(events), 9):
        batch = events[max(0, start - 4) : start + 9]
        await asyncio.gather(first.write(owned, batch), second.write(other, batch[::-1]))
    await assert_views_equal_the_log(database)


async def test_a_scan_that_was_replaced_writes_nothing(database, store):
    """L7: held up before it scans, it finds its epoch gone."""
    await open_some(store, 3)
    zombie = by_utc(database, store)
    await zombie._share()
    await owning_all(database, "owner")
    with pytest.raises(Fenced):
        await zombie._scan(zombie._mine.values())
    assert await database.collection(tickets.COLLECTION).count_documents({}) == 0


async def test_a_failing_database_is_tried_again_until_it_works(
    database, store, quick, monkeypatch
):
    """L8: nothing is passed over because it failed, and everyone can see why it does."""
    failing = True

    working = BatchWriter._write

    async def broken(*args):
        await working(*args)
        if failing:
            raise RuntimeError("the disk is full")

    monkeypatch.setattr(BatchWriter, "_write", broken)
    async with running(by_utc(database, store)):
        await open_some(store, 3)
        [failure] = await until(partial(failures_told, database))
        assert "the disk is full" in failure
        assert await database.collection(tickets.COLLECTION).count_documents({}) == 0
        failing = False
        await caught_up(database, store)
        assert await failures_told(database) == []
    await assert_views_equal_the_log(database)


async def test_what_comes_while_something_takes_long_is_not_missing(
    database, store, quick, monkeypatch
):
    """L8: whoever looks whether all came does not take what waits meanwhile for lost."""
    takes_long = False
    scanned: list[object] = []

    async def step(*_):
        if takes_long:
            await asyncio.sleep(1.5)  # fifteen looks

    async def scan_all(checkpoints):
        scanned.append(checkpoints)

    monkeypatch.setattr(SavedViewBackfill, "step", step)
    monkeypatch.setattr(Checkpoints, "scan_all", scan_all)
    async with running(by_utc(database, store)):
        await open_some(store, 3)
        await caught_up(database, store)
        await all_live(database)
        takes_long = True
        await asyncio.sleep(0.2)
        await open_some(store, 3)
        await asyncio.sleep(1.0)
        takes_long = False
        await caught_up(database, store)
    assert scanned == []
    await assert_views_equal_the_log(database)


async def failures_told(database):
    members = (await Checkpoints(database).read()).members.values()
    return [member.failure for member in members if member.failure]


# --- parking --------------------------------------------------------------------------------------


async def test_an_event_that_cannot_be_folded_parks_its_ticket_and_nothing_else(database, store):
    """L8: what comes before it is shown, what comes after waits, others go on."""
    poisoned, *others = await open_some(store, 5)
    async with running(by_utc(database, store)):
        await add(store, poisoned, "AgentReplied", body="before")
        await add(store, poisoned, "NobodyKnows", what="x")
        await add(store, poisoned, "AgentReplied", body="behind")
        await caught_up(database, store)
        await add(store, others[0], "AgentReplied", body="others go on")
        await add(store, poisoned, "AgentReplied", body="still behind")
        await caught_up(database, store)
    await assert_views_equal_the_log(database, parked=[poisoned])
    [parked] = await ParkedTickets(database).all()
    assert parked.version == 5
    assert await ParkedTickets(database).waiting_events(store, [parked]) == {poisoned: 3}
    assert "NobodyKnows" in str(parked.error)
    shown = await database.collection("ticket_reads").find_one({"_id": poisoned})
    assert shown is not None
    assert (shown["preview"], shown["version"]) == ("before", 4)


@pytest.mark.parametrize("how", ["asked", "restarted"])
async def test_a_parked_ticket_is_folded_again_once_it_can_be(database, store, monkeypatch, how):
    """L7, L8: a bug in a fold, mended: when asked, and by every projector that starts.

    What was read is left as it was, though the fold has changed its own when it fails.
    """
    apply = tickets.apply

    def broken(read, envelope, zones):
        read = apply(read, envelope, zones)
        if envelope.type == "AgentReplied":
            raise RuntimeError("a bug in a fold")
        return read

    monkeypatch.setattr(tickets, "apply", broken)
    ids = await open_some(store, 3)
    async with running(hasty(database, store)):
        await caught_up(database, store)
        for body in ("one", "two"):
            await add(store, ids[1], "AgentReplied", body=body)
        await caught_up(database, store)
        await assert_views_equal_the_log(database, parked=[ids[1]])
        [parked] = await ParkedTickets(database).all()
        assert parked.version == 4
        shown = await database.collection("ticket_reads").find_one({"_id": ids[1]})
        assert shown is not None
        assert (shown["version"], shown["agent_replies"]) == (3, 0)
        monkeypatch.setattr(tickets, "apply", apply)
        if how == "asked":
            await ParkedTickets(database).ask(ids[1])
            await nothing_parked(database)
    async with running(hasty(database, store)):
        await nothing_parked(database)
    await assert_views_equal_the_log(database)


async def nothing_parked(database):
    async def none():
        parked = ParkedTickets(database)
        return not (await parked.asked() or await parked.all())

    await until(none)


async def test_a_ticket_that_still_cannot_be_folded_stays_parked(database, store):
    """L8: asked for or not, its document stays as it was."""
    [ticket_id] = await open_some(store, 1)
    async with running(hasty(database, store)):
        await add(store, ticket_id, "NobodyKnows")
        await caught_up(database, store)
        await ParkedTickets(database).ask(ticket_id)
        await until(partial(is_answered, database, ticket_id))
    await assert_views_equal_the_log(database, parked=[ticket_id])


async def test_a_repair_asked_for_while_another_is_under_way_is_not_forgotten(
    database, store, monkeypatch
):
    """L8: what the first one does may have been read before the second was asked for."""
    await Generations(database).prepare()
    [ticket_id] = await open_some(store, 1)
    parked, refolded = ParkedTickets(database), BatchWriter.refold
    asked: list[UUID] = []

    async def slow(writer, owned, ticket_id):
        answer = await refolded(writer, owned, ticket_id)
        if not asked:
            await parked.ask(ticket_id)
        asked.append(ticket_id)
        return answer

    monkeypatch.setattr(BatchWriter, "refold", slow)
    await parked.ask(ticket_id)
    async with running(hasty(database, store)):
        await until(partial(is_answered, database, ticket_id))
    assert asked == [ticket_id] * 2


async def is_answered(database, ticket_id):
    return not await ParkedTickets(database).is_asked(ticket_id)


async def test_a_document_that_would_be_too_large_parks_its_ticket(database, store, monkeypatch):
    """L8: what the database would not take keeps nobody waiting."""
    monkeypatch.setattr("projections.folding._MOST_BYTES", 20_000)
    large, small = await open_some(store, 2)
    async with running(by_utc(database, store)):
        await caught_up(database, store)
        await add(store, large, "SubjectChanged", subject="x" * 12_000)
        await caught_up(database, store)  # or what has changed would be too large by itself
        await add(store, large, "TicketResolved", resolution="x" * 12_000)
        await add(store, small, "SubjectChanged", subject="x")
        await caught_up(database, store)
    await assert_views_equal_the_log(database, parked=[large])


@pytest.mark.parametrize("missing", ["actor", "data", "hash"])
async def test_what_is_no_event_parks_its_ticket(database, store, missing):
    """L8: someone has written into the log by hand."""
    broken, whole = await open_some(store, 2)
    async with running(by_utc(database, store)):
        await caught_up(database, store)
        [last] = await store.stored(broken, after=2)
        document = {**last, "_id": uuid4(), "version": 4}
        del document[missing]
        await database.collection(EVENTS).insert_one(document)
        await add(store, whole, "AgentReplied", body="others go on")
        await caught_up(database, store)
    [parked] = await ParkedTickets(database).all()
    assert (parked.ticket_id, parked.version) == (broken, 4)
    shown = await database.collection("ticket_reads").find_one({"_id": whole})
    assert shown is not None
    assert shown["preview"] == "others go on"


@pytest.mark.parametrize("damage", [{"$unset": {"sla": 1}}, {"$set": {"opened_at": "yesterday"}}])
async def test_a_damaged_document_is_parked_and_can_be_repaired(database, store, damage):
    """L7: nobody folds on from what cannot be read."""
    [ticket_id, _] = await open_some(store, 2)
    reads = database.collection("ticket_reads")
    async with running(hasty(database, store)):
        await caught_up(database, store)
        await reads.update_one({"_id": ticket_id}, damage)
        await add(store, ticket_id, "AgentReplied", body="x")
        await caught_up(database, store)
        [parked] = await ParkedTickets(database).all()
        assert "damaged" in str(parked.error)
        await ParkedTickets(database).ask(ticket_id)
        await nothing_parked(database)
        await add(store, ticket_id, "AgentReplied", body="x")
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_a_wrong_document_is_mended_by_folding_its_ticket_again(database, store):
    """L7: it was changed by hand; no event tells."""
    [ticket_id, _] = await open_some(store, 2)
    async with running(hasty(database, store)):
        await caught_up(database, store)
        await database.collection("ticket_reads").update_one(
            {"_id": ticket_id}, {"$set": {"status": "closed", "subject": "?"}}
        )
        await ParkedTickets(database).ask(ticket_id)
        await nothing_parked(database)
    await assert_views_equal_the_log(database)


# --- clocks, shapes -------------------------------------------------------------------------------


async def test_a_clock_that_jumps_back_an_hour_changes_no_sum(database, store):
    """L7, L8: over midnight, in the middle of a ticket's life."""
    midnight = NOW.replace(hour=0, minute=20)
    ids = await open_some(store, 3)
    async with running(by_utc(database, store)):
        for ticket_id in ids:
            await add(store, ticket_id, "TicketAssigned", midnight + timedelta(1), assignee="a")
            back = midnight + timedelta(1) - timedelta(hours=1)
            await add(store, ticket_id, "AgentReplied", back, body="answered before")
            await add(store, ticket_id, "TicketResolved", back, resolution="x")
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


_REFUSED = {"ok": 0.0, "code": 112, "codeName": "WriteConflict", "errmsg": "another was quicker"}
_FAILING = {"cut off": Fate.CUT_OFF, "never arrived": Fate.HELD, "refused": Refused(_REFUSED)}


@pytest.mark.parametrize("way", ["cancelled", "fenced", *_FAILING])
async def test_no_transaction_is_left_open_however_a_batch_ends(any_database, way):
    """L3: it would hold up who writes the same, and on some servers every change stream."""
    store, begun = EventStore(any_database), asyncio.Event()
    await store.prepare()
    await Generations(any_database).prepare()
    await open_some(store, 3)
    unended: set[tuple[object, object]] = set()

    def heard(sent):
        if sent.get("autocommit") is not False:
            return Fate.PASSED
        transaction = (sent["lsid"]["id"], sent["txnNumber"])
        if next(iter(sent)) in ("commitTransaction", "abortTransaction"):
            unended.discard(transaction)
            return Fate.PASSED
        unended.add(transaction)
        if kind_of(sent) != "bulkWrite in transaction" or begun.is_set():
            return Fate.PASSED
        begun.set()
        if way not in _FAILING:
            wire.moving.clear()
        return _FAILING.get(way, Fate.PASSED)

    async with through(any_database.url, heard) as (url, wire):
        database = Database(url, any_database.driver)
        async with running(by_utc(FIRST.of(database), EventStore(database))) as [projecting]:
            await begun.wait()
            if way == "cancelled":
                projecting.cancel()
                await asyncio.sleep(0)
            elif way == "fenced":
                await owning_all(any_database, "another")
            wire.moving.set()
            if way in _FAILING:
                await caught_up(any_database, store)
        assert unended == set()
        await database.close()


def test_a_ticket_is_in_one_partition_whatever_its_id():
    """Stable for ever: another division would mean another place for every checkpoint."""
    assert partition_of(UUID("01890a5d-ac96-774b-bcce-b302099a8057")) == 0x17
    assert {partition_of(uuid4()) for _ in range(2000)} == set(range(64))


@pytest.mark.parametrize("field", ["ticket_id", "version", "recorded_at"])
@pytest.mark.parametrize("value", [None, "x", 0])
async def test_what_is_nobodys_event_stops_nobody(database, store, quick, field, value):
    """L8: put into the log by hand, before and while it is followed."""
    events = database.collection(EVENTS)
    [known] = await open_some(store, 1)
    [last] = await store.stored(known, after=2)

    async def put():
        junk = {**last, "_id": uuid4(), "ticket_id": uuid4(), "junk": True, field: value}
        await events.delete_many({"junk": True})
        await events.insert_one(junk)

    async with running(hasty(database, store)):
        await all_live(database)
        for _ in range(3):
            await put()
            [ticket_id] = await open_some(store, 1)
            await until(partial(is_shown, database, ticket_id, 3))
        assert await health.lags(database, store, await health.look(database, store))
    await put()
    async with running(hasty(database, store)):
        await add(store, known, "AgentReplied", body="x")
        await until(partial(is_shown, database, known, 4))
    await events.delete_many({"junk": True})
    await assert_views_equal_the_log(database)


async def is_shown(database, ticket_id, version):
    return await database.collection("ticket_reads").find_one(
        {"_id": ticket_id, "version": version}
    )


async def test_a_hole_in_a_tickets_versions_parks_it_and_empties_nothing(database, store, quick):
    """L8: what waits is counted in the log, not by version numbers."""
    holed, other = await open_some(store, 2)
    async with running(hasty(database, store)):
        await caught_up(database, store)
        [last] = await store.stored(holed, after=2)
        await database.collection(EVENTS).insert_one({**last, "_id": uuid4(), "version": 7})
        for _ in range(3):
            await add(store, other, "AgentReplied", body="x")
            await caught_up(database, store)
            await asyncio.sleep(0.3)
        assert {p.epoch for p in (await Checkpoints(database).read()).partitions} == {1}
        [parked] = await ParkedTickets(database).all()
        assert (parked.ticket_id, parked.version) == (holed, 4)


async def test_damaged_entries_park_their_ticket(database, store):
    """L8: nobody else waits for it, and a repair can be asked for."""
    *damaged, other = await open_some(store, 4)
    kinds = ({"foo": 1}, {"2026-03-01|status|%|new": "x"}, None)
    async with running(hasty(database, store)):
        await caught_up(database, store)
        for ticket, counted in zip(damaged, kinds, strict=True):
            await database.collection("ticket_reads").update_one(
                {"_id": ticket}, {"$set": {"counted": counted}}
            )
            await add(store, ticket, "AgentReplied", body="x")
        await add(store, other, "AgentReplied", body="x")
        await caught_up(database, store)
        parked = await ParkedTickets(database).all()
        assert {one.ticket_id for one in parked} == set(damaged)
        for ticket in damaged:
            await ParkedTickets(database).ask(ticket)
        await nothing_parked(database)
        await rebuilt(database)
    await assert_views_equal_the_log(database)


async def test_a_damaged_document_of_no_ticket_goes_when_it_is_folded_again(database, store):
    """L7: its repair must not stop all that the projector does."""
    await Generations(database).prepare()
    nobody = uuid4()
    document = {"_id": nobody, "version": 1, "counted": {"foo": 1}}
    await database.collection("ticket_reads").insert_one(document)
    owned, views = await owning_all(database), writer(database, store)
    assert await views.refold(owned, nobody) is None
    assert await database.collection("ticket_reads").find_one({"_id": nobody}) is None


async def test_names_that_no_command_would_take_are_counted(database, store):
    """L7: a restored log may hold an empty group, or none of our characters."""
    [ticket_id] = await open_some(store, 1)
    async with running(hasty(database, store)):
        for group in ("", "$", "a.b", "%", "\U0001f600|"):
            await add(store, ticket_id, "TicketMovedToGroup", group=group)
            await add(store, ticket_id, "TicketAssigned", assignee=group)
        await caught_up(database, store)
    await assert_views_equal_the_log(database)


async def test_no_two_projectors_add_to_the_same_counters_after_restarts(database):
    """Or they would wait for each other with every batch; and restarts make no more counters."""
    await Generations(database).prepare()
    checkpoints, members = Checkpoints(database), database.collection("projectors")

    async def share(me):
        await checkpoints.beat(me)
        state = await checkpoints.read(me)
        await checkpoints.take(me, state, plan(state, me))
        state = await checkpoints.read(me)
        assert state.of(me)
        return await checkpoints.slot(me, state)

    living = ["a", "b", "c"]
    for restart in range(6):
        for me in living:
            await share(me)
        slots = [await share(me) for me in living]
        assert len({*slots}) == 3
        assert max(slots) < 4
        leaves = living.pop(0)
        if restart % 2:
            await checkpoints.leave(leaves)
        else:
            await members.update_one(
                {"_id": leaves}, {"$set": {"seen_at": NOW - timedelta(days=1)}}
            )
        living.append(f"new {restart}")


async def test_a_projector_that_wakes_up_is_not_removed_by_who_has_seen_it_dead(database):
    """L7: its number and its sign of life are in what would be removed."""
    await Generations(database).prepare()
    checkpoints, members = Checkpoints(database), database.collection("projectors")
    await checkpoints.beat("frozen")
    await members.update_one({"_id": "frozen"}, {"$set": {"seen_at": NOW - timedelta(days=1)}})
    seen = await checkpoints.read()
    await checkpoints.beat("frozen")
    await checkpoints.remove_expired(seen)
    assert "frozen" in (await checkpoints.read()).members


async def test_a_dead_projector_has_its_number_for_as_long_as_it_has_partitions(database):
    """Until those are taken it may go on writing, for it was only frozen."""
    await Generations(database).prepare()
    checkpoints, members = Checkpoints(database), database.collection("projectors")
    await checkpoints.beat("frozen")
    state = await checkpoints.read("frozen")
    assert await checkpoints.take("frozen", state, plan(state, "frozen"))
    assert await checkpoints.slot("frozen", await checkpoints.read("frozen")) == 0
    await members.update_one({"_id": "frozen"}, {"$set": {"seen_at": NOW - timedelta(days=1)}})
    await checkpoints.beat("other")
    assert await checkpoints.slot("other", await checkpoints.read("other")) == 1


async def test_a_projector_that_wakes_up_has_another_number_than_who_took_its_own(database):
    """It was taken for dead: it is not to wait for the other with every batch from now on."""
    await Generations(database).prepare()
    checkpoints, members = Checkpoints(database), database.collection("projectors")
    await checkpoints.beat("frozen")
    assert await checkpoints.slot("frozen", await checkpoints.read("frozen")) == 0
    await members.update_one({"_id": "frozen"}, {"$set": {"seen_at": NOW - timedelta(days=1)}})
    await checkpoints.beat("other")
    assert await checkpoints.slot("other", await checkpoints.read("other")) == 0
    await checkpoints.beat("frozen")
    assert await checkpoints.slot("frozen", await checkpoints.read("frozen")) == 1


async def test_what_is_too_much_for_the_time_of_an_operation_is_folded_in_parts(
    database, store, quick, monkeypatch
):
    """L7: as on a database that is slower than the limit of an operation allows for."""
    await open_some(store, 100)
    projector = hasty(database, store)
    fold = projector._writer.write
    folded = []

    async def too_slow(owned, batch, token=None):
        if len(batch) > 120:
            raise NetworkTimeout("timed out")
        folded.append(len(batch))
        return await fold(owned, batch, token)

    monkeypatch.setattr(projector._writer, "write", too_slow)
    async with running(projector):
        await caught_up(database, store)
        assert max(folded) > 50
        before = len(folded)
        await open_some(store, 100)
        await caught_up(database, store)
        assert len(folded) > before
    await assert_views_equal_the_log(database)
