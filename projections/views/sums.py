"""The views that are sums over all tickets, and what each ticket adds to them.

What a ticket adds stands in its read document, in one field for each of these views. So what it has
added is known exactly; the process that writes the document adds the difference in the same
transaction; and at any moment the view is the sum over the documents.

A new one is a `SumView` that is named here, and a field of `TicketRead`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from eventstore.database import Database
from projections.views.agents import AgentWeeks
from projections.views.dashboard_counters import Counters
from projections.views.saved_views import SavedViews
from projections.views.sum_view import Entries, SumView
from projections.views.tickets import TicketRead

VIEWS: tuple[type[SumView], ...] = (Counters, SavedViews, AgentWeeks)

Contributions = Mapping[str, Entries]
"""What a ticket adds, by the field of the read document that says so."""


def of(database: Database) -> Sequence[SumView]:
    """Return all of them."""
    return [view(database) for view in VIEWS]


def contributed(read: TicketRead) -> Contributions:
    """Return what a ticket adds."""
    return {
        Counters.field: read.counted,
        SavedViews.field: dict.fromkeys(read.in_views, 1),
        AgentWeeks.field: read.worked,
    }


def add(total: dict[str, Counter[str]], more: Contributions, times: int = 1) -> None:
    """Add what tickets add, so many times, to a sum of it."""
    for name, entries in more.items():
        counter = total[name]
        for key, n in entries.items():
            counter[key] = counter.get(key, 0) + times * n


def stored(document: Mapping[str, object]) -> tuple[Contributions, str | None]:
    """Return what a stored document says that it adds, and the name of a field that is damaged."""
    found = {view.field: view.read(document.get(view.field)) for view in VIEWS}
    damaged = next((name for name, entries in found.items() if entries is None), None)
    return {name: entries or {} for name, entries in found.items()}, damaged
