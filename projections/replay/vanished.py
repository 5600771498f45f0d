"""Whether the log still has all that is shown: else views built anew would show less, unsaid."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from domain.errors import CasebookError
from eventstore.database import Database
from eventstore.log import EventStore
from eventstore.partition import partition_of
from projections.projector.checkpoints import Checkpoints
from projections.views.shown_versions import all_versions, versions_of

_log = logging.getLogger(__name__)

_MOST_TOLD = 5


class EventsVanished(CasebookError):
    """The log has not all that is shown, or lacks a version: for example because it was tampered
    with, or put back to an earlier time without saying so.
    """

    def __init__(self, tickets: Sequence[UUID]) -> None:
        some = ", ".join(str(ticket) for ticket in tickets[:_MOST_TOLD])
        super().__init__(
            "events_vanished",
            f"events have vanished from the log, of {len(tickets)} tickets ({some}): the views "
            "stay as they are. See `casebook verify`; `casebook replay "
            "--accept-loss` builds them without these events",
        )


async def require_all_that_is_shown(
    store: EventStore, shown: Database, views: Database, gaps: Iterable[UUID]
) -> None:
    """Raise EventsVanished if the log lacks an event of a ticket. `views`: folded from the log just
    now; `gaps`: tickets of which it lacks a version.

    What is shown now remembers what was at the end of tickets, and whole tickets. It is
    believed where it has as many events as were counted: damage by hand is no loss.
    """
    before = (await Checkpoints(shown).read()).partitions
    suspects: list[UUID] = []
    totals: Counter[int] = Counter()
    async for versions in all_versions(shown):
        for ticket_id, version in versions.items():
            totals[partition_of(ticket_id)] += version
        suspects += await _ahead(store, versions, views)
    after = (await Checkpoints(shown).read()).partitions
    vanished = dict.fromkeys(gaps)
    for ticket_id in suspects:
        number = partition_of(ticket_id)
        if before[number].applied <= totals[number] <= after[number].applied:
            vanished[ticket_id] = None
        else:
            _log.warning("ticket %s shows more than the log has: it is damaged", ticket_id)
    if vanished:
        error = EventsVanished(list(vanished))
        _log.error("%s", error.detail)
        raise error


async def _ahead(store: EventStore, shown: Mapping[UUID, int], views: Database) -> list[UUID]:
    """Return the tickets of which the log has not all versions that are shown."""
    here = await versions_of(views, shown)
    suspects = {ticket for ticket, version in shown.items() if here.get(ticket, 0) < version}
    stored = await store.versions(suspects) if suspects else []
    known = Counter(ticket for ticket, version in stored if version <= shown[ticket])
    return [ticket for ticket in sorted(suspects) if known[ticket] < shown[ticket]]
