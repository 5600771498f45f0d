"""Resume tokens: where in the change stream to go on; in order, and as text."""

import string
from collections.abc import Mapping
from datetime import UTC, datetime

import bson
from bson.errors import BSONError

ResumeToken = Mapping[str, object]

_BSON = "bson:"
_TIMESTAMP = "82"
_TIMESTAMP_DIGITS = len(_TIMESTAMP) + 2 * 8


def stream_order(token: ResumeToken) -> str:
    """Return what tokens of one server's stream can be compared by: the earlier is the smaller.

    MongoDB's are hexadecimal strings that sort in the order of the stream (its manual, "Change
    Streams", on resume tokens). Those of the embedded server are BSON documents with a number `s`.
    """
    data = str(token["_data"])
    try:
        number = bson.decode(bytes.fromhex(data)).get("s")
    except (BSONError, ValueError):
        return data
    return f"{number:020d}" if isinstance(number, int) else data


def token_time(token: ResumeToken) -> datetime | None:
    """Return the time of the cluster up to which the stream has been read, in whole seconds; None
    if a token does not tell.

    `_data` is a key string, and the first thing in it is a timestamp: its type (130), seconds and a
    number, of four bytes each (MongoDB's sources, `key_string.cpp` and `resume_token.cpp`). The
    manual does not say so: a token of another form just tells nothing.
    """
    data = str(token["_data"])[:_TIMESTAMP_DIGITS]
    is_told = len(data) == _TIMESTAMP_DIGITS and data.startswith(_TIMESTAMP)
    if not is_told or not set(data) <= set(string.hexdigits):
        return None
    return datetime.fromtimestamp(int(data[len(_TIMESTAMP) :][:8], 16), UTC)


def token_text(token: ResumeToken) -> str:
    """Write a token as text: mostly it is one, and a server may put more into it."""
    data = token.get("_data")
    return data if isinstance(data, str) and len(token) == 1 else _BSON + bson.encode(token).hex()


def token_from(text: str) -> ResumeToken:
    """Read a token that `token_text` has written."""
    if text.startswith(_BSON):
        return bson.decode(bytes.fromhex(text.removeprefix(_BSON)))
    return {"_data": text}
