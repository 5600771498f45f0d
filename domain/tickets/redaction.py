"""Words that nobody is to read any more are redacted: a card number or a password that was pasted.

The event that holds them stays in the log as it was written. Whoever opens it reads `REDACTED` in
their place (`eventstore/redactions.py`), so no fold ever sees them. Then the key that they are
sealed with is destroyed (`eventstore/personal/key_tree.py`).
"""

from typing import Annotated, ClassVar

from pydantic import Field

from domain.actors import PrincipalRole
from domain.codec import Words
from domain.errors import Unacceptable
from domain.tickets.command import NOTHING, Command, Context, Decision, EventPlace
from domain.tickets.ticket import Ticket, TicketEvent
from domain.values import FieldKey, JsonObject, Line, at_most, redacted

_FIELDS = 10
EventVersion = Annotated[int, Field(ge=1, lt=2**31, strict=True, examples=[1])]
FieldNames = Annotated[tuple[FieldKey, ...], *at_most(_FIELDS), Field(examples=[["body"]])]


class MessageRedacted(TicketEvent):
    """Of the event of version `redacts`, what some of its fields say is shown to nobody any more.
    Requesters see it unless it is `is_internal`, as that event is. `same_command`: other events of
    the same command, whose fingerprint is not shown there either.
    """

    schema: ClassVar[int] = 2
    upcasters: ClassVar = (dict,)
    redacts: int
    fields: tuple[str, ...]
    reason: Words
    is_internal: bool = False
    same_command: tuple[EventPlace, ...] = ()

    def change(self, ticket: Ticket) -> None:
        """Nothing is left to change: the event of that version is read without its words."""


class Redact(Command):
    """Have what an event of the ticket says shown to nobody any more: a reply, a note, the opening,
    a resolution, a file's name or whatever else has words; of its data only `fields`, if some are
    named. `[redacted]` is read in its place by everybody, everywhere, also in the past. This cannot
    be undone: the key that the words are sealed with is destroyed. Words that a former version has
    written have no key of their own, and are hidden alone; `redaction` says which. Copies in other
    events are to be redacted there: names of files and the reason of waiting, after a merge or its
    end; subject and custom fields of a follow-up. Taken by closed tickets too.
    """

    allowed: ClassVar[frozenset[PrincipalRole]] = frozenset({"supervisor"})
    taken_when_closed = True
    taken_when_full = True
    version: EventVersion
    fields: FieldNames = ()
    reason: Line

    def about(self) -> int:
        return self.version

    def decide(self, ticket: Ticket, context: Context) -> Decision:
        said = context.said
        words: JsonObject = {}
        if said is not None:
            wanted = self.fields or said.words
            words = {name: said.words[name] for name in said.words if name in wanted}
            words.pop("sha256", None)  # by which a file is told from others
        if said is None or not words:
            raise Unacceptable("nothing_to_redact", "the ticket has no such words in that version")
        if redacted(words) == words:
            return NOTHING
        fields = tuple(sorted(words))
        internal, others = not said.is_public, said.same_command
        return Decision((MessageRedacted(self.version, fields, self.reason, internal, others),))
