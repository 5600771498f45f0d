"""What becomes of a command whose events arrive late, or nobody knows whether they have arrived."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from api.access.keys import Keys
from api.app import create_app
from api.commands.handler import Handler, VersionMismatch
from api.desk.store import Desks
from domain.desk import Desk
from domain.errors import Unacceptable
from domain.tickets.assignment import AssignTicket, MoveToGroup
from domain.tickets.conversation import AddNote, Reply
from domain.tickets.lifecycle import CloseTicket
from domain.tickets.opening import OpenTicket
from domain.tickets.relations import MergeTicket
from eventstore.event_document import TICKET_EVENTS, chain_is_whole
from eventstore.failures import OutcomeUnknown
from eventstore.log import EventStore
from scripts.testbed.wire import passed
from tests.api.test_api import asking
from tests.callers import access, by
from tests.late import happens, hold_appends, hold_commits, hold_inserts_into, late_wire
from tests.spec import ALICE, BOB

OPEN = OpenTicket(subject="Printer jam", requester="bob")
MOVE = MoveToGroup(group="network")
WITH_GROUP = Desk.model_validate({"groups": {"network": ["alice"]}})
WITHOUT_GROUP = Desk.model_validate({"groups": {"print": ["bob"]}})


class ChangingDesks:
    """A desk whose set-up a test changes: what is accepted now may be refused later."""

    def __init__(self) -> None:
        self.desk = Desk()

    async def current(self, *, sure: bool = False) -> Desk:
        return self.desk


@pytest.fixture
def desks():
    return ChangingDesks()


@pytest.fixture
async def wire_and_database(any_database):
    store = EventStore(any_database)
    await store.prepare()
    async with late_wire(any_database.url, any_database.driver) as found:
        yield found


@pytest.fixture
def wire(wire_and_database):
    return wire_and_database[0]


@pytest.fixture
def store(any_database):
    """The log, by a wire that loses nothing."""
    return EventStore(any_database)


@pytest.fixture
def far(wire_and_database, desks):
    """A handler at the end of the wire that loses things, and patient enough for a test."""
    return Handler(EventStore(wire_and_database[1], patience_seconds=30), desks)


@pytest.fixture
def hasty(wire_and_database, desks):
    """One that soon gives up."""
    return Handler(EventStore(wire_and_database[1], patience_seconds=2), desks)


@pytest.fixture
async def ticket(store):
    new = uuid4()
    await Handler(store).handle(new, by(BOB, OPEN))
    return new


@pytest.fixture
async def assigned(store, ticket):
    await Handler(store).handle(ticket, by(ALICE, AssignTicket(assignee="bob")))
    return ticket


async def settled(handler, ticket_id, submission):
    """Send a command again until somebody knows what has become of it."""
    async with asyncio.timeout(60):
        while True:
            with suppress(OutcomeUnknown):
                return await handler.handle(ticket_id, submission)


async def types(store, ticket_id):
    stored = await store.stored(ticket_id)
    assert chain_is_whole(stored)
    return [event["type"] for event in stored]


@pytest.mark.parametrize("first", ["late", "again"])
async def test_an_event_that_arrives_late_was_not_refused_meanwhile(
    wire, far, desks, store, ticket, first
):
    """L12: the group is gone when it would be decided again, and the event is in the log."""
    desks.desk = WITH_GROUP
    wire.heard = hold_appends
    moving = asyncio.create_task(far.handle(ticket, by(ALICE, MOVE)))
    await happens(lambda: wire.held)
    desks.desk = WITHOUT_GROUP
    await happens(lambda: len(wire.held) > 1, moving)  # it has been sent again, or refused
    if first == "late":
        await wire.deliver()
        wire.heard = passed
        outcome = await moving
    else:
        wire.heard = passed
        outcome = await moving
        await wire.deliver()
    assert (outcome.version, outcome.events) == (2, ((2, "TicketMovedToGroup", 2, True),))
    assert await types(store, ticket) == ["TicketOpened", "TicketMovedToGroup"]
    again = await far.handle(ticket, by(ALICE, AddNote(body="and on it goes")))
    assert again.version == 3


async def test_whose_version_is_anothers_is_decided_anew_and_never_arrives(
    wire, far, desks, store, ticket
):
    """L12: now a refusal is true."""
    desks.desk = WITH_GROUP
    wire.heard = hold_appends
    moving = asyncio.create_task(far.handle(ticket, by(ALICE, MOVE)))
    await happens(lambda: wire.held)
    desks.desk = WITHOUT_GROUP
    await Handler(store).handle(ticket, by(BOB, Reply(body="Anybody?")))
    wire.heard = passed
    with pytest.raises(Unacceptable, match="network"):
        await moving
    await wire.deliver()
    assert await types(store, ticket) == ["TicketOpened", "RequesterReplied"]


async def test_who_gives_up_says_that_nobody_knows_and_settles_it_when_asked_again(
    wire, hasty, desks, store, ticket
):
    """L5, L12: the same events are sent again before anything is decided."""
    desks.desk = WITH_GROUP
    wire.heard = hold_appends
    move = by(ALICE, MOVE, key="k")
    with pytest.raises(OutcomeUnknown) as unknown:
        await hasty.handle(ticket, move)
    assert unknown.value.code == "outcome_unknown"
    desks.desk = WITHOUT_GROUP
    with pytest.raises(OutcomeUnknown):
        await hasty.handle(ticket, move)
    wire.heard = passed
    outcome = await settled(hasty, ticket, move)
    assert (outcome.version, outcome.replayed) == (2, True)
    await wire.deliver()
    assert await types(store, ticket) == ["TicketOpened", "TicketMovedToGroup"]
    assert await settled(hasty, ticket, move) == outcome


async def test_who_was_cut_off_while_he_waited_settles_it_when_asked_again(
    wire, far, desks, store, ticket
):
    """L5, L12: a client that went away has left an event on its way."""
    desks.desk = WITH_GROUP
    wire.heard = hold_appends
    move = by(ALICE, MOVE, key="k")
    moving = asyncio.create_task(far.handle(ticket, move))
    await happens(lambda: wire.held)
    moving.cancel()
    await asyncio.gather(moving, return_exceptions=True)
    desks.desk = WITHOUT_GROUP
    wire.heard = passed
    outcome = await far.handle(ticket, move)
    assert outcome.events == ((2, "TicketMovedToGroup", 2, True),)
    await wire.deliver()
    assert await types(store, ticket) == ["TicketOpened", "TicketMovedToGroup"]


async def test_another_command_is_decided_whatever_became_of_the_first(wire, hasty, store, ticket):
    wire.heard = hold_appends
    with pytest.raises(OutcomeUnknown):
        await hasty.handle(ticket, by(ALICE, MOVE, key="k"))
    wire.heard = passed
    await wire.deliver()
    outcome = await settled(hasty, ticket, by(ALICE, CloseTicket(reason="spam"), key="l"))
    assert outcome.version == 3
    assert await types(store, ticket) == ["TicketOpened", "TicketMovedToGroup", "TicketClosed"]


async def test_a_transaction_that_hold_commitsted_late_was_not_refused_meanwhile(
    wire, hasty, far, desks, store, assigned
):
    """L4, L12: several events, whose commit was given up and arrives all the same."""
    desks.desk = WITH_GROUP
    wire.heard = hold_commits
    move = by(ALICE, MOVE, key="k")
    with pytest.raises(OutcomeUnknown):
        await hasty.handle(assigned, move)
    desks.desk = WITHOUT_GROUP
    wire.heard = passed
    moving = asyncio.create_task(settled(hasty, assigned, move))
    await asyncio.wait([moving], timeout=0.2)
    await wire.deliver()
    outcome = await moving
    assert outcome.events == ((3, "TicketMovedToGroup", 3, True), (4, "TicketUnassigned", 4, True))
    told = await types(store, assigned)
    assert told == ["TicketOpened", "TicketAssigned", "TicketMovedToGroup", "TicketUnassigned"]


async def test_two_tickets_whose_events_arrive_late_have_them_once(wire, hasty, store, ticket):
    """L4, L5, L12: and the client is told the truth of both."""
    other = uuid4()
    await Handler(store).handle(other, by(BOB, OPEN))
    wire.heard = hold_commits
    merge = by(ALICE, MergeTicket(into=other), key="k")
    with pytest.raises(OutcomeUnknown):
        await hasty.handle(ticket, merge)
    wire.heard = passed
    merging = asyncio.create_task(settled(hasty, ticket, merge))
    await asyncio.wait([merging], timeout=0.2)
    await wire.deliver()
    outcome = await merging
    assert outcome.events == ((2, "TicketMergedInto", 2, True),)
    assert await types(store, ticket) == ["TicketOpened", "TicketMergedInto"]
    assert await types(store, other) == ["TicketOpened", "TicketMergedFrom"]


async def test_two_tickets_of_which_one_has_gone_on_are_decided_anew(wire, far, store, ticket):
    """L4, L12: nothing of the first attempt can arrive any more, on neither."""
    other = uuid4()
    await Handler(store).handle(other, by(BOB, OPEN))
    wire.heard = hold_inserts_into(TICKET_EVENTS)
    merging = asyncio.create_task(far.handle(ticket, by(ALICE, MergeTicket(into=other))))
    await happens(lambda: wire.held)
    await Handler(store).handle(other, by(ALICE, CloseTicket(reason="spam")))
    wire.heard = passed
    with pytest.raises(Exception, match="closed"):
        await merging
    assert await types(store, ticket) == ["TicketOpened"]
    assert await types(store, other) == ["TicketOpened", "TicketClosed"]


async def test_of_many_tickets_what_nobody_knows_of_is_not_called_refused(
    wire, wire_and_database, any_database, store, ticket
):
    """L12: by HTTP. Sent again with its key, each is done once."""
    other = uuid4()
    await Handler(store).handle(other, by(BOB, OPEN))
    far = EventStore(wire_and_database[1], patience_seconds=2)
    app = create_app(wire_and_database[1], far, access=access(any_database))
    missing = uuid4()
    body = {"tickets": [str(t) for t in (ticket, missing, other)], "command": {"body": "x"}}
    headers = {"Idempotency-Key": "k"}
    async with asking(app) as client:
        wire.heard = hold_appends
        first = (await client.post("/bulk/add_note", json=body, headers=headers)).json()
        wire.heard = passed
        again = first
        async with asyncio.timeout(60):
            while again["failed"]:
                again = (await client.post("/bulk/add_note", json=body, headers=headers)).json()
    assert [o["status"] for o in first["outcomes"]] == [503, 404, 503]
    assert first["outcomes"][0]["problem"]["code"] == "outcome_unknown"
    assert (first["done"], first["refused"], first["failed"]) == (0, 1, 2)
    assert (again["done"], again["refused"], again["failed"]) == (2, 1, 0)
    for one in (ticket, other):
        assert await types(store, one) == ["TicketOpened", "NoteAdded"]


async def test_a_wait_that_is_over_meanwhile_was_not_refused_meanwhile(
    wire, wire_and_database, any_database, store, ticket
):
    """L12: by HTTP. `resume_at` lies in the past when the database answers again."""
    app = create_app(
        wire_and_database[1],
        EventStore(wire_and_database[1], patience_seconds=30),
        access=access(any_database),
    )
    async with asking(app) as client:

        async def send(seconds):
            over = datetime.now(UTC) + timedelta(seconds=seconds)
            body = {"status": "pending", "reason": "x", "resume_at": over.isoformat()}
            sent = asyncio.create_task(client.post(f"/tickets/{ticket}/update_status", json=body))
            await happens(lambda: wire.held, sent)
            return over, sent

        wire.heard = hold_appends
        over, waiting = await send(2)
        if not wire.held:  # a slow machine: it was over already when it was first decided
            over, waiting = await send(10)
        await happens(lambda: datetime.now(UTC) > over)
        sent_again = len(wire.held)
        await happens(lambda: len(wire.held) > sent_again, waiting)
        wire.heard = passed
        await wire.deliver()
        answer = await waiting
    assert (answer.status_code, answer.json()["version"]) == (200, 2)
    assert await types(store, ticket) == ["TicketOpened", "StatusUpdated"]


async def test_a_set_up_that_arrives_late_was_not_refused(wire, wire_and_database, any_database):
    """L12: nor is it when the client sends it again, with the version it was decided on."""
    here, far = Desks(any_database), Desks(wire_and_database[1])
    wire.heard = hold_inserts_into("desks")
    changing = asyncio.create_task(far.replace(WITH_GROUP, ALICE, 0))
    await happens(lambda: wire.held)
    await wire.deliver()
    wire.heard = passed
    made = await changing
    assert (made.version, made.desk) == (1, WITH_GROUP)
    assert await far.replace(WITH_GROUP, ALICE, 0) == made
    with pytest.raises(VersionMismatch):
        await here.replace(WITH_GROUP, BOB, 0)
    assert (await here.read()).version == 1


async def test_the_first_key_is_not_lost_with_the_answer(
    wire, wire_and_database, any_database, tmp_path
):
    """Its text is known to nobody else: taken for another's it would be gone."""
    wire.heard = hold_inserts_into("api_keys")
    making = asyncio.create_task(Keys(wire_and_database[1]).make_first(tmp_path / "admin-key"))
    await happens(lambda: wire.held)
    await wire.deliver()
    wire.heard = passed
    made = await making
    assert made is not None
    assert (await Keys(any_database).principal(made[0])).role == "admin"
