"""The view `agent_weeks`: what each agent has done in a week, and how long it took.

A sum over all tickets, like the dashboard: each event adds entries

    week | agent | label: n

(the Monday of the week, the agent as `dashboard.word` writes a name, how many), which are kept in
the ticket's read document (`worked`), and added up here:

    agent_weeks   {_id: "2026-03-02/alice/0", week, agent, n: {replies: 5, resolved: 2}}

    replies, notes      written by the agent
    assigned            tickets that the agent was given
    resolved, reopened  tickets that were the agent's when that happened
    first_response_b<i>, first_response_ms
                        first answers by the agent: by bucket of the time they took, and their
                        milliseconds in all
    resolution_b<i>, resolution_ms
                        the same for `resolved`, each counted from the opening of its ticket

How many tickets an agent had at the end of a week is the dashboard's to say. Weeks are those of
the same time zones as its days, and are written as those are.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta

from domain import days
from domain.actors import Actor
from domain.days import DAYS, Zones
from domain.tickets.assignment import TicketAssigned
from domain.tickets.conversation import AgentReplied, NoteAdded
from domain.tickets.lifecycle import TicketReopened, TicketResolved
from domain.tickets.ticket import Ticket, TicketEvent
from domain.values import one_spelling
from projections.views import dashboard
from projections.views.dashboard import Before, Time
from projections.views.sum_view import Entries, Figures, SumView, mark


def entries(
    before: Before,
    after: Ticket,
    event: TicketEvent,
    actor: Actor,
    zones: Zones,
    *,
    opened_at: datetime,
    at: datetime,
) -> dict[str, int]:
    """Return what one event adds; `at`: its time, or that of the event before if that was later."""
    done = tuple(_work(before, after, event, actor, at - opened_at))
    if not done:
        return {}
    week = days.weeks(days.written(zones, at))
    return {
        f"{week}|{dashboard.word(agent)}|{label}": n
        for agent, label, n in done
        if agent is not None and n
    }


def _work(
    before: Before, after: Ticket, event: TicketEvent, actor: Actor, age: timedelta
) -> Iterator[tuple[str | None, str, int]]:
    writer = one_spelling(actor.id)
    match event:
        case AgentReplied(automatic=False):
            yield writer, "replies", 1
            if not before.answered:
                yield from _took(writer, "first_response", age)
        case NoteAdded() if actor.role == "agent":
            yield writer, "notes", 1
        case TicketAssigned(assignee):
            yield assignee, "assigned", 1
        case TicketResolved():
            yield after.assignee, "resolved", 1
            yield from _took(after.assignee, "resolution", age)
        case TicketReopened():
            yield after.assignee, "reopened", 1
        case _:
            return


def _took(agent: str | None, time: Time, age: timedelta) -> Iterator[tuple[str | None, str, int]]:
    for label, n in dashboard.took(age):
        yield agent, f"{time}_{label}", n


class AgentWeeks(SumView):
    """What the agents have done, as kept in one database."""

    collection = "agent_weeks"
    field = "worked"
    entry = re.compile(rf"{DAYS}\|[^|.$\x00]+\|[a-z_]+(b\d+|ms)?")
    indexes = (("week",), ("agent", "week"))

    @staticmethod
    def numbers(entries: Entries) -> Iterator[tuple[str, str, int]]:
        for key, n in entries.items():
            of_zones, agent, label = key.split("|")
            for zone, week in enumerate(days.read(of_zones)):
                yield f"{mark(zone)}{week}/{agent}", label, n

    @staticmethod
    def labels(where: str) -> Mapping[str, str]:
        week, _, agent = where.partition("/")
        return {"week": week, "agent": agent}

    async def in_week(self, week: date) -> Figures:
        """Return what was done in one week, by agent."""
        return await self.total("agent", {"week": f"{self._mark}{week}"})

    async def of(self, agent: str, first: date, last: date) -> Figures:
        """Return what one agent has done in the weeks that begin in a range of days, by week."""
        weeks = {"$gte": f"{self._mark}{first}", "$lte": f"{self._mark}{last}"}
        return await self.by_period("week", {"agent": dashboard.word(agent), "week": weeks})
