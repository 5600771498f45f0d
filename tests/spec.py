"""Given, when, then: decisions as sentences.

given(opened(), TicketAssigned("alice")).when(ResolveTicket(resolution="x")).then(...)

What is given happened at PAST, and the command comes at NOW, an hour later.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from domain.actors import Actor, Role
from domain.desk import EMPTY_DESK, Desk
from domain.errors import Refusal
from domain.sla import SlaTargets
from domain.tickets.command import EMPTY, MOST, Command, Context, Decision, Size, decide
from domain.tickets.opening import TicketOpened
from domain.tickets.ticket import Ticket, TicketEvent, evolve

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PAST = NOW - timedelta(hours=1)
TICKET, OTHER, FOLLOW_UP = UUID(int=1), UUID(int=2), UUID(int=3)
NO_PROMISE = SlaTargets(None, None)
ALICE = Actor("alice", "agent")
BOB = Actor("bob", "requester")


def opened(**different: object) -> TicketOpened:
    """An opening like any other, with the given fields different."""
    event = TicketOpened(
        subject="Printer jam",
        body="It jams.",
        requester="bob",
        priority="normal",
        group=None,
        tags=(),
        fields={},
        sla=NO_PROMISE,
    )
    return replace(event, **different)  # type: ignore[arg-type]


def folded(*events: TicketEvent, at: datetime = PAST) -> Ticket:
    """The ticket after these events."""
    ticket: Ticket | None = None
    for event in events:
        ticket = evolve(ticket, event, at)
    assert ticket is not None
    return ticket


@dataclass(frozen=True)
class Spec:
    past: tuple[TicketEvent, ...]
    actor: Actor = ALICE
    command: Command | None = None
    desk: Desk = EMPTY_DESK
    other: Ticket | None = None
    size: Size = EMPTY
    other_size: Size = EMPTY

    def by(self, role: Role, name: str = "somebody") -> "Spec":
        return replace(self, actor=Actor(name, role))

    def at(self, desk: Desk) -> "Spec":
        return replace(self, desk=desk)

    def beside(self, *past: TicketEvent) -> "Spec":
        """Another ticket, of the id OTHER, with a past of its own: that which the command names, or
        in which the conversation goes on.
        """
        return replace(self, other=folded(*past))

    def full(self) -> "Spec":
        """The ticket holds all that one may."""
        return replace(self, size=MOST)

    def beside_full(self) -> "Spec":
        """The other one does."""
        return replace(self, other_size=MOST)

    def when(self, command: Command) -> "Spec":
        return replace(self, command=command)

    def then(
        self,
        *expected: TicketEvent,
        there: tuple[TicketEvent, ...] = (),
        follow_up: tuple[TicketEvent, ...] = (),
    ) -> None:
        """Exactly these events follow: here, on the other ticket, and on the follow-up that is
        opened. None if nothing changes.
        """
        assert self._decide() == Decision(expected, there, follow_up)

    def taken(self) -> None:
        """Something follows."""
        assert self._decide().events

    def refused(self, code: str, said: str = "") -> None:
        """The command is refused, with this code and words that say why."""
        with pytest.raises(Refusal) as caught:
            self._decide()
        assert caught.value.code == code
        assert caught.value.detail
        assert said in caught.value.detail

    def _decide(self) -> Decision:
        assert self.command is not None
        ticket = folded(*self.past) if self.past else None
        context = Context(
            now=NOW,
            actor=self.actor,
            ticket_id=TICKET,
            desk=self.desk,
            other=self.other,
            other_id=None if self.other is None else OTHER,
            merged=_merged(ticket),
            other_merged=_merged(self.other),
            follow_up_id=FOLLOW_UP,
            size=self.size,
            other_size=self.other_size,
        )
        return decide(ticket, self.command, context)


def _merged(ticket: Ticket | None) -> frozenset[UUID]:
    return frozenset() if ticket is None else frozenset(ticket.linked("merged_from"))


def given(*past: TicketEvent) -> Spec:
    return Spec(past)
