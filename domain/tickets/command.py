"""What a command is, and how one is decided.

`decide` is pure (law L6): the time, the actor, the desk's set-up, the other ticket and every id
come in as arguments.

What is said of a command stands on its class. Clients send it by its verb (`update_status`,
`assign`), which comes from the class's name; its fields are the request's body, its docstring the
description in the API's pages.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import ClassVar, NamedTuple
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from domain.actors import STAFF, Actor, PrincipalRole
from domain.desk import EMPTY_DESK, Desk
from domain.errors import StateConflict, TicketNotFound, Unacceptable
from domain.lines import check_lines
from domain.tickets.ticket import UNSOLVED, Relation, Status, Ticket, TicketEvent
from domain.values import JsonObject

TICKET_LENGTH_EVENTS = 10_000
TICKET_CONTENT_BYTES = 32 * 2**20
"""Bounds of one ticket's history, so that it can be read and folded within a request. Bytes are of
what its events say, as JSON in UTF-8.
"""

Moves = Mapping[Status, frozenset[Status]]


class Size(NamedTuple):
    """What a ticket holds: its events, and the bytes of what they say, as JSON in UTF-8."""

    events: int = 0
    content_bytes: int = 0

    def reaches(self, most: "Size") -> bool:
        return self.events >= most.events or self.content_bytes >= most.content_bytes


EMPTY = Size()
MOST = Size(TICKET_LENGTH_EVENTS, TICKET_CONTENT_BYTES)
UNBOUNDED = Size(2**63, 2**63)


@dataclass(frozen=True)
class EventPlace:
    """An event, by its ticket and version."""

    ticket: UUID
    version: int


class Said(NamedTuple):
    """What an event of the ticket says: its words, by the names of its fields. `same_command`: the
    other events, of this ticket or another, that came of the same command.
    """

    is_public: bool
    words: JsonObject
    same_command: tuple[EventPlace, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a decision may know apart from the ticket and the command.

    `now`: when it happens (UTC). `actor`: by the one spelling of their name. `other`, `other_id`:
    the other ticket that the command is about, if there is one. `closes_ring`: links of the
    command's `chain` lead from it back to this one. `merged`, `other_merged`: what was merged into
    each of the two, and into those. `follow_up_id`: the id that a follow-up ticket is to have.
    `said`: what the event says that the command is `about`. `number`: that of the ticket to be
    opened or numbered, if there is one. `size`, `other_size`: what the two hold already; `most`:
    what a ticket may hold.
    """

    now: datetime
    actor: Actor
    ticket_id: UUID
    desk: Desk = EMPTY_DESK
    other: Ticket | None = None
    other_id: UUID | None = None
    closes_ring: bool = False
    merged: frozenset[UUID] = frozenset()
    other_merged: frozenset[UUID] = frozenset()
    follow_up_id: UUID | None = None
    said: Said | None = None
    number: int | None = None
    size: Size = EMPTY
    other_size: Size = EMPTY
    most: Size = MOST


class Decision(NamedTuple):
    """What a command leads to: events of its ticket, and at the same time of the other ticket that
    it concerns, and of the follow-up that it opens. Nothing at all if it would change nothing.
    """

    events: tuple[TicketEvent, ...] = ()
    elsewhere: tuple[TicketEvent, ...] = ()
    follow_up: tuple[TicketEvent, ...] = ()


NOTHING = Decision()


class Command(BaseModel, ABC):
    """A request with business intent: its fields are what a client sends.

    `verb`: its name in requests; `operation`: in the OpenAPI document. `allowed`: the roles that
    may send it. `moves`: from which state to which ones it can lead. `taken_when_closed`: closed
    tickets take it, or it refuses them itself. `taken_when_full`: see `ends`. `lengthens_other`:
    the other ticket must have room. `names_are_new`: its names and lines may come into the ticket,
    so they must be well-formed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)
    verb: ClassVar[str]
    operation: ClassVar[str]
    allowed: ClassVar[frozenset[PrincipalRole]] = STAFF
    moves: ClassVar[Moves] = {}
    taken_when_closed: ClassVar[bool] = False
    taken_when_full: ClassVar[bool] = False
    lengthens_other: ClassVar[bool] = False
    names_are_new: ClassVar[bool] = True

    def __init_subclass__(cls, **_: object) -> None:
        cls.operation = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
        cls.verb = cls.operation.removesuffix("_ticket")

    @classmethod
    def is_possible(cls, ticket: Ticket, context: Context) -> bool:
        """Say whether the ticket, as it is, can take such a command from the actor. Any other is
        refused or changes nothing, whatever it says.
        """
        return cls.taken_when_closed or ticket.status != "closed"

    @classmethod
    def needs(cls, ticket: Ticket, context: Context) -> list[str]:
        """Return what must be filled in on the ticket before it takes such a command: `assignee`,
        or `fields.<key>`.
        """
        return []

    @abstractmethod
    def decide(self, ticket: Ticket, context: Context) -> Decision:
        """Return what follows for this ticket. Raises Unacceptable, StateConflict."""

    def begin(self, context: Context) -> Decision:
        """Return what follows where there is no ticket. Raises TicketNotFound."""
        raise TicketNotFound

    def other_ticket(self, ticket: Ticket | None = None) -> UUID | None:
        """Return the other ticket, if the command is one about two: as it names it, or as the
        ticket does.
        """
        return None

    def about(self) -> int | None:
        """Return the version of the event of this ticket that the command is about, if of one."""
        return None

    def needs_number(self, ticket: Ticket | None, other: Ticket | None) -> bool:
        """Say whether it gives a number to a ticket, so that one must be at hand."""
        return False

    def chain(self) -> Relation | None:
        """Return the kind of link to the other ticket that must not come back in a ring."""
        return None

    def ends(self, ticket: Ticket, context: Context) -> bool:
        """Say whether it brings a ticket to its end, so that also full ones take it: of that there
        is only so much, as long as all else is refused.
        """
        return self.taken_when_full


def decide(ticket: Ticket | None, command: Command, context: Context) -> Decision:
    """Return what follows from `command`.

    Raises TicketNotFound if it needs a ticket and there is none, Unacceptable if the command is at
    fault (what it says, names, or who says it), StateConflict if this ticket cannot take it now.
    """
    # Here and not where a command is read, for a command that was taken before may come again.
    if command.names_are_new:
        check_lines(command)
    if ticket is None:
        return command.begin(context)
    if ticket.status == "closed" and not command.taken_when_closed:
        raise closed(ticket)
    decision = command.decide(ticket, context)
    if not decision.events:
        return decision
    most = context.most
    if context.size.reaches(most) and not command.ends(ticket, context):
        raise StateConflict(
            "ticket_full",
            f"the ticket holds all that a ticket may ({most.events} events, or "
            f"{most.content_bytes} bytes of content): resolve and close it, and go on in a new "
            "ticket that is linked to it",
        )
    if command.lengthens_other:
        require_space_elsewhere(context)
    return decision


def ways(*states: Status, to: Status) -> Moves:
    """Return the moves from each of some states to one."""
    return dict.fromkeys(states, frozenset({to}))


@cache
def lifecycle() -> Mapping[Status, Mapping[str, frozenset[Status]]]:
    """Return from each state which command, by its verb, leads to which states. Nothing returns to
    new, and nothing leads out of closed, but that a merge is undone.
    """
    states: tuple[Status, ...] = (*UNSOLVED, "resolved", "closed")
    commands = Command.__subclasses__()
    return {
        state: {cls.verb: cls.moves[state] for cls in commands if state in cls.moves}
        for state in states
    }


def require_transition(ticket: Ticket, by: type[Command], to: Status) -> None:
    """Raise StateConflict if a command cannot take the ticket to another state."""
    ways = lifecycle()[ticket.status]
    if to not in ways.get(by.verb, ()):
        possible = ", ".join(f"{word} ({' | '.join(sorted(ways[word]))})" for word in sorted(ways))
        raise StateConflict(
            "transition_refused",
            f"{by.verb} cannot take a ticket from {ticket.status} to {to}; "
            f"what can be done: {possible}",
        )


def require_room(what: str, wanted: int, most: int) -> None:
    """Raise StateConflict if a ticket would hold too many of something."""
    if wanted > most:
        raise StateConflict(f"too_many_{what}", f"a ticket has at most {most} {what}")


def require_space_elsewhere(context: Context) -> None:
    """Raise StateConflict if the other ticket holds all that a ticket may."""
    if context.other_size.reaches(context.most):
        raise StateConflict(
            "other_ticket_full",
            "the other ticket holds all that a ticket may; take one that has room, or a new one",
        )


def require_other(context: Context) -> Ticket:
    """Return the other ticket. Raises Unacceptable if there is none."""
    if context.other is None:
        raise Unacceptable("unknown_ticket", "there is no such other ticket")
    return context.other


def closed(ticket: Ticket) -> StateConflict:
    """Return the refusal of a closed ticket."""
    into = ticket.merged_into
    return StateConflict(
        "ticket_closed",
        "the ticket is closed; it takes only tags, links, a rating and that someone stops following"
        if into is None
        else f"the ticket was merged into {into}, which goes on in its place",
    )
