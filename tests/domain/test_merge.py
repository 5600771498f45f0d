"""What a merge takes along, and how it is undone, one sentence each."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from domain.sla import SlaTargets
from domain.tickets.assignment import FollowerAdded, FollowerRemoved, TicketAssigned
from domain.tickets.command import Context
from domain.tickets.conversation import (
    AddNote,
    AgentReplied,
    Reply,
    ReplyForwarded,
    RequesterReplied,
)
from domain.tickets.details import FileAttached, FileDetached, TagsAdded, TagsRemoved
from domain.tickets.lifecycle import StatusUpdated, TicketClosed, TicketReopened, TicketResolved
from domain.tickets.promises import PriorityChanged, PromiseGivenBack, PromiseTakenOver
from domain.tickets.relations import (
    LinkTicket,
    MergeTicket,
    MergeUndone,
    TicketLinked,
    TicketMergedFrom,
    TicketMergedInto,
    TicketUnlinked,
    TicketUnmerged,
    UnlinkTicket,
    UnmergeTicket,
)
from domain.tickets.ticket import Link, TicketEvent
from tests.spec import ALICE, FOLLOW_UP, NOW, OTHER, PAST, TICKET, folded, given, opened

Past = Sequence[TicketEvent]
THIRD = UUID(int=9)
MERGE, UNMERGE = MergeTicket(into=OTHER), UnmergeTicket()
FILE, FILE2 = (FileAttached(f"{n}.png", "image/png", 1, f"{n}" * 64) for n in range(2))
MINE = (
    opened(requester="carol", tags=("a", "b"), priority="urgent", subject="Mine"),
    FollowerAdded("erin"),
    FILE,
    FILE2,
    TicketLinked("blocks", FOLLOW_UP),
    TicketLinked("relates", OTHER),
    TicketLinked("follows_up", FOLLOW_UP),
)
THEIRS = (
    opened(tags=("b", "c")),
    FollowerAdded("frank"),
    FILE,
    TicketLinked("relates", TICKET),
)
BROUGHT: tuple[TicketEvent, ...] = (
    TicketMergedFrom(TICKET, ("carol", "erin")),
    TagsAdded(("a",)),
    FILE2,
    TicketLinked("blocks", FOLLOW_UP),
)
UNDONE = TicketUnmerged(OTHER, "new", None, None)
LINKED, LOST = TicketLinked("blocks", FOLLOW_UP), TicketUnlinked("blocks", FOLLOW_UP)


def test_tags_files_links_and_followers_are_taken_along_and_nothing_else():
    given(*MINE).beside(*THEIRS).when(MERGE).then(TicketMergedInto(OTHER), there=BROUGHT)
    ticket = folded(*THEIRS, *BROUGHT)
    assert (ticket.subject, ticket.priority, ticket.requester) == ("Printer jam", "normal", "bob")
    assert ticket.tags == ("a", "b", "c")
    assert ticket.followers == ("carol", "erin", "frank")
    assert [file.name for file in ticket.attachments] == ["0.png", "1.png"]


@pytest.mark.parametrize(
    ("relation", "theirs", "code"),
    [
        ("parent", "child", "link_cycle"),
        ("blocks", "blocked_by", "link_cycle"),
        ("parent", "parent", "has_parent"),
    ],
)
def test_a_merge_is_refused_whose_links_would_contradict_those_of_the_other(relation, theirs, code):
    """One parent, and no ticket on both sides of another. L12: a merge loses no link."""
    mine = (opened(), TicketLinked(relation, FOLLOW_UP))
    there = FOLLOW_UP if code == "link_cycle" else THIRD
    beside = (opened(), TicketLinked(theirs, there))
    given(*mine).beside(*beside).when(MERGE).refused(code)
    same = given(*mine).beside(opened(), TicketLinked(relation, FOLLOW_UP)).when(MERGE)
    same.then(TicketMergedInto(OTHER), there=(TicketMergedFrom(TICKET, ()),))


@pytest.mark.parametrize("what", ["tags", "attachments", "links"])
def test_a_merge_for_which_there_is_no_room_loses_nothing(what):
    """L12"""
    full: dict[str, Past] = {
        "tags": [TagsAdded(tuple(f"t{n}" for n in range(50)))],
        "attachments": [FileAttached(f"f{n}", "a/b", 1, "a" * 64) for n in range(100)],
        "links": [TicketLinked("relates", FOLLOW_UP)] * 99,
    }
    given(*MINE).beside(opened(), *full[what]).when(MERGE).refused(f"too_many_{what}")


STANDINGS: dict[str, Past] = {
    "new": (),
    "open": (TicketAssigned("alice"),),
    "pending": (StatusUpdated("pending", "a photo", NOW + timedelta(days=1)),),
    "on_hold": (StatusUpdated("on_hold", "parts", None),),
    "resolved": (TicketAssigned("alice"), TicketResolved("toner")),
}


@pytest.mark.parametrize("status", STANDINGS)
def test_undoing_a_merge_gives_back_the_state_before_of_both(status):
    mine = (*MINE, *STANDINGS[status])
    before, others = folded(*mine), folded(*THEIRS)
    undone = TicketUnmerged(OTHER, before.status, before.waiting_reason, before.resume_at)
    gone = (
        MergeUndone(TICKET),
        FollowerRemoved("carol"),
        FollowerRemoved("erin"),
        TagsRemoved(("a",)),
        FileDetached(FILE2.name, FILE2.sha256),
        TicketUnlinked("blocks", FOLLOW_UP),
    )
    merged, beside = (*mine, TicketMergedInto(OTHER)), (*THEIRS, *BROUGHT)
    unmerge = given(*merged).beside(*beside).when(UNMERGE)
    unmerge.then(undone, there=gone)
    assert folded(*merged, undone) == before
    assert folded(*beside, *gone) == others
    assert before.status == status


def test_what_the_other_ticket_was_given_since_the_merge_stays_there():
    """Also what the merge had brought, if it was taken away in between; and what both got."""
    mine = (*MINE, TicketMergedInto(OTHER), TagsAdded(("z",)))
    since = (
        *(TagsRemoved(("a",)), TagsAdded(("a", "z"))),
        *(FollowerRemoved("erin"), FollowerAdded("erin")),
        *(TicketUnlinked("blocks", FOLLOW_UP), TicketLinked("blocks", FOLLOW_UP)),
    )
    unmerge = given(*mine).beside(*THEIRS, *BROUGHT, *since)
    gone = (FollowerRemoved("carol"), FileDetached(FILE2.name, FILE2.sha256))
    unmerge.when(UNMERGE).then(UNDONE, LOST, there=(MergeUndone(TICKET), *gone))


def test_what_a_merge_has_brought_goes_also_if_the_merged_ticket_has_it_no_more():
    mine = (*MINE, TicketMergedInto(OTHER), TagsRemoved(("a",)), FollowerRemoved("erin"))
    theirs = (*THEIRS, *BROUGHT[:2])
    gone = (*map(FollowerRemoved, ("carol", "erin")), TagsRemoved(("a",)))
    unmerge = given(*mine).beside(*theirs).when(UNMERGE)
    unmerge.then(UNDONE, there=(MergeUndone(TICKET), *gone))


def test_a_file_is_the_same_also_if_one_of_its_names_was_redacted():
    """A merge brings none that the other has; undone, it takes away the one that it brought."""
    hidden = replace(FILE2, name="[redacted]")
    for mine, theirs in ((FILE2, hidden), (hidden, FILE2)):
        past = (opened(), mine, TicketMergedInto(OTHER))
        there = (opened(), TicketMergedFrom(TICKET, ()), theirs)
        gone = (MergeUndone(TICKET), FileDetached(theirs.name, theirs.sha256))
        given(*past).beside(*there).when(UNMERGE).then(UNDONE, there=gone)
        assert folded(*there, *gone).attachments == ()
        again = given(opened(), mine).beside(opened(), theirs).when(MERGE)
        again.then(TicketMergedInto(OTHER), there=(TicketMergedFrom(TICKET, ()),))


def test_a_link_that_was_taken_away_while_it_was_merged_does_not_come_back():
    mine = (opened(), LINKED, TicketMergedInto(OTHER))
    for had in ((TicketMergedFrom(TICKET, ()), LINKED), (LINKED, TicketMergedFrom(TICKET, ()))):
        unmerge = given(*mine).beside(opened(), *had, LOST).when(UNMERGE)
        unmerge.then(UNDONE, LOST, there=(MergeUndone(TICKET),))


def test_a_link_that_both_had_before_a_merge_stays_with_both():
    past = (opened(), LINKED)
    unmerge = given(*past, TicketMergedInto(OTHER)).beside(*past, TicketMergedFrom(TICKET, ()))
    unmerge.when(UNMERGE).then(UNDONE, there=(MergeUndone(TICKET),))


def test_links_of_a_merged_ticket_are_set_and_taken_away_on_the_one_that_goes_on():
    link, unlink = (c(relation="blocks", ticket=OTHER) for c in (LinkTicket, UnlinkTicket))
    merged = (opened(), TicketLinked("blocks", OTHER), TicketMergedInto(FOLLOW_UP))
    given(*merged).beside(opened()).when(unlink).refused("ticket_closed", str(FOLLOW_UP))
    more = LinkTicket(relation="relates", ticket=OTHER)
    given(*merged).beside(opened()).when(more).refused("ticket_closed", str(FOLLOW_UP))
    given(opened()).beside(*merged).when(link).refused("other_ticket_merged", str(FOLLOW_UP))
    context = Context(now=NOW, actor=ALICE, ticket_id=TICKET)
    for command in (link, unlink):
        assert not command.is_possible(folded(*merged), context)
        assert command.is_possible(folded(*merged[:2]), context)


def test_a_merge_is_undone_until_the_requester_was_answered_or_either_was_merged_again():
    merged = (*MINE, TicketMergedInto(OTHER))
    settling: Past = (
        AgentReplied("Done."),
        TicketMergedInto(FOLLOW_UP),
        TicketMergedFrom(FOLLOW_UP, ()),
        TicketClosed("spam"),
        TicketResolved("Done."),
    )
    for since in settling:
        given(*merged).beside(*THEIRS, *BROUGHT, since).when(UNMERGE).refused("merge_is_settled")
    harmless: Past = (
        AgentReplied("We have got it.", automatic=True),
        RequesterReplied("Hello?"),
        FollowerAdded("zoe"),
        TagsAdded(("z",)),
    )
    for since in harmless:
        given(*merged).beside(*THEIRS, *BROUGHT, since).when(UNMERGE).taken()


def test_only_a_merged_ticket_is_unmerged():
    given(*MINE).beside(*THEIRS).when(UNMERGE).refused("not_merged")
    given(*MINE, TicketClosed("merged")).when(UNMERGE).refused("not_merged")
    given(*MINE, TicketMergedInto(OTHER)).when(UNMERGE).refused("unknown_ticket")


def test_the_clock_of_a_merged_ticket_stands_until_it_is_unmerged():
    promised = opened(sla=SlaTargets(30, None))
    ticket = folded(promised, TicketMergedInto(OTHER), TicketUnmerged(OTHER, "new", None, None))
    assert ticket.sla.running
    assert ticket == folded(promised)
    assert not folded(promised, TicketMergedInto(OTHER)).sla.running


def test_what_the_requester_of_a_merged_ticket_says_reaches_the_one_that_goes_on():
    merged = (*MINE, TicketMergedInto(OTHER))
    said = RequesterReplied("Hello?")
    here = ReplyForwarded(OTHER)
    reply = Reply(body="Hello?")
    carol = given(*merged).by("requester", "carol")
    carol.beside(*THEIRS, *BROUGHT).when(reply).then(here, there=(said,))
    waits = StatusUpdated("pending", "a photo", None)
    opens = StatusUpdated("open", None, None)
    carol.beside(*THEIRS, *BROUGHT, waits).when(reply).then(here, there=(said, opens))
    solved = (TicketAssigned("alice"), TicketResolved("toner"))
    reopened = TicketReopened("the requester replied")
    carol.beside(*THEIRS, *BROUGHT, *solved).when(reply).then(here, there=(said, reopened))


def test_an_agent_whose_ticket_was_merged_is_requester_there_and_an_agent_on_the_other():
    """Who may be the one that answers it."""
    merged = (opened(requester="alice"), TicketMergedInto(OTHER))
    theirs = (*THEIRS, TicketMergedFrom(TICKET, ("alice",)))
    there = given(*merged).by("agent", "alice").beside(*theirs).when(Reply(body="Hello?"))
    there.then(ReplyForwarded(OTHER), there=(RequesterReplied("Hello?"),))
    given(*theirs).by("agent", "alice").when(Reply(body="Tray 2.")).then(AgentReplied("Tray 2."))


def test_who_was_taken_off_the_ticket_that_goes_on_is_not_brought_back_by_a_reply():
    """Neither there, nor in a follow-up that tells of it."""
    carol = given(*MINE, TicketMergedInto(OTHER)).by("requester", "carol")
    taken_off = (*THEIRS, *BROUGHT, FollowerRemoved("carol"))
    for past in (taken_off, (*taken_off, TicketClosed("invalid"))):
        for automatic in (False, True):
            reply = Reply(body="Hello?", automatic=automatic)
            carol.beside(*past).when(reply).refused("conversation_left")


def test_a_reply_to_a_full_ticket_that_goes_on_is_refused():
    """L12"""
    carol = given(*MINE, TicketMergedInto(OTHER)).by("requester", "carol")
    carol = carol.beside(*THEIRS, *BROUGHT)
    carol.beside_full().when(Reply(body="x")).refused("other_ticket_full")
    carol.full().when(Reply(body="x")).refused("ticket_full")


def test_when_all_of_a_conversation_is_closed_a_follow_up_of_the_last_is_opened():
    merged = (*MINE, TicketMergedInto(OTHER))
    closed = (*THEIRS, *BROUGHT, TicketClosed("invalid"))
    follow_up = opened(requester="carol", body="Again!", tags=("a", "b", "c"))
    given(*merged).by("requester", "carol").beside(*closed).when(Reply(body="Again!")).then(
        ReplyForwarded(FOLLOW_UP),
        there=(TicketLinked("followed_up_by", FOLLOW_UP),),
        follow_up=(
            follow_up,
            TicketLinked("follows_up", OTHER),
            *map(FollowerAdded, ("bob", "erin", "frank")),
        ),
    )


def test_an_agent_on_a_merged_ticket_is_told_the_other_ones_id():
    merged = given(*MINE, TicketMergedInto(OTHER)).beside(*THEIRS)
    for command in (Reply(body="x"), AddNote(body="x")):
        merged.when(command).refused("ticket_closed", str(OTHER))


def test_a_link_that_was_taken_along_is_set_and_taken_away_once():
    """The ticket at its other end says it of the merged one, and goes on saying so."""
    taken = (opened(), TicketMergedFrom(FOLLOW_UP, ()), TicketLinked("blocks", OTHER))
    there = (opened(), TicketLinked("blocked_by", FOLLOW_UP))
    given(*taken).beside(*there).when(UnlinkTicket(relation="blocks", ticket=OTHER)).then(
        TicketUnlinked("blocks", OTHER), there=(TicketUnlinked("blocked_by", FOLLOW_UP),)
    )
    related = (opened(), TicketLinked("relates", FOLLOW_UP))
    brought = (opened(), TicketMergedFrom(FOLLOW_UP, ()), TicketLinked("relates", TICKET))
    given(*related).beside(*brought).when(LinkTicket(relation="relates", ticket=OTHER)).then()
    assert folded(*taken).linked("merged_from") == (FOLLOW_UP,)
    assert Link("blocks", OTHER) in folded(*taken).links


def test_of_two_running_promises_the_earlier_holds_and_says_whose_it_was():
    """Of each kind by itself, until it is kept; undone, it is the other's again."""
    mine, theirs = opened(sla=SlaTargets(90, 120)), opened(sla=SlaTargets(600, 60))
    due_at = PAST + timedelta(minutes=90)
    taken = PromiseTakenOver("first_response", due_at, TICKET)
    there = (TicketMergedFrom(TICKET, ()), taken)
    given(mine).beside(theirs).when(MERGE).then(TicketMergedInto(OTHER), there=there)
    clock = folded(theirs, *there).sla
    assert clock.due() == {"first_response": due_at, "resolution": PAST + timedelta(minutes=60)}
    assert [each.ticket for each in clock.taken_over] == [TICKET]
    assert folded(theirs, *there, AgentReplied("x")).sla.taken_over == ()
    back = (MergeUndone(TICKET), PromiseGivenBack("first_response"))
    merged = (mine, TicketMergedInto(OTHER))
    given(*merged).beside(theirs, *there).when(UNMERGE).then(
        TicketUnmerged(OTHER, "new", None, None), there=back
    )
    assert folded(theirs, *there, *back) == folded(theirs)


def test_a_promise_that_does_not_run_is_not_taken_over():
    waits = StatusUpdated("pending", "a photo", None)
    short, long = opened(sla=SlaTargets(90, None)), opened(sla=SlaTargets(600, None))
    none = (TicketMergedFrom(TICKET, ()),)
    for mine, theirs in (
        ((short, waits), (long,)),
        ((short,), (long, waits)),
        ((short, AgentReplied("x")), (long,)),
        ((short,), (opened(),)),
        ((long,), (short,)),
        ((short,), (short,)),
    ):
        given(*mine).beside(*theirs).when(MERGE).then(TicketMergedInto(OTHER), there=none)


def test_an_earlier_promise_stays_earlier_whatever_is_promised_later():
    taken = PromiseTakenOver("resolution", PAST + timedelta(minutes=90), TICKET)
    ticket = (opened(sla=SlaTargets(None, 600)), taken)
    lower = PriorityChanged("low", SlaTargets(None, 900))
    higher = PriorityChanged("high", SlaTargets(None, 30))
    assert folded(*ticket, lower).sla.due() == {"resolution": taken.due_at}
    assert folded(*ticket, higher).sla.due() == {"resolution": PAST + timedelta(minutes=30)}
