"""What holds for every ticket, whatever is done to it and to others."""

from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from datetime import datetime, timedelta
from typing import get_args
from uuid import UUID, uuid5

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from api.commands.ticket_cache import Stream
from domain.actors import Actor
from domain.desk import Desk, SlaPolicy
from domain.errors import HistoryError, Refusal
from domain.sla import SlaTargets
from domain.tickets import COMMANDS, decode, encode
from domain.tickets.assignment import AssignTicket
from domain.tickets.command import Command, Context, Decision, decide, lifecycle
from domain.tickets.conversation import (
    AddNote,
    AgentReplied,
    NoteAdded,
    Reply,
    ReplyForwarded,
    RequesterReplied,
)
from domain.tickets.lifecycle import CloseTicket, RateTicket, ResolveTicket, TicketReopened
from domain.tickets.opening import OpenTicket
from domain.tickets.promises import MarkSlaBreach
from domain.tickets.relations import (
    OPPOSITE,
    SET_BY_PEOPLE,
    UnlinkTicket,
    UnmergeTicket,
)
from domain.tickets.ticket import (
    Link,
    Relation,
    Status,
    Ticket,
    TicketEvent,
    apply,
    clock_at,
    evolve,
)
from eventstore.event_document import EMPTY, CommandRef, Envelope, Metadata, chained
from projections.views import tickets
from tests.spec import ALICE, NOW, TICKET, folded, opened
from tests.strategies import actors, changes, commands, desks, ids, openings

MESSAGES = (AgentReplied, RequesterReplied, ReplyForwarded, NoteAdded)
NOT_OF_A_KIND = (Reply, AddNote)  # saying a thing twice is two messages


class Tickets(RuleBasedStateMachine):
    """Some tickets of one desk, decided on and folded as the handler does it, but purely."""

    def __init__(self) -> None:
        super().__init__()
        self.now: datetime = NOW
        self.desk: Desk = Desk(sla={"normal": SlaPolicy(first_response_minutes=30)})
        self.tickets: dict[UUID, Ticket] = {}
        self.streams: dict[UUID, list[tuple[TicketEvent, datetime]]] = {}

    @initialize(first=openings, second=openings)
    def begin(self, first: OpenTicket, second: OpenTicket) -> None:
        for n, opening in enumerate((first, second), start=1):
            self.submit(UUID(int=n), opening, Actor("bob", "requester"))

    @rule(desk=desks)
    def set_up(self, desk: Desk) -> None:
        self.desk = desk

    @rule(minutes=st.integers(0, 500))
    def wait(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @rule(ticket_id=ids, opening=openings, actor=actors)
    def open(self, ticket_id: UUID, opening: OpenTicket, actor: Actor) -> None:
        self.submit(ticket_id, opening, actor)

    @rule(ticket_id=ids, moves=st.lists(st.tuples(changes, actors), min_size=5, max_size=10))
    def change(self, ticket_id: UUID, moves: list[tuple[Command, Actor]]) -> None:
        for command, actor in moves:
            self.submit(ticket_id, command, actor)

    @rule(ticket_id=ids, closed=st.booleans())
    def solve(self, ticket_id: UUID, closed: bool) -> None:
        """What chance finds rarely: all that it takes, in order."""
        alice = Actor("alice", "agent")
        self.submit(ticket_id, AssignTicket(assignee="alice"), alice)
        self.submit(ticket_id, ResolveTicket(resolution="Done."), alice)
        if closed:
            self.submit(ticket_id, CloseTicket(), alice)

    @rule(ticket_id=ids, score=st.integers(1, 5))
    def hear_the_requester(self, ticket_id: UUID, score: int) -> None:
        if (ticket := self.tickets.get(ticket_id)) is not None:
            requester = Actor(ticket.requester, "requester")
            self.submit(ticket_id, RateTicket(score=score), requester)
            self.submit(ticket_id, Reply(body="Hello?"), requester)

    @rule()
    def keep_time(self) -> None:
        for ticket_id, ticket in list(self.tickets.items()):
            for target, times in clock_at(ticket, self.now).overdue.items():
                for due_at in times:
                    self.submit(ticket_id, MarkSlaBreach(target=target), Actor("clock", "system"))
                    assert self.tickets[ticket_id].sla.breached[target] == due_at

    def submit(self, ticket_id: UUID, command: Command, actor: Actor) -> None:
        before = dict(self.tickets)
        try:
            decision = self.decide(ticket_id, command, actor)
        except Refusal as refusal:
            with pytest.raises(type(refusal)):  # L6: the same again
                self.decide(ticket_id, command, actor)
            return
        assert self.decide(ticket_id, command, actor) == decision  # L6
        if decision.events and (ticket := before.get(ticket_id)) is not None:
            assert command.is_possible(ticket, self.context(ticket_id, command, actor))
        other_id = self.other_of(ticket_id, command)
        follow_up_id = self.follow_up_id(ticket_id)
        self.happen(ticket_id, decision.events)
        if decision.elsewhere:
            assert other_id is not None
            self.happen(other_id, decision.elsewhere)
        self.happen(follow_up_id, decision.follow_up)
        assert decision.events or not (decision.elsewhere or decision.follow_up)
        self.check_moves(before, ticket_id, command)
        if not isinstance(command, UnmergeTicket):
            self.check_closed(before, ticket_id)
        if not isinstance(command, NOT_OF_A_KIND):
            with suppress(Refusal):  # the same command again yields nothing or a refusal
                assert self.decide(ticket_id, command, actor) == Decision()

    def decide(self, ticket_id: UUID, command: Command, actor: Actor) -> Decision:
        context = self.context(ticket_id, command, actor)
        return decide(self.tickets.get(ticket_id), command, context)

    def context(self, ticket_id: UUID, command: Command, actor: Actor) -> Context:
        other_id = self.other_of(ticket_id, command)
        return Context(
            now=self.now,
            actor=actor,
            ticket_id=ticket_id,
            desk=self.desk,
            other=None if other_id is None else self.tickets.get(other_id),
            other_id=other_id,
            merged=self.merged(ticket_id),
            other_merged=frozenset() if other_id is None else self.merged(other_id),
            follow_up_id=self.follow_up_id(ticket_id),
        )

    def other_of(self, ticket_id: UUID, command: Command) -> UUID | None:
        if isinstance(command, Reply):
            return self.last_of(ticket_id)
        if isinstance(command, UnlinkTicket):
            return self.goes_on(command.ticket, ticket_id)
        return command.other_ticket(self.tickets.get(ticket_id))

    def last_of(self, ticket_id: UUID) -> UUID | None:
        """Where the conversation goes on: the last link is enough, for none forks any more."""
        ticket = self.tickets.get(ticket_id)
        if ticket is None or not (ways := ticket.continuations()):
            return None
        return self.last_of(ways[-1]) or ways[-1]

    def goes_on(self, ticket_id: UUID, own: UUID | None = None) -> UUID:
        """What goes on for a ticket, past merges, but not `own`."""
        ticket = self.tickets.get(ticket_id)
        into = None if ticket is None else ticket.merged_into
        return ticket_id if into is None or into == own else self.goes_on(into, own)

    def merged(self, ticket_id: UUID) -> frozenset[UUID]:
        ticket = self.tickets.get(ticket_id)
        found = () if ticket is None else ticket.linked("merged_from")
        return frozenset(found).union(*map(self.merged, found))

    def follow_up_id(self, ticket_id: UUID) -> UUID:
        return uuid5(ticket_id, str(len(self.streams.get(ticket_id, ()))))

    def happen(self, ticket_id: UUID, events: tuple[TicketEvent, ...]) -> None:
        for event in events:
            assert decode(*encode(event, "bob")[:3]) == event  # L10
            before = self.tickets.get(ticket_id)
            kept = deepcopy((before, event))
            after = evolve(before, event, self.now)
            assert (before, event) == kept  # L6
            assert after != before or isinstance(event, MESSAGES)  # no event is without effect
            self.tickets[ticket_id] = after
            self.streams.setdefault(ticket_id, []).append((event, self.now))

    def check_moves(self, before: dict[UUID, Ticket], ticket_id: UUID, command: Command) -> None:
        """Every change of status stands in the lifecycle, and is of the command's own ticket, or of
        the one in which the conversation of a closed one goes on.
        """
        for id_, ticket in before.items():
            status = self.tickets[id_].status
            if status != ticket.status:
                assert id_ == ticket_id or before[ticket_id].status == "closed"
                assert status in lifecycle()[ticket.status][command.verb]

    def check_closed(self, before: dict[UUID, Ticket], ticket_id: UUID) -> None:
        """After closing only tags, links, a rating and the clock's record change; fewer follow.
        So does what a merge has brought.
        """
        old = before.get(ticket_id)
        if old is not None and old.status == "closed":
            new = self.tickets[ticket_id]
            free = ("tags", "links", "rating", "sla", "followers", "last_merge")
            assert replace(new, **{name: getattr(old, name) for name in free}) == old
            assert {*new.followers} <= {*old.followers}
            assert not new.sla.running

    @invariant()
    def no_ticket_contradicts_itself(self) -> None:
        for ticket in self.tickets.values():
            waits = ticket.status in ("pending", "on_hold")
            assert (ticket.waiting_reason is not None) == waits
            assert ticket.resume_at is None or waits
            assert ticket.status != "resolved" or ticket.resolution is not None
            assert ticket.close_reason is None or ticket.status == "closed"
            assert ticket.status != "new" or ticket.assignee is None
            assert ticket.rating is None or 1 <= ticket.rating.score <= 5
            for names in (ticket.tags, ticket.followers):
                assert list(names) == sorted(set(names))
            for things in (ticket.links, ticket.attachments):
                assert len(things) == len(set(things))

    @invariant()
    def no_closed_ticket_has_two_open_follow_ups(self) -> None:
        for ticket in self.tickets.values():
            follow_ups = [self.tickets[each] for each in ticket.linked("followed_up_by")]
            assert sum(each.status != "closed" for each in follow_ups) <= 1

    @invariant()
    def links_hold_on_both_sides(self) -> None:
        """On the tickets that go on for the two, of either or of what was merged into it."""
        for ticket_id, ticket in self.tickets.items():
            for link in ticket.links:
                assert link.ticket != ticket_id
                ours, far_id = {ticket_id}, link.ticket
                if link.relation in SET_BY_PEOPLE:
                    far_id = self.goes_on(far_id)
                    ours |= self.merged(ticket_id)
                    if ticket.merged_into or far_id == ticket_id:
                        continue
                said = self.tickets[far_id].linked(OPPOSITE[link.relation])
                assert not ours.isdisjoint(said)

    @invariant()
    def nobody_is_above_and_below_another(self) -> None:
        for ticket in self.tickets.values():
            relations = [link.relation for link in ticket.links]
            assert relations.count("parent") <= 1
            assert relations.count("merged_into") <= 1
            for link in ticket.links:
                opposite = OPPOSITE[link.relation]
                if opposite != link.relation:
                    assert Link(opposite, link.ticket) not in ticket.links

    @invariant()
    def merged_tickets_are_closed_and_go_on_in_others(self) -> None:
        for ticket in self.tickets.values():
            if any(link.relation == "merged_into" for link in ticket.links):
                assert (ticket.status, ticket.close_reason) == ("closed", "merged")

    @invariant()
    def the_clock_runs_when_it_is_our_turn(self) -> None:
        for ticket_id, ticket in self.tickets.items():
            clock = ticket.sla
            last = self.streams[ticket_id][-1][1]
            over = ticket.resume_at is not None and ticket.resume_at <= last
            assert clock.running == (over or ticket.status in ("new", "open", "on_hold"))
            assert clock.elapsed_ms >= 0
            overdue = [at for times in clock.overdue.values() for at in times]
            assert all(at <= self.now for at in (*overdue, *clock.breached.values()))
            once = {"first_response", "resolution"}  # and the next response many times
            assert not once & clock.overdue.keys() & clock.breached.keys()
            assert not once & clock.due().keys() & (clock.overdue.keys() | clock.breached.keys())

    @invariant()
    def every_ticket_is_the_fold_of_its_stream(self) -> None:
        """L6, L7: and a fold of what was stored, in place, is the same."""
        for ticket_id, stream in self.streams.items():
            ticket = None
            for event, at in stream:
                ticket = apply(ticket, decode(*encode(event, "bob")[:3]), at)
            assert ticket == self.tickets[ticket_id]


Tickets.TestCase.settings = settings(max_examples=120, stateful_step_count=30)
TestTickets = Tickets.TestCase


def test_the_lifecycle_is_reachable_and_ends_where_it_should():
    moves = lifecycle()
    assert set(moves) == set(get_args(Status))
    assert moves["closed"] == {"unmerge": set(get_args(Status)) - {"closed"}}
    others = [ways for state, ways in moves.items() if state != "closed"]
    reached = {to for ways in others for targets in ways.values() for to in targets}
    assert reached == set(get_args(Status)) - {"new"}
    assert all("closed" not in ways.get("update_status", ()) for ways in moves.values())


def sealed_stream(length: int) -> list[Envelope]:
    events: list[TicketEvent] = [opened(), *(NoteAdded(f"{n}") for n in range(1, length))]
    about = Metadata(ALICE, CommandRef("k", "f"))
    return chained(TICKET, EMPTY, [encode(event, "bob") for event in events], about, NOW, NOW)


@pytest.mark.parametrize("command", COMMANDS.values())
def test_every_command_is_tried(command):
    """A command that these strategies forget would break no law here."""
    tries = settings(max_examples=5000, phases=[Phase.generate])  # any will do, not the least one
    find(commands, lambda one: isinstance(one, command), settings=tries)


def test_every_relation_has_its_opposite():
    assert set(OPPOSITE) == set(get_args(Relation))
    assert all(OPPOSITE[OPPOSITE[relation]] == relation for relation in OPPOSITE)


def test_a_history_must_begin_with_the_opening_and_only_once():
    with pytest.raises(HistoryError, match="TicketReopened before the ticket was opened") as early:
        evolve(None, TicketReopened(None), NOW)
    assert early.value.code == "not_opened"
    with pytest.raises(HistoryError, match="twice") as again:
        evolve(folded(opened()), opened(), NOW)
    assert again.value.code == "opened_twice"


class Torn(TicketEvent):
    """Raises when it has changed the ticket by half."""

    def change(self, ticket: Ticket) -> None:
        ticket.enter("closed")
        ticket.fields = {**ticket.fields, "floor": 1}
        raise ArithmeticError


@pytest.mark.parametrize("event", [Torn(), opened()])
def test_a_fold_that_raises_leaves_the_event_and_the_former_state_as_they_were(event):
    """L6."""
    ticket = folded(opened(sla=SlaTargets(30, None), fields={"floor": 2}))
    kept = deepcopy((ticket, event))
    with pytest.raises((ArithmeticError, HistoryError)):
        evolve(ticket, event, NOW)
    assert (ticket, event) == kept


def test_a_stream_whose_fold_has_raised_is_read_anew():
    """L6: what was changed by half is thrown away."""
    stream = Stream(TICKET)
    stream.extend(sealed_stream(2))
    again = encode(opened(), "bob")
    about = Metadata(ALICE, CommandRef("k", "f"))
    with pytest.raises(HistoryError):
        stream.extend(chained(TICKET, stream.head, [again], about, NOW, NOW))
    assert (stream.ticket, stream.head, stream.content_bytes) == (None, EMPTY, 0)
    assert stream.done(ALICE.id, "k") is None
    stream.extend(sealed_stream(2))
    assert stream.ticket == folded(opened(), NoteAdded("1"), at=NOW)


@given(st.permutations(range(4)), st.integers(0, 3))
def test_events_out_of_order_or_missing_are_an_error(order, missing):
    """L8: whoever folds a stream notices; no fold makes sense of half a history."""
    stream = sealed_stream(4)
    wrong = [stream[n] for n in order if n != missing]
    if [e.version for e in wrong] != list(range(1, len(wrong) + 1)):
        for fold in (lambda: Stream(TICKET).extend(wrong), lambda: tickets.fold(None, wrong)):
            with pytest.raises(HistoryError):
                fold()
