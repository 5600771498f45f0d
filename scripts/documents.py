"""Look through all that is stored outside the log, and name what this version cannot read.

A document that another version has stored in a form that this one does not know costs only itself:
it is passed over, and stays as it is. Run this before going back to a former version, or on to a
new one, with the version in question. Exits 1 if there is something that cannot be read. What is in
the log, `casebook verify` reads; the keys of persons, `casebook persons`.
"""

import argparse

from api.operations.stored_documents import look_through
from scripts.cli import database, start


async def main(_: argparse.Namespace) -> int:
    async with database() as db:
        collections = [name async for name in look_through(db, everything=True)]
        found = db.unreadable.all()
    for collection, unreadable in sorted(found.items()):
        for id_, why in sorted(unreadable.items()):
            print(f"{collection}  {id_}  {why}")
    count = sum(map(len, found.values()))
    print(f"{count} documents in {len(collections)} collections cannot be read by this version")
    return 1 if count else 0


if __name__ == "__main__":
    start("documents", main)
