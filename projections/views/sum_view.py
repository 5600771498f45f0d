"""A view that is sums over all tickets: how its numbers are kept.

What a ticket adds stands in its read document as entries, `key: n`. A view says which numbers an
entry changes (`numbers`); here they are added up in documents

    {_id: "<where>/<shard>", n: {...}} and the fields by which they are found (`labels`)

A number is spread over shards, one for each slot of a projector (`Checkpoints.slot`), so that
projectors do not queue for it; readers add the shards up.

What is cut by days is kept once for each time zone (`Generation.zones`): of another than the first,
`mark` stands before each day, month or year.
"""

import asyncio
import re
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import ClassVar, NamedTuple, cast

from domain.values import JsonObject
from eventstore.mongo.driver import MongoDatabase, Write, adding
from eventstore.mongo.limits import Index, make_indexes

Entries = Mapping[str, int]
"""What a ticket adds, by the keys of one view."""
Figures = Mapping[str, Counter[str]]
"""By metric, week, agent ..., by label, how many. Zeros are left out."""


def mark(zone: int) -> str:
    """Return what stands before the days of a zone, by its place among the generation's. What is
    marked sorts behind all that is not.
    """
    return f"@{zone}:" if zone else ""


class Number(NamedTuple):
    """One number: in which document, without its shard, and under which path of `n`."""

    where: str
    path: str


class SumView(ABC):
    """One view, as it is kept in one database.

    `collection`: where. `field`: of the read document, with a ticket's entries; `entry` is what
    their keys look like. `indexes`: the fields of each. `steps_behind`: how many steps of a
    document's id come behind `where`.
    """

    collection: ClassVar[str]
    field: ClassVar[str]
    entry: ClassVar[re.Pattern[str]]
    indexes: ClassVar[tuple[tuple[str, ...], ...]]
    steps_behind: ClassVar[int] = 1

    def __init__(self, database: MongoDatabase, zone: int = 0) -> None:
        """`zone`: whose days are read, by its place among the generation's."""
        self._mark = mark(zone)
        self._documents = database.collection(self.collection)

    @classmethod
    def read(cls, entries: object) -> Entries | None:
        """Return the entries that a read document has; None if they are damaged."""
        if isinstance(entries, dict) and all(
            isinstance(key, str) and cls.entry.fullmatch(key) and isinstance(n, int)
            for key, n in entries.items()
        ):
            return entries
        return None

    @staticmethod
    @abstractmethod
    def numbers(entries: Entries) -> Iterator[tuple[str, str, int]]:
        """Yield the numbers that entries change (`where`, `path`), and by how much; any of them
        more than once.
        """

    @staticmethod
    @abstractmethod
    def labels(where: str) -> Mapping[str, str]:
        """Return the fields by which a document is found."""

    @staticmethod
    def part(path: str) -> str:
        """Return the end of the id of the document that keeps a path, where one is too few."""
        del path
        return ""

    async def prepare(self) -> None:
        """Make the indexes. Safe to repeat."""
        indexes = [Index([(field, 1) for field in fields]) for fields in self.indexes]
        await make_indexes(self._documents, *indexes)

    def writes(self, change: Entries, shard: int) -> list[Write]:
        """Return the writes that add a change of entries to one shard."""
        total: dict[str, dict[str, int]] = defaultdict(dict)
        for where, path, n in self.numbers(change):
            paths = total[where]
            paths[path] = paths.get(path, 0) + n
        documents: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
        for where, paths in total.items():
            for path, n in paths.items():
                if n:
                    documents[where, self.part(path)][f"n.{path}" if path else "n"] = n
        return [
            adding(self._documents, f"{where}/{shard}{part}", paths, self.labels(where))
            for (where, part), paths in sorted(documents.items())
        ]

    def kept(self, document: JsonObject) -> Iterator[tuple[Number, int]]:
        """Yield the numbers in one document that is kept."""
        where = str(document["_id"]).rsplit("/", self.steps_behind)[0]
        for path, n in _leaves(document["n"]):
            yield Number(where, path), n

    async def total(self, by: str, *conditions: JsonObject, path: str = "n") -> Figures:
        """Add up the documents of some conditions, by a field of theirs; `path`: what of them."""
        total: dict[str, Counter[str]] = defaultdict(Counter)
        for document in await self.matching({"_id": 0, by: 1, path: 1}, *conditions):
            inside: object = document
            for step in path.split("."):
                inside = inside.get(step) if isinstance(inside, dict) else None
            total[str(document[by])].update(cast("dict[str, int]", inside or {}))
        return without_zeros(total)

    async def by_period(self, by: str, condition: JsonObject, path: str = "n") -> Figures:
        """Do the same by a field that holds days or weeks, which are told without their mark."""
        marked = await self.total(by, condition, path=path)
        return {period.removeprefix(self._mark): n for period, n in marked.items()}

    async def matching(
        self, wanted: Mapping[str, int], *conditions: JsonObject
    ) -> list[JsonObject]:
        """Return the wanted fields of the documents for which one of some conditions holds."""

        async def find(condition: JsonObject) -> list[JsonObject]:
            return await self._documents.find(condition, wanted).to_list()

        # One after the other would be as right; as one $or some servers read everything.
        return [*chain(*await asyncio.gather(*map(find, conditions)))]


def without_zeros(figures: Figures) -> Figures:
    """Return figures without what adds up to nothing."""
    return {
        key: Counter({label: n for label, n in labels.items() if n})
        for key, labels in figures.items()
    }


def _leaves(inside: object, path: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(inside, dict):
        for step, deeper in inside.items():
            yield from _leaves(deeper, f"{path}.{step}" if path else step)
    else:
        yield path, cast("int", inside)
