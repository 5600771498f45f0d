"""What a ticket is about: its subject, requester, tags, custom fields and files."""

from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from domain.actors import EVERYONE
from domain.codec import PersonalValue, PersonName, Words, with_fields
from domain.errors import Unacceptable
from domain.tickets.assignment import FollowerRemoved
from domain.tickets.command import NOTHING, Command, Context, Decision, require_room
from domain.tickets.promises import promised_anew
from domain.tickets.ticket import (
    TICKET_ATTACHMENTS,
    TICKET_FIELDS,
    TICKET_TAGS,
    Attachment,
    Ticket,
    TicketEvent,
    with_names,
    without_names,
)
from domain.values import (
    FieldKey,
    FieldValue,
    Line,
    MediaType,
    Name,
    Sha256,
    SizeBytes,
    Tag,
    Value,
    at_most,
    one_spelling,
)

Tags = Annotated[tuple[Tag, ...], Field(min_length=1), *at_most(TICKET_TAGS)]


class SubjectChanged(TicketEvent):
    subject: Words

    def change(self, ticket: Ticket) -> None:
        ticket.subject = self.subject


class ChangeSubject(Command):
    """Give the ticket a better subject line."""

    subject: Line

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        if self.subject == ticket.subject:
            return NOTHING
        return Decision((SubjectChanged(self.subject),))


class RequesterChanged(TicketEvent):
    requester: PersonName

    def change(self, ticket: Ticket) -> None:
        ticket.requester = self.requester


class ChangeRequester(Command):
    """Say whose ticket it is. Who had it before does not see it any more, nor as a follower."""

    requester: Name

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        if one_spelling(self.requester) == ticket.requester:
            return NOTHING
        before = ticket.requester
        followed = (FollowerRemoved(before),) if before in ticket.followers else ()
        return Decision((RequesterChanged(self.requester), *followed))


class TagsAdded(TicketEvent):
    tags: tuple[str, ...]

    def change(self, ticket: Ticket) -> None:
        ticket.tags = with_names(ticket.tags, *self.tags)


class AddTags(Command):
    """Add tags. Taken by closed tickets too."""

    taken_when_closed = True
    tags: Tags

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        missing = tuple(sorted(set(self.tags) - set(ticket.tags)))
        require_room("tags", len(ticket.tags) + len(missing), TICKET_TAGS)
        return Decision((TagsAdded(missing),)) if missing else NOTHING


class TagsRemoved(TicketEvent):
    tags: tuple[str, ...]

    def change(self, ticket: Ticket) -> None:
        ticket.tags = without_names(ticket.tags, *self.tags)
        if (merge := ticket.last_merge) is not None:  # one that comes again stays
            tags = with_names(merge.tags, *self.tags)
            ticket.last_merge = replace(merge, tags=tags)


class RemoveTags(Command):
    """Remove tags. Taken by closed tickets too."""

    taken_when_closed = True
    tags: Tags

    @classmethod
    def is_possible(cls, ticket: Ticket, context: Context) -> bool:
        return bool(ticket.tags)

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        present = tuple(sorted(set(self.tags) & set(ticket.tags)))
        return Decision((TagsRemoved(present),)) if present else NOTHING


class FieldSet(TicketEvent):
    """A custom field's new value; null takes the field away. Requesters see it unless it is
    `is_internal`, as the desk had it then.
    """

    schema: ClassVar[int] = 2
    upcasters: ClassVar = (with_fields(is_internal=False),)
    key: str
    value: PersonalValue | None
    is_internal: bool = False

    def change(self, ticket: Ticket) -> None:
        fields = {key: value for key, value in ticket.fields.items() if key != self.key}
        internal = without_names(ticket.internal_fields, self.key)
        if self.value is not None:
            fields[self.key] = self.value
            internal = with_names(internal, self.key) if self.is_internal else internal
        ticket.fields, ticket.internal_fields = fields, internal


class SetField(Command):
    """Give a custom field a value, or take it away (null). Requesters see the value if the desk
    says now that they see the field: the same value again takes that over.
    """

    key: FieldKey
    value: Value | None

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        key, value, old = self.key, self.value, ticket.fields.get(self.key)
        was_internal = key in ticket.internal_fields
        is_internal = was_internal if value is None else not context.desk.is_public(key)
        is_seen_alike = old is None or is_internal == was_internal
        if _is_same(value, old) and is_seen_alike:
            return NOTHING
        if value is not None:
            value = context.desk.canonical(key, value)
            require_room("fields", len({*ticket.fields, key}), TICKET_FIELDS)
            if _is_same(value, old) and is_seen_alike:
                return NOTHING
        resolved = ("resolve",) if ticket.status == "resolved" else ()
        needed = context.desk.missing({**ticket.fields, key: ""}, "open", *resolved)
        if value in (None, "") and key in needed:
            raise Unacceptable("field_required", f"{key} cannot be empty; set it to another value")
        decided = FieldSet(key, value, is_internal)
        rest = {name: old for name, old in ticket.fields.items() if name != key}
        fields = rest if value is None else {**rest, key: value}
        anew = promised_anew(ticket, context, ticket.group, fields)
        if is_internal and old is not None and not was_internal:
            # To requesters, the value that they know is gone.
            return Decision((FieldSet(key, None), decided, *anew))
        return Decision((decided, *anew))


def _is_same(value: FieldValue | None, old: FieldValue | None) -> bool:
    return value == old and type(value) is type(old)  # 1 and true are not the same


class FileAttached(TicketEvent):
    """A file that is kept elsewhere. `sha256` is hexadecimal, and tells who has the file.
    Requesters see it unless it is `is_internal`.
    """

    schema: ClassVar[int] = 2
    upcasters: ClassVar = (with_fields(is_internal=False),)
    name: Words
    media_type: str
    size_bytes: int
    sha256: Words
    is_internal: bool = False

    def change(self, ticket: Ticket) -> None:
        file = Attachment(
            self.name, self.media_type, self.size_bytes, self.sha256, self.is_internal
        )
        ticket.attachments = (*ticket.attachments, file)


class FileDetached(TicketEvent):
    """A file that a merge had brought is gone with it. Requesters see it unless it is
    `is_internal`, as the file was.
    """

    name: Words
    sha256: Words
    is_internal: bool = False

    def change(self, ticket: Ticket) -> None:
        gone = Attachment(self.name, "", 0, self.sha256, self.is_internal)
        ticket.attachments = tuple(file for file in ticket.attachments if not file.is_same(gone))


class Attach(Command):
    """Name a file that is kept elsewhere. With `internal`, as with a note, no requester sees it."""

    allowed = EVERYONE
    name: Name
    media_type: MediaType
    size_bytes: SizeBytes
    sha256: Sha256
    internal: bool = False

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        if self.internal and context.actor.role == "requester":
            raise Unacceptable("internal_by_requester", "a requester's file is not internal")
        file = (self.name, self.media_type, self.size_bytes, self.sha256, self.internal)
        if Attachment(*file) in ticket.attachments:
            return NOTHING
        # Each kind has room of its own: how much there is must not tell of the other.
        alike = [each for each in ticket.attachments if each.internal == self.internal]
        require_room("attachments", len(alike) + 1, TICKET_ATTACHMENTS)
        return Decision((FileAttached(*file),))
