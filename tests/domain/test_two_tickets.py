"""Decisions that concern two tickets, one sentence each."""

import pytest

from domain.desk import Desk, FieldDefinition, SlaPolicy
from domain.errors import Refusal
from domain.retired import Retired
from domain.sla import SlaTargets
from domain.tickets.assignment import FollowerAdded, TicketAssigned
from domain.tickets.conversation import Reply
from domain.tickets.details import RequesterChanged
from domain.tickets.lifecycle import StatusUpdated, TicketClosed, TicketReopened, TicketResolved
from domain.tickets.relations import (
    OPPOSITE,
    LinkTicket,
    MergeTicket,
    TicketLinked,
    TicketMergedFrom,
    TicketMergedInto,
    TicketUnlinked,
    UnlinkTicket,
)
from domain.tickets.ticket import Link, TicketEvent
from tests.spec import FOLLOW_UP, NO_PROMISE, OTHER, TICKET, folded, given, opened

Past = tuple[TicketEvent, ...]

RESOLVED = (opened(), TicketAssigned("alice"), TicketResolved("toner"))
CLOSED = (*RESOLVED, TicketClosed(None))
MERGE = MergeTicket(into=OTHER)


@pytest.mark.parametrize("relation", ["blocks", "duplicates", "relates", "parent"])
def test_a_link_is_made_on_both_tickets(relation):
    here, there = TicketLinked(relation, OTHER), TicketLinked(OPPOSITE[relation], TICKET)
    link = LinkTicket(relation=relation, ticket=OTHER)
    given(opened()).beside(opened()).when(link).then(here, there=(there,))
    assert folded(opened(), here).links == (Link(relation, OTHER),)


@pytest.mark.parametrize("relation", ["blocks", "duplicates", "relates", "parent"])
def test_a_link_is_taken_away_on_both_tickets(relation):
    past = (opened(), TicketLinked("child", OTHER), TicketLinked(relation, OTHER))
    here, there = TicketUnlinked(relation, OTHER), TicketUnlinked(OPPOSITE[relation], TICKET)
    theirs = (opened(), TicketLinked(OPPOSITE[relation], TICKET))
    unlink = UnlinkTicket(relation=relation, ticket=OTHER)
    given(*past).beside(*theirs).when(unlink).then(here, there=(there,))
    assert folded(*past, here).links == (Link("child", OTHER),)


def test_a_link_can_be_taken_away_from_the_other_side():
    past = (opened(), TicketLinked("blocked_by", OTHER))
    theirs = (opened(), TicketLinked("blocks", TICKET))
    given(*past).beside(*theirs).when(UnlinkTicket(relation="blocked_by", ticket=OTHER)).then(
        TicketUnlinked("blocked_by", OTHER), there=(TicketUnlinked("blocks", TICKET),)
    )


def test_a_link_that_is_there_or_is_not_changes_nothing_again():
    linked = (opened(), TicketLinked("blocks", OTHER))
    given(*linked).when(LinkTicket(relation="blocks", ticket=OTHER)).then()
    given(*linked).when(UnlinkTicket(relation="relates", ticket=OTHER)).then()
    given(*linked).when(UnlinkTicket(relation="blocks", ticket=FOLLOW_UP)).then()


def test_a_ticket_is_not_linked_to_itself_or_to_none():
    itself = LinkTicket(relation="relates", ticket=TICKET)
    given(opened()).beside(opened()).when(itself).refused("link_to_itself")
    given(opened()).when(LinkTicket(relation="relates", ticket=OTHER)).refused("unknown_ticket")


@pytest.mark.parametrize("relation", ["blocks", "duplicates", "parent"])
def test_two_tickets_are_not_linked_both_ways_round(relation):
    past = (opened(), TicketLinked(OPPOSITE[relation], OTHER))
    link = LinkTicket(relation=relation, ticket=OTHER)
    given(*past).beside(opened()).when(link).refused("link_cycle")


def test_a_ticket_has_one_parent():
    child = (opened(), TicketLinked("parent", FOLLOW_UP))
    link = LinkTicket(relation="parent", ticket=OTHER)
    given(*child).beside(opened()).when(link).refused("has_parent")
    parent = (opened(), TicketLinked("child", FOLLOW_UP))
    given(*parent).beside(opened()).when(link).then(
        TicketLinked("parent", OTHER), there=(TicketLinked("child", TICKET),)
    )


def test_closed_tickets_take_links():
    linked = TicketLinked("relates", OTHER), TicketLinked("relates", TICKET)
    link = LinkTicket(relation="relates", ticket=OTHER)
    given(*CLOSED).beside(*CLOSED).when(link).then(linked[0], there=(linked[1],))
    unlink = UnlinkTicket(relation="relates", ticket=OTHER)
    gone = TicketUnlinked("relates", OTHER), TicketUnlinked("relates", TICKET)
    given(*CLOSED, linked[0]).beside(*CLOSED, linked[1]).when(unlink).then(
        gone[0], there=(gone[1],)
    )


def test_a_command_says_which_other_ticket_it_is_about():
    assert LinkTicket(relation="blocks", ticket=OTHER).other_ticket() == OTHER
    assert UnlinkTicket(relation="blocks", ticket=OTHER).other_ticket() == OTHER
    assert MERGE.other_ticket() == OTHER
    assert Reply(body="x").other_ticket() is None


def test_both_tickets_have_room_for_so_many_links():
    """L12: refused before a view of either would no longer fit in a document."""
    links = [TicketLinked("relates", FOLLOW_UP)] * 100
    full: Past = (opened(), *links)
    nearly = full[:-1]
    link = LinkTicket(relation="blocks", ticket=OTHER)
    given(*full).beside(opened()).when(link).refused("too_many_links")
    given(opened()).beside(*full).when(link).refused("too_many_links")
    given(*full).beside(opened()).when(MERGE).refused("too_many_links")
    given(opened()).beside(*full).when(MERGE).refused("too_many_links")
    given(*full, TicketClosed("spam")).by("requester").when(Reply(body="x")).refused(
        "too_many_links"
    )
    follow_up = (opened(body="x"), TicketLinked("follows_up", TICKET))
    given(*nearly, TicketClosed("spam")).by("requester", "bob").when(Reply(body="x")).then(
        TicketLinked("followed_up_by", FOLLOW_UP), follow_up=follow_up
    )
    there = (TicketLinked("blocked_by", TICKET),)
    given(*nearly).beside(*nearly).when(link).then(TicketLinked("blocks", OTHER), there=there)


def test_merging_closes_the_one_and_goes_on_in_the_other():
    merged = TicketMergedInto(OTHER)
    given(opened()).beside(opened()).when(MERGE).then(merged, there=(TicketMergedFrom(TICKET, ()),))
    ticket = folded(opened(), StatusUpdated("pending", "x", None), merged)
    assert (ticket.status, ticket.close_reason) == ("closed", "merged")
    assert (ticket.waiting_reason, ticket.links) == (None, (Link("merged_into", OTHER),))
    other = folded(opened(), TicketMergedFrom(TICKET, ("carol",)))
    assert (other.status, other.links) == ("new", (Link("merged_from", TICKET),))
    assert other.followers == ("carol",)


def test_who_was_told_of_the_one_is_told_of_the_other():
    """But nobody who is told already."""
    mine: Past = (opened(), RequesterChanged("dave"), *map(FollowerAdded, ("bob", "carol", "erin")))
    theirs: Past = (opened(), FollowerAdded("carol"), FollowerAdded("frank"))
    given(*mine).beside(*theirs).when(MERGE).then(
        TicketMergedInto(OTHER), there=(TicketMergedFrom(TICKET, ("dave", "erin")),)
    )


def test_a_merge_loses_nobody_for_want_of_room():
    """L12"""
    mine: Past = (opened(), FollowerAdded("x"), FollowerAdded("y"))
    theirs: Past = (opened(), *(FollowerAdded(f"f{n}") for n in range(98)))
    given(*mine).beside(*theirs).when(MERGE).then(
        TicketMergedInto(OTHER), there=(TicketMergedFrom(TICKET, ("x", "y")),)
    )
    given(*mine).beside(*theirs, FollowerAdded("f98")).when(MERGE).refused("too_many_followers")


def test_a_ticket_is_not_merged_into_itself_or_none_or_a_solved_one():
    given(opened()).beside(opened()).when(MergeTicket(into=TICKET)).refused("merge_into_itself")
    given(opened()).when(MERGE).refused("unknown_ticket")
    given(opened()).beside(*RESOLVED).when(MERGE).refused("merge_target_solved")
    given(opened()).beside(*CLOSED).when(MERGE).refused("merge_target_solved")
    merged = (opened(), TicketMergedInto(FOLLOW_UP))
    given(opened()).beside(*merged).when(MERGE).refused("merge_target_solved")


def test_a_closed_ticket_is_not_merged_and_a_merged_one_not_elsewhere():
    given(*CLOSED).beside(opened()).when(MERGE).refused("ticket_closed")
    merged = (opened(), TicketMergedInto(OTHER))
    given(*merged).beside(opened()).when(MERGE).then()
    given(*merged).beside(opened()).when(MergeTicket(into=FOLLOW_UP)).refused("ticket_closed")


def test_a_requesters_reply_to_a_closed_ticket_opens_a_follow_up_in_his_name():
    past = (
        opened(priority="high", group="print", tags=("a",), fields={"floor": 3}),
        RequesterChanged("carol"),
        TicketClosed("invalid"),
    )
    follow_up = opened(
        priority="high",
        group="print",
        tags=("a",),
        fields={"floor": 3},
        requester="carol",
        body="Again!",
    )
    given(*past).by("requester", "carol").when(Reply(body="Again!")).then(
        TicketLinked("followed_up_by", FOLLOW_UP),
        follow_up=(follow_up, TicketLinked("follows_up", TICKET)),
    )


def test_a_follow_up_is_promised_what_the_desk_promises_now():
    desk = Desk(
        groups={"network": ("dave",)},
        fields={"room": FieldDefinition(type="text")},
        sla={"normal": SlaPolicy(first_response_minutes=10)},
    )
    past = (opened(group="print"), TicketClosed("invalid"))
    follow_up = opened(body="Again!", group=None, sla=SlaTargets(10, None))
    given(*past).at(desk).by("requester", "bob").when(Reply(body="Again!")).then(
        TicketLinked("followed_up_by", FOLLOW_UP),
        follow_up=(follow_up, TicketLinked("follows_up", TICKET)),
    )


def test_a_follow_up_is_of_the_group_that_its_ticket_would_be_of_by_now():
    desk = Desk(groups={"network": ("dave",)}, retired=Retired(groups={"print": "network"}))
    past = (opened(group="print"), TicketClosed("invalid"))
    given(*past).at(desk).by("requester", "bob").when(Reply(body="Again!")).then(
        TicketLinked("followed_up_by", FOLLOW_UP),
        follow_up=(
            opened(body="Again!", group="network"),
            TicketLinked("follows_up", TICKET),
        ),
    )


def test_who_comes_too_late_is_told_where_it_goes_on():
    merged = (opened(), TicketMergedInto(OTHER))
    with pytest.raises(Refusal, match=f"merged into {OTHER}, which goes on"):
        given(*merged).when(Reply(body="x")).then()


def test_an_agent_does_not_reply_to_a_closed_ticket():
    given(*CLOSED).when(Reply(body="x")).refused("ticket_closed")
    given(*CLOSED).by("system").when(Reply(body="x")).refused("ticket_closed")
    reopened = (*RESOLVED, TicketReopened(None))
    assert folded(*reopened).sla.targets == NO_PROMISE
