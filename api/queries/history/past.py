"""A ticket as it was: its first events, folded by the view's own fold.

Up to a version, or up to a moment: then the first event that is later ends it, and what follows
that one is not folded either, whatever its time. So an event that was dated back is there from when
those before it are; views as of a time (`projections/replay/rebuild.py`) are cut in the same way.

A change is shown in the ticket's own fields and in what is promised for it. That its version, its
time of change and its counts of replies move on is plain from the event itself.
"""

import dataclasses
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from typing import get_args

from api.queries.representations import CLIENT_FIELDS, UNREADABLE, folded, states
from api.queries.visibility import Shown
from domain.errors import NotFound, TicketNotFound
from domain.sla import SlaTarget
from domain.tickets.ticket import Ticket
from domain.values import JsonObject
from eventstore.event_document import EventDocument, from_document
from projections.views import tickets
from projections.views.tickets import TicketRead

FIELDS = (
    *(field.name for field in dataclasses.fields(Ticket) if field.name in CLIENT_FIELDS),
    *(f"{target}_due_at" for target in get_args(SlaTarget)),
    "sla_breached",
)
"""The fields of a ticket whose changes are shown."""


class VersionNotReached(NotFound):
    """A ticket of five events was asked for as it was after seven."""

    def __init__(self, version: int, reached: int) -> None:
        super().__init__(
            "version_not_reached", f"the ticket is at version {reached}, not at {version} yet"
        )


IsLater = Callable[[Mapping[str, object]], bool]
"""Whether a stored event is later than the moment that is asked about."""


async def until(events: AsyncGenerator[Shown, None], is_later: IsLater) -> AsyncGenerator[Shown]:
    """Yield a ticket's events in order, to the last or to the first that is shown and later.

    Raises StoreUnavailable.
    """
    async with aclosing(events):
        async for shown in events:
            if shown.event is not None and is_later(shown.stored):
                return
            yield shown


async def as_it_was(events: AsyncGenerator[Shown, None], is_later: IsLater) -> TicketRead:
    """Return what there was of a ticket. Raises TicketNotFound, StoreUnavailable, HistoryError."""
    return await folded(until(events, is_later))


async def at_versions(
    events: AsyncGenerator[Shown, None], first: int, last: int | None
) -> tuple[TicketRead | None, TicketRead]:
    """Return a ticket at two versions, in order: None before its first event. `last`: None for now.

    Raises TicketNotFound, VersionNotReached, StoreUnavailable, HistoryError.
    """
    read: TicketRead | None = None
    then: TicketRead | None = None
    async with aclosing(states(events)) as found:
        async for state in found:
            read = state
            if read.version == first:
                then = read
            if read.version == last:
                break
    if read is None:
        raise TicketNotFound
    for wanted in (first, read.version if last is None else last):
        if wanted > read.version:
            raise VersionNotReached(wanted, read.version)
    return then, read


class Changes:
    """Tells, event by event, what each has changed: for as long as they can be read."""

    def __init__(self) -> None:
        self._read: TicketRead | None = None
        self._is_readable = True

    def skip(self, event: EventDocument) -> None:
        """Fold an event that is not shown."""
        try:
            if self._is_readable:
                self._read = tickets.evolve(self._read, from_document(event))
        except UNREADABLE:
            self._is_readable = False

    def tell(self, event: EventDocument) -> list[JsonObject] | None:
        """Fold an event, and return what it has changed; None if that cannot be known any more."""
        before = self._read
        self.skip(event)
        with suppress(*UNREADABLE):
            if self._is_readable:
                return differences(fields(before), fields(self._read))
        self._is_readable = False
        return None


def fields(read: TicketRead | None) -> JsonObject:
    """Return the fields whose changes are shown, as clients see them; none before it was opened."""
    values = {} if read is None else tickets.values(read)
    return {name: values[name] for name in FIELDS if name in values}


def differences(before: JsonObject, after: JsonObject) -> list[JsonObject]:
    """Return which fields differ. Before the opening all are null, and empty is no change."""
    return [
        {"field": name, "before": before.get(name), "after": after.get(name)}
        for name in FIELDS
        if before.get(name) != after.get(name) and (name in before or after.get(name) not in _EMPTY)
    ]


_EMPTY: tuple[object, ...] = (None, "", (), [], {})
