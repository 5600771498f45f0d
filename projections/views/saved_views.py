"""Saved views: named filters over the tickets, each with a count that the projector keeps.

A read document says which views count it (`in_views`). Each write finds anew which views it
matches, and what changed is added to the views' counts in the same transaction: so a count is exact
whatever happens, and reading it never counts.

A new view has to find the tickets that are there already (`saved_view_backfill.py`). Each
partition's checkpoint says which views it counts; a view's count is shown when all partitions say
so.

    saved_views         {_id: name, id, filter, saved_at}
    saved_view_counts   {_id: "<id>/<shard>", view: id, n}

A view that is saved anew with another filter is another view, with an id of its own.

A view whose filter another version has stored, with a condition that this one does not know, cannot
be counted here. So that its count is never half of one, a process that writes a ticket without
knowing whether it matches takes it out of that count, and has said before that its partition does
not count the view: where the view can be read again the partition's tickets are looked through as
for a new one. Counts are kept for as long as the view is there, whether it can be read or not.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Annotated, TypeVar, cast
from uuid import uuid4

from pydantic import BaseModel, BeforeValidator, Field

from domain.errors import NotFound, StateConflict
from domain.tickets.ticket import Status
from domain.values import Name, NameOrNone, Priority, Tag
from eventstore.database import Database
from eventstore.documents import Document, Reader, UnreadableDocument, strict_decoder
from eventstore.mongo.driver import ReturnDocument
from projections.views import tickets
from projections.views.filter import Filter, named, without_spam
from projections.views.sum_view import Entries, SumView
from projections.views.tickets import TicketRead

T = TypeVar("T")

COLLECTION = "saved_views"
COUNTS = "saved_view_counts"
MOST_VIEWS = 100

ViewName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


class TicketFilter(BaseModel, extra="forbid", frozen=True):
    """Which tickets; all of it must hold."""

    status: Status | None = None
    solved: Annotated[
        bool | None, Field(description="Resolved and closed tickets, or all others.")
    ] = None
    priority: Priority | None = None
    group: NameOrNone | None = None
    assignee: NameOrNone | None = None
    requester: Name | None = None
    tag: Tag | None = None
    spam: Annotated[
        bool | None,
        Field(description="Tickets that were closed as spam, or all others. Lists leave them out."),
    ] = None

    @cached_property
    def where(self) -> Filter:
        """The filter that says whether a ticket is one of them."""
        return named(self.model_dump())

    @cached_property
    def listed(self) -> Filter:
        """The filter of those that a list of them shows."""
        return without_spam(self.where)


class _StoredFilter(BaseModel, extra="forbid", strict=True):
    """A filter as it is stored: of conditions that are known, or it says nothing; but held to no
    more than their types, for what clients may send has changed and will.
    """

    status: Status | None = None
    solved: bool | None = None
    priority: Priority | None = None
    group: str | None = None
    assignee: str | None = None
    requester: str | None = None
    tag: str | None = None
    spam: bool | None = None


def stored_filter(content: object) -> TicketFilter:
    """Read a filter that was stored. Raises ValidationError for a condition that is not known."""
    known = _StoredFilter.model_validate(content)
    return TicketFilter.model_construct(**known.model_dump(exclude_none=True))


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
    filter: Annotated[TicketFilter, BeforeValidator(stored_filter)]
    saved_at: datetime


def counting(views: Collection[SavedView], read: TicketRead) -> tuple[str, ...]:
    """Return the ids of the views that a ticket matches, sorted."""
    document = tickets.values(read) if views else {}
    return tuple(sorted(view.id for view in views if view.filter.listed.matches(document)))


class SavedViews(SumView):
    """The saved views of one database."""

    collection = COUNTS
    field = "in_views"
    indexes = (("view",),)

    @classmethod
    def read(cls, entries: object) -> Entries | None:
        if isinstance(entries, list) and all(isinstance(view, str) for view in entries):
            return dict.fromkeys(entries, 1)
        return None

    @staticmethod
    def numbers(entries: Entries) -> Iterator[tuple[str, str, int]]:
        for view, n in entries.items():
            yield view, "", n

    @staticmethod
    def labels(where: str) -> Mapping[str, str]:
        return {"view": where}

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._database = database
        self._views = database.collection(COLLECTION)
        self._reader = Reader(database.unreadable, COLLECTION, from_document)

    async def all(self) -> list[SavedView]:
        """Return all views that can be read, by name."""
        return (await self.all_apart())[0]

    async def all_apart(self) -> tuple[list[SavedView], list[Document]]:
        """Return the same, and the documents of those that cannot."""
        return self._reader.all_apart(await self._database.small(COLLECTION, order={"_id": 1}))

    async def find(self, name: str) -> SavedView:
        """Return a view. Raises UnknownView, UnreadableDocument."""
        found = await self._views.find_one({"_id": name})
        if found is None:
            raise UnknownView(name)
        return self._reader.one(found)

    async def save(self, name: str, filter_: TicketFilter) -> tuple[SavedView, bool]:
        """Save a view; return it, and whether it is new. One with the same filter stays as it is.

        Raises TooManyViews.
        """
        former = await self._views.find_one({"_id": name})
        if former is not None:
            with suppress(UnreadableDocument):  # then another takes its place
                if (saved := self._reader.one(former)).filter == filter_:
                    return saved, False
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
        return self._reader.one(stored), former is None

    async def delete(self, name: str) -> None:
        """Forget a view; a projector forgets what it counted. Raises UnknownView."""
        if not (await self._views.delete_one({"_id": name})).deleted_count:
            raise UnknownView(name)

    async def requesters(self) -> set[str]:
        """Return whose tickets are asked for, by views that cannot be read too."""
        found = self._views.find({}, {"filter.requester": 1})
        return {name async for document in found if (name := requester_of(document)) is not None}

    async def names_asking_for(self, requester: str) -> list[str]:
        """Return the names of the views that ask for a requester's tickets, read or not."""
        found = self._views.find({"filter.requester": requester}, {"_id": 1}).sort("_id", 1)
        return [str(document["_id"]) async for document in found]

    async def forget_counts(self, ids: Sequence[str]) -> None:
        """Remove what was counted for views that are gone."""
        await self._documents.delete_many({"view": {"$in": list(ids)}})

    async def counts(self) -> Counter[str]:
        """Return the counts by view id."""
        counts: Counter[str] = Counter()
        async for count in self._documents.find():
            counts[str(count["view"])] += cast("int", count["n"])
        return counts


def requester_of(document: Document) -> str | None:
    """Return whose tickets a stored filter asks for, if anybody's; whatever else it asks for."""
    filter_ = document.get("filter")
    name = filter_.get("requester") if isinstance(filter_, Mapping) else None
    return name if isinstance(name, str) else None


def ids_of(documents: Iterable[Document]) -> frozenset[str]:
    """Return the ids of views that cannot be read: each version gives them one, and all find it."""
    return frozenset(id_ for document in documents if isinstance(id_ := document.get("id"), str))


from_document = strict_decoder(SavedView, "name")
