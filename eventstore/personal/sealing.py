"""Personal fields of events, sealed under a key of the person they belong to.

A stored event keeps null in the place of a sealed field, and beside its data

    sealed   [{path: "/data/body", person: id, text}]

`text` is base64 of a random nonce of 12 bytes, and the field's value as JSON under AES-256-GCM with
that person's key. Ticket, version, path and person are its associated data: what is moved elsewhere
cannot be opened. An event's hash is over this form, so it holds whether there are keys or not.

Of a requester's event, who did it and the id of the command are sealed too, and of every event with
something personal in it the command's fingerprint: a hash of few possible words tells them.

Pure, but for the nonces. Where keys come from: `vault.py`.
"""

import base64
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, cast
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from domain.codec import EventData, Personal
from domain.values import ERASED, JsonObject
from eventstore.event_document import EventDocument, Metadata, SealedField

_NONCE_BYTES = 12


class Key(Protocol):
    """What opens the fields of one person."""

    def open(self, text: str, place: bytes) -> object: ...


class PersonKey:
    """The key of one person."""

    __slots__ = ("_cipher", "person")

    def __init__(self, person: UUID, secret: bytes) -> None:
        self.person = person
        self._cipher = AESGCM(secret)

    def seal(self, value: object, place: bytes) -> str:
        """Encrypt a JSON value for one place."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, orjson.dumps(value), place)
        return base64.b64encode(nonce + sealed).decode()

    def open(self, text: str, place: bytes) -> object:
        """Decrypt it. Raises InvalidTag, ValueError."""
        sealed = base64.b64decode(text, validate=True)
        opened = self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place)
        return cast("object", orjson.loads(opened))


class ErasedKey:
    """Stands in for the key of an erased person."""

    def open(self, text: str, place: bytes) -> object:  # noqa: ARG002
        """Say that it is gone."""
        return ERASED


class MissingKey:
    """What stands in for a key that is missing, where nothing may be left as it was before."""

    def open(self, text: str, place: bytes) -> object:  # noqa: ARG002
        """Say that it cannot be told."""
        return "[sealed]"


def sealed(
    document: EventDocument, personal: Sequence[Personal], keys: Mapping[str, PersonKey]
) -> EventDocument:
    """Return a document with its personal fields sealed; `keys` by the persons' names."""
    fields: list[SealedField] = []
    values: list[tuple[str, object]] = []
    event = _event(document)
    for path, name in personal:
        key, value = keys[name], _at(document, path.split("/")[1:])
        text = key.seal(value, _place(event, path, key.person))
        fields.append({"path": path, "person": key.person, "text": text})
        values.append((path, None))
    if not fields:
        return document
    return cast("EventDocument", {**_with(document, values), "sealed": fields})


def all_personal(event: EventData, metadata: Metadata) -> tuple[Personal, ...]:
    """Return what of an event is to be sealed: its own, and what tells of it."""
    found = event.personal
    actor = metadata.actor
    if actor.role == "requester":
        found = (*found, Personal("/actor/id", actor.id), Personal("/command/id", actor.id))
    return (*found, Personal("/command/fingerprint", found[0].person)) if found else ()


def persons(document: Mapping[str, object]) -> Iterator[UUID]:
    """Return whose fields are sealed in a stored document."""
    fields = document.get("sealed")
    for field in fields if isinstance(fields, list) else ():
        if isinstance(field, dict) and isinstance(person := field.get("person"), UUID):
            yield person


def opened(document: EventDocument, keys: Mapping[UUID, Key]) -> EventDocument:
    """Return a stored document as it was before it was sealed, and as it is if nothing was.

    So it is also if a key is missing, or what is sealed was tampered with: then whoever takes it
    for an event is told (`Envelope.readable`).
    """
    if "sealed" not in document:
        return document
    try:
        event, values = _event(document), []
        for field in document["sealed"]:
            path, person = field["path"], field["person"]
            values.append((path, keys[person].open(field["text"], _place(event, path, person))))
        shown = _with(document, values)
    except (InvalidTag, LookupError, TypeError, ValueError, AttributeError):
        return document
    del shown["sealed"]
    return cast("EventDocument", shown)


def _event(document: EventDocument) -> str:
    return f"{document['ticket_id']}\n{document['version']}"


def _place(event: str, path: str, person: UUID) -> bytes:
    return f"{event}\n{path}\n{person}".encode()


def _at(value: object, steps: Sequence[str]) -> object:
    for step in steps:
        value = value[int(step)] if isinstance(value, list) else cast("JsonObject", value)[step]
    return value


def _with(document: EventDocument, values: Iterable[tuple[str, object]]) -> JsonObject:
    """Return a copy of a document with other values in some places of it, which it has."""
    shown = cast("JsonObject", {**document})
    copied: dict[str, JsonObject | list[object]] = {"": shown}
    for path, value in values:
        above, _, last = path.rpartition("/")
        inside = _copy_in(copied, above)
        if isinstance(inside, list):
            inside[int(last)] = value
        else:
            _ = inside[last]  # it has it, or what is sealed is not of this document
            inside[last] = value
    return shown


def _copy_in(copied: dict[str, JsonObject | list[object]], path: str) -> JsonObject | list[object]:
    """Return the copy of what is at a path, made if this is the first value in it."""
    if path not in copied:
        above, _, step = path.rpartition("/")
        outside = _copy_in(copied, above)
        inside = _at(outside, [step])
        copied[path] = [*inside] if isinstance(inside, list) else {**cast("JsonObject", inside)}
        if isinstance(outside, list):
            outside[int(step)] = copied[path]
        else:
            outside[step] = copied[path]
    return copied[path]
