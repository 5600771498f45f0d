"""Random commands, as hypothesis strategies."""

from datetime import UTC, datetime, timedelta, timezone
from typing import get_args

from hypothesis import strategies as st

from domain.events import Actor, CloseReason, Priority, Role, Status
from domain.ticket import (
    AddNote,
    AddTags,
    AssignTicket,
    ChangePriority,
    ChangeSubject,
    CloseTicket,
    Command,
    MoveToGroup,
    OpenTicket,
    RemoveTags,
    ReopenTicket,
    Reply,
    ResolveTicket,
    SetField,
    UnassignTicket,
    UpdateStatus,
)
from tests.spec import NOW

# Few values, so that commands meet what others left behind.
times = st.datetimes(
    NOW.replace(tzinfo=None, microsecond=1) + timedelta(days=1),
    datetime(9999, 12, 31, 12),  # noqa: DTZ001 zones are drawn
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=-11)), timezone(timedelta(hours=13))]),
)
names = st.sampled_from(["alice", "bob", "Zoë"])
texts = st.sampled_from(["Done.", "Ça marche", "x" * 80, "line\nline"])
tags = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map(tuple)
keys = st.sampled_from(["floor", "room"])
values = st.none() | st.booleans() | st.integers(2, 4) | st.sampled_from(["", "x"])
priorities = st.sampled_from(get_args(Priority))
actors = st.builds(Actor, names, st.sampled_from(get_args(Role)))

openings = st.builds(
    OpenTicket,
    subject=texts,
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
        reason=st.none() | texts,
        resume_at=st.none() | times,
    ),
    st.builds(ResolveTicket, resolution=texts),
    st.builds(ReopenTicket, reason=st.none() | texts),
    st.builds(CloseTicket, reason=st.none() | st.sampled_from(get_args(CloseReason))),
    st.builds(AssignTicket, assignee=names),
    st.builds(UnassignTicket),
    st.builds(MoveToGroup, group=st.none() | names),
    st.builds(ChangePriority, priority=priorities),
    st.builds(ChangeSubject, subject=texts),
    st.builds(Reply, body=texts),
    st.builds(AddNote, body=texts),
    st.builds(AddTags, tags=tags),
    st.builds(RemoveTags, tags=tags),
    st.builds(SetField, key=keys, value=values),
)
commands: st.SearchStrategy[Command] = st.one_of(changes, changes, changes, openings)
