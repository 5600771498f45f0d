"""Saved views: named filters over the tickets, each with a count that the projector keeps.

A read document says which views count it (`in_views`). Whoever writes it finds anew which views it
matches, and what changed is added to the views' counts in the same transaction: so a count is exact
whatever happens, and reading it never counts.

A new view has to find the tickets that are there already (`recounting.py`). Each partition's
checkpoint says which views it counts; a view's count is told when all partitions say so.

    saved_views         {_id: name, id, filter, saved_at}
    saved_view_counts   {_id: "<id>/<shard>", view: id, n}

A view that is saved anew with another filter is another view, with an id of its own.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, cast
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field
from pymongo import ReturnDocument, UpdateOne

from domain.errors import NotFound, StateConflict
from domain.events import JsonObject, Priority, Status
from domain.values import Name, NameOrNone, Tag
from eventstore.driver import Database, Write
from eventstore.limits import make_index
from projections.dashboard import UNSOLVED
from projections.tickets import TicketRead

COLLECTION = "saved_views"
COUNTS = "saved_view_counts"
MOST_VIEWS = 100

ViewName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


class TicketFilter(BaseModel):
    """Which tickets; all of it must hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: Status | None = None
    solved: Annotated[
        bool | None, Field(description="Resolved and closed tickets, or all others.")
    ] = None
    priority: Priority | None = None
    group: NameOrNone | None = None
    assignee: NameOrNone | None = None
    requester: Name | None = None
    tag: Tag | None = None

    def matches(self, read: TicketRead) -> bool:
        """Say whether a ticket is one of them; `condition` says the same to the database."""
        ticket = read.ticket
        return (
            self.status in (None, ticket.status)
            and self.solved in (None, ticket.status not in UNSOLVED)
            and self.priority in (None, ticket.priority)
            and (self.group is None or (self.group or None) == ticket.group)
            and (self.assignee is None or (self.assignee or None) == ticket.assignee)
            and self.requester in (None, ticket.requester)
            and (self.tag is None or self.tag in ticket.tags)
        )

    def condition(self) -> JsonObject:
        """Give the database's filter: values only, never a client's own operators."""
        given: JsonObject = {
            name: None if value == "" else value
            for name in ("status", "priority", "group", "assignee", "requester")
            if (value := getattr(self, name)) is not None
        }
        if self.tag is not None:
            given["tags"] = self.tag
        if self.solved is not None:
            unsolved: JsonObject = {"$in" if not self.solved else "$nin": list(UNSOLVED)}
            given["$and"] = [{"status": unsolved}]
        return given


class UnknownView(NotFound):
    """No view of that name is saved: for example after it was deleted."""

    def __init__(self, name: str) -> None:
        super().__init__("view_not_found", f"there is no saved view {name!r}")


class TooManyViews(StateConflict):
    """Each saved view costs the projector something with every event."""

    def __init__(self) -> None:
        super().__init__("too_many_views", f"no more than {MOST_VIEWS} views can be saved")


@dataclass(frozen=True, slots=True)
class SavedView:
    """A named filter. `id` changes with the filter."""

    name: str
    id: str
    filter: TicketFilter
    saved_at: datetime


def counting(views: Iterable[SavedView], read: TicketRead) -> tuple[str, ...]:
    """Give the ids of the views that a ticket matches, sorted."""
    return tuple(sorted(view.id for view in views if view.filter.matches(read)))


class SavedViews:
    """The saved views of one database."""

    collection = COUNTS
    field = "in_views"

    @staticmethod
    def summed(added: Mapping[str, int]) -> dict[tuple[str, str], int]:
        """Give the counts that are to be kept, by view id."""
        return {(view, "count"): n for view, n in added.items()}

    @staticmethod
    def kept(document: JsonObject) -> Iterator[tuple[tuple[str, str], int]]:
        """Give the count in one document."""
        yield (str(document["view"]), "count"), cast("int", document["n"])

    def __init__(self, database: Database) -> None:
        self._database = database
        self._views = database.collection(COLLECTION)
        self._counts = database.collection(COUNTS)

    async def prepare(self) -> None:
        """Make the index. Safe to repeat."""
        await make_index(self._counts, [("view", 1)])

    async def all(self) -> list[SavedView]:
        """Give all views by name."""
        return [_from_document(d) async for d in self._views.find().sort("_id", 1)]

    async def find(self, name: str) -> SavedView:
        """Give a view. Raises UnknownView."""
        found = await self._views.find_one({"_id": name})
        if found is None:
            raise UnknownView(name)
        return _from_document(found)

    async def save(self, name: str, filter_: TicketFilter) -> tuple[SavedView, bool]:
        """Save a view; say whether it is new. One with the same filter stays as it is.

        Raises TooManyViews.
        """
        former = await self._views.find_one({"_id": name})
        if former is not None and _from_document(former).filter == filter_:
            return _from_document(former), False
        if former is None and await self._views.count_documents({}) >= MOST_VIEWS:
            raise TooManyViews
        stored = await self._views.find_one_and_update(
            {"_id": name},
            {
                "$set": {"id": uuid4().hex, "filter": filter_.model_dump(exclude_none=True)},
                "$currentDate": {"saved_at": True},
            },
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        if stored is None:  # some servers forget to tell what they have inserted
            return await self.find(name), former is None
        return _from_document(stored), former is None

    async def delete(self, name: str) -> None:
        """Forget a view; a projector forgets what it counted. Raises UnknownView."""
        if not (await self._views.delete_one({"_id": name})).deleted_count:
            raise UnknownView(name)

    async def forget_counts(self, ids: Sequence[str]) -> None:
        """Remove what was counted for views that are gone."""
        await self._counts.delete_many({"view": {"$in": list(ids)}})

    async def counts(self) -> Counter[str]:
        """Give the counts by view id."""
        counts: Counter[str] = Counter()
        async for count in self._counts.find():
            counts[str(count["view"])] += cast("int", count["n"])
        return counts

    def writes(self, change: Mapping[str, int], shard: int) -> list[Write]:
        """Give the writes that add a change of counts by view id."""
        return [
            UpdateOne(
                {"_id": f"{view}/{shard}"},
                {"$inc": {"n": n}, "$setOnInsert": {"view": view}},
                upsert=True,
                namespace=self._counts.full_name,
            )
            for view, n in sorted(change.items())
            if n
        ]


def _from_document(document: Mapping[str, object]) -> SavedView:
    return SavedView(
        name=str(document["_id"]),
        id=str(document["id"]),
        filter=TicketFilter.model_validate(document["filter"]),
        saved_at=cast("datetime", document["saved_at"]),
    )
