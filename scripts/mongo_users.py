"""Make the database users on MongoDB, each able to do what it must and no more.

    casebook mongo-users make         with an administrator's URL, which names the
                                      database, in CASEBOOK_ADMIN_URL
    casebook mongo-users print NAME   the roles of a database as JSON, and nothing is done;
                                      --atlas: the commands that make them on Atlas
    casebook mongo-users check        are they refused what they must be? by the URLs in
                                      CASEBOOK_API_URL, CASEBOOK_PROJECTOR_URL,
                                      CASEBOOK_AUDITOR_URL

`make` makes the collections and indexes of the log, three roles and three users, and prints the
users' URLs, shown this once; made again, it renews roles and passwords. Passwords are made too,
unless CASEBOOK_API_PASSWORD, CASEBOOK_PROJECTOR_PASSWORD, CASEBOOK_AUDITOR_PASSWORD give them.
While a former version's views are there, roles keep what they had: make again when those are gone.
For a database `casebook`:

    casebook_api         reads all; writes what is its own; of the log, finds and inserts (L1)
                         and makes and destroys the keys of persons
    casebook_projector   finds and watches the log; does as it likes with the views; finds the keys
                         of persons
    casebook_auditor     finds in the log and its checkpoints: all that scripts.verify needs

Roles and users are made in `admin`, for a role of any other database can say nothing about a second
one, and the keys of persons and the views are in some of their own. The embedded server has no
users.
"""

import argparse
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypedDict
from urllib.parse import quote, urlsplit, urlunsplit

import orjson
from pymongo.errors import OperationFailure

from api import cursors
from api.access import access_log, keys
from api.desk import store as desk
from api.settings import Settings
from api.webhooks import store as webhooks
from domain.values import JsonObject
from eventstore import log as store
from eventstore import log_identity, ticket_numbers
from eventstore.database import Database
from eventstore.log import EventStore
from eventstore.mongo.driver import Session
from eventstore.mongo.errors import NOT_ALLOWED
from eventstore.personal.erasure_news import PERSON_EVENTS
from eventstore.personal.vault import KEYRING, PERSONS, keys_database
from eventstore.transparency import statements as log_checkpoints
from projections import generations
from projections.erasure.progress import Erasures
from projections.generations import Generations, views_database
from projections.projector import parked
from projections.views import saved_views
from scripts.cli import UsageError, start

API, PROJECTOR, AUDITOR = USERS = ("api", "projector", "auditor")
"""What they are called behind the name of the database: `casebook_api`."""
HOME = "admin"
"""The database in which roles and users are made."""
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
    ticket_numbers.COLLECTION,
)
_KEYS, _VIEWS = "_keys/", "_views/"
"""Before the name of a collection that is in the database of the keys of persons, of the views."""
_READ = ("find", "listIndexes", "collStats")
_WRITE = ("insert", "update", "remove", "createIndex")
_MAKE = ("createCollection", "dropCollection", "enableSharding")

_CAPITAL = re.compile("(?=[A-Z])")


class Privilege(TypedDict):
    """What may be done with a collection, or with all of a database if its name is empty."""

    resource: dict[str, str]
    actions: list[str]


REFUSED: Mapping[str, Sequence[tuple[str, str]]] = {
    API: [
        ("update", store.COLLECTION),
        ("remove", store.COLLECTION),
        ("update", f"{_VIEWS}ticket_reads_1"),
        ("update", f"{_VIEWS}{generations.COLLECTION}"),
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
        ("find", f"{_VIEWS}ticket_reads_1"),
        ("find", f"{_KEYS}{PERSONS}"),
        ("find", f"{_KEYS}{KEYRING}"),
    ],
}
"""What each user must be refused, among other things: what `check` tries."""


def privileges(database: str) -> dict[str, list[Privilege]]:
    """Return what each role may do, as `createRole` takes it."""

    def on(names: Iterable[str], *actions: str, of: str = database) -> list[Privilege]:
        return [
            {"resource": {"db": of, "collection": name}, "actions": sorted(actions)}
            for name in names
        ]

    of_keys, of_views = keys_database(database), views_database(database)
    everywhere = on([""], "listCollections")
    return {
        API: [
            *on([""], *_READ, "listCollections", "changeStream"),
            *on([""], *_READ, of=of_views),
            *on([store.COLLECTION], "insert"),
            *on(_OF_THE_API, *_WRITE),
            *on([parked.REPAIRS], "insert"),
            *on([PERSON_EVENTS], "insert", "createIndex"),
            *on([log_identity.COLLECTION], "insert"),
            *on([log_identity.PROCESSES], "insert", "update", "remove"),
            *on([PERSONS], "find", "insert", "update", "createIndex", of=of_keys),
            *on([KEYRING], "find", "insert", "update", of=of_keys),
        ],
        PROJECTOR: [
            *everywhere,
            *on([store.COLLECTION], *_READ, "changeStream"),
            *on([saved_views.COLLECTION, desk.COLLECTION], "find"),
            *on(_LOG_CHECKPOINTS, *_READ, "insert", "createIndex"),
            *on([""], *_READ, *_WRITE, *_MAKE, of=of_views),
            *on([""], "listCollections", of=of_views),
            *on([parked.REPAIRS], "find", "insert", "remove"),  # scripts.replay --ticket
            *on([generations.COLLECTION], "find", "dropCollection"),  # of a former version
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


def for_atlas(database: str) -> Iterator[str]:
    """Yield the commands of Atlas' command line that make the roles: it takes none of MongoDB's."""
    for user, granted in privileges(database).items():
        named = [
            f"{_CAPITAL.sub('_', action).upper()}@{'.'.join(each['resource'].values())}".rstrip(".")
            for each in granted
            for action in each["actions"]
        ]
        yield f"atlas customDbRoles create {database}_{user} --privilege {','.join(named)}"


class _NotRefused(Exception):
    pass


async def main(options: argparse.Namespace) -> int:
    Settings.from_environment()  # so that a name that is misspelt is told here, too
    if options.what == "check":
        return await _check()
    if options.what == "print":
        made = orjson.dumps(privileges(options.name), option=orjson.OPT_INDENT_2).decode()
        print("\n".join(for_atlas(options.name)) if options.atlas else made)
        return 0
    return await _make(_url("CASEBOOK_ADMIN_URL", "administrator"))


async def _make(url: str) -> int:
    database = Database(url)
    try:
        await database.check()  # at once: a transaction would be tried again and again
        await EventStore(database).prepare()
        await Generations(database).prepare()
        await Erasures(database).prepare()
        change = await _change(database)
        passwords = {user: _password(user) for user in USERS}
        for user, granted in privileges(database.name).items():
            name = f"{database.name}_{user}"
            await _put(database, "Role", name, {"privileges": granted}, change)
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


async def _change(database: Database) -> str:
    """Return what is done to roles that are there: they keep what they had until what a former
    version has left is dropped. Its processes go on with the same users, and it is a former right
    to drop it.
    """
    left = await Generations(database).of_former_layout()
    return "grantPrivilegesTo" if left else "update"


def _password(user: str) -> str:
    return os.environ.get(_variable(user, "PASSWORD")) or secrets.token_urlsafe(24)


def _variable(user: str, what: str) -> str:
    return f"CASEBOOK_{user.upper()}_{what}"


async def _put(
    database: Database, kind: str, name: str, content: JsonObject, change: str = "update"
) -> None:
    """Make a role or a user, or change the one that is there."""
    home, kinds = database.client[HOME], f"{kind.lower()}s"
    if (await home.command({f"{kinds}Info": name}))[kinds]:
        await home.command({f"{change}{kind}": name, **content})
    else:
        await home.command({f"create{kind}": name, "roles": [], **content})


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
    beside, _, name = name.rpartition("/")
    collection = database.client[f"{database.name}{beside}"][name]
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
    start("mongo-users", main)
