"""Make the database users on MongoDB, each able to do what it must and no more.

    python -m scripts.mongo_users make         with an administrator's URL, which names the
                                               database, in CASEBOOK_ADMIN_URL
    python -m scripts.mongo_users print NAME   the roles of a database as JSON, and nothing is done
    python -m scripts.mongo_users check        are they refused what they must be? by the URLs in
                                               CASEBOOK_API_URL, CASEBOOK_PROJECTOR_URL,
                                               CASEBOOK_AUDITOR_URL

`make` makes the collections and indexes of the log, three roles and three users, and prints the
users' URLs, shown this once; made again, it renews roles and passwords. Passwords are made too,
unless CASEBOOK_API_PASSWORD, CASEBOOK_PROJECTOR_PASSWORD, CASEBOOK_AUDITOR_PASSWORD give them.
For a database `casebook`:

    casebook_api         reads all; writes what is its own; of the log, finds and inserts (L1)
                         and makes and destroys the keys of persons
    casebook_projector   finds and watches the log; writes the views, and drops what was replaced;
                         finds the keys of persons
    casebook_auditor     finds in the log and its checkpoints: all that scripts.verify needs

Roles and users are made in `admin`, for a role of any other database can say nothing about a second
one, and the keys of persons are in one of their own. MongoDB knows no patterns of names, and views
are kept in numbered collections: the projector's role names so many ahead (--generations). Make
again before they run out; a replay takes one each. The embedded server has no users.
"""

import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote, urlsplit, urlunsplit

import orjson
from pymongo.errors import OperationFailure

from api.access import access_log, keys
from api.desk import store as desk
from api.queries import cursors
from api.webhooks import store as webhooks
from domain.values import JsonObject
from eventstore import log as store
from eventstore import log_identity
from eventstore.database import Database
from eventstore.log import EventStore
from eventstore.mongo.driver import Session
from eventstore.mongo.errors import NOT_ALLOWED
from eventstore.personal.vault import KEYRING, PERSON_EVENTS, PERSONS, keys_of
from eventstore.transparency import statements as log_checkpoints
from projections import generations
from projections.erasure.progress import Erasures
from projections.generations import FIRST, Generations
from projections.views import saved_views
from scripts.console import UsageError, arguments, run

API, PROJECTOR, AUDITOR = USERS = ("api", "projector", "auditor")
"""What they are called behind the name of the database: `casebook_api`."""
HOME = "admin"
"""The database in which roles and users are made."""
_GENERATIONS_AHEAD = 500
_MOST_AHEAD = 5_000  # or a role would not fit into a document
_LOG_CHECKPOINTS = (log_checkpoints.COLLECTION, log_checkpoints.HEADS_COLLECTION)
_OF_THE_API = (
    desk.COLLECTION,
    saved_views.COLLECTION,
    webhooks.WEBHOOKS,
    webhooks.DELIVERIES,
    webhooks.DISPATCH,
    cursors.COLLECTION,
    keys.COLLECTION,
    access_log.COLLECTION,
)
_KEYS = "_keys/"
"""Before the name of a collection that is in the database of the keys of persons."""
_READ = ("find", "listIndexes", "collStats")
_WRITE = ("insert", "update", "remove", "createIndex")
_NUMBERED = re.compile(f"(?:{'|'.join(FIRST.names)})_([0-9]+)")

Privilege = Mapping[str, object]

REFUSED: Mapping[str, Sequence[tuple[str, str]]] = {
    API: [
        ("update", store.COLLECTION),
        ("remove", store.COLLECTION),
        ("update", "ticket_reads_1"),
        ("insert", log_checkpoints.COLLECTION),
        ("update", PERSON_EVENTS),
        ("remove", f"{_KEYS}{PERSONS}"),
    ],
    PROJECTOR: [
        ("insert", store.COLLECTION),
        ("update", store.COLLECTION),
        ("remove", store.COLLECTION),
        ("find", keys.COLLECTION),
        ("find", cursors.COLLECTION),
        ("find", webhooks.WEBHOOKS),
        ("remove", PERSON_EVENTS),
        ("insert", f"{_KEYS}{PERSONS}"),
        ("update", f"{_KEYS}{PERSONS}"),
    ],
    AUDITOR: [
        ("insert", store.COLLECTION),
        ("update", store.COLLECTION),
        ("remove", store.COLLECTION),
        ("insert", log_checkpoints.COLLECTION),
        ("find", keys.COLLECTION),
        ("find", "ticket_reads_1"),
        ("find", f"{_KEYS}{PERSONS}"),
        ("find", f"{_KEYS}{KEYRING}"),
    ],
}
"""What each user must be refused, among other things: what `check` tries."""


def privileges(
    database: str, first_generation: int, ahead: int = _GENERATIONS_AHEAD
) -> dict[str, list[Privilege]]:
    """Return what each role may do, as `createRole` takes it."""
    numbers = range(first_generation, first_generation + ahead)
    numbered = [f"{view}_{n}" for view in FIRST.names for n in numbers]

    def on(names: Iterable[str], *actions: str, of: str = database) -> list[Privilege]:
        return [
            {"resource": {"db": of, "collection": name}, "actions": sorted(actions)}
            for name in names
        ]

    of_keys = keys_of(database)
    everywhere = on([""], "listCollections")
    parked = [name for name in numbered if name.startswith("parked_tickets_")]
    return {
        API: [
            *on([""], *_READ, "listCollections", "changeStream"),
            *on([store.COLLECTION], "insert"),
            *on(_OF_THE_API, *_WRITE),
            *on(parked, "insert", "update"),
            *on([PERSON_EVENTS], "insert", "createIndex"),
            *on([log_identity.COLLECTION], "insert"),
            *on([log_identity.PROCESSES], "insert", "update", "remove"),
            *on([PERSONS], "find", "insert", "update", "createIndex", of=of_keys),
            *on([KEYRING], "find", "insert", "update", of=of_keys),
        ],
        PROJECTOR: [
            *everywhere,
            *on([store.COLLECTION], *_READ, "changeStream"),
            *on([saved_views.COLLECTION], "find"),
            *on(_LOG_CHECKPOINTS, *_READ, "insert", "createIndex"),
            *on([generations.COLLECTION], *_READ, "insert", "update", "remove", "createIndex"),
            *on(FIRST.names, "find", "createCollection", "dropCollection"),
            *on(numbered, *_READ, *_WRITE, "createCollection", "dropCollection"),
            *on([PERSON_EVENTS], *_READ, "insert"),
            *on([log_identity.COLLECTION], "find", "insert"),
            *on([log_identity.PROCESSES], "find", "insert", "update", "remove"),
            *on([PERSONS, KEYRING], "find", of=of_keys),
        ],
        AUDITOR: [
            *everywhere,
            *on([store.COLLECTION, PERSON_EVENTS, *_LOG_CHECKPOINTS, desk.COLLECTION], *_READ),
            *on([log_identity.COLLECTION], "find"),
        ],
    }


class _NotRefused(Exception):
    pass


async def main() -> int:
    parser = arguments(__doc__, "mongo-users")
    what = parser.add_subparsers(dest="what", required=True)
    make = what.add_parser("make")
    shown = what.add_parser("print")
    shown.add_argument("name")
    for each in (make, shown):
        each.add_argument("--generations", type=int, default=_GENERATIONS_AHEAD)
    what.add_parser("check")
    options = parser.parse_args()
    if options.what == "check":
        return await _check()
    if not 1 <= options.generations <= _MOST_AHEAD:
        raise UsageError(f"--generations must be 1 to {_MOST_AHEAD}")
    if options.what == "print":
        made = privileges(options.name, 1, options.generations)
        print(orjson.dumps(made, option=orjson.OPT_INDENT_2).decode())
        return 0
    return await _make(_url("CASEBOOK_ADMIN_URL", "administrator"), options.generations)


async def _make(url: str, ahead: int) -> int:
    database = Database(url)
    try:
        await database.server_time()  # at once: a transaction would be tried again for two minutes
        await EventStore(database).prepare()
        await Generations(database).prepare()
        await Erasures(database).prepare()
        # Those that are kept for going back, or as of a time, are older than what is active.
        there = [re.fullmatch(_NUMBERED, name) for name in await database.collections()]
        first = min(int(found[1]) for found in there if found is not None)
        passwords = {user: _password(user) for user in USERS}
        for user, granted in privileges(database.name, first, ahead).items():
            name = f"{database.name}_{user}"
            await _put(database, "Role", name, {"privileges": granted, "roles": []})
            roles = [{"role": name, "db": HOME}]
            await _put(database, "User", name, {"pwd": passwords[user], "roles": roles})
    except OperationFailure as error:
        told = (error.details or {}).get("errmsg", error)
        raise UsageError(f"the database refuses: {told}") from error
    finally:
        await database.close()
    for user, password in passwords.items():
        shown = "***" if _variable(user, "PASSWORD") in os.environ else password
        print(f"{user}: {_as_user(url, database.name, user, shown)}")
    return 0


def _password(user: str) -> str:
    return os.environ.get(_variable(user, "PASSWORD")) or secrets.token_urlsafe(24)


def _variable(user: str, what: str) -> str:
    return f"CASEBOOK_{user.upper()}_{what}"


async def _put(database: Database, kind: str, name: str, content: JsonObject) -> None:
    """Make a role or a user, or change the one that is there."""
    home, kinds = database.client[HOME], f"{kind.lower()}s"
    found = await home.command({f"{kinds}Info": name})
    verb = "update" if found[kinds] else "create"
    await home.command({f"{verb}{kind}": name, **content})


def _as_user(url: str, database: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2]
    login = f"{quote(f'{database}_{user}')}:{quote(password, safe='*')}"
    given = [o for o in parts.query.split("&") if o and not o.lower().startswith("authsource=")]
    query = "&".join([*given, f"authSource={HOME}"])
    return urlunsplit((parts.scheme, f"{login}@{hosts}", f"/{database}", query, ""))


def _url(variable: str, of: str) -> str:
    """Return a URL, which the environment gives: a command line shows in lists of processes.

    Raises UsageError.
    """
    url = os.environ.get(variable)
    if not url:
        raise UsageError(f"{variable} must hold the URL of the {of}")
    return url


async def _check() -> int:
    """Try what must be refused, and undo it if it is not."""
    wrong = 0
    for user in USERS:
        database = Database(_url(_variable(user, "URL"), user))
        try:
            for action, name in REFUSED[user]:
                refused = await _is_refused(database, action, name)
                wrong += not refused
                print(f"{user}: {action} {name}: {'refused' if refused else 'NOT REFUSED'}")
        finally:
            await database.close()
    return 1 if wrong else 0


async def _is_refused(database: Database, action: str, name: str) -> bool:
    of = keys_of(database.name) if name.startswith(_KEYS) else database.name
    collection = database.client[of][name.removeprefix(_KEYS)]
    nothing: JsonObject = {"_id": "scripts.mongo_users check"}

    async def attempt(session: Session) -> None:
        match action:
            case "find":
                await collection.find_one(nothing, session=session)
            case "insert":
                await collection.insert_one(nothing, session=session)
            case "update":
                await collection.update_one(nothing, {"$set": {"x": 1}}, session=session)
            case _:
                await collection.delete_one(nothing, session=session)
        raise _NotRefused

    try:
        await database.in_transaction(attempt)
    except OperationFailure as error:
        return error.code in NOT_ALLOWED
    except _NotRefused:  # and undone
        return False
    return False


if __name__ == "__main__":
    run(main)
