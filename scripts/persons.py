"""Show what is held on a person, erase one, and change the key that wraps the keys of all.

    python -m scripts.persons show NAME                   who it is, and how far an erasure has come
    python -m scripts.persons data NAME                   all that is held on them, a line each
    python -m scripts.persons erase NAME --reason TEXT    for good: there is no way back
    python -m scripts.persons new-master-key              print one
    python -m scripts.persons rewrap                      wrap all keys by the first master key

NAME: as tickets have it, for their requester or who follows them. With the database and the master
key at hand no other key is needed for this. To change the master key: put a new one before the old
in its file, start all processes again, rewrap, take the old one away (docs/personal-data.md).
"""

import argparse
import getpass
import sys
from uuid import UUID

import orjson
from pydantic import TypeAdapter, ValidationError

from api.access.rights import Principal
from api.people.store import Persons
from api.settings import Settings
from domain.people import ErasePerson
from domain.values import JsonObject, Name
from eventstore.database import Database
from eventstore.log import EventStore
from eventstore.personal.master_keys import new_master_key
from projections.erasure.progress import Erasures
from scripts.console import UsageError, arguments, database, progress, run

_NAME: TypeAdapter[str] = TypeAdapter(Name)


async def main() -> int:
    options = _options()
    if options.what == "new-master-key":
        print(new_master_key())
        return 0
    async with database(Settings.from_environment()) as db:
        if options.what in ("rewrap", "erase"):
            await db.identity.begin()  # which refuses where a restore is not done
        if options.what == "rewrap":
            await _rewrap(db)
            return 0
        await EventStore(db).prepare()
        await Erasures(db).prepare()
        known = Persons(db, EventStore(db))
        told = await known.find(_name(options.name))
        match options.what:
            case "show":
                _print(told)
            case "data":
                async for line in await known.data(UUID(str(told["id"]))):
                    sys.stdout.buffer.write(line)
            case _:
                await _erase(known, told, options.reason)
    return 0


def _options() -> argparse.Namespace:
    parser = arguments(__doc__, "persons")
    what = parser.add_subparsers(dest="what", required=True)
    for name, help_ in (
        ("show", "who it is, and how far an erasure has come"),
        ("data", "all that is held on them, a line each"),
        ("erase", "for good: there is no way back"),
    ):
        one = what.add_parser(name, help=help_)
        one.add_argument("name")
        if name == "erase":
            one.add_argument("--reason", required=True, help="kept for ever: name nobody in it")
    what.add_parser("new-master-key", help="print a new master key")
    what.add_parser("rewrap", help="wrap the keys of all persons by the first master key")
    return parser.parse_args()


def _name(text: str) -> str:
    try:
        return _NAME.validate_python(text)
    except ValidationError as error:
        raise UsageError(f"NAME: {error.errors()[0]['msg']}") from error


async def _erase(known: Persons, told: JsonObject, reason: str) -> None:
    try:
        command = ErasePerson(reason=reason)
    except ValidationError as error:
        raise UsageError(f"--reason: {error.errors()[0]['msg']}") from error
    by = Principal(f"{getpass.getuser()} at the command line", "admin")
    _print(await known.erase(UUID(str(told["id"])), command, by))
    print("What is shown follows, and is complete within some minutes if something projects.")


async def _rewrap(db: Database) -> None:
    count = await db.vault.to_rewrap()
    with progress() as bar:
        task = bar.add_task("wrapping", total=count, rate="keys")
        await db.vault.rewrap(lambda: bar.advance(task))
    left = await db.vault.to_rewrap()
    print(f"{count} wrapped anew; {left} are left, which others have made meanwhile")


def _print(content: JsonObject) -> None:
    print(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode())


if __name__ == "__main__":
    run(main)
