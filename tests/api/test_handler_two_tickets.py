"""Commands on two tickets, from the request to both streams."""

import asyncio
from contextlib import suppress
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.commands.handler import Handler, KeyReused, VersionMismatch
from api.queries.representations import Tickets
from api.queries.watermark import ReadModels
from api.ticket_links import leads_to
from domain.errors import Refusal, StateConflict, TicketNotFound, Unacceptable
from domain.tickets import decode
from domain.tickets.command import Command
from domain.tickets.conversation import AddNote, Reply
from domain.tickets.lifecycle import CloseTicket
from domain.tickets.opening import OpenTicket
from domain.tickets.relations import (
    OPPOSITE,
    SET_BY_PEOPLE,
    LinkTicket,
    MergeTicket,
    TicketLinked,
    UnlinkTicket,
    UnmergeTicket,
)
from domain.tickets.ticket import Link, evolve
from eventstore.event_document import chain_is_whole
from eventstore.failures import StoreUnavailable
from eventstore.log import EventStore
from projections.views.tickets import to_document
from scripts.testbed.patience import patience
from tests.callers import by
from tests.memory import MemoryDatabase
from tests.spec import ALICE, BOB, folded, opened

OPEN = OpenTicket(subject="Printer jam", requester="bob", priority="high")


@pytest.fixture
def database(memory):
    return memory


@pytest.fixture
def handler(store):
    return Handler(store)


@pytest.fixture
async def pair(handler):
    """Two opened tickets, both at version 1."""
    ids = uuid4(), uuid4()
    for new in ids:
        await handler.handle(new, by(BOB, OPEN))
    return ids


async def ticket_of(store, ticket_id):
    ticket = None
    for e in await store.load(ticket_id):
        ticket = evolve(ticket, decode(e.type, e.schema, e.data), e.occurred_at)
    return ticket


async def tickets_of(store):
    """Fold every stream in the log."""
    return {ticket_id: await ticket_of(store, ticket_id) for ticket_id in await store.heads()}


async def types(store, ticket_id):
    return [e.type for e in await store.load(ticket_id)]


async def test_a_link_is_in_both_streams_and_says_what_it_came_of(handler, store, pair):
    """L4"""
    here, there = pair
    link = by(ALICE, LinkTicket(relation="blocks", ticket=there), key="k", correlation_id="c")
    outcome = await handler.handle(here, link)
    assert (outcome.ticket_id, outcome.version) == (here, 2)
    assert outcome.events == ((2, "TicketLinked", 1, False),)
    mine, theirs = [(await store.load(ticket))[-1] for ticket in pair]
    assert theirs.metadata.causation_id == str(mine.id)
    assert mine.metadata.causation_id is None
    assert mine.metadata.correlation_id == theirs.metadata.correlation_id == "c"
    assert (await ticket_of(store, there)).links == (Link("blocked_by", here),)
    for ticket in pair:
        assert chain_is_whole(await store.stored(ticket))


async def test_a_repeat_is_answered_as_before_and_a_key_belongs_to_one_ticket(handler, store, pair):
    """L5"""
    here, there = pair
    link = by(ALICE, LinkTicket(relation="blocks", ticket=there), key="k")
    first = await handler.handle(here, link)
    await handler.handle(here, by(ALICE, UnlinkTicket(relation="blocks", ticket=there)))
    again = await handler.handle(here, link)
    assert again == first._replace(replayed=True)
    assert (await ticket_of(store, here)).links == ()
    note = by(ALICE, AddNote(body="x"), key="k")
    assert (await handler.handle(there, note)).version == 4
    with pytest.raises(KeyReused):
        await handler.handle(here, note)


async def test_what_one_handler_keeps_of_the_other_ticket_is_never_trusted(store, pair):
    """Another process has closed it: a merge is refused, from whatever was kept."""
    here, elsewhere = Handler(store), Handler(store)
    a, b = pair
    await here.handle(b, by(ALICE, AddNote(body="seen")))
    await elsewhere.handle(b, by(ALICE, CloseTicket(reason="spam")))
    with pytest.raises(StateConflict) as refused:
        await here.handle(a, by(ALICE, MergeTicket(into=b)))
    assert refused.value.code == "merge_target_solved"
    assert await types(store, a) == ["TicketOpened"]


async def test_a_conflict_on_the_other_ticket_is_decided_anew(store, pair):
    """L2, L4: nothing of the first attempt stays on either."""
    here, elsewhere = Handler(store), Handler(store)
    a, b = pair
    await here.handle(b, by(ALICE, AddNote(body="seen")))
    await elsewhere.handle(b, by(ALICE, AddNote(body="not seen")))
    outcome = await here.handle(a, by(ALICE, MergeTicket(into=b)))
    assert outcome.version == 2
    assert await types(store, a) == ["TicketOpened", "TicketMergedInto"]
    assert (await types(store, b))[-1] == "TicketMergedFrom"
    assert len(await store.load(b)) == 4


async def test_opposite_merges_in_one_process_do_not_wait_for_each_other(handler, store):
    for _ in range(10):
        a, b = uuid4(), uuid4()
        for new in (a, b):
            await handler.handle(new, by(BOB, OPEN))
        async with asyncio.timeout(patience(10)):
            outcomes = await asyncio.gather(
                handler.handle(a, by(ALICE, MergeTicket(into=b))),
                handler.handle(b, by(ALICE, MergeTicket(into=a))),
                return_exceptions=True,
            )
        assert sorted(isinstance(o, StateConflict) for o in outcomes) == [False, True]


async def test_a_ticket_named_as_its_own_other_is_refused_and_waits_for_nothing(handler, pair):
    async with asyncio.timeout(patience(5)):
        with pytest.raises(Unacceptable):
            await handler.handle(pair[0], by(ALICE, MergeTicket(into=pair[0])))


async def test_an_other_ticket_that_is_not_there_is_refused(handler, store, pair):
    """L12: nothing is made for it."""
    nobody = uuid4()
    for command in (MergeTicket(into=nobody), LinkTicket(relation="relates", ticket=nobody)):
        with pytest.raises(Unacceptable) as refused:
            await handler.handle(pair[0], by(ALICE, command))
        assert refused.value.code == "unknown_ticket"
    with pytest.raises(TicketNotFound):
        await handler.handle(nobody, by(ALICE, MergeTicket(into=pair[0])))
    assert await types(store, nobody) == []


async def test_an_expected_version_is_that_of_the_tickets_own(handler, pair):
    a, b = pair
    await handler.handle(b, by(ALICE, AddNote(body="x")))
    with pytest.raises(VersionMismatch):
        await handler.handle(a, by(ALICE, MergeTicket(into=b), expected_version=2))
    merge = by(ALICE, MergeTicket(into=b), expected_version=1)
    assert (await handler.handle(a, merge)).version == 2


@pytest.fixture
async def closed(handler, pair):
    await handler.handle(pair[0], by(ALICE, CloseTicket(reason="invalid")))
    return pair[0]


async def test_a_reply_to_a_closed_ticket_opens_one_follow_up_however_often_it_is_sent(
    handler, store, database, closed
):
    """L5: the answer names it, the first time and again; at once and later."""
    reply = by(BOB, Reply(body="Again!"), key="k")
    elsewhere = Handler(EventStore(database))
    outcomes = await asyncio.gather(
        *(who.handle(closed, reply) for who in (handler, elsewhere) for _ in range(5))
    )
    outcomes.append(await handler.handle(closed, reply))
    [follow_up] = {o.follow_up for o in outcomes}
    assert follow_up is not None
    assert {(o.ticket_id, o.version) for o in outcomes} == {(closed, 3)}
    assert await types(store, follow_up) == ["TicketOpened", "TicketLinked"]
    new = await ticket_of(store, follow_up)
    assert (new.status, new.body, new.requester, new.priority) == ("new", "Again!", "bob", "high")
    assert new.links == (Link("follows_up", closed),)
    assert (await ticket_of(store, closed)).links == (Link("followed_up_by", follow_up),)
    assert len(await tickets_of(store)) == 3


async def test_later_replies_to_a_closed_ticket_go_to_its_open_follow_up(handler, store, closed):
    """Also the same words: saying a thing twice is two messages. A repeat is none (L5)."""
    replies = [by(BOB, Reply(body="Again!"), key=key) for key in ("k", "l", None, None)]
    outcomes = [await handler.handle(closed, reply) for reply in (*replies, *replies[:2])]
    [follow_up] = {o.follow_up for o in outcomes}
    assert await types(store, follow_up) == [
        "TicketOpened",
        "TicketLinked",
        *["RequesterReplied"] * 3,
    ]
    assert [o.follow_up_version for o in outcomes] == [2, 3, 4, 5, 5, 5]
    assert await types(store, closed) == [
        "TicketOpened",
        "TicketClosed",
        "TicketLinked",
        *["ReplyForwarded"] * 3,
    ]
    await handler.handle(follow_up, by(ALICE, CloseTicket(reason="invalid")))
    [later] = {
        (await handler.handle(t, by(BOB, Reply(body="x")))).follow_up for t in (closed, follow_up)
    }
    assert (await ticket_of(store, later)).links == (Link("follows_up", follow_up),)


async def test_replies_to_a_closed_ticket_at_once_open_one_follow_up(store, database, closed):
    """L2: also from two processes, neither of which has seen the other's."""
    handlers = Handler(store), Handler(EventStore(database))
    outcomes = await asyncio.gather(
        *(handlers[n % 2].handle(closed, by(BOB, Reply(body=f"{n}"))) for n in range(6))
    )
    [follow_up] = {outcome.follow_up for outcome in outcomes}
    said = [e.data["body"] for e in await store.load(follow_up) if "body" in e.data]
    assert sorted(said) == [f"{n}" for n in range(6)]


async def test_a_reply_and_an_unmerge_at_once_leave_no_word_behind(store, database, pair):
    """L12: what is said is said where the one that came first has led."""
    a, b = pair
    for n in range(5):
        await Handler(store).handle(a, by(ALICE, MergeTicket(into=b)))
        handlers = Handler(store), Handler(EventStore(database))
        reply, undone = await asyncio.gather(
            handlers[0].handle(a, by(BOB, Reply(body=f"{n}"))),
            handlers[1].handle(a, by(ALICE, UnmergeTicket())),
        )
        assert undone.events[-1].type == "TicketUnmerged"
        there = b if reply.follow_up else a
        assert f"{n}" in [e.data.get("body") for e in await store.load(there)]
    assert (await ticket_of(store, a)).status == "new"
    assert (await ticket_of(store, b)).links == ()


async def test_only_such_replies_name_a_follow_up(handler, pair):
    outcome = await handler.handle(pair[0], by(BOB, Reply(body="Hello?"), key="k"))
    again = await handler.handle(pair[0], by(BOB, Reply(body="Hello?"), key="k"))
    linked = await handler.handle(pair[0], by(ALICE, LinkTicket(relation="blocks", ticket=pair[1])))
    assert outcome.follow_up is again.follow_up is linked.follow_up is None


async def test_a_follow_up_whose_outcome_is_unknown_is_found_out(store, database, closed):
    """L3, L5: written or not, in the end there is one."""
    replied = by(BOB, Reply(body="Again!"))
    follow_ups = set()
    for after in (True, False):

        class Unsure(EventStore):
            failed = False
            written_first = after

            async def _write(self, documents):
                if self.failed or self.written_first:
                    await super()._write(documents)
                if not self.failed:
                    self.failed = True
                    raise StoreUnavailable

        follow_ups.add((await Handler(Unsure(database)).handle(closed, replied)).follow_up)
    [follow_up] = follow_ups
    assert await types(store, follow_up) == ["TicketOpened", "TicketLinked", "RequesterReplied"]
    assert len(await tickets_of(store)) == 3


async def test_a_link_is_left_out_on_no_ticket_that_is_known_as_it_was(store, pair):
    """L4: another process has taken it away there meanwhile."""
    here, elsewhere = Handler(store), Handler(store)
    a, b = pair
    link = LinkTicket(relation="relates", ticket=b)
    await here.handle(a, by(ALICE, link))
    await elsewhere.handle(a, by(ALICE, UnlinkTicket(relation="relates", ticket=b)))
    await here.handle(a, by(ALICE, AddNote(body="a is read anew, and b is not")))
    await here.handle(a, by(ALICE, link))
    assert (await ticket_of(store, b)).links == (Link("relates", a),)


def blocking(*blocked):
    return folded(opened(), *(TicketLinked("blocks", each) for each in blocked))


async def test_no_more_tickets_are_read_than_a_ring_takes_to_find():
    """And never more than 200, whatever they lead to."""
    ring, other, read = UUID(int=1), UUID(int=2), []

    async def reading(ticket_id):
        read.append(ticket_id)
        return blocking(UUID(int=len(read) + 9), UUID(int=len(read) + 1000))

    assert await leads_to(ring, blocking(other, ring), "blocks", reading)
    assert read == [ring]
    assert not await leads_to(ring, blocking(other), "blocks", reading)
    assert len(read) == 201


async def test_a_ring_is_looked_for_from_the_side_that_has_fewer_links(handler, store):
    first, hub, *rest = [uuid4() for _ in range(8)]
    for new in (first, hub, *rest):
        await handler.handle(new, by(BOB, OPEN))
    await handler.handle(first, by(ALICE, LinkTicket(relation="blocks", ticket=hub)))
    for each in rest:
        await handler.handle(hub, by(ALICE, LinkTicket(relation="blocks", ticket=each)))
    read = []

    class NoViews(ReadModels):
        def __init__(self):
            pass

        async def any_ticket(self, ticket_id):
            read.append(ticket_id)

    shown = Tickets(store, NoViews())
    assert await shown.rings(to_document(await shown.current(hub))) == []
    assert {*read} == {hub, first}


TICKETS = [UUID(int=n) for n in range(1, 6)]
numbers = st.integers(0, 4)
verbs = st.sampled_from(["link", "link", "unlink", "merge", "unmerge"])
relations = st.sampled_from(["relates", "relates", "blocks", "parent"])
steps = st.lists(st.tuples(numbers, verbs, numbers, relations), min_size=8, max_size=16)


@settings(max_examples=50)
@given(steps)
def test_both_sides_of_a_link_agree_whatever_was_linked_and_merged(steps):
    """Each ticket that goes on says of another what that one says of it, or of what was merged into
    it; also when merges are undone. Undone at once, a merge leaves all links as they were.
    """
    asyncio.run(link_and_merge(steps, MemoryDatabase()))


async def link_and_merge(steps, database):
    store = EventStore(database)
    handler = Handler(store)
    for new in TICKETS:
        await handler.handle(new, by(BOB, OPEN))
    for number, verb, far, relation in steps:
        ticket, other = TICKETS[number], TICKETS[far]
        command: Command = UnmergeTicket()
        if verb == "link":
            command = LinkTicket(relation=relation, ticket=other)
        elif verb == "unlink":
            mine = (await ticket_of(store, ticket)).links
            links = [link for link in mine if link.relation in SET_BY_PEOPLE]
            if not links:
                continue
            link = links[far % len(links)]
            command = UnlinkTicket(relation=link.relation, ticket=link.ticket)
        elif verb == "merge":
            command = MergeTicket(into=other)
        before = await links_of(store)
        with suppress(Refusal):
            done = await handler.handle(ticket, by(ALICE, command))
            agree(await tickets_of(store))
            if verb == "merge" and done.events:
                await handler.handle(ticket, by(ALICE, UnmergeTicket()))
                assert await links_of(store) == before
                await handler.handle(ticket, by(ALICE, command))
    for ticket in TICKETS * len(TICKETS):
        with suppress(Refusal):
            await handler.handle(ticket, by(ALICE, UnmergeTicket()))
            agree(await tickets_of(store))


async def links_of(store):
    return {ticket_id: {*ticket.links} for ticket_id, ticket in (await tickets_of(store)).items()}


def agree(tickets):
    def goes_on(ticket_id):
        into = tickets[ticket_id].merged_into
        return ticket_id if into is None else goes_on(into)

    for ticket_id, ticket in tickets.items():
        assert len({*ticket.links}) == len(ticket.links)
        for link in ticket.links:
            far = goes_on(link.ticket)
            if link.relation in SET_BY_PEOPLE and not ticket.merged_into and far != ticket_id:
                said = tickets[far].linked(OPPOSITE[link.relation])
                assert ticket_id in map(goes_on, said), (ticket_id, link)
