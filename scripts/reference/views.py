"""views.md: what is stored where, what each view holds, and which index serves which list."""

from collections.abc import Mapping
from datetime import UTC, datetime
from inspect import getdoc
from types import ModuleType
from uuid import UUID

import orjson

from api.queries.lists.listing import query
from api.queries.lists.routes import ListQuery
from domain.actors import Actor
from domain.sla import SlaTargets
from domain.tickets import encode
from domain.tickets.assignment import TicketAssigned
from domain.tickets.opening import TicketOpened
from eventstore.event_document import EMPTY, CommandRef, Metadata, chained
from eventstore.log_identity import LAYOUT
from projections.views import (
    agents,
    dashboard,
    dashboard_counters,
    indexes,
    saved_views,
    sums,
    tickets,
)
from scripts.reference.markdown import fenced, listed, page, table

COLLECTIONS: Mapping[str, Mapping[str, str]] = {
    "<database>": {
        "ticket_events": "one [event](events.md) of a ticket; never changed",
        "person_events": "a step of a person's erasure, in the same form",
        "desks": "a version of the desk's set-up; the newest holds",
        "saved_views": "a named filter",
        "api_keys": "whose a key is, what it is good for, which key it was made with, and the"
        " SHA-256 of its secret",
        "secrets": "the key that cursors are signed with",
        "ticket_numbers": "the last number of a ticket that has been reserved",
        "webhooks": "whom to tell of what",
        "webhook_deliveries": "an event for a webhook, and what has become of it",
        "webhook_dispatch": "how far the log has been fed to webhooks, and by which process",
        "log_checkpoints": "a signed checkpoint of the log",
        "log_checkpoint_heads": "the heads of tickets' chains that are new in a checkpoint",
        "log_identity": "which log this is, since when and why; which restore is under way",
        "restores": "a backup or an export that was restored, or is being",
        "access_log": "an access that was granted where it matters, or was not granted, by the"
        " person's id; kept for a year",
        "repairs": "a request to fold a ticket again",
        "processes": "a process that is at work, when it was last seen, and which layout of the"
        " databases it knows",
    },
    "<database>_keys": {
        "persons": "a person's key, wrapped by the master key",
        "keyring": "the secret that names are known by",
    },
    "<database>_views": {
        "generations": "which numbered collections are shown; what was shown before, is being"
        " built, or is kept as of a time; of which log, and by days of which time zones",
        "ticket_reads": "one ticket as it is shown, what it adds to the sums, and the saved views"
        " that count it",
        "dashboard_counters": "the sums of one group, or of all, over a day, month or year",
        "agent_weeks": "what an agent has done in a week",
        "saved_view_counts": "the count of a saved view",
        "projections": "the checkpoint and lease of a partition",
        "projectors": "a process that projects, when it was last seen, and which shard of the sums"
        " it writes",
        "parked_tickets": "a ticket that could not be folded",
    },
}
"""By database, what one document of each collection is."""

_INTRODUCTION = """
Casebook has three databases. Their names begin with the one that the path of
`CASEBOOK_MONGODB_URL` names (`casebook` if it names none). Every command that is sent to them, with
the index that serves it, is in [Database commands](database-commands.md).
"""
_READERS = """
What is stored outside the log and the views is read one document at a time, so that versions of
Casebook can run side by side ([decision 41](../decisions/0041-documents-of-other-versions.md)). A
new field, or a new collection, gets a line in `tests/golden/stored.ndjson`, whose lines never
change; a field that narrows a right is named in the document's `critical`. `casebook backup` takes
what is worth keeping of `<database>` and `<database>_keys`. `<database>_views` is folded from the
log: drop it, and a projector makes it anew
([decision 64](../decisions/0064-views-in-a-database-of-their-own.md)).
""".strip()
_VIEWS = f"""
The collections of views are numbered, like `ticket_reads_7`. A generation is a number for each;
one document of `generations` names those that are shown. Under their own names, without a number,
there are database views of what is shown, for reading by hand.

What is folded has a number, the *shape*, which is {tickets.SHAPE} in this version. Views of another
shape are built anew by the first projector that meets them, while the old ones are shown
([decision 14](../decisions/0014-shape-of-views.md)). The layout of the databases has the number
{LAYOUT}.
""".strip()
_LISTS = f"""
A list is read along one index, which Casebook names: the first in this table that serves one of the
list's conditions. A list without a condition is read along the time that it is sorted by. So is one
that is sorted by another time than `opened_at`, and has conditions on
{" and ".join(sorted(f"`{field}`" for field in indexes.WIDE))} alone.
""".strip()
_CONDITIONS: Mapping[str, object] = {
    "q": "printer jam",
    "status": ["open"],
    "solved": False,
    "priority": ["urgent"],
    "group": "print",
    "number": "C-1042",
    "assignee": "alice",
    "requester": "bob",
    "tag": ["vip"],
    "field": ["floor:3"],
    "opened_from": "2026-03-01",
    "opened_before": "2026-03-01",
    "updated_from": "2026-03-01",
    "updated_before": "2026-03-01",
    "resolved_from": "2026-03-01",
    "resolved_before": "2026-03-01",
    "breached": True,
    "spam": True,
    "due_before": "2026-03-01",
}
"""An example of each condition of a list."""


def made() -> str:
    """Return the page."""
    parts = ["## Collections"]
    for database, collections in COLLECTIONS.items():
        rows = ([f"`{name}`", what] for name, what in collections.items())
        parts += [f"In `{database}`:", table(["collection", "one document is"], rows)]
    parts += [_READERS, "## Views", _VIEWS]
    parts += _view(tickets.COLLECTION, tickets)
    parts += ["A ticket that was opened and assigned:", fenced("json", _example())]
    parts += ["### Indexes of ticket_reads", _LISTS, _indexes()]
    for view, module in zip(sums.VIEWS, (dashboard_counters, saved_views, agents), strict=True):
        parts += _view(view.collection, module)
        parts.append(f"Indexes: {listed(map(', '.join, view.indexes))}.")
        if module is dashboard_counters:
            parts += ["What is counted:", getdoc(dashboard) or ""]
    return page("What is stored, and views", _INTRODUCTION, *parts)


def _view(collection: str, module: ModuleType) -> list[str]:
    told = (getdoc(module) or "").partition(": ")[2]
    return [f"### {collection}", told[:1].upper() + told[1:]]


def _example() -> str:
    opened = TicketOpened(
        subject="Printer jam",
        body="It jams on every page.",
        requester="bob",
        priority="high",
        group="print",
        tags=("paper",),
        fields={"floor": 3},
        sla=SlaTargets(60, 480),
    )
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    about = Metadata(Actor("alice", "agent"), CommandRef("", ""))
    events = [encode(event, opened.requester) for event in (opened, TicketAssigned("alice"))]
    ticket_id = UUID("018f3e1a-0000-7000-8000-000000000001")
    read = tickets.fold(None, chained(ticket_id, EMPTY, events, about, at, at))
    if read is None:
        raise AssertionError("a ticket was opened")
    option = orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z
    return orjson.dumps(tickets.to_document(read), default=sorted, option=option).decode()


def _indexes() -> str:
    serving: dict[indexes.Fields, list[str]] = {index: [] for index in indexes.OF_LISTS.values()}
    for name, value in _CONDITIONS.items():
        asked = query(ListQuery.model_validate({name: value}).filter(), "-opened_at")
        serving[tuple(asked.index)].append(name)
    lists = [
        (index, f"lists by {listed(names)}" if names else "all lists of requesters")
        for index, names in serving.items()
    ]
    return table(
        ["index", "what it serves"],
        ([_fields(index), what] for index, what in (*lists, *indexes.OTHERS.items())),
    )


def _fields(index: indexes.Fields) -> str:
    return f"`{', '.join(f'-{name}' if direction < 0 else name for name, direction in index)}`"
