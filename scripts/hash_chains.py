"""What it means for a log to be as it was written: hashes and chains. No I/O.

Written from docs/explanation/hash-chain.md alone, and shared with nothing that writes the log, so
that one mistake cannot hide in both. `scripts/verify.py` reads events for it, and
`scripts/signed_checkpoints.py` what signed checkpoints say.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from domain.errors import CasebookError

Kind = Literal["edited", "deleted", "inserted", "reordered"]
Plain = Mapping[str, object]
Head = tuple[int, str]
"""A version and the hash (hex) of the event that has it."""

FIELDS = frozenset(
    {"id", "ticket_id", "version", "type", "schema", "data", "occurred_at", "recorded_at"}
    | {"actor", "command", "correlation_id", "causation_id", "previous", "hash"}
)
"""The members of an event, all but `sealed`, which only an event with personal fields has."""

_REACH = 100  # how far events may have been renumbered and still be recognised


class CannotVerify(CasebookError):
    """There is nothing to verify against: no key, no readable file, no database."""

    def __init__(self, detail: str) -> None:
        super().__init__("cannot_verify", detail)


class Fault(NamedTuple):
    """Where the log is not what was written: the ticket's first bad version."""

    ticket: str
    version: int
    kind: Kind
    detail: str


class Event(NamedTuple):
    """A stored event: where it stands, and its content if it has the form of an event."""

    ticket: str
    version: int
    plain: Plain | None

    @property
    def hash(self) -> str:
        return str(self.plain["hash"]) if self.plain else ""

    @property
    def previous(self) -> str | None:
        return str(self.plain["previous"] or "") or None if self.plain else None

    def is_itself(self, version: int | None = None) -> bool:
        """Say whether its hash is over this content; if `version` is given, with that version."""
        if self.plain is None:
            return False
        content = {k: v for k, v in self.plain.items() if k != "hash"}
        content["version"] = self.version if version is None else version
        return hashlib.sha256(canonical(content)).hexdigest() == self.plain["hash"]


def canonical(content: object) -> bytes:
    """Return the bytes of a JSON value: sorted keys, no white space, UTF-8."""
    return json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode("utf-8", "surrogatepass")


# --- one ticket ----------------------------------------------------------------------------------


def examine(stream: Sequence[Event]) -> Fault | None:
    """Find the first fault in all of a ticket's events, sorted by version."""
    head: str | None = None
    for index, event in enumerate(stream):
        expected = index + 1
        if event.version > expected:
            return Fault(event.ticket, expected, "deleted", "this version is missing")
        if event.version < expected:
            return Fault(event.ticket, event.version, "inserted", "this version stands twice")
        if not event.is_itself():
            return _explain(stream, index)
        if event.previous != head:
            return _broken_link(stream, index)
        head = event.hash
    return None


def _explain(stream: Sequence[Event], index: int) -> Fault:
    """Say what became of an event whose hash is not over its content."""
    event = stream[index]
    ticket, version = event.ticket, event.version
    hashes = [None, *(before.hash for before in stream[:index])]
    after = stream[index + 1] if index + 1 < len(stream) else None
    if after and after.previous == hashes[-1] and after.is_itself(version):
        if event.is_itself(after.version):
            detail = f"it has changed places with version {after.version}"
            return Fault(ticket, version, "reordered", detail)
        return Fault(ticket, version, "inserted", "the events behind it follow what is before it")
    for distance in range(1, _REACH + 1):
        if event.is_itself(version + distance):
            detail = f"what stands here was written as version {version + distance}"
            return Fault(ticket, version, "deleted", detail)
        if (
            distance <= index
            and event.previous == hashes[index - distance]
            and event.is_itself(version - distance)
        ):
            detail = f"version {version} follows what stands before it"
            return Fault(ticket, version - distance, "inserted", detail)
    return Fault(ticket, version, "edited", "its content is not what its hash was made of")


def _broken_link(stream: Sequence[Event], index: int) -> Fault:
    """Say what is wrong where an event is itself but does not follow the one before it."""
    event = stream[index]
    if index == 0:
        return Fault(event.ticket, 1, "deleted", "what stands first follows another event")
    detail = f"version {event.version} follows another event than this one"
    return Fault(event.ticket, stream[index - 1].version, "edited", detail)


# --- the whole log -------------------------------------------------------------------------------


@dataclass(slots=True)
class Verification:
    """What has been found so far, event by event, in any order."""

    expected: dict[str, dict[int, str]] = field(default_factory=dict)
    """Hashes that checkpoints say must be there, by ticket and version."""
    heads: dict[str, Head] = field(default_factory=dict)
    events: int = 0
    uncovered: int = 0
    """Events behind what any checkpoint stands for: only their own chain vouches for them."""
    uncovered_since: int | None = None
    """When the first of them was recorded, as it says itself (milliseconds since 1970)."""
    covered: dict[str, int] = field(default_factory=dict)
    """By ticket: the version up to which a checkpoint stands for its events."""
    suspects: set[str] = field(default_factory=set)
    faults: dict[str, Fault] = field(default_factory=dict)

    def expect(self, heads: Mapping[str, Head]) -> None:
        """Take note of what a checkpoint says."""
        for ticket, (version, hash_) in heads.items():
            self.expected.setdefault(ticket, {})[version] = hash_
            self.covered[ticket] = max(version, self.covered.get(ticket, 0))

    def see(self, event: Event) -> None:
        """Check an event that is its ticket's next; put aside tickets where something is odd."""
        version, hash_ = self.heads.get(event.ticket, (0, None))
        if event.version == version + 1 and event.previous == hash_ and event.is_itself():
            self.heads[event.ticket] = (event.version, event.hash)
        else:
            self.suspects.add(event.ticket)
        self.count(event)

    def count(self, event: Event) -> None:
        """Count an event, and compare it with what checkpoints say."""
        self.events += 1
        if event.version > self.covered.get(event.ticket, 0):
            self.uncovered += 1
            at = event.plain and event.plain["recorded_at"]
            if isinstance(at, int):
                self.uncovered_since = min(at, self.uncovered_since or at)
        wanted = self.expected.get(event.ticket, {}).pop(event.version, None)
        if wanted not in (None, event.hash):
            self.report(event, "edited", "a checkpoint holds another hash for it")

    def judge(self, ticket: str, stream: Sequence[Event]) -> None:
        """Look at all of a suspect ticket's events at once."""
        fault = examine(stream)
        if fault is not None:
            self.add(fault)
        elif stream:
            self.heads[ticket] = (stream[-1].version, stream[-1].hash)

    def finish(self) -> list[Fault]:
        """Report what checkpoints expect and is not there; return all faults by ticket."""
        for ticket, missing in self.expected.items():
            if missing:
                version = self.heads.get(ticket, (0, ""))[0] + 1
                detail = f"a checkpoint knows version {max(missing)} of this ticket"
                self.add(Fault(ticket, min(version, *missing), "deleted", detail))
        return sorted(self.faults.values())

    def report(self, event: Event, kind: Kind, detail: str) -> None:
        """Note that an event is not what was written."""
        self.add(Fault(event.ticket, event.version, kind, detail))

    def add(self, fault: Fault) -> None:
        """Note a fault, unless one of an earlier version of the ticket is known."""
        known = self.faults.get(fault.ticket)
        if known is None or fault.version < known.version:
            self.faults[fault.ticket] = fault
