"""What it means for a log to be as it was written: hashes, chains, heads, roots. No I/O.

Written from docs/hash-chain.md alone, and shared with nothing that writes the log, so that one
mistake cannot hide in both. `scripts/verify.py` reads events and checkpoints for it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple
from uuid import UUID

Kind = Literal["edited", "deleted", "inserted", "reordered"]
Plain = Mapping[str, object]
Head = tuple[int, str]
"""A version and the hash (hex) of the event that has it."""

FIELDS = frozenset(
    {"id", "ticket_id", "version", "type", "schema", "data", "occurred_at", "recorded_at"}
    | {"actor", "command", "correlation_id", "causation_id", "previous", "hash"}
)
"""The members of an event, all but `sealed`, which one has that is personal in part."""

_REACH = 100  # how far events may have been renumbered and still be recognised


class Fault(NamedTuple):
    """Where the log is not what was written: the ticket's first bad version."""

    ticket: str
    version: int
    kind: Kind
    detail: str


@dataclass(slots=True)
class Event:
    """A stored event: where it stands, and its content if it has the form of an event."""

    ticket: str
    version: int
    plain: Plain | None

    @property
    def hash(self) -> str:
        return str(self.plain["hash"]) if self.plain else ""

    @property
    def previous(self) -> str | None:
        return None if self.plain is None else str(self.plain["previous"] or "") or None

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
    hashes = [None, *(before.hash for before in stream[:index])]
    after = stream[index + 1] if index + 1 < len(stream) else None
    if after and after.previous == hashes[-1] and after.is_itself(event.version):
        if event.is_itself(after.version):
            detail = f"it has changed places with version {after.version}"
            return Fault(event.ticket, event.version, "reordered", detail)
        detail = "the events behind it follow what stands before it"
        return Fault(event.ticket, event.version, "inserted", detail)
    for distance in range(1, _REACH + 1):
        if event.is_itself(event.version + distance):
            detail = f"what stands here was written as version {event.version + distance}"
            return Fault(event.ticket, event.version, "deleted", detail)
        if (
            distance <= index
            and event.previous == hashes[index - distance]
            and event.is_itself(event.version - distance)
        ):
            detail = f"version {event.version} follows what stands before it"
            return Fault(event.ticket, event.version - distance, "inserted", detail)
    detail = "its content is not what its hash was made of"
    return Fault(event.ticket, event.version, "edited", detail)


def _broken_link(stream: Sequence[Event], index: int) -> Fault:
    """Say what is wrong where an event is itself but does not follow the one before it."""
    event = stream[index]
    if index == 0:
        return Fault(event.ticket, 1, "deleted", "what stands first follows another event")
    before = stream[index - 1]
    detail = f"version {event.version} follows another event than this one"
    return Fault(event.ticket, before.version, "edited", detail)


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

    def expect(self, ticket: str, version: int, hash_: str) -> None:
        """Take note of what a checkpoint says."""
        self.expected.setdefault(ticket, {})[version] = hash_
        self.covered[ticket] = max(version, self.covered.get(ticket, 0))

    def see(self, event: Event) -> None:
        """Check an event that is its ticket's next; put aside tickets where something is odd."""
        version, hash_ = self.heads.get(event.ticket, (0, None))
        if event.version == version + 1 and event.previous == hash_ and event.is_itself():
            self.heads[event.ticket] = (event.version, event.hash)
        else:
            self.suspects.add(event.ticket)
        self.tick_off(event)

    def tick_off(self, event: Event) -> None:
        """Count an event, and compare it with what checkpoints say."""
        self.events += 1
        if event.version > self.covered.get(event.ticket, 0):
            self.uncovered += 1
            at = event.plain and event.plain["recorded_at"]
            if isinstance(at, int):
                self.uncovered_since = min(at, self.uncovered_since or at)
        wanted = self.expected.get(event.ticket, {}).pop(event.version, None)
        if wanted not in (None, event.hash):
            detail = "a checkpoint holds another hash for it"
            self.report(Fault(event.ticket, event.version, "edited", detail))

    def judge(self, ticket: str, stream: Sequence[Event]) -> None:
        """Look at all of a suspect ticket's events at once."""
        fault = examine(stream)
        if fault is not None:
            self.report(fault)
        elif stream:
            self.heads[ticket] = (stream[-1].version, stream[-1].hash)

    def finish(self) -> list[Fault]:
        """Report what checkpoints expect and nobody has seen; return all faults by ticket."""
        for ticket, missing in self.expected.items():
            if missing:
                version = self.heads.get(ticket, (0, ""))[0] + 1
                detail = f"a checkpoint knows version {max(missing)} of this ticket"
                self.report(Fault(ticket, min(version, *missing), "deleted", detail))
        return sorted(self.faults.values())

    def report(self, fault: Fault) -> None:
        known = self.faults.get(fault.ticket)
        if known is None or fault.version < known.version:
            self.faults[fault.ticket] = fault


# --- checkpoints ---------------------------------------------------------------------------------


def root_of(heads: Mapping[str, Head]) -> str:
    """Return the Merkle root (RFC 6962) over heads, in hex."""
    leaves = sorted(
        UUID(ticket).bytes + version.to_bytes(8, "big") + bytes.fromhex(hash_)
        for ticket, (version, hash_) in heads.items()
    )
    return _tree([hashlib.sha256(b"\x00" + leaf).digest() for leaf in leaves]).hex()


def _tree(nodes: Sequence[bytes]) -> bytes:
    if not nodes:
        return hashlib.sha256(b"").digest()
    while len(nodes) > 1:
        pairs = zip(nodes[0::2], nodes[1::2], strict=False)
        joined = [hashlib.sha256(b"\x01" + left + right).digest() for left, right in pairs]
        nodes = [*joined, nodes[-1]] if len(nodes) % 2 else joined
    return nodes[0]


def statement_bytes(checkpoint: Mapping[str, object], number: int) -> bytes:
    """Return the bytes of a checkpoint that are signed."""
    names = ("events", "previous", "root", "taken_at", "tickets")
    content = {**{n: checkpoint[n] for n in names}, "format": 1, "number": number}
    if checkpoint.get("restored") is not None:
        content |= {"format": 2, "restored": checkpoint["restored"]}
    return canonical(content)


@dataclass(slots=True)
class Signed:
    """What the signed checkpoints of a log say, one after the other."""

    digests: dict[int, str] = field(default_factory=dict)
    """By number: the SHA-256 of the statement (hex)."""
    claims: dict[int, dict[str, Head]] = field(default_factory=dict)
    """By number: the heads that are new in it; not of those that a restore gave up."""
    heads: dict[str, Head] = field(default_factory=dict)
    """The heads that the last one stands for."""
    latest: Mapping[str, object] = field(default_factory=dict)
    restores: dict[int, Mapping[str, object]] = field(default_factory=dict)
    """By number: what a statement says of a restore."""

    def follow(self, checkpoint: Mapping[str, object], digest: str) -> int:
        """Take the next statement, whose signature was checked; return its number.

        Raises KeyError, TypeError, ValueError if it does not follow the one before it.
        """
        before = max(self.digests, default=-1)
        number, restored = checkpoint["_id"], checkpoint.get("restored")
        if not isinstance(number, int) or checkpoint["previous"] != self.digests.get(before):
            raise ValueError("it does not follow the one before it")
        if restored is None:
            if number != before + 1:
                raise ValueError("it does not follow the one before it")
        else:
            self._go_back(number, before, restored)
        self.digests[number] = digest
        self.latest = checkpoint
        return number

    def _go_back(self, number: int, before: int, restored: object) -> None:
        """Return up what stands behind the checkpoint from which a restored log goes on."""
        if not isinstance(restored, dict):
            raise TypeError("it does not say what was restored")
        last, since = _known(restored["last"]), _known(restored["from"])
        if number <= before or number != last[0] + 1:
            raise ValueError("it does not follow the last one that it names")
        if since[0] >= 0 and self.digests.get(since[0]) != since[1]:
            raise ValueError("the checkpoint is not there from which it goes on")
        for other in [other for other in self.claims if other > since[0]]:
            del self.claims[other]
        self.heads = {}
        self.restores[number] = restored

    def claim(self, number: int, heads: Mapping[str, Head]) -> None:
        """Take note of the heads that are new in a checkpoint."""
        self.claims[number] = dict(heads)
        self.heads |= heads

    def given_up_by(self, number: int) -> int | None:
        """Return the number of the restore that gave a checkpoint up; None if none did."""
        for restore, said in self.restores.items():
            if _known(said["from"])[0] < number < restore:
                return restore
        return None


def _known(content: object) -> tuple[int, str]:
    """Read a checkpoint's number and digest; (-1, "") for none."""
    match content:
        case None:
            return -1, ""
        case {"number": int(number), "digest": str(digest)}:
            return int(number), digest
    raise ValueError("it names a checkpoint in another form")
