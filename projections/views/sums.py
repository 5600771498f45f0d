"""The views that are sums over all tickets, and what each ticket adds to them.

What a ticket adds stands in its read document, in one field for each of these views. So what it has
added is known exactly; whoever writes the document adds the difference in the same transaction; and
at any moment the view is the sum over the documents.

docs/architecture.md says how to add one.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, cast

from domain.values import JsonObject
from eventstore.database import Database
from eventstore.mongo.driver import Write
from projections.views import agents, counters, dashboard, saved_views
from projections.views.agents import AgentWeeks
from projections.views.counters import Counters
from projections.views.dashboard import Entries
from projections.views.saved_views import SavedViews
from projections.views.tickets import TicketRead

COLLECTIONS = (counters.COLLECTION, saved_views.COUNTS, agents.COLLECTION)

Number = tuple[str, str]
"""Where a number stands: a document without its shard, and the path in it."""

Contributions = Mapping[str, Entries]
"""What a ticket adds, by the field of the read document that says so."""


class SumView(Protocol):
    """One of these views. `collection`: where it is kept; `field`: of the read document."""

    @property
    def collection(self) -> str: ...
    @property
    def field(self) -> str: ...
    @staticmethod
    def summed(added: Entries) -> Mapping[Number, int]:
        """Return what is to be kept for these entries, without shards."""

    @staticmethod
    def kept(document: JsonObject) -> Iterator[tuple[Number, int]]:
        """Return the numbers in one document that is kept."""

    async def prepare(self) -> None: ...
    def writes(self, change: Entries, shard: int) -> list[Write]:
        """Return the writes that add a change of entries to one shard."""


def of(database: Database) -> Sequence[SumView]:
    """Return all of them."""
    return Counters(database), SavedViews(database), AgentWeeks(database)


def contributed(read: TicketRead) -> Contributions:
    """Return what a ticket adds."""
    return {
        Counters.field: read.counted,
        SavedViews.field: dict.fromkeys(read.in_views, 1),
        AgentWeeks.field: read.worked,
    }


def stored(document: Mapping[str, object]) -> tuple[Contributions, str | None]:
    """Return what a stored document says that it adds, and the name of a field that is damaged."""
    views = document.get(SavedViews.field)
    are_views = isinstance(views, list) and all(isinstance(view, str) for view in views)
    found = {
        Counters.field: (document.get(Counters.field), dashboard.are_entries),
        AgentWeeks.field: (document.get(AgentWeeks.field), agents.are_entries),
    }
    added: dict[str, Entries] = {
        SavedViews.field: dict.fromkeys(cast("list[str]", views), 1) if are_views else {}
    }
    damaged = None if are_views else SavedViews.field
    for name, (value, are_entries) in found.items():
        whole = are_entries(value)
        added[name] = cast("Entries", value) if whole else {}
        damaged = damaged if whole else name
    return added, damaged
