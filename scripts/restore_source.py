"""What is to be restored, a backup or a log's file: read and verified first."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from domain.values import JsonObject
from eventstore.archive import Manifest, UnreadableArchive, from_line, manifest_path
from eventstore.database import Database
from eventstore.key_files import KeyUnusable
from eventstore.mongo import extended_json
from eventstore.personal import sealed_file
from eventstore.transparency.statements import COLLECTION as LOG_CHECKPOINTS
from scripts import backup
from scripts.cli import UsageError
from scripts.hash_chains import Verification
from scripts.verify import verify_file


class RestoreRefused(UsageError):
    """The file or the database is not as it must be: for example a log that is not empty."""


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


def read(path: Path, erasures: Path | None = None) -> Source:
    """Read and verify a backup or an exported log. `erasures`: of a later backup.

    Raises UsageError, RestoreRefused, UnreadableArchive, CannotVerify.
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
            raise UnreadableArchive(f"cannot read {file}: {error}") from error
        if found != expected:
            raise RestoreRefused(f"{file} was tampered with: its checksum differs")
    of_log = Manifest.read(manifest_path(path / backup.LOG))
    own = path / backup.OF_PERSONS
    source = Source(path, of_log, manifest, erasures=erasures or own)
    for each in {path / backup.LOG, own, erasures or own}:
        _verify(each)
    if erasures is not None and not hashes_of(erasures) >= hashes_of(own):
        raise RestoreRefused(f"{erasures} lacks erasures that the backup has: it is no later one")
    if not manifest.documents.get(LOG_CHECKPOINTS):
        print("the backup has no signed checkpoints: nothing vouches for it but its own chains")
    return source


def hashes_of(path: Path) -> set[bytes]:
    """Return the hashes of all events in an exported file."""
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
