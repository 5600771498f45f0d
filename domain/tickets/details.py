"""What a ticket is about: its subject, requester, tags, custom fields and files."""

from typing import Annotated

from pydantic import Field

from domain.actors import EVERYONE
from domain.codec import PersonalValue, PersonName, Words
from domain.errors import Unacceptable
from domain.tickets.command import NOTHING, Command, Context, Decision, require_room
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
)

Tags = Annotated[tuple[Tag, ...], Field(min_length=1, max_length=TICKET_TAGS), at_most(TICKET_TAGS)]


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
    """Say whose ticket it is."""

    requester: Name

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        if self.requester == ticket.requester:
            return NOTHING
        return Decision((RequesterChanged(self.requester),))


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


class RemoveTags(Command):
    """Remove tags. Taken by closed tickets too."""

    taken_when_closed = True
    tags: Tags

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        present = tuple(sorted(set(self.tags) & set(ticket.tags)))
        return Decision((TagsRemoved(present),)) if present else NOTHING


class FieldSet(TicketEvent):
    """A custom field's new value; null takes the field away."""

    key: str
    value: PersonalValue | None

    def change(self, ticket: Ticket) -> None:
        fields = {key: value for key, value in ticket.fields.items() if key != self.key}
        ticket.fields = fields if self.value is None else {**fields, self.key: self.value}


class SetField(Command):
    """Give a custom field a value, or take it away (null)."""

    key: FieldKey
    value: Value | None

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        key, value, old = self.key, self.value, ticket.fields.get(self.key)
        if _is_same(value, old):
            return NOTHING
        if value is not None:
            value = context.desk.kept(key, value)
            require_room("fields", len({*ticket.fields, key}), TICKET_FIELDS)
            if _is_same(value, old):
                return NOTHING
        resolved = ("resolve",) if ticket.status == "resolved" else ()
        needed = context.desk.missing({**ticket.fields, key: ""}, "open", *resolved)
        if value in (None, "") and key in needed:
            raise Unacceptable("field_required", f"{key} cannot be empty; set it to another value")
        return Decision((FieldSet(key, value),))


def _is_same(value: FieldValue | None, old: FieldValue | None) -> bool:
    return value == old and type(value) is type(old)  # 1 and true are not the same


class FileAttached(TicketEvent):
    """A file that is kept elsewhere. `sha256` is hexadecimal, and tells who has the file."""

    name: Words
    media_type: str
    size_bytes: int
    sha256: Words

    def change(self, ticket: Ticket) -> None:
        file = Attachment(self.name, self.media_type, self.size_bytes, self.sha256)
        ticket.attachments = (*ticket.attachments, file)


class Attach(Command):
    """Name a file that is kept elsewhere."""

    allowed = EVERYONE
    name: Name
    media_type: MediaType
    size_bytes: SizeBytes
    sha256: Sha256

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        file = (self.name, self.media_type, self.size_bytes, self.sha256)
        if Attachment(*file) in ticket.attachments:
            return NOTHING
        require_room("attachments", len(ticket.attachments) + 1, TICKET_ATTACHMENTS)
        return Decision((FileAttached(*file),))
