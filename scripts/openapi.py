"""Print the API's OpenAPI document, as a server would give it at /openapi.json."""

import sys

import orjson

from api.app import create_app
from eventstore.database import Database
from eventstore.log import EventStore
from scripts.console import arguments


def document() -> bytes:
    """Return the document; no database is asked."""
    nowhere = Database("mongodb://127.0.0.1:9/")
    return orjson.dumps(
        create_app(nowhere, EventStore(nowhere)).openapi(),
        option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
    )


if __name__ == "__main__":
    arguments(__doc__, "openapi").parse_args()
    sys.stdout.buffer.write(document())
