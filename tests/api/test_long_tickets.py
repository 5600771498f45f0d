"""A ticket holds only so much, and a long one keeps nobody else waiting."""

import asyncio
import gc
import time
from contextlib import suppress
from datetime import timedelta
from uuid import uuid4

import pytest

from api.access.principals import Principal
from api.commands.handler import Handler
from api.queries.history import past
from api.queries.history.routes import PastQuery
from api.queries.visibility import Visibility
from domain.codec import EventData
from domain.errors import StateConflict, TicketNotFound
from domain.sla import SlaTargets
from domain.tickets import encode
from domain.tickets.assignment import AssignTicket, FollowTicket, TicketAssigned, UnassignTicket
from domain.tickets.command import TICKET_LENGTH_EVENTS, UNBOUNDED, Size
from domain.tickets.conversation import AddNote, Reply
from domain.tickets.details import AddTags, ChangeSubject
from domain.tickets.lifecycle import (
    CloseTicket,
    RateTicket,
    ReopenTicket,
    ResolveTicket,
    StatusUpdated,
    TicketClosed,
    TicketResolved,
    UpdateStatus,
)
from domain.tickets.opening import OpenTicket
from domain.tickets.promises import MarkSlaBreach
from domain.tickets.relations import LinkTicket, MergeTicket, TicketLinked, UnlinkTicket
from eventstore.database import Database
from eventstore.event_document import EMPTY, CommandRef, Head, Metadata, chained, utc_now
from eventstore.failures import OutOfTime, StoreUnavailable
from eventstore.log import EventStore
from eventstore.reading import read_events
from projections.generations import Generations
from tests.api.test_api import is_problem, serving
from tests.callers import AGENT, by
from tests.projecting import add, open_some, owning_all, writer
from tests.spec import ALICE, BOB, NOW, OTHER, PAST, given, opened

LONG = 5000


async def lengthened(store, events, body="x", ticket_id=None):
    """Write a long ticket, past all that is decided."""
    ticket_id, head = ticket_id or uuid4(), EMPTY
    note = EventData("NoteAdded", 1, {"body": body})
    while head.version < events:
        first = [encode(opened())] if head.version == 0 else []
        some = first + [note] * min(500 - len(first), events - head.version - len(first))
        about = Metadata(ALICE, CommandRef(uuid4().hex, "f"))
        made = chained(ticket_id, head, some, about, NOW, utc_now())
        await store.append(made)
        head = Head(made[-1].version, made[-1].hash)
    return ticket_id


# --- what is decided ------------------------------------------------------------------------------

ASSIGNED = (opened(), TicketAssigned("alice"))
LINKED = (*ASSIGNED, TicketLinked("relates", OTHER))
PROMISED = opened(sla=SlaTargets(1, None))


@pytest.mark.parametrize(
    "command",
    [
        AddNote(body="x"),
        Reply(body="x"),
        AddTags(tags=("x",)),
        ChangeSubject(subject="x"),
        AssignTicket(assignee="bob"),
        UnassignTicket(),
        FollowTicket(follower="carla"),
        UpdateStatus(status="pending", reason="x"),
        UnlinkTicket(relation="relates", ticket=OTHER),
    ],
    ids=lambda command: type(command).__name__,
)
def test_a_full_ticket_takes_nothing_that_makes_it_longer(command):
    given(*LINKED).full().beside(*LINKED).when(command).refused("ticket_full")


def test_a_full_ticket_that_was_resolved_is_not_reopened():
    """Or that could be done again and again."""
    solved = given(*ASSIGNED, TicketResolved("paper")).full()
    solved.when(ReopenTicket()).refused("ticket_full")
    solved.by("requester", "bob").when(Reply(body="No.")).refused("ticket_full")


def test_what_changes_nothing_is_still_no_refusal():
    given(*ASSIGNED).full().when(AssignTicket(assignee="alice")).then()


def test_a_full_ticket_is_brought_to_its_end():
    full = given(*ASSIGNED).full()
    full.when(ResolveTicket(resolution="paper")).then(TicketResolved("paper"))
    full.when(CloseTicket(reason="spam")).then(TicketClosed("spam"))
    given(opened()).full().when(AssignTicket(assignee="alice")).then(TicketAssigned("alice"))
    for command in (MergeTicket(into=OTHER), LinkTicket(relation="relates", ticket=OTHER)):
        assert full.beside(opened()).when(command)._decide().events
    solved = given(*ASSIGNED, TicketResolved("paper")).full()
    solved.when(CloseTicket()).then(TicketClosed(None))
    rated = solved.by("requester", "bob").when(RateTicket(score=5))
    assert rated._decide().events


def test_what_happens_by_itself_happens_to_a_full_ticket_too():
    """L12: a promise that was missed is put on record, a wait that is over ends."""
    breach = given(PROMISED).full().by("system").when(MarkSlaBreach(target="first_response"))
    assert breach._decide().events
    over = (opened(), StatusUpdated("pending", "asked", NOW - timedelta(minutes=1)))
    given(*over).full().when(UpdateStatus(status="open")).then(StatusUpdated("open", None, None))
    later = (opened(), StatusUpdated("pending", "asked", NOW + timedelta(minutes=1)))
    given(*later).full().when(UpdateStatus(status="open")).refused("ticket_full")


def test_a_reply_to_a_full_ticket_that_is_closed_opens_a_follow_up():
    closed = given(*ASSIGNED, TicketClosed("spam")).full()
    assert closed.by("requester", "bob").when(Reply(body="Again!"))._decide().follow_up


def test_a_full_ticket_goes_on_for_no_other():
    other_full = given(*LINKED).beside(*LINKED).beside_full()
    other_full.when(MergeTicket(into=OTHER)).refused("other_ticket_full")
    other_full.when(UnlinkTicket(relation="relates", ticket=OTHER)).refused("other_ticket_full")


# --- what is counted ------------------------------------------------------------------------------


OPEN = OpenTicket(subject="Printer jam", requester="bob")


@pytest.mark.parametrize("most", [Size(5, 2**20), Size(10_000, 400)], ids=["events", "bytes"])
async def test_a_ticket_is_full_after_so_much_whoever_counts(store, most):
    """In a process that has it in memory, and in one that reads it."""
    warm = Handler(store, most=most)
    ticket = uuid4()
    await warm.handle(ticket, by(BOB, OPEN))
    version = 1
    with suppress(StateConflict):
        while version < 20:
            outcome = await warm.handle(ticket, by(ALICE, AddNote(body="xx" * 20)))
            version = outcome.version
    assert 2 < version < 10
    for handler in (warm, Handler(store, most=most)):
        with pytest.raises(StateConflict) as refused:
            await handler.handle(ticket, by(ALICE, AddNote(body="x")))
        assert refused.value.code == "ticket_full"
    closed = await warm.handle(ticket, by(ALICE, CloseTicket(reason="spam")))
    assert closed.version == version + 1


async def test_what_has_happened_elsewhere_is_imported_however_long_it_is(store):
    ticket = await lengthened(store, 10)
    handler = Handler(store, most=UNBOUNDED)
    assert (await handler.handle(ticket, by(ALICE, AddNote(body="x")))).version == 11


async def test_a_full_ticket_says_what_to_do_and_stays_readable(database, store):
    """L12: by HTTP, with the bound that there is."""
    ticket = await lengthened(store, TICKET_LENGTH_EVENTS)
    async with serving(database, project=False) as client:
        full = await client.post(f"/tickets/{ticket}/add_note", json={"body": "x"}, headers=AGENT)
        is_problem(full, 409, "ticket_full")
        assert "close it" in full.json()["detail"]
        body = {"reason": "invalid"}
        closed = await client.post(f"/tickets/{ticket}/close", json=body, headers=AGENT)
        assert closed.json()["version"] == TICKET_LENGTH_EVENTS + 1
        shown = await client.get(f"/tickets/{ticket}")
        assert (shown.json()["status"], shown.headers["etag"]) == ("closed", '"10001"')


# --- who waits ------------------------------------------------------------------------------------


async def longest_share(working):
    """Return how much of the work was done at a stretch at most, in which nobody else had a turn.

    By this thread's own time: what others do on the machine does not count.
    """
    held: list[float] = []

    async def others():
        while True:
            began = time.thread_time()
            await asyncio.sleep(0)
            held.append(time.thread_time() - began)

    task = asyncio.create_task(others())
    gc.disable()  # looking through all that other tests have left may take long
    try:
        await asyncio.sleep(0)
        began = time.thread_time()
        result = await working
        taken = time.thread_time() - began
    finally:
        gc.enable()
        task.cancel()
    return max(held) / taken, result


ASKED = ["", "?as_of=2100-01-01T00:00:00Z", "/diff", f"/timeline?after={LONG - 5}"]


@pytest.mark.parametrize("path", ASKED)
async def test_others_have_their_turn_while_a_long_ticket_is_asked_for(quick_database, path):
    store = EventStore(quick_database)
    await store.prepare()
    ticket = await lengthened(store, LONG)
    async with serving(quick_database, project=False) as client:
        await client.get(f"/tickets/{uuid4()}")
        share, answer = await longest_share(client.get(f"/tickets/{ticket}{path}"))
    assert answer.status_code == 200
    assert share < 0.2


async def test_others_have_their_turn_while_a_command_reads_a_long_ticket(quick_database):
    store = EventStore(quick_database)
    await store.prepare()
    ticket = await lengthened(store, LONG)
    command = by(ALICE, AddNote(body="x"))
    share, outcome = await longest_share(Handler(store).handle(ticket, command))
    assert outcome.version == LONG + 1
    assert share < 0.2


@pytest.mark.parametrize("again", [True, False], ids=["refold", "gap"])
async def test_others_have_their_turn_while_a_long_ticket_is_projected(quick_database, again):
    store = EventStore(quick_database)
    await store.prepare()
    await Generations(quick_database).prepare()
    ticket = await lengthened(store, LONG)
    owned = await owning_all(quick_database)
    views = writer(quick_database, store)
    last = await store.stored(ticket, after=LONG - 1)
    work = views.refold(owned, ticket) if again else views.write(owned, last)
    share, _ = await longest_share(work)
    assert share < 0.2
    found = await quick_database.collection("ticket_reads").find_one({"_id": ticket})
    assert found is not None
    assert found["version"] == LONG


async def test_no_transaction_is_open_while_a_ticket_that_is_folded_again_is_read(
    database, store, monkeypatch
):
    """L7: an open one would block others for as long as a long ticket takes to be read."""
    await Generations(database).prepare()
    ticket = await lengthened(store, 10)
    owned, views = await owning_all(database), writer(database, store)
    assert await views.refold(owned, ticket) is None
    done: list[str] = []
    in_transaction, stored = Database.in_transaction, EventStore.parts

    async def noted(self, work, **options):
        done.append("transaction")
        return await in_transaction(self, work, **options)

    def read(self, *args, **options):
        done.append("read")
        return stored(self, *args, **options)

    monkeypatch.setattr(Database, "in_transaction", noted)
    monkeypatch.setattr(EventStore, "parts", read)
    await add(store, ticket, "AgentReplied", body="x")
    assert await views.refold(owned, ticket) is None
    assert done == ["read", "transaction"]
    found = await database.collection("ticket_reads").find_one({"_id": ticket})
    assert found is not None
    assert found["version"] == 11


async def test_a_reader_who_goes_away_leaves_what_was_read_to_be_gone_on_from(store):
    """The kept ticket is as it was after some event, and the next command reads the rest."""
    ticket = await lengthened(store, 1000)
    handler = Handler(store)
    reading = asyncio.create_task(handler.handle(ticket, by(ALICE, AddNote(body="x"))))
    await asyncio.wait([reading], timeout=0.05)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    outcome = await handler.handle(ticket, by(ALICE, AddNote(body="y")))
    stored = await store.stored(ticket)
    assert outcome.version == len(stored)
    assert [event["version"] for event in stored] == list(range(1, len(stored) + 1))


# --- how much is read and told --------------------------------------------------------------------


class Counting(EventStore):
    """Counts the events that are read."""

    read = 0

    async def stored(self, ticket_id, **asked):
        found = await super().stored(ticket_id, **asked)
        self.read += len(found)
        return found


async def test_the_past_is_read_no_further_than_it_is_asked_for(database, store):
    ticket = await lengthened(store, 1000)
    counting = Counting(database)
    sight = Visibility(Principal("sam", "supervisor"))

    def history(ticket, upto=None):
        return sight.shown(read_events(counting, ticket, upto=upto))

    _, shown = await past.at_versions(history(ticket, 20), 10, 20)
    assert (shown.version, counting.read) == (20, 20)
    counting.read = 0
    _, shown = await past.at_versions(history(ticket, 600), 10, 600)
    assert (shown.version, counting.read) == (600, 600)
    [early] = await open_some(store, 1, versions=1)
    await lengthened(store, 1000, ticket_id=(later := uuid4()))
    counting.read = 0
    then = PastQuery(as_of=NOW)
    assert (await past.as_it_was(history(early), then.is_later)).version == 1
    with pytest.raises(TicketNotFound):
        await past.as_it_was(history(later), PastQuery(as_of=PAST).is_later)
    assert counting.read <= 501


async def test_a_page_of_a_timeline_ends_after_so_many_bytes(database, store):
    """L9: and the pages are all of it, in order."""
    ticket = await lengthened(store, 60, body="y" * 48_000)
    seen: list[int] = []
    async with serving(database, project=False) as client:
        url = f"/tickets/{ticket}/timeline?limit=1000"
        while url:
            answer = await client.get(url)
            assert len(answer.content) < 2**20 + 2 * 48_000
            told = answer.json()
            assert told["chain"] == "whole"
            seen += [event["version"] for event in told["events"]]
            link = answer.headers.get("link")
            url = link and link[link.index("<") + 1 : link.index(">")]
    assert seen == list(range(1, 61))


async def test_whose_time_ran_out_is_told(store):
    """The database has answered: it was the request that took too long."""
    ticket = await lengthened(store, 100)
    with pytest.raises(OutOfTime) as late:
        async for _ in read_events(store, ticket, longest_seconds=0):
            pass
    assert late.value.code == "out_of_time"


async def test_a_database_that_is_silent_is_not_called_a_request_that_takes_long(
    store, database, monkeypatch
):
    class Silent(EventStore):
        async def stored(self, *_, **__):
            await asyncio.Event().wait()

    monkeypatch.setattr("eventstore.failures.PATIENCE_SECONDS", 0.2)
    with pytest.raises(StoreUnavailable) as silent:
        async for _ in read_events(Silent(database), uuid4(), longest_seconds=0):
            pass
    assert silent.value.code == "store_unavailable"
