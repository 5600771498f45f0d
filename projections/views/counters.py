"""The collection `dashboard_counters`: sums of entries by metric, period, shard and part.

    {_id: "status/2026-01/3/0", metric, span: "month", period: "2026-01",
     n: {all: {open: 5}, groups: {print: {open: 2}}}}

A counter is spread over some shards, of which every projector writes one, so that projectors do
not queue for it; whoever reads adds the shards up. No read counts tickets: the dashboard of a day
is the sum of some fifty periods, whatever the number of tickets.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Literal, cast

from domain.values import JsonObject
from eventstore.mongo.driver import MongoDatabase, Write, adding
from eventstore.mongo.limits import make_index
from projections.views import dashboard
from projections.views.dashboard import Entries, Metric, Span

COLLECTION = "dashboard_counters"
SHARDS = 8

Figures = Mapping[str, Counter[str]]
"""By metric, by label, how many. Zeros are left out."""


class Counters:
    """The counters of one database."""

    collection = COLLECTION
    field = "counted"

    @staticmethod
    def summed(added: Entries) -> Counter[tuple[str, str]]:
        """Return what is to be kept for entries, by counter without shard, and path."""
        total: Counter[tuple[str, str]] = Counter()
        for (metric, _, period, _), paths in dashboard.increments(added).items():
            total.update({(f"{metric}/{period}", path): n for path, n in paths.items()})
        return total

    @staticmethod
    def kept(document: JsonObject) -> Iterator[tuple[tuple[str, str], int]]:
        """Return the numbers in one document, by the same."""
        where = f"{document['metric']}/{document['period']}"
        for path, n in _numbers(document["n"]):
            yield (where, path), n

    def __init__(self, database: MongoDatabase) -> None:
        self._counters = database.collection(COLLECTION)

    async def prepare(self) -> None:
        """Make the indexes. Safe to repeat."""
        await make_index(self._counters, [("span", 1), ("period", 1)])
        await make_index(self._counters, [("metric", 1), ("span", 1), ("period", 1)])

    def writes(self, change: Entries, shard: int) -> list[Write]:
        """Return the writes that add a change of entries to one shard."""
        increments = dashboard.increments({key: n for key, n in change.items() if n})
        return [
            adding(
                self._counters,
                f"{metric}/{period}/{shard}/{part}",
                {f"n.{path}": n for path, n in paths.items()},
                {"metric": metric, "span": span, "period": period},
            )
            for (metric, span, period, part), paths in sorted(increments.items())
        ]

    async def until(self, day: date, group: str | None = None) -> Figures:
        """Add up all days until the end of one; of one group only if given, as `word` writes it."""
        conditions: list[JsonObject] = [
            {"span": span, "period": {"$gte": first, "$lt": before}}
            for span, first, before in dashboard.until(day)
        ]
        # One after the other would be as right; as one $or some servers read everything.
        parts = await asyncio.gather(*(self._sum(each, group) for each in conditions))
        total: dict[str, Counter[str]] = {}
        for part in parts:
            for (metric, _), labels in part.items():
                total.setdefault(metric, Counter()).update(labels)
        return {metric: _without_zeros(labels) for metric, labels in total.items()}

    async def on(self, day: date, group: str | None = None) -> Figures:
        """Return what one day has added."""
        found = await self._sum({"span": "day", "period": day.isoformat()}, group)
        return {metric: _without_zeros(labels) for (metric, _), labels in found.items()}

    async def by_day(
        self, metric: Metric, first: date, last: date, group: str | None = None
    ) -> dict[str, Counter[str]]:
        """Return what each day of a range has added to one metric, by day; days without are left
        out.

        Days are written YYYY-MM-DD.
        """
        condition: JsonObject = {
            "metric": metric,
            "span": "day",
            "period": {"$gte": first.isoformat(), "$lte": last.isoformat()},
        }
        found = await self._sum(condition, group)
        return {period: _without_zeros(labels) for (_, period), labels in found.items()}

    async def last_day(self) -> date | None:
        """Return the last day on which anything was counted."""
        return await self._outermost("$last")

    async def first_day(self) -> date | None:
        """Return the first one."""
        return await self._outermost("$first")

    async def _outermost(self, which: Literal["$first", "$last"]) -> date | None:
        """Look among years, then among that year's months, then among that month's days."""
        outer = max if which == "$last" else min
        period = ""
        spans: tuple[Span, ...] = ("year", "month", "day")
        for span in spans:
            wanted: JsonObject = {"span": span, "period": {"$gte": period, "$lt": f"{period}~"}}
            found = {str(d["period"]) async for d in self._counters.find(wanted, {"period": 1})}
            if not found:
                return None
            period = outer(found)
        return date.fromisoformat(period)

    async def _sum(
        self, condition: JsonObject, group: str | None
    ) -> dict[tuple[str, str], Counter[str]]:
        """Add up the shards of some counters, by metric and period."""
        path = ("all",) if group is None else ("groups", group)
        wanted = {"_id": 0, "metric": 1, "period": 1, ".".join(("n", *path)): 1}
        total: dict[tuple[str, str], Counter[str]] = {}
        async for counter in self._counters.find(condition, wanted):
            key = (str(counter["metric"]), str(counter["period"]))
            labels = _inside(counter, ("n", *path))
            total.setdefault(key, Counter()).update(labels)
        return total


def _numbers(inside: object, path: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(inside, dict):
        for step, deeper in inside.items():
            yield from _numbers(deeper, f"{path}.{step}" if path else step)
    else:
        yield path, cast("int", inside)


def _inside(document: Mapping[str, object], path: Sequence[str]) -> Mapping[str, int]:
    inside: object = document
    for step in path:
        inside = inside.get(step, {}) if isinstance(inside, dict) else {}
    return cast("Mapping[str, int]", inside)


def _without_zeros(labels: Mapping[str, int]) -> Counter[str]:
    return Counter({label: n for label, n in labels.items() if n})
