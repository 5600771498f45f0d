"""Personal fields of events, sealed under a key of the person they belong to.

A stored event keeps null in the place of a sealed field, and beside its data

    sealed   [{path: "/data/body", person: id, text}]

`text` is base64 of a random nonce of 12 bytes, and the field's value as JSON under AES-256-GCM with
that person's key; or, if it begins with `field:`, with a key of this field alone, made from the
person's tree of keys (`key_tree.py`), which can be destroyed alone. Ticket, version, path and
person are its associated data: what is moved elsewhere cannot be opened. An event's hash is over
this form, so it holds whether there are keys or not.

Words have keys of their own, because they can be redacted. Of a requester's event, who did it and
the id of the command are sealed too, and in all events of a command that has something personal in
any of them its fingerprint: a hash of few possible words tells them, so it goes when they go.

Pure, but for the nonces. Where keys come from: `vault.py`.
"""

import base64
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, cast
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from domain.codec import EventData, Personal
from domain.values import ERASED, REDACTED, JsonObject
from eventstore.event_document import EventDocument, Metadata, SealedField
from eventstore.key_files import KeyUnusable
from eventstore.personal.key_tree import KeyTree

FINGERPRINT = "/command/fingerprint"
UNOPENED = "[sealed]"
"""What stands for a field that was not opened."""
_OWN_KEY = "field:"
_NONCE_BYTES = 12


class Leaf(NamedTuple):
    """A field of an event, which has a key of its own."""

    ticket_id: UUID
    version: int
    path: str


class Key(Protocol):
    """What opens the fields of one person; `leaf`: one that has a key of its own."""

    def open(self, text: str, place: bytes, leaf: Leaf | None = None) -> object: ...


class PersonKey:
    """The key of one person, and those of single fields. `tree`: none if no version that knows of
    such keys has written anything of theirs.
    """

    __slots__ = ("_cipher", "person", "tree")

    def __init__(self, person: UUID, secret: bytes, tree: KeyTree | None = None) -> None:
        self.person = person
        self.tree = tree
        self._cipher = AESGCM(secret)

    def seal(self, value: object, place: bytes, leaf: Leaf | None = None) -> str:
        """Encrypt a JSON value for one place: for a field that has a key of its own, with that."""
        secret = None
        if leaf is not None and self.tree is not None:
            # None if an event of that version was redacted, and then an older log was restored.
            secret = self.tree.key(*leaf)
        cipher = self._cipher if secret is None else AESGCM(secret)
        nonce = os.urandom(_NONCE_BYTES)
        sealed = base64.b64encode(
            nonce + cipher.encrypt(nonce, orjson.dumps(value), place)
        ).decode()
        return sealed if secret is None else _OWN_KEY + sealed

    def open(self, text: str, place: bytes, leaf: Leaf | None = None) -> object:
        """Decrypt it; `REDACTED` if its key was destroyed. Raises InvalidTag, LookupError,
        ValueError.
        """
        cipher = self._cipher
        if leaf is not None:
            if self.tree is None:
                raise LookupError("the person's tree of keys is missing")
            if (secret := self.tree.key(*leaf)) is None:
                return REDACTED
            cipher = AESGCM(secret)
        sealed = base64.b64decode(text, validate=True)
        opened = cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place)
        return orjson.loads(opened)

    def sealed_tree(self, tree: KeyTree) -> str:
        """Encrypt a tree of theirs: it is gone when their key is."""
        return self.seal(tree.stored(), self._of_tree)

    def with_tree(self, text: object) -> "PersonKey":
        """Take a tree that was encrypted. Raises KeyUnusable."""
        try:
            self.tree = KeyTree.read(self.open(cast("str", text), self._of_tree))
        except (InvalidTag, TypeError, ValueError) as error:
            raise KeyUnusable(f"the tree of keys of person {self.person} does not open") from error
        return self

    @property
    def _of_tree(self) -> bytes:
        return b"tree" + self.person.bytes


class ErasedKey:
    """Stands in for the key of an erased person."""

    def open(self, text: str, place: bytes, leaf: Leaf | None = None) -> object:  # noqa: ARG002
        """Say that it is gone."""
        return ERASED


class MissingKey:
    """What stands in for a key that is missing, where nothing may be left as it was before."""

    def open(self, text: str, place: bytes, leaf: Leaf | None = None) -> object:  # noqa: ARG002
        """Say that it cannot be told."""
        return UNOPENED


def sealed(
    document: EventDocument, personal: Sequence[Personal], keys: Mapping[str, PersonKey]
) -> EventDocument:
    """Return a document with its personal fields sealed; `keys` by the persons' names."""
    fields: list[SealedField] = []
    values: list[tuple[str, object]] = []
    event = _event(document)
    for path, name, is_said in personal:
        key, value = keys[name], _at(document, path.split("/")[1:])
        leaf = Leaf(document["ticket_id"], document["version"], path) if is_said else None
        text = key.seal(value, _place(event, path, key.person), leaf)
        fields.append({"path": path, "person": key.person, "text": text})
        values.append((path, None))
    if not fields:
        return document
    return cast("EventDocument", {**_with(document, values), "sealed": fields})


def whose_command(events: Iterable[EventData]) -> str | None:
    """Return the name of the person whose words all events of a command say, or who is named there;
    None if there is nothing personal.
    """
    found = [each for event in events for each in event.personal]
    return next((each.person for each in sorted(found, key=lambda each: not each.is_said)), None)


def all_personal(event: EventData, metadata: Metadata, whose: str | None) -> tuple[Personal, ...]:
    """Return what of an event is to be sealed: its own, and what tells of it. `whose`: of whom
    something personal is in the events of its command.
    """
    found = event.personal
    actor = metadata.actor
    if actor.role == "requester":
        found = (*found, Personal("/actor/id", actor.id), Personal("/command/id", actor.id))
        whose = whose or actor.id
    return found if whose is None else (*found, Personal(FINGERPRINT, whose, is_said=True))


def persons(document: Mapping[str, object]) -> Iterator[UUID]:
    """Return whose fields are sealed in a stored document."""
    fields = document.get("sealed")
    for field in fields if isinstance(fields, list) else ():
        if isinstance(field, dict) and isinstance(person := field.get("person"), UUID):
            yield person


def leaves(document: EventDocument) -> Iterator[tuple[UUID, Leaf]]:
    """Yield the fields of a stored document that have keys of their own, and whose they are."""
    for field in document.get("sealed", ()):
        if field["text"].startswith(_OWN_KEY):
            yield field["person"], Leaf(document["ticket_id"], document["version"], field["path"])


def opened(
    document: EventDocument, keys: Mapping[UUID, Key], *, command: bool = True
) -> EventDocument:
    """Return a stored document as it was before it was sealed, and as it is if nothing was; unless
    `command`, without what is sealed of its command.

    So it is also if a key is missing, or what is sealed was tampered with: then whoever takes it
    for an event is told (`Envelope.readable`).
    """
    if "sealed" not in document:
        return document
    try:
        event = _event(document)
        values: list[tuple[str, object]] = []
        for field in document["sealed"]:
            path, person = field["path"], field["person"]
            if not command and path.startswith("/command/"):
                values.append((path, UNOPENED))
                continue
            leaf, text = None, field["text"]
            if text.startswith(_OWN_KEY):
                leaf = Leaf(document["ticket_id"], document["version"], path)
                text = text.removeprefix(_OWN_KEY)
            values.append((path, keys[person].open(text, _place(event, path, person), leaf)))
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
