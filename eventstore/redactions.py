"""Words that were redacted are read by nobody: whoever opens an event has `REDACTED` for them.

An event of the log with `redacts` in its data says so of another event of its ticket: of what
version, and, in `fields`, of which fields of its data; of what other events the command's
fingerprint is to go, it says in `same_command`. It stands behind the other, so a reader that
has come to one must know of those ahead. A process has all of them in memory (some 300 bytes each):
those that it is told of by any event that it reads or writes, and every two seconds
(`personal/erasure_news.py`) those that others have written. Nothing is kept beside the log.
"""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import cast
from uuid import UUID

from domain.values import REDACTED, JsonObject, redacted
from eventstore.event_document import TICKET_EVENTS, EventDocument, is_event
from eventstore.mongo.coalesced_reads import CoalescedReads

_OVERLAP = timedelta(minutes=10)  # by which clocks may differ, and an append be late
_ALL_SECONDS = 300.0
Place = tuple[UUID, int]
"""An event, by its ticket and version."""


def redacts(document: Mapping[str, object]) -> int | None:
    """Return the version of the event that a stored event redacts, if it does."""
    data = document.get("data")
    version = data.get("redacts") if isinstance(data, dict) else None
    return version if isinstance(version, int) else None


class Redactions:
    """What is known to be redacted in one log."""

    def __init__(self, reads: CoalescedReads) -> None:
        self._reads = reads
        self.tickets: dict[bytes, UUID] = {}
        """The ticket of each redaction, by its event's hash."""
        self.fields: dict[Place, frozenset[str]] = {}
        """What is redacted of an event."""
        self.to_destroy: set[Place] = set()
        """Events of which keys may be left, for the process that destroys them."""
        self._newest = datetime.min.replace(year=2, tzinfo=UTC)
        self._looked_at = float("-inf")  # for all of them

    async def look(self, within_seconds: float = 0.0) -> bool:
        """Learn what is new; return whether anything was. Raises what the driver raises."""
        now = asyncio.get_running_loop().time()
        condition: JsonObject = {"data.redacts": {"$gt": 0}}
        # For all now and then: an append of unknown outcome may arrive hours after it was recorded.
        looks_for_all = now - self._looked_at > _ALL_SECONDS
        if self.tickets and not looks_for_all:
            condition["recorded_at"] = {"$gte": self._newest - _OVERLAP}
        found = await self._reads.find(
            TICKET_EVENTS, condition, within_seconds=within_seconds, is_large=True
        )
        if looks_for_all:
            self._looked_at = now
        return self.learn(found)

    def learn(self, documents: Iterable[Mapping[str, object]]) -> bool:
        """Learn what some stored events redact; return whether anything was new."""
        before = len(self.tickets)
        for document in filter(redacts, documents):
            match document:
                case {
                    "hash": bytes(hash_),
                    "ticket_id": UUID() as ticket_id,
                    "data": {"redacts": int(version), "fields": [*fields], **more},
                } if hash_ not in self.tickets:
                    self.tickets[hash_] = ticket_id
                    if isinstance(at := document.get("recorded_at"), datetime):
                        self._newest = max(self._newest, at)
                    self._learn((ticket_id, version), map(str, fields))
                    others = more.get("same_command")
                    for other in others if isinstance(others, list) else ():
                        with suppress(KeyError, TypeError, ValueError):  # it was tampered with
                            self._learn((UUID(other["ticket"]), int(other["version"])), ())
        return len(self.tickets) > before

    def _learn(self, place: Place, fields: Iterable[str]) -> None:
        self.fields[place] = self.fields.get(place, frozenset()) | {*fields}
        self.to_destroy.add(place)

    def without(self, document: EventDocument) -> EventDocument:
        """Return an event, opened, without what was redacted of it. The command's fingerprint goes
        too: by it, short words could be guessed.
        """
        if not self.fields or not is_event(document):
            return document
        fields = self.fields.get((document["ticket_id"], document["version"]))
        if fields is None:
            return document
        data = {
            name: redacted(value) if name in fields else value
            for name, value in document["data"].items()
        }
        command = {**document["command"], "fingerprint": REDACTED}
        return cast("EventDocument", {**document, "data": data, "command": command})
