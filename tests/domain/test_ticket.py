"""Decisions, one sentence each."""

from datetime import timedelta

import pytest
from pydantic import ValidationError

from domain.errors import Refusal
from domain.tickets import COMMANDS
from domain.tickets.assignment import (
    AssignTicket,
    FollowerAdded,
    FollowerRemoved,
    FollowTicket,
    MoveToGroup,
    TicketAssigned,
    TicketMovedToGroup,
    TicketUnassigned,
    UnassignTicket,
    UnfollowTicket,
)
from domain.tickets.conversation import AddNote, AgentReplied, NoteAdded, Reply, RequesterReplied
from domain.tickets.details import (
    AddTags,
    Attach,
    ChangeRequester,
    ChangeSubject,
    FieldSet,
    FileAttached,
    RemoveTags,
    RequesterChanged,
    SetField,
    SubjectChanged,
    TagsAdded,
    TagsRemoved,
)
from domain.tickets.lifecycle import (
    CloseTicket,
    RateTicket,
    ReopenTicket,
    ResolveTicket,
    StatusUpdated,
    TicketClosed,
    TicketRated,
    TicketReopened,
    TicketResolved,
    UpdateStatus,
)
from domain.tickets.opening import OpenTicket
from domain.tickets.promises import ChangePriority, PriorityChanged
from domain.tickets.ticket import Attachment, Rating, TicketEvent
from tests.spec import NO_PROMISE, NOW, OTHER, folded, given, opened

PENDING = StatusUpdated("pending", "needs the serial number", None)
ASSIGNED = (opened(), TicketAssigned("alice"))
RESOLVED = (*ASSIGNED, TicketResolved("new toner"))
CLOSED = (*RESOLVED, TicketClosed(None))


def test_opening_makes_a_new_ticket_with_what_it_says():
    command = OpenTicket(
        subject=" Printer jam ",
        requester="bob",
        body="It jams.",
        priority="high",
        group="print",
        tags=("b", "a", "b"),
        fields={"floor": 3},
    )
    event = opened(priority="high", group="print", tags=("a", "b"), fields={"floor": 3})
    given().when(command).then(event)
    ticket = folded(event)
    assert (ticket.status, ticket.subject, ticket.assignee) == ("new", "Printer jam", None)


def test_a_ticket_is_opened_once():
    given(opened()).when(OpenTicket(subject="x", requester="bob")).refused("ticket_exists")


def test_nothing_but_opening_works_without_a_ticket():
    given().when(AddNote(body="hello")).refused("ticket_not_found")


def test_assigning_takes_a_new_ticket_to_open():
    given(opened()).when(AssignTicket(assignee="alice")).then(TicketAssigned("alice"))
    assert folded(*ASSIGNED).status == "open"


def test_assigning_who_is_assigned_changes_nothing():
    given(*ASSIGNED).when(AssignTicket(assignee="alice")).then()


def test_unassigning_leaves_the_ticket_open():
    given(*ASSIGNED).when(UnassignTicket()).then(TicketUnassigned())
    ticket = folded(*ASSIGNED, TicketUnassigned())
    assert (ticket.status, ticket.assignee) == ("open", None)


def test_unassigning_nobody_changes_nothing():
    given(opened()).when(UnassignTicket()).then()


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("closed", "cannot_close_by_status"),
        ("resolved", "cannot_resolve_by_status"),
        ("new", "cannot_return_to_new"),
    ],
)
def test_no_status_setter_reaches_what_has_a_command_of_its_own(status, code):
    given(*ASSIGNED).when(UpdateStatus(status=status)).refused(code)


def test_update_status_says_to_use_close():
    spec = given(*ASSIGNED).when(UpdateStatus(status="closed"))
    with pytest.raises(Exception, match="cannot close by status; use close"):
        spec.then()


@pytest.mark.parametrize("status", ["pending", "on_hold"])
def test_waiting_needs_a_reason(status):
    given(*ASSIGNED).when(UpdateStatus(status=status)).refused("needs_reason")


def test_waiting_keeps_reason_and_time_until_work_goes_on():
    at = NOW + timedelta(days=1)
    command = UpdateStatus(status="on_hold", reason="parts ordered", resume_at=at)
    waits = StatusUpdated("on_hold", "parts ordered", at)
    given(*ASSIGNED).when(command).then(waits)
    waiting = folded(*ASSIGNED, waits)
    assert (waiting.waiting_reason, waiting.resume_at) == ("parts ordered", at)
    going_on = folded(*ASSIGNED, waits, StatusUpdated("open", None, None))
    assert (going_on.waiting_reason, going_on.resume_at) == (None, None)


def test_waiting_until_the_past_is_refused():
    command = UpdateStatus(status="pending", reason="x", resume_at=NOW)
    given(*ASSIGNED).when(command).refused("resume_at_past")


def test_open_waits_for_nothing():
    command = UpdateStatus(status="open", reason="x")
    given(*ASSIGNED).when(command).refused("open_waits_for_nothing")


def test_the_same_wait_again_changes_nothing_but_another_reason_does():
    past = (*ASSIGNED, PENDING)
    given(*past).when(UpdateStatus(status="pending", reason=PENDING.reason)).then()
    other = StatusUpdated("pending", "needs a photo", None)
    given(*past).when(UpdateStatus(status="pending", reason="needs a photo")).then(other)


def test_a_refused_transition_says_what_can_be_done():
    spec = given(*RESOLVED).when(UpdateStatus(status="open"))
    with pytest.raises(Refusal, match=r"from resolved to open; what can be done: "):
        spec.then()
    known = r"close \(closed\), merge \(closed\), reopen \(open\), reply \(open\)$"
    with pytest.raises(Refusal, match=known):
        spec.then()
    with pytest.raises(Refusal, match=r"update_status \(on_hold \| pending\)$"):
        given(opened(), TicketAssigned("a"), TicketUnassigned()).when(ReopenTicket()).then()


def test_a_resolved_ticket_is_not_reopened_by_status():
    given(*RESOLVED).when(UpdateStatus(status="open")).refused("transition_refused")


def test_resolving_needs_an_assignee():
    given(opened()).when(ResolveTicket(resolution="done")).refused("needs_assignee")


def test_resolving_says_how_and_ends_waiting():
    given(*ASSIGNED, PENDING).when(ResolveTicket(resolution="new toner")).then(
        TicketResolved("new toner")
    )
    ticket = folded(*ASSIGNED, PENDING, TicketResolved("new toner"))
    assert (ticket.status, ticket.resolution, ticket.waiting_reason) == (
        "resolved",
        "new toner",
        None,
    )


def test_resolving_again_changes_nothing_with_the_same_words_and_is_refused_with_others():
    given(*RESOLVED).when(ResolveTicket(resolution="new toner")).then()
    given(*RESOLVED).when(ResolveTicket(resolution="prayer")).refused("transition_refused")


def test_only_a_resolved_ticket_is_reopened():
    given(*RESOLVED).when(ReopenTicket(reason="jams")).then(TicketReopened("jams"))
    given(*ASSIGNED).when(ReopenTicket()).refused("transition_refused")
    ticket = folded(*RESOLVED, TicketReopened(None))
    assert (ticket.status, ticket.resolution) == ("open", None)


def test_closing_needs_a_resolution_or_a_reason():
    given(*RESOLVED).when(CloseTicket()).then(TicketClosed(None))
    given(*ASSIGNED).when(CloseTicket()).refused("needs_resolution_or_reason")
    given(opened()).when(CloseTicket(reason="spam")).then(TicketClosed("spam"))


def test_closing_what_is_closed_changes_nothing_unless_the_reason_is_another():
    given(*CLOSED).when(CloseTicket()).then()
    given(*CLOSED).when(CloseTicket(reason="spam")).refused("ticket_closed")
    given(opened(), TicketClosed("spam")).when(CloseTicket(reason="spam")).then()


@pytest.mark.parametrize(
    "command",
    [
        UpdateStatus(status="open"),
        ResolveTicket(resolution="x"),
        ReopenTicket(),
        AssignTicket(assignee="carol"),
        UnassignTicket(),
        MoveToGroup(group="print"),
        ChangePriority(priority="low"),
        ChangeSubject(subject="x"),
        Reply(body="x"),
        AddNote(body="x"),
        SetField(key="floor", value=3),
    ],
)
def test_a_closed_ticket_takes_nothing_but_tags_links_and_a_rating(command):
    given(*CLOSED).when(command).refused("ticket_closed")


def test_a_closed_ticket_takes_tags():
    given(*CLOSED).when(AddTags(tags=("known-fault",))).then(TagsAdded(("known-fault",)))


def test_moving_to_a_group_clears_the_assignee():
    moved = TicketMovedToGroup("network")
    given(*ASSIGNED).when(MoveToGroup(group="network")).then(moved, TicketUnassigned())
    given(opened()).when(MoveToGroup(group="network")).then(moved)
    given(opened(), moved).when(MoveToGroup(group="network")).then()


def test_a_ticket_can_be_taken_out_of_its_group():
    given(opened(group="print")).when(MoveToGroup(group=None)).then(TicketMovedToGroup(None))


def test_priority_and_subject_change_only_to_something_else():
    given(opened()).when(ChangePriority(priority="urgent")).then(
        PriorityChanged("urgent", NO_PROMISE)
    )
    given(opened()).when(ChangePriority(priority="normal")).then()
    given(opened()).when(ChangeSubject(subject="Jam!")).then(SubjectChanged("Jam!"))
    given(opened()).when(ChangeSubject(subject="Printer jam")).then()
    assert folded(opened(), SubjectChanged("Jam!")).subject == "Jam!"
    assert folded(opened(), PriorityChanged("urgent", NO_PROMISE)).priority == "urgent"


def test_an_agents_reply_takes_a_new_ticket_to_open():
    given(opened()).when(Reply(body="On it.")).then(AgentReplied("On it."))
    assert folded(opened(), AgentReplied("On it.")).status == "open"


def test_a_requesters_reply_leaves_a_new_ticket_new():
    given(opened()).by("requester").when(Reply(body="Hello?")).then(RequesterReplied("Hello?"))
    assert folded(opened(), RequesterReplied("Hello?")).status == "new"


def test_a_requesters_reply_reopens_a_resolved_ticket():
    given(*RESOLVED).by("requester").when(Reply(body="Jams.")).then(
        RequesterReplied("Jams."), TicketReopened("the requester replied")
    )


def test_a_machine_does_not_reply():
    """Or its receipt would count as the first response."""
    given(opened()).by("system").when(Reply(body="Received.")).refused("system_cannot_reply")


def test_an_agents_reply_leaves_a_resolved_ticket_resolved():
    given(*RESOLVED).when(Reply(body="You are welcome.")).then(AgentReplied("You are welcome."))
    assert folded(*RESOLVED, AgentReplied("You are welcome.")).status == "resolved"


def test_a_note_changes_nothing_of_the_ticket_itself():
    given(opened()).when(AddNote(body="odd")).then(NoteAdded("odd"))
    assert folded(opened(), NoteAdded("odd")) == folded(opened())


def test_only_missing_tags_are_added_and_only_present_ones_removed():
    tagged = opened(tags=("a", "b"))
    given(tagged).when(AddTags(tags=("c", "b", "c"))).then(TagsAdded(("c",)))
    given(tagged).when(AddTags(tags=("a",))).then()
    given(tagged).when(RemoveTags(tags=("b", "z"))).then(TagsRemoved(("b",)))
    given(tagged).when(RemoveTags(tags=("z",))).then()
    assert folded(tagged, TagsAdded(("c",)), TagsRemoved(("a",))).tags == ("b", "c")


def test_a_field_is_set_changed_and_taken_away():
    given(opened()).when(SetField(key="floor", value=3)).then(FieldSet("floor", 3))
    with_floor = opened(fields={"floor": 3})
    given(with_floor).when(SetField(key="floor", value=3)).then()
    given(with_floor).when(SetField(key="floor", value=None)).then(FieldSet("floor", None))
    given(opened()).when(SetField(key="floor", value=None)).then()
    assert folded(with_floor, FieldSet("floor", None)).fields == {}
    assert folded(with_floor, FieldSet("room", "B2")).fields == {"floor": 3, "room": "B2"}
    assert folded(with_floor, FieldSet("floor", 4)).fields == {"floor": 4}


def test_a_ticket_has_room_for_so_many_tags_and_fields():
    """L12: refused before a view of it would no longer fit in a document."""
    full = opened(tags=tuple(f"t{n}" for n in range(50)), fields={f"f{n}": n for n in range(100)})
    given(full).when(AddTags(tags=("one-more",))).refused("too_many_tags")
    given(full).when(SetField(key="one_more", value=1)).refused("too_many_fields")
    given(full).when(SetField(key="f0", value=1)).then(FieldSet("f0", 1))
    given(full).when(SetField(key="f0", value=None)).then(FieldSet("f0", None))


def test_true_is_another_value_than_one():
    given(opened(fields={"f": 1})).when(SetField(key="f", value=True)).then(FieldSet("f", True))


def test_a_requesters_reply_ends_the_wait_for_it():
    given(*ASSIGNED, PENDING).by("requester").when(Reply(body="Here.")).then(
        RequesterReplied("Here."), StatusUpdated("open", None, None)
    )
    on_hold = StatusUpdated("on_hold", "parts", None)
    given(*ASSIGNED, on_hold).by("requester").when(Reply(body="Well?")).then(
        RequesterReplied("Well?")
    )


def test_a_ticket_can_turn_out_to_be_someone_elses():
    given(opened()).when(ChangeRequester(requester="carol")).then(RequesterChanged("carol"))
    given(opened()).when(ChangeRequester(requester="bob")).then()
    assert folded(opened(), RequesterChanged("carol")).requester == "carol"


def test_one_follows_oneself_or_names_another():
    given(opened()).by("agent", "carol").when(FollowTicket()).then(FollowerAdded("carol"))
    given(opened()).when(FollowTicket(follower="dave")).then(FollowerAdded("dave"))
    followed = (opened(), FollowerAdded("dave"), FollowerAdded("carol"))
    assert folded(*followed).followers == ("carol", "dave")
    given(*followed).by("agent", "carol").when(FollowTicket()).then()
    given(*followed).by("agent", "carol").when(UnfollowTicket()).then(FollowerRemoved("carol"))
    given(*followed).when(UnfollowTicket(follower="dave")).then(FollowerRemoved("dave"))
    given(*followed).when(UnfollowTicket(follower="erin")).then()
    assert folded(*followed, FollowerRemoved("carol")).followers == ("dave",)


def test_a_file_is_attached_once():
    jam = FileAttached("jam.jpg", "image/jpeg", 1234, "a" * 64)
    other = FileAttached("jam.jpg", "image/jpeg", 1234, "b" * 64)
    command = Attach(name="jam.jpg", media_type="image/jpeg", size_bytes=1234, sha256="a" * 64)
    given(opened()).when(command).then(jam)
    given(opened(), jam).when(command).then()
    given(opened(), other).when(command).then(jam)
    assert folded(opened(), jam, other).attachments == (
        Attachment("jam.jpg", "image/jpeg", 1234, "a" * 64),
        Attachment("jam.jpg", "image/jpeg", 1234, "b" * 64),
    )


def test_its_requester_rates_what_was_resolved():
    bob = given(*RESOLVED).by("requester", "bob")
    bob.when(RateTicket(score=4, comment="Quick.")).then(TicketRated(4, "Quick."))
    bob.when(RateTicket(score=1)).then(TicketRated(1, None))
    assert folded(*RESOLVED, TicketRated(4, "Quick.")).rating == Rating(4, "Quick.")
    rated = given(*CLOSED, TicketRated(4, None)).by("requester", "bob")
    rated.when(RateTicket(score=4)).then()
    rated.when(RateTicket(score=5)).then(TicketRated(5, None))
    rated.when(RateTicket(score=4, comment="Quick.")).then(TicketRated(4, "Quick."))


def test_nobody_else_rates_and_nothing_else_is_rated():
    rate = RateTicket(score=4)
    given(*RESOLVED).by("requester", "carol").when(rate).refused("not_the_requester")
    given(*RESOLVED).by("agent", "carol").when(rate).refused("not_the_requester")
    given(*ASSIGNED).by("requester", "bob").when(rate).refused("not_resolved")
    given(*RESOLVED, TicketReopened(None)).by("requester", "bob").when(rate).refused("not_resolved")
    spam = (opened(), TicketClosed("spam"))
    given(*spam).by("requester", "bob").when(rate).refused("not_resolved")


def test_a_ticket_has_room_for_so_many_followers_and_attachments():
    """L12: refused before a view of it would no longer fit in a document."""
    followed: tuple[TicketEvent, ...] = (opened(), *(FollowerAdded(f"f{n}") for n in range(100)))
    given(*followed).when(FollowTicket(follower="f0")).then()
    given(*followed).when(FollowTicket(follower="one more")).refused("too_many_followers")
    given(*followed[:-1]).when(FollowTicket(follower="f99")).then(FollowerAdded("f99"))
    files = [FileAttached(f"{n}", "a/b", 0, "a" * 64) for n in range(100)]
    command = Attach(name="one more", media_type="a/b", size_bytes=0, sha256="a" * 64)
    given(opened(), *files).when(command).refused("too_many_attachments")
    given(opened(), *files[:-1]).when(command).then(FileAttached("one more", "a/b", 0, "a" * 64))


@pytest.mark.parametrize(
    ("verb", "content"),
    [
        ("open", {"subject": "x", "requester": "bob", "status": "open"}),
        ("open", {"subject": "  ", "requester": "bob"}),
        ("open", {"subject": "x", "requester": "a\x00b"}),
        ("open", {"subject": "x", "requester": "bob", "fields": {"$where": "1"}}),
        ("open", {"subject": "x", "requester": "bob", "fields": {"a.b": "1"}}),
        ("open", {"subject": "\ud800", "requester": "bob"}),
        ("set_field", {"key": "n", "value": 2**63}),
        ("set_field", {"key": "n", "value": 1.5}),
        ("set_field", {"key": "n", "value": {"$gt": 1}}),
        ("add_tags", {"tags": []}),
        ("add_tags", {"tags": ["A B"]}),
        ("close", {"reason": "boredom"}),
        ("update_status", {"status": "pending", "reason": "x", "resume_at": "2026-03-02T00:00:00"}),
        ("reply", {"body": ""}),
        ("merge", {"into": "the other one"}),
        ("link", {"relation": "blocked_by", "ticket": str(OTHER)}),
        ("rate", {"score": 0}),
        ("rate", {"score": 6}),
        ("rate", {"score": "5"}),
        ("update_status", {"status": "pending", "reason": "x", "resume_at": 1999999999}),
        ("update_status", {"status": "pending", "reason": "x", "resume_at": "1999999999"}),
        ("attach", {"name": "x", "media_type": "jpeg", "size_bytes": 1, "sha256": "a" * 64}),
        ("attach", {"name": "x", "media_type": "a/b", "size_bytes": -1, "sha256": "a" * 64}),
        ("attach", {"name": "x", "media_type": "a/b", "size_bytes": 1, "sha256": "A" * 64}),
        ("follow", {"follower": ""}),
        ("mark_sla_breach", {"target": "happiness"}),
        ("unassign", {"why": "x"}),
    ],
)
def test_a_command_that_makes_no_sense_cannot_be_made(verb, content):
    """L12: what is not understood is not accepted."""
    with pytest.raises(ValidationError):
        COMMANDS[verb].model_validate(content)
