"""What can be asked of a ticket: one class per command, named for its intent.

A client says a command by its verb (`update_status`, `assign`), which is made from the class's
name; its fields are the request's body, its docstring the description in the API's pages. What
follows from a command is decided in `domain/decisions.py`.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Literal, get_args
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from domain.events import CloseReason, Priority, SlaTarget, Status
from domain.values import (
    FieldKey,
    Line,
    MediaType,
    Moment,
    Name,
    Score,
    Sha256,
    SizeBytes,
    Tag,
    Text,
    TextOrNothing,
    Value,
    at_most,
)

TICKET_TAGS = 50
TICKET_FIELDS = 100
TICKET_FOLLOWERS = 100
TICKET_LINKS = 100
TICKET_ATTACHMENTS = 100
"""Bounds of one ticket, so that its view always fits in a document."""
TICKET_LENGTH_EVENTS = 10_000
TICKET_CONTENT_BYTES = 32 * 2**20
"""Bounds of one ticket's history, so that it can be read and folded while somebody waits. Bytes are
of what its events say, as JSON in UTF-8.
"""

LinkRelation = Literal["blocks", "duplicates", "relates", "parent"]
UnlinkRelation = Literal[LinkRelation, "blocked_by", "duplicated_by", "child"]
Tags = Annotated[tuple[Tag, ...], Field(min_length=1, max_length=TICKET_TAGS), at_most(TICKET_TAGS)]


class _Command(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class OpenTicket(_Command):
    """Open a ticket for a requester."""

    subject: Line
    requester: Name
    body: TextOrNothing = ""
    priority: Priority = "normal"
    group: Name | None = None
    tags: Annotated[tuple[Tag, ...], Field(max_length=TICKET_TAGS), at_most(TICKET_TAGS)] = ()
    fields: Annotated[
        dict[FieldKey, Value], Field(max_length=TICKET_FIELDS), at_most(TICKET_FIELDS)
    ] = Field(default_factory=dict)


class UpdateStatus(_Command):
    """Say that work goes on (open), or waits for the requester (pending) or others (on_hold), and
    until when: at `resume_at` it is opened again by itself.
    """

    status: Status
    reason: Line | None = None
    resume_at: Moment | None = None


class ResolveTicket(_Command):
    """Say that the problem is solved, and how."""

    resolution: Text


class ReopenTicket(_Command):
    """Take a resolved ticket back to open."""

    reason: Line | None = None


class CloseTicket(_Command):
    """Close a resolved ticket; or one in any state, with the reason why no solution is owed."""

    reason: CloseReason | None = None


class MergeTicket(_Command):
    """Close this ticket as merged: another one that is not yet solved goes on for both, and the
    requester and the followers of this one follow that one.
    """

    into: UUID


class AssignTicket(_Command):
    """Make someone responsible."""

    assignee: Name


class UnassignTicket(_Command):
    """Take the assignee off."""


class MoveToGroup(_Command):
    """Hand the ticket to another group, or to none (null). An assignee who is not known to belong
    to it is cleared.
    """

    group: Name | None


class ChangePriority(_Command):
    """Say how urgent it is."""

    priority: Priority


class ChangeSubject(_Command):
    """Give the ticket a better subject line."""

    subject: Line


class ChangeRequester(_Command):
    """Say whose ticket it is."""

    requester: Name


class Reply(_Command):
    """Write to the other side: public. A requester's reply takes a pending or resolved ticket back
    to open; to a closed one it opens a follow-up ticket, which the answer names.
    """

    body: Text


class AddNote(_Command):
    """Write a note for colleagues: never shown to requesters."""

    body: Text


class AddTags(_Command):
    """Add tags. Taken by closed tickets too."""

    tags: Tags


class RemoveTags(_Command):
    """Remove tags. Taken by closed tickets too."""

    tags: Tags


class SetField(_Command):
    """Give a custom field a value, or take it away (null)."""

    key: FieldKey
    value: Value | None


class FollowTicket(_Command):
    """Let someone hear of what becomes of the ticket: oneself, unless somebody is named."""

    follower: Name | None = None


class UnfollowTicket(_Command):
    """Stop following: oneself, unless somebody is named."""

    follower: Name | None = None


class Attach(_Command):
    """Name a file that is kept elsewhere."""

    name: Name
    media_type: MediaType
    size_bytes: SizeBytes
    sha256: Sha256


class LinkTicket(_Command):
    """Say that this ticket blocks, duplicates or relates to another, or that the other is its
    parent. The other one shows it too. Taken by closed tickets too.
    """

    relation: LinkRelation
    ticket: UUID


class UnlinkTicket(_Command):
    """Take a link away, on both tickets. Taken by closed tickets too."""

    relation: UnlinkRelation
    ticket: UUID


class RateTicket(_Command):
    """Say how well it was solved, from 1 to 5: for the requester, once it is. Taken by closed
    tickets too.
    """

    score: Score
    comment: Text | None = None


class MarkSlaBreach(_Command):
    """Put on record that a promised time has run out: for the timekeeper, and refused before."""

    target: SlaTarget


Command = (
    OpenTicket
    | UpdateStatus
    | ResolveTicket
    | ReopenTicket
    | CloseTicket
    | MergeTicket
    | AssignTicket
    | UnassignTicket
    | MoveToGroup
    | ChangePriority
    | ChangeSubject
    | ChangeRequester
    | Reply
    | AddNote
    | AddTags
    | RemoveTags
    | SetField
    | FollowTicket
    | UnfollowTicket
    | Attach
    | LinkTicket
    | UnlinkTicket
    | RateTicket
    | MarkSlaBreach
)


@cache
def verb(command: type[Command]) -> str:
    """Give the command's name as clients say it: `update_status`, `assign` (for AssignTicket)."""
    snake = re.sub(r"(?<!^)(?=[A-Z])", "_", command.__name__).lower()
    return snake.removesuffix("_ticket")


COMMANDS: Mapping[str, type[Command]] = {verb(cls): cls for cls in get_args(Command)}


def other_ticket(command: Command) -> UUID | None:
    """Give the other ticket that a command names, if it is one about two."""
    match command:
        case LinkTicket(ticket=ticket) | UnlinkTicket(ticket=ticket):
            return ticket
        case MergeTicket(into=into):
            return into
        case _:
            return None
