"""What happens to rubbish: it is refused with a reason, and nothing has changed (L12)."""

import asyncio
import json
from collections import Counter
from contextlib import suppress

from api.http import bodies
from scripts.testbed.patience import patience
from tests.api.test_api import OPEN, serving
from tests.api.test_feed import listening
from tests.bad_input import ALL
from tests.callers import ADMIN, REQUESTER, SOMEBODY


async def state(database):
    """Return all that is kept, but for the key that signs cursors, who was not let in, and when
    this process was last seen.
    """
    names = sorted(await database.client[database.name].list_collection_names())
    return {
        name: await database.collection(name).find().to_list()
        for name in names
        if name not in ("secrets", "access_log", "processes") and not name.startswith("system.")
    }


def who(bad):
    """Return somebody who might ask for this, if it were good."""
    if bad.path.startswith(("/desk", "/projections", "/keys", "/access_log")):
        return ADMIN
    return REQUESTER if "/rate" in bad.path else SOMEBODY


async def test_bad_input_is_refused_with_a_reason_and_changes_nothing(database):
    """L12: hundreds of kinds, each a 4xx problem document that says what to mend."""
    assert len(ALL) >= 300
    assert max(Counter((b.method, b.path, b.content, str(b.headers)) for b in ALL).values()) == 1
    wrong = []
    async with serving(database, project=False) as client:
        ticket = (await client.post("/tickets", json=OPEN)).json()["ticket_id"]
        before = await state(database)
        for bad in ALL:
            path = bad.path.replace("{ticket}", ticket)
            answer = await client.request(
                bad.method, path, content=bad.content, headers={**who(bad), **bad.headers}
            )
            told = answer.headers.get("content-type"), answer.status_code
            problem = answer.json() if told[0] == "application/problem+json" else {}
            found = (*told, problem.get("code"), bool(problem.get("detail")))
            if found != ("application/problem+json", bad.status, bad.code, True):
                wrong.append((bad.method, path[:80], bad.content[:80], bad.headers, found))
        after = await state(database)
    assert wrong == []
    assert {name for name in after if after[name] != before.get(name, [])} == set()


async def said(address, *parts, pause=0.0, close=False):
    """Send bytes as no client library would, and give all that comes back until the end."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)
        if close:
            return b""
        async with asyncio.timeout(patience(20)):
            return await reader.read()
    except ConnectionError:
        return b""  # it was cut off while it still sent
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


POST = (
    b"POST /tickets HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Authorization: " + SOMEBODY["Authorization"].encode() + b"\r\n"
)
OPENING = json.dumps(OPEN).encode()
LENGTH = b"Content-Length: %d\r\n" % len(OPENING)
CLOSE = b"Connection: close\r\n"


async def test_no_rubbish_on_the_wire_does_any_harm(database, store, monkeypatch):
    """L12: it is refused or cut off, and the next one is served."""
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.3)
    async with listening(database, store) as (client, _, _):
        at = client.base_url
        slow = await said(at, POST + LENGTH + b"\r\n", OPENING[:5])
        assert slow.startswith(b"HTTP/1.1 408")
        assert b'"request_timeout"' in slow
        dripping = await said(at, POST + LENGTH + b"\r\n", *([b" "] * 20), pause=0.05)
        assert dripping[:12] in (b"HTTP/1.1 408", b"")
        await said(at, POST + LENGTH + b"\r\n", OPENING[:5], close=True)  # half a request
        await said(at, b"POST /tick", close=True)
        large = await said(at, POST + b"Content-Length: 99999999999\r\n\r\n", OPENING)
        assert large.startswith(b"HTTP/1.1 413")
        chunks = [b"100000\r\n" + b"x" * 2**20 + b"\r\n"] * 6
        chunked = await said(at, POST + b"Transfer-Encoding: chunked\r\n\r\n", *chunks)
        assert chunked[:12] in (b"HTTP/1.1 413", b"")
        for bad in (
            POST + b"".join(b"X-%d: y\r\n" % n for n in range(10_000)) + b"\r\n",
            POST + b"X: " + b"y" * 10**6 + b"\r\n\r\n",
            POST + b"Content-Length: -1\r\n\r\n",
            POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
            POST + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
            POST + b"no colon\r\n\r\n",
            b"POST /tickets\x00 HTTP/1.1\r\n\r\n",
            b"GET /tickets HTTP/9.9\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,
            b"\r\n" * 1000 + b"rubbish\r\n\r\n",
        ):
            answer = await said(at, bad)
            assert answer[:10] in (b"HTTP/1.1 4", b""), (bad[:60], answer[:80])
        endless = await said(at, POST + b"X: " + b"y" * 2**17)
        assert endless[:12] in (b"HTTP/1.1 400", b"")  # nobody waits for its end
        assert await store.count() == 0
        pipelined = await said(at, POST + LENGTH + b"\r\n" + OPENING + b"rubbish\r\n\r\n")
        assert pipelined.startswith(b"HTTP/1.1 201")  # what came before it counts
        assert b"HTTP/1.1 400" in pipelined
        two = await said(at, (POST + LENGTH + CLOSE + b"\r\n" + OPENING))
        assert two.startswith(b"HTTP/1.1 201")
        assert (await client.get("/healthz")).status_code == 200
        assert await store.count() == 2
