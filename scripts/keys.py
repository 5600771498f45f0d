"""Make, list and revoke API keys.

    casebook keys make PRINCIPAL ROLE [--scope SCOPE]... [--days N]
    casebook keys link PRINCIPAL ROLE
    casebook keys list
    casebook keys revoke ID [--with-made]

`make` prints the key and nothing else; it is shown this once. `link` prints an address that signs
them in to the console of a server on this machine, once and within 15 minutes, with a key that is
good for twelve hours.

ROLE: requester (own tickets), agent (those of their groups), supervisor (all), auditor (reads all),
admin (keys, the desk, projections).

`revoke --with-made`: also all that was made with it, with those, and so on. With the database at
hand no key is needed for this: who has that can do anything, and what is made here may last longer
than any other key. `list` names what another version has stored and this one cannot read; such a
key is good for nothing in this version, and can be revoked.
"""

import argparse
import getpass
from datetime import datetime, timedelta

from api.access.keys import KeyOrder, Keys
from api.access.scopes import SCOPES
from api.access.sign_in_links import SignInLinks
from api.settings import Settings, is_loopback
from eventstore.database import Database
from scripts.cli import UsageError, address, at_work, database, start, validating


async def main(options: argparse.Namespace) -> int:
    settings = Settings.from_environment()
    async with database(settings) as db:
        keys = Keys(db)
        if options.what == "list":
            await _list(keys)
            return 0
        if options.what == "link":
            await _link(db, options, settings)
            return 0
        async with at_work(db, "keys"):
            if options.what == "make":
                await _make(keys, options, db.clock.now())
            else:
                await _revoke(keys, options)
    return 0


async def _link(db: Database, options: argparse.Namespace, settings: Settings) -> None:
    if not is_loopback(settings.host):
        raise UsageError("a sign-in link is for the server's own machine alone: make a key")
    with validating("PRINCIPAL"):
        order = KeyOrder(principal=options.principal, role=options.role)
    keys = Keys(db)
    await keys.check_principal(order.principal)
    code = await SignInLinks(db, keys).make(order.principal, order.role)
    print(f"{address(settings.host, settings.port)}/#{code}")


async def _make(keys: Keys, options: argparse.Namespace, now: datetime) -> None:
    until = None
    if options.days is not None:
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
    start("keys", main)
