"""What MongoDB 8.0 allows, and what it would have to read, for each command that it is sent.

The embedded server takes what MongoDB refuses, and its plans prove nothing about MongoDB's. So the
commands of all processes are heard on the wire (`scripts/testbed/wire.py`), and each is held to
rules from MongoDB's manual: what a transaction may hold, what the roles of `scripts.mongo_users`
grant, which index serves a filter and an order, which shards it goes to, how large it is, how sure
it is, and how long it may take. Which indexes there are is heard too: each is made by a command.

What reads more than an index bounds, or asks all shards, stands in a table with the reason.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain, takewhile
from typing import NamedTuple

import bson
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from domain.values import JsonObject
from scripts.mongo_users import Privilege, privileges
from scripts.testbed.wire import Fate, Heard, Refused
from tests.excused import ANY, EXCUSED, SHARD_KEYS, SMALL

Index = tuple[tuple[str, int], ...]

_BY_ID: Index = (("_id", 1),)
_MOST_BYTES = 48_000_000
_MOST_DOCUMENT_BYTES = 15 * 2**20  # of 16
_MOST_WRITES = 100_000
_RANGE = frozenset({"$gt", "$gte", "$lt", "$lte"})
_BOUNDING = _RANGE | {"$eq", "$in", "$nin", "$all", "$elemMatch", "$regex"}
"""What gives an index bounds; $nin: what lies between its values."""
_READS = frozenset({"find", "aggregate", "count", "distinct"})
_WRITES = frozenset({"insert", "update", "delete", "findAndModify", "bulkWrite"})
_ENDS = frozenset({"commitTransaction", "abortTransaction"})
_IN_A_TRANSACTION = _WRITES | _ENDS | {"find", "aggregate", "distinct", "getMore", "killCursors"}
_STAGES_OUTSIDE = frozenset(
    {
        *("$changeStream", "$collStats", "$currentOp", "$indexStats", "$listLocalSessions"),
        *("$listSessions", "$merge", "$out", "$planCacheStats", "$unionWith"),
    }
)
_OF_EVERYBODY = _ENDS | {
    *("buildInfo", "endSessions", "hello", "isMaster", "ismaster", "ping"),
    *("killCursors", "killSessions"),  # one's own
    *("saslContinue", "saslStart"),
}
_WITHOUT_LIMIT = frozenset(
    {
        "drop",  # it takes none; it is sent again
        "endSessions",
        "getMore",  # of a cursor, which has one
        "hello",  # of the driver, which sees by it whether the server is there
        "isMaster",
        "ismaster",
        "killCursors",
        "saslContinue",  # of the driver, which signs in before it asks
        "saslStart",
    }
)


class Statement(BaseModel):
    """A command, or one of the writes in one, as the rules look at it."""

    model_config = ConfigDict(frozen=True)

    verb: str
    database: str
    name: str
    """Of the collection; empty for what is of a database."""
    filter: JsonObject = Field({}, validation_alias=AliasChoices("filter", "q", "query"))
    order: dict[str, int] = Field({}, validation_alias=AliasChoices("order", "sort"))
    hint: dict[str, int] | None = None
    limit: int = 0
    multi: bool = False
    upsert: bool = False

    @property
    def collection(self) -> str:
        """The name, whichever generation of the views it is of."""
        return re.sub(r"_\d+$", "", self.name)

    @property
    def shape(self) -> str:
        """The filter and the order, without what is compared with."""
        if self.verb == "insert":
            return ""
        terms = ", ".join(sorted({f"{name} {_operator(c)}" for name, c in conditions(self.filter)}))
        order = f" by {_fields(self.order.items())}" if self.order else ""
        return terms + order + (" limited" if self.limit else "")


def statements(command: JsonObject) -> Iterator[Statement]:
    """Yield what a command asks for: several writes may be in one."""
    verb = next(iter(command))
    name = command.get("collection" if verb == "getMore" else verb)
    about = {
        "verb": verb,
        "database": command["$db"],
        "name": name if isinstance(name, str) else "",
    }
    match verb:
        case "insert":
            for document in _each(command["documents"]):
                yield Statement.model_validate({**about, "filter": document})
        case "update":
            for each in _each(command["updates"]):
                yield Statement.model_validate(each | about)
        case "delete":
            for each in _each(command["deletes"]):
                more = {"limit": 0, "multi": each["limit"] == 0}
                yield Statement.model_validate(each | more | about)
        case "bulkWrite":
            names = [str(each["ns"]).partition(".") for each in _each(command["nsInfo"])]
            for op in _each(command["ops"]):
                verb, number = next(iter(op.items()))
                database, _, name = names[int(str(number))]
                about = {"verb": verb, "database": database, "name": name}
                known = {"filter": op.get("filter", op.get("document"))}
                yield Statement.model_validate(op | known | about)
        case "aggregate":
            stages = _each(command["pipeline"])
            if stages and "$changeStream" in stages[0]:
                yield Statement.model_validate({**about, "verb": "watch"})
            else:
                unions = [_object(each["$unionWith"]) for each in stages if "$unionWith" in each]
                if unions:  # or each by itself, as it happens (`coalesced_reads.py`)
                    about["verb"] = "find"
                yield _aggregation({"hint": command.get("hint"), **about}, stages)
                for union in unions:
                    yield _aggregation({**about, "name": union["coll"]}, _each(union["pipeline"]))
        case "find" | "count" | "findAndModify":
            yield Statement.model_validate(command | about)
        case _:
            if verb not in _OF_EVERYBODY:
                yield Statement.model_validate(about)


def _aggregation(about: JsonObject, stages: Sequence[JsonObject]) -> Statement:
    known = {"$match": "filter", "$sort": "sort", "$limit": "limit"}
    first = takewhile(known.keys().__contains__, chain.from_iterable(stages))
    asked: JsonObject = {"filter": {}}
    for name, stage in zip(first, stages, strict=False):
        if name == "$match":  # of one field each (`coalesced_reads.py`)
            asked["filter"] = {**_object(asked["filter"]), **_object(stage[name])}
        else:
            asked[known[name]] = stage[name]
    return Statement.model_validate(about | asked)


def _each(value: object) -> list[JsonObject]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


# --- filters, and the indexes that serve them -----------------------------------------------------


def conditions(filter_: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Yield every condition that must hold, by field; those in $or and $nor bound nothing."""
    for name, condition in filter_.items():
        if name == "$and":
            for each in _each(condition):
                yield from conditions(each)
        else:
            yield name, condition


def _operator(condition: object) -> str:
    if not isinstance(condition, dict):
        return "="
    names = {"range" if name in _RANGE else str(name).removeprefix("$") for name in condition}
    return "+".join(sorted(names)) if str(next(iter(condition), "")).startswith("$") else "="


def is_equality(condition: object) -> bool:
    return _operator(condition) in ("=", "eq")


def bounded(index: Index, filter_: Mapping[str, object]) -> list[str]:
    """Return the first fields of an index that a filter bounds."""
    found = []
    for name, _ in index:
        about = [condition for field, condition in conditions(filter_) if field == name]
        if not any(is_equality(c) or (isinstance(c, dict) and _BOUNDING & c.keys()) for c in about):
            break
        found.append(name)
        if not any(_operator(c) in ("=", "eq", "in") for c in about):
            break
    return found


def gives_order(
    index: Index, filter_: Mapping[str, object], order: Sequence[tuple[str, int]]
) -> bool:
    """Return whether what an index gives is in an order, forwards or backwards."""
    equal = {name for name, condition in conditions(filter_) if is_equality(condition)}
    rest = [(name, direction) for name, direction in index if name not in equal]
    order = [(name, direction) for name, direction in order if name not in equal]
    backwards = [(name, -direction) for name, direction in order]
    return rest[: len(order)] in (order, backwards)


class Plan(NamedTuple):
    """How MongoDB can answer a statement, at best."""

    along: Index | None
    fault: str
    """What it does that it should not: scan (reads all documents), walk (an index from its end,
    until enough match), sort (in memory), hint (no such index). Empty if nothing.
    """


_FAULTS = ("", "sort", "walk", "scan")


def plan(asked: Statement, indexes: Iterable[Index]) -> Plan:
    """Return the best plan with some indexes, or the one along the index that is hinted."""
    is_known = asked.verb == "count" and not asked.filter  # without looking at documents
    if is_known or not asked.name or asked.verb not in _READS | _WRITES - {"insert"}:
        return Plan(None, "")
    hinted = tuple(asked.hint.items()) if asked.hint else None
    there = sorted({_BY_ID, *indexes})
    if hinted is not None and hinted not in there:
        return Plan(hinted, "hint")
    plans: list[tuple[int, int, Index]] = []
    for index in [hinted] if hinted else there:
        is_sorted = gives_order(index, asked.filter, [*asked.order.items()])
        bounds = len(bounded(index, asked.filter))
        if bounds:
            fault = "" if is_sorted else "sort"
        elif asked.limit and is_sorted:
            fault = "walk" if asked.filter else ""
        else:
            fault = "scan"
        plans.append((_FAULTS.index(fault), -bounds, index))
    rank, bounds, along = min(plans)
    is_used = bounds or hinted or (asked.order and _FAULTS[rank] != "scan")
    return Plan(along if is_used else None, _FAULTS[rank])


# --- the rules ------------------------------------------------------------------------------------


class Sent(NamedTuple):
    """A command as a process has sent it."""

    process: str
    user: str | None
    """As which the process would run on MongoDB: one of `scripts.mongo_users.USERS`, or None for an
    administrator.
    """
    command: JsonObject

    @property
    def verb(self) -> str:
        return next(iter(self.command))

    @property
    def in_transaction(self) -> bool:
        return self.command.get("autocommit") is False


def transaction(sent: Sent, made: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A transaction holds reads and writes of collections that are there.

    `made`: databases and names of collections that are. A new one cannot be made by a transaction
    that writes to several shards.
    """
    if not sent.in_transaction:
        return
    command, begins = sent.command, sent.command.get("startTransaction") is True
    if sent.verb not in _IN_A_TRANSACTION:
        yield f"no transaction can hold {sent.verb}"
        return
    if begins and sent.verb == "killCursors":
        yield "no transaction begins with killCursors"
    if ("readConcern" in command) != begins:
        yield "a transaction's first command has its read concern, and no other"
    if "writeConcern" in command and sent.verb not in _ENDS:
        yield "a transaction's end has its write concern, and no other"
    for stage in _each(command.get("pipeline")):
        if _STAGES_OUTSIDE & stage.keys():
            yield f"no transaction can hold {next(iter(stage))}"
    for each in statements(command):
        if each.database in ("admin", "config", "local") or each.name.startswith("system."):
            yield f"no transaction can touch {each.database}.{each.name}"
        if sent.verb in _WRITES and (each.database, each.name) not in made:
            yield "a transaction would make a collection"


def role(sent: Sent, database: str) -> Iterator[str]:
    """The user's role grants the actions."""
    if sent.user is None:
        return
    granted = _granted(database)[sent.user]
    for asked in statements(sent.command):
        for action, name in actions(asked, sent.command):
            if not any(grants(each, action, asked.database, name) for each in granted):
                yield f"{sent.user} may not {action}"


_granted = cache(privileges)


def grants(privilege: Privilege, action: str, database: str, name: str) -> bool:
    """Return whether a privilege allows an action on a collection."""
    on = privilege["resource"]
    is_it = on["db"] == database and on["collection"] in ("", name)
    return is_it and action in privilege["actions"]


def actions(asked: Statement, command: JsonObject) -> Iterator[tuple[str, str]]:
    """Yield what MongoDB wants a user to have for a statement: the action, and on what."""
    if asked.verb == "create" and "viewOn" in command:
        yield "find", str(command["viewOn"])
    names = {
        "find": ("find",),
        "getMore": ("find",),
        "count": ("find",),
        "aggregate": ("find",),
        "watch": ("find", "changeStream"),
        "findAndModify": ("find", "update"),
        "delete": ("remove",),
        "create": ("createCollection",),
        "createIndexes": ("createIndex",),
        "drop": ("dropCollection",),
        "shardCollection": ("enableSharding",),
    }
    for action in names.get(asked.verb, (asked.verb,)):
        yield action, asked.name
    if asked.upsert:
        yield "insert", asked.name


def concern(sent: Sent) -> Iterator[str]:
    """Reads are of the primary and see what a majority has; writes wait for a majority's disks."""
    preference = sent.command.get("$readPreference", {"mode": "primary"})
    # The drivers ask so for the primary where they are told to speak to one server only.
    if preference not in ({"mode": "primary"}, {"mode": "primaryPreferred"}):
        yield "it may be read from a secondary"
    if sent.verb in _READS and not sent.in_transaction:
        level = _object(sent.command.get("readConcern")).get("level")
        if any("$currentOp" in stage for stage in _each(sent.command.get("pipeline"))):
            if level != "local":
                yield "what is under way is known of one server only"
        elif level not in ("majority", "snapshot"):
            yield "it may read what is rolled back"
    if (sent.verb in _WRITES and not sent.in_transaction) or sent.verb == "commitTransaction":
        concern = _object(sent.command.get("writeConcern"))
        if (concern.get("w"), concern.get("j")) != ("majority", True):
            yield "it may be rolled back"


def _object(value: object) -> JsonObject:
    return value if isinstance(value, dict) else {}


def unlimited(commands: Iterable[JsonObject]) -> set[str]:
    """Return the names of commands that do not say how long the database may work for them, of all
    that could.
    """
    return {next(iter(c)) for c in commands if "maxTimeMS" not in c} - _WITHOUT_LIMIT


def deadline(sent: Sent) -> Iterator[str]:
    """The server is told how long it may work."""
    if unlimited([sent.command]):
        yield "it does not say how long it may take"


def size(sent: Sent) -> Iterator[str]:
    """A command, a document and the number of writes are within MongoDB's bounds."""
    lists = [_each(sent.command.get(n)) for n in ("documents", "updates", "deletes", "ops")]
    if len(bson.encode(sent.command)) > _MOST_BYTES:
        yield "it is larger than a message may be"
    if max(map(len, lists)) > _MOST_WRITES:
        yield "it holds more writes than it may"
    documents = [each.get("document", each) for each in (*lists[0], *lists[3])]
    if any(len(bson.encode(_object(each))) > _MOST_DOCUMENT_BYTES for each in documents):
        yield "a document is as large as one can be"


def index(asked: Statement, indexes: Iterable[Index]) -> Iterator[str]:
    """An index bounds what is read, and gives it in order."""
    if asked.collection not in SMALL and (fault := plan(asked, indexes).fault):
        yield fault


def target(asked: Statement) -> str:
    """Return which shards a statement goes to: one, some (of ids), or all; empty if its collection
    is not sharded.
    """
    key = SHARD_KEYS.get(asked.collection)
    if key is None:
        return ""
    about = {_operator(condition) for field, condition in conditions(asked.filter) if field == key}
    if about & {"=", "eq"}:
        return "one"
    return "some" if any("in" in each.split("+") for each in about) else "all"


def shard(asked: Statement) -> Iterator[str]:
    """A statement names the shard key, and what changes one document must do so, or its `_id`."""
    if asked.verb not in _READS | _WRITES | {"watch"} or target(asked) != "all":
        return
    if asked.verb in _WRITES - {"insert"} and not asked.multi:
        by_id = {_operator(c) for field, c in conditions(asked.filter) if field == "_id"} & {
            "=",
            "eq",
        }
        if asked.upsert or asked.verb == "findAndModify" or not by_id:
            yield "one document is changed without the shard key"
            return
    yield "scatter"


class Made(NamedTuple):
    """An index that is made."""

    collection: str
    keys: Index
    is_unique: bool


def indexes_made(command: JsonObject) -> Iterator[Made]:
    """Yield the indexes that a command makes."""
    for each in statements(command) if "createIndexes" in command else ():
        for about in _each(command["indexes"]):
            keys = tuple((name, int(str(way))) for name, way in _object(about["key"]).items())
            yield Made(each.collection, keys, about.get("unique") is True)


def unique(sent: Sent) -> Iterator[str]:
    """A unique index of a sharded collection begins with the shard key."""
    for made in indexes_made(sent.command):
        if made.is_unique and SHARD_KEYS.get(made.collection) not in (None, made.keys[0][0]):
            yield "a unique index does not begin with the shard key"


# --- a recording ----------------------------------------------------------------------------------


class Broken(NamedTuple):
    """A rule that a statement breaks; which one of which collection, by its shape."""

    what: str
    command: str
    collection: str
    shape: str
    processes: str

    def excuse(self) -> tuple[str, str, str] | None:
        """Return the key of the reason why it is right all the same; None if there is none."""
        known = (self.what, self.collection, self.shape), (self.what, self.collection, ANY)
        return next((key for key in known if key in EXCUSED), None)


class Asked(NamedTuple):
    """A kind of statement, and what asks it."""

    statement: Statement
    privileges: set[str]
    processes: set[str]


class Row(NamedTuple):
    """A kind of statement as text."""

    collection: str
    command: str
    shape: str
    along: str
    shards: str
    privileges: str
    processes: str


def _fields(order: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{'-' if way < 0 else ''}{field}" for field, way in order)


AS_MONGODB = Refused({"version": "8.0.0", "ok": 1.0})
"""The answer to what a server is: clients send what they would send to MongoDB."""


class Recorder:
    """Holds all that it hears to the rules, and keeps what kinds of statements there are."""

    def __init__(self, database: str) -> None:
        """`database`: the name of the one that the log is in."""
        self._database = database
        self._collections: set[tuple[str, str]] = set()
        self._indexes: defaultdict[str, set[Index]] = defaultdict(set)
        self._broken: set[Broken] = set()
        self._asked: dict[tuple[str, str, str, str], Asked] = {}

    def listening(self, process: str, user: str | None) -> Heard:
        """Return what hears a process, which would run as a user; None: an administrator."""

        def heard(command: JsonObject) -> Fate | Refused:
            self.hear(Sent(process, user, command))
            return AS_MONGODB if "buildInfo" in command else Fate.PASSED

        return heard

    def hear(self, sent: Sent) -> None:
        """Hold a command to the rules."""
        asked = list(statements(sent.command))
        on = asked[0].collection if asked else ""
        broken = chain(
            transaction(sent, self._collections),
            role(sent, self._database),
            *(rule(sent) for rule in (concern, deadline, size, unique)),
        )
        self._broken |= {Broken(what, sent.verb, on, "", sent.process) for what in broken}
        for each in asked:
            if not sent.in_transaction and each.verb in ("insert", "create", "createIndexes"):
                self._collections.add((each.database, each.name))
            about = (each.verb, each.collection, each.shape)
            self._broken |= {Broken(what, *about, sent.process) for what in shard(each)}
            key = (*about, str(each.hint))
            known = self._asked.setdefault(key, Asked(each, set(), set()))
            known.privileges.update(action for action, _ in actions(each, sent.command))
            known.processes.add(sent.process)
        for made in indexes_made(sent.command):
            self._indexes[made.collection].add(made.keys)

    def rows(self) -> list[Row]:
        """Return all kinds of statements, sorted."""
        rows = {
            Row(
                "" if asked.database == "admin" else asked.collection,
                asked.verb,
                asked.shape.strip(),
                _fields(plan(asked, self._indexes[asked.collection]).along or ()),
                target(asked),
                ", ".join(sorted(granted)),
                ", ".join(sorted(processes)),
            )
            for asked, granted, processes in self._asked.values()
        }
        return sorted(rows)

    def made(self, collection: str) -> list[str]:
        """Return the indexes that were made, as text."""
        return sorted(map(_fields, self._indexes[collection]))

    def broken(self) -> set[Broken]:
        """Return all that breaks a rule, excused or not."""
        found = set(self._broken)
        for asked, _, processes in self._asked.values():
            for what in index(asked, self._indexes[asked.collection]):
                by = ", ".join(sorted(processes))
                found.add(Broken(what, asked.verb, asked.collection, asked.shape, by))
        return found
