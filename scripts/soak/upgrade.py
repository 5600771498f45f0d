"""A server over documents as every version wrote them, and as newer ones might (no 5xx).

A server is started over all golden documents, and everything is done that its routes can do. What
cannot be read costs only itself, all else works, and what this version does not know of a document
is there in the end as it was.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import cast

import orjson

from domain.values import JsonObject
from eventstore.database import Database
from eventstore.personal.master_keys import MasterKeys
from scripts.cli import with_progress
from scripts.testbed.golden_documents import (
    MASTER_KEY,
    Golden,
    changed,
    collection_of,
    golden,
    load,
    text_of,
)
from scripts.testbed.harness import READY_SECONDS, free_port, require, serving, until
from scripts.testbed.load import Answer, Connection, request

ADMIN, SUPERVISOR, AGENT, AUDITOR = 4, 2, 7, 5
"""Golden keys of these roles, by number."""
_GOOD, _REFUSED = (0, 1, 2, 4, 5, 6, 7, 8, 9), (3, 10, 11, 12)
_WITHOUT_RIGHTS = 9
_TOO_MANY = 429


class _Client:
    """A client with a golden key, to whom each answer is as expected."""

    def __init__(self, connection: Connection, number: int, counted: Counter[str]) -> None:
        self._connection = connection
        self._headers = {"authorization": f"Bearer {text_of(number)}"}
        self._counted = counted

    async def send(
        self, method: str, path: str, content: object = None, expected: int = 200
    ) -> Answer:
        """Send a request. Raises PromiseBroken for another answer than expected."""
        body = b"" if content is None else orjson.dumps(content)
        raw = request(method, path, body, self._headers)
        while (answer := await self._connection.send(raw)).status == _TOO_MANY:  # noqa: ASYNC110
            await asyncio.sleep(answer.retry_after or 1)  # of keys that are refused
        what = f"{method} {path} is answered with {answer.status}: {answer.body[:300]!r}"
        require(answer.status == expected, what)
        self._counted["requests"] += 1
        return answer

    async def get(self, path: str, expected: int = 200) -> JsonObject:
        return (await self.send("GET", path, expected=expected)).json()

    async def pages(self, path: str, key: str) -> list[JsonObject]:
        """Return all of a list, read a page of one at a time."""
        found: list[JsonObject] = []
        cursor: object = ""
        while cursor is not None:
            page = await self.get(f"{path}?limit=1{cursor}")
            found += cast("list[JsonObject]", page[key])
            cursor = page["next"] and f"&cursor={page['next']}"
        return found


async def upgrade(url: str, rounds: int) -> Counter[str]:
    """Have a server work over golden documents. Raises PromiseBroken."""
    counted: Counter[str] = Counter(documents=len(golden()))
    database = Database(url, masters=MasterKeys.read(MASTER_KEY))
    await load(database)
    port = free_port()
    settings = {"CASEBOOK_MONGODB_URL": url, "CASEBOOK_MASTER_KEY": MASTER_KEY}
    async with serving("scripts.serve", port=port, **settings), Connection(port) as connection:
        clients = [_Client(connection, n, counted) for n, _ in enumerate(golden("api_keys"))]
        await _is_ready(connection)
        for round_ in with_progress(range(rounds), "asking", "rounds"):
            await _keys(clients)
            await _desk(database, clients[ADMIN], round_)
            await _tickets(clients[AGENT])
            await _views(clients[SUPERVISOR])
            await _webhooks(clients[SUPERVISOR])
            await _others(clients)
            require(not (wrong := await changed(database)), f"changed: {wrong}")
        await _revoke_all(clients)
        require(not (wrong := await changed(database)), f"changed: {wrong}")
    await database.close()
    return counted


async def _is_ready(connection: Connection) -> None:
    """Wait until the server is ready; it tells what it cannot read."""

    async def is_ready() -> bool:
        return (await connection.get("/readyz")).status == 200

    await until(is_ready, READY_SECONDS, "the server is ready")
    told = cast("JsonObject", (await connection.get("/readyz")).json().get("unreadable", {}))
    for name in ("api_keys", "saved_views", "webhooks", "generations"):
        unreadable = sum(not each.reads for each in golden(name))
        require(told.get(name, 0) == unreadable, f"/readyz tells {told}, not {unreadable} {name}")


async def _keys(clients: Sequence[_Client]) -> None:
    for number in _GOOD:
        await clients[number].get("/me")
    for number in _REFUSED:
        await clients[number].get("/me", 401)
    await clients[_WITHOUT_RIGHTS].get("/tickets", 403)
    admin = clients[ADMIN]
    told = (await admin.get("/keys"))["unreadable"]
    wanted = {each.document["_id"] for each in golden("api_keys") if not each.reads}
    require(set(cast("list[str]", told)) == wanted, "keys are not told")
    made = await admin.send("POST", "/keys", {"principal": "new", "role": "agent"}, 201)
    await admin.send("DELETE", f"/keys/{made.json()['id']}?with_made=true", expected=204)


async def _desk(database: Database, admin: _Client, round_: int) -> None:
    versions = golden("desks")
    for each in versions:
        await admin.get(f"/desk?version={each.document['_id']}", _status(each))
    desk = cast("JsonObject", (await admin.get("/desk"))["desk"])
    desk["close_resolved_after_days"] = round_ + 1
    version = (await admin.send("PUT", "/desk", desk)).json()["version"]
    stored = await collection_of(database, "desks").find_one({"_id": version})
    former = cast("JsonObject", versions[-1].document["desk"])
    now = cast("JsonObject", (stored or {})["desk"])
    kept = {**now, "close_resolved_after_days": former["close_resolved_after_days"]}
    require(kept == former, "the desk has lost something")


async def _tickets(agent: _Client) -> None:
    opening = {"subject": "Golden", "requester": "bob@example.org", "group": "print"}
    opened = await agent.send("POST", "/tickets", opening, 201)
    path = f"/tickets/{opened.json()['ticket_id']}"
    await agent.send("POST", f"{path}/assign", {"assignee": "golden7"})
    await agent.send("POST", f"{path}/set_field", {"key": "cause", "value": "paper"})
    await agent.send("POST", f"{path}/set_field", {"key": "due", "value": "2026-03-01"}, 422)
    await agent.get(f"{path}/timeline")
    await agent.get("/tickets")


async def _views(supervisor: _Client) -> None:
    await supervisor.get("/views")
    for each in golden("saved_views"):
        await supervisor.get(f"/views/{each.document['_id']}", _status(each))
        await supervisor.get(f"/tickets?view={each.document['_id']}", _status(each))
    await supervisor.send("PUT", "/views/everything", {"solved": False})
    await supervisor.send("PUT", "/views/new", {}, 201)
    await supervisor.send("DELETE", "/views/new", expected=204)


async def _webhooks(supervisor: _Client) -> None:
    hooks = golden("webhooks")
    await supervisor.get("/webhooks")
    for each in hooks:
        await supervisor.get(f"/webhooks/{each.document['_id']}", _status(each))
        await supervisor.get(f"/webhooks/{each.document['_id']}/deliveries", _status(each))
    first = hooks[0].document
    path = f"/webhooks/{first['_id']}"
    told = await supervisor.pages(f"{path}/deliveries", "deliveries")
    known = [each for each in golden("webhook_deliveries") if each.reads]
    require(len(told) >= len(known), "a delivery is not told")
    await supervisor.send("PUT", path, {name: first[name] for name in ("url", "types", "filter")})
    await supervisor.send("POST", f"{path}/resume", expected=202)


async def _others(clients: Sequence[_Client]) -> None:
    records = await clients[AUDITOR].pages("/access_log", "records")
    require("challenged" in {record["outcome"] for record in records}, "a record is not told")
    for path in ("/projections", "/metrics", "/agents", "/dashboard"):
        await clients[SUPERVISOR].send("GET", path)
    for name, status in (("bob@example.org", 200), ("alice", 200), ("dora@example.org", 409)):
        await clients[ADMIN].send("POST", "/persons/find", {"name": name}, status)


def _status(each: Golden) -> int:
    return 200 if each.reads else 409


async def _revoke_all(clients: Sequence[_Client]) -> None:
    """Revoke all golden keys, those that cannot be read too, and last the one that is used."""
    numbers = [number for number, _ in enumerate(clients) if number not in (ADMIN, 0)]
    for number in numbers:
        await clients[ADMIN].send("DELETE", f"/keys/{number:024x}", expected=204)
    await clients[ADMIN].send("DELETE", f"/keys/{ADMIN:024x}?with_made=true", expected=204)
    for number in (*numbers, ADMIN):
        await clients[number].get("/me", 401)
