"""How a list of tickets is read: what of its filter an index bounds, and what is looked at behind.

Which index that is says `projections/views/indexes.py`; what keeps a page's cost the same, however
many tickets there are, `eventstore/mongo/sorted_pages.py`. A list by priority is read as four, one
behind the other.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, time
from itertools import dropwhile
from typing import Literal, NamedTuple, get_args
from uuid import UUID

from domain.values import JsonObject, Moment, Priority
from eventstore.mongo.driver import MongoDatabase
from eventstore.mongo.sorted_pages import Pager, Position, Query, with_new
from projections.views import indexes, tickets
from projections.views.dashboard_counters import Counters
from projections.views.filter import AnyOf, Between, Filter, Is, Not, all_of

MOST_COUNTED = 100_000
_NOT_IN_LISTS = (
    *("counted", "worked", "in_views", "terms", "said", "public_terms", "public_said"),
    *("participants", "sla", "due_at", "next_due_at", "shape"),
    *("before_merge", "last_merge", "body"),
)
"""Fields of a read document that a list has no use for: they need not be sent."""

TimeSort = Literal[
    "-opened_at",
    "opened_at",
    "-updated_at",
    "updated_at",
    "-resolved_at",
    "resolved_at",
    "-due_at",
    "due_at",
]
Sort = Literal[TimeSort, "-priority", "priority"]

Parts = Mapping[Priority | None, Query]
"""What a list is read as, in order: one for each priority if it is sorted by that."""


class Place(NamedTuple):
    """The last ticket of a page: its time in the sort, its id, and the part that it is in."""

    list: str
    time: Moment
    id: UUID
    priority: Priority | None = None


def parts(asked: Filter, sort: str, along: str | None = None) -> Parts:
    """Return how to read a list, as `query`."""
    if sort.removeprefix("-") != "priority":
        return {None: query(asked, sort, along)}
    ranked: tuple[Priority, ...] = get_args(Priority)
    wanted = [t.values for t in asked.terms if isinstance(t, Is) and t.field == "priority"]
    return {
        each: query(asked & all_of(Is("priority", (each,))), sort, along)
        for each in (ranked if sort == "priority" else ranked[::-1])
        if all(each in values for values in wanted)
    }


async def page(
    pager: Pager, shown: MongoDatabase, of: Parts, place: Place | None, limit: int
) -> list[JsonObject]:
    """Return so many tickets behind a place, or from the beginning."""
    found: list[JsonObject] = []
    left = dropwhile(lambda part: place is not None and part[0] != place.priority, of.items())
    behind = None if place is None else Position(place.time, place.id)
    for _, how in left:
        more = await pager.page(shown, how, behind, limit - len(found))
        found, behind = with_new(found, more, limit), None
        if len(found) == limit:
            break
    return found


def place_of(last: Mapping[str, object], of: Parts) -> list[object]:
    """Return a `Place` of a list as it is written: where it is read as one, as ever."""
    by = next(iter(of.values())).by
    return [last[by], last["_id"], *([] if None in of else [last["priority"]])]


async def count(pager: Pager, shown: MongoDatabase, of: Parts) -> int | None:
    """Return how many tickets there are; None if there are more than are counted."""
    total = 0
    for how in of.values():
        total += await pager.count(shown, how, MOST_COUNTED + 1)
    return total if total <= MOST_COUNTED else None


def query(asked: Filter, sort: str, along: str | None = None) -> Query:
    """Return how to read a list, or the part of one by priority that has the priority which is
    asked for. `along`: the field whose index to read along in any case.
    """
    plain = [term for term in asked.terms if not isinstance(term, Not | AnyOf)]
    narrowest = along or indexes.for_list({term.field for term in plain}, sort.removeprefix("-"))
    if sort.removeprefix("-") == "priority":
        sort = "-opened_at"
    by = sort.removeprefix("-")
    bounds = [term for term in plain if isinstance(term, Between) and term.field == by]
    single = (each for each in plain if isinstance(each, Is) and len(each.values) == 1)
    narrow = next((each for each in single if each.field == narrowest), None)
    return Query(
        collection=tickets.COLLECTION,
        by=by,
        direction=-1 if sort.startswith("-") else 1,
        index=indexes.OF_LISTS[narrowest],
        narrow={} if narrow is None else narrow.condition(),
        low=max((term.low for term in bounds if isinstance(term.low, datetime)), default=None),
        high=min((term.high for term in bounds if isinstance(term.high, datetime)), default=None),
        others=[t.condition() for t in asked.terms if t != narrow and t not in bounds],
        is_along=along is not None,
        projection={name: 0 for name in _NOT_IN_LISTS if name != by},
    )


async def begin(shown: MongoDatabase, forward: bool) -> datetime:
    """Return a time near which lists begin: the first day of the counters, or the last."""
    counters, now = Counters(shown), shown.clock.now()
    day = await counters.outermost_day(min if forward else max)
    if day is None:
        return now
    if forward:
        return datetime.combine(day, time.min, UTC)
    return min(now, datetime.combine(day, time.max, UTC))  # the desk's day may be ahead of UTC's
