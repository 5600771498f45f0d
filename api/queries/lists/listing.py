"""How a list is read: along which index, and from which ticket on.

The index is named here, not chosen by MongoDB: the one of the filter that leaves the least, in
an order that is the same for all desks. So a list that has one of these filters reads what matches
it (`tests/projections/test_query_plans.py`); but for status and priority, which leave so much that
in another order than theirs the tickets are read in that order, until there are enough.

The embedded server is asked otherwise (`windows.py`).
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple
from uuid import UUID

from pymongo.asynchronous.cursor import AsyncCursor
from pymongo.errors import OperationFailure

from api.queries.lists.pager import Asked, Windows
from api.queries.representations import INTERNAL_FIELDS
from domain.events import JsonObject
from domain.values import Moment
from eventstore.mongo.driver import Database
from eventstore.mongo.key_histogram import Key
from projections.views import tickets

MOST_COUNTED = 100_000
_NOT_IN_LISTS = dict.fromkeys((*INTERNAL_FIELDS, "body"), 0)
_NO_SUCH_INDEX = 2  # BadValue: views of a former version have fewer

Sort = Literal[
    "-opened_at", "opened_at", "-updated_at", "updated_at", "-resolved_at", "resolved_at"
]


class Position(NamedTuple):
    """The last ticket of a page: its time in the sort, and its id."""

    list: str
    time: Moment
    id: UUID


INDEXES: Mapping[str, tuple[tuple[str, int], ...]] = {
    "terms": (("terms", 1),),
    "requester": (("requester", 1), ("opened_at", -1), ("_id", -1)),
    "tags": (("tags", 1), ("opened_at", -1), ("_id", -1)),
    "assignee": (("assignee", 1), ("opened_at", -1), ("_id", -1)),
    "next_due_at": (("next_due_at", 1),),
    "sla_breached": (("sla_breached", 1), ("opened_at", -1), ("_id", -1)),
    "group": (("group", 1), ("opened_at", -1), ("_id", -1)),
    "resolved_at": (("resolved_at", -1), ("_id", -1)),
    "updated_at": (("updated_at", -1), ("_id", -1)),
    "status": (("status", 1), ("opened_at", -1), ("_id", -1)),
    "priority": (("priority", 1), ("opened_at", -1), ("_id", -1)),
    "opened_at": (("opened_at", -1), ("_id", -1)),
}
"""The index to read along, by the field that a condition is about: the narrowest first."""
_WIDE = frozenset({"status", "priority"})
"""These leave so much that another sort than theirs is better read along its own index."""


class Listing:
    """How to read one list. `by`: the field that it is sorted by."""

    def __init__(self, found: Sequence[JsonObject], sort: Sort, along: str | None = None) -> None:
        """`along`: the field whose index to read along, whatever else is asked."""
        self.by = sort.removeprefix("-")
        self._direction = -1 if sort.startswith("-") else 1
        # One that is not resolved has no place in the order of resolution.
        only: list[JsonObject] = (
            [{"resolved_at": {"$ne": None}}] if self.by == "resolved_at" else []
        )
        self._conditions = [*found, *only]
        about = {name for condition in found for name in condition if not name.startswith("$")}
        if self.by != "opened_at" and about <= _WIDE:
            about = set()
        narrowest = along or next((name for name in INDEXES if name in about), self.by)
        self.hint = [*INDEXES[narrowest]]
        equal = (c for c in self._conditions if not isinstance(c.get(narrowest, {}), dict))
        self._asked = Asked(
            self._conditions,
            self.by,
            self._direction,
            narrow=next((condition for condition in equal if len(condition) == 1), None),
            is_joined=self.hint[1:2] == [(self.by, -1)],
            is_along=along is not None,
            projection=_NOT_IN_LISTS,
        )

    async def page(
        self, shown: Database, position: Position | None, limit: int, windows: Windows
    ) -> list[JsonObject]:
        """Give documents behind a position."""
        past = "$lt" if self._direction < 0 else "$gt"
        if await shown.is_embedded():
            key = None if position is None else Key(position.time, position.id)
            return await windows.page(shown, self._asked, key, limit)
        if position is None:
            return await self._find(shown, [], limit)
        # Two plain ranges: one condition with $or would be read from the beginning by some servers.
        same: list[JsonObject] = [{self.by: position.time}, {"_id": {past: position.id}}]
        found = await self._find(shown, same, limit)
        if len(found) < limit:
            behind: list[JsonObject] = [{self.by: {past: position.time}}]
            found += await self._find(shown, behind, limit - len(found))
        return found

    async def _find(
        self, shown: Database, more: Sequence[JsonObject], limit: int
    ) -> list[JsonObject]:
        order = [(self.by, self._direction), ("_id", self._direction)]
        return await self._read(
            shown.collection(tickets.COLLECTION)
            .find(self.filter(more), _NOT_IN_LISTS)
            .sort(order)
            .limit(limit)
        )

    async def count(self, shown: Database) -> int:
        """Count what matches, up to one more than MOST_COUNTED."""
        # Not count_documents, which is an aggregation.
        reads = shown.collection(tickets.COLLECTION)
        found = reads.find(self.filter(), {"_id": 1}).limit(MOST_COUNTED + 1)
        if await shown.is_embedded():
            return len(await found.to_list())
        return len(await self._read(found))

    def filter(self, more: Sequence[JsonObject] = ()) -> JsonObject:
        """Give the database's filter."""
        all_: list[JsonObject] = [*self._conditions, *more]
        return {"$and": all_} if all_ else {}

    async def _read(self, found: AsyncCursor[JsonObject]) -> list[JsonObject]:
        try:
            return await found.clone().hint(self.hint).to_list()
        except OperationFailure as error:
            if error.code != _NO_SUCH_INDEX:
                raise
            return await found.to_list()
