"""What two tickets have to do with each other: links, and merging, which can be undone."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Literal, get_args
from uuid import UUID

from domain.codec import PersonName, Words
from domain.errors import StateConflict, Unacceptable
from domain.tickets.assignment import FollowerRemoved
from domain.tickets.command import (
    NOTHING,
    Command,
    Context,
    Decision,
    closed,
    require_other,
    require_room,
    ways,
)
from domain.tickets.details import FileAttached, FileDetached, TagsAdded, TagsRemoved
from domain.tickets.promises import PromiseGivenBack, PromiseTakenOver
from domain.tickets.ticket import (
    TICKET_ATTACHMENTS,
    TICKET_FOLLOWERS,
    TICKET_LINKS,
    TICKET_TAGS,
    UNSOLVED,
    Attachment,
    LastMerge,
    Link,
    Relation,
    Standing,
    Status,
    Ticket,
    TicketEvent,
    clock_at,
    with_names,
)
from domain.values import ERASED

LinkRelation = Literal["blocks", "duplicates", "relates", "parent"]
UnlinkRelation = Literal[LinkRelation, "blocked_by", "duplicated_by", "child"]
SET_BY_PEOPLE = get_args(UnlinkRelation)
IN_CHAINS: tuple[Relation, ...] = ("blocks", "duplicates", "parent")
"""Kinds of links that must not lead from a ticket back to itself."""

_PAIRS: Mapping[Relation, Relation] = {
    "blocks": "blocked_by",
    "duplicates": "duplicated_by",
    "relates": "relates",
    "parent": "child",
    "follows_up": "followed_up_by",
    "merged_into": "merged_from",
}
OPPOSITE: Mapping[Relation, Relation] = {
    **_PAIRS,
    **{there: here for here, there in _PAIRS.items()},
}
"""What stands on the other ticket's form."""


def _require_room_for_link(ticket: Ticket, other: Ticket) -> None:
    require_room("links", max(len(ticket.links), len(other.links)) + 1, TICKET_LINKS)


class TicketLinked(TicketEvent):
    """Read as a line on this ticket's form, `blocks: B`, `parent: P`. The other ticket has the
    opposite event at the same time.
    """

    internal = True
    relation: Relation
    ticket: UUID

    def change(self, ticket: Ticket) -> None:
        ticket.links = (*ticket.links, Link(self.relation, self.ticket))

    def goes_on_in(self) -> UUID | None:
        return self.ticket if self.relation == "followed_up_by" else None


class LinkTicket(Command):
    """Say that this ticket blocks, duplicates or relates to another, or that the other is its
    parent. The other one shows it too. Taken by closed tickets too, unless they were merged.
    """

    taken_when_closed = True
    taken_when_full = True  # of links there are few
    relation: LinkRelation
    ticket: UUID

    @classmethod
    def is_possible(cls, ticket: Ticket, context: Context) -> bool:
        return ticket.merged_into is None

    def chain(self) -> Relation | None:
        return self.relation if self.relation in IN_CHAINS else None

    def other_ticket(self, ticket: Ticket | None = None) -> UUID:
        return self.ticket

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        opposite = OPPOSITE[self.relation]
        if self.ticket == context.ticket_id:
            raise Unacceptable("link_to_itself", "a ticket cannot be linked to itself")
        theirs = {self.ticket, *context.other_merged}
        if not theirs.isdisjoint(ticket.linked(self.relation)):
            return NOTHING
        other = require_other(context)
        if ticket.merged_into is not None:
            raise closed(ticket)
        if other.merged_into is not None:
            raise StateConflict(
                "other_ticket_merged",
                f"the other ticket was merged into {other.merged_into}: link that one",
            )
        if ticket.is_linked(opposite, self.ticket):
            raise StateConflict(
                "link_cycle", "the two tickets are linked the other way round already"
            )
        if context.closes_ring:
            raise StateConflict(
                "link_cycle", f"other links of the kind {self.relation} lead back to this ticket"
            )
        if self.relation == "parent" and ticket.is_linked("parent"):
            raise StateConflict("has_parent", "the ticket has a parent; take that link away first")
        _require_room_for_link(ticket, other)
        return Decision(
            (TicketLinked(self.relation, self.ticket),),
            (TicketLinked(opposite, context.ticket_id),),
        )


class TicketUnlinked(TicketEvent):
    internal = True
    relation: Relation
    ticket: UUID

    def change(self, ticket: Ticket) -> None:
        gone = Link(self.relation, self.ticket)
        ticket.links = tuple(link for link in ticket.links if link != gone)
        if (merge := ticket.last_merge) is not None:
            ticket.last_merge = replace(merge, unlinked=(*merge.unlinked, gone))


class UnlinkTicket(Command):
    """Take a link away, on both tickets. Taken by closed tickets too, unless they were merged: the
    ticket that goes on takes it, and is meant where the link names the merged one.
    """

    taken_when_closed = True
    lengthens_other = True  # for the two can be linked again
    relation: UnlinkRelation
    ticket: UUID

    def other_ticket(self, ticket: Ticket | None = None) -> UUID:
        return self.ticket

    @classmethod
    def is_possible(cls, ticket: Ticket, context: Context) -> bool:
        return ticket.merged_into is None and any(map(ticket.is_linked, SET_BY_PEOPLE))

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        if not ticket.is_linked(self.relation, self.ticket):
            return NOTHING
        if ticket.merged_into is not None:
            raise closed(ticket)
        # Each may say it of tickets that were merged into the other one.
        theirs = {self.ticket, context.other_id, *context.other_merged}
        ours = {context.ticket_id, *context.merged} - theirs
        other, opposite = context.other, OPPOSITE[self.relation]
        here = [each for each in ticket.linked(self.relation) if each in theirs]
        there = [] if other is None else [each for each in other.linked(opposite) if each in ours]
        return Decision(
            tuple(TicketUnlinked(self.relation, each) for each in here),
            tuple(TicketUnlinked(opposite, each) for each in there),
        )


class TicketMergedInto(TicketEvent):
    """Closes the ticket: `ticket` goes on in its place."""

    ticket: UUID

    def change(self, ticket: Ticket) -> None:
        ticket.before_merge = Standing(
            ticket.status, ticket.waiting_reason, ticket.resume_at, ticket.tags
        )
        ticket.enter("closed")
        ticket.close_reason = "merged"
        ticket.links = (*ticket.links, Link("merged_into", self.ticket))


class TicketMergedFrom(TicketEvent):
    """Goes on in the place of `ticket`, whose requester and followers follow this one now. Its
    tags, files and links come by events of their own, right after this.
    """

    internal = True
    ticket: UUID
    followers: tuple[PersonName, ...]

    def change(self, ticket: Ticket) -> None:
        ticket.last_merge = LastMerge(
            self.ticket, self.followers, ticket.tags, len(ticket.attachments), ticket.links
        )
        ticket.followers = with_names(ticket.followers, *self.followers)
        ticket.links = (*ticket.links, Link("merged_from", self.ticket))


class MergeTicket(Command):
    """Close this ticket as merged: another one that is not yet solved goes on for both.

    The requester and the followers of this one follow that one, see it and hear its replies, and
    what they write here is said there. Tags, links and files are taken along; subject, fields,
    priority, group and assignee are the other's. Of two running promises the earlier holds.
    Refused if a link of this one would contradict one of that: a second parent, or the same link
    the other way round.
    """

    moves = ways(*UNSOLVED, "resolved", to="closed")
    taken_when_full = True
    taken_when_closed = True
    lengthens_other = True
    into: UUID

    def other_ticket(self, ticket: Ticket | None = None) -> UUID:
        return self.into

    @classmethod
    def is_possible(cls, ticket: Ticket, context: Context) -> bool:
        return ticket.status in cls.moves

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        if self.into == context.ticket_id:
            raise Unacceptable("merge_into_itself", "a ticket cannot be merged into itself")
        if ticket.is_linked("merged_into", self.into):
            return NOTHING
        if ticket.status == "closed":
            raise closed(ticket)
        other = require_other(context)
        if other.status in ("resolved", "closed"):
            raise StateConflict(
                "merge_target_solved",
                f"the other ticket is {other.status}; it cannot go on for both",
            )
        following = {other.requester, *other.followers, ERASED}
        followers = tuple(sorted({ticket.requester, *ticket.followers} - following))
        tags = tuple(tag for tag in ticket.tags if tag not in other.tags)
        files = [file for file in ticket.attachments if not _is_among(file, other.attachments)]
        both = {self.into, *context.merged, *context.other_merged}
        links = [
            each
            for each in ticket.links
            if each.relation in SET_BY_PEOPLE and each.ticket not in both
            if each not in other.links
        ]
        _require_no_contradiction(links, other)
        _require_room_for_link(ticket, other)
        require_room("links", len(other.links) + len(links) + 1, TICKET_LINKS)
        require_room("followers", len(other.followers) + len(followers), TICKET_FOLLOWERS)
        require_room("tags", len(other.tags) + len(tags), TICKET_TAGS)
        for internal in (False, True):  # each kind has room of its own
            alike = [f for f in (*other.attachments, *files) if f.internal == internal]
            require_room("attachments", len(alike), TICKET_ATTACHMENTS)
        mine, theirs = (clock_at(each, context.now).due() for each in (ticket, other))
        earlier = [(target, at) for target, at in mine.items() if at < theirs.get(target, at)]
        there = (
            TicketMergedFrom(context.ticket_id, followers),
            *(PromiseTakenOver(target, at, context.ticket_id) for target, at in earlier),
            *([TagsAdded(tags)] if tags else []),
            *(
                FileAttached(f.name, f.media_type, f.size_bytes, f.sha256, f.internal)
                for f in files
            ),
            *(TicketLinked(link.relation, link.ticket) for link in links),
        )
        return Decision((TicketMergedInto(self.into),), there)


def _is_among(file: Attachment, files: Collection[Attachment]) -> bool:
    return any(file.is_same(each) for each in files)


def _require_no_contradiction(links: Collection[Link], other: Ticket) -> None:
    """Raise StateConflict if links that `other` does not have would contradict one that it has."""
    for each in links:
        if other.is_linked(OPPOSITE[each.relation], each.ticket):
            raise StateConflict(
                "link_cycle",
                f"both tickets are linked to {each.ticket}, one the other way round; take one of "
                "the two links away first",
            )
        if each.relation == "parent" and other.is_linked("parent"):
            raise StateConflict(
                "has_parent", "both tickets have a parent; take one of the two links away first"
            )


class TicketUnmerged(TicketEvent):
    """The merge into `ticket` is undone: it is as it was before."""

    ticket: UUID
    status: Status
    reason: Words | None
    resume_at: datetime | None

    def change(self, ticket: Ticket) -> None:
        ticket.enter(self.status, self.reason, self.resume_at)
        ticket.close_reason = ticket.before_merge = None
        ticket.links = tuple(link for link in ticket.links if link.relation != "merged_into")


class MergeUndone(TicketEvent):
    """`ticket` goes on by itself. What it had brought goes by events of its own, right after."""

    internal = True
    ticket: UUID

    def change(self, ticket: Ticket) -> None:
        ticket.last_merge = None
        gone = Link("merged_from", self.ticket)
        ticket.links = tuple(link for link in ticket.links if link != gone)


class UnmergeTicket(Command):
    """Undo the merge of this ticket into another, as long as nothing depends on it: that one's
    requester was not answered since, and it was not merged or closed. What the merge has brought
    to that one is taken away from there again; what was written there, or given to it since, stays.
    """

    moves = {"closed": frozenset({*UNSOLVED, "resolved"})}
    taken_when_closed = True
    lengthens_other = True

    def other_ticket(self, ticket: Ticket | None = None) -> UUID | None:
        return None if ticket is None else ticket.merged_into

    @classmethod
    def is_possible(cls, ticket: Ticket, context: Context) -> bool:
        return ticket.merged_into is not None and ticket.before_merge is not None

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        into, before = ticket.merged_into, ticket.before_merge
        if into is None or before is None:
            raise StateConflict("not_merged", "the ticket is not merged into another")
        other = require_other(context)
        merge = other.last_merge
        if other.status == "closed" or merge is None or merge.ticket != context.ticket_id:
            raise StateConflict(
                "merge_is_settled",
                f"{into}, the ticket into which it was merged, was answered, merged or closed "
                "since; open a new ticket, and link the two",
            )
        tags = tuple(t for t in other.tags if t in before.tags and t not in merge.tags)
        brought = other.attachments[merge.files :]
        files = [file for file in brought if _is_among(file, ticket.attachments)]
        had = {*merge.links, *merge.unlinked}
        links = [each for each in other.links if each in ticket.links and each not in had]
        here = (
            TicketUnmerged(into, before.status, before.waiting_reason, before.resume_at),
            *(TicketUnlinked(e.relation, e.ticket) for e in ticket.links if e in merge.unlinked),
        )
        there = (
            MergeUndone(context.ticket_id),
            *(
                PromiseGivenBack(each.target)
                for each in other.sla.taken_over
                if each.ticket == context.ticket_id
            ),
            *(FollowerRemoved(name) for name in other.followers if name in merge.followers),
            *([TagsRemoved(tags)] if tags else []),
            *(FileDetached(file.name, file.sha256, file.internal) for file in files),
            *(TicketUnlinked(each.relation, each.ticket) for each in links),
        )
        return Decision(here, there)
