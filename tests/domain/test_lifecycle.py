"""What every command does in every state, written out."""

import pytest

from domain.actors import Actor
from domain.errors import Refusal
from domain.sla import SlaTargets
from domain.tickets import COMMANDS
from domain.tickets.assignment import (
    AssignTicket,
    FollowerAdded,
    FollowTicket,
    MoveToGroup,
    TicketAssigned,
    UnassignTicket,
    UnfollowTicket,
)
from domain.tickets.command import Command, Context, Said, decide, lifecycle
from domain.tickets.conversation import AddNote, Reply
from domain.tickets.details import (
    AddTags,
    Attach,
    ChangeRequester,
    ChangeSubject,
    RemoveTags,
    SetField,
)
from domain.tickets.lifecycle import (
    CloseTicket,
    RateTicket,
    ReopenTicket,
    ResolveTicket,
    StatusUpdated,
    TicketClosed,
    TicketResolved,
    UpdateStatus,
)
from domain.tickets.opening import NumberTicket, OpenTicket
from domain.tickets.promises import ChangePriority, MarkSlaBreach
from domain.tickets.redaction import Redact
from domain.tickets.relations import (
    LinkTicket,
    MergeTicket,
    TicketLinked,
    UnlinkTicket,
    UnmergeTicket,
)
from domain.tickets.ticket import evolve
from tests.spec import ALICE, BOB, FOLLOW_UP, NOW, OTHER, TICKET, folded, opened

LIFE = (
    opened(tags=("a",), sla=SlaTargets(30, None)),
    FollowerAdded("bob"),
    TicketLinked("relates", OTHER),
)
WORKED_ON = (*LIFE, TicketAssigned("alice"))
STATES = {
    "new": LIFE,
    "open": WORKED_ON,
    "pending": (*WORKED_ON, StatusUpdated("pending", "a photo", None)),
    "on_hold": (*WORKED_ON, StatusUpdated("on_hold", "parts", None)),
    "resolved": (*WORKED_ON, TicketResolved("toner")),
    "closed": (*WORKED_ON, TicketResolved("toner"), TicketClosed(None)),
}

TABLE: list[tuple[Actor, Command, list[str]]] = [
    # by, command, and what comes of it in: new, open, pending, on_hold, resolved, closed
    # a state: the ticket is in it then; an event (| on the other ticket): it happens, and the
    # state stays; "-": nothing happens; anything else: refused with this code
    (ALICE, OpenTicket(subject="x", requester="bob"), ["ticket_exists"] * 6),
    (ALICE, NumberTicket(), ["TicketNumbered"] * 6),
    (ALICE, Redact(version=1, reason="a card"), ["MessageRedacted"] * 6),
    (ALICE, Redact(version=1, fields=("x",), reason="x"), ["nothing_to_redact"] * 6),
    (
        ALICE,
        UpdateStatus(status="open"),
        ["open", "-", "open", "open", "transition_refused", "ticket_closed"],
    ),
    (
        ALICE,
        UpdateStatus(status="pending", reason="a call"),
        ["pending", "pending", "StatusUpdated", "pending", "transition_refused", "ticket_closed"],
    ),
    (
        ALICE,
        UpdateStatus(status="on_hold", reason="a call"),
        ["on_hold", "on_hold", "on_hold", "StatusUpdated", "transition_refused", "ticket_closed"],
    ),
    (ALICE, UpdateStatus(status="pending"), [*["needs_reason"] * 5, "ticket_closed"]),
    (ALICE, UpdateStatus(status="new"), [*["cannot_return_to_new"] * 5, "ticket_closed"]),
    (ALICE, UpdateStatus(status="resolved"), [*["cannot_resolve_by_status"] * 5, "ticket_closed"]),
    (ALICE, UpdateStatus(status="closed"), [*["cannot_close_by_status"] * 5, "ticket_closed"]),
    (
        ALICE,
        ResolveTicket(resolution="paper"),
        [
            "needs_assignee",
            "resolved",
            "resolved",
            "resolved",
            "transition_refused",
            "ticket_closed",
        ],
    ),
    (
        ALICE,
        ResolveTicket(resolution="toner"),
        ["needs_assignee", "resolved", "resolved", "resolved", "-", "ticket_closed"],
    ),
    (
        ALICE,
        ReopenTicket(),
        [
            "transition_refused",
            "transition_refused",
            "transition_refused",
            "transition_refused",
            "open",
            "ticket_closed",
        ],
    ),
    (
        ALICE,
        CloseTicket(),
        [
            "needs_resolution_or_reason",
            "needs_resolution_or_reason",
            "needs_resolution_or_reason",
            "needs_resolution_or_reason",
            "closed",
            "-",
        ],
    ),
    (BOB, CloseTicket(), [*["closed"] * 5, "-"]),
    (ALICE, CloseTicket(reason="spam"), [*["closed"] * 5, "ticket_closed"]),
    (ALICE, CloseTicket(reason="merged"), [*["close_as_merged"] * 5, "ticket_closed"]),
    (ALICE, MergeTicket(into=OTHER), [*["closed"] * 5, "ticket_closed"]),
    (ALICE, MergeTicket(into=TICKET), ["merge_into_itself"] * 6),
    (ALICE, UnmergeTicket(), ["not_merged"] * 6),  # of a merged one: tests/domain/test_merge.py
    (
        ALICE,
        AssignTicket(assignee="carol"),
        [
            "open",
            "TicketAssigned",
            "TicketAssigned",
            "TicketAssigned",
            "TicketAssigned",
            "ticket_closed",
        ],
    ),
    (ALICE, AssignTicket(assignee="alice"), ["open", "-", "-", "-", "-", "ticket_closed"]),
    (
        ALICE,
        UnassignTicket(),
        [
            "-",
            "TicketUnassigned",
            "TicketUnassigned",
            "TicketUnassigned",
            "TicketUnassigned",
            "ticket_closed",
        ],
    ),
    (
        ALICE,
        MoveToGroup(group="network"),
        [
            "TicketMovedToGroup",
            "TicketMovedToGroup+TicketUnassigned",
            "TicketMovedToGroup+TicketUnassigned",
            "TicketMovedToGroup+TicketUnassigned",
            "TicketMovedToGroup+TicketUnassigned",
            "ticket_closed",
        ],
    ),
    (ALICE, ChangePriority(priority="high"), [*["PriorityChanged"] * 5, "ticket_closed"]),
    (ALICE, ChangeSubject(subject="Jam!"), [*["SubjectChanged"] * 5, "ticket_closed"]),
    (
        ALICE,
        ChangeRequester(requester="carol"),
        [*["RequesterChanged+FollowerRemoved"] * 5, "ticket_closed"],
    ),
    (
        ALICE,
        Reply(body="On it."),
        ["open", "AgentReplied", "AgentReplied", "AgentReplied", "AgentReplied", "ticket_closed"],
    ),
    (
        BOB,
        Reply(body="Hello?"),
        [
            "RequesterReplied",
            "RequesterReplied",
            "open",
            "RequesterReplied",
            "open",
            "TicketLinked |  | TicketOpened+TicketLinked",
        ],
    ),
    (ALICE, AddNote(body="Odd."), [*["NoteAdded"] * 5, "ticket_closed"]),
    (ALICE, AddTags(tags=("b",)), ["TagsAdded"] * 6),
    (ALICE, RemoveTags(tags=("a",)), ["TagsRemoved"] * 6),
    (ALICE, SetField(key="floor", value=3), [*["FieldSet"] * 5, "ticket_closed"]),
    (ALICE, FollowTicket(follower="carol"), [*["FollowerAdded"] * 5, "ticket_closed"]),
    (ALICE, UnfollowTicket(follower="bob"), ["FollowerRemoved"] * 6),
    (
        ALICE,
        Attach(name="x", media_type="a/b", size_bytes=1, sha256="0" * 64),
        [*["FileAttached"] * 5, "ticket_closed"],
    ),
    (ALICE, LinkTicket(relation="blocks", ticket=OTHER), ["TicketLinked | TicketLinked"] * 6),
    (ALICE, LinkTicket(relation="blocks", ticket=TICKET), ["link_to_itself"] * 6),
    (
        ALICE,
        UnlinkTicket(relation="relates", ticket=OTHER),
        ["TicketUnlinked | TicketUnlinked"] * 6,
    ),
    (
        BOB,
        RateTicket(score=5),
        [
            "not_resolved",
            "not_resolved",
            "not_resolved",
            "not_resolved",
            "TicketRated",
            "TicketRated",
        ],
    ),
    (ALICE, RateTicket(score=5), ["not_the_requester"] * 6),
    (
        ALICE,
        MarkSlaBreach(target="first_response"),
        ["SlaBreached", "SlaBreached", "sla_not_due", "SlaBreached", "sla_not_due", "sla_not_due"],
    ),
    (ALICE, MarkSlaBreach(target="resolution"), ["sla_not_due"] * 6),
]


@pytest.mark.parametrize("state", STATES)
def test_what_is_possible_is_what_is_taken(state):
    """And what needs nothing first: a new ticket is resolved once it is assigned."""
    ticket, column = folded(*STATES[state]), list(STATES).index(state)
    taken: dict[tuple[Actor, type[Command]], bool] = {}
    for actor, command, outcomes in TABLE:
        is_taken = outcomes[column] in STATES or outcomes[column][0].isupper()
        taken[actor, type(command)] = taken.get((actor, type(command)), False) or is_taken
    for (actor, cls), is_taken in taken.items():
        context = Context(now=NOW, actor=actor, ticket_id=TICKET)
        possible = cls.is_possible(ticket, context) and not cls.needs(ticket, context)
        assert possible == is_taken, (actor, cls)


def outcome(state, actor, command):
    ticket = folded(*STATES[state])
    other_id = command.other_ticket()
    theirs = [TicketLinked("relates", TICKET)] if isinstance(command, UnlinkTicket) else []
    context = Context(
        now=NOW,
        actor=actor,
        ticket_id=TICKET,
        other=None if other_id is None else folded(opened(), *theirs),
        other_id=other_id,
        follow_up_id=FOLLOW_UP,
        number=7,
        said=Said(is_public=True, words={"body": "My card is 4111."}),
    )
    try:
        decision = decide(ticket, command, context)
    except Refusal as refusal:
        return refusal.code
    after = ticket
    for event in decision.events:
        after = evolve(after, event, NOW)
    if after.status != ticket.status:
        return after.status
    here, *there = ["+".join(type(event).__name__ for event in events) for events in decision]
    return " | ".join([here, *there]).removesuffix(" | ").removesuffix(" | ") or "-"


@pytest.mark.parametrize(("actor", "command", "expected"), TABLE, ids=repr)
def test_every_command_in_every_state(actor, command, expected):
    assert [outcome(state, actor, command) for state in STATES] == expected


def test_the_table_has_every_command_and_every_state():
    assert {command.verb for _, command, _ in TABLE} == set(COMMANDS)
    assert set(STATES) == set(lifecycle())
    assert all(folded(*past).status == state for state, past in STATES.items())


def test_the_lifecycle_says_of_every_command_where_it_leads_and_nothing_else():
    """From the outcomes above, the lifecycle comes out again."""
    found: dict[str, dict[str, set[str]]] = {state: {} for state in STATES}
    for _, command, outcomes in TABLE:
        for state, came_of_it in zip(STATES, outcomes, strict=True):
            if came_of_it in STATES and came_of_it != state:
                found[state].setdefault(command.verb, set()).add(came_of_it)
    found["closed"]["unmerge"] = set(STATES) - {"closed"}  # see tests/domain/test_merge.py
    assert found == {
        state: {w: set(to) for w, to in ways.items()} for state, ways in lifecycle().items()
    }


def test_every_command_is_in_the_lifecycle_and_has_a_route():
    """Both find commands by themselves: one by its class, the other by its module."""
    assert set(Command.__subclasses__()) == set(COMMANDS.values())
