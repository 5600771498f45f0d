"""From a command to events in the log, with all that can come between."""

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from api.commands.handler import (
    Handler,
    KeyReused,
    Submission,
    TooContended,
    VersionMismatch,
    new_ticket_id,
)
from api.commands.ticket_cache import Stream
from domain.actors import Actor
from domain.errors import StateConflict, TicketNotFound
from domain.tickets.assignment import AssignTicket, FollowTicket, MoveToGroup
from domain.tickets.conversation import AddNote, Reply
from domain.tickets.details import AddTags
from domain.tickets.lifecycle import CloseTicket, ReopenTicket, ResolveTicket
from domain.tickets.opening import NumberTicket, OpenTicket
from domain.tickets.relations import MergeTicket
from eventstore.event_document import chain_is_whole, fingerprint
from eventstore.failures import OutcomeUnknown, StoreUnavailable, VersionConflict
from eventstore.log import EventStore
from tests.callers import by
from tests.spec import ALICE, BOB

OPEN = OpenTicket(subject="Printer jam", requester="bob")


@pytest.fixture
def database(memory):
    return memory


@pytest.fixture
def handler(store):
    return Handler(store)


@pytest.fixture
async def ticket_id(handler):
    """An opened ticket, assigned to alice: version 2."""
    new = uuid4()
    await handler.handle(new, by(BOB, OPEN))
    await handler.handle(new, by(ALICE, AssignTicket(assignee="alice")))
    return new


async def test_a_command_becomes_events_with_all_that_is_known_of_them(handler, store):
    ticket_id = uuid4()
    happened = datetime(2016, 2, 29, 9, 3, tzinfo=UTC)
    outcome = await handler.handle(
        ticket_id,
        by(BOB, OPEN, key="k", occurred_at=happened, correlation_id="c", causation_id="a"),
    )
    [event] = await store.load(ticket_id)
    assert outcome.events == ((1, "TicketOpened", 1, True),)
    assert outcome.version == event.version == 1
    assert (event.occurred_at, event.metadata.actor) == (happened, BOB)
    assert event.recorded_at > happened
    assert event.metadata.command.id == "k"
    assert (event.metadata.correlation_id, event.metadata.causation_id) == ("c", "a")


async def test_a_ticket_has_its_number_from_its_opening_on(handler, store):
    """L5: also a repeat finds it, and takes no other."""
    first, second = uuid4(), uuid4()
    for _ in range(2):
        await handler.handle(first, by(BOB, OPEN, key="k"))
    await handler.handle(second, by(BOB, OPEN))
    assert [(await store.load(one))[0].data["number"] for one in (first, second)] == [1, 2]
    assert (await handler.handle(first, by(ALICE, NumberTicket()))).events == ()


async def test_a_follow_up_ticket_has_a_number_too(handler, store, ticket_id):
    await handler.handle(ticket_id, by(ALICE, CloseTicket(reason="invalid")))
    outcome = await handler.handle(ticket_id, by(BOB, Reply(body="And now?")))
    assert (await store.load(outcome.follow_up))[0].data["number"] == 2


async def test_several_events_of_a_command_share_its_id(handler, store, ticket_id):
    """L4: moved and unassigned, together."""
    outcome = await handler.handle(ticket_id, by(ALICE, MoveToGroup(group="network")))
    assert [e.type for e in outcome.events] == ["TicketMovedToGroup", "TicketUnassigned"]
    stream = await store.load(ticket_id)
    assert stream[-1].metadata.command == stream[-2].metadata.command
    assert chain_is_whole(await store.stored(ticket_id))


async def test_a_refused_command_changes_nothing(handler, store, ticket_id):
    """L12"""
    before = await store.load(ticket_id)
    with pytest.raises(StateConflict):
        await handler.handle(ticket_id, by(ALICE, OPEN))
    with pytest.raises(TicketNotFound):
        await handler.handle(uuid4(), by(ALICE, AddNote(body="x")))
    assert await store.load(ticket_id) == before


async def test_a_command_that_changes_nothing_gives_the_version_there_is(handler, ticket_id):
    outcome = await handler.handle(ticket_id, by(ALICE, AssignTicket(assignee="alice")))
    assert (outcome.version, outcome.events) == (2, ())


async def test_a_repeat_with_its_key_has_one_effect_and_the_first_answer(handler, ticket_id):
    """L5: also after others have gone on."""
    note = by(ALICE, AddNote(body="odd"), key="k")
    first = await handler.handle(ticket_id, note)
    await handler.handle(ticket_id, by(ALICE, AddNote(body="odd")))
    again = await handler.handle(ticket_id, note)
    assert (again.version, again.events) == (first.version, first.events) == (3, first.events)


async def test_an_opening_with_a_key_opens_one_ticket(handler, store):
    """L5: the key makes the ticket's id, so a repeat meets the ticket it made."""
    ticket_id = new_ticket_id(BOB, "k")
    assert ticket_id == new_ticket_id(BOB, "k") != new_ticket_id(ALICE, "k")
    outcomes = await asyncio.gather(
        *(handler.handle(ticket_id, by(BOB, OPEN, key="k")) for _ in range(10))
    )
    stream = await store.load(ticket_id)
    assert len(stream) == 1
    assert {(o.version, o.events) for o in outcomes} == {(1, ((1, "TicketOpened", 1, True),))}


async def test_an_order_that_is_sent_again_long_after_all_was_done_opens_no_second_ticket(handler):
    """L5"""
    ticket_id, order = new_ticket_id(BOB, "k"), by(BOB, OPEN, key="k")
    first = await handler.handle(ticket_id, order)
    await handler.handle(ticket_id, by(ALICE, CloseTicket(reason="invalid")))
    assert await handler.handle(ticket_id, order) == first._replace(replayed=True)


async def test_a_key_with_another_command_is_refused(handler, ticket_id):
    """L5: never mistaken for a repeat."""
    await handler.handle(ticket_id, by(ALICE, AddNote(body="odd"), key="k"))
    for other in (AddNote(body="even"), Reply(body="odd")):
        with pytest.raises(KeyReused):
            await handler.handle(ticket_id, by(ALICE, other, key="k"))


async def test_the_same_key_of_another_actor_is_another_command(handler, ticket_id):
    first = await handler.handle(ticket_id, by(ALICE, AddNote(body="x"), key="1"))
    second = await handler.handle(ticket_id, by(BOB, Reply(body="y"), key="1"))
    assert (first.version, second.version) == (3, 4)


async def test_a_client_that_decided_on_an_old_version_is_told(handler, ticket_id):
    with pytest.raises(VersionMismatch, match="version 2"):
        await handler.handle(ticket_id, by(ALICE, AddNote(body="x"), expected_version=1))
    outcome = await handler.handle(ticket_id, by(ALICE, AddNote(body="x"), expected_version=2))
    assert outcome.version == 3


async def test_a_repeat_is_answered_as_before_even_if_its_version_is_old(handler, ticket_id):
    """L5: the first time it was right."""
    note = by(ALICE, AddNote(body="x"), expected_version=2, key="k")
    first, again = [await handler.handle(ticket_id, note) for _ in range(2)]
    assert again == first._replace(replayed=True)


async def test_many_at_once_all_get_through_in_some_order(store, ticket_id):
    """L2: whoever is second decides again from the new state."""
    handlers = [Handler(store) for _ in range(5)]
    outcomes = await asyncio.gather(
        *(h.handle(ticket_id, by(ALICE, AddTags(tags=(f"t{i}",)))) for i, h in enumerate(handlers))
    )
    assert sorted(o.version for o in outcomes) == [3, 4, 5, 6, 7]
    stream = await store.load(ticket_id)
    assert [e.version for e in stream] == list(range(1, 8))
    assert chain_is_whole(await store.stored(ticket_id))


async def test_of_two_who_expect_the_same_version_one_is_told(store, ticket_id):
    outcomes = await asyncio.gather(
        *(
            Handler(store).handle(ticket_id, by(ALICE, AddNote(body=f"{i}"), expected_version=2))
            for i in range(2)
        ),
        return_exceptions=True,
    )
    assert sorted(isinstance(o, VersionMismatch) for o in outcomes) == [False, True]


class Unsure(EventStore):
    """A store that loses the connection while it writes: before or after the write."""

    def __init__(self, database, *, after):
        super().__init__(database)
        self.after = after
        self.failures = 0

    async def _write(self, documents):
        self.failures += 1
        if self.failures > 1 or self.after:
            await super()._write(documents)
        if self.failures == 1:
            raise StoreUnavailable


@pytest.mark.parametrize("after", [True, False], ids=["written", "not written"])
async def test_an_unknown_outcome_is_found_out_by_sending_again(database, ticket_id, after):
    """L3, L5: once in the log, whichever it was, and the answer is the true one."""
    unsure = Unsure(database, after=after)
    outcome = await Handler(unsure).handle(ticket_id, by(ALICE, AddNote(body="odd")))
    stream = await unsure.load(ticket_id)
    assert [e.type for e in stream].count("NoteAdded") == 1
    [event] = outcome.events
    assert (event.version, event.type) == (stream[-1].version, "NoteAdded")


async def test_what_was_resolved_meanwhile_is_decided_anew(store, ticket_id):
    """A command decided on stale state is not written: it is refused from the new one."""

    class Overtaken(EventStore):
        overtaken = False

        async def append(self, events, *, sent_before=False):
            if not self.overtaken:
                self.overtaken = True
                await Handler(store).handle(ticket_id, by(ALICE, ResolveTicket(resolution="b")))
            await super().append(events)

    overtaken = Overtaken(store._database)
    with pytest.raises(StateConflict):
        await Handler(overtaken).handle(ticket_id, by(ALICE, ResolveTicket(resolution="a")))


class Contended(EventStore):
    """A store in which others are always first, and the last append is written and then unsure."""

    writes = 0

    async def _write(self, documents):
        self.writes += 1
        if self.writes < 10:
            raise VersionConflict
        await super()._write(documents)
        if self.writes == 10:
            raise StoreUnavailable
        raise AssertionError("it had been written")


async def test_an_unsure_last_attempt_is_found_out_too(store, database, ticket_id):
    """L3, L5: never "nothing was written" when something was."""
    outcome = await Handler(Contended(database)).handle(ticket_id, by(ALICE, AddNote(body="x")))
    assert outcome.version == 3
    assert len(await store.load(ticket_id)) == 3


async def test_a_conflict_with_itself_is_found_out_too(store, database, ticket_id):
    """L5: an append that came through late is what stands in the way of its own repeat."""

    class Late(EventStore):
        appends = 0

        async def append(self, events, *, sent_before=False):
            self.appends += 1
            if self.appends == 10:
                await super().append(events)
            raise VersionConflict

    outcome = await Handler(Late(database)).handle(ticket_id, by(ALICE, AddNote(body="x")))
    assert (outcome.version, outcome.replayed) == (3, True)
    assert len(await store.load(ticket_id)) == 3


async def test_whoever_is_never_first_is_told(store, database, ticket_id):
    class Hopeless(EventStore):
        async def append(self, events, *, sent_before=False):
            raise VersionConflict

    with pytest.raises(TooContended):
        await Handler(Hopeless(database)).handle(ticket_id, by(ALICE, AddNote(body="x")))
    assert len(await store.load(ticket_id)) == 2


async def test_a_store_that_stays_silent_is_waited_for_only_so_long(database, ticket_id):
    class Silent(EventStore):
        async def _write(self, documents):
            raise StoreUnavailable

    silent = Silent(database, patience_seconds=0.5)
    with pytest.raises(OutcomeUnknown):
        await Handler(silent).handle(ticket_id, by(ALICE, AddNote(body="x")))


def test_a_command_is_known_by_what_was_said_and_not_by_defaults():
    """L5: a repeat after an upgrade that added a field with a default is still the same command."""
    said = fingerprint({"command": "reopen", "content": {}})
    reopened = ReopenTicket()
    content = reopened.model_dump(mode="json", exclude_defaults=True)
    assert fingerprint({"command": "reopen", "content": content}) == said


async def test_what_is_kept_of_a_ticket_is_what_its_log_gives(store):
    """What was sealed is not opened again after it was written, and must be the same."""
    handler, one, other = Handler(store), uuid4(), uuid4()
    carla = Actor("carla", "requester")
    order = OpenTicket(subject="Jam \u2028", requester="carla", body="b", fields={"floor": 2})
    for ticket, actor, command in (
        (one, carla, order),
        (one, ALICE, AssignTicket(assignee="alice")),
        (one, ALICE, FollowTicket(follower="dora")),
        (one, carla, Reply(body="It still jams.")),
        (other, ALICE, OpenTicket(subject="Another", requester="bob")),
        (other, ALICE, MergeTicket(into=one)),
    ):
        await handler.handle(ticket, Submission(command=command, actor=actor, key=uuid4().hex))
    for ticket in (one, other):
        read = Stream(ticket)
        read.extend(await store.load(ticket))
        async with handler._cache.locked(ticket) as (kept, _):
            assert (kept.ticket, kept.head, kept._done) == (read.ticket, read.head, read._done)
            assert kept.head.version > 1
