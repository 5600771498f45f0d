"""What views and counters must be, folded from the raw documents of the log.

Written apart from the projection code, with plain dictionaries and no word of it, so that a mistake
there is not made here too (L7).
"""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from eventstore.driver import Database
from projections.tickets import SHAPE

Document = dict[str, Any]


async def folded_reads(database: Database) -> dict[Any, Document]:
    """Fold every event of the log into read documents, by ticket id."""
    events = await database.collection("ticket_events").find().to_list()
    reads: dict[Any, Document] = {}
    for event in sorted(events, key=lambda e: (e["ticket_id"], e["version"])):
        previous = reads.get(event["ticket_id"])
        assert event["version"] == (previous["version"] if previous else 0) + 1
        reads[event["ticket_id"]] = _after(previous, event)
    return {ticket_id: _as_stored(read) for ticket_id, read in reads.items()}


def _after(read: Document | None, event: Document) -> Document:
    at, data, day = event["occurred_at"], event["data"], str(event["occurred_at"].date())
    if read is None:
        assert event["type"] == "TicketOpened"
        return _with_times(
            {
                **data,
                "_id": event["ticket_id"],
                "version": 1,
                "sla": _clock(data.get("sla"), at),
                "status": "new",
                "assignee": None,
                "waiting_reason": None,
                "resume_at": None,
                "resolution": None,
                "close_reason": None,
                "followers": [],
                "attachments": [],
                "links": [],
                "rating": None,
                "opened_at": at,
                "updated_at": at,
                "first_response_at": None,
                "resolved_at": None,
                "closed_at": None,
                "preview": " ".join(data["body"].split())[:50],
                "has_note": False,
                "agent_replies": 0,
                "requester_replies": 0,
                "last_actor": event["actor"]["id"],
                "opened_on": {day: 1},
                "resolved_on": {},
                "reopened_on": {},
                "closed_on": {},
            }
        )
    new = {**read, "version": event["version"], "updated_at": max(at, read["updated_at"])}
    clock = new["sla"] = dict(read["sla"])
    if read["resume_at"] is not None and read["resume_at"] <= at:
        _turn(clock, read["resume_at"], on=True)
    clock = new["sla"] = _passed(clock, at)
    new["last_actor"] = event["actor"]["id"]
    kind = event["type"]
    if kind in ("TicketAssigned", "AgentReplied") and new["status"] == "new":
        new["status"] = "open"
    if kind == "TicketAssigned":
        new["assignee"] = data["assignee"]
    elif kind == "TicketUnassigned":
        new["assignee"] = None
    elif kind == "TicketMovedToGroup":
        new["group"] = data["group"]
    elif kind == "PriorityChanged":
        new["priority"] = data["priority"]
        clock["targets"] = data.get("sla") or NOTHING
    elif kind == "RequesterChanged":
        new["requester"] = data["requester"]
    elif kind == "FollowerAdded":
        new["followers"] = sorted({*new["followers"], data["follower"]})
    elif kind == "FollowerRemoved":
        new["followers"] = [f for f in new["followers"] if f != data["follower"]]
    elif kind == "FileAttached":
        new["attachments"] = [*new["attachments"], data]
    elif kind == "TicketLinked":
        new["links"] = [*new["links"], {**data, "ticket": UUID(data["ticket"])}]
    elif kind == "TicketUnlinked":
        gone = {**data, "ticket": UUID(data["ticket"])}
        new["links"] = [link for link in new["links"] if link != gone]
    elif kind == "TicketMergedFrom":
        merged = {"relation": "merged_from", "ticket": UUID(data["ticket"])}
        new["links"] = [*new["links"], merged]
        new["followers"] = sorted({*new["followers"], *data["followers"]})
    elif kind == "TicketRated":
        new["rating"] = data
    elif kind == "SlaBreached":
        clock["breached"] = {**clock["breached"], data["target"]: _time(data["due_at"])}
        clock["overdue"] = {k: v for k, v in clock["overdue"].items() if k != data["target"]}
    elif kind == "SubjectChanged":
        new["subject"] = data["subject"]
    elif kind == "StatusUpdated":
        resume_at = data["resume_at"]
        new |= {"status": data["status"], "waiting_reason": data["reason"]}
        new["resume_at"] = _time(resume_at) if resume_at else None
    elif kind == "TagsAdded":
        new["tags"] = sorted(set(new["tags"]) | set(data["tags"]))
    elif kind == "TagsRemoved":
        new["tags"] = sorted(set(new["tags"]) - set(data["tags"]))
    elif kind == "FieldSet":
        rest = {k: v for k, v in new["fields"].items() if k != data["key"]}
        new["fields"] = rest | ({} if data["value"] is None else {data["key"]: data["value"]})
    elif kind == "NoteAdded":
        new["has_note"] = True
    elif kind in ("AgentReplied", "RequesterReplied"):
        new["preview"] = " ".join(data["body"].split())[:50]
        who = "agent_replies" if kind == "AgentReplied" else "requester_replies"
        new[who] += 1
        clock["answered"] = clock["answered"] or kind == "AgentReplied"
        if kind == "AgentReplied" and new["first_response_at"] is None:
            new["first_response_at"] = at
    elif kind in ("TicketResolved", "TicketReopened", "TicketClosed", "TicketMergedInto"):
        status = {"TicketResolved": "resolved", "TicketReopened": "open"}
        new |= {"status": status.get(kind, "closed"), "waiting_reason": None, "resume_at": None}
        if kind == "TicketResolved":
            new |= {"resolution": data["resolution"], "resolved_at": at}
        elif kind == "TicketReopened":
            new |= {"resolution": None, "resolved_at": None}
        elif kind == "TicketMergedInto":
            merged = {"relation": "merged_into", "ticket": UUID(data["ticket"])}
            new |= {"close_reason": "merged", "closed_at": at, "links": [*new["links"], merged]}
        else:
            new |= {"close_reason": data["reason"], "closed_at": at}
        days = {"TicketResolved": "resolved_on", "TicketReopened": "reopened_on"}
        key = days.get(kind, "closed_on")
        new[key] = {**new[key], day: new[key].get(day, 0) + 1}
    else:
        raise AssertionError(f"the oracle does not know {kind}")
    over = new["resume_at"] is not None and new["resume_at"] <= at
    _turn(clock, at, on=over or new["status"] in ("new", "open", "on_hold"))
    return _with_times(new)


# The clock of what was promised, reckoned from all the spans in which it ran.

NOTHING = {"first_response_minutes": None, "resolution_minutes": None}


def _clock(targets: Document | None, at: datetime) -> Document:
    clock = {"targets": targets or NOTHING, "answered": False, "overdue": {}, "breached": {}}
    return {**clock, "spans": [(at, None)]}


def _ends(clock: Document) -> dict[str, datetime]:
    """When each target runs out that has not yet, if nothing stops the clock."""
    ends = {}
    for target in ("first_response", "resolution"):
        minutes = clock["targets"][f"{target}_minutes"]
        if minutes is None or target in clock["overdue"] or target in clock["breached"]:
            continue
        if target == "first_response" and clock["answered"]:
            continue
        left = timedelta(minutes=minutes)
        for start, end in clock["spans"]:
            if end is None:
                ends[target] = start + left
            else:
                left -= end - start
    return ends


def _passed(clock: Document, at: datetime) -> Document:
    out = {target: end for target, end in _ends(clock).items() if end <= at}
    return {**clock, "overdue": {**clock["overdue"], **out}}


def _turn(clock: Document, at: datetime, *, on: bool) -> None:
    start, end = clock["spans"][-1]
    if on and end is not None:
        clock["spans"] = [*clock["spans"], (max(at, end), None)]
    elif not on and end is None:
        clock["spans"] = [*clock["spans"][:-1], (start, max(at, start))]


def _with_times(read: Document) -> Document:
    clock = read["sla"]
    ends = _ends(clock)
    out = {**clock["overdue"], **clock["breached"]}
    for target in ("first_response", "resolution"):
        read[f"{target}_due_at"] = out.get(target, ends.get(target))
    read["sla_breached"] = sorted(clock["breached"])
    times = [read["resume_at"], *ends.values(), *clock["overdue"].values()]
    read["next_due_at"] = min((time for time in times if time), default=None)
    return read


def _as_stored(read: Document) -> Document:
    clock = dict(read["sla"])
    read = {**read, "shape": SHAPE}
    spans = clock.pop("spans")
    passed = sum((e - s for s, e in spans if e is not None), timedelta())
    clock["elapsed_ms"] = passed // timedelta(milliseconds=1)
    start, end = spans[-1]
    clock |= {"running": end is None, "since": end or start}
    return {**read, "sla": clock}


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def recounted(reads: Mapping[Any, Document]) -> Counter[tuple[str, str]]:
    """Count everything that the dashboard shows, over read documents."""
    counts: Counter[tuple[str, str]] = Counter()
    for read in reads.values():
        counts["status", read["status"]] += 1
        if read["status"] not in ("resolved", "closed"):
            for what in ("priority", "group", "assignee"):
                counts[what, read[what] or ""] += 1
        for what in ("created", "resolved", "reopened", "closed"):
            field = "opened_on" if what == "created" else f"{what}_on"
            for day, n in read[field].items():
                counts[what, day] += n
                counts["total", what] += n
    return counts


async def assert_views_equal_the_log(database: Database) -> None:
    """L7: read models == fold(events), counters == a recount, checkpoint == the log's count."""
    expected = await folded_reads(database)
    stored = {d["_id"]: d for d in await database.collection("ticket_reads").find().to_list()}
    assert stored.keys() == expected.keys()
    for ticket_id, document in expected.items():
        assert stored[ticket_id] == document
    counters = await database.collection("dashboard_counters").find().to_list()
    shown = {(c["metric"], c["label"]): c["n"] for c in counters if c["n"]}
    assert len(shown) == sum(bool(c["n"]) for c in counters)
    assert shown == dict(recounted(expected))
    checkpoint = await database.collection("projections").find_one({"_id": "tickets"})
    assert checkpoint is not None
    assert checkpoint["applied"] == sum(d["version"] for d in expected.values())
