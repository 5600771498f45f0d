"""How a list of tickets is read: what of its filter an index bounds, and what is looked at behind.

Which index that is says `projections/views/indexes.py`.
"""

from datetime import UTC, datetime, time
from typing import Literal, NamedTuple
from uuid import UUID

from api.queries.representations import NEVER_SHOWN
from domain.values import Moment
from eventstore.mongo.driver import MongoDatabase
from eventstore.mongo.sorted_pages import Query
from projections.views import indexes, tickets
from projections.views.counters import Counters
from projections.views.filter import AnyOf, Between, Filter, Is, Not

MOST_COUNTED = 100_000
_NOT_IN_LISTS = dict.fromkeys((*NEVER_SHOWN, "body"), 0)

Sort = Literal[
    "-opened_at", "opened_at", "-updated_at", "updated_at", "-resolved_at", "resolved_at"
]


class Place(NamedTuple):
    """The last ticket of a page: its time in the sort, and its id."""

    list: str
    time: Moment
    id: UUID


def query(asked: Filter, sort: str, along: str | None = None) -> Query:
    """Return how to read a list. `along`: the field whose index to read along in any case."""
    by = sort.removeprefix("-")
    plain = [term for term in asked.terms if not isinstance(term, Not | AnyOf)]
    narrowest = along or indexes.for_list({term.field for term in plain}, by)
    bounds = [term for term in plain if isinstance(term, Between) and term.field == by]
    narrow = next(
        (
            term
            for term in plain
            if isinstance(term, Is) and term.field == narrowest and len(term.values) == 1
        ),
        None,
    )
    return Query(
        collection=tickets.COLLECTION,
        by=by,
        direction=-1 if sort.startswith("-") else 1,
        index=indexes.OF_LISTS[narrowest],
        narrow={} if narrow is None else narrow.condition(),
        low=max((term.low for term in bounds if term.low is not None), default=None),
        high=min((term.high for term in bounds if term.high is not None), default=None),
        others=[t.condition() for t in asked.terms if t != narrow and t not in bounds],
        is_along=along is not None,
        projection=_NOT_IN_LISTS,
    )


async def begin(shown: MongoDatabase, forward: bool) -> datetime:
    """Return a time near which lists begin: the first day of the counters, or the last."""
    counters, now = Counters(shown), shown.clock.now()
    day = await (counters.first_day() if forward else counters.last_day())
    if day is None or (day == now.date() and not forward):
        return now
    return datetime.combine(day, time.min if forward else time.max, UTC)
