"""How the desk's set-up bears on decisions."""

import pytest
from pydantic import ValidationError

from domain.calendars import Calendar
from domain.desk import Desk, FieldDefinition, SlaPolicy
from domain.errors import Refusal
from domain.retired import RETIRED_NAMES, Retired
from domain.sla import SlaTargets
from domain.tickets.assignment import (
    AssignTicket,
    MoveToGroup,
    TicketAssigned,
    TicketMovedToGroup,
    TicketUnassigned,
)
from domain.tickets.command import Context, decide
from domain.tickets.details import FieldSet, SetField
from domain.tickets.lifecycle import ResolveTicket, TicketResolved
from domain.tickets.opening import OpenTicket
from domain.tickets.promises import ChangePriority, PriorityChanged, SlaChanged
from domain.tickets.retirement import next_step
from domain.tickets.ticket import TicketEvent
from tests.spec import ALICE, NO_PROMISE, NOW, TICKET, folded, given, opened

GROUPS = Desk(groups={"print": ("alice", "carol"), "network": ("carol", "dave"), "void": ()})
FIELDS = Desk(
    fields={
        "floor": FieldDefinition(type="integer", public=True),
        "room": FieldDefinition(type="text", required_on="open", public=True),
        "vip": FieldDefinition(type="boolean", public=True),
        "cause": FieldDefinition(
            type="choice", choices=("paper", "toner"), required_on="resolve", public=True
        ),
        "parts": FieldDefinition(type="choices", choices=("drum", "fuser", "belt"), public=True),
        "due": FieldDefinition(type="date", public=True),
        "price": FieldDefinition(type="decimal", public=True),
    }
)
INTERNAL = Desk(
    fields={key: field.model_copy(update={"public": False}) for key, field in FIELDS.fields.items()}
)
PROMISES = Desk(
    sla={
        "urgent": SlaPolicy(first_response_minutes=15, resolution_minutes=240),
        "low": SlaPolicy(resolution_minutes=9000),
    }
)


def asking(**more):
    return OpenTicket(subject="Printer jam", requester="bob", body="It jams.", **more)


def test_an_empty_desk_takes_any_name_and_field():
    given(opened(group="any")).when(AssignTicket(assignee="anybody")).then(
        TicketAssigned("anybody")
    )
    given(opened()).when(SetField(key="any", value=1)).then(FieldSet("any", 1))
    given().when(asking(group="any")).then(opened(group="any"))


def test_a_ticket_is_only_in_a_group_that_there_is():
    given().at(GROUPS).when(asking(group="print")).then(opened(group="print"))
    given().at(GROUPS).when(asking()).then(opened())
    given().at(GROUPS).when(asking(group="garden")).refused("unknown_group")
    given(opened()).at(GROUPS).when(MoveToGroup(group="garden")).refused("unknown_group")
    given(opened(group="print")).at(GROUPS).when(MoveToGroup(group=None)).then(
        TicketMovedToGroup(None)
    )


def test_an_assignee_belongs_to_the_tickets_group():
    in_print = given(opened(group="print")).at(GROUPS)
    in_print.when(AssignTicket(assignee="alice")).then(TicketAssigned("alice"))
    in_print.when(AssignTicket(assignee="dave")).refused("assignee_outside_group")
    in_print.when(AssignTicket(assignee="mallory")).refused("unknown_agent")
    given(opened(group="void")).at(GROUPS).when(AssignTicket(assignee="alice")).refused(
        "assignee_outside_group"
    )


def test_a_ticket_in_no_group_or_in_one_that_is_gone_takes_any_agent():
    for group in (None, "gone"):
        spec = given(opened(group=group)).at(GROUPS)
        spec.when(AssignTicket(assignee="dave")).then(TicketAssigned("dave"))
        spec.when(AssignTicket(assignee="mallory")).refused("unknown_agent")


def test_who_has_the_ticket_already_may_keep_it_outside_the_group():
    """Nothing changes, so nothing is checked."""
    past = (opened(group="print"), TicketAssigned("mallory"))
    given(*past).at(GROUPS).when(AssignTicket(assignee="mallory")).then()


def test_a_move_clears_who_does_not_belong_there_and_nobody_else():
    for_carol = (opened(group="print"), TicketAssigned("carol"))
    moved = TicketMovedToGroup("network")
    given(*for_carol).at(GROUPS).when(MoveToGroup(group="network")).then(moved)
    for_alice = (opened(group="print"), TicketAssigned("alice"))
    given(*for_alice).at(GROUPS).when(MoveToGroup(group="network")).then(moved, TicketUnassigned())
    given(*for_alice).at(GROUPS).when(MoveToGroup(group=None)).then(TicketMovedToGroup(None))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("floor", "3"),
        ("floor", True),
        ("room", 3),
        ("vip", 1),
        ("vip", "true"),
        ("cause", "prayer"),
        ("cause", 0),
        ("cause", ("paper",)),
        ("parts", ("drum", "lid")),
        ("parts", 1),
        ("due", "2026-02-29"),
        ("due", "2026-3-1"),
        ("due", "20260301"),
        ("due", 20260301),
        ("price", "12,50"),
        ("price", True),
        ("price", ("1",)),
    ],
)
def test_a_field_takes_values_of_its_kind(key, value):
    """L12"""
    spec = given(opened()).at(FIELDS).when(SetField(key=key, value=value))
    spec.refused("wrong_field_value")
    kind = {
        "floor": "a whole number",
        "room": "text",
        "vip": "true or false",
        "cause": "one of: paper, toner",
        "parts": "a list of some of: drum, fuser, belt",
        "due": "a day, like 2026-03-01",
        "price": 'a number as text, like "12.50"',
    }[key]
    with pytest.raises(Refusal, match=f"^the field {key} takes {kind}$"):
        spec.then()
    fields = {"room": "B2", key: value}
    given().at(FIELDS).when(asking(fields=fields)).refused("wrong_field_value")


@pytest.mark.parametrize(
    ("key", "value"), [("floor", 3), ("room", "B2"), ("vip", False), ("cause", "toner")]
)
def test_a_field_is_set_to_a_value_of_its_kind(key, value):
    given(opened()).at(FIELDS).when(SetField(key=key, value=value)).then(FieldSet(key, value))


@pytest.mark.parametrize(
    ("key", "value", "kept"),
    [
        ("parts", ("belt", "drum"), ("drum", "belt")),
        ("parts", "fuser", ("fuser",)),
        ("due", "2024-02-29", "2024-02-29"),
        ("price", "+012.50", "12.5"),
        ("price", 12, "12"),
    ],
)
def test_a_value_has_one_form_however_it_is_sent(key, value, kept):
    given(opened()).at(FIELDS).when(SetField(key=key, value=value)).then(FieldSet(key, kept))
    given(opened(fields={key: kept})).at(FIELDS).when(SetField(key=key, value=value)).then()
    fields = {"room": "B2", key: value}
    given().at(FIELDS).when(asking(fields=fields)).then(opened(fields={**fields, key: kept}))


def test_a_field_that_is_not_defined_is_not_set_but_can_be_taken_away():
    given(opened()).at(FIELDS).when(SetField(key="mood", value="bad")).refused("unknown_field")
    given().at(FIELDS).when(asking(fields={"room": "B2", "mood": "bad"})).refused("unknown_field")
    old = opened(fields={"mood": "bad"})
    given(old).at(FIELDS).when(SetField(key="mood", value=None)).then(FieldSet("mood", None))


def test_a_ticket_is_opened_with_what_must_be_said():
    given().at(FIELDS).when(asking()).refused("needs_fields")
    strict = {key: FieldDefinition(type="text", required_on="open") for key in ("b", "a")}
    with pytest.raises(Refusal, match=r"^fill in first: a, b$"):
        given().at(Desk(fields=strict)).when(asking()).then()
    given().at(FIELDS).when(asking(fields={"room": "B2"})).then(opened(fields={"room": "B2"}))
    filled = opened(fields={"room": "B2", "cause": "toner"})
    given(filled).at(FIELDS).when(SetField(key="room", value=None)).refused("field_required")
    given(filled).at(FIELDS).when(SetField(key="room", value="")).refused("field_required")
    given(filled).at(FIELDS).when(SetField(key="cause", value=None)).then(FieldSet("cause", None))
    resolved = (filled, TicketAssigned("alice"), TicketResolved("toner"))
    given(*resolved).at(FIELDS).when(SetField(key="cause", value=None)).refused("field_required")
    given(*resolved).at(FIELDS).when(SetField(key="cause", value="paper")).then(
        FieldSet("cause", "paper")
    )


def test_a_field_that_is_not_said_to_be_public_is_internal():
    room = {"room": "B2"}
    assert not Desk().is_public("any")
    given(opened()).at(Desk()).when(SetField(key="any", value=1)).then(FieldSet("any", 1, True))
    given().at(INTERNAL).when(asking(fields=room)).then(
        opened(fields=room, internal_fields=("room",))
    )
    given(opened()).at(INTERNAL).when(SetField(key="vip", value=True)).then(
        FieldSet("vip", True, True)
    )
    given(opened(), FieldSet("vip", True, True)).at(FIELDS).when(
        SetField(key="vip", value=None)
    ).then(FieldSet("vip", None, True))


def test_what_was_public_is_taken_from_requesters_by_an_event_that_they_see():
    """And the same value again takes over what the desk says of the field by now."""
    known, secret = FieldSet("vip", True), FieldSet("vip", True, True)
    command = SetField(key="vip", value=True)
    given(opened(), known).at(FIELDS).when(command).then()
    given(opened(), known).at(INTERNAL).when(command).then(FieldSet("vip", None), secret)
    given(opened(), secret).at(INTERNAL).when(command).then()
    given(opened(), secret).at(FIELDS).when(command).then(known)
    given(opened()).at(INTERNAL).when(SetField(key="vip", value=None)).then()


@pytest.mark.parametrize(
    ("fields", "missing"),
    [
        ({}, ["cause", "room"]),
        ({"room": "B2"}, ["cause"]),
        ({"cause": "toner"}, ["room"]),
        ({"room": "B2", "cause": "toner"}, []),
        ({"room": "", "cause": "toner"}, ["room"]),
        ({"room": "B2", "cause": "prayer"}, ["cause"]),
    ],
)
def test_a_ticket_is_resolved_with_all_that_must_be_said_by_then(fields, missing):
    assert FIELDS.missing(fields, "open", "resolve") == missing
    spec = given(opened(fields=fields), TicketAssigned("alice")).at(FIELDS)
    spec = spec.when(ResolveTicket(resolution="toner"))
    if missing:
        spec.refused("fields_missing")
        with pytest.raises(Refusal, match=f"set before it is resolved: {', '.join(missing)}"):
            spec.then()
    else:
        spec.then(TicketResolved("toner"))


def test_a_removed_choice_that_a_ticket_still_has_is_named_where_it_is_in_the_way():
    """Its own value stays as it was; the message says what it is, and what can be chosen by now."""
    filled = opened(fields={"room": "B2", "cause": "prayer"})
    spec = given(filled, TicketAssigned("alice")).at(FIELDS)
    with pytest.raises(Refusal) as refused:
        spec.when(ResolveTicket(resolution="toner")).then()
    assert refused.value.detail == (
        "set before it is resolved: cause (it says prayer, and takes one of: paper, toner)"
    )
    spec.when(SetField(key="cause", value="prayer")).then()


def test_what_is_promised_is_written_into_the_ticket():
    given().at(PROMISES).when(asking(priority="urgent")).then(
        opened(priority="urgent", sla=SlaTargets(15, 240))
    )
    given().at(PROMISES).when(asking()).then(opened(sla=NO_PROMISE))
    given(opened()).at(PROMISES).when(ChangePriority(priority="low")).then(
        PriorityChanged("low", SlaTargets(None, 9000))
    )
    given(opened(priority="low")).at(PROMISES).when(ChangePriority(priority="high")).then(
        PriorityChanged("high", NO_PROMISE)
    )


OFFICE = {"zone": "Europe/Berlin", "hours": {"monday": ["13:00-17:00", "09:00-12:00"]}}


def test_what_is_promised_goes_by_priority_group_and_the_value_of_one_field():
    desk = Desk.model_validate(
        {
            "sla": {"urgent": {"resolution_minutes": 1}},
            "sla_field": "plan",
            "sla_rules": [
                {"value": "gold", "priority": "urgent", "resolution_minutes": 2},
                {"value": "gold", "group": "net", "next_response_minutes": 3},
                {"value": True, "resolution_minutes": 4},
                {"group": "net", "priority": "low", "first_response_minutes": 5},
            ],
        }
    )
    assert desk.targets("urgent", "net", {"plan": "gold"}) == SlaTargets(None, 2)
    assert desk.targets("low", "net", {"plan": "gold"}) == SlaTargets(None, None, 3)
    assert desk.targets("low", "net", {"plan": "lead"}) == SlaTargets(5, None)
    assert desk.targets("low", "net", {"colour": "gold"}) == SlaTargets(5, None)
    assert desk.targets("low", None, {"plan": True}) == SlaTargets(None, 4)
    assert desk.targets("low", None, {"plan": 1}) == NO_PROMISE
    assert desk.targets("urgent", "print", {}) == SlaTargets(None, 1)


PLANS = Desk.model_validate(
    {
        "calendars": {
            "office": {**OFFICE, "holidays": ["2026-12-25", "2026-01-01"], "version": 7},
            "always": {"zone": "UTC", "hours": {"sunday": ["00:00-24:00"]}, "groups": ["net"]},
        },
        "sla": {"normal": {"resolution_minutes": 60}, "low": {"resolution_minutes": 60}},
        "sla_field": "plan",
        "sla_rules": [{"value": "gold", "resolution_minutes": 30}],
        "other_fields_public": True,
    }
)
IN_OFFICE = Calendar(
    "office", 7, "Europe/Berlin", ((0, 540, 720), (0, 780, 1020)), ("2026-01-01", "2026-12-25")
)
ALWAYS = Calendar("always", 0, "UTC", ((6, 0, 1440),), ())


def test_a_group_has_a_calendar_and_all_others_have_one():
    """And it is written into the ticket whole, so that its log alone says what counts."""
    assert PLANS.targets("normal", None, {}) == SlaTargets(None, 60, None, IN_OFFICE)
    assert PLANS.targets("normal", "print", {}) == SlaTargets(None, 60, None, IN_OFFICE)
    assert PLANS.targets("normal", "net", {}) == SlaTargets(None, 60, None, ALWAYS)
    assert PLANS.targets("high", "net", {}) == NO_PROMISE


def test_another_group_or_value_promises_something_else():
    was = opened(sla=SlaTargets(9, 9))
    given(was).at(PLANS).when(MoveToGroup(group="net")).then(
        TicketMovedToGroup("net"), SlaChanged(SlaTargets(None, 60, None, ALWAYS))
    )
    given(was).at(PLANS).when(SetField(key="plan", value="gold")).then(
        FieldSet("plan", "gold"), SlaChanged(SlaTargets(None, 30, None, IN_OFFICE))
    )
    gold = opened(fields={"plan": "gold"})
    given(gold).at(PLANS).when(SetField(key="plan", value=None)).then(
        FieldSet("plan", None), SlaChanged(SlaTargets(None, 60, None, IN_OFFICE))
    )


def test_what_was_promised_under_a_former_set_up_holds_while_the_desk_makes_no_difference():
    was = opened(sla=SlaTargets(9, 9))
    given(was).at(PLANS).when(MoveToGroup(group="print")).then(TicketMovedToGroup("print"))
    given(was).at(PLANS).when(SetField(key="plan", value="lead")).then(FieldSet("plan", "lead"))


@pytest.mark.parametrize(
    "content",
    [
        {"fields": {"cause": {"type": "choice"}}},
        {"fields": {"floor": {"type": "integer", "choices": ["1"]}}},
        {"fields": {"parts": {"type": "choices"}}},
        {"fields": {"due": {"type": "date", "choices": ["today"]}}},
        {"fields": {"Floor": {"type": "integer"}}},
        {"fields": {"floor": {"type": "float"}}},
        {"fields": {"floor": {"type": "text", "required_on": "close"}}},
        {"groups": {"": ["alice"]}},
        {"groups": {"print": [""]}},
        {"groups": {"print": "alice"}},
        {"groups": {"print": [f"a{n}" for n in range(10_001)]}},
        {"groups": {f"g{n}": [] for n in range(501)}},
        {"sla": {"whenever": {}}},
        {"sla": {"low": {"first_response_minutes": 0}}},
        {"sla": {"low": {"resolution_minutes": 5_256_001}}},
        {"sla": {"low": {"first_response_minutes": True}}},
        {"sla": {"low": {"first_response_minutes": "15"}}},
        {"sla_rules": [{"priority": "whenever"}]},
        {"sla_rules": [{"value": "gold"}]},
        {"groups": {"print": []}, "sla_rules": [{"group": "net"}]},
        {"calendars": {"a": {"zone": "Mars/Olympus", "hours": {"monday": ["09:00-17:00"]}}}},
        {"calendars": {"a": {"zone": "UTC", "hours": {}}}},
        {"calendars": {"a": {"zone": "UTC", "hours": {"monday": []}}}},
        {"calendars": {"a": {"zone": "UTC", "hours": {"monday": ["9:00-17:00"]}}}},
        {"calendars": {"a": {"zone": "UTC", "hours": {"monday": ["09:00-24:01"]}}}},
        {"calendars": {"a": {"zone": "UTC", "hours": {"monday": ["17:00-09:00"]}}}},
        {"calendars": {"a": {"zone": "UTC", "hours": {"monday": ["09:00-12:00", "12:00-17:00"]}}}},
        {"calendars": {"a": {"zone": "UTC", "hours": {"monday": ["09:00-17:00"] * 2}}}},
        {"calendars": {"a": {**OFFICE, "holidays": ["25.12.2026"]}}},
        {"calendars": {"a": {**OFFICE, "groups": ["net"]}}, "groups": {"print": []}},
        {"calendars": {"a": OFFICE, "b": OFFICE}},
        {"calendars": {n: {**OFFICE, "groups": ["net"]} for n in "ab"}},
        {"groups": {"  ": ["alice"]}},
        {"close_resolved_after_days": 0},
        {"close_resolved_after_days": "3"},
        {"colour": "green"},
    ],
)
def test_a_set_up_that_makes_no_sense_cannot_be_made(content):
    """L12"""
    with pytest.raises(ValidationError):
        Desk.model_validate(content)


def test_names_are_taken_as_commands_take_them():
    """Without blanks around them, and each once: or no command could ever mean them."""
    desk = Desk.model_validate(
        {
            "groups": {" print ": ["alice ", " alice", "bob"]},
            "fields": {"cause": {"type": "choice", "choices": [" paper", "paper", "toner"]}},
        }
    )
    assert desk.groups == {"print": ("alice", "bob")}
    assert desk.fields["cause"].choices == ("paper", "toner")


def test_a_set_up_at_its_bounds_can_be_made():
    Desk.model_validate(
        {
            "groups": {"print": [f"a{n}" for n in range(10_000)]},
            "sla": {"low": {"first_response_minutes": 1, "resolution_minutes": 5_256_000}},
            "close_resolved_after_days": 1,
        }
    )


# --- what is said of what is gone -----------------------------------------------------------------

NETWORK: dict[str, tuple[str, ...]] = {"network": ("carol", "dave")}


def test_what_was_said_of_a_group_leads_on_when_the_next_one_goes():
    first = Desk(groups={"a": ("alice",), "b": ("bob",), "c": ("carol",)})
    second = Desk(
        groups={"b": ("bob",), "c": ("carol",)}, retired=Retired(groups={"a": "b"})
    ).succeeding(first)
    third = Desk(groups={"c": ("carol",)}, retired=Retired(groups={"b": "c"})).succeeding(second)
    assert third.retired.groups == {"a": "c", "b": "c"}
    assert [third.home(group) for group in ("a", "b", "c", "d", None)] == ["c", "c", "c", "d", None]
    unsaid = Desk(groups={"d": ("dave",)}).succeeding(third)
    assert unsaid.retired.groups == {"a": None, "b": None, "c": None}
    assert unsaid.leaving(()) == {"a", "b", "c"}
    assert third.leaving(("c",)) == {"a", "b"}
    assert third.leaving(("d",)) == frozenset()


def test_a_desk_without_groups_or_fields_takes_any_and_changes_none():
    said = Desk(groups=NETWORK, retired=Retired(groups={"print": "network"}))
    empty = Desk().succeeding(said)
    assert empty.home("print") == "print"
    assert empty.leaving(("network",)) == frozenset()
    assert next_step(folded(opened(group="print")), empty) is None


def test_of_too_many_groups_that_are_gone_the_last_are_known():
    desk = Desk(groups={f"g{n}": () for n in range(150)})
    for n in (1, 2, 3):
        desk = Desk(groups={f"{n}g{m}": () for m in range(150)}).succeeding(desk)
    assert len(desk.retired.groups) == RETIRED_NAMES
    assert "2g149" in desk.retired.groups
    Desk.model_validate(desk.model_dump())  # what is shown can be sent again


def test_a_choice_that_is_required_is_never_taken_away_for_nothing():
    cause = FieldDefinition(type="choice", choices=("paper",))
    said = Desk(fields={"cause": cause}, retired=Retired(choices={"cause": {"toner": None}}))
    strict = Desk(fields={"cause": cause.model_copy(update={"required_on": "resolve"})})
    assert said.succeeding(Desk()).successor("cause", "toner") is None
    assert strict.succeeding(said).successor("cause", "toner") == "toner"


def test_a_ticket_is_changed_step_by_step_until_nothing_is_left():
    """The successor of its assignee is kept by the move that follows."""
    desk = Desk(
        groups=NETWORK,
        fields={"parts": FieldDefinition(type="choices", choices=("belt",))},
        retired=Retired(
            groups={"print": "network"},
            agents={"alice": "carol"},
            fields={"floor": "clear"},
            choices={"parts": {"drum": "belt", "lid": None}},
        ),
    )
    fields = {"floor": 3, "parts": ("lid", "drum", "belt"), "mood": "bad"}
    past: list[TicketEvent] = [opened(group="print", fields=fields), TicketAssigned("alice")]
    context = Context(now=NOW, actor=ALICE, ticket_id=TICKET, desk=desk)
    steps = []
    while (step := next_step(folded(*past), desk)) is not None:
        steps.append(step)
        past += decide(folded(*past), step, context).events
    assert steps == [
        AssignTicket(assignee="carol"),
        MoveToGroup(group="network"),
        SetField(key="floor", value=None),
        SetField(key="parts", value=("belt",)),
    ]
    ticket = folded(*past)
    assert (ticket.group, ticket.assignee) == ("network", "carol")
    assert ticket.fields == {"parts": ("belt",), "mood": "bad"}


@pytest.mark.parametrize(
    "content",
    [
        {"groups": {"print": []}, "retired": {"groups": {"print": None}}},
        {"groups": {"print": []}, "retired": {"groups": {"net": "garden"}}},
        {"groups": {"print": ["al"]}, "retired": {"agents": {"al": None}}},
        {"groups": {"print": ["al"]}, "retired": {"agents": {"bo": "cy"}}},
        {"fields": {"floor": {"type": "text"}}, "retired": {"fields": {"floor": "keep"}}},
        {"retired": {"fields": {"floor": "forget"}}},
        {"retired": {"choices": {"cause": {"toner": None}}}},
        {"retired": {"groups": {f"g{n}": None for n in range(201)}}},
    ],
)
def test_what_cannot_be_said_of_what_is_gone_is_refused(content):
    """L12"""
    with pytest.raises(ValidationError):
        Desk.model_validate(content)


def test_a_ticket_that_is_full_goes_where_it_is_seen_to_its_end():
    desk = Desk(groups=NETWORK, retired=Retired(groups={"print": "network"}))
    gone, there = (given(opened(group=group)).at(desk).full() for group in ("print", "network"))
    gone.when(MoveToGroup(group="network")).then(TicketMovedToGroup("network"))
    there.when(MoveToGroup(group=None)).refused("ticket_full")
