"""How events and cursors are written: as lines of JSON, and as server-sent events."""

from collections.abc import Mapping

import orjson
from fastapi.sse import format_sse_event

from api.cursors import Cursors
from api.history import as_stored
from api.log_reader import Position, position_from
from eventstore.driver import Database

ALIVE = b": alive\n\n"
"""A comment: it tells a stream's client, and whatever is between, that it lives."""


class Writer:
    """Writes what clients of one log get, and reads the cursors that they send."""

    def __init__(self, database: Database) -> None:
        self._cursors = Cursors(database, "events")

    async def cursor(self, position: Position) -> str:
        """Give the cursor of a position. Raises StoreUnavailable."""
        return await self._cursors.write(position.written())

    async def position(self, cursor: str) -> Position:
        """Give the position of a cursor. Raises Unacceptable, StoreUnavailable."""
        return position_from(await self._cursors.read(cursor))

    async def cursor_line(self, position: Position) -> bytes:
        """Write a line with a cursor."""
        return orjson.dumps({"cursor": await self.cursor(position)}) + b"\n"

    async def block(self, event: Mapping[str, object], position: Position) -> bytes:
        """Write a server-sent event; `position` is behind it."""
        type_ = str(event.get("type"))
        return format_sse_event(
            data_str=line(event).decode().rstrip("\n"),
            event=type_ if type_.isprintable() else None,
            id=await self.cursor(position),
        )

    async def mark(self, position: Position, retry_milliseconds: int | None = None) -> bytes:
        """Write where a client is and no event: it sends that when it comes back."""
        return format_sse_event(id=await self.cursor(position), retry=retry_milliseconds)


def line(event: Mapping[str, object]) -> bytes:
    """Write a stored event; what somebody else has put into the log is shown as text."""
    return orjson.dumps(as_stored(event), default=str, option=orjson.OPT_APPEND_NEWLINE)


def error_line(code: str, detail: str) -> bytes:
    """Write that an export is not all there is, and why."""
    return orjson.dumps({"error": {"code": code, "detail": detail}}) + b"\n"


def no_word(_code: str, _detail: str) -> bytes:
    """Write nothing: a stream that ends is gone on with, and its client is answered then."""
    return b""
