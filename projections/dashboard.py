"""The dashboard's counters: what a ticket adds to each, as a pure function of its view.

A change of a ticket changes the counters by `contribution(after) - contribution(before)`, so the
counters always equal a recount over `ticket_reads`, and reading the dashboard never counts.

A counter is a (metric, label) pair:

    status       all tickets by status
    priority     unsolved tickets (neither resolved nor closed) by priority
    group        unsolved tickets by group ("" for none)
    assignee     unsolved tickets by assignee ("" for none)
    created, resolved, reopened, closed
                 how often it happened, by UTC day (YYYY-MM-DD)
    total        how often it happened in all, by the name of one of those four
"""

from collections import Counter
from collections.abc import Iterable

from projections.tickets import TicketRead

COLLECTION = "dashboard_counters"

CounterKey = tuple[str, str]
SOLVED = frozenset({"resolved", "closed"})
BY_DAY = ("created", "resolved", "reopened", "closed")
NOW = ("status", "priority", "group", "assignee", "total")


def contribution(read: TicketRead | None) -> Counter[CounterKey]:
    """Give what one ticket adds to every counter; nothing if there is no ticket."""
    counters: Counter[CounterKey] = Counter()
    if read is None:
        return counters
    ticket = read.ticket
    counters["status", ticket.status] = 1
    if ticket.status not in SOLVED:
        counters["priority", ticket.priority] = 1
        counters["group", ticket.group or ""] = 1
        counters["assignee", ticket.assignee or ""] = 1
    days = (read.opened_on, read.resolved_on, read.reopened_on, read.closed_on)
    for metric, happened in zip(BY_DAY, days, strict=True):
        for day, times in happened.items():
            counters[metric, day] = times
            counters["total", metric] += times
    return counters


def delta(before: TicketRead | None, after: TicketRead | None) -> Counter[CounterKey]:
    """Give what a change of one ticket changes, without zeros."""
    change = contribution(after)
    change.subtract(contribution(before))
    return Counter({key: n for key, n in change.items() if n})


def total(deltas: Iterable[Counter[CounterKey]]) -> Counter[CounterKey]:
    """Add up changes, without zeros."""
    result: Counter[CounterKey] = Counter()
    for one in deltas:
        result.update(one)
    return Counter({key: n for key, n in result.items() if n})
