"""What follows from a command: the events of a ticket that it leads to, or a refusal.

`decide` is pure (law L6): the time, the actor, the desk's set-up, the other ticket and every id
come in as arguments. What concerns two tickets stands at the end.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, assert_never
from uuid import UUID

from domain.commands import (
    TICKET_ATTACHMENTS,
    TICKET_CONTENT_BYTES,
    TICKET_FIELDS,
    TICKET_FOLLOWERS,
    TICKET_LENGTH_EVENTS,
    TICKET_LINKS,
    TICKET_TAGS,
    AddNote,
    AddTags,
    AssignTicket,
    Attach,
    ChangePriority,
    ChangeRequester,
    ChangeSubject,
    CloseTicket,
    Command,
    FollowTicket,
    LinkTicket,
    MarkSlaBreach,
    MergeTicket,
    MoveToGroup,
    OpenTicket,
    RateTicket,
    RemoveTags,
    ReopenTicket,
    Reply,
    ResolveTicket,
    SetField,
    UnassignTicket,
    UnfollowTicket,
    UnlinkTicket,
    UpdateStatus,
)
from domain.desk import EMPTY_DESK, Desk
from domain.errors import StateConflict, TicketNotFound, Unacceptable
from domain.events import (
    ERASED,
    Actor,
    AgentReplied,
    CloseReason,
    FieldSet,
    FieldValue,
    FileAttached,
    FollowerAdded,
    FollowerRemoved,
    NoteAdded,
    PriorityChanged,
    RequesterChanged,
    RequesterReplied,
    SlaBreached,
    Status,
    StatusUpdated,
    SubjectChanged,
    TagsAdded,
    TagsRemoved,
    TicketAssigned,
    TicketClosed,
    TicketEvent,
    TicketLinked,
    TicketMergedFrom,
    TicketMergedInto,
    TicketMovedToGroup,
    TicketOpened,
    TicketRated,
    TicketReopened,
    TicketResolved,
    TicketUnassigned,
    TicketUnlinked,
)
from domain.lines import check_lines
from domain.ticket import LIFECYCLE, OPPOSITE, Attachment, Link, Rating, Ticket, clock_at

_NEVER_BY_STATUS: Mapping[Status, tuple[str, str]] = {
    "new": ("cannot_return_to_new", "nothing returns to new"),
    "resolved": ("cannot_resolve_by_status", "cannot resolve by status; use resolve"),
    "closed": ("cannot_close_by_status", "cannot close by status; use close"),
}
"""The states that `update_status` never reaches, whatever the ticket's state."""


class Size(NamedTuple):
    """What a ticket holds: its events, and the bytes of what they say, as JSON in UTF-8."""

    events: int = 0
    content_bytes: int = 0

    def reaches(self, most: "Size") -> bool:
        return self.events >= most.events or self.content_bytes >= most.content_bytes


EMPTY = Size()
MOST = Size(TICKET_LENGTH_EVENTS, TICKET_CONTENT_BYTES)
UNBOUNDED = Size(2**63, 2**63)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a decision may know beside the ticket and the command.

    `now`: when it happens (UTC). `other`: the other ticket that the command names, if there is one.
    `follow_up_id`: the id that a follow-up ticket is to have. `size`, `other_size`: what the two
    hold already; `most`: what a ticket may hold.
    """

    now: datetime
    actor: Actor
    ticket_id: UUID
    desk: Desk = EMPTY_DESK
    other: Ticket | None = None
    follow_up_id: UUID | None = None
    size: Size = EMPTY
    other_size: Size = EMPTY
    most: Size = MOST


class Decision(NamedTuple):
    """What a command leads to: events of its ticket, and at the same time of the other ticket that
    it concerns. Nothing at all if it would change nothing.
    """

    events: tuple[TicketEvent, ...] = ()
    elsewhere: tuple[TicketEvent, ...] = ()


_TAKEN_WHEN_CLOSED = AddTags | RemoveTags | LinkTicket | UnlinkTicket | RateTicket | MarkSlaBreach
_DECIDED_WHEN_CLOSED = CloseTicket | MergeTicket  # which may have been done already


def decide(ticket: Ticket | None, command: Command, context: Context) -> Decision:
    """Say what follows from `command`.

    Raises TicketNotFound if it needs a ticket and there is none, Unacceptable if the command is at
    fault (what it says, names, or who says it), StateConflict if this ticket cannot take it now.
    """
    # Here and not where a command is read, for a command that was taken before may come again.
    if not isinstance(command, UnfollowTicket):  # which names what is there
        check_lines(command)
    decision = _decide(ticket, command, context)
    if ticket is not None and decision.events:
        _require_room_for_more(ticket, command, context)
    return decision


def _decide(ticket: Ticket | None, command: Command, context: Context) -> Decision:
    if isinstance(command, OpenTicket):
        if ticket is not None:
            raise StateConflict("ticket_exists", "this ticket has been opened already")
        return Decision((_open(command, context.desk),))
    if ticket is None:
        raise TicketNotFound
    if ticket.status == "closed":
        if isinstance(command, Reply) and context.actor.role == "requester":
            return _follow_up(ticket, command.body, context)
        if not isinstance(command, _TAKEN_WHEN_CLOSED | _DECIDED_WHEN_CLOSED):
            raise StateConflict("ticket_closed", _closed(ticket))
    match command:
        case LinkTicket():
            return _link(ticket, command, context)
        case UnlinkTicket(relation=relation, ticket=other):
            if Link(relation, other) not in ticket.links:
                return Decision()
            here = TicketUnlinked(relation, other)
            return Decision((here,), (TicketUnlinked(OPPOSITE[relation], context.ticket_id),))
        case MergeTicket(into=into):
            return _merge(ticket, into, context)
        case _:
            return Decision(_on_one_ticket(ticket, command, context))


def _require_room_for_more(ticket: Ticket, command: Command, context: Context) -> None:
    """Refuse what makes a full ticket longer, but what brings it to its end: of that there is only
    so much, as long as all else is refused.
    """
    most = context.most
    if context.size.reaches(most) and not _ends(ticket, command, context):
        raise StateConflict(
            "ticket_full",
            f"the ticket holds all that a ticket may ({most.events} events, or "
            f"{most.content_bytes} bytes of content): resolve and close it, and go on in a new "
            "ticket that is linked to it",
        )
    # Of links there are few; but what is merged would go on there, and who unlinks can link again.
    if isinstance(command, MergeTicket | UnlinkTicket) and context.other_size.reaches(most):
        raise StateConflict(
            "other_ticket_full",
            "the other ticket holds all that a ticket may; take one that has room, or a new one",
        )


def _ends(ticket: Ticket, command: Command, context: Context) -> bool:
    match command:
        case ResolveTicket() | CloseTicket() | MergeTicket() | MarkSlaBreach() | LinkTicket():
            return True
        case Reply():  # opens a follow-up
            return ticket.status == "closed"
        case AssignTicket():  # or it could not be resolved
            return ticket.assignee is None
        case RateTicket():
            return ticket.rating is None
        case UpdateStatus(status="open"):  # its wait is over
            return ticket.resume_at is not None and ticket.resume_at <= context.now
        case _:
            return False


def _on_one_ticket(
    ticket: Ticket,
    command: Command,
    context: Context,
) -> tuple[TicketEvent, ...]:
    """Decide what concerns one ticket only."""
    match command:
        case UpdateStatus():
            return _update_status(ticket, command, context)
        case ResolveTicket(resolution=resolution):
            return _resolve(ticket, resolution, context.desk)
        case ReopenTicket(reason=reason):
            _require_transition(ticket, "reopen", "open")
            return (TicketReopened(reason),)
        case CloseTicket(reason=reason):
            return _close(ticket, reason)
        case AssignTicket(assignee=assignee):
            if assignee == ticket.assignee:
                return ()
            context.desk.check_assignee(assignee, ticket.group)
            return (TicketAssigned(assignee),)
        case UnassignTicket():
            return () if ticket.assignee is None else (TicketUnassigned(),)
        case MoveToGroup(group=group):
            return _move(ticket, group, context.desk)
        case ChangePriority(priority=priority):
            if priority == ticket.priority:
                return ()
            return (PriorityChanged(priority, context.desk.targets(priority)),)
        case ChangeSubject(subject=subject):
            return () if subject == ticket.subject else (SubjectChanged(subject),)
        case ChangeRequester(requester=requester):
            return () if requester == ticket.requester else (RequesterChanged(requester),)
        case Reply(body=body):
            return _reply(ticket, body, context.actor)
        case AddNote(body=body):
            return (NoteAdded(body),)
        case AddTags(tags=tags):
            missing = tuple(sorted(set(tags) - set(ticket.tags)))
            _require_room("tags", len(ticket.tags) + len(missing), TICKET_TAGS)
            return (TagsAdded(missing),) if missing else ()
        case RemoveTags(tags=tags):
            present = tuple(sorted(set(tags) & set(ticket.tags)))
            return (TagsRemoved(present),) if present else ()
        case SetField(key=key, value=value):
            return _set_field(ticket, key, value, context.desk)
        case FollowTicket(follower=named):
            follower = named or context.actor.id
            if follower in ticket.followers:
                return ()
            _require_room("followers", len(ticket.followers) + 1, TICKET_FOLLOWERS)
            return (FollowerAdded(follower),)
        case UnfollowTicket(follower=named):
            follower = named or context.actor.id
            return (FollowerRemoved(follower),) if follower in ticket.followers else ()
        case Attach(name=name, media_type=media_type, size_bytes=size_bytes, sha256=sha256):
            if Attachment(name, media_type, size_bytes, sha256) in ticket.attachments:
                return ()
            _require_room("attachments", len(ticket.attachments) + 1, TICKET_ATTACHMENTS)
            return (FileAttached(name, media_type, size_bytes, sha256),)
        case RateTicket(score=score, comment=comment):
            return _rate(ticket, Rating(score, comment), context.actor)
        case MarkSlaBreach(target=target):
            clock = clock_at(ticket, context.now)
            if target in clock.breached:
                return ()
            if target not in clock.overdue:
                raise StateConflict("sla_not_due", f"no promised {target} has run out")
            return (SlaBreached(target, clock.overdue[target]),)
        case OpenTicket() | LinkTicket() | UnlinkTicket() | MergeTicket():
            raise AssertionError("decided elsewhere")
        case _:
            assert_never(command)


def _open(command: OpenTicket, desk: Desk) -> TicketOpened:
    desk.check_group(command.group)
    for key, value in command.fields.items():
        desk.check_field(key, value)
    if missing := desk.missing(command.fields, "open"):
        raise Unacceptable("needs_fields", f"fill in first: {', '.join(missing)}")
    return TicketOpened(
        subject=command.subject,
        body=command.body,
        requester=command.requester,
        priority=command.priority,
        group=command.group,
        tags=tuple(sorted(set(command.tags))),
        fields=command.fields,
        sla=desk.targets(command.priority),
    )


def _require_transition(ticket: Ticket, by: str, to: Status) -> None:
    ways = LIFECYCLE[ticket.status]
    if to not in ways.get(by, ()):
        possible = ", ".join(f"{word} ({' | '.join(sorted(ways[word]))})" for word in sorted(ways))
        raise StateConflict(
            "transition_refused",
            f"{by} cannot take a ticket from {ticket.status} to {to}; what can be done: {possible}",
        )


def _require_room(what: str, wanted: int, most: int) -> None:
    if wanted > most:
        raise StateConflict(f"too_many_{what}", f"a ticket has at most {most} {what}")


def _update_status(
    ticket: Ticket, command: UpdateStatus, context: Context
) -> tuple[TicketEvent, ...]:
    if command.status in _NEVER_BY_STATUS:
        raise Unacceptable(*_NEVER_BY_STATUS[command.status])
    if command.status == "open" and (command.reason or command.resume_at):
        raise Unacceptable("open_waits_for_nothing", "open takes neither reason nor resume_at")
    if command.status != "open" and command.reason is None:
        raise Unacceptable("needs_reason", f"say in reason what {command.status} waits for")
    if command.resume_at is not None and command.resume_at <= context.now:
        raise Unacceptable("resume_at_past", "resume_at must lie in the future")
    updated = StatusUpdated(command.status, command.reason, command.resume_at)
    if updated == StatusUpdated(ticket.status, ticket.waiting_reason, ticket.resume_at):
        return ()
    if command.status != ticket.status:
        _require_transition(ticket, "update_status", command.status)
    return (updated,)


def _resolve(ticket: Ticket, resolution: str, desk: Desk) -> tuple[TicketEvent, ...]:
    if ticket.status == "resolved" and ticket.resolution == resolution:
        return ()
    if ticket.assignee is None:
        raise StateConflict("needs_assignee", "a ticket without an assignee cannot be resolved")
    _require_transition(ticket, "resolve", "resolved")
    if missing := desk.missing(ticket.fields, "open", "resolve"):
        raise StateConflict("fields_missing", f"set before it is resolved: {', '.join(missing)}")
    return (TicketResolved(resolution),)


def _close(ticket: Ticket, reason: CloseReason | None) -> tuple[TicketEvent, ...]:
    if ticket.status == "closed":
        if reason in (None, ticket.close_reason):
            return ()
        raise StateConflict("ticket_closed", _closed(ticket))
    if ticket.status != "resolved" and reason is None:
        raise StateConflict(
            "needs_resolution_or_reason",
            f"the ticket is {ticket.status}; resolve it first, or give a reason for closing it",
        )
    _require_transition(ticket, "close", "closed")
    return (TicketClosed(reason),)


def _move(ticket: Ticket, group: str | None, desk: Desk) -> tuple[TicketEvent, ...]:
    if group == ticket.group:
        return ()
    desk.check_group(group)
    moved = TicketMovedToGroup(group)
    stays = ticket.assignee is None or desk.has_member(group, ticket.assignee)
    return (moved,) if stays else (moved, TicketUnassigned())


def _reply(ticket: Ticket, body: str, actor: Actor) -> tuple[TicketEvent, ...]:
    if actor.role == "agent":
        return (AgentReplied(body),)
    if actor.role == "system":  # or a receipt sent by a machine would count as the first response
        raise Unacceptable("system_cannot_reply", "a reply is an agent's or a requester's")
    match ticket.status:
        case "pending":  # the requester is who was waited for
            return (RequesterReplied(body), StatusUpdated("open", None, None))
        case "resolved":
            return (RequesterReplied(body), TicketReopened("the requester replied"))
        case _:
            return (RequesterReplied(body),)


def _set_field(
    ticket: Ticket, key: str, value: FieldValue | None, desk: Desk
) -> tuple[TicketEvent, ...]:
    old = ticket.fields.get(key)
    if value == old and type(value) is type(old):  # 1 and true are not the same
        return ()
    if value is not None:
        desk.check_field(key, value)
        _require_room("fields", len({*ticket.fields, key}), TICKET_FIELDS)
    without = {**ticket.fields, key: ""}
    needed = desk.missing(without, "open", *(("resolve",) if ticket.status == "resolved" else ()))
    if value in (None, "") and key in needed:
        raise Unacceptable("field_required", f"{key} cannot be empty; set it to another value")
    return (FieldSet(key, value),)


def _rate(ticket: Ticket, rating: Rating, actor: Actor) -> tuple[TicketEvent, ...]:
    if actor != Actor(ticket.requester, "requester"):
        raise Unacceptable("not_the_requester", "only its requester can rate a ticket")
    if ticket.resolution is None:
        raise StateConflict("not_resolved", "a ticket is rated once it has been resolved")
    return () if rating == ticket.rating else (TicketRated(rating.score, rating.comment),)


# --- decisions on two tickets -------------------------------------------------------------------


def _link(ticket: Ticket, command: LinkTicket, context: Context) -> Decision:
    relation, opposite = command.relation, OPPOSITE[command.relation]
    if command.ticket == context.ticket_id:
        raise Unacceptable("link_to_itself", "a ticket cannot be linked to itself")
    if Link(relation, command.ticket) in ticket.links:
        return Decision()
    other = _require_other(context)
    if Link(opposite, command.ticket) in ticket.links:
        raise StateConflict("link_cycle", "the two tickets are linked the other way round already")
    if relation == "parent" and any(link.relation == "parent" for link in ticket.links):
        raise StateConflict("has_parent", "the ticket has a parent; take that link away first")
    _require_room_for_link(ticket, other)
    return Decision(
        (TicketLinked(relation, command.ticket),), (TicketLinked(opposite, context.ticket_id),)
    )


def _merge(ticket: Ticket, into: UUID, context: Context) -> Decision:
    if into == context.ticket_id:
        raise Unacceptable("merge_into_itself", "a ticket cannot be merged into itself")
    if Link("merged_into", into) in ticket.links:
        return Decision()
    if ticket.status == "closed":
        raise StateConflict("ticket_closed", _closed(ticket))
    other = _require_other(context)
    if other.status in ("resolved", "closed"):
        raise StateConflict(
            "merge_target_solved", f"the other ticket is {other.status}; it cannot go on for both"
        )
    _require_transition(ticket, "merge", "closed")
    _require_room_for_link(ticket, other)
    told = {other.requester, *other.followers, ERASED}
    followers = tuple(sorted({ticket.requester, *ticket.followers} - told))
    _require_room("followers", len(other.followers) + len(followers), TICKET_FOLLOWERS)
    return Decision((TicketMergedInto(into),), (TicketMergedFrom(context.ticket_id, followers),))


def _follow_up(ticket: Ticket, body: str, context: Context) -> Decision:
    """Open a new ticket for what a requester has to say to a closed one, and in his name.

    Everything else is as it was on the closed ticket, also fields that the desk defines otherwise
    by now: the requester could not mend them.
    """
    if context.follow_up_id is None:
        raise AssertionError("whoever takes replies to decide has an id at hand")
    _require_room("links", len(ticket.links) + 1, TICKET_LINKS)
    desk = context.desk
    opened = TicketOpened(
        subject=ticket.subject,
        body=body,
        requester=context.actor.id,
        priority=ticket.priority,
        group=ticket.group if desk.takes_group(ticket.group) else None,
        tags=ticket.tags,
        fields=ticket.fields,
        sla=desk.targets(ticket.priority),
    )
    return Decision(
        (TicketLinked("followed_up_by", context.follow_up_id),),
        (opened, TicketLinked("follows_up", context.ticket_id)),
    )


def _closed(ticket: Ticket) -> str:
    if any(link.relation == "merged_into" for link in ticket.links):
        return "the ticket was merged into another, which goes on in its place"
    return "the ticket is closed; it takes only tags, links and a rating"


def _require_other(context: Context) -> Ticket:
    if context.other is None:
        raise Unacceptable("unknown_ticket", "there is no such other ticket")
    return context.other


def _require_room_for_link(ticket: Ticket, other: Ticket) -> None:
    _require_room("links", max(len(ticket.links), len(other.links)) + 1, TICKET_LINKS)
