"""The clock against what was promised."""

from datetime import UTC, datetime, timedelta

import pytest

from domain.calendars import Calendar
from domain.sla import SlaClock, SlaTargets
from domain.tickets.assignment import TicketAssigned
from domain.tickets.conversation import AgentReplied, NoteAdded, RequesterReplied
from domain.tickets.lifecycle import StatusUpdated, TicketClosed, TicketReopened, TicketResolved
from domain.tickets.promises import MarkSlaBreach, PriorityChanged, SlaBreached, SlaChanged
from domain.tickets.ticket import evolve
from tests.spec import NOW, PAST, given, opened

PROMISE = SlaTargets(30, 120)
PENDING = StatusUpdated("pending", "a photo", None)
ON_HOLD = StatusUpdated("on_hold", "parts", None)
OPEN = StatusUpdated("open", None, None)


def clock_after(*story):
    """The clock after a story of (minutes since the opening, event)."""
    ticket = evolve(None, opened(sla=PROMISE), NOW)
    for minutes, event in story:
        ticket = evolve(ticket, event, minute(minutes))
    return ticket.sla


def minute(n):
    return NOW + timedelta(minutes=n)


def test_it_runs_from_the_opening():
    assert clock_after().due() == {"first_response": minute(30), "resolution": minute(120)}
    assert clock_after().next_due() == (minute(30), "first_response")


def test_an_answer_in_time_keeps_the_promise():
    clock = clock_after((29, AgentReplied("x")))
    assert clock.due() == {"resolution": minute(120)}
    assert clock.next_due() == (minute(120), "resolution")
    assert clock.overdue == {}


@pytest.mark.parametrize("late", [30, 31, 500])
def test_an_answer_at_the_time_or_later_is_late(late):
    clock = clock_after((late, AgentReplied("x")))
    assert clock.overdue["first_response"] == (minute(30),)
    assert clock.next_due() == (minute(30), "first_response")


def test_only_an_agents_words_are_an_answer():
    clock = clock_after((5, RequesterReplied("x")), (6, NoteAdded("x")), (7, TicketAssigned("a")))
    assert clock.due()["first_response"] == minute(30)


def test_it_stands_while_the_requester_is_waited_for():
    waiting = clock_after((10, PENDING))
    assert waiting.due() == {}
    assert waiting.next_due() is None
    going_on = clock_after((10, PENDING), (70, OPEN))
    assert going_on.due() == {"first_response": minute(90), "resolution": minute(180)}
    again = clock_after((10, PENDING), (70, OPEN), (75, PENDING), (80, OPEN))
    assert again.due()["first_response"] == minute(95)


def test_a_wait_that_is_over_sets_it_going_whether_or_not_anybody_wakes_the_ticket():
    wait = StatusUpdated("pending", "a photo", minute(20))
    for later in (NoteAdded("x"), TicketAssigned("a"), OPEN, AgentReplied("x")):
        clock = clock_after((10, wait), (25, later))
        assert (clock.running, clock.since) == (True, minute(20))
    assert clock_after((10, wait), (45, NoteAdded("x"))).overdue == {
        "first_response": (minute(40),)
    }
    assert clock_after((10, wait), (20, NoteAdded("x"))).running
    assert not clock_after((10, wait), (19, NoteAdded("x"))).running
    longer = StatusUpdated("pending", "a photo", minute(50))
    clock = clock_after((10, wait), (25, longer), (50, OPEN))
    assert clock.due()["first_response"] == minute(65)


def test_it_runs_on_while_others_are_waited_for():
    assert clock_after((10, ON_HOLD)).due() == clock_after().due()


def test_another_reason_to_wait_does_not_set_it_going():
    other = StatusUpdated("pending", "a call", None)
    clock = clock_after((10, PENDING), (20, other), (30, OPEN))
    assert clock.due()["first_response"] == minute(50)


def test_it_stands_when_the_ticket_is_solved_and_runs_on_if_that_was_wrong():
    resolved = ((0, TicketAssigned("a")), (10, AgentReplied("x")), (20, TicketResolved("x")))
    assert clock_after(*resolved).due() == {}
    assert clock_after(*resolved, (80, TicketReopened(None))).due() == {"resolution": minute(180)}
    assert clock_after(*resolved, (80, TicketClosed(None))).next_due() is None


def test_what_was_resolved_in_time_is_not_missed_however_much_later_one_looks():
    clock = clock_after((29, AgentReplied("x")), (119, TicketResolved("x")))
    assert clock.at(minute(5000)).overdue == {}
    late = clock_after((29, AgentReplied("x")), (121, TicketResolved("x")))
    assert late.at(minute(5000)).overdue == {"resolution": (minute(120),)}


def test_what_ran_out_while_nobody_looked_is_still_found():
    clock = clock_after((200, TicketClosed("spam")))
    assert clock.overdue == {"first_response": (minute(30),), "resolution": (minute(120),)}
    assert clock.next_due() == (minute(30), "first_response")


def test_a_breach_on_record_is_not_due_again():
    clock = clock_after((31, SlaBreached("first_response", minute(30))))
    assert clock.breached == {"first_response": minute(30)}
    assert clock.overdue == {}
    assert clock.next_due() == (minute(120), "resolution")
    both = clock_after(
        (121, SlaBreached("first_response", minute(30))),
        (121, SlaBreached("resolution", minute(120))),
    )
    assert both.next_due() is None
    assert set(both.breached) == {"first_response", "resolution"}


def test_another_priority_promises_something_else_from_the_same_beginning():
    sooner = clock_after((5, PriorityChanged("urgent", SlaTargets(10, None))))
    assert sooner.due() == {"first_response": minute(10)}
    too_late = clock_after((50, PriorityChanged("urgent", SlaTargets(None, 40))))
    assert too_late.due() == {"resolution": minute(40)}
    assert too_late.at(minute(50)).overdue["resolution"] == (minute(40),)
    paused = clock_after((10, PENDING), (20, PriorityChanged("low", SlaTargets(60, None))))
    assert paused.due() == {}


def test_a_promise_that_was_missed_stays_missed_with_another_priority():
    clock = clock_after((31, PriorityChanged("low", SlaTargets(500, 500))))
    assert clock.overdue == {"first_response": (minute(30),)}
    assert clock.due() == {"resolution": minute(500)}


def test_time_that_goes_back_adds_none():
    """A log that was imported may hold its events out of order."""
    clock = clock_after((10, PENDING), (5, OPEN), (15, PENDING), (1, OPEN), (2, PENDING))
    assert clock.elapsed_ms == 15 * 60_000
    assert isinstance(clock.elapsed_ms, int)


def test_the_end_of_the_calendar_is_no_error():
    late = datetime(9999, 12, 31, 23, 59, tzinfo=UTC)
    ticket = evolve(None, opened(sla=PROMISE), late)
    assert ticket.sla.due()["resolution"].year == 9999
    assert SlaClock(targets=PROMISE, elapsed_ms=-(10**18), since=late).due()


def test_without_a_promise_nothing_is_due():
    ticket = evolve(None, opened(), NOW)
    assert (ticket.sla.due(), ticket.sla.next_due()) == ({}, None)


def test_a_breach_is_put_on_record_once_it_is_one():
    due_at = PAST + timedelta(minutes=60)
    spec = given(opened(sla=SlaTargets(60, 61)))
    spec.when(MarkSlaBreach(target="first_response")).then(SlaBreached("first_response", due_at))
    spec.when(MarkSlaBreach(target="resolution")).refused("sla_not_due")
    on_record = (opened(sla=SlaTargets(60, 61)), SlaBreached("first_response", due_at))
    given(*on_record).when(MarkSlaBreach(target="first_response")).then()
    closed = (opened(sla=SlaTargets(60, 61)), TicketClosed("spam"))
    given(*closed).when(MarkSlaBreach(target="first_response")).refused("sla_not_due")


def test_a_missed_promise_is_put_on_record_after_closing_too():
    late = evolve(evolve(None, opened(sla=PROMISE), PAST), TicketClosed("spam"), NOW)
    assert late.sla.overdue == {"first_response": (PAST + timedelta(minutes=30),)}


def asking_promise(next_response=20, calendar=None):
    return SlaTargets(None, None, next_response, calendar)


def after(*story, sla):
    ticket = evolve(None, opened(sla=sla), NOW)
    for minutes, event in story:
        ticket = evolve(ticket, event, minute(minutes))
    return ticket.sla


ANSWER, QUESTION = AgentReplied("x"), RequesterReplied("x")


def test_the_next_response_is_one_to_the_first_message_that_waits():
    story = ((5, QUESTION), (10, ANSWER), (30, QUESTION), (40, QUESTION))
    assert after(*story[:2], sla=asking_promise()).due() == {}  # the first message was the ticket's
    assert after(*story, sla=asking_promise()).due() == {"next_response": minute(50)}
    answered = after(*story, (49, ANSWER), sla=asking_promise())
    assert (answered.due(), answered.overdue, answered.shown()) == ({}, {}, {})


def test_the_next_response_waits_while_the_ticket_does():
    paused = ((0, ANSWER), (10, QUESTION), (15, PENDING))
    assert after(*paused, sla=asking_promise()).due() == {}
    running = after(*paused, (100, OPEN), sla=asking_promise())
    assert running.due() == {"next_response": minute(115)}
    pending = ((0, ANSWER), (1, PENDING), (60, QUESTION), (60, OPEN))
    assert after(*pending, sla=asking_promise()).due() == {"next_response": minute(80)}


def test_each_next_response_can_be_missed_by_itself():
    late = (0, ANSWER), (10, QUESTION), (40, ANSWER), (50, QUESTION), (90, QUESTION)
    clock = after(*late, sla=asking_promise())
    assert clock.overdue == {"next_response": (minute(30), minute(70))}
    assert clock.next_due() == (minute(30), "next_response")
    assert clock.shown() == {"next_response": minute(70)}
    first = SlaBreached("next_response", minute(30))
    second = SlaBreached("next_response", minute(70))
    clock = after(*late, (91, first), sla=asking_promise())
    assert (clock.overdue, clock.breached) == (
        {"next_response": (minute(70),)},
        {"next_response": minute(30)},
    )
    clock = after(*late, (91, first), (91, second), sla=asking_promise())
    assert (clock.next_due(), clock.shown()) == (None, {"next_response": minute(70)})
    again = after(
        *late, (91, first), (91, second), (95, ANSWER), (100, QUESTION), sla=asking_promise()
    )
    assert again.due() == again.shown() == {"next_response": minute(120)}


def test_a_missed_next_response_is_put_on_record_each_time():
    story = opened(sla=asking_promise()), ANSWER, QUESTION
    mark = MarkSlaBreach(target="next_response")
    missed = SlaBreached("next_response", PAST + timedelta(minutes=20))
    given(*story).when(mark).then(missed)
    given(*story, missed).when(mark).then()
    given(*story[:2]).when(mark).refused("sla_not_due")


# NOW is a Sunday's noon.
OFFICE = Calendar("office", 3, "UTC", ((0, 540, 1020), (6, 0, 730)), ())
NIGHT = Calendar("night", 3, "UTC", ((0, 0, 120), (6, 1200, 1440)), ())


def test_only_business_hours_count():
    clock = after(sla=SlaTargets(30, 120, None, OFFICE))
    monday = NOW + timedelta(hours=21)
    assert clock.due() == {
        "first_response": monday + timedelta(minutes=20),  # ten were left on Sunday
        "resolution": monday + timedelta(minutes=110),
    }
    paused = after(
        (5, PENDING), (60, OPEN), (60 * 22, PENDING), sla=SlaTargets(30, 120, None, OFFICE)
    )
    assert (paused.elapsed_ms, paused.running) == (65 * 60_000, False)


def test_another_calendar_counts_from_when_it_is_promised():
    promised = SlaTargets(None, 120, None, OFFICE)
    changed = SlaChanged(SlaTargets(None, 120, None, NIGHT))
    clock = after((60, changed), sla=promised)
    assert clock.elapsed_ms == 10 * 60_000
    assert clock.due() == {"resolution": NOW + timedelta(hours=8, minutes=110)}
    back = after((60, changed), (60 * 9, SlaChanged(promised)), sla=promised)
    assert back.elapsed_ms == 70 * 60_000
    assert back.due() == {"resolution": NOW + timedelta(hours=21, minutes=50)}
    same = after((60, SlaChanged(SlaTargets(30, None, None, OFFICE))), sla=promised)
    assert (same.since, same.elapsed_ms) == (NOW, 0)
