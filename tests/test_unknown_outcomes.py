"""What becomes of a command whose events arrive late, or nobody knows whether they have arrived."""

import asyncio
from uuid import uuid4

import pytest

from api.handle import Handler, Submission
from domain.commands import (
    AddNote,
    AssignTicket,
    CloseTicket,
    MergeTicket,
    MoveToGroup,
    OpenTicket,
    Reply,
)
from domain.desk import Desk
from domain.errors import Unacceptable
from eventstore.envelope import chain_is_whole
from eventstore.failures import OutcomeUnknown
from eventstore.store import EventStore
from tests.late import happens, is_append, is_commit, late_wire, never
from tests.spec import ALICE, BOB

OPEN = OpenTicket(subject="Printer jam", requester="bob")
MOVE = MoveToGroup(group="network")
WITH_GROUP = Desk.model_validate({"groups": {"network": ["alice"]}})
WITHOUT_GROUP = Desk.model_validate({"groups": {"print": ["bob"]}})


class Desks:
    """A desk whose set-up a test changes: what is accepted now may be refused later."""

    def __init__(self) -> None:
        self.desk = Desk()

    async def current(self, *, sure: bool = False) -> Desk:
        return self.desk


@pytest.fixture
def desks():
    return Desks()


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


def by(actor, command, **more):
    return Submission(command=command, actor=actor, **more)


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
    wire.holds = is_append
    moving = asyncio.create_task(far.handle(ticket, by(ALICE, MOVE)))
    await happens(lambda: wire.held)
    desks.desk = WITHOUT_GROUP
    await happens(lambda: len(wire.held) > 1, moving)  # it has been sent again, or refused
    if first == "late":
        await wire.deliver()
        wire.holds = never
        outcome = await moving
    else:
        wire.holds = never
        outcome = await moving
        await wire.deliver()
    assert (outcome.version, outcome.events) == (2, ((2, "TicketMovedToGroup"),))
    assert await types(store, ticket) == ["TicketOpened", "TicketMovedToGroup"]
    again = await far.handle(ticket, by(ALICE, AddNote(body="and on it goes")))
    assert again.version == 3


async def test_whose_version_is_anothers_is_decided_anew_and_never_arrives(
    wire, far, desks, store, ticket
):
    """L12: now a refusal is true."""
    desks.desk = WITH_GROUP
    wire.holds = is_append
    moving = asyncio.create_task(far.handle(ticket, by(ALICE, MOVE)))
    await happens(lambda: wire.held)
    desks.desk = WITHOUT_GROUP
    await Handler(store).handle(ticket, by(BOB, Reply(body="Anybody?")))
    wire.holds = never
    with pytest.raises(Unacceptable, match="network"):
        await moving
    await wire.deliver()
    assert await types(store, ticket) == ["TicketOpened", "RequesterReplied"]


async def test_who_gives_up_says_that_nobody_knows_and_settles_it_when_asked_again(
    wire, hasty, desks, store, ticket
):
    """L5, L12: the same events are sent again before anything is decided."""
    desks.desk = WITH_GROUP
    wire.holds = is_append
    move = by(ALICE, MOVE, key="k")
    with pytest.raises(OutcomeUnknown) as unknown:
        await hasty.handle(ticket, move)
    assert unknown.value.code == "outcome_unknown"
    desks.desk = WITHOUT_GROUP
    with pytest.raises(OutcomeUnknown):
        await hasty.handle(ticket, move)
    wire.holds = never
    outcome = await hasty.handle(ticket, move)
    assert (outcome.version, outcome.replayed) == (2, True)
    await wire.deliver()
    assert await types(store, ticket) == ["TicketOpened", "TicketMovedToGroup"]
    assert await hasty.handle(ticket, move) == outcome


async def test_who_was_cut_off_while_he_waited_settles_it_when_asked_again(
    wire, far, desks, store, ticket
):
    """L5, L12: a client that went away has left an event on its way."""
    desks.desk = WITH_GROUP
    wire.holds = is_append
    move = by(ALICE, MOVE, key="k")
    moving = asyncio.create_task(far.handle(ticket, move))
    await happens(lambda: wire.held)
    moving.cancel()
    await asyncio.gather(moving, return_exceptions=True)
    desks.desk = WITHOUT_GROUP
    wire.holds = never
    outcome = await far.handle(ticket, move)
    assert outcome.events == ((2, "TicketMovedToGroup"),)
    await wire.deliver()
    assert await types(store, ticket) == ["TicketOpened", "TicketMovedToGroup"]


async def test_another_command_is_decided_whatever_became_of_the_first(wire, hasty, store, ticket):
    wire.holds = is_append
    with pytest.raises(OutcomeUnknown):
        await hasty.handle(ticket, by(ALICE, MOVE, key="k"))
    wire.holds = never
    await wire.deliver()
    outcome = await hasty.handle(ticket, by(ALICE, CloseTicket(reason="spam"), key="l"))
    assert outcome.version == 3
    assert await types(store, ticket) == ["TicketOpened", "TicketMovedToGroup", "TicketClosed"]


async def test_a_transaction_that_is_committed_late_was_not_refused_meanwhile(
    wire, hasty, far, desks, store, assigned
):
    """L4, L12: several events, whose commit was given up and arrives all the same."""
    desks.desk = WITH_GROUP
    wire.holds = is_commit
    move = by(ALICE, MOVE, key="k")
    with pytest.raises(OutcomeUnknown):
        await hasty.handle(assigned, move)
    desks.desk = WITHOUT_GROUP
    wire.holds = never
    moving = asyncio.create_task(hasty.handle(assigned, move))
    await asyncio.wait([moving], timeout=0.2)
    await wire.deliver()
    try:
        outcome = await moving
    except OutcomeUnknown:  # on a slow machine: it is the one answer that is always true
        outcome = await hasty.handle(assigned, move)
    assert outcome.events == ((3, "TicketMovedToGroup"), (4, "TicketUnassigned"))
    told = await types(store, assigned)
    assert told == ["TicketOpened", "TicketAssigned", "TicketMovedToGroup", "TicketUnassigned"]


async def test_two_tickets_whose_events_arrive_late_have_them_once(wire, hasty, store, ticket):
    """L4, L5, L12: and the client is told the truth of both."""
    other = uuid4()
    await Handler(store).handle(other, by(BOB, OPEN))
    wire.holds = is_commit
    merge = by(ALICE, MergeTicket(into=other), key="k")
    with pytest.raises(OutcomeUnknown):
        await hasty.handle(ticket, merge)
    wire.holds = never
    merging = asyncio.create_task(hasty.handle(ticket, merge))
    await asyncio.wait([merging], timeout=0.2)
    await wire.deliver()
    try:
        outcome = await merging
    except OutcomeUnknown:
        outcome = await hasty.handle(ticket, merge)
    assert outcome.events == ((2, "TicketMergedInto"),)
    assert await types(store, ticket) == ["TicketOpened", "TicketMergedInto"]
    assert await types(store, other) == ["TicketOpened", "TicketMergedFrom"]


async def test_two_tickets_of_which_one_has_gone_on_are_decided_anew(wire, far, store, ticket):
    """L4, L12: nothing of the first attempt can arrive any more, on neither."""
    other = uuid4()
    await Handler(store).handle(other, by(BOB, OPEN))
    wire.holds = lambda message: b"\x02insert\x00" in message
    merging = asyncio.create_task(far.handle(ticket, by(ALICE, MergeTicket(into=other))))
    await happens(lambda: wire.held)
    await Handler(store).handle(other, by(ALICE, CloseTicket(reason="spam")))
    wire.holds = never
    with pytest.raises(Exception, match="closed"):
        await merging
    assert await types(store, ticket) == ["TicketOpened"]
    assert await types(store, other) == ["TicketOpened", "TicketClosed"]
