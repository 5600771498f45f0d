"""Verify the log: every hash, every chain, and what signed checkpoints say should be there.

Reads the database, or a file that was exported. Shares no code with what writes the log: see
`scripts/verification.py`.

Exit code 0: all is as it was written. 1: something was tampered with. 3: it cannot be verified.
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
from pymongo.errors import PyMongoError

from api.settings import Settings
from domain.errors import CasebookError
from eventstore.driver import Database
from eventstore.failures import describe
from scripts.console import database, fail, progress, run
from scripts.verification import (
    FIELDS,
    Event,
    Fault,
    Head,
    Plain,
    Verification,
    canonical,
    root_of,
    statement_bytes,
)

OK, TAMPERED, CANNOT_VERIFY = 0, 1, 3
_STORED = FIELDS - {"id"} | {"_id"}
_SEALED = "sealed"
_SHOWN = 20


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
    """Give where an event stands, or claims to; 0 if that cannot be said."""
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
    return (value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


async def verify_database(db: Database, verification: Verification) -> None:
    """Check every event of the log."""
    stored = db.collection("ticket_events")
    # A date that Python does not know is a fault to report, and not an error.
    any_date = stored.codec_options.with_options(
        datetime_conversion=DatetimeConversion.DATETIME_AUTO
    )
    log = stored.with_options(codec_options=any_date)
    with progress() as bar:
        task = bar.add_task("verifying", total=await log.estimated_document_count(), rate="events")
        async for document in log.find(batch_size=1000):
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
) -> list[str]:
    """Check the signed checkpoints in the database; take note of their heads; give their digests.

    Raises CannotVerify if there are some and the key is not that which they name.
    """
    heads: dict[str, Head] = {}
    digests: list[str] = []
    root: object = root_of({})
    async for checkpoint in db.collection("log_checkpoints").find().sort("_id", 1):
        number = len(digests)
        if key is None:
            raise CannotVerify("there are checkpoints, but no public key: name it with --key")
        if checkpoint.get("key_id") != _key_id(key):
            raise CannotVerify(
                f"checkpoint {number} is signed by key {checkpoint.get('key_id')}, and the key at "
                f"hand is {_key_id(key)}: name the right one with --key"
            )
        try:
            before = digests[-1] if digests else None
            if checkpoint["_id"] != number or checkpoint["previous"] != before:
                raise ValueError("it does not follow the one before it")  # noqa: TRY301
            signed = statement_bytes(checkpoint, number)
            key.verify(_bytes(checkpoint["signature"]), signed)
            for ticket, head in await _heads_of(db, checkpoint):
                heads[ticket] = head
                verification.expect(ticket, *head)
        except (InvalidSignature, KeyError, TypeError, ValueError) as error:
            reason = str(error) or "its signature is not of this content"
            verification.report(Fault(f"(checkpoint {number})", number, "edited", reason))
            return digests
        digests.append(hashlib.sha256(signed).hexdigest())
        root = checkpoint["root"]
    # The last root stands for all heads. One that was altered before is found in the log itself.
    if root_of(heads) != root:
        last = len(digests) - 1
        detail = "its heads are not those of its root"
        verification.report(Fault(f"(checkpoint {last})", last, "edited", detail))
    return digests


def compare_kept(kept: tuple[int, str], digests: Sequence[str], verification: Verification) -> None:
    """Compare a checkpoint that was kept elsewhere with that of the same number in the database."""
    number, digest = kept
    name = f"(checkpoint {number})"
    if number >= len(digests):
        verification.report(Fault(name, number, "deleted", "the database has it no more"))
    elif digests[number] != digest:
        verification.report(Fault(name, number, "edited", "the database has another one"))


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
    parser = argparse.ArgumentParser(
        prog="python -m scripts.verify", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--file", type=Path, help="an exported file, instead of the database")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="one kept elsewhere")
    parser.add_argument("--key", type=Path, metavar="FILE", help="the public key of checkpoints")
    options = parser.parse_args()
    try:
        return await _verify(options.file, options.checkpoint, options.key)
    except Exception as error:  # noqa: BLE001 exit 1 is for tampering, and for nothing else
        known = isinstance(error, CasebookError | PyMongoError)
        told = str(error) if isinstance(error, OSError) else repr(error)
        fail(f"cannot verify: {describe(error) if known else told}")
        return CANNOT_VERIFY


async def _verify(file: Path | None, kept: Path | None, key_file: Path | None) -> int:
    settings = Settings.from_environment()
    verification = Verification()
    key_path = key_file or settings.signing_key_path.with_suffix(".pub")
    key = read_key(key_path, needed=key_file is not None)
    from_file = None if kept is None else expect_checkpoint_file(kept, key, verification)
    digests: list[str] = []
    if file is not None:
        verify_file(file, verification)
    else:
        if settings.mongodb_url is None and not (settings.data_dir / "database").exists():
            raise CannotVerify(f"there is no database in {settings.data_dir}")
        async with database(settings) as db:
            digests = await expect_database_checkpoints(db, key, verification)
            await verify_database(db, verification)
        if from_file is not None:
            compare_kept(from_file, digests, verification)
    faults = verification.finish()
    if not verification.events and not faults:
        raise CannotVerify("there are no events")
    return _say(verification, faults, len(digests))


def _say(verification: Verification, faults: Sequence[Fault], checkpoints: int) -> int:
    tickets = len(verification.heads.keys() | {f.ticket for f in faults if f.ticket[0] != "("})
    print(f"tickets {tickets}, events {verification.events}, checkpoints {checkpoints}")
    if not faults:
        print("ok: every event is as it was written")
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
