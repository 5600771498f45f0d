"""Resume tokens: where in the change stream to go on; in order, and as text."""

from collections.abc import Mapping

import bson
from bson.errors import BSONError

ResumeToken = Mapping[str, object]

_BSON = "bson:"


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


def token_text(token: ResumeToken) -> str:
    """Write a token as text: mostly it is one, and a server may put more into it."""
    data = token.get("_data")
    return data if isinstance(data, str) and len(token) == 1 else _BSON + bson.encode(token).hex()


def token_from(text: str) -> ResumeToken:
    """Read a token that `token_text` has written."""
    if text.startswith(_BSON):
        return bson.decode(bytes.fromhex(text.removeprefix(_BSON)))
    return {"_data": text}
