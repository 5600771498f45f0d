"""Every shape of event that was ever written, as it was written (L10).

`python -m tests.golden_events` adds a line for each shape of today that has none yet. Lines are
added, never changed: logs hold such events for ever. So each has a digest over itself and those
before it.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints
from uuid import UUID

import orjson

from domain.calendars import Calendar
from domain.tickets import EVENT_TYPES, encode

EVENTS = Path(__file__).parent / "golden" / "events.ndjson"
_BY_TYPE: Mapping[object, object] = {
    str: "text",
    int: 1,
    bool: True,
    datetime: datetime(2026, 3, 1, 12, tzinfo=UTC),
    UUID: UUID("018f3e1a-0000-7000-8000-000000000001"),
    Calendar: Calendar("office", 3, "Europe/Berlin", ((0, 540, 1020),), ("2026-12-25",)),
}


def golden() -> list[dict[str, Any]]:
    """Return what is stored of each event, and the digest of the line."""
    return [orjson.loads(line) for line in EVENTS.read_bytes().splitlines()]


def digest(before: str, content: object) -> str:
    """Return the digest of a line behind one of the digest `before`, as in a chain."""
    return hashlib.sha256(before.encode() + orjson.dumps(content)).hexdigest()[:16]


def example(hint: Any) -> Any:
    """Return a value of a field's type: of several types, of the first."""
    inner = get_args(hint)
    if hint in _BY_TYPE:
        return _BY_TYPE[hint]
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        hints = get_type_hints(hint, include_extras=True)
        return hint(*(example(hints[field.name]) for field in dataclasses.fields(hint)))
    if get_origin(hint) is Literal:
        return inner[0]
    if get_origin(hint) is tuple:
        return (example(inner[0]),)
    if get_origin(hint) is Mapping:
        return {"floor": example(inner[1])}
    if get_origin(hint) is Annotated or inner:
        return example(inner[0])
    raise TypeError(f"say in _BY_TYPE what is an example of {hint}")


def add_missing() -> None:
    """Write a line for each shape that has none."""
    former = golden()
    last = former[-1]["digest"]
    written = {(stored["type"], stored["schema"]) for stored in former}
    with EVENTS.open("ab") as file:
        for name, cls in EVENT_TYPES.items():
            if (name, cls.schema) not in written:
                type_, schema, data, _ = encode(example(cls), "bob")
                content = {"type": type_, "schema": schema, "data": data}
                last = digest(last, content)
                file.write(orjson.dumps({**content, "digest": last}) + b"\n")


if __name__ == "__main__":
    add_missing()
