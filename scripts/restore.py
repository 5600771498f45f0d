"""Restore a backup, or an exported log, into an empty database.

PATH is a folder of `casebook backup`, or a file of `casebook export`, which is the log alone.

Nothing is written before everything has been read and verified: checksums, every hash, every chain.
What would be missing afterwards is said first, and refused unless --incomplete says that it is
known. No process may be at work on the database. The log gets a new identity, by which a process
that was overlooked takes no more commands. At the end the log is read back, which must give the
same bytes, and every ticket is folded. If the signing key is at hand, the restore is signed.

A restore that was interrupted is finished by running it again; until then no process starts.

After a restore by the database's own tools: --by-database-tools, without PATH. It gives the log its
new identity, has the views built anew, folds every ticket and signs. Tickets that are opened
afterwards get numbers far above all that the log has.
"""

import argparse
import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from uuid import UUID

from pymongo.errors import BulkWriteError

from api.settings import Settings
from domain.values import JsonObject
from eventstore.archive import Manifest, ManifestBuilder, from_line, lines, manifest_path
from eventstore.database import Database
from eventstore.documents import uuid_of
from eventstore.key_files import place
from eventstore.log import EventStore
from eventstore.log_identity import ALIVE_SECONDS
from eventstore.mongo.errors import DUPLICATE_KEY
from eventstore.mongo.limits import Index, count, in_batches, make_indexes, size_of
from eventstore.personal.erasure_news import PERSON_EVENTS
from eventstore.personal.sealing import persons
from eventstore.personal.vault import KEYRING, PERSONS, NoMasterKey, keys_database
from eventstore.transparency.statements import last_path
from projections.erasure.progress import Erasures
from projections.generations import OF_FORMER_LAYOUT, Generations
from projections.projector import checkpoints
from scripts import backup
from scripts.after_restore import send_from_now_on, show_that_it_reads, sign
from scripts.cli import counting, database, start, writing
from scripts.restore_source import RestoreRefused, Source, hashes_of, open_keys, read

_BATCH_EVENTS = 1000
_BATCH_DOCUMENTS = 500
_MARKS = "restores"
# Made by whatever has looked at the database, and of no weight; views are built anew.
_OF_NO_WEIGHT = re.compile(
    rf"log_identity|processes|restores|repairs|ticket_numbers|webhook_dispatch|{OF_FORMER_LAYOUT.pattern}"
)


async def main(options: argparse.Namespace) -> int:
    path: Path | None = options.path
    passphrase = backup.read_passphrase(options.passphrase_file)
    source = None if path is None else read(path, options.erasures)
    settings = Settings.from_environment()
    async with database(settings) as db:
        if source is not None:
            why = options.why or _why(source)
            open_keys(source, db, passphrase)
            return await restore(db, source, why, settings, incomplete=options.incomplete)
        why = options.why or "restored by the database's own tools"
        await refuse_while_processes_run(db)
        await db.identity.replace(why)
        await Generations(db).discredit_former_layout()
        await send_from_now_on(db, EventStore(db))
        code = await show_that_it_reads(db, incomplete=options.incomplete)
        return max(code, await sign(db, settings, why))


def _why(source: Source) -> str:
    if source.whole is None:
        return f"restored from the log {source.path.name}"
    return f"restored from the backup of {source.whole.taken_at}"


async def restore(
    db: Database,
    source: Source,
    why: str = "restored",
    settings: Settings | None = None,
    *,
    incomplete: bool = False,
) -> int:
    """Restore, or finish restoring; return 0, or 1 if something does not read, or is not signed.

    `settings`: where the signing key is, or belongs. Raises RestoreRefused, NoMasterKey; UsageError
    if that key cannot be written.
    """
    if source.key is not None and db.masters is None:
        raise NoMasterKey
    await refuse_while_processes_run(db)
    store, persons_store = EventStore(db), EventStore(db, PERSON_EVENTS)
    await store.prepare()
    await Erasures(db).prepare()
    marks = db.collection(_MARKS)
    mark = await marks.find_one({"_id": source.id})
    done = mark is not None and mark["done"] is True
    if mark is not None and source.key is not None and not mark.get("keys"):
        done = False  # those that were missing are brought in now
    await _refuse_other_content(db, store, source, begun=mark is not None)
    source.missing += await _missing_keys(db, source)
    if source.missing and not incomplete:
        raise RestoreRefused(
            "this would be missing (--incomplete restores the rest): " + "; ".join(source.missing)
        )
    for what in source.missing:
        print(f"missing: {what}")
    identity = await db.identity.read()
    if not done:
        if identity is None or identity.restoring != source.id:
            await db.identity.replace(why, restoring=source.id)
        await marks.update_one({"_id": source.id}, {"$set": {"done": False}}, upsert=True)
    await Generations(db).discredit_former_layout()
    await _insert_all(db, source.plain())
    await _insert_all(db, _wrapped(db, source.secret()))
    if source.erasures is not None:
        await _insert_events(persons_store, source.erasures)
        await _require_same(persons_store, source.erasures)
    await _insert_events(store, source.log)
    await _require_same(store, source.log)
    await _require_counts(db, source)
    if source.key is not None:
        keys = db.client[keys_database(db.name)][PERSONS]
        await make_indexes(keys, Index([("known_by", 1)], unique=True))
        if settings is not None:
            _place_signing_key(source, settings)
    for name, number in (source.whole.documents if source.whole else {}).items():
        print(f"{name}: {number}")
    print(f"{source.manifest.tickets} tickets, {source.manifest.events} events restored")
    code = await show_that_it_reads(db, incomplete=incomplete)
    if not done:
        await send_from_now_on(db, store)
        if settings is not None:
            code = max(code, await sign(db, settings, why))
        finished = {"done": True, "keys": source.key is not None}
        await marks.update_one({"_id": source.id}, {"$set": finished})
    await db.identity.restored(source.id)
    return code


async def refuse_while_processes_run(db: Database) -> None:
    """Raise RestoreRefused while any process is at work on the database."""
    alive = await db.identity.running()
    now = await db.server_time()
    for name in await db.collections(db.name):
        if re.fullmatch(rf"{checkpoints.MEMBERS}_\d+", name):
            # Those of former versions show life there alone.
            async for member in db.client[db.name][name].find({}, {"seen_at": 1}):
                seen = member.get("seen_at")
                if isinstance(seen, datetime) and abs(now - seen) < timedelta(
                    seconds=ALIVE_SECONDS
                ):
                    alive.append(f"projector {str(member['_id']).rpartition(':')[0]}")
    if alive:
        raise RestoreRefused(
            f"processes are at work on this database: {', '.join(sorted(set(alive)))}. Stop them; "
            f"one that was killed is forgotten after {ALIVE_SECONDS:.0f} seconds"
        )


async def _refuse_other_content(
    db: Database, store: EventStore, source: Source, *, begun: bool
) -> None:
    """Raise RestoreRefused if anything is in the database that is not of this restore."""
    if begun:
        if not await _holds_only(store, source.log):
            raise RestoreRefused("the database holds other events; restore into an empty one")
        return
    names = {name for name, of in (await db.collections(db.name)).items() if of is None}
    if source.whole is None:
        # What is beside the log may have been restored by other means, and is wanted.
        names &= {store.name}
    for name in sorted(names):
        of_weight = not _OF_NO_WEIGHT.fullmatch(name)
        if of_weight and await db.client[db.name][name].find_one({}, {"_id": 1}) is not None:
            what = "holds other events" if name == store.name else f"is not empty: it has {name}"
            raise RestoreRefused(f"the database {what}; restore into an empty one")
    for name in backup.KEYS if source.key is not None else ():
        if await backup.collection_of(db, name).find_one({}, {"_id": 1}) is not None:
            raise RestoreRefused(
                f"the database {keys_database(db.name)} is not empty: it has {name}; drop it, or "
                f"restore without {backup.SEALED}"
            )


async def _missing_keys(db: Database, source: Source) -> list[str]:
    """Say how many tickets would not read for want of keys: of neither backup nor database."""
    known: set[UUID] = set()
    keyring = await backup.collection_of(db, KEYRING).find_one({}, {"_id": 1}) is not None
    async for document in db.scan(PERSONS, {}, {"_id": 1}, namespace=keys_database(db.name)):
        known.add(uuid_of(document))
    for name, document in source.secret():
        keyring = keyring or name == KEYRING
        if name == PERSONS:
            known.add(uuid_of(document))
    if source.erasures is not None:
        with source.erasures.open("rb") as file:
            known |= {from_line(line)["ticket_id"] for line in file}
    unreadable, anything = set(), False
    with source.log.open("rb") as file:
        for line in file:
            event = from_line(line)
            whose = set(persons(event))
            anything = anything or bool(whose)
            if whose - known:
                unreadable.add(event["ticket_id"])
    told = []
    if unreadable:
        told.append(f"keys of persons: {len(unreadable)} tickets will not read")
    if anything and not keyring:
        told.append("the keyring: no process starts on this log until it is restored")
    return told


async def _holds_only(store: EventStore, path: Path) -> bool:
    """Say whether every event that is there already is one of the file's."""
    hashes = hashes_of(path)
    async for event in store.scan():
        if event.hash not in hashes:
            return False
    return True


def _wrapped(
    db: Database, documents: Iterable[tuple[str, JsonObject]]
) -> Iterator[tuple[str, JsonObject]]:
    """Yield documents with keys of persons wrapped by the master key at hand, without files."""
    for name, document in documents:
        key = document.get("key")
        if name in backup.KEYS and isinstance(key, bytes) and db.masters is not None:
            by = db.masters.wrap(key, backup.id_bytes(document))
            yield name, {**document, "key": by.secret, "master": by.master}
        elif name != backup.FILES:
            yield name, document


async def _insert_all(db: Database, documents: Iterable[tuple[str, JsonObject]]) -> None:
    """Insert documents; those that are there already, by their ids, are passed over."""
    known = {*backup.PLAIN, *backup.SECRET, *backup.KEYS}
    for name, group in groupby(documents, key=itemgetter(0)):
        if name not in known:
            raise RestoreRefused(f"the backup has {name}, which this version does not know")
        for some in in_batches((document for _, document in group), _BATCH_DOCUMENTS, size_of):
            try:
                await backup.collection_of(db, name).insert_many(some, ordered=False)
            except BulkWriteError as error:
                if any(each["code"] != DUPLICATE_KEY for each in error.details["writeErrors"]):
                    raise


async def _insert_events(store: EventStore, path: Path) -> None:
    manifest = Manifest.read(manifest_path(path))
    doing = f"restoring {path.name}"
    with path.open("rb") as file, counting(doing, manifest.events, "events") as advance:
        for some in in_batches(map(from_line, file), _BATCH_EVENTS, size_of):
            await store.restore(some)
            advance(len(some))


async def _require_same(store: EventStore, path: Path) -> None:
    """Read events back. Raises RestoreRefused if that does not give the same bytes."""
    summing = ManifestBuilder()
    async for _ in lines(store, summing):
        pass
    if summing.manifest() != Manifest.read(manifest_path(path)):
        raise RestoreRefused(f"what is in the database now is not what is in {path}")


async def _require_counts(db: Database, source: Source) -> None:
    """Raise RestoreRefused if not as many documents are there as the backup has."""
    if source.whole is None:
        return
    expected = [*backup.PLAIN, *(backup.SECRET + backup.KEYS if source.key is not None else ())]
    for name in expected:
        found = await count(backup.collection_of(db, name))
        if found < source.whole.documents.get(name, 0):
            raise RestoreRefused(
                f"{name} has {found} documents now, and the backup has "
                f"{source.whole.documents[name]}: run it again"
            )


def _place_signing_key(source: Source, settings: Settings) -> None:
    """Put the key that signs checkpoints in its place, unless one is there.

    With what it has signed last, which comes first: the key never stands there without.
    """
    path = settings.signing_key_path
    if path.exists():
        return
    files = {str(d["_id"]): d["content"] for name, d in source.secret() if name == backup.FILES}
    for name, to in ((backup.LAST, last_path(path)), (backup.SIGNING_KEY, path)):
        content = files.get(name)
        if isinstance(content, bytes):
            with writing(to):
                if place(to, content):
                    print(f"{to} restored")


if __name__ == "__main__":
    start("restore", main)
