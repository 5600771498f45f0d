"""Tickets that are kept for the next command, and never trusted."""

import asyncio
from uuid import uuid4

import pytest

from api.commands import ticket_cache as streams
from api.commands.handler import Handler, Submission
from api.commands.ticket_cache import TicketCache
from api.commands.ticket_locks import TicketBusy, TicketLocks
from domain.errors import StateConflict
from domain.tickets.assignment import AssignTicket
from domain.tickets.conversation import AddNote
from domain.tickets.details import AddTags, RemoveTags
from domain.tickets.lifecycle import ResolveTicket
from domain.tickets.opening import OpenTicket
from domain.tickets.relations import LinkTicket
from eventstore.log import EventStore
from scripts.testbed.patience import patience
from tests.projecting import open_some, until
from tests.spec import ALICE

OPEN = OpenTicket(subject="x", requester="bob")


@pytest.fixture
def database(memory):
    return memory


class Counting(EventStore):
    loads = 0

    async def stored(self, ticket_id, **asked):
        self.loads += 1
        return await super().stored(ticket_id, **asked)


def by_alice(command, **more):
    return Submission(command=command, actor=ALICE, **more)


async def test_a_warm_command_reads_nothing(store, database):
    counting = Counting(database)
    handler = Handler(counting)
    ticket = uuid4()
    await handler.handle(ticket, by_alice(OPEN))
    for n in range(10):
        await handler.handle(ticket, by_alice(AddNote(body=f"{n}")))
    assert counting.loads == 0


async def test_a_refusal_is_never_made_from_what_was_kept(store, database):
    """Another process has assigned someone: resolving is fine, whatever this one remembers."""
    here, elsewhere = Handler(store), Handler(EventStore(database))
    ticket = uuid4()
    await here.handle(ticket, by_alice(OPEN))
    with pytest.raises(StateConflict):
        await here.handle(ticket, by_alice(ResolveTicket(resolution="x")))
    await elsewhere.handle(ticket, by_alice(AssignTicket(assignee="bob")))
    outcome = await here.handle(ticket, by_alice(ResolveTicket(resolution="x")))
    assert outcome.version == 3


async def test_no_change_is_never_said_from_what_was_kept(store, database):
    here, elsewhere = Handler(store), Handler(EventStore(database))
    ticket = uuid4()
    await here.handle(ticket, by_alice(OPEN))
    await here.handle(ticket, by_alice(AddTags(tags=("a",))))
    await elsewhere.handle(ticket, by_alice(RemoveTags(tags=("a",))))
    outcome = await here.handle(ticket, by_alice(AddTags(tags=("a",))))
    assert (outcome.version, len(outcome.events)) == (4, 1)


async def test_an_expected_version_is_judged_by_the_log(store, database):
    here, elsewhere = Handler(store), Handler(EventStore(database))
    ticket = uuid4()
    await here.handle(ticket, by_alice(OPEN))
    await elsewhere.handle(ticket, by_alice(AddNote(body="x")))
    outcome = await here.handle(ticket, by_alice(AddNote(body="y"), expected_version=2))
    assert outcome.version == 3


async def test_a_key_used_elsewhere_is_found(store, database):
    """L5: by another process, after this one has kept the ticket."""
    here, elsewhere = Handler(store), Handler(EventStore(database))
    ticket = uuid4()
    await here.handle(ticket, by_alice(OPEN))
    first = await elsewhere.handle(ticket, by_alice(AddNote(body="x"), key="k"))
    again = await here.handle(ticket, by_alice(AddNote(body="x"), key="k"))
    assert again == first._replace(replayed=True)


async def test_what_is_kept_is_bounded_by_its_weight(store, database, monkeypatch):
    monkeypatch.setattr(streams, "KEPT_BYTES", 10_000)
    kept = TicketCache(store)
    ids = await open_some(store, 8, versions=3)
    for ticket in ids:
        async with kept.locked(ticket) as (stream, _):
            await kept.refresh(stream)
    assert 1 < len(kept._kept) < 8
    assert list(kept._kept) == ids[-len(kept._kept) :]
    assert kept._kept.currsize == sum(s.weight_bytes for s in kept._kept.values()) <= 10_000
    before = len(kept._kept)
    async with kept.locked(uuid4()) as (stream, _):
        await kept.refresh(stream)
    assert len(kept._kept) == before, "a ticket that is not there is not kept"
    assert not kept._locks._waiting


async def test_what_is_said_weighs_nothing(store):
    """No state keeps the texts of messages, so there is room for more tickets."""
    handler, weights = Handler(store), []
    for body in ("x", "x" * 5000):
        ticket = uuid4()
        await handler.handle(ticket, by_alice(OPEN))
        await handler.handle(ticket, by_alice(AddNote(body=body)))
        weights.append(handler._cache._kept[ticket].weight_bytes)
    assert weights[0] == weights[1]


async def test_one_huge_ticket_does_not_make_room_for_many(store, database, monkeypatch):
    monkeypatch.setattr(streams, "KEPT_BYTES", 300_000)
    handler = Handler(store)
    for _ in range(5):
        huge = OpenTicket(subject="x", requester="bob", body="😀" * 50_000)
        await handler.handle(uuid4(), by_alice(huge))
    assert len(handler._cache._kept) == 1


async def test_turns_with_two_tickets_are_taken_in_one_order(store):
    """Or two commands, each with the turn that the other waits for, would wait for ever."""
    kept = TicketCache(store)
    a, b = sorted((uuid4(), uuid4()))

    async def both(first, second):
        async with kept.locked(first, second) as (stream, other):
            assert other is not None
            assert (stream.ticket_id, other.ticket_id) == (first, second)
            await asyncio.sleep(0)

    async with asyncio.timeout(patience(5)):
        async with kept.locked(a):
            waiting = [asyncio.create_task(both(*pair)) for pair in ((a, b), (b, a))]
            await asyncio.sleep(0.02)  # both stand in line now
        await asyncio.gather(*waiting)


async def test_who_goes_away_while_waiting_for_a_second_ticket_gives_the_first_one_back(store):
    """Or nobody would ever have a turn with it again."""
    kept = TicketCache(store)
    a, b = sorted((uuid4(), uuid4()))

    async def both():
        async with kept.locked(a, b):
            raise AssertionError("it is never its turn")

    async with asyncio.timeout(patience(5)):
        async with kept.locked(b):
            waiting = asyncio.create_task(both())
            await asyncio.sleep(0.02)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        async with kept.locked(a, b) as (stream, other):
            assert other is not None
            assert (stream.ticket_id, other.ticket_id) == (a, b)


async def test_after_a_command_on_two_tickets_both_are_warm(store, database):
    counting = Counting(database)
    handler = Handler(counting)
    a, b = uuid4(), uuid4()
    for ticket in (a, b):
        await handler.handle(ticket, by_alice(OPEN))
    await handler.handle(a, by_alice(LinkTicket(relation="blocks", ticket=b)))
    for ticket in (a, b):
        await handler.handle(ticket, by_alice(AddNote(body="x")))
    assert counting.loads == 0


async def test_whoever_waits_too_long_for_a_ticket_is_told_that_it_is_busy(store):
    """And has neither it nor the other ticket."""
    kept, one, other = TicketCache(store), uuid4(), uuid4()
    async with kept.locked(one):
        with pytest.raises(TicketBusy, match="try again"):
            async with kept.locked(one, other, 0.01):
                raise AssertionError("two have one ticket")
        async with kept.locked(other, None, 0.01):
            pass
    async with kept.locked(one, other, 0.01):
        pass


async def test_a_turn_that_comes_just_when_it_is_given_up_goes_to_the_next():
    locks, ticket, had = TicketLocks(), uuid4(), []

    async def take(name):
        async with locks.hold({ticket}, 10):
            had.append(name)

    async with locks.hold({ticket}, 10):
        first, second = asyncio.create_task(take("first")), asyncio.create_task(take("second"))
        await until(lambda: asyncio.sleep(0, len(locks._waiting[ticket]) == 2))
    first.cancel()  # which has been given its turn, and has not run since
    await second
    assert first.cancelled()
    assert had == ["second"]
    assert not locks._waiting
