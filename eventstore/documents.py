"""Documents outside the log, read one by one: what this version cannot read costs only itself.

Processes of several versions share a database, as in a rolling upgrade or after going back. So for
everything that is stored outside the log and the views holds:

- A field that is not known is passed over, and stays: an update sets what it changes and nothing
  else. A document's reader takes what it knows from it.
- What gives a right, or narrows one (a role, a scope, the condition of a filter), gives nothing if
  it is not known.
- A version that adds a field which narrows something names it in the document's `critical`, a list
  of field names. A reader that does not know one of them cannot read the document. (As `crit` of
  RFC 7515; this version knows of no such field and writes none.)
- A document that cannot be read is passed over, logged once, and counted in `/readyz`.
"""

import dataclasses
import inspect
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, ClassVar, Generic, Protocol, TypeVar, cast, get_type_hints
from uuid import UUID

from cachetools import TTLCache
from pydantic import BaseModel, ConfigDict, Strict, ValidationError, create_model

from domain.errors import CasebookError, StateConflict, faults_of

T = TypeVar("T")
Document = Mapping[str, object]

CRITICAL = "critical"
_REMEMBERED_SECONDS = 900.0
_MOST_REMEMBERED = 10_000
_ID_CHARACTERS = 100

_log = logging.getLogger(__name__)


class UnreadableDocument(StateConflict):
    """Something was stored by another version in a form that this one does not know, or is damaged:
    for example a saved view with a condition that a newer version has.
    """

    def __init__(self, collection: str, id_: object) -> None:
        super().__init__(  # in full: docs/reference/problems.md is made from it
            "unreadable_document",
            f"{_short(id_)} in {collection} cannot be read by this version of the server",
        )


class EssentialUnreadable(CasebookError):
    """The same of something without which nothing right can be done: for example the newest version
    of the desk's set-up. A process of the version that stored it can.
    """

    kind = "unavailable"

    def __init__(self, collection: str, id_: object) -> None:
        super().__init__(
            "essential_unreadable",
            f"{_short(id_)} in {collection} cannot be read by this version of the server; "
            "a server of the version that stored it can",
        )


class Unreadable:
    """What a process has found of one database that it cannot read. Bounded, and forgotten when it
    has not been found for a quarter of an hour.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds, that only ever go on."""
        self._found: TTLCache[tuple[str, str], str] = TTLCache(
            _MOST_REMEMBERED, _REMEMBERED_SECONDS, clock
        )

    def note(self, collection: str, id_: object, why: str) -> None:
        """Note that a document cannot be read; log it the first time."""
        key = collection, _short(id_)
        known = self._found.get(key)
        self._found[key] = why
        if known != why:
            _log.error("%s in %s cannot be read, and is passed over: %s", key[1], key[0], why)

    def clear(self, collection: str, id_: object) -> None:
        """Note that a document can be read, or is gone."""
        if self._found:
            self._found.pop((collection, _short(id_)), None)

    def seen(self, collection: str, ids: Iterable[object]) -> None:
        """Note that a collection has no other documents than these that cannot be read."""
        if self._found:
            there = {_short(id_) for id_ in ids}
            for key in [k for k in self._found if k[0] == collection and k[1] not in there]:
                self._found.pop(key, None)

    def all(self) -> dict[str, dict[str, str]]:
        """Return what cannot be read: by collection and id, why."""
        found: dict[str, dict[str, str]] = {}
        for collection, id_ in list(self._found):
            if (why := self._found.get((collection, id_))) is not None:  # it may expire meanwhile
                found.setdefault(collection, {})[id_] = why
        return found

    def counts(self) -> Counter[str]:
        """Return how many documents of each collection cannot be read."""
        return Counter({collection: len(ids) for collection, ids in self.all().items()})


class Reader(Generic[T]):
    """Reads the documents of one collection."""

    def __init__(
        self, unreadable: Unreadable, collection: str, read: Callable[[Document], T]
    ) -> None:
        """`read` makes a value of a document, or raises whatever it will."""
        self._unreadable = unreadable
        self._collection = collection
        self._read = read

    def one(self, document: Document) -> T:
        """Return what a document says. Raises UnreadableDocument."""
        id_ = document.get("_id")
        try:
            if document.get(CRITICAL):
                why = "it has a field that must be known to read it"
                raise CasebookError("critical", why)  # noqa: TRY301 it is told as any other
            value = self._read(document)
        except Exception as error:
            self._unreadable.note(self._collection, id_, _why(error))
            raise UnreadableDocument(self._collection, id_) from error
        self._unreadable.clear(self._collection, id_)
        return value

    def each(self, documents: Iterable[Document]) -> list[T]:
        """Return what those documents say that can be read, in their order."""
        return self.apart(documents)[0]

    def all_apart(self, documents: Iterable[Document]) -> tuple[list[T], list[Document]]:
        """Do as `apart` with all documents that there are in the collection."""
        values, unreadable = self.apart(documents)
        self._unreadable.seen(self._collection, [d.get("_id") for d in unreadable])
        return values, unreadable

    def apart(self, documents: Iterable[Document]) -> tuple[list[T], list[Document]]:
        """Return what can be read, and the documents that cannot."""
        values: list[T] = []
        unreadable: list[Document] = []
        for document in documents:
            try:
                values.append(self.one(document))
            except UnreadableDocument:
                unreadable.append(document)
        return values, unreadable


def uuid_of(document: Document) -> UUID:
    """Return the id of a stored document whose collection has UUIDs for ids: of tickets, persons.

    Whether it is one is not checked: a document with another id was put there by hand, and is told
    of by that id.
    """
    return cast("UUID", document["_id"])


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


StoredSet = Annotated[frozenset[str], Strict(False)]
"""A set, which a document has as a list."""


def strict_decoder(
    kind: Callable[..., T], id_field: str | None = "id", *, complete: bool = False
) -> Callable[[Document], T]:
    """Return what makes a value of a dataclass or named tuple of a document that has its fields.

    Each must be of its very type: nothing is taken for a time, say, that only reads like one.
    `id_field` is the document's `_id`. Fields that `kind` does not have are passed over; those that
    have a default may be missing, unless it must be `complete`.
    """
    hints = get_type_hints(kind, include_extras=True)
    parameters = inspect.signature(kind).parameters
    fields: dict[str, Any] = {
        name: (hints[name], ... if complete or each.default is each.empty else each.default)
        for name, each in parameters.items()
    }
    model = create_model("Stored", __config__=ConfigDict(strict=True), **fields)

    def read(document: Document) -> T:
        content = document if id_field is None else {**document, id_field: document.get("_id")}
        found = model.model_validate(content)
        return kind(**{name: getattr(found, name) for name in fields})

    return read


def as_document(value: _Dataclass, id_field: str | None = "id") -> dict[str, object]:
    """Return a dataclass as it is stored: the way back from what `strict_decoder` reads."""
    return {
        "_id" if field.name == id_field else field.name: _plain(getattr(value, field.name))
        for field in dataclasses.fields(value)
    }


def _plain(value: object) -> object:
    match value:
        case frozenset():
            return sorted(value)
        case BaseModel():
            return value.model_dump(exclude_none=True)
        case tuple() if hasattr(value, "_asdict"):
            return value._asdict()
        case _:
            return value


def named(unreadable: Iterable[Document]) -> dict[str, list[str]]:
    """Return what a list of the others tells of documents that cannot be read, if there are any."""
    ids = [_short(document.get("_id")) for document in unreadable]
    return {"unreadable": ids} if ids else {}


def keeping_unknown(new: Document, stored: Document, known: Document) -> dict[str, object]:
    """Return `new`, to be stored in the place of `stored`, with all that this version does not know
    of it kept.

    `known`: as much as it has read of `stored`; what is the same in `new` is not changed. What is
    unknown inside something that `new` no longer has is gone with it.
    """
    kept = dict(new)
    for name, value in stored.items():
        if name not in known:
            kept.setdefault(name, value)
            continue
        match kept.get(name), value, known[name]:
            case dict() as inner, dict() as was, dict() as read:
                kept[name] = keeping_unknown(inner, was, read)
            case inner, _, read if name in kept and inner == read:
                kept[name] = value  # there may be more to it than was read
    return kept


def _why(error: Exception) -> str:
    """Say what is wrong with a document, and nothing of what stands in it."""
    match error:
        case ValidationError():
            return faults_of(error)
        case CasebookError():
            return error.detail
        case KeyError():
            return f"{error.args[0]} is missing" if error.args else "a field is missing"
        case _:
            return type(error).__name__


def _short(id_: object) -> str:
    return str(id_)[:_ID_CHARACTERS]
