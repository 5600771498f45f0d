"""The dashboard: the desk as it is, as it was at the end of any day, and over time.

Read from counters alone: no query here looks at a ticket or at an event, whatever the day.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Annotated, Literal, get_args

from fastapi import Response
from pydantic import Field

from api.http.answers import json_response
from api.http.caller import CurrentPrincipal
from api.http.preferences import Prefer
from api.http.problems import VIEW_RESPONSES
from api.http.routing import InQuery, Router
from api.model import ApiModel
from api.queries.visibility import VisibilityPolicy
from api.queries.watermark import Covers, DaysOfZone, FreshnessQuery
from domain import days
from domain.errors import Unacceptable
from domain.values import Day, JsonObject, NameOrNone
from eventstore.database import Database
from projections.views import dashboard
from projections.views.dashboard import STATES, TIMES, Metric, Time
from projections.views.dashboard_counters import Counters
from projections.views.sum_view import Figures

_DEFAULT_DAYS = 30
_MOST_DAYS = 3660

_Breach = Literal["breached_first_response", "breached_next_response", "breached_resolution"]
Happening = Literal["created", "resolved", "reopened", "closed", _Breach]
HAPPENINGS: tuple[Happening, ...] = get_args(Happening)
_Standing = Literal["status", "priority", "group", "assignee", "sla", "rating"]
SeriesMetric = Literal["backlog", _Standing, Happening, Time]
_METRICS: Mapping[str, Metric] = {
    "backlog": "priority",
    **{name: name for name in (*get_args(_Standing), *TIMES)},
}
"""What each metric of a series is read from, but for what happens."""
Group = Annotated[
    NameOrNone | None, Field(description="This group's tickets only; empty: those of no group.")
]


class ByDays(FreshnessQuery):
    """By whose days. To be extended by what is asked."""

    tz: str | None = Field(default=None, max_length=100, examples=["Asia/Tokyo"])
    """Days of this time zone, one of the desk's `other_time_zones`; of its `time_zone` unless
    given. 422 with the zones that are counted if it is none of them.
    """


class DashboardQuery(ByDays):
    """Which day, and whose."""

    date_: Day | None = Field(default=None, alias="date")
    """As it was at the end of this day; or as it is."""
    group: Group = None
    days: Annotated[int, Field(ge=1, le=_MOST_DAYS)] | None = None
    """Compare the last so many days with as many before: `period`."""


class SeriesQuery(ByDays):
    """What to show over which days."""

    metric: SeriesMetric
    first: Day | None = Field(default=None, alias="from")
    """30 days unless given."""
    last: Day | None = Field(default=None, alias="to")
    """Today unless given."""
    group: Group = None

    def days(self, today: date) -> list[date]:
        """Return the days. Raises Unacceptable."""
        last = self.last or max(self.first or today, today)
        return days_of_range(self.first, last, _DEFAULT_DAYS, _MOST_DAYS, "days")


def days_of_range(
    first: date | None, last: date, default: int, most: int, unit: Literal["days", "weeks"]
) -> list[date]:
    """Return the first day of each day or week of a range, `default` of them unless `first` is
    given. Raises Unacceptable.
    """
    one = timedelta(**{unit: 1})
    if first is None:
        first = last - min(one * (default - 1), last - date.min)
    if not timedelta() <= last - first < one * most:
        raise Unacceptable("bad_range", f"from..to must be 1 to {most} {unit}")
    return [first + one * n for n in range((last - first) // one + 1)]


class Times(ApiModel):
    """How long something took, from a ticket's opening; null where there was nothing."""

    count: int
    mean_seconds: float | None
    p50_seconds: float | None
    """Not below the exact one, and at most 19 % above it if that is a second or more; of a single
    time exact.
    """
    p90_seconds: float | None


class Happened(ApiModel):
    """How often things happened, and how long they took."""

    created: int
    resolved: int
    reopened: int
    closed: int
    breached_first_response: int
    breached_next_response: int
    breached_resolution: int
    first_response: Times
    resolution: Times


class Backlog(ApiModel):
    """Tickets that are not solved, in all and by name; "" is those without one."""

    total: int
    priority: dict[str, int]
    group: dict[str, int]
    assignee: dict[str, int]
    sla: dict[str, int]
    opened_on: dict[str, int]
    """By day."""
    age: dict[str, int]


class Ratings(ApiModel):
    """What requesters thought; `scores`: how many gave each."""

    count: int
    mean: float | None
    scores: dict[str, int]


class Period(ApiModel):
    """What happened in the last days, from `from` on, and in as many days before."""

    first: date = Field(alias="from")
    covers: Covers
    """The last days."""
    happened: Happened
    before: Happened
    backlog_before: int
    """How many were not solved when it began."""


class DashboardAnswer(ApiModel):
    """The desk at the end of a day, or now."""

    date: date
    covers: Covers
    """The day. All else but `on_date` is up to its end, or now."""
    group: str | None
    """Null: all groups."""
    tickets: dict[str, int]
    """How many are in which status."""
    backlog: Backlog
    ratings: Ratings
    on_date: Happened
    until_date: Happened
    period: Period | None
    """Null unless `days` were asked for."""


class DayOfSeries(ApiModel):
    """A day's number, numbers by label, or times. A day on which the clock is changed is shorter or
    longer than others; one that the zone has skipped has no length.
    """

    date: date
    first: datetime = Field(alias="from")
    until: datetime
    value: int | Times | dict[str, int]


class SeriesAnswer(ApiModel):
    """One metric over days."""

    metric: SeriesMetric
    group: str | None
    first: date = Field(alias="from")
    last: date = Field(alias="to")
    covers: Covers
    days: list[DayOfSeries]


def router(policy: VisibilityPolicy) -> Router:
    """Make the dashboard's routes."""
    routes = Router("dashboard")

    @routes.get("/dashboard", response_model=DashboardAnswer, responses=VIEW_RESPONSES)
    async def show_dashboard(
        who: CurrentPrincipal, asked: InQuery[DashboardQuery], prefer: Prefer = None
    ) -> Response:
        """Show the desk as it is, or as it was at the end of a day.

        `on_date` counts what happened on that day, `until_date` all that happened up to its end.
        Times count from a ticket's opening; p50 and p90 are at most 19 % above the exact values,
        for times of a second and more, and never below. Agents who belong to groups must ask for
        one of them.

        Days are those of the desk's `time_zone`, or of `tz`; `covers` says which, and from when
        until when that is. After the desk's zones have changed, days are those of the former ones
        until the views have been built anew, which they are by themselves.
        """
        visible, snapshot = await policy.open(who, asked, prefer)
        visible.check_group(asked.group)
        group = _group(asked.group)

        async def question(shown: Database, zone: DaysOfZone) -> JsonObject:
            counters, day = Counters(shown, zone.place), asked.date_ or zone.today
            # What is dated tomorrow, by a clock that is ahead, is part of today.
            stood = await counters.until(asked.date_ or date.max, group)
            period = None
            if asked.days is not None:
                ends = [_before(day, n * asked.days) for n in (0, 1, 2)]
                ended, began, before = [await counters.until(end, group) for end in ends]
                first = ends[1] + timedelta(days=1)
                covers = zone.covers(first, day)
                period = {
                    "from": first,
                    "covers": covers,
                    "happened": _happened(_between(began, ended)),
                    "before": _happened(_between(before, began)),
                    "backlog_before": began.get("priority", Counter()).total(),
                }
            return {
                "date": day,
                "covers": zone.covers(day, day),
                "group": asked.group,
                "tickets": _named(stood, "status"),
                "backlog": _backlog(stood, day),
                "ratings": _ratings(stood.get("rating", Counter())),
                "on_date": _happened(await counters.on(day, group)),
                "until_date": _happened(stood),
                "period": period,
            }

        return json_response(await snapshot.ask_by_days(asked.tz, question), snapshot.headers)

    @routes.get("/dashboard/series", response_model=SeriesAnswer, responses=VIEW_RESPONSES)
    async def show_series(
        who: CurrentPrincipal, asked: InQuery[SeriesQuery], prefer: Prefer = None
    ) -> Response:
        """Show one metric for each day of a range.

        For `backlog`, and for what happens (`created`, `resolved` ...), a day has one number. For
        states (`status`, `group` ...) it has numbers by label, as at the end of the day. For
        `first_response` and `resolution` it has count, mean, p50 and p90.
        """
        visible, snapshot = await policy.open(who, asked, prefer)
        visible.check_group(asked.group)
        group = _group(asked.group)
        metric = _METRICS.get(asked.metric, "happened")
        stands = metric in STATES

        async def question(shown: Database, zone: DaysOfZone) -> JsonObject:
            counters, wanted = Counters(shown, zone.place), asked.days(zone.today)
            changes = await counters.by_day(metric, wanted[0], wanted[-1], group)
            stood = Counter[str]()
            if stands and wanted[0] > date.min:
                before = await counters.until(wanted[0] - timedelta(days=1), group)
                stood.update(before.get(metric, {}))

            def value(day: date) -> object:
                change = changes.get(day.isoformat(), Counter[str]())
                if metric == "happened":
                    return change[asked.metric]
                if not stands:
                    return times(change)
                stood.update(change)
                return stood.total() if asked.metric == "backlog" else _labels(stood)

            return {
                "metric": asked.metric,
                "group": asked.group,
                "from": wanted[0],
                "to": wanted[-1],
                "covers": zone.covers(wanted[0], wanted[-1]),
                "days": [
                    {
                        "date": day,
                        "from": days.begins(zone.zone, day),
                        "until": days.ends(zone.zone, day),
                        "value": value(day),
                    }
                    for day in wanted
                ],
            }

        return json_response(await snapshot.ask_by_days(asked.tz, question), snapshot.headers)

    return routes


def _before(day: date, days: int) -> date:
    """Return the day so many days before one, or the first that there is."""
    return date.fromordinal(max(1, day.toordinal() - days))


def _between(first: Figures, last: Figures) -> Figures:
    """Return what happened between the ends of two days."""
    return {metric: last[metric] - first.get(metric, Counter()) for metric in last}


def _group(asked: str | None) -> str | None:
    """Return the group as it is written in counters; None for all."""
    return None if asked is None else dashboard.word(asked or None)


def _backlog(stood: Figures, day: date) -> JsonObject:
    opened_on = stood.get("opened_on", Counter())
    return {
        "total": stood.get("priority", Counter()).total(),
        **{by: _named(stood, by) for by in ("priority", "group", "assignee", "sla", "opened_on")},
        "age": dashboard.by_age(opened_on.items(), day),
    }


def _named(figures: Figures, metric: str) -> dict[str, int]:
    return _labels(figures.get(metric, Counter()))


def _labels(counter: Mapping[str, int]) -> dict[str, int]:
    """Return the numbers by name, in the order of names; no name at all is written ""."""
    named = {dashboard.name(label) or "": n for label, n in counter.items() if n}
    return dict(sorted(named.items()))


def _happened(figures: Figures) -> JsonObject:
    happened = figures.get("happened", Counter())
    return {
        **{label: happened[label] for label in HAPPENINGS},
        **{time: times(figures.get(time, Counter())) for time in TIMES},
    }


def times(labels: Mapping[str, int]) -> JsonObject:
    """Return of times how many, their mean, p50 and p90 in seconds; null where there are none."""
    buckets = {int(label[1:]): n for label, n in labels.items() if label.startswith("b")}
    count, total_ms = sum(buckets.values()), labels.get("ms", 0)
    return {
        "count": count,
        "mean_seconds": total_ms / count / 1000 if count else None,
        "p50_seconds": _seconds(dashboard.quantile_ms(buckets, total_ms, 0.5)),
        "p90_seconds": _seconds(dashboard.quantile_ms(buckets, total_ms, 0.9)),
    }


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _ratings(scores: Mapping[str, int]) -> JsonObject:
    count = sum(scores.values())
    total = sum(int(score) * n for score, n in scores.items())
    return {
        "count": count,
        "mean": total / count if count else None,
        "scores": dict(sorted(scores.items())),
    }
