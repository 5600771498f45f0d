"""Documents as lines of MongoDB's extended JSON: types and all."""

from bson import json_util
from bson.binary import UuidRepresentation

from domain.values import JsonObject

_FORM = json_util.CANONICAL_JSON_OPTIONS.with_options(
    tz_aware=True, uuid_representation=UuidRepresentation.STANDARD
)


def to_line(document: JsonObject) -> bytes:
    """Return a document as a line."""
    return json_util.dumps(document, json_options=_FORM).encode() + b"\n"


def from_line(line: bytes) -> JsonObject:
    """Read a line back. Raises ValueError."""
    try:
        document: JsonObject = json_util.loads(line.decode(), json_options=_FORM)
    except (TypeError, KeyError) as error:
        raise ValueError(f"a line is no document: {error!r}") from error
    return document
