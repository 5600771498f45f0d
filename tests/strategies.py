"""Random commands, as hypothesis strategies."""

from datetime import UTC, datetime, timedelta, timezone
from typing import get_args
from uuid import UUID

from hypothesis import strategies as st

from domain.actors import Actor, Role
from domain.desk import EMPTY_DESK, Desk, FieldDefinition, SlaPolicy
from domain.sla import SlaTarget
from domain.tickets.assignment import (
    AssignTicket,
    FollowTicket,
    MoveToGroup,
    UnassignTicket,
    UnfollowTicket,
)
from domain.tickets.command import Command
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
    UpdateStatus,
)
from domain.tickets.opening import OpenTicket
from domain.tickets.promises import ChangePriority, MarkSlaBreach
from domain.tickets.relations import LinkRelation, LinkTicket, MergeTicket, UnlinkTicket
from domain.tickets.ticket import CloseReason, Status
from domain.values import Priority
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
values = st.none() | st.booleans() | st.integers(2, 4) | st.sampled_from(["", "x"])
ids = st.sampled_from([UUID(int=n) for n in range(1, 4)])
priorities = st.sampled_from(get_args(Priority))
actors = st.builds(Actor, names, st.sampled_from(get_args(Role)))

openings = st.builds(
    OpenTicket,
    subject=lines,
    requester=names,
    body=texts,
    priority=priorities,
    group=st.none() | names,
    tags=tags,
    fields=st.dictionaries(keys, st.integers(2, 4)),
)
changes: st.SearchStrategy[Command] = st.one_of(
    st.builds(
        UpdateStatus,
        status=st.sampled_from(get_args(Status)),
        reason=st.none() | lines,
        resume_at=st.none() | times,
    ),
    st.builds(
        UpdateStatus,
        status=st.sampled_from(["pending", "on_hold"]),
        reason=lines,
        resume_at=st.none() | times,
    ),
    st.just(UpdateStatus(status="open")),
    st.builds(ResolveTicket, resolution=texts),
    st.builds(ReopenTicket, reason=st.none() | lines),
    st.builds(CloseTicket, reason=st.none() | st.sampled_from(get_args(CloseReason))),
    st.builds(AssignTicket, assignee=names),
    st.builds(UnassignTicket),
    st.builds(MoveToGroup, group=st.none() | names),
    st.builds(ChangePriority, priority=priorities),
    st.builds(ChangeSubject, subject=lines),
    st.builds(Reply, body=texts),
    st.builds(AddNote, body=texts),
    st.builds(AddTags, tags=tags),
    st.builds(RemoveTags, tags=tags),
    st.builds(SetField, key=keys, value=values),
    st.builds(ChangeRequester, requester=names),
    st.builds(FollowTicket, follower=st.none() | names),
    st.builds(UnfollowTicket, follower=st.none() | names),
    st.builds(
        Attach,
        name=names,
        media_type=st.just("image/png"),
        size_bytes=st.integers(0, 1),
        sha256=st.sampled_from(["a" * 64, "b" * 64]),
    ),
    st.builds(LinkTicket, relation=st.sampled_from(get_args(LinkRelation)), ticket=ids),
    st.builds(UnlinkTicket, relation=st.sampled_from(get_args(LinkRelation)), ticket=ids),
    st.builds(MergeTicket, into=ids),
    st.builds(RateTicket, score=st.integers(1, 5), comment=st.none() | texts),
    st.builds(MarkSlaBreach, target=st.sampled_from(get_args(SlaTarget))),
)
policies = st.builds(
    SlaPolicy,
    first_response_minutes=st.none() | st.integers(1, 120),
    resolution_minutes=st.none() | st.integers(1, 600),
)
desks = st.just(EMPTY_DESK) | st.builds(
    Desk,
    groups=st.dictionaries(names, st.lists(names, max_size=2).map(tuple), max_size=3),
    fields=st.just({}) | st.just({"floor": FieldDefinition(type="integer", required_on="resolve")}),
    sla=st.dictionaries(priorities, policies),
    close_resolved_after_days=st.none() | st.integers(1, 3),
)
commands: st.SearchStrategy[Command] = st.one_of(changes, changes, changes, openings)
