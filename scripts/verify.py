"""Verify the log: every hash, every chain, and what signed checkpoints say should be there.

Reads the database, or a file that was exported. Shares no code with what writes the log: see
`scripts/hash_chains.py` and `scripts/signed_checkpoints.py`.

Exit code 0: all is as it was written. 1: something was tampered with. 3: it cannot be verified, or
nothing vouches for it: there is no signed checkpoint, and --unsigned does not say that this is
known; or events are older than --within allows that no checkpoint stands for.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise
from operator import attrgetter
from pathlib import Path
from typing import IO
from uuid import UUID

from bson.codec_options import DatetimeConversion
from bson.int64 import Int64
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pymongo.errors import OperationFailure, PyMongoError

from api.settings import Settings
from domain.errors import CasebookError
from eventstore.database import Database
from eventstore.mongo.errors import describe
from scripts.cli import counting, database, start
from scripts.commands import fail
from scripts.hash_chains import FIELDS, CannotVerify, Event, Fault, Verification, canonical
from scripts.signed_checkpoints import (
    Signed,
    compare_kept,
    expect_checkpoint_file,
    expect_database_checkpoints,
    key_id,
    read_key,
    read_last,
    root_of,
)

OK, TAMPERED, CANNOT_VERIFY = 0, 1, 3
_STORED = FIELDS - {"id"} | {"_id"}
_SEALED = "sealed"
_SHOWN = 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# --- events in the database ----------------------------------------------------------------------


def from_stored(document: Mapping[str, object]) -> Event:
    """Read a document of `ticket_events`; its content is None if it has another form."""
    ticket, version = document.get("ticket_id"), document.get("version")
    plain = None
    with suppress(TypeError):
        if document.keys() - {_SEALED} == _STORED and type(version) in (int, Int64):
            plain = {
                name.removeprefix("_"): _READERS.get(name, _json)(value)
                for name, value in document.items()
            }
    name = str(ticket) if isinstance(ticket, UUID) else repr(ticket)
    return Event(name, _place(version), plain)


def _place(version: object) -> int:
    """Return where an event stands, or claims to; 0 if that cannot be said."""
    if isinstance(version, int | float | str):
        with suppress(ValueError, OverflowError):
            return int(version)
    return 0


def _json(value: object) -> object:
    """Return a value that an event may hold. Raises TypeError for types that only look like it."""
    if not _is_plain(value):
        raise TypeError
    return value


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return type(value) in (str, int, Int64, bool, type(None))


def _uuid(value: object) -> str:
    if not isinstance(value, UUID):
        raise TypeError
    return str(value)


def _hex(value: object) -> str:
    if type(value) is not bytes:  # a subclass stands for another kind of binary
        raise TypeError
    return value.hex()


def _milliseconds(value: object) -> int:
    if not isinstance(value, datetime):
        raise TypeError
    return (value - _EPOCH) // timedelta(milliseconds=1)


def _sealed(value: object) -> list[object]:
    """Read sealed fields, which are not opened: the hash is over them as they are."""
    if not isinstance(value, list) or not value:  # an event with nothing sealed has no list
        raise TypeError
    fields: list[object] = []
    for field in value:
        if not isinstance(field, dict) or field.keys() != {"path", "person", "text"}:
            raise TypeError
        fields.append(_json({**field, "person": _uuid(field["person"])}))
    return fields


_READERS: Mapping[str, Callable[[object], object]] = {
    "_id": _uuid,
    "ticket_id": _uuid,
    "occurred_at": _milliseconds,
    "recorded_at": _milliseconds,
    "previous": lambda value: None if value is None else _hex(value),
    "hash": _hex,
    _SEALED: _sealed,
}
"""How members are read that are not stored as JSON values. Each raises TypeError."""


async def verify_database(
    db: Database, verification: Verification, collection: str = "ticket_events"
) -> None:
    """Check every event of the log, or of the events of persons, which have the same form."""
    stored = db.collection(collection)
    # A date that Python does not know is a fault to report, and not an error.
    any_date = stored.codec_options.with_options(
        datetime_conversion=DatetimeConversion.DATETIME_AUTO
    )
    log = stored.with_options(codec_options=any_date)
    total = await log.estimated_document_count()
    with counting(f"verifying {collection}", total, "events") as count:
        async for document in db.scan(collection, codec_options=any_date):
            event = from_stored(document)
            if isinstance(document.get("ticket_id"), UUID):
                verification.see(event)
            else:
                detail = "a document that is no event: its ticket id is no UUID"
                verification.report(event, "inserted", detail)
            count()
    for ticket in sorted(verification.suspects):
        found = await log.find({"ticket_id": UUID(ticket)}).to_list()
        events = sorted(map(from_stored, found), key=attrgetter("version"))
        verification.judge(ticket, events)


async def views_ahead(db: Database, verification: Verification) -> int | None:
    """Report tickets of which the views show more than the log has; return how many are shown.

    A view is no proof, but it remembers events at the end of a ticket that vanished since the last
    checkpoint. None if nothing is shown, or the database's user may not read it.
    """
    try:
        views = db.client[f"{db.name}_views"]
        active = await views["generations"].find_one({"_id": "active"})
        match active, await db.identity.read():
            # Views of another log are from before a restore.
            case {"numbers": {"ticket_reads": number}, "log": log}, identity if (
                identity is not None and identity.log == log
            ):
                name = f"ticket_reads_{number}"
                reads = db.scan(name, {}, {"version": 1}, namespace=views.name)
            case _:
                return None
        shown = {str(each["_id"]): each.get("version") async for each in reads}
    except OperationFailure:
        return None
    log = db.collection("ticket_events")
    for ticket, version in shown.items():
        head = verification.heads.get(ticket, (0, ""))[0]
        if not isinstance(version, int) or version <= head or ticket in verification.faults:
            continue
        # It may have got events since it was read.
        events = await log.find({"ticket_id": UUID(ticket)}, {"_id": 0, "version": 1}).to_list()
        head = max((_place(event.get("version")) for event in events), default=0)
        if version > head:
            detail = f"the views show version {version} of this ticket"
            verification.add(Fault(ticket, head + 1, "deleted", detail))
    return len(shown)


# --- events in a file ----------------------------------------------------------------------------


def verify_file(path: Path, verification: Verification) -> None:
    """Check every line of an exported file, and its manifest. Raises CannotVerify.

    One ticket's events are kept at a time: their lines stand together.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            for ticket, events in groupby(_from_lines(file, digest.update), attrgetter("ticket")):
                _verify_lines(ticket, list(events), verification)
        manifest = json.loads(path.with_name(f"{path.name}.manifest.json").read_bytes())
        said = {name: manifest[name] for name in ("tickets", "events", "sha256", "root")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CannotVerify(f"cannot read {path} and its manifest: {error}") from error
    if verification.faults:
        return
    heads = verification.heads
    found = (len(heads), verification.events, digest.hexdigest(), root_of(heads))
    names = [n for (n, s), f in zip(said.items(), found, strict=True) if s != f]
    if names:
        detail = f"the file differs from its manifest in: {', '.join(names)}"
        verification.add(Fault("(file)", 0, "edited", detail))


def _verify_lines(ticket: str, stream: Sequence[Event], verification: Verification) -> None:
    """Check a ticket's events as they stand in a file."""
    if ticket in verification.heads or ticket in verification.faults:
        verification.report(stream[0], "inserted", "its lines do not stand together")
    for event in stream:
        verification.count(event)
    for before, event in pairwise(stream):
        if before.version >= event.version:
            detail = "its line stands behind that of a later version"
            verification.report(event, "reordered", detail)
    verification.judge(ticket, sorted(stream, key=attrgetter("version")))


def _from_lines(file: IO[bytes], digest: Callable[[bytes], None]) -> Iterator[Event]:
    for line in file:
        digest(line)
        plain = json.loads(line)
        ticket, version = str(plain["ticket_id"]), plain["version"]
        if str(UUID(ticket)) != ticket:
            raise ValueError(f"{ticket} is no ticket id")
        written_so = False
        with suppress(ValueError):  # NaN and its like
            written_so = (
                plain.keys() - {_SEALED} == FIELDS
                and plain.get(_SEALED) != []
                and type(version) is int
                and _is_plain(plain)
                and canonical(plain) + b"\n" == line
            )
        yield Event(ticket, _place(version), plain if written_so else None)


# --- the command ---------------------------------------------------------------------------------


async def main(options: argparse.Namespace) -> int:
    try:
        return await _verify(options)
    except Exception as error:  # noqa: BLE001 exit 1 is for tampering, and for nothing else
        known = isinstance(error, CasebookError | PyMongoError)
        reason = str(error) if isinstance(error, OSError) else repr(error)
        fail(f"cannot verify: {describe(error) if known else reason}")
        return CANNOT_VERIFY


async def _verify(options: argparse.Namespace) -> int:
    settings = Settings.from_environment()
    verification, persons, signed = Verification(), Verification(), Signed()
    key_path = options.key or settings.signing_key_path.with_suffix(".pub")
    key = read_key(key_path, needed=options.key is not None)
    kept = None
    if options.checkpoint is not None:
        kept = expect_checkpoint_file(options.checkpoint, key, verification)
    remarks: list[str | None] = []
    now = datetime.now(UTC)
    if options.file is not None:
        verify_file(options.file, verification)
    elif settings.mongodb_url is None and not (settings.data_dir / "database").exists():
        raise CannotVerify(f"there is no database in {settings.data_dir}")
    else:
        async with database(settings) as db:
            now = await db.server_time()  # whose clock has dated the events
            # Read first: one that is taken after the scan would be missing from what was scanned.
            known = (kept, read_last(key_path.with_suffix(".last")))
            signed = await expect_database_checkpoints(db, key, verification)
            remarks += [compare_kept(each, signed, verification) for each in known if each]
            await verify_database(db, verification)
            await verify_database(db, persons, "person_events")
            # A user for auditing may not read them.
            if settings.mongodb_url is None or options.views:
                shown = await views_ahead(db, verification)
                remarks.append(
                    f"views compared: {shown} tickets" if shown else "no views to compare"
                )
    faults = verification.finish()
    if not verification.events and not faults:
        raise CannotVerify("there are no events")
    for remark in filter(None, remarks):
        print(remark)
    if kept is not None:
        print(f"{options.checkpoint}: checkpoint {kept.number}, kept elsewhere, was compared")
    _print_what_is_signed(verification, signed, key, now)
    faults += [fault._replace(ticket=f"(person {fault.ticket})") for fault in persons.finish()]
    tickets = len(verification.heads.keys() | {f.ticket for f in faults if f.ticket[0] != "("})
    checkpoints = len(signed.digests)
    print(f"tickets {tickets}, events {verification.events}, checkpoints {checkpoints}")
    if persons.events:
        print(f"steps of erasures {persons.events}, of which their own chain vouches for all")
    for fault in faults[:_SHOWN]:
        print(
            f"TAMPERED ticket {fault.ticket} version {fault.version}: {fault.kind}: {fault.detail}"
        )
    if len(faults) > _SHOWN:
        print(f"... and {len(faults) - _SHOWN} more tickets")
    return TAMPERED if faults else _judge_cover(verification, options, now)


def _print_what_is_signed(
    verification: Verification, signed: Signed, key: Ed25519PublicKey | None, now: datetime
) -> None:
    """Print what is vouched for by which signature, and how old that is."""
    for number, restored in signed.restores.items():
        since = restored.since
        begins = "no checkpoint" if since is None else f"checkpoint {since.number}"
        print(f"checkpoint {number}: restored, going on from {begins}: {restored.why}")
    latest = signed.latest
    if latest is not None and key is not None:
        when = f"{_time(latest.taken_at)}, {_age(latest.taken_at, now):.0f} seconds ago"
        print(f"the last is checkpoint {latest.number} of {when}, by key {key_id(key)}")
    covered = verification.events - verification.uncovered
    print(f"checkpoints stand for {covered} of {verification.events} events")
    since_when = verification.uncovered_since
    if since_when is not None:
        print(
            f"only their own chain vouches for {verification.uncovered}, since {_time(since_when)}"
        )


def _judge_cover(verification: Verification, options: argparse.Namespace, now: datetime) -> int:
    """Say what an untouched log is worth, by what vouches for it; return the exit code."""
    if not verification.uncovered:
        print("ok: every event is as it was written")
    elif verification.covered:
        print("ok: what checkpoints stand for is as it was written; the rest may be forged")
    else:
        print("unsigned: the chains are whole, and all of it may be forged")
    since = verification.uncovered_since
    if not verification.covered and not options.unsigned:
        fail(
            "nothing vouches for this log: there is no signed checkpoint of it (--unsigned: known)"
        )
    elif options.within is not None and since is not None and _age(since, now) > options.within:
        fail(f"no checkpoint stands for events since {_time(since)}: more than --within ago")
    else:
        return OK
    return CANNOT_VERIFY


def _time(milliseconds: int) -> str:
    return (_EPOCH + timedelta(milliseconds=milliseconds)).isoformat()


def _age(milliseconds: int, now: datetime) -> float:
    return (now - _EPOCH).total_seconds() - milliseconds / 1000


if __name__ == "__main__":
    start("verify", main)
