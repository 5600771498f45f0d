"""Make, list and revoke API keys.

    python -m scripts.keys make PRINCIPAL ROLE [--scope SCOPE]... [--days N]
    python -m scripts.keys list
    python -m scripts.keys revoke ID [--with-made]

`make` prints the key and nothing else; it is shown this once. ROLE: requester (own tickets), agent
(those of their groups), supervisor (all), auditor (reads all), admin (keys, the desk, projections).
`revoke --with-made`: also all that was made with it, with those, and so on. With the database at
hand no key is needed for this: who has that can do anything, and what is made here may last longer
than any other key. `list` names what another version has stored and this one cannot read; such a
key is good for nothing in this version, and can be revoked.
"""

import argparse
import getpass
from datetime import datetime, timedelta

from api.access.keys import KeyOrder, Keys
from api.access.rights import ROLES, SCOPES
from api.settings import Settings
from scripts.console import arguments, at_work, check_range, database, run, validating

_MOST_DAYS = 36_500


async def main() -> int:
    options = _options()
    async with database(Settings.from_environment()) as db:
        keys = Keys(db)
        if options.what == "list":
            await _list(keys)
            return 0
        async with at_work(db, "keys"):
            if options.what == "make":
                await _make(keys, options, db.clock.now())
            else:
                await _revoke(keys, options)
    return 0


def _options() -> argparse.Namespace:
    parser = arguments(__doc__, "keys")
    what = parser.add_subparsers(dest="what", required=True)
    make = what.add_parser("make", help="make a key and print it")
    make.add_argument("principal", help="whose it is to be")
    make.add_argument("role", choices=ROLES)
    make.add_argument("--scope", action="append", choices=SCOPES, help="unless given: all")
    make.add_argument("--days", type=int, help="good for so many days; unless given: for ever")
    what.add_parser("list", help="list all keys")
    revoke = what.add_parser("revoke", help="make a key good for nothing")
    revoke.add_argument("id", help="as listed; the part of a key before the last _")
    revoke.add_argument("--with-made", action="store_true", help="also all that was made with it")
    return parser.parse_args()


async def _make(keys: Keys, options: argparse.Namespace, now: datetime) -> None:
    until = None
    if options.days is not None:
        check_range("--days", options.days, 1, _MOST_DAYS)
        until = now + timedelta(days=options.days)
    with validating("PRINCIPAL"):
        order = KeyOrder(
            principal=options.principal,
            role=options.role,
            scopes=options.scope or list(SCOPES),
            expires_at=until,
        )
    _, text = await keys.make(order, f"{getpass.getuser()} at the command line")
    print(text)


async def _revoke(keys: Keys, options: argparse.Namespace) -> None:
    ids = [options.id]
    if options.with_made:
        ids = await keys.revoke_with_made(options.id)
    else:
        await keys.revoke(options.id)
    for id_ in ids:
        print(f"revoked {id_}; good for nothing within five seconds")


async def _list(keys: Keys) -> None:
    found, unreadable = await keys.all_apart()
    for document in unreadable:
        print(f"{document['_id']}  unreadable: of another version, good for nothing in this one")
    for key in found:
        until = "for ever"
        if key.revoked_at is not None:
            until = f"revoked {key.revoked_at:%Y-%m-%d %H:%M}"
        elif key.expires_at is not None:
            until = f"until {key.expires_at:%Y-%m-%d %H:%M}"
        scopes = "all" if key.scopes == frozenset(SCOPES) else ",".join(sorted(key.scopes))
        made = f"made {key.created_at:%Y-%m-%d %H:%M} by {key.created_by}"
        if key.made_by_key is not None:
            made += f" with {key.made_by_key}"
        print(f"{key.id}  {key.role:<10}  {key.principal}  {scopes}  {until}  {made}")


if __name__ == "__main__":
    run(main)
