"""Verify the log: every hash, every chain, and what signed checkpoints say should be there.

Reads the database, or a file that was exported. Shares no code with what writes the log: see
`scripts/verification.py`.

Exit code 0: all is as it was written. 1: something was tampered with. 3: it cannot be verified, or
nothing vouches for it: there is no signed checkpoint, and --unsigned does not say that this is
known; or events are older than --within allows that no checkpoint stands for.
"""

import argparse
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from bson.codec_options import DatetimeConversion
from bson.int64 import Int64
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pymongo.errors import OperationFailure, PyMongoError

from api.settings import Settings
from domain.errors import CasebookError
from eventstore.database import Database
from eventstore.mongo.errors import describe
from scripts.console import arguments, database, fail, progress, run
from scripts.verification import (
    FIELDS,
    Event,
    Fault,
    Head,
    Plain,
    Signed,
    Verification,
    canonical,
    root_of,
    statement_bytes,
)

OK, TAMPERED, CANNOT_VERIFY = 0, 1, 3
_STORED = FIELDS - {"id"} | {"_id"}
_SEALED = "sealed"
_SHOWN = 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class CannotVerify(CasebookError):
    """There is nothing to verify against: no key, no readable file, no database."""

    def __init__(self, detail: str) -> None:
        super().__init__("cannot_verify", detail)


# --- events in the database ----------------------------------------------------------------------


def from_stored(document: Mapping[str, object]) -> Event:
    """Read a document of `ticket_events`; its content is None if it has another form."""
    ticket, version = document.get("ticket_id"), document.get("version")
    place = (str(ticket) if isinstance(ticket, UUID) else repr(ticket), _place(version))
    try:
        if document.keys() - {_SEALED} != _STORED:
            return Event(*place, None)
        previous = document["previous"]
        plain = {
            **{k: v for k, v in document.items() if k != "_id"},
            "id": _text(document["_id"]),
            "ticket_id": _text(ticket),
            "occurred_at": _milliseconds(document["occurred_at"]),
            "recorded_at": _milliseconds(document["recorded_at"]),
            "previous": None if previous is None else _bytes(previous).hex(),
            "hash": _bytes(document["hash"]).hex(),
        }
        if _SEALED in document:
            plain[_SEALED] = [_field(field) for field in _list(document[_SEALED])]
        is_event = type(version) in (int, Int64) and _is_plain(plain)
        return Event(*place, plain if is_event else None)
    except (TypeError, ValueError):
        return Event(*place, None)


def _place(version: object) -> int:
    """Return where an event stands, or claims to; 0 if that cannot be said."""
    if isinstance(version, int | float | str):
        with suppress(ValueError, OverflowError):
            return int(version)
    return 0


def _is_plain(value: object) -> bool:
    """Say whether a value is made of what an event may hold, and of no type that looks like it."""
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return type(value) in (str, int, Int64, bool, type(None))


def _text(value: object) -> str:
    if not isinstance(value, UUID):
        raise TypeError
    return str(value)


def _bytes(value: object) -> bytes:
    if type(value) is not bytes:  # a subclass stands for another kind of binary
        raise TypeError("bytes were expected")
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list) or not value:  # an event with nothing sealed has no list
        raise TypeError
    return value


def _field(field: object) -> Plain:
    """Read a sealed field; it is not opened: the hash is over this."""
    if not isinstance(field, dict) or field.keys() != {"path", "person", "text"}:
        raise TypeError
    return {**field, "person": _text(field["person"])}


def _milliseconds(value: object) -> int:
    if not isinstance(value, datetime):
        raise TypeError
    return (value - _EPOCH) // timedelta(milliseconds=1)


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
    with progress() as bar:
        task = bar.add_task(
            f"verifying {collection}", total=await log.estimated_document_count(), rate="events"
        )
        async for document in db.scan(collection, codec_options=any_date):
            event = from_stored(document)
            if isinstance(document.get("ticket_id"), UUID):
                verification.see(event)
            else:
                detail = "a document that is no event: its ticket id is no UUID"
                verification.report(Fault(event.ticket, event.version, "inserted", detail))
            bar.advance(task)
    for ticket in sorted(verification.suspects):
        found = await log.find({"ticket_id": UUID(ticket)}).to_list()
        events = sorted(map(from_stored, found), key=lambda event: event.version)
        verification.judge(ticket, events)


# --- events in a file ----------------------------------------------------------------------------


def verify_file(path: Path, verification: Verification) -> None:
    """Check every line of an exported file, and its manifest. Raises CannotVerify.

    One ticket's events are kept at a time: their lines stand together.
    """
    digest = hashlib.sha256()
    stream: list[Event] = []

    def judge() -> None:
        if stream:
            ticket = stream[0].ticket
            if ticket in verification.heads or ticket in verification.faults:
                detail = "its lines do not stand together"
                verification.report(Fault(ticket, stream[0].version, "inserted", detail))
            verification.judge(ticket, sorted(stream, key=lambda event: event.version))

    try:
        with path.open("rb") as file:
            for line in file:
                digest.update(line)
                event = _from_line(line)
                verification.tick_off(event)
                if stream and stream[-1].ticket != event.ticket:
                    judge()
                    stream = []
                elif stream and stream[-1].version >= event.version:
                    detail = "its line stands behind that of a later version"
                    verification.report(Fault(event.ticket, event.version, "reordered", detail))
                stream.append(event)
            judge()
        manifest = json.loads(path.with_name(f"{path.name}.manifest.json").read_bytes())
        said = (manifest["tickets"], manifest["events"], manifest["sha256"], manifest["root"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CannotVerify(f"cannot read {path} and its manifest: {error}") from error
    if verification.faults:
        return
    heads = verification.heads
    found = (len(heads), verification.events, digest.hexdigest(), root_of(heads))
    if found != said:
        differing = ["tickets", "events", "sha256", "root"]
        names = [n for n, s, f in zip(differing, said, found, strict=True) if s != f]
        detail = f"the file differs from its manifest in: {', '.join(names)}"
        verification.report(Fault("(file)", 0, "edited", detail))


def _from_line(line: bytes) -> Event:
    plain = json.loads(line)
    if not isinstance(plain, dict):
        raise TypeError("a line is no event")
    ticket = str(plain["ticket_id"])
    if str(UUID(ticket)) != ticket:
        raise ValueError(f"{ticket} is no ticket id")
    try:
        written_so = (
            plain.keys() - {_SEALED} == FIELDS
            and plain.get(_SEALED) != []
            and type(plain["version"]) is int
            and _is_plain(plain)
            and canonical(plain) + b"\n" == line
        )
    except ValueError:  # NaN and its like
        written_so = False
    return Event(ticket, _place(plain["version"]), plain if written_so else None)


# --- checkpoints ---------------------------------------------------------------------------------


async def expect_database_checkpoints(
    db: Database, key: Ed25519PublicKey | None, verification: Verification
) -> Signed:
    """Check the signed checkpoints in the database; take note of their heads; return what they say.

    Raises CannotVerify if there are some and the key is not that which they name.
    """
    signed = Signed()
    async for checkpoint in db.scan("log_checkpoints").sort("_id", 1):
        name = checkpoint.get("_id")
        if key is None:
            raise CannotVerify("there are checkpoints, but no public key: name it with --key")
        if checkpoint.get("key_id") != _key_id(key):
            raise CannotVerify(
                f"checkpoint {name} is signed by key {checkpoint.get('key_id')}, and the key at "
                f"hand is {_key_id(key)}: name the right one with --key"
            )
        expected = len(signed.digests)
        try:
            content = statement_bytes(checkpoint, name if isinstance(name, int) else expected)
            key.verify(_bytes(checkpoint["signature"]), content)
            number = signed.follow(checkpoint, hashlib.sha256(content).hexdigest())
            signed.claim(number, dict(await _heads_of(db, checkpoint)))
        except (InvalidSignature, KeyError, TypeError, ValueError) as error:
            reason = str(error) or "its signature is not of this content"
            at = max(signed.digests, default=-1) + 1
            verification.report(Fault(f"(checkpoint {at})", at, "edited", reason))
            break
    for heads in signed.claims.values():
        for ticket, head in heads.items():
            verification.expect(ticket, *head)
    # The last root stands for all heads. One that was altered before is found in the log itself.
    if signed.digests and root_of(signed.heads) != signed.latest["root"]:
        last = max(signed.digests)
        detail = "its heads are not those of its root"
        verification.report(Fault(f"(checkpoint {last})", last, "edited", detail))
    return signed


def compare_kept(kept: tuple[int, str], signed: Signed, verification: Verification) -> str | None:
    """Compare a checkpoint that was kept elsewhere with that of the same number in the database.

    Return what is to be said of it, if anything but a fault is.
    """
    number, digest = kept
    name = f"(checkpoint {number})"
    restore = signed.given_up_by(number)
    if number in signed.digests:
        if signed.digests[number] != digest:
            verification.report(Fault(name, number, "edited", "the database has another one"))
    elif restore is None:
        verification.report(Fault(name, number, "deleted", "the database has it no more"))
    else:
        return f"checkpoint {number}, which was kept, was given up by the restore of {restore}"
    return None


def read_last(path: Path) -> tuple[int, str] | None:
    """Read which checkpoint was last seen beside the signing key; None if none is kept there.

    Raises CannotVerify.
    """
    try:
        if not path.exists():
            return None
        content = json.loads(path.read_bytes())
        return int(content["number"]), str(content["digest"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotVerify(f"cannot read {path}: {error}") from error


async def views_ahead(db: Database, verification: Verification) -> int | None:
    """Report tickets of which the views show more than the log has; return how many are shown.

    A view is no proof, but it remembers events at the end of a ticket that vanished since the last
    checkpoint. None if nothing is shown, or if one may not see it.
    """
    try:
        active = await db.collection("generations").find_one({"_id": "active"})
        numbers = None if active is None else active["numbers"]
        if active is None or not isinstance(numbers, dict):
            return None
        if not active["shape"]:  # they are of the log from before a restore
            return None
        reads = f"ticket_reads_{numbers['ticket_reads']}"
        shown = {
            str(each["_id"]): each.get("version")
            async for each in db.scan(reads, {}, {"version": 1})
        }
    except OperationFailure:
        return None
    log = db.collection("ticket_events")
    for ticket, version in shown.items():
        head = verification.heads.get(ticket, (0, ""))[0]
        if not isinstance(version, int) or version <= head or ticket in verification.faults:
            continue
        # It may have got events since it was read.
        wanted = {"ticket_id": UUID(ticket)}
        events = await log.find(wanted, {"_id": 0, "version": 1}).to_list()
        head = max((_place(event.get("version")) for event in events), default=0)
        if version > head:
            detail = f"the views show version {version} of this ticket"
            verification.report(Fault(ticket, head + 1, "deleted", detail))
    return len(shown)


def _key_id(key: Ed25519PublicKey) -> str:
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]


async def _heads_of(db: Database, checkpoint: Mapping[str, object]) -> Iterable[tuple[str, Head]]:
    packed = b""
    parts = checkpoint["heads"]
    if not isinstance(parts, list):
        raise TypeError("it names no heads")
    for part in parts:
        document = await db.collection("log_checkpoint_heads").find_one({"_id": part})
        if document is None:
            raise ValueError("some of its heads are gone")
        packed += _bytes(document["heads"])
    return _unpack(packed)


def _unpack(packed: bytes) -> Iterator[tuple[str, Head]]:
    for start in range(0, len(packed), 56):
        one = packed[start : start + 56]
        yield str(UUID(bytes=one[:16])), (int.from_bytes(one[16:24], "big"), one[24:].hex())


def expect_checkpoint_file(
    path: Path, key: Ed25519PublicKey | None, verification: Verification
) -> tuple[int, str]:
    """Check a checkpoint that was kept elsewhere; take note of its heads.

    Gives its number and digest. Raises CannotVerify.
    """
    if key is None:
        raise CannotVerify("a checkpoint is checked with its public key: name it with --key")
    try:
        statement, *lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        signed = statement_bytes(statement, statement["number"])
        key.verify(bytes.fromhex(statement["signature"]), signed)
        heads = {ticket: (version, hash_) for ticket, version, hash_ in lines}
        if root_of(heads) != statement["root"]:
            raise CannotVerify(f"{path}: its heads are not those of its root")
    except InvalidSignature as error:
        raise CannotVerify(f"{path}: its signature is not by this key") from error
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CannotVerify(f"cannot read the checkpoint {path}: {error}") from error
    for ticket, head in heads.items():
        verification.expect(ticket, *head)
    return int(statement["number"]), hashlib.sha256(signed).hexdigest()


def read_key(path: Path, *, needed: bool) -> Ed25519PublicKey | None:
    """Read a public key; None if it is not there and not needed. Raises CannotVerify."""
    if not needed and not path.exists():
        return None
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise CannotVerify(f"cannot read the key {path}: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise CannotVerify(f"{path} holds no Ed25519 key")
    return key


# --- the command ---------------------------------------------------------------------------------


async def main() -> int:
    parser = arguments(__doc__, "verify")
    parser.add_argument("--file", type=Path, help="an exported file, instead of the database")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="one kept elsewhere")
    parser.add_argument("--key", type=Path, metavar="FILE", help="the public key of checkpoints")
    parser.add_argument(
        "--unsigned", action="store_true", help="there need be no signed checkpoint"
    )
    parser.add_argument(
        "--views",
        action="store_true",
        help="compare with what the views show, too, as is always done with the embedded database",
    )
    parser.add_argument(
        "--within",
        type=float,
        metavar="SECONDS",
        help="a checkpoint must stand for every event that is older",
    )
    options = parser.parse_args()
    try:
        return await _verify(options)
    except Exception as error:  # noqa: BLE001 exit 1 is for tampering, and for nothing else
        known = isinstance(error, CasebookError | PyMongoError)
        told = str(error) if isinstance(error, OSError) else repr(error)
        fail(f"cannot verify: {describe(error) if known else told}")
        return CANNOT_VERIFY


async def _verify(options: argparse.Namespace) -> int:
    settings = Settings.from_environment()
    kept: Path | None = options.checkpoint
    verification, persons = Verification(), Verification()
    key_path = options.key or settings.signing_key_path.with_suffix(".pub")
    key = read_key(key_path, needed=options.key is not None)
    from_file = None if kept is None else expect_checkpoint_file(kept, key, verification)
    signed, said = Signed(), []
    now = datetime.now(UTC)
    if options.file is not None:
        verify_file(options.file, verification)
    else:
        if settings.mongodb_url is None and not (settings.data_dir / "database").exists():
            raise CannotVerify(f"there is no database in {settings.data_dir}")
        async with database(settings) as db:
            now = await db.server_time()  # whose clock has dated the events
            # Read first: one that is taken after the scan would be missing from what was scanned.
            known = (from_file, read_last(key_path.with_suffix(".last")))
            signed = await expect_database_checkpoints(db, key, verification)
            said += [compare_kept(each, signed, verification) for each in known if each is not None]
            await verify_database(db, verification)
            await verify_database(db, persons, "person_events")
            # A user for auditing may not read them.
            if settings.mongodb_url is None or options.views:
                shown = await views_ahead(db, verification)
                said.append(f"views compared: {shown} tickets" if shown else "no views to compare")
    faults = verification.finish()
    if not verification.events and not faults:
        raise CannotVerify("there are no events")
    for told in filter(None, said):
        print(told)
    if from_file is not None:
        print(f"{kept}: checkpoint {from_file[0]}, kept elsewhere, was compared")
    _say_what_is_signed(verification, signed, key, now)
    of_persons = [fault._replace(ticket=f"(person {fault.ticket})") for fault in persons.finish()]
    code = _say(verification, persons, [*faults, *of_persons], len(signed.digests))
    if code != OK:
        return code
    if not verification.covered and not options.unsigned:
        fail(
            "nothing vouches for this log: there is no signed checkpoint of it (--unsigned: known)"
        )
        return CANNOT_VERIFY
    since = verification.uncovered_since
    if options.within is not None and since is not None and _age(since, now) > options.within:
        fail(f"no checkpoint stands for events since {_time(since)}: more than --within ago")
        return CANNOT_VERIFY
    return OK


def _say_what_is_signed(
    verification: Verification, signed: Signed, key: Ed25519PublicKey | None, now: datetime
) -> None:
    """Say what is vouched for by which signature, and how old that is."""
    for number, restored in signed.restores.items():
        since = restored["from"]
        begins = f"checkpoint {since['number']}" if isinstance(since, dict) else "no checkpoint"
        print(f"checkpoint {number}: restored, going on from {begins}: {restored['why']}")
    if signed.digests and key is not None:
        at = signed.latest["taken_at"]
        when = f"{_time(at)}, {_age(at, now):.0f} seconds ago" if isinstance(at, int) else "no time"
        print(f"the last is checkpoint {max(signed.digests)} of {when}, by key {_key_id(key)}")
    covered = verification.events - verification.uncovered
    print(f"checkpoints stand for {covered} of {verification.events} events")
    since = verification.uncovered_since
    if since is not None:
        print(f"only their own chain vouches for {verification.uncovered}, since {_time(since)}")


def _time(milliseconds: int) -> str:
    return (_EPOCH + timedelta(milliseconds=milliseconds)).isoformat()


def _age(milliseconds: int, now: datetime) -> float:
    return (now - _EPOCH).total_seconds() - milliseconds / 1000


def _say(
    verification: Verification, persons: Verification, faults: Sequence[Fault], checkpoints: int
) -> int:
    tickets = len(verification.heads.keys() | {f.ticket for f in faults if f.ticket[0] != "("})
    print(f"tickets {tickets}, events {verification.events}, checkpoints {checkpoints}")
    if persons.events:
        print(f"steps of erasures {persons.events}, of which their own chain vouches for all")
    if not faults:
        if not verification.uncovered:
            print("ok: every event is as it was written")
        elif verification.covered:
            print("ok: what checkpoints stand for is as it was written; the rest may be forged")
        else:
            print("unsigned: the chains are whole, and all of it may be forged")
        return OK
    for fault in faults[:_SHOWN]:
        print(
            f"TAMPERED ticket {fault.ticket} version {fault.version}: {fault.kind}: {fault.detail}"
        )
    if len(faults) > _SHOWN:
        print(f"... and {len(faults) - _SHOWN} more tickets")
    return TAMPERED


if __name__ == "__main__":
    run(main)
