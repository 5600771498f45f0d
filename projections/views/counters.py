"""The view `dashboard_counters`: sums of entries by metric, period, shard and part.

    {_id: "status/2026-01/3/0", metric, span: "month", period: "2026-01",
     n: {all: {open: 5}, groups: {print: {open: 2}}}}

No read counts tickets: the dashboard of a day is the sum of some fifty periods, whatever the number
of tickets. Names that are long are kept in other parts, so that one document holds some ten
thousand groups and assignees, whatever they are called.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import date
from zlib import crc32

from domain.values import JsonObject
from projections.views import dashboard
from projections.views.dashboard import Metric
from projections.views.sum_view import Figures, SumView

_SHORT_CHARACTERS = 60
_PARTS_FOR_LONG_NAMES = 63


class Counters(SumView):
    """The counters of one database. Groups are as `dashboard.word` writes them; None: all."""

    collection = "dashboard_counters"
    field = "counted"
    entry = dashboard.ENTRY
    indexes = (("span", "period"), ("metric", "span", "period"))
    steps_behind = 2
    numbers = staticmethod(dashboard.numbers)

    @staticmethod
    def labels(where: str) -> Mapping[str, str]:
        metric, period = where.split("/")
        return {"metric": metric, "span": dashboard.SPANS[len(period)], "period": period}

    @staticmethod
    def part(path: str) -> str:
        if len(path) <= _SHORT_CHARACTERS:
            return "/0"
        return f"/{1 + crc32(path.encode()) % _PARTS_FOR_LONG_NAMES}"

    async def until(self, day: date, group: str | None = None) -> Figures:
        """Add up all days until the end of one, by metric."""
        conditions: list[JsonObject] = [
            {"span": span, "period": {"$gte": first, "$lt": before}}
            for span, first, before in dashboard.until(day)
        ]
        return await self.total("metric", *conditions, path=_path(group))

    async def on(self, day: date, group: str | None = None) -> Figures:
        """Return what one day has added, by metric."""
        of_day: JsonObject = {"span": "day", "period": day.isoformat()}
        return await self.total("metric", of_day, path=_path(group))

    async def by_day(
        self, metric: Metric, first: date, last: date, group: str | None = None
    ) -> Figures:
        """Return what each day of a range has added to one metric, by day as YYYY-MM-DD; days
        without are left out.
        """
        period = {"$gte": first.isoformat(), "$lte": last.isoformat()}
        days: JsonObject = {"metric": metric, "span": "day", "period": period}
        return await self.total("period", days, path=_path(group))

    async def last_day(self) -> date | None:
        """Return the last day on which anything was counted."""
        return await self._outermost(max)

    async def first_day(self) -> date | None:
        """Return the first one."""
        return await self._outermost(min)

    async def _outermost(self, of: Callable[[Iterable[str]], str]) -> date | None:
        """Look among years, then among that year's months, then among that month's days."""
        period = ""
        for span in ("year", "month", "day"):
            wanted: JsonObject = {"span": span, "period": {"$gte": period, "$lt": f"{period}~"}}
            found = {str(d["period"]) async for d in self._documents.find(wanted, {"period": 1})}
            if not found:
                return None
            period = of(found)
        return date.fromisoformat(period)


def _path(group: str | None) -> str:
    return "n.all" if group is None else f"n.groups.{group}"
