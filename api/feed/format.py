"""How events and cursors are written: as lines of JSON, and as server-sent events."""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import orjson

from api.cursors import Cursors
from api.queries.representations import present_event
from domain.values import JsonObject
from eventstore.database import Database
from eventstore.event_document import EventDocument
from eventstore.log import EventStore
from eventstore.mongo.resume_tokens import token_from, token_text
from eventstore.subscription import Position

ALIVE = b": alive\n\n"
"""A comment: it tells a stream's client, and whatever is between, that it lives."""


class _Written(NamedTuple):
    """A `Position` as a cursor says it."""

    token: str
    at: datetime
    scanned: tuple[UUID, int] | None
    behind: bool


class Writer:
    """Writes what clients of one log get, and reads the cursors that they send."""

    def __init__(self, database: Database, store: EventStore) -> None:
        self._store = store
        self._cursors = Cursors(database, "events", _Written)

    async def cursor(self, position: Position) -> str:
        """Return the cursor of a position. Raises StoreUnavailable."""
        token, at, scanned, behind = position
        return await self._cursors.write([token_text(token), at.isoformat(), scanned, behind])

    async def position(self, cursor: str | None) -> Position | None:
        """Return the position of a cursor, if any. Raises Unacceptable, StoreUnavailable."""
        written = await self._cursors.read(cursor)
        return None if written is None else Position(token_from(written.token), *written[1:])

    async def cursor_line(self, position: Position) -> bytes:
        """Write a line with a cursor."""
        return json_line({"cursor": await self.cursor(position)})

    async def line(self, event: EventDocument) -> bytes:
        """Write a stored event as a line, opened. Raises StoreUnavailable."""
        [opened] = await self._store.open([event])
        return event_line(event, opened)

    async def block(self, event: EventDocument, position: Position) -> bytes:
        """Write a server-sent event; `position` is behind it."""
        type_ = str(event.get("type"))
        line = await self.line(event)
        return _block(
            event=type_ if type_.isprintable() else None,
            data=line.decode().rstrip("\n"),
            id=await self.cursor(position),
        )

    async def mark(self, position: Position, retry_milliseconds: int | None = None) -> bytes:
        """Write where a client is and no event: it sends that when it comes back."""
        return _block(id=await self.cursor(position), retry=retry_milliseconds)


def event_line(stored: EventDocument, event: EventDocument) -> bytes:
    """Write an event, as it is stored and opened."""
    return json_line(present_event(stored, event))


def _block(**fields: str | int | None) -> bytes:
    """Write a server-sent event; no field has a line break."""
    lines = [f"{name}: {value}\n" for name, value in fields.items() if value is not None]
    return f"{''.join(lines)}\n".encode()


def error_line(code: str, detail: str) -> bytes:
    """Write that an export is not all there is, and why."""
    return json_line({"error": {"code": code, "detail": detail}})


def json_line(content: JsonObject) -> bytes:
    """Write a line of JSON; what is no JSON is shown as text."""
    return orjson.dumps(content, default=str, option=orjson.OPT_APPEND_NEWLINE)
