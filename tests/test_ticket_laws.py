"""What holds for every ticket, whatever is done to it."""

from contextlib import suppress
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import HistoryError, Refusal
from domain.events import (
    Actor,
    AgentReplied,
    NoteAdded,
    RequesterReplied,
    Status,
    TicketEvent,
    TicketOpened,
    TicketReopened,
    decode,
    encode,
)
from domain.ticket import (
    LIFECYCLE,
    AddNote,
    Command,
    Context,
    OpenTicket,
    Reply,
    Ticket,
    decide,
    evolve,
    verb,
)
from tests.spec import BOB, NOW, folded, opened
from tests.strategies import actors, commands, openings

Moves = list[tuple[Command, Actor]]
histories = st.tuples(openings, st.lists(st.tuples(commands, actors), max_size=15))


def play(
    history: tuple[OpenTicket, Moves],
) -> list[tuple[Ticket | None, Command, list[TicketEvent]]]:
    """Run commands one after the other; give what each led to, and the ticket before it."""
    opening, moves = history
    ticket: Ticket | None = None
    played = []
    for command, actor in [(opening, BOB), *moves]:
        try:
            events = decide(ticket, command, Context(NOW, actor))
        except Refusal:
            events = ()
        played.append((ticket, command, list(events)))
        for event in events:
            ticket = evolve(ticket, event)
    return played


@given(histories)
def test_every_change_of_status_stands_in_the_lifecycle(history):
    for before, command, events in play(history):
        if before is None:
            continue
        after = before
        for event in events:
            after = evolve(after, event)
        if after.status != before.status:
            assert after.status in LIFECYCLE[before.status][verb(type(command))]


def test_the_lifecycle_is_reachable_and_ends_where_it_should():
    assert set(LIFECYCLE) == set(get_args(Status))
    reached = {to for ways in LIFECYCLE.values() for targets in ways.values() for to in targets}
    assert reached == set(get_args(Status)) - {"new"}
    assert LIFECYCLE["closed"] == {}
    assert all("closed" not in ways.get("update_status", ()) for ways in LIFECYCLE.values())


@given(histories)
def test_the_same_command_again_yields_nothing_or_a_refusal(history):
    repeatable = (Reply, AddNote)  # saying a thing twice is two messages
    ticket: Ticket | None = None
    opening, moves = history
    for command, actor in [(opening, BOB), *moves]:
        context = Context(NOW, actor)
        try:
            events = decide(ticket, command, context)
        except Refusal:
            continue
        for event in events:
            ticket = evolve(ticket, event)
        if isinstance(command, repeatable):
            continue
        with suppress(Refusal):
            assert decide(ticket, command, context) == ()


@given(histories)
def test_no_event_is_without_effect_but_messages(history):
    messages = (AgentReplied, RequesterReplied, NoteAdded)
    for before, _, events in play(history):
        ticket = before
        for event in events:
            after = evolve(ticket, event)
            assert after != ticket or isinstance(event, messages)
            ticket = after


@given(histories)
def test_a_ticket_never_contradicts_itself(history):
    for before, _, events in play(history):
        ticket = before
        for event in events:
            ticket = evolve(ticket, event)
        if ticket is None:
            continue
        assert (ticket.waiting_reason is not None) == (ticket.status in ("pending", "on_hold"))
        assert ticket.resume_at is None or ticket.waiting_reason is not None
        assert ticket.status != "resolved" or ticket.resolution is not None
        assert ticket.close_reason is None or ticket.status == "closed"
        assert ticket.status != "new" or ticket.assignee is None
        assert list(ticket.tags) == sorted(set(ticket.tags))


@given(histories)
def test_decide_and_evolve_give_the_same_for_the_same(history):
    """L6: no clock, no chance; all comes in as arguments."""
    assert play(history) == play(history)


@given(histories)
@settings(max_examples=50)
def test_what_is_stored_reads_back_as_what_was_decided(history):
    """L10: stored and read again, an event is the same event."""
    for _, _, events in play(history):
        for event in events:
            assert decode(*encode(event)) == event


def test_a_history_must_begin_with_the_opening_and_only_once():
    with pytest.raises(HistoryError, match="before the ticket was opened"):
        evolve(None, TicketReopened(None))
    with pytest.raises(HistoryError, match="twice"):
        evolve(folded(opened()), TicketOpened("x", "", "bob", "low", None, (), {}))
