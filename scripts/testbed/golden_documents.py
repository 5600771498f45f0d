"""Documents as every version wrote them, and as newer ones might.

`tests/golden/stored.ndjson` holds documents of everything that is stored outside the log and the
views: each as a version wrote it, named by what that version brought, or as one of the future may
write it. Lines are added, never changed. `reads` says whether this version can read the document.
"""

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from bson import json_util

from domain.values import JsonObject
from eventstore.database import Database
from eventstore.log import EventStore
from eventstore.mongo import driver
from eventstore.personal.vault import KEYRING, PERSONS, keys_database
from projections.generations import OF_FORMER_LAYOUT, views_database

GOLDEN = Path(__file__).parent.parent.parent / "tests" / "golden" / "stored.ndjson"
MASTER_KEY = "Z29sZGVuIHN0b3JlZCBkb2N1bWVudHMga2V5IDAwMDE="
"""What wraps the golden keys of persons."""
_MAY_CHANGE: Mapping[str, Collection[str]] = {
    "access_log": ("principal", "person"),
    "api_keys": ("revoked_at",),
    "desks": (),
    "log_checkpoint_heads": (),
    "log_checkpoints": (),
    "restores": (),
    "saved_views": ("id", "filter", "saved_at"),
    "secrets": (),
    "webhook_deliveries": (
        *("status", "failures", "failing_since", "next_at", "attempts", "done_at"),
    ),
    "webhook_dispatch": ("owner", "epoch", "seen_at", "token", "looked_at"),
    "webhooks": (
        *("since", "backfill", "url", "types", "filter", "ended_at", "rests_until", "since_at"),
    ),
    PERSONS: ("tree",),
}
"""Collections whose documents are kept, and which of their fields are there to be changed."""


class Golden(NamedTuple):
    """One document as a version wrote it; `reads`: whether this version can read it."""

    version: str
    collection: str
    reads: bool
    document: JsonObject


def golden(collection: str | None = None) -> list[Golden]:
    """Return all of them, or those of a collection."""
    options = json_util.JSONOptions(
        json_mode=json_util.JSONMode.CANONICAL, tz_aware=True, uuid_representation=4
    )
    lines = GOLDEN.read_text().splitlines()
    found = [Golden(**json_util.loads(line, json_options=options)) for line in lines]
    return [each for each in found if collection in (None, each.collection)]


def text_of(number: int) -> str:
    """Return the text of a golden API key."""
    id_ = f"{number:024x}"
    return f"casebook_{id_}_{hashlib.sha256(id_.encode()).hexdigest()}"


def collection_of(database: Database, name: str) -> driver.Collection:
    """Return where documents are, those of the keys of persons and of the views too."""
    if name in (PERSONS, KEYRING):
        return database.client[keys_database(database.name)][name]
    is_of_views = OF_FORMER_LAYOUT.fullmatch(name)
    return database.client[views_database(database.name) if is_of_views else database.name][name]


async def load(database: Database) -> None:
    """Store all golden documents, in an empty database."""
    since = await EventStore(database).position()  # tokens are of one database
    for each in golden():
        change = {"since": since} if each.collection == "webhooks" else {}
        await collection_of(database, each.collection).insert_one({**each.document, **change})


async def changed(database: Database) -> list[str]:
    """Return which golden documents have changed where they may not."""
    found = []
    for each in golden():
        if (free := _MAY_CHANGE.get(each.collection)) is None:
            continue
        id_ = each.document["_id"]
        now = await collection_of(database, each.collection).find_one({"_id": id_})
        if now is None or _without(now, free) != _without(each.document, free):
            found.append(f"{id_} in {each.collection}")
    return found


def _without(document: JsonObject, fields: Collection[str]) -> bytes:
    kept = {name: value for name, value in document.items() if name not in fields}
    return driver.encode_bson(kept)
