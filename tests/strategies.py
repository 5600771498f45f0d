"""Random commands, as hypothesis strategies."""

from datetime import UTC, date, datetime, timedelta, timezone
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from hypothesis import strategies as st

from domain.actors import Actor, Role
from domain.desk import EMPTY_DESK, BusinessHours, Desk, FieldDefinition, SlaPolicy, SlaRule
from domain.tickets import COMMANDS
from domain.tickets.command import Command
from domain.tickets.details import (
    Tags,
)
from domain.tickets.lifecycle import (
    UpdateStatus,
)
from domain.tickets.opening import OpenTicket
from domain.tickets.redaction import EventVersion, FieldNames
from domain.values import (
    FieldKey,
    Line,
    MediaType,
    Moment,
    Name,
    Priority,
    Score,
    Sha256,
    SizeBytes,
    Text,
    TextOrNothing,
    Value,
)
from tests.spec import NOW

# Few values, so that commands meet what others left behind.
times = st.datetimes(
    NOW.replace(tzinfo=None, microsecond=1) + timedelta(days=1),
    datetime(9999, 12, 31, 12),  # noqa: DTZ001 zones are drawn
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=-11)), timezone(timedelta(hours=13))]),
)
names = st.sampled_from(["alice", "bob", "Zoë"])
lines = st.sampled_from(["Done.", "Ça marche", "x" * 80])
texts = lines | st.just("line\nline")
tags = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map(tuple)
keys = st.sampled_from(["floor", "room"])
values = (
    st.none()
    | st.booleans()
    | st.integers(2, 4)
    | st.sampled_from(["", "x", "1.5", ("x",), ("x", "y")])
)
ids = st.sampled_from([UUID(int=n) for n in range(1, 4)])
priorities = st.sampled_from(get_args(Priority))
actors = st.builds(Actor, names, st.sampled_from(get_args(Role)))

_BY_TYPE = (
    (Name, names),
    (Line, lines),
    (Text, texts),
    (TextOrNothing, texts),
    (Tags, tags),
    (FieldKey, keys),
    (Value, values),
    (Moment, times),
    (UUID, ids),
    (EventVersion, st.integers(1, 3)),
    (FieldNames, st.just(())),
    (bool, st.booleans()),
    (Score, st.integers(1, 5)),
    (MediaType, st.just("image/png")),
    (SizeBytes, st.integers(0, 1)),
    (Sha256, st.sampled_from(["a" * 64, "b" * 64])),
)


def _of(hint: object) -> st.SearchStrategy[object]:
    """Values of the type of a command's field."""
    for known, strategy in _BY_TYPE:
        if hint == known:
            return strategy
    if get_origin(hint) is Annotated:
        return _of(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        return st.one_of([_of(part) for part in get_args(hint)])
    if hint is bool:
        return st.booleans()
    if hint is NoneType:
        return st.none()
    raise TypeError(f"say in _BY_TYPE what may be sent as {hint}")


def of_command(
    command: type[Command], **known: st.SearchStrategy[object]
) -> st.SearchStrategy[Command]:
    """Commands of a class, with what is said of a field as said, and else by its type."""
    hints = get_type_hints(command, include_extras=True)
    by_type = {name: _of(hints[name]) for name in command.model_fields if name not in known}
    return st.builds(command, **by_type, **known)


openings = of_command(OpenTicket, tags=tags, fields=st.dictionaries(keys, st.integers(2, 4)))
changes: st.SearchStrategy[Command] = st.one_of(
    # Two that are refused most often, if chance says what belongs together.
    of_command(UpdateStatus, status=st.sampled_from(["pending", "on_hold"]), reason=lines),
    st.just(UpdateStatus(status="open")),
    *(of_command(command) for command in COMMANDS.values() if command is not OpenTicket),
)
_promised = {
    "first_response_minutes": st.none() | st.integers(1, 120),
    "next_response_minutes": st.none() | st.integers(1, 120),
    "resolution_minutes": st.none() | st.integers(1, 600),
}
policies = st.builds(SlaPolicy, **_promised)
rules = st.builds(
    SlaRule,
    priority=st.none() | priorities,
    group=st.none() | names,
    value=st.none() | st.integers(2, 4),
    **_promised,
)
calendars: st.SearchStrategy[dict[str, BusinessHours]] = st.just({}) | st.just(
    {
        # Open around NOW, and the clock in Brussels is changed four weeks later.
        "alices": BusinessHours(
            zone="Europe/Brussels",
            hours={"saturday": ("10:00-14:00",), "sunday": ("08:00-13:10", "13:40-24:00")},
            holidays=(date(2026, 3, 2),),
            groups=("alice",),
        ),
        "all": BusinessHours(
            zone="Asia/Kathmandu", hours={"sunday": ("00:00-24:00",), "tuesday": ("12:00-24:00",)}
        ),
    }
)
desks = st.just(EMPTY_DESK) | st.builds(
    Desk,
    groups=st.just({}) | st.just({"alice": ("alice", "bob"), "bob": ("Zoë",), "Zoë": ()}),
    fields=st.just({})
    | st.builds(
        lambda public: {
            "floor": FieldDefinition(type="integer", required_on="resolve", public=public)
        },
        st.booleans(),
    ),
    other_fields_public=st.booleans(),
    sla=st.dictionaries(priorities, policies),
    sla_rules=st.lists(rules, max_size=2).map(tuple),
    sla_field=st.just("floor"),
    calendars=calendars,
    close_resolved_after_days=st.none() | st.integers(1, 3),
)
commands: st.SearchStrategy[Command] = st.one_of(changes, changes, changes, openings)
