"""What views and counters must be, folded from the raw documents of the log.

Written apart from the projection code, with plain dictionaries and no word of it, so that a mistake
there is not made here too (L7).
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from eventstore.driver import Database

Document = dict[str, Any]


async def folded_reads(database: Database) -> dict[Any, Document]:
    """Fold every event of the log into read documents, by ticket id."""
    events = await database.collection("ticket_events").find().to_list()
    reads: dict[Any, Document] = {}
    for event in sorted(events, key=lambda e: (e["ticket_id"], e["version"])):
        previous = reads.get(event["ticket_id"])
        assert event["version"] == (previous["version"] if previous else 0) + 1
        reads[event["ticket_id"]] = _after(previous, event)
    return reads


def _after(read: Document | None, event: Document) -> Document:
    at, data, day = event["occurred_at"], event["data"], str(event["occurred_at"].date())
    if read is None:
        assert event["type"] == "TicketOpened"
        return {
            **data,
            "_id": event["ticket_id"],
            "version": 1,
            "status": "new",
            "assignee": None,
            "waiting_reason": None,
            "resume_at": None,
            "resolution": None,
            "close_reason": None,
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
    new = {**read, "version": event["version"], "updated_at": at}
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
        if kind == "AgentReplied" and new["first_response_at"] is None:
            new["first_response_at"] = at
    elif kind in ("TicketResolved", "TicketReopened", "TicketClosed"):
        status = {"TicketResolved": "resolved", "TicketReopened": "open", "TicketClosed": "closed"}
        new |= {"status": status[kind], "waiting_reason": None, "resume_at": None}
        if kind == "TicketResolved":
            new |= {"resolution": data["resolution"], "resolved_at": at}
        elif kind == "TicketReopened":
            new |= {"resolution": None, "resolved_at": None}
        else:
            new |= {"close_reason": data["reason"], "closed_at": at}
        days = {"TicketResolved": "resolved_on", "TicketReopened": "reopened_on"}
        key = days.get(kind, "closed_on")
        new[key] = {**new[key], day: new[key].get(day, 0) + 1}
    else:
        raise AssertionError(f"the oracle does not know {kind}")
    return new


def _time(text: str) -> Any:
    from datetime import datetime  # noqa: PLC0415

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
