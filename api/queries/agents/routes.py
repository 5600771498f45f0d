"""What the agents have done week by week, and how long it took."""

from collections.abc import Mapping
from datetime import date, timedelta

from fastapi import Response
from pydantic import Field

from api.http.answers import json_response
from api.http.preferences import Prefer
from api.http.problems import VIEW_RESPONSES
from api.http.routing import InQuery, Router
from api.model import ApiModel
from api.queries.dashboard.routes import ByDays, Times, days_of_range, times
from api.queries.watermark import Covers, DaysOfZone, ReadModels
from domain.days import monday
from domain.values import Day, JsonObject, Name, one_spelling
from eventstore.database import Database
from projections.views import dashboard
from projections.views.agents import AgentWeeks
from projections.views.dashboard import TIMES
from projections.views.dashboard_counters import Counters

_DONE = ("assigned", "replies", "notes", "resolved", "reopened")
_DEFAULT_WEEKS = 12
_MOST_WEEKS = 530


class WeekQuery(ByDays):
    """Which week."""

    week: Day | None = None
    """Any day of the week, which begins on Monday; this week."""


class AgentQuery(ByDays):
    """Whose weeks, and which."""

    agent: Name
    first: Day | None = Field(default=None, alias="from")
    """12 weeks unless given."""
    last: Day | None = Field(default=None, alias="to")
    """This week unless given."""

    def weeks(self, today: date) -> list[date]:
        """Return the weeks' Mondays. Raises Unacceptable."""
        first = None if self.first is None else monday(self.first)
        last = monday(self.last or max(self.first or today, today))
        return days_of_range(first, last, _DEFAULT_WEEKS, _MOST_WEEKS, "weeks")


class Work(ApiModel):
    """What somebody has done in a week."""

    assigned: int
    """Tickets that were assigned to them."""
    replies: int
    notes: int
    resolved: int
    reopened: int
    first_response: Times
    resolution: Times


class WorkAndBacklog(Work):
    """The same, and what they had at its end."""

    backlog: int


class WeekAnswer(ApiModel):
    """A week, from Monday, of all agents by name."""

    week: date
    covers: Covers
    agents: dict[str, WorkAndBacklog]


class WeekOfSeries(Work):
    """One week."""

    week: date


class AgentSeriesAnswer(ApiModel):
    """One agent's weeks."""

    agent: str
    first: date = Field(alias="from")
    last: date = Field(alias="to")
    covers: Covers
    weeks: list[WeekOfSeries]


def router(views: ReadModels) -> Router:
    """Make the agents' routes."""
    routes = Router("agents", prefix="/agents")

    @routes.get("", response_model=WeekAnswer, responses=VIEW_RESPONSES)
    async def show_agents(asked: InQuery[WeekQuery], prefer: Prefer = None) -> Response:
        """Show what each agent has done in a week, and how many tickets each had at its end.

        Times count from a ticket's opening, as on the dashboard.
        """
        snapshot = await views.open(asked, prefer)

        async def question(shown: Database, zone: DaysOfZone) -> JsonObject:
            week = monday(asked.week or zone.today)
            done = await AgentWeeks(shown, zone.place).in_week(week)
            stood = await Counters(shown, zone.place).until(_sunday(week))
            backlog: Mapping[str, int] = stood.get("assignee", {})
            named = {word: dashboard.name(word) for word in done.keys() | backlog.keys()}
            found = {
                name: {**_done(done.get(word, {})), "backlog": backlog.get(word, 0)}
                for word, name in named.items()
                if name is not None
            }
            covers = zone.covers(week, _sunday(week))
            return {"week": week, "covers": covers, "agents": dict(sorted(found.items()))}

        return json_response(await snapshot.ask_by_days(asked.tz, question), snapshot.headers)

    @routes.get("/series", response_model=AgentSeriesAnswer, responses=VIEW_RESPONSES)
    async def show_agent_series(asked: InQuery[AgentQuery], prefer: Prefer = None) -> Response:
        """Show what one agent has done week by week."""
        snapshot = await views.open(asked, prefer)

        async def question(shown: Database, zone: DaysOfZone) -> JsonObject:
            weeks, agent = asked.weeks(zone.today), one_spelling(asked.agent)
            done = await AgentWeeks(shown, zone.place).of(agent, weeks[0], weeks[-1])
            return {
                "agent": asked.agent,
                "from": weeks[0],
                "to": weeks[-1],
                "covers": zone.covers(weeks[0], _sunday(weeks[-1])),
                "weeks": [{"week": w, **_done(done.get(w.isoformat(), {}))} for w in weeks],
            }

        return json_response(await snapshot.ask_by_days(asked.tz, question), snapshot.headers)

    return routes


def _sunday(week: date) -> date:
    return min(week, date.max - timedelta(days=6)) + timedelta(days=6)


def _done(labels: Mapping[str, int]) -> JsonObject:
    of_times: dict[str, dict[str, int]] = {time: {} for time in TIMES}
    for label, n in labels.items():
        time, _, rest = label.rpartition("_")
        if time in of_times:
            of_times[time][rest] = n
    return {
        **{name: labels.get(name, 0) for name in _DONE},
        **{time: times(labels) for time, labels in of_times.items()},
    }
