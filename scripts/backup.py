"""Back up all that is worth keeping into a new folder: `casebook restore` brings it back.

  log.ndjson            the log, as `casebook export` writes it; person_events.ndjson likewise
  desks.ndjson ...      the desk's set-up, and the signed checkpoints of the log
  keys.sealed           what must not lie about: the keys of persons, API keys, webhooks, saved
                        views, the access log, secrets, and the key that signs checkpoints if it is
                        at hand; sealed under the master key, or under a passphrase
  backup.json           how much of each, with checksums

Without keys.sealed nothing personal in the backup can be read: keep it apart from the rest, keep
few of it and for a short time (docs/guides/back-up-and-restore.md). Taken while everything runs:
each ticket is whole up to its last event in the file.
"""

import argparse
import hashlib
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast
from uuid import UUID

from pydantic import BaseModel, ValidationError

from api import cursors
from api.access import access_log, keys
from api.desk import store as desk
from api.settings import Settings
from api.webhooks import store as webhooks
from domain.errors import faults_of
from domain.values import JsonObject
from eventstore.archive import UnreadableArchive
from eventstore.database import Database
from eventstore.key_files import KeyUnusable
from eventstore.log import EventStore
from eventstore.mongo import extended_json
from eventstore.mongo.driver import Collection
from eventstore.personal import sealed_file
from eventstore.personal.erasure_news import PERSON_EVENTS
from eventstore.personal.master_keys import Wrapped
from eventstore.personal.vault import KEYRING, PERSONS, NoMasterKey, keys_database
from eventstore.transparency import statements as log_checkpoints
from eventstore.transparency.statements import last_path
from projections.views import saved_views
from scripts.cli import UsageError, database, start, writing
from scripts.commands import fail
from scripts.export import export

FORMAT = 1
MANIFEST, SEALED = "backup.json", "keys.sealed"
LOG, OF_PERSONS = "log.ndjson", "person_events.ndjson"
# The heads behind the checkpoints that name them.
CHECKPOINTS = (log_checkpoints.COLLECTION, log_checkpoints.HEADS_COLLECTION)
PLAIN = (*CHECKPOINTS, desk.COLLECTION)
KEYS = (PERSONS, KEYRING)
"""In the database of keys."""
SECRET = (
    keys.COLLECTION,
    webhooks.WEBHOOKS,
    cursors.COLLECTION,
    saved_views.COLLECTION,
    access_log.COLLECTION,
)
FILES = "files"
"""What sealed files are filed under: {_id: "signing-key.pem", content}."""
SIGNING_KEY, LAST = "signing-key.pem", "signing-key.last"
_SHORTEST_PASSPHRASE = 12


class Manifest(BaseModel, frozen=True):
    """What a backup holds. `files`: SHA-256 of each; `documents`: how many of each collection."""

    format: int
    taken_at: str
    log: str | None
    files: dict[str, str]
    documents: dict[str, int]

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Raises UnreadableArchive."""
        path = folder / MANIFEST
        try:
            manifest = cls.model_validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            why = faults_of(error) if isinstance(error, ValidationError) else error
            raise UnreadableArchive(f"cannot read {path}: {why}") from error
        needed = {LOG, OF_PERSONS, *(f"{name}.ndjson" for name in PLAIN)}
        if manifest.format != FORMAT or not manifest.files.keys() >= needed:
            raise UnreadableArchive(f"{path} has format {manifest.format}; {FORMAT} is known")
        return manifest


def collection_of(db: Database, name: str) -> Collection:
    """Return a collection by the name that a backup has for it."""
    if name in KEYS:
        return db.client[keys_database(db.name)][name]
    return db.collection(name)


def id_bytes(document: JsonObject) -> bytes:
    """Return what a key of the vault is wrapped for."""
    id_ = document["_id"]
    return id_.bytes if isinstance(id_, UUID) else str(id_).encode()


def read_passphrase(path: Path | None) -> str | None:
    """Read a passphrase, the first line of a file; None without one. Raises UsageError."""
    if path is None:
        return None
    try:
        passphrase = path.read_text().partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the passphrase in {path}: {error}") from error
    if len(passphrase) < _SHORTEST_PASSPHRASE:
        raise UsageError(f"a passphrase has {_SHORTEST_PASSPHRASE} characters or more")
    return passphrase


def _require_new(folder: Path) -> None:
    if folder.exists():
        raise UsageError(f"{folder} is there already")


def _checksums(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir())}


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file (hex). Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def main(options: argparse.Namespace) -> int:
    passphrase = read_passphrase(options.passphrase_file)
    folder: Path = options.folder
    _require_new(folder)
    settings = Settings.from_environment()
    async with database(settings) as db:
        await db.identity.begin()  # which refuses where a restore is not done
        unfinished = folder.with_name(f"{folder.name}.part")
        with writing(unfinished):
            if unfinished.is_dir():  # of a backup that was interrupted
                shutil.rmtree(unfinished)
            unfinished.mkdir(mode=0o700, parents=True)
            manifest, damaged = await back_up(db, settings, unfinished, passphrase)
            unfinished.rename(folder)
    for name, count in manifest.documents.items():
        print(f"{name}: {count}")
    by = "the passphrase" if passphrase else "the master key"
    print(f"{folder / SEALED} is sealed under {by}: keep it apart")
    if damaged:
        fail(f"{damaged} keys of persons cannot be read, and are not in it")
    return 1 if damaged else 0


async def back_up(
    db: Database, settings: Settings, folder: Path, passphrase: str | None
) -> tuple[Manifest, int]:
    """Write everything; return the manifest, and how many keys of persons could not be read.

    In this order: checkpoints before the log, so that all that they stand for is in it; the keys
    behind the log, so that who is named in it has one; erasures last, so that they hold.

    Raises NoMasterKey, KeyUnusable, HistoryError, UnreadableArchive, OSError.
    """
    documents: Counter[str] = Counter()
    for name in PLAIN:
        with (folder / f"{name}.ndjson").open("wb") as file:
            async for document in db.scan(name):
                file.write(extended_json.to_line(document))
                documents[name] += 1
    documents["events"] = (await export(EventStore(db), folder / LOG)).events
    header = sealed_file.new_header(db.masters, passphrase)
    key = sealed_file.key_for(header, db.masters, passphrase)
    damaged = 0
    sealed = folder / SEALED
    with sealed.open("wb") as file:
        sealed.chmod(0o600)
        writer = sealed_file.Writer(file, header, key)
        async for name, content in _secret(db, settings):
            if content is None:
                damaged += 1
            else:
                documents[name] += 1
                writer.add(extended_json.to_line({"in": name, "document": content}))
        writer.end()
    of_persons = await export(EventStore(db, PERSON_EVENTS), folder / OF_PERSONS)
    documents[PERSON_EVENTS] = of_persons.events
    identity = await db.identity.read()
    manifest = Manifest(
        format=FORMAT,
        taken_at=db.clock.now().isoformat(timespec="seconds"),
        log=None if identity is None else str(identity.log),
        files=_checksums(folder),
        documents={name: documents[name] for name in sorted(documents)},
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
    return manifest, damaged


async def _secret(db: Database, settings: Settings) -> AsyncIterator[tuple[str, JsonObject | None]]:
    """Yield what is sealed, each document with the name of its collection; None for a key of a
    person that cannot be read. Keys are given as they are, wrapped by nothing: the file is sealed.
    """
    if db.masters is None:
        raise NoMasterKey
    for name in KEYS:
        async for document in db.scan(name, namespace=keys_database(db.name)):
            if document.get("key") is None:  # of somebody who was erased
                yield name, document
                continue
            wrapped = Wrapped(str(document["master"]), bytes(cast("bytes", document["key"])))
            try:
                plain = db.masters.unwrap(wrapped, id_bytes(document))
            except KeyUnusable:
                yield name, None
                continue
            yield name, {k: v for k, v in document.items() if k != "master"} | {"key": plain}
    for name in SECRET:
        async for document in db.scan(name):
            yield name, document
    path = settings.signing_key_path
    for name, each in ((SIGNING_KEY, path), (LAST, last_path(path))):
        if each.exists():
            yield FILES, {"_id": name, "content": each.read_bytes()}


if __name__ == "__main__":
    start("backup", main)
