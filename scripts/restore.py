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
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import cast
from uuid import UUID

from pymongo.errors import BulkWriteError

from api.settings import Settings
from api.webhooks import store as webhooks
from domain.days import UTC_ONLY
from domain.errors import CasebookError
from domain.values import JsonObject
from eventstore.archive import Manifest, ManifestBuilder, from_line, lines, manifest_path
from eventstore.database import Database
from eventstore.event_document import EventDocument
from eventstore.key_files import KeyUnusable, place
from eventstore.log import EventStore
from eventstore.log_identity import ALIVE_SECONDS
from eventstore.mongo import extended_json
from eventstore.mongo.limits import count, in_batches, make_index, size_of
from eventstore.personal import sealed_file
from eventstore.personal.sealing import persons
from eventstore.personal.vault import KEYRING, PERSON_EVENTS, PERSONS, NoMasterKey, keys_database
from eventstore.transparency.checkpoints import LogCheckpoints
from eventstore.transparency.statements import COLLECTION as LOG_CHECKPOINTS
from eventstore.transparency.statements import last_path, signing_key
from projections.erasure.progress import Erasures
from projections.generations import OF_FORMER_LAYOUT, Generations
from projections.projector import checkpoints
from projections.projector.batch import fold_ticket
from projections.views import tickets
from scripts import backup
from scripts.checkpoint import describe, sign_restore
from scripts.commands import fail
from scripts.console import UsageError, counting, database, start, writing
from scripts.verification import Verification
from scripts.verify import verify_file

_BATCH_EVENTS = 1000
_BATCH_DOCUMENTS = 500
_MARKS = "restores"
_DUPLICATE_KEY = 11000
_SHOWN = 5
# Made by whatever has looked at the database, and of no weight; views are built anew.
_OF_NO_WEIGHT = re.compile(
    rf"log_identity|processes|restores|repairs|ticket_numbers|webhook_dispatch|{OF_FORMER_LAYOUT.pattern}"
)


class RestoreRefused(CasebookError):
    """The file or the database is not as it must be: for example a log that is not empty."""

    def __init__(self, detail: str) -> None:
        super().__init__("restore_refused", detail)


@dataclass(slots=True)
class Source:
    """What is to be restored: a folder, or the file of a log alone."""

    path: Path
    manifest: Manifest
    """The log's."""
    whole: backup.Manifest | None = None
    key: bytes | None = field(default=None, repr=False)
    """What opens the file of keys; None if there is none, or it does not open."""
    missing: list[str] = field(default_factory=list)
    erasures: Path | None = None
    """The events of erasures, of this backup or of a later one."""

    @property
    def id(self) -> str:
        """What the restore is known by: the log's checksum, or that of the backup."""
        if self.whole is None:
            return self.manifest.sha256
        return backup.sha256_of(self.path / backup.MANIFEST)

    @property
    def log(self) -> Path:
        return self.path if self.whole is None else self.path / backup.LOG

    def plain(self) -> Iterator[tuple[str, JsonObject]]:
        """Yield the documents that are not sealed, each with the name of its collection."""
        for name in backup.PLAIN if self.whole else ():
            with (self.path / f"{name}.ndjson").open("rb") as file:
                for line in file:
                    yield name, extended_json.from_line(line)

    def secret(self) -> Iterator[tuple[str, JsonObject]]:
        """Yield the documents that are sealed, if they can be opened. Raises KeyUnusable."""
        if self.key is None:
            return
        with (self.path / backup.SEALED).open("rb") as file:
            header = sealed_file.read_header(file)
            for line in sealed_file.read(file, header, self.key):
                content = extended_json.from_line(line)
                yield str(content["in"]), cast("JsonObject", content["document"])


async def main(options: argparse.Namespace) -> int:
    path: Path | None = options.path
    passphrase = backup.read_passphrase(options.passphrase_file)
    source = None if path is None else read(path, options.erasures)
    settings = Settings.from_environment()
    async with database(settings) as db:
        if source is None:
            why = options.why or "restored by the database's own tools"
            await refuse_while_processes_run(db)
            await db.identity.replace(why)
            await Generations(db).discredit_former_layout()
            await _send_from_now_on(db, EventStore(db))
        else:
            why = options.why or _why(source)
            open_keys(source, db, passphrase)
            return await restore(db, source, why, settings, incomplete=options.incomplete)
        code = await _show_that_it_reads(db, incomplete=options.incomplete)
        return max(code, await _sign(db, settings, why))


def _why(source: Source) -> str:
    if source.whole is None:
        return f"restored from the log {source.path.name}"
    return f"restored from the backup of {source.whole.taken_at}"


# --- what is there to be restored ----------------------------------------------------------------


def read(path: Path, erasures: Path | None = None) -> Source:
    """Read and verify a backup or an exported log. `erasures`: of a later backup.

    Raises UsageError, RestoreRefused, UnreadableBackup, UnreadableArchive, CannotVerify.
    """
    if not path.exists():
        raise UsageError(f"cannot read {path}: there is no such file")
    if not path.is_dir():
        source = Source(path, Manifest.read(manifest_path(path)), erasures=erasures)
        source.missing.append("all but the log: it is not in a log's file")
        for each in (path, erasures):
            if each is not None:
                _verify(each)
        return source
    manifest = backup.Manifest.read(path)
    for name, expected in manifest.files.items():
        file = path / name
        if file.parent != path or (not file.exists() and name == backup.SEALED):
            continue  # keys are kept apart, and may be gone for good
        try:
            found = backup.sha256_of(file)
        except OSError as error:
            raise backup.UnreadableBackup(f"cannot read {file}: {error}") from error
        if found != expected:
            raise RestoreRefused(f"{file} was tampered with: its checksum differs")
    of_log = Manifest.read(manifest_path(path / backup.LOG))
    own = path / backup.OF_PERSONS
    source = Source(path, of_log, manifest, erasures=erasures or own)
    for each in {path / backup.LOG, own, erasures or own}:
        _verify(each)
    if erasures is not None and not _hashes(erasures) >= _hashes(own):
        raise RestoreRefused(f"{erasures} lacks erasures that the backup has: it is no later one")
    if not manifest.documents.get(LOG_CHECKPOINTS):
        print("the backup has no signed checkpoints: nothing vouches for it but its own chains")
    return source


def _hashes(path: Path) -> set[bytes]:
    with path.open("rb") as file:
        return {from_line(line)["hash"] for line in file}


def _verify(path: Path) -> None:
    verification = Verification()
    verify_file(path, verification)
    if faults := verification.finish():
        first = faults[0]
        raise RestoreRefused(
            f"{path} was tampered with: ticket {first.ticket} version {first.version}: "
            f"{first.kind}, {first.detail}"
        )


def open_keys(source: Source, db: Database, passphrase: str | None) -> None:
    """Have the source's keys opened, or say why they are missing."""
    if source.whole is None:
        return
    sealed = source.path / backup.SEALED
    what = "keys of persons, API keys, webhooks, saved views, access log"
    if not sealed.exists():
        source.missing.append(f"{what}: there is no {backup.SEALED}")
        return
    try:
        with sealed.open("rb") as file:
            source.key = sealed_file.key_for(sealed_file.read_header(file), db.masters, passphrase)
        for _ in source.secret():  # all of it opens, or none is restored
            pass
    except (KeyUnusable, ValueError) as error:
        source.key = None
        told = error.detail if isinstance(error, KeyUnusable) else str(error)
        source.missing.append(f"{what}: {told}")


# --- restoring -----------------------------------------------------------------------------------


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
    if done and mark is not None and source.key is not None:
        done = mark.get("keys") is True  # those that were missing are brought in now
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
        await make_index(db.client[keys_database(db.name)][PERSONS], [("known_by", 1)], unique=True)
        if settings is not None:
            _place_signing_key(source, settings)
    for name, number in (source.whole.documents if source.whole else {}).items():
        print(f"{name}: {number}")
    print(f"{source.manifest.tickets} tickets, {source.manifest.events} events restored")
    code = await _show_that_it_reads(db, incomplete=incomplete)
    if not done:
        await _send_from_now_on(db, store)
        if settings is not None:
            code = max(code, await _sign(db, settings, why))
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
        known.add(cast("UUID", document["_id"]))
    for name, document in source.secret():
        keyring = keyring or name == KEYRING
        if name == PERSONS:
            known.add(cast("UUID", document["_id"]))
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
    hashes = _hashes(path)
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
                if any(each["code"] != _DUPLICATE_KEY for each in error.details["writeErrors"]):
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


async def _send_from_now_on(db: Database, store: EventStore) -> None:
    """Have webhooks told of what comes from now on, and not of all that was restored."""
    token, now = await store.position(), await db.server_time()
    now_on: JsonObject = {"since": token, "backfill": None}
    await db.collection(webhooks.WEBHOOKS).update_many({}, {"$set": now_on})
    position: JsonObject = {"token": token, "looked_at": now}
    first: JsonObject = {"owner": None, "epoch": 0, "seen_at": now}
    await db.collection(webhooks.DISPATCH).update_one(
        {"_id": "dispatch"}, {"$set": position, "$setOnInsert": first}, upsert=True
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


# --- afterwards ----------------------------------------------------------------------------------


async def _show_that_it_reads(db: Database, *, incomplete: bool) -> int:
    """Open every event and fold every ticket; say how many tickets read; return the exit code.

    The numbers of tickets to come go on above theirs.

    Raises StoreUnavailable, KeyUnusable, NoMasterKey.
    """
    store = EventStore(db)
    folded = events = highest = 0
    unreadable: dict[UUID, str] = {}
    codec = db.collection(tickets.COLLECTION).codec_options
    with counting("reading every ticket", await store.count(), "events") as advance:
        for part in await store.ranges():
            stored = await store.of_range(part)
            opened = await store.open(stored)
            highest = max([highest, *map(_number, opened)])
            for ticket_id, stream in groupby(opened, key=lambda event: event["ticket_id"]):
                result = await fold_ticket(UTC_ONLY, (), ticket_id, None, list(stream), codec)
                folded += 1
                if result.failure is not None:
                    unreadable[ticket_id] = result.failure.error
            events += len(stored)
            advance(len(stored))
    print(f"{folded - len(unreadable)} of {folded} tickets read, of {events} events")
    if highest:
        await db.numbers.restored(highest)
    for ticket_id, error in islice(unreadable.items(), _SHOWN):
        fail(f"ticket {ticket_id} does not read: {error}")
    return 1 if unreadable and not incomplete else 0


def _number(event: EventDocument) -> int:
    """Return the number that an event gives to its ticket, or 0."""
    number = event["data"].get("number")
    return number if isinstance(number, int) else 0


async def _sign(db: Database, settings: Settings, why: str) -> int:
    """Sign that the log was restored, if the signing key is here.

    Return the exit code: 1 if it is not signed, and was signed before.
    """
    path = settings.signing_key_path
    signed_before = await db.collection(LOG_CHECKPOINTS).find_one({}, {"_id": 1}) is not None
    if not path.exists():
        if not signed_before and not last_path(path).exists():
            return 0
        fail(
            f"not signed: {path} is not here. Until it is said where the signing key is "
            f"(casebook checkpoint --restored {json.dumps(why)}), nothing is signed"
        )
        return 1
    try:
        signing = LogCheckpoints(db, EventStore(db), signing_key(path), last_path(path))
        print(describe(await sign_restore(db, signing, why)))
    except KeyUnusable as error:
        fail(f"not signed: {error.detail}")
        return 1
    return 0


if __name__ == "__main__":
    start("restore", main)
