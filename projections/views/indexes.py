"""The indexes of `ticket_reads`, and which of them a list is read along.

The index is named here, not chosen by the database: that of the narrowest field that the filter is
about, in an order that is the same for all desks. Status and priority leave many tickets: a list
that is sorted by something else is read in its own order until there are enough. Which question is
served by which index is written out in `tests/projections/test_query_plans.py`.
"""

from collections.abc import Collection, Mapping

from eventstore.database import Database
from eventstore.mongo.limits import Index, make_indexes
from projections.views import tickets

Fields = tuple[tuple[str, int], ...]


def _joined(field: str) -> Fields:
    return ((field, 1), ("opened_at", -1), ("_id", -1))


def _by_time(field: str) -> Fields:
    return ((field, -1), ("_id", -1))


OF_LISTS: Mapping[str, Fields] = {
    "number": (("number", 1),),
    "terms": _joined("terms"),
    "participants": _joined("participants"),
    "requester": _joined("requester"),
    "tags": _joined("tags"),
    "assignee": _joined("assignee"),
    "due_at": _by_time("due_at"),
    "sla_breached": _joined("sla_breached"),
    "group": _joined("group"),
    "resolved_at": _by_time("resolved_at"),
    "updated_at": _by_time("updated_at"),
    "status": _joined("status"),
    "priority": _joined("priority"),
    "opened_at": _by_time("opened_at"),
}
"""By the field that a term is about: the narrowest first."""
OTHERS: Mapping[Fields, str] = {
    (("_id", 1), ("version", 1)): "a write on condition of the version: without it the embedded"
    " server scans all documents",
    (("next_due_at", 1),): "the timekeeper: what is due, or is to be woken",
    (("status", 1), ("resolved_at", 1)): "the timekeeper: what is resolved and is to be closed",
}
"""With what each is for."""
WIDE = frozenset({"status", "priority"})


async def make(views: Database) -> None:
    """Make the indexes. Safe to repeat."""
    indexes = map(Index, (*OTHERS, *OF_LISTS.values()))
    await make_indexes(views.collection(tickets.COLLECTION), *indexes)


def for_list(about: Collection[str], by: str) -> str:
    """Return the key in OF_LISTS of the index for a list.

    `about`: the fields of the terms that must hold. `by`: what the list is sorted by.
    """
    if by != "opened_at" and WIDE.issuperset(about):
        return by
    return next((field for field in OF_LISTS if field in about), by)
