"""What the agents have done week by week, and how long it took."""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Annotated

from fastapi import Query, Response
from pydantic import BaseModel, Field

from api.http.answers import json_response
from api.http.preferences import Prefer
from api.http.problems import VIEW_RESPONSES
from api.http.routing import Router
from api.queries.dashboard.routes import Times, first_and_last, times
from api.queries.watermark import AtLeast, Views
from domain.values import Day, JsonObject, Name
from eventstore.database import Database
from projections.views import agents, dashboard
from projections.views.agents import AgentWeeks
from projections.views.counters import Counters
from projections.views.dashboard import TIMES

_DONE = ("assigned", "replies", "notes", "resolved", "reopened")
_DEFAULT_WEEKS = 12
_MOST_WEEKS = 530
_SUNDAY = timedelta(days=6)


class WeekQuery(AtLeast):
    """Which week."""

    week: Day | None = Field(
        default=None, description="Any day of the week, which begins on Monday (UTC); this week."
    )


class AgentQuery(AtLeast):
    """Whose weeks, and which."""

    agent: Name
    first: Day | None = Field(default=None, alias="from", description="12 weeks unless given.")
    last: Day | None = Field(default=None, alias="to", description="This week unless given.")

    def weeks(self, today: date) -> tuple[date, date]:
        """Return the first and the last week's Monday. Raises Unacceptable."""
        first = None if self.first is None else agents.monday(self.first)
        last = agents.monday(self.last or max(self.first or today, today))
        return first_and_last(first, last, _DEFAULT_WEEKS, _MOST_WEEKS, "weeks")


class Work(BaseModel, extra="forbid"):
    """What somebody has done in a week."""

    assigned: int = Field(description="Tickets that were assigned to them.")
    replies: int
    notes: int
    resolved: int
    reopened: int
    first_response: Times
    resolution: Times


class WorkAndBacklog(Work):
    """The same, and what they had at its end."""

    backlog: int


class WeekAnswer(BaseModel, extra="forbid"):
    """A week, from Monday, of all agents by name."""

    week: date
    agents: dict[str, WorkAndBacklog]


class WeekOfSeries(Work):
    """One week."""

    week: date


class AgentSeriesAnswer(BaseModel, extra="forbid"):
    """One agent's weeks."""

    agent: str
    first: date = Field(alias="from")
    last: date = Field(alias="to")
    weeks: list[WeekOfSeries]


def router(views: Views) -> Router:
    """Make the agents' routes."""
    routes = Router("agents", prefix="/agents")

    @routes.get("", response_model=WeekAnswer, responses=VIEW_RESPONSES)
    async def show_agents(asked: Annotated[WeekQuery, Query()], prefer: Prefer = None) -> Response:
        """Show what each agent has done in a week, and how many tickets each had at its end.

        Times are from a ticket's opening, as on the dashboard.
        """
        opened = await views.open(asked, prefer)
        week = agents.monday(asked.week or opened.today)

        async def question(shown: Database) -> tuple[agents.Figures, Mapping[str, int]]:
            done = await AgentWeeks(shown).in_week(week)
            stood = await Counters(shown).until(min(week, date.max - _SUNDAY) + _SUNDAY)
            return done, stood.get("assignee", {})

        done, backlog = await opened.ask(question)
        found = {
            dashboard.name(word) or "": {
                **_done(done.get(word, {})),
                "backlog": backlog.get(word, 0),
            }
            for word in done.keys() | backlog.keys()
            if dashboard.name(word) is not None
        }
        content = {"week": week, "agents": dict(sorted(found.items()))}
        return json_response(content, opened.headers)

    @routes.get("/series", response_model=AgentSeriesAnswer, responses=VIEW_RESPONSES)
    async def show_agent_series(
        asked: Annotated[AgentQuery, Query()], prefer: Prefer = None
    ) -> Response:
        """Show what one agent has done week by week."""
        opened = await views.open(asked, prefer)
        first, last = asked.weeks(opened.today)
        done = await opened.ask(lambda shown: AgentWeeks(shown).of(asked.agent, first, last))
        weeks = [first + timedelta(weeks=n) for n in range((last - first).days // 7 + 1)]
        content = {
            "agent": asked.agent,
            "from": first,
            "to": last,
            "weeks": [{"week": w, **_done(done.get(w.isoformat(), {}))} for w in weeks],
        }
        return json_response(content, opened.headers)

    return routes


def _done(labels: Mapping[str, int]) -> JsonObject:
    of = {
        time: {
            label.removeprefix(f"{time}_"): n
            for label, n in labels.items()
            if label.startswith(f"{time}_")
        }
        for time in TIMES
    }
    return {
        **{name: labels.get(name, 0) for name in _DONE},
        **{time: times(labels) for time, labels in of.items()},
    }
