"""What the log stores of an event, and the hash that chains it to the one before.

An envelope wraps an event of whatever kind: here an event is a (type, schema, data) triple and
nothing more is known of it.

The hash of an event is SHA-256 over its canonical form, which docs/explanation/hash-chain.md gives
to the byte. It covers the document as it is stored, the hash of the ticket's event before it
included, so it outlives any change of the code that reads it, and the keys of what is sealed in it
(`sealing.py`).
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, NotRequired, TypedDict, cast
from uuid import UUID

import orjson
from uuid_utils.compat import uuid7

from domain.actors import Actor, Role
from domain.codec import EventData
from domain.errors import HistoryError
from domain.values import JsonObject

TICKET_EVENTS = "ticket_events"
"""The collection of the log."""


class CommandRef(NamedTuple):
    """Which command an event came of. `fingerprint` tells its content from another's (hex)."""

    id: str
    fingerprint: str


class Metadata(NamedTuple):
    """What is known of a command beside its content; the same for all of its events."""

    actor: Actor
    command: CommandRef
    correlation_id: str | None = None
    causation_id: str | None = None


class SealedField(TypedDict):
    """A personal field of an event: null stands in its place, at `path` (a JSON Pointer into the
    document). `text` is its value, encrypted under the person's key.
    """

    path: str
    person: UUID
    text: str


class Envelope(NamedTuple):
    """One event of one ticket as the log knows it. Times are UTC with whole milliseconds.

    `sealed`: what of it cannot be read as it is. `EventStore.open` gives it without.
    """

    id: UUID
    ticket_id: UUID
    version: int
    type: str
    schema: int
    data: JsonObject
    occurred_at: datetime
    recorded_at: datetime
    metadata: Metadata
    previous: bytes | None
    hash: bytes
    sealed: tuple[SealedField, ...] = ()

    @property
    def readable(self) -> EventData:
        """Return the event. Raises HistoryError if some of it is still sealed."""
        if self.sealed:
            whose = " or ".join(sorted({str(field["person"]) for field in self.sealed}))
            raise HistoryError(
                "event_sealed",
                f"it cannot be opened: the key of person {whose} is missing, or it was tampered "
                "with",
            ).at(self.ticket_id, self.version)
        return EventData(self.type, self.schema, self.data)


class ActorDocument(TypedDict):
    id: str
    role: Role


class CommandDocument(TypedDict):
    id: str
    fingerprint: str


class EventDocument(TypedDict):
    """An envelope as a document of `ticket_events`."""

    _id: UUID
    ticket_id: UUID
    version: int
    type: str
    schema: int
    data: JsonObject
    occurred_at: datetime
    recorded_at: datetime
    actor: ActorDocument
    command: CommandDocument
    correlation_id: str | None
    causation_id: str | None
    previous: bytes | None
    hash: bytes
    sealed: NotRequired[list[SealedField]]
    """There if something is. What was written before anything was has none."""


class Head(NamedTuple):
    """The last event of a stream: its version (0 for an empty stream) and hash."""

    version: int
    hash: bytes | None


EMPTY = Head(0, None)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def utc_now() -> datetime:
    """Read the clock, in the precision that is stored."""
    return whole_milliseconds(datetime.now(UTC))


def whole_milliseconds(time: datetime) -> datetime:
    """Return `time` in UTC, cut to the milliseconds that a BSON date holds."""
    utc = time.astimezone(UTC)
    return utc.replace(microsecond=utc.microsecond // 1000 * 1000)


Protect = Callable[[EventDocument, EventData], EventDocument]
"""Seals what is personal in an event's document."""


def _bare(document: EventDocument, _event: EventData) -> EventDocument:
    return document


def chained(
    ticket_id: UUID,
    head: Head,
    events: Iterable[EventData],
    metadata: Metadata,
    occurred_at: datetime,
    recorded_at: datetime,
    protect: Protect = _bare,
) -> list[Envelope]:
    """Wrap the events of one command as the next of their stream, chained from `head`."""
    made: list[Envelope] = []
    occurred_at = whole_milliseconds(occurred_at)
    for event in events:
        envelope = Envelope(
            id=uuid7(),
            ticket_id=ticket_id,
            version=head.version + len(made) + 1,
            type=event.type,
            schema=event.schema,
            data=event.data,
            occurred_at=occurred_at,
            recorded_at=recorded_at,
            metadata=metadata,
            previous=made[-1].hash if made else head.hash,
            hash=b"",
        )
        document = protect(to_document(envelope), event)
        document["hash"] = content_hash(document)
        made.append(from_document(document))
    return made


def content_hash(document: EventDocument) -> bytes:
    """Hash a stored event: all of it but the hash itself."""
    canonical = canonical_form(document)
    return hashlib.sha256(orjson.dumps(canonical, option=orjson.OPT_SORT_KEYS)).digest()


def canonical_form(document: EventDocument) -> JsonObject:
    """Return the content that is hashed, as JSON values."""
    previous = document["previous"]
    sealed = {"sealed": document["sealed"]} if "sealed" in document else {}
    return {
        **sealed,
        "actor": document["actor"],
        "causation_id": document["causation_id"],
        "command": document["command"],
        "correlation_id": document["correlation_id"],
        "data": document["data"],
        "id": document["_id"],
        "occurred_at": milliseconds(document["occurred_at"]),
        "previous": None if previous is None else previous.hex(),
        "recorded_at": milliseconds(document["recorded_at"]),
        "schema": document["schema"],
        "ticket_id": document["ticket_id"],
        "type": document["type"],
        "version": document["version"],
    }


def chain_is_whole(
    stream: Iterable[Mapping[str, object]], after: Mapping[str, object] | None = None
) -> bool:
    """Say whether stored documents are what was once written, behind the event `after` (L11)."""
    version, previous = (after.get("version"), after.get("hash")) if after else (0, None)
    for document in stream:
        try:
            event = to_document(from_document(cast("EventDocument", document)))
            if event != document or event["hash"] != content_hash(event):
                return False
            if event["previous"] != previous or event["version"] - 1 != version:
                return False
        except (HistoryError, TypeError, ValueError, AttributeError):
            return False  # it has another form than anything that was written
        version, previous = event["version"], event["hash"]
    return True


def to_document(envelope: Envelope) -> EventDocument:
    """Return the stored form."""
    metadata = envelope.metadata
    document: EventDocument = {
        "_id": envelope.id,
        "ticket_id": envelope.ticket_id,
        "version": envelope.version,
        "type": envelope.type,
        "schema": envelope.schema,
        "data": envelope.data,
        "occurred_at": envelope.occurred_at,
        "recorded_at": envelope.recorded_at,
        "actor": {"id": metadata.actor.id, "role": metadata.actor.role},
        "command": {"id": metadata.command.id, "fingerprint": metadata.command.fingerprint},
        "correlation_id": metadata.correlation_id,
        "causation_id": metadata.causation_id,
        "previous": envelope.previous,
        "hash": envelope.hash,
    }
    if envelope.sealed:
        document["sealed"] = list(envelope.sealed)
    return document


def is_event(document: Mapping[str, object]) -> bool:
    """Say whether a stored document can at least be told a ticket's event, readable or not.

    What was put into the log by hand may lack anything.
    """
    version = document.get("version")
    return (
        isinstance(document.get("ticket_id"), UUID)
        and isinstance(version, int)
        and version > 0
        and isinstance(document.get("recorded_at"), datetime)
    )


def from_document(document: EventDocument) -> Envelope:
    """Read the stored form. Raises HistoryError for a document that no store has written."""
    try:
        actor, command = document["actor"], document["command"]
        return Envelope(
            document["_id"],
            document["ticket_id"],
            document["version"],
            document["type"],
            document["schema"],
            document["data"],
            document["occurred_at"],
            document["recorded_at"],
            Metadata(
                Actor(**actor),
                CommandRef(**command),
                document["correlation_id"],
                document["causation_id"],
            ),
            document["previous"],
            document["hash"],
            tuple(document.get("sealed", ())),
        )
    except (KeyError, TypeError) as error:
        raise HistoryError(
            "unreadable_envelope", f"{described(document)} is no event: {error!r}"
        ) from error


def described(document: Mapping[str, object]) -> str:
    """Name a stored document, whatever it is, without what may be personal."""
    named = (f"{name} {document.get(name)!s:.40}" for name in ("_id", "ticket_id", "version"))
    return f"the document with {', '.join(named)}"


def fingerprint(content: Mapping[str, object]) -> str:
    """Tell one command's content from another's: hex SHA-256 over sorted JSON."""
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()


def milliseconds(time: datetime) -> int:
    """Return a UTC time as whole milliseconds since 1970."""
    delta = time - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1000 + delta.microseconds // 1000


def time_of(milliseconds_since_1970: int) -> datetime:
    """Return the UTC time of whole milliseconds since 1970."""
    return _EPOCH + timedelta(milliseconds=milliseconds_since_1970)
