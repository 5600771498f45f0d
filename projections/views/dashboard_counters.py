"""The view `dashboard_counters`: sums of entries by period, group, shard and part.

    {_id: "2026-01/print/3/0", span: "month", period: "2026-01", group: "print",
     n: {status: {open: 5}, priority: {high: 2}}}

Each group has documents of its own, and all together have those of the group "", which is no
group's. No read counts tickets: the dashboard of a day is the sum of some fifty periods, whatever
the number of tickets or of groups. A document grows with the names in it, until its period ends:
names that are long are kept in other parts, so that one holds ten thousand groups and as many
assignees, whatever they are called.

Periods are those of the desk's time zone. Another that it lists has documents of its own, with the
number of the zone before the period: `@1:2026-01`.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from zlib import crc32

from domain.values import JsonObject
from projections.views import dashboard
from projections.views.dashboard import Metric
from projections.views.sum_view import Figures, SumView, without_zeros

_SHORT_CHARACTERS = 60
_PARTS_FOR_LONG_NAMES = 63
_ALL = ""


class Counters(SumView):
    """The counters of one database. Groups are as `dashboard.word` writes them; None: all."""

    collection = "dashboard_counters"
    field = "counted"
    entry = dashboard.ENTRY
    indexes = (("group", "span", "period"),)
    steps_behind = 2
    since_shape = 7
    """The first shape of views (`SHAPE`) whose counters are in this form."""
    numbers = staticmethod(dashboard.numbers)

    @staticmethod
    def labels(where: str) -> Mapping[str, str]:
        period, _, group = where.partition("/")
        span = dashboard.SPANS[len(period.rpartition(":")[2])]
        return {"span": span, "period": period, "group": group}

    @staticmethod
    def part(path: str) -> str:
        if len(path) <= _SHORT_CHARACTERS:
            return "/0"
        return f"/{1 + crc32(path.encode()) % _PARTS_FOR_LONG_NAMES}"

    async def until(self, day: date, group: str | None = None) -> Figures:
        """Add up all days until the end of one, by metric."""
        return await self._by_metric(
            *(
                self._where(group, span, {"$gte": first, "$lt": before})
                for span, first, before in dashboard.until(day)
            )
        )

    async def on(self, day: date, group: str | None = None) -> Figures:
        """Return what one day has added, by metric."""
        return await self._by_metric(self._where(group, "day", day.isoformat()))

    async def by_day(
        self, metric: Metric, first: date, last: date, group: str | None = None
    ) -> Figures:
        """Return what each day of a range has added to one metric, by day as YYYY-MM-DD; days
        without are left out.
        """
        days = self._where(group, "day", {"$gte": first.isoformat(), "$lte": last.isoformat()})
        return await self.by_period("period", days, path=f"n.{metric}")

    async def _by_metric(self, *conditions: JsonObject) -> Figures:
        total: dict[str, Counter[str]] = defaultdict(Counter)
        for document in await self.matching({"n": 1}, *conditions):
            for number, n in self.kept(document):
                metric, label = number.path.split(".")
                total[metric][label] += n
        return without_zeros(total)

    async def outermost_day(self, of: Callable[[Iterable[str]], str]) -> date | None:
        """Return the first day on which anything was counted, or the last: `min` or `max` of them.

        Among years, then among that year's months, then among that month's days.
        """
        period = ""
        for span in ("year", "month", "day"):
            # Behind all digits and before the marks of other zones.
            wanted = self._where(None, span, {"$gte": period, "$lt": f"{period}:"})
            found = {str(d["period"]) async for d in self._documents.find(wanted, {"period": 1})}
            if not found:
                return None
            period = of(found).removeprefix(self._mark)
        return date.fromisoformat(period)

    def _where(self, group: str | None, span: str, period: str | Mapping[str, str]) -> JsonObject:
        marked: object = (
            f"{self._mark}{period}"
            if isinstance(period, str)
            else {bound: f"{self._mark}{each}" for bound, each in period.items()}
        )
        return {"group": _ALL if group is None else group, "span": span, "period": marked}
