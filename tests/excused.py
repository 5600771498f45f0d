"""What the rules of `mongodb_rules.py` go by, and what stands against one and is right."""

from collections.abc import Mapping

from eventstore.log import COLLECTION as LOG

SHARD_KEYS: Mapping[str, str] = {LOG: "ticket_id", "ticket_reads": "_id"}
"""Of the collections that are sharded, each by the hash of one field. The others are on one shard.
"""

SMALL: Mapping[str, str] = {
    "api_keys": "one for each key that was made",
    "generations": "one for each set of views that is kept",
    "keyring": "one for each master key, and one",
    "parked_tickets": "one for each ticket that cannot be folded",
    "processes": "one for each process at work",
    "projections": "64 partitions",
    "projectors": "one for each projector at work",
    "repairs": "what is to be folded again, until it is",
    "saved_view_counts": "one for each saved view and shard",
    "saved_views": "as many as MOST_VIEWS",
    "secrets": "one",
    "webhook_dispatch": "one",
    "webhooks": "as many as MOST_WEBHOOKS",
}
"""Collections that are read whole, and sorted in memory; and why they stay small."""

RACES = frozenset({("projectors", "_id =, seen_at =")})
"""Statements that are only sent where two processes do the same: collection and shape."""

ANY = "*"
_AUDIT = "a replay compares what it has built, or what is shown, with the log"
_KEPT = "backup, documents: all of it, as it is stored"
_LIST = (
    "the page of a list: as decision 22 has it, at most as many documents as match its narrowest"
)
EXCUSED: Mapping[tuple[str, str, str], str] = {
    ("auditor may not update", "processes", ""): "at the start: a server that knows the command",
    ("scan", "access_log", ""): f"{_KEPT}; erasing a person, where their requests may name them",
    ("scan", "agent_weeks", ""): _AUDIT,
    ("scan", "dashboard_counters", ""): _AUDIT,
    ("scan", "desks", ""): _KEPT,
    ("scan", "log_checkpoint_heads", ""): _KEPT,
    ("scan", "log_checkpoints", ""): _KEPT,
    ("scan", "log_checkpoints", " by _id"): "who verifies them, or takes the first after a start",
    ("scan", "person_events", ""): "the events of erasures: where one is new, and to verify them",
    ("scan", "person_events", "version ="): "who was erased: looked for at the start",
    ("scan", "persons", ""): _KEPT,
    ("scan", "persons", "master nin"): "persons rewrap: all keys",
    ("scan", LOG, ""): "the log from its beginning, in the order of storage",
    ("scan", LOG, "version ="): "to cut the log into ranges of tickets",
    ("scan", "ticket_reads", ""): _AUDIT,
    ("scan", "webhook_deliveries", ""): _KEPT,
    ("walk", "ticket_reads", ANY): _LIST,
    ("sort", "ticket_reads", ANY): _LIST,
    ("scatter", "ticket_reads", ANY): "a list is by other fields than the id: a page of each shard",
    ("scatter", LOG, ""): "all of it: read, followed, or counted by its metadata",
    ("scatter", LOG, " limited"): "whether there is any",
    ("scatter", LOG, "data.redacts range"): "whether anything was redacted",
    ("scatter", LOG, "data.redacts range, recorded_at range"): "whether anything was redacted",
    ("scatter", LOG, "recorded_at range"): "what a checkpoint of the log stands for",
    ("scatter", LOG, "recorded_at range by recorded_at"): "what is late, or new",
    (
        "scatter",
        LOG,
        "recorded_at range by recorded_at limited",
    ): "what is late, or new",
    ("scatter", LOG, "sealed.person ="): "a person's tickets",
    ("scatter", LOG, "sealed.person range limited"): "whether any is sealed",
    ("scatter", LOG, "ticket_id range"): "a replay's range of tickets",
    ("scatter", LOG, "version ="): "to cut the log into ranges of tickets",
}
"""The reason, by what is wrong, the collection, and the shape of filter and order (ANY: any).

scan: all documents are read. walk: an index from its end, until enough match. sort: in memory.
scatter: all shards are asked.
"""
