"""A server over documents as every version wrote them, and as newer ones might (no 5xx).

`tests/golden/stored.ndjson` holds documents of everything that is stored outside the log and the
views: each as a version wrote it, named by what that version brought, or as one of the future may
write it. Lines are added, never changed. `reads` says whether this version can read the document.

A server is started over all of them, and everything is done that its routes can do. What cannot be
read costs only itself, all else works, and what this version does not know of a document is there
in the end as it was.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, cast

import bson
import orjson
from bson import json_util

from domain.values import JsonObject
from eventstore.database import Database
from eventstore.log import EventStore
from eventstore.mongo.driver import Collection
from eventstore.personal.master_keys import MasterKeys
from eventstore.personal.vault import KEYRING, PERSONS, keys_of
from scripts.console import with_progress
from scripts.testbed.load import Answer, Connection, request
from scripts.testbed.promises import free_port, require, serving

GOLDEN = Path(__file__).parent.parent.parent / "tests" / "golden" / "stored.ndjson"
MASTER_KEY = "Z29sZGVuIHN0b3JlZCBkb2N1bWVudHMga2V5IDAwMDE="
"""What wraps the golden keys of persons."""

ADMIN, SUPERVISOR, AGENT, AUDITOR = 4, 2, 7, 5
"""Golden keys of these roles, by number."""
_GOOD, _GOOD_FOR_NOTHING = (0, 1, 2, 4, 5, 6, 7, 8, 9), (3, 10, 11, 12)
_CHANGED: Mapping[str, frozenset[str]] = {
    "api_keys": frozenset({"revoked_at"}),
    "webhooks": frozenset(
        {"since", "backfill", "url", "types", "filter", "ended_at", "rests_until", "since_at"}
    ),
    "webhook_deliveries": frozenset(
        {"status", "failures", "failing_since", "next_at", "attempts", "done_at"}
    ),
    "webhook_dispatch": frozenset({"owner", "epoch", "seen_at", "token", "looked_at"}),
    "saved_views": frozenset({"id", "filter", "saved_at"}),
    "access_log": frozenset({"principal", "person"}),
}
"""Fields that are there to be changed. Of all other collections no golden document is."""
_KEPT = (
    *("api_keys", "desks", "webhooks", "webhook_deliveries", "webhook_dispatch", "saved_views"),
    *("secrets", "access_log", "log_checkpoints", "log_checkpoint_heads", "restores", PERSONS),
)
_READY_TRIES = 3_000
_TOO_MANY = 429


class Golden(NamedTuple):
    """One document as a version wrote it; `reads`: whether this version can read it."""

    version: str
    collection: str
    reads: bool
    document: JsonObject


def golden() -> list[Golden]:
    """Return all of them."""
    options = json_util.JSONOptions(
        json_mode=json_util.JSONMode.CANONICAL, tz_aware=True, uuid_representation=4
    )
    lines = GOLDEN.read_text().splitlines()
    return [Golden(**json_util.loads(line, json_options=options)) for line in lines]


def text_of(number: int) -> str:
    """Return the text of a golden key."""
    id_ = f"{number:024x}"
    return f"casebook_{id_}_{hashlib.sha256(id_.encode()).hexdigest()}"


def collection_of(database: Database, name: str) -> Collection:
    """Return where documents are, those of the keys of persons too."""
    if name in (PERSONS, KEYRING):
        return database.client[keys_of(database.name)][name]
    return database.client[database.name][name]


async def load(database: Database) -> None:
    """Store all golden documents, in an empty database."""
    since = await EventStore(database).position()  # tokens are of one database
    for each in golden():
        change = {"since": since} if each.collection == "webhooks" else {}
        await collection_of(database, each.collection).insert_one({**each.document, **change})


async def changed(database: Database) -> list[str]:
    """Return which golden documents are not what they were, but for what is there to be changed."""
    found = []
    for each in golden():
        if each.collection not in _KEPT:
            continue
        id_ = each.document["_id"]
        now = await collection_of(database, each.collection).find_one({"_id": id_})
        free = _CHANGED.get(each.collection, frozenset())
        if now is None or _apart(now, free) != _apart(each.document, free):
            found.append(f"{id_} in {each.collection}")
    return found


def _apart(document: JsonObject, free: frozenset[str]) -> bytes:
    kept = {name: value for name, value in document.items() if name not in free}
    codec: bson.CodecOptions[JsonObject] = bson.CodecOptions(uuid_representation=4)
    return bson.encode(kept, codec_options=codec)


class Client:
    """Somebody with a golden key, who takes no 5xx for an answer."""

    def __init__(self, connection: Connection, number: int, counted: Counter[str]) -> None:
        self._connection = connection
        self._headers = {"authorization": f"Bearer {text_of(number)}"}
        self._counted = counted

    async def __call__(
        self, method: str, path: str, content: object = None, expected: int = 200
    ) -> Answer:
        """Ask; raises PromiseBroken for another answer than expected."""
        body = b"" if content is None else orjson.dumps(content)
        raw = request(method, path, body, self._headers)
        while (answer := await self._connection.send(raw)).status == _TOO_MANY:  # noqa: ASYNC110
            await asyncio.sleep(answer.retry_after or 1)  # of keys that are good for nothing
        what = f"{method} {path} is answered with {answer.status}: {answer.body[:300]!r}"
        require(answer.status == expected, what)
        self._counted["requests"] += 1
        return answer

    async def pages(self, path: str, key: str) -> list[JsonObject]:
        """Return all of a list, read a page of one at a time."""
        found: list[JsonObject] = []
        cursor: object = ""
        while cursor is not None:
            page = (await self("GET", f"{path}?limit=1{cursor}")).json()
            found += cast("list[JsonObject]", page[key])
            cursor = page["next"] and f"&cursor={page['next']}"
        return found


async def upgrade(url: str, rounds: int) -> Counter[str]:
    """Have a server work over golden documents. Raises PromiseBroken."""
    database = Database(url, masters=MasterKeys.read(MASTER_KEY))
    await load(database)
    port = free_port()
    settings = {
        "CASEBOOK_MONGODB_URL": url,
        "CASEBOOK_PORT": str(port),
        "CASEBOOK_MASTER_KEY": MASTER_KEY,
    }
    counted: Counter[str] = Counter(documents=len(golden()))
    try:
        async with (
            serving("scripts.serve", port=port, **settings),
            Connection(port) as connection,
        ):
            await _is_ready(connection)
            for round_ in with_progress(range(rounds), "asking", "rounds"):
                await _everything(database, connection, counted, round_)
                require(not (wrong := await changed(database)), f"changed: {wrong}")
            await _revoked(connection, counted)
            require(not (wrong := await changed(database)), f"changed: {wrong}")
    finally:
        await database.close()
    return counted


async def _is_ready(connection: Connection) -> None:
    """Wait until the server is ready; it tells what it cannot read."""
    answer = await connection.get("/readyz")
    for _ in range(_READY_TRIES):
        if answer.status == 200:
            break
        answer = await connection.get("/readyz")
    require(answer.status == 200, f"/readyz is answered with {answer.body!r}")
    told = cast("Mapping[str, int]", answer.json().get("unreadable", {}))
    unreadable = Counter(each.collection for each in golden() if not each.reads)
    for name in ("api_keys", "saved_views", "webhooks", "generations"):
        require(told.get(name) == unreadable[name], f"/readyz tells {told}, of {unreadable}")


async def _everything(
    database: Database, connection: Connection, counted: Counter[str], round_: int
) -> None:
    admin, supervisor, agent, auditor = (
        Client(connection, number, counted) for number in (ADMIN, SUPERVISOR, AGENT, AUDITOR)
    )
    for number in _GOOD:
        await Client(connection, number, counted)("GET", "/me")
    for number in _GOOD_FOR_NOTHING:
        await Client(connection, number, counted)("GET", "/me", expected=401)
    await Client(connection, 9, counted)("GET", "/tickets", expected=403)
    await _keys(admin)
    await _desk(database, admin, round_)
    await _tickets(agent)
    await _views(supervisor)
    await _webhooks(supervisor)
    records = await auditor.pages("/access_log", "records")
    require("challenged" in {record["outcome"] for record in records}, "a record is not told")
    for path in ("/projections", "/metrics", "/agents", "/dashboard"):
        await supervisor("GET", path)
    for name, status in (("bob@example.org", 200), ("alice", 200), ("dora@example.org", 409)):
        await admin("POST", "/persons/find", {"name": name}, status)


async def _keys(admin: Client) -> None:
    listed = (await admin("GET", "/keys")).json()
    unreadable = [e for e in golden() if e.collection == "api_keys" and not e.reads]
    wanted = {each.document["_id"] for each in unreadable}
    require(set(cast("list[str]", listed.get("unreadable"))) == wanted, "keys are not told")
    asked = {"principal": "new", "role": "agent"}
    made = (await admin("POST", "/keys", asked, 201)).json()
    await admin("DELETE", f"/keys/{made['id']}?with_made=true", expected=204)


async def _desk(database: Database, admin: Client, round_: int) -> None:
    versions = [e for e in golden() if e.collection == "desks"]
    for each in versions:
        path = f"/desk?version={each.document['_id']}"
        await admin("GET", path, expected=200 if each.reads else 409)
    desk = cast("JsonObject", (await admin("GET", "/desk")).json()["desk"])
    desk["close_resolved_after_days"] = round_ + 1
    version = (await admin("PUT", "/desk", desk)).json()["version"]
    stored = await collection_of(database, "desks").find_one({"_id": version})
    former = cast("JsonObject", versions[-1].document["desk"])
    now = cast("JsonObject", (stored or {})["desk"])
    kept = {**now, "close_resolved_after_days": former["close_resolved_after_days"]}
    require(kept == former, "the desk has lost something")


async def _tickets(agent: Client) -> None:
    opened = {"subject": "Golden", "requester": "bob@example.org", "group": "print"}
    path = f"/tickets/{(await agent('POST', '/tickets', opened, 201)).json()['ticket_id']}"
    await agent("POST", f"{path}/assign", {"assignee": "alice"})
    await agent("POST", f"{path}/set_field", {"key": "floor", "value": "3"})
    await agent("POST", f"{path}/set_field", {"key": "due", "value": "2026-03-01"}, 422)
    await agent("GET", f"{path}/timeline")
    await agent("GET", "/tickets")


async def _views(supervisor: Client) -> None:
    await supervisor("GET", "/views")
    for each in golden():
        if each.collection == "saved_views":
            status = 200 if each.reads else 409
            await supervisor("GET", f"/views/{each.document['_id']}", expected=status)
            await supervisor("GET", f"/tickets?view={each.document['_id']}", expected=status)
    await supervisor("PUT", "/views/everything", {"solved": False})
    await supervisor("PUT", "/views/new", {}, 201)
    await supervisor("DELETE", "/views/new", expected=204)


async def _webhooks(supervisor: Client) -> None:
    await supervisor("GET", "/webhooks")
    for each in golden():
        if each.collection == "webhooks":
            status, path = 200 if each.reads else 409, f"/webhooks/{each.document['_id']}"
            await supervisor("GET", path, expected=status)
            await supervisor("GET", f"{path}/deliveries", expected=status)
    first = next(each for each in golden() if each.collection == "webhooks")
    path = f"/webhooks/{first.document['_id']}"
    told = await supervisor.pages(f"{path}/deliveries", "deliveries")
    known = [e for e in golden() if e.collection == "webhook_deliveries" and e.reads]
    require(len(told) >= len(known), "a delivery is not told")
    change = {"url": first.document["url"], "types": first.document["types"]}
    await supervisor("PUT", path, {**change, "filter": first.document["filter"]})
    await supervisor("POST", f"{path}/resume", expected=202)


async def _revoked(connection: Connection, counted: Counter[str]) -> None:
    """Revoke all golden keys, those that cannot be read too, and last the one that is used."""
    admin = Client(connection, ADMIN, counted)
    numbers = [number for number in _numbers() if number not in (ADMIN, 0)]
    for number in numbers:
        await admin("DELETE", f"/keys/{number:024x}", expected=204)
    await admin("DELETE", f"/keys/{ADMIN:024x}?with_made=true", expected=204)
    for number in (*numbers, ADMIN):
        await Client(connection, number, counted)("GET", "/me", expected=401)


def _numbers() -> Iterator[int]:
    for each in golden():
        if each.collection == "api_keys":
            yield int(str(each.document["_id"]), 16)
