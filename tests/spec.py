"""Given, when, then: decisions as sentences.

given(opened(), TicketAssigned("alice")).when(ResolveTicket(resolution="x")).then(...)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import reduce

import pytest

from domain.errors import Refusal
from domain.events import Actor, Role, TicketEvent, TicketOpened
from domain.ticket import Command, Context, Ticket, decide, evolve

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
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
    )
    return replace(event, **different)  # type: ignore[arg-type]


def folded(*events: TicketEvent) -> Ticket:
    """The ticket after these events."""
    ticket: Ticket | None = None
    ticket = reduce(evolve, events, ticket)
    assert ticket is not None
    return ticket


@dataclass(frozen=True)
class Spec:
    past: tuple[TicketEvent, ...]
    actor: Actor = ALICE
    command: Command | None = None

    def by(self, role: Role) -> "Spec":
        return replace(self, actor=Actor("somebody", role))

    def when(self, command: Command) -> "Spec":
        return replace(self, command=command)

    def then(self, *expected: TicketEvent) -> None:
        """Exactly these events follow; none if nothing is to change."""
        assert self._decide() == expected

    def refused(self, code: str) -> None:
        """The command is refused, with this code and words that say why."""
        with pytest.raises(Refusal) as caught:
            self._decide()
        assert caught.value.code == code
        assert caught.value.detail

    def _decide(self) -> Sequence[TicketEvent]:
        assert self.command is not None
        ticket = folded(*self.past) if self.past else None
        return decide(ticket, self.command, Context(NOW, self.actor))


def given(*past: TicketEvent) -> Spec:
    return Spec(past)
