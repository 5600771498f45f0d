"""The log as a file: one event a line, and a manifest that says what the file holds.

A line is the canonical form of an event (docs/explanation/hash-chain.md) with its `hash` added:
sorted keys, no white space, so the same log is the same bytes. What is sealed stays so: of an
erased person a file says no more than the log. Lines stand in the order of ticket id and version.
The manifest is a small JSON file beside it: counts, the SHA-256 of the file, and the Merkle root
over the heads of its tickets.
"""

import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast
from uuid import UUID

import orjson

from domain.errors import CasebookError
from eventstore.event_document import EventDocument, canonical_form, time_of
from eventstore.log import EventStore, Heads
from eventstore.transparency.heads import PackedHeads

FORMAT = 1


class UnreadableArchive(CasebookError):
    """A line, manifest or file that no export or backup wrote, or that cannot be read: for example
    one that was cut off.
    """

    def __init__(self, detail: str) -> None:
        super().__init__("unreadable_archive", detail)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an exported file holds. `root` is over the heads, as in a checkpoint (hex)."""

    format: int
    tickets: int
    events: int
    sha256: str
    root: str

    def write(self, path: Path) -> None:
        path.write_bytes(orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2) + b"\n")

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Raises UnreadableArchive."""
        try:
            manifest = cls(**orjson.loads(path.read_bytes()))
        except (OSError, TypeError, ValueError) as error:
            raise UnreadableArchive(f"cannot read the manifest {path}: {error}") from error
        if manifest.format != FORMAT:
            raise UnreadableArchive(f"{path} has format {manifest.format}; {FORMAT} is known")
        return manifest


def manifest_path(path: Path) -> Path:
    """Return the place of a file's manifest."""
    return path.with_name(f"{path.name}.manifest.json")


class ManifestBuilder:
    """Sums up an export while its lines go by."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._heads: Heads = {}
        self._events = 0

    def add(self, document: EventDocument, line: bytes) -> None:
        self._sha256.update(line)
        self._heads[document["ticket_id"]] = (document["version"], document["hash"])
        self._events += 1

    def manifest(self) -> Manifest:
        return Manifest(
            format=FORMAT,
            tickets=len(self._heads),
            events=self._events,
            sha256=self._sha256.hexdigest(),
            root=PackedHeads().updated(self._heads).root().hex(),
        )


async def lines(store: EventStore, summing: ManifestBuilder) -> AsyncIterator[bytes]:
    """Return the log's lines in order, and sum them up.

    Raises UnreadableArchive or HistoryError for a document that is no event: an export that left it
    out would hide it.
    """
    async for document in store.in_order():
        try:
            line = to_line(document)
        except (KeyError, TypeError, AttributeError) as error:
            what = f"event {document.get('_id')} cannot be exported: verify the log ({error!r})"
            raise UnreadableArchive(what) from error
        summing.add(document, line)
        yield line


def to_line(document: EventDocument) -> bytes:
    """Return the line of a stored event."""
    content = {**canonical_form(document), "hash": document["hash"].hex()}
    return orjson.dumps(content, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def from_line(line: bytes) -> EventDocument:
    """Read a line back. Raises UnreadableArchive unless it is what `to_line` gives."""
    try:
        content = cast("Mapping[str, object]", orjson.loads(line))
        previous = cast("str | None", content["previous"])
        document = {
            **content,
            "_id": UUID(cast("str", content["id"])),
            "ticket_id": UUID(cast("str", content["ticket_id"])),
            "occurred_at": time_of(cast("int", content["occurred_at"])),
            "recorded_at": time_of(cast("int", content["recorded_at"])),
            "previous": None if previous is None else bytes.fromhex(previous),
            "hash": bytes.fromhex(cast("str", content["hash"])),
        }
        if "sealed" in content:
            fields = cast("list[dict[str, str]]", content["sealed"])
            document["sealed"] = [{**field, "person": UUID(field["person"])} for field in fields]
        del document["id"]
        read = cast("EventDocument", document)
        if to_line(read) == line:
            return read
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UnreadableArchive(f"a line is no event: {error!r}") from error
    raise UnreadableArchive("a line is not in the form that an export writes")
