"""Print the API's OpenAPI document, as a server would give it at /openapi.json."""

import argparse
import sys

import orjson

from api.app import create_app
from eventstore.database import Database
from eventstore.log import EventStore
from scripts.cli import start


def document() -> bytes:
    """Return the document; no database is asked."""
    nowhere = Database("mongodb://127.0.0.1:9/")
    return orjson.dumps(
        create_app(nowhere, EventStore(nowhere)).openapi(),
        option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
    )


async def main(_: argparse.Namespace) -> int:
    sys.stdout.buffer.write(document())
    return 0


if __name__ == "__main__":
    start("openapi", main)
