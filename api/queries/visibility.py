"""The visibility policy: which tickets a principal sees, and how much of them.

Requesters see their own tickets and those that they follow, and nothing that is internal: no notes,
no missed promises, no followers, no other tickets that theirs has to do with, and what was said for
colleagues of fields and files. To them a ticket is what it would be if its public events were all
there are: so are its version, its times, what a search finds, and every answer. Agents see the
tickets of the groups that the desk's set-up puts them into, those of no group yet, and those that
they are assigned to, follow or have opened for themselves; on a desk without groups, all. A ticket
that is not closed, of a group that the desk has retired, they see as if it were where it goes.
Supervisors and auditors see all.

A ticket that a principal does not see does not exist for them: 404, whatever they ask of it. Pure
but for `VisibilityPolicy`, which looks groups up: in a set-up that may be some seconds old.
"""

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import NamedTuple, cast, get_args
from uuid import UUID

from api.access.principals import Principal, Unseen
from api.commands.handler import DeskSource, Outcome
from api.queries.representations import Tickets, present
from api.queries.watermark import FreshnessQuery, ReadModels, Snapshot
from domain.errors import Forbidden
from domain.sla import SlaTarget
from domain.tickets import is_public
from domain.tickets.opening import OpenTicket
from domain.tickets.promises import PromiseTakenOver
from domain.tickets.redaction import MessageRedacted
from domain.tickets.ticket import Ticket
from domain.values import JsonObject, one_spelling
from eventstore.event_document import EventDocument
from eventstore.reading import Read
from projections.views.filter import AnyOf, Filter, Is, Not, OfField, Term, all_of
from projections.views.tickets import PUBLIC_SINCE_SHAPE

INTERNAL_FIELDS = frozenset(
    {"has_note", "last_actor", "sla_breached", "followers", "links", "internal_fields"}
)
"""Fields of a ticket that are null for requesters, and whose changes they are not shown."""
_NOT_ASKED_BY_REQUESTERS = INTERNAL_FIELDS | {"due_at", "next_due_at"}
_PUBLIC = {"version": "public_version", "updated_at": "public_updated_at"}
"""What stands for a field of a read document, for requesters."""


class Shown(NamedTuple):
    """An event of a ticket as it is stored, and opened; None in its place if it is not shown."""

    stored: EventDocument
    event: EventDocument | None


@dataclass(frozen=True, slots=True)
class Visibility:
    """What one principal sees. `groups`: whose tickets, for an agent; None: all there are.
    `leaving`: retired groups whose tickets go to one of those, or to none.
    `public`: what stands for a field of the read documents, for a requester; nothing does in those
    of a former version, which are shown until they are built anew.
    """

    principal: Principal
    groups: frozenset[str] | None = None
    leaving: frozenset[str] = frozenset()
    public: Mapping[str, str] = field(default_factory=lambda: _PUBLIC)

    @property
    def is_of_requester(self) -> bool:
        return self.principal.role == "requester"

    @property
    def is_of_all(self) -> bool:
        """Return whether all tickets are seen, as they are and as they were."""
        return not self.is_of_requester and self.groups is None

    @property
    def tickets(self) -> Filter:
        """Return which tickets are seen."""
        own = (one_spelling(self.principal.id),)
        if self.is_of_requester:
            return all_of(Is("participants", own))
        if self.groups is None:
            return Filter()
        terms = [Is(name, own) for name in ("assignee", "requester", "followers")]
        terms.append(Is("group", (None, *sorted(self.groups))))
        seen = [all_of(term) for term in terms]
        if self.leaving:
            closed = Not(all_of(Is("status", ("closed",))))
            seen.append(all_of(closed, Is("group", tuple(sorted(self.leaving)))))
        return all_of(AnyOf(tuple(seen)))

    def sees(self, ticket: Mapping[str, object]) -> bool:
        """Return whether a ticket is seen, by its fields."""
        return self.is_of_all or self.tickets.matches(ticket)

    def require(self, ticket: Ticket) -> None:
        """Raise Unseen unless a ticket is seen."""
        if not self.sees({**vars(ticket), "participants": ticket.participants}):
            raise Unseen

    def within(self, asked: Filter) -> Filter:
        """Return a filter for those tickets that are seen.

        Raises Forbidden for a filter that would tell of what is internal.
        """
        if self.is_of_requester:
            _check_asked(asked.fields())
            asked = asked.mapped(self._of_public)
        return self.tickets & asked  # in this order: requesters' lists are read by the first term

    def sort(self, sort: str) -> str:
        """Return how a list is sorted that is to be sorted by a field.

        Raises Forbidden for an order that would tell of what is internal.
        """
        if not self.is_of_requester:
            return sort
        name = sort.removeprefix("-")
        _check_asked({name})
        return sort.replace(name, self.public.get(name, name))

    def _of_public(self, term: OfField) -> Term:
        """Return what is asked of what requesters see, where it is kept apart."""
        if term.field == "terms":
            same = all_of(Is("public_terms", (None,)), term)
            return AnyOf((same, all_of(replace(term, field="public_terms"))))
        return replace(term, field=self.public.get(term.field, term.field))

    def outcome(self, outcome: Outcome) -> JsonObject:
        """Return what came of a command as an answer says it."""
        events = [
            {"version": public if self.is_of_requester else version, "type": type_}
            for version, type_, public, is_shown in outcome.events
            if is_shown or not self.is_of_requester
        ]
        redaction = {} if outcome.redaction is None else {"redaction": outcome.redaction}
        return {
            "ticket_id": outcome.ticket_id,
            "version": outcome.public_version if self.is_of_requester else outcome.version,
            "events": events,
            "follow_up": outcome.follow_up,
            **redaction,
        }

    def present(self, document: Mapping[str, object]) -> JsonObject:
        """Return a read document as it is shown."""
        shown = present(document)
        if self.is_of_requester:
            fields = cast("JsonObject", document["fields"])
            files = cast("list[JsonObject]", document["attachments"])
            internal = cast("list[str]", document.get("internal_fields", ()))
            shown["fields"] = {key: fields[key] for key in fields if key not in internal}
            shown["attachments"] = [file for file in files if not file.get("internal")]
            if document["status"] == "pending":
                # A wait that is over sets the clock going with the next event, whichever it is.
                shown |= dict.fromkeys(f"{target}_due_at" for target in get_args(SlaTarget))
            shown |= {name: document.get(of, shown[name]) for name, of in _PUBLIC.items()}
            shown |= dict.fromkeys(INTERNAL_FIELDS)
        return shown

    async def shown(self, events: AsyncGenerator[Read, None]) -> AsyncGenerator[Shown, None]:
        """Yield a ticket's events, from its first on, as the principal may know them: requesters
        those that are public, numbered as if there were no others, and of an opening the public
        part.
        """
        version, numbers = 0, dict[object, int]()
        async with aclosing(events):
            async for stored, event in events:
                if not self.is_of_requester:
                    yield Shown(stored, event)
                elif not is_public(event.get("type"), event.get("data")):
                    yield Shown(stored, None)
                else:
                    version += 1
                    numbers[event.get("version")] = version
                    yield Shown(stored, _of_requester(event, version, numbers))

    def event(self, shown: JsonObject) -> JsonObject:
        """Return an event of a ticket that is seen as it is shown."""
        if not self.is_of_requester:
            return shown
        # Other people's keys, and tickets that are not theirs, stand in what an event came of; and
        # what stands before it may be internal.
        hidden = (
            "command",
            "correlation_id",
            "causation_id",
            "sealed",
            "hidden",
            "previous",
            "hash",
        )
        return shown | dict.fromkeys(hidden)

    def changes(self, changes: list[JsonObject]) -> list[JsonObject]:
        """Return those of some changes that are shown."""
        if not self.is_of_requester:
            return changes
        return [change for change in changes if change["field"] not in INTERNAL_FIELDS]

    def check_group(self, group: str | None) -> None:
        """Raise Forbidden for figures of a group whose tickets are not seen; None: of all."""
        if self.groups is not None and (group is None or group not in {*self.groups, ""}):
            raise Forbidden("ask for one of your groups: ?group=<name>, or ?group= for none")

    def check_opening(self, command: OpenTicket) -> None:
        """Raise Forbidden for a ticket that the principal's role does not allow to be opened."""
        own = one_spelling(self.principal.id)
        if self.is_of_requester and one_spelling(command.requester) != own:
            raise Forbidden(f"a requester opens tickets for themselves: {self.principal.id}")


def _check_asked(fields: Iterable[str]) -> None:
    """Raise Forbidden if any of the fields that a requester asks for is internal."""
    if not _NOT_ASKED_BY_REQUESTERS.isdisjoint(fields):
        raise Forbidden("notes and promises are not for requesters to ask for")


def _of_requester(
    event: EventDocument, version: int, numbers: Mapping[object, int]
) -> EventDocument:
    data: object = event["data"]  # of a damaged event it may be anything
    if isinstance(data, dict) and isinstance(internal := data.get("internal_fields"), list):
        fields = cast("JsonObject", data["fields"])
        public = {key: value for key, value in fields.items() if key not in internal}
        data = {**data, "fields": public, "internal_fields": []}
    if isinstance(data, dict) and event["type"] == PromiseTakenOver.__name__:
        data = {**data, "ticket": None}
    if isinstance(data, dict) and event["type"] == MessageRedacted.__name__:
        data = {**data, "redacts": numbers.get(data.get("redacts")), "same_command": []}
    return cast("EventDocument", {**event, "version": version, "data": data})


class VisibilityPolicy:
    """Finds out what principals see."""

    def __init__(self, desks: DeskSource, current_tickets: Tickets, views: ReadModels) -> None:
        self._desks = desks
        self._tickets = current_tickets
        self._views = views

    async def of(self, principal: Principal) -> Visibility:
        """Return what a principal sees. Raises StoreUnavailable."""
        if principal.role == "agent" and (desk := await self._desks.current()).groups:
            agent = one_spelling(principal.id)
            own = frozenset(name for name, members in desk.groups.items() if agent in members)
            return Visibility(principal, own, desk.leaving(own))
        return Visibility(principal)

    async def time_zone(self) -> str:
        """Return whose days are meant where a day is named. Raises StoreUnavailable."""
        return (await self._desks.current()).time_zone

    async def of_ticket(self, principal: Principal, ticket_id: UUID) -> Visibility:
        """Return the same of a principal who sees a ticket as it is now.

        Raises Unseen for one who does not, TicketNotFound, StoreUnavailable.
        """
        visible = await self.of(principal)
        await self._require(visible, ticket_id)
        return visible

    async def detail(self, visible: Visibility, document: Mapping[str, object]) -> JsonObject:
        """Return a ticket as it is shown by itself, by its read document as of now."""
        rings = None if visible.is_of_requester else await self._tickets.rings(document)
        return visible.present(document) | {"rings": rings or None}

    async def open(
        self, principal: Principal, asked: FreshnessQuery, prefer: str | None
    ) -> tuple[Visibility, Snapshot]:
        """Return what a principal sees, and the views that they ask for.

        Raises Unseen if they wait for a ticket that they do not see, Forbidden if they ask for the
        past, in which it was another's; and what `ReadModels.open` raises.
        """
        visible = await self.of(principal)
        if not visible.is_of_all:
            if asked.as_of_view is not None:
                raise Forbidden("views of the past are for those who see all tickets")
            for ticket_id in asked.awaited():
                await self._require(visible, ticket_id)
        by = "version"
        if visible.is_of_requester:
            if (await self._views.known()).shape < PUBLIC_SINCE_SHAPE:
                visible = replace(visible, public={})
            by = visible.public.get(by, by)
        return visible, await self._views.open(asked, prefer, by)

    async def _require(self, visible: Visibility, ticket_id: UUID) -> None:
        if not visible.is_of_all:
            visible.require((await self._tickets.readable(ticket_id)).ticket)
