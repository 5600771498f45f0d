"""Each rule of `tests/mongodb_rules.py` refuses what MongoDB would refuse, or suffer from."""

import pytest

from scripts.testbed.wire import Fate
from tests.mongodb_rules import Recorder

LOG, READS, ID = "ticket_events", "ticket_reads_1", "1"
FIND = {
    "find": LOG,
    "filter": {"ticket_id": ID},
    "sort": {"version": 1},
    "readConcern": {"level": "majority"},
    "maxTimeMS": 5000,
    "$db": "desk",
}
SURE = {"writeConcern": {"w": "majority", "j": True}}
INSERT = {"insert": LOG, "documents": [{"ticket_id": ID}], **SURE, "maxTimeMS": 5000, "$db": "desk"}
UPDATE = {
    "update": READS,
    "updates": [{"q": {"_id": ID}, "u": {"$set": {"x": 1}}}],
    **SURE,
    "maxTimeMS": 5000,
    "$db": "desk_views",
}
BULK = {
    "bulkWrite": 1,
    "ops": [{"update": 0, "filter": {"_id": ID}, "updateMods": {}, "multi": False}],
    "nsInfo": [{"ns": f"desk_views.{READS}"}],
    **SURE,
    "maxTimeMS": 5000,
    "$db": "admin",
}
BEGIN = {"autocommit": False, "startTransaction": True}
GO_ON = {"autocommit": False, "readConcern": None, "writeConcern": None}
COMMIT = {"commitTransaction": 1, "autocommit": False, "maxTimeMS": 5000, "$db": "admin", **SURE}
LISTED = {"listCollections": 1, "maxTimeMS": 5000, "$db": "desk"}
WITH = {"createIndexes": LOG, "maxTimeMS": 5000, "$db": "desk"}


def index(name, *fields, **options):
    key, database = dict.fromkeys(fields, 1), "desk_views" if name == READS else "desk"
    return {**WITH, "createIndexes": name, "indexes": [{"key": key, **options}], "$db": database}


def broken(*commands, user=None):
    """What rules say of commands, behind those that make the log's index and the views."""
    recorder = Recorder("desk")
    making, heard = recorder.listening("x", None), recorder.listening("x", user)
    for each in (index(LOG, "ticket_id", "version", unique=True), index(READS, "_id", "version")):
        making(each)
    for command in commands:
        without = {name: value for name, value in command.items() if value is not None}
        assert heard(without) is Fate.PASSED
    return {each.what for each in recorder.broken()}


@pytest.mark.parametrize("user", [None, "api", "projector"])
def test_what_is_right_breaks_no_rule(user):
    assert broken(FIND, FIND | BEGIN, FIND | GO_ON, COMMIT, user=user) == set()
    assert user == "projector" or broken(INSERT, INSERT | GO_ON, user=user) == set()
    assert user == "api" or broken(UPDATE, BULK, BULK | GO_ON, user=user) == set()


@pytest.mark.parametrize(
    ("commands", "what"),
    [
        ([{**LISTED, "autocommit": False}], "no transaction can hold listCollections"),
        ([{"count": LOG, "maxTimeMS": 1, "$db": "desk", **GO_ON}], "no transaction can hold count"),
        ([{**index(LOG, "ticket_id"), **GO_ON}], "no transaction can hold createIndexes"),
        (
            [{"aggregate": LOG, "pipeline": [{"$merge": "x"}]} | GO_ON | {"$db": "desk"}],
            "no transaction can hold $merge",
        ),
        (
            [FIND | BEGIN | {"readConcern": None}],
            "a transaction's first command has its read concern, and no other",
        ),
        (
            [FIND | {"autocommit": False}],
            "a transaction's first command has its read concern, and no other",
        ),
        (
            [INSERT | {"autocommit": False}],
            "a transaction's end has its write concern, and no other",
        ),
        ([FIND | GO_ON | {"$db": "config"}], "no transaction can touch config.ticket_events"),
        ([INSERT | GO_ON | {"insert": "new"}], "a transaction would make a collection"),
        ([FIND | {"readConcern": {"level": "local"}}], "it may read what is rolled back"),
        (
            [{"aggregate": 1, "pipeline": [{"$currentOp": {}}], "$db": "admin"}],
            "what is under way is known of one server only",
        ),
        ([INSERT | {"writeConcern": {"w": 1}}], "it may be rolled back"),
        ([COMMIT | {"writeConcern": None}], "it may be rolled back"),
        ([FIND | {"$readPreference": {"mode": "secondary"}}], "it may be read from a secondary"),
        ([FIND | {"maxTimeMS": None}], "it does not say how long it may take"),
        (
            [INSERT | {"documents": [{"x": "x" * 15 * 2**20}]}],
            "a document is as large as one can be",
        ),
        (
            [UPDATE | {"updates": [{"q": {"_id": ID}}] * 100_001}],
            "it holds more writes than it may",
        ),
        ([INSERT | {"documents": [{"x": "x" * 2**23}] * 6}], "it is larger than a message may be"),
        ([FIND | {"filter": {"version": 1}}], "scan"),
        ([FIND | {"filter": {"version": 1}}], "scatter"),
        ([FIND | {"sort": {"recorded_at": 1}}], "sort"),
        ([FIND | {"sort": {"_id": 1}, "filter": {"type": "x"}, "limit": 1}], "walk"),
        ([FIND | {"hint": {"type": 1}}], "hint"),
        ([FIND | {"filter": {"ticket_id": {"$gt": ID}}}], "scatter"),
        ([INSERT, INSERT | {"documents": [{"version": 1}]}], "scatter"),
        (
            [UPDATE | {"updates": [{"q": {"version": 1}, "u": {}}]}],
            "one document is changed without the shard key",
        ),
        (
            [BULK | {"ops": [{"delete": 0, "filter": {"version": 1}, "multi": False}]}],
            "one document is changed without the shard key",
        ),
        (
            [UPDATE | {"update": LOG, "updates": [{"q": {"_id": ID}, "u": {}, "upsert": True}]}],
            "one document is changed without the shard key",
        ),
        ([index(READS, "slot", unique=True)], "a unique index does not begin with the shard key"),
    ],
)
def test_what_mongodb_would_refuse_or_suffer_from_is_told(commands, what):
    assert what in broken(*commands)


@pytest.mark.parametrize(
    ("user", "command", "action"),
    [
        ("api", UPDATE, "update"),
        ("api", BULK, "update"),
        ("api", UPDATE | {"update": LOG}, "update"),
        ("api", {"drop": READS, "$db": "desk_views"}, "dropCollection"),
        ("projector", INSERT, "insert"),
        ("projector", FIND | {"find": "api_keys", "filter": {"_id": ID}}, "find"),
        ("auditor", {"aggregate": LOG, "pipeline": [{"$changeStream": {}}]}, "changeStream"),
        ("auditor", LISTED | {"$db": "desk_keys"}, "listCollections"),
        ("api", {"createRole": "x", "$db": "admin"}, "createRole"),
    ],
)
def test_what_a_role_does_not_grant_is_told(user, command, action):
    """L1: the log can only be found and inserted into."""
    told = broken(command | {"maxTimeMS": 1, "$db": command.get("$db", "desk")}, user=user)
    assert f"{user} may not {action}" in told
