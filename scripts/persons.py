"""Show what is held on a person, erase one, and change the key that wraps the keys of all.

    casebook persons show NAME                   who it is, and how far an erasure has come
    casebook persons data NAME                   all that is held on them, a line each
    casebook persons erase NAME --reason TEXT    for good: there is no way back
    casebook persons new-master-key              print one
    casebook persons rewrap                      wrap all keys by the first master key

NAME: as tickets have it, for their requester or who follows them. With the database and the master
key at hand no other key is needed for this. To change the master key: put a new one before the old
in its file, start all processes again, rewrap, take the old one away
(docs/explanation/personal-data.md).
"""

import argparse
import getpass
import sys
from uuid import UUID

from pydantic import TypeAdapter

from api.access.principals import Principal
from api.people.store import Persons
from domain.people import ErasePerson
from domain.values import Name
from eventstore.database import Database
from eventstore.log import EventStore
from eventstore.personal.master_keys import new_master_key
from projections.erasure.progress import Erasures
from scripts.cli import at_work, counting, database, print_json, start, validating

_NAME: TypeAdapter[str] = TypeAdapter(Name)


async def main(options: argparse.Namespace) -> int:
    if options.what == "new-master-key":
        print(new_master_key())
        return 0
    async with database() as db:
        if options.what == "rewrap":
            async with at_work(db, "persons"):
                await _rewrap(db)
            return 0
        await EventStore(db).prepare()
        await Erasures(db).prepare()
        known = Persons(db, EventStore(db))
        with validating("NAME"):
            name = _NAME.validate_python(options.name)
        found = await known.find(name)
        id_ = UUID(str(found["id"]))
        match options.what:
            case "show":
                print_json(found)
            case "data":
                async for line in await known.data(id_):
                    sys.stdout.buffer.write(line)
            case _:
                async with at_work(db, "persons"):
                    await _erase(known, id_, options.reason)
    return 0


async def _erase(known: Persons, id_: UUID, reason: str) -> None:
    with validating("--reason"):
        command = ErasePerson(reason=reason)
    by = Principal(f"{getpass.getuser()} at the command line", "admin")
    print_json(await known.erase(id_, command, by))
    print("What is shown follows, and is complete within some minutes if something projects.")


async def _rewrap(db: Database) -> None:
    count = await db.vault.to_rewrap()
    with counting("wrapping", count, "keys") as wrapped:
        await db.vault.rewrap(wrapped)
    left = await db.vault.to_rewrap()
    print(f"{count} wrapped anew; {left} are left, which others have made meanwhile")


if __name__ == "__main__":
    start("persons", main)
