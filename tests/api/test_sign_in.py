"""Sign-in links: each lets one person in, once, and is printed only where nobody else reads it."""

import asyncio
import os
import pty
import re
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from api.access.keys import Keys
from api.access.principals import Unauthenticated
from api.access.rights import RIGHTS
from api.access.sign_in_links import GOOD_FOR, KEY_GOOD_FOR, PREFIX, SignInLinks
from api.app import create_app
from api.cursors import Cursors
from domain.values import JsonObject
from eventstore.event_document import utc_now
from scripts.testbed.patience import patience
from tests.api.test_access import ask, bearer
from tests.api.test_api import asking, client, is_problem
from tests.callers import ADMIN, access
from tests.processes import environment, script
from tests.projecting import until

__all__ = ["client"]
ROOT = Path(__file__).parents[2]


async def made(database, principal="operator", role="supervisor", now=None):
    return await SignInLinks(database, Keys(database), now).make(principal, role)


async def sign_in(client, code):
    return await client.post("/sign_in", headers=bearer(code))


# --- a code ---------------------------------------------------------------------------------------


async def test_a_code_is_exchanged_for_a_key_once(client, database):
    code = await made(database)
    assert await database.collection("api_keys").find().to_list() == []  # nothing is stored yet
    answer = await sign_in(client, code)
    assert answer.status_code == 201, answer.text
    key = answer.json()
    assert (key["principal"], key["role"]) == ("operator", "supervisor")
    assert key["created_by"] == "a sign-in link"
    assert (await client.get("/dashboard", headers=bearer(key["key"]))).status_code == 200
    again = is_problem(await sign_in(client, code), 401, "unauthenticated")
    assert again["detail"] == "the sign-in link was used before"

    async def recorded():
        page = await client.get("/access_log?principal=operator", headers=ADMIN)
        found = [each for each in page.json()["records"] if each["path"] == "/sign_in"]
        return found if len(found) == 2 else None

    last, first = await until(recorded)
    assert (first["outcome"], last["outcome"]) == ("granted", "unknown")
    assert first["principal"]["key"] == last["principal"]["key"] == key["id"]
    for name in await database.collections(database.name):
        assert code not in str(await database.collection(name).find().to_list()), name


async def test_of_many_who_use_one_code_at_once_one_is_let_in(database, store):
    """Whichever process they reach: two know nothing of each other here."""
    code = await made(database)
    apps = [create_app(database, store, access=access(database)) for _ in range(2)]
    async with asking(apps[0]) as one, asking(apps[1]) as other:
        answers = await asyncio.gather(*(sign_in(each, code) for each in (one, other) * 5))
    assert sorted(answer.status_code for answer in answers) == [201] + [401] * 9


async def test_a_code_and_its_key_last_as_long_as_is_said(database):
    now = utc_now()
    links = SignInLinks(database, Keys(database, lambda: now), lambda: now)
    code = await links.make("operator", "supervisor")
    key, _ = await links.exchange(await links.principal(code))
    assert key.expires_at == now + KEY_GOOD_FOR
    code = await links.make("operator", "supervisor")
    now += GOOD_FOR
    with pytest.raises(Unauthenticated, match="too old"):
        await links.principal(code)


async def test_a_code_is_good_for_nothing_else(client, database):
    code = await made(database, role="admin")
    for route in RIGHTS.keys() - {"POST /sign_in", "GET /me"}:
        is_problem(await ask(client, route, bearer(code)), 403, "forbidden")
    order = {"principal": "carol", "role": "agent", "scopes": ["sign_in"]}
    answer = await client.post("/keys", json=order, headers=ADMIN)
    is_problem(answer, 422, "invalid_request")  # no key is one
    assert (await sign_in(client, code)).status_code == 201


async def test_no_other_text_is_a_code(client, database):
    code = await made(database)
    until_when = int(utc_now().timestamp()) + 60
    content: list[object] = ["ab" * 12, "operator", "admin", until_when]
    other_kind = await Cursors(database, "events", JsonObject).write(content)
    links = SignInLinks(database, Keys(database))
    for n in range(len(PREFIX), len(code)):
        other = code[:n] + ("A" if code[n] != "A" else "B") + code[n + 1 :]
        with pytest.raises(Unauthenticated):
            await links.principal(other)
    for other in (PREFIX, code[:-1], code + "A", PREFIX + other_kind):
        is_problem(await sign_in(client, other), 401, "unauthenticated")


async def test_nobody_who_was_erased_is_signed_in(client, database, store):
    code = await made(database, principal="bob")
    await client.post("/tickets", json={"subject": "x", "requester": "bob"})
    answer = await client.post("/persons/find", json={"name": "bob"}, headers=ADMIN)
    erased = await client.post(
        f"/persons/{answer.json()['id']}/erase", json={"reason": "asked"}, headers=ADMIN
    )
    assert erased.status_code in (200, 201, 202), erased.text
    is_problem(await sign_in(client, code), 409, "person_erased")


# --- where it is shown ----------------------------------------------------------------------------


@asynccontextmanager
async def served(folder, **settings):
    """What a server prints at a terminal until it serves."""
    ours, its = pty.openpty()
    env = {**environment(folder), "TERM": "dumb", **settings}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "scripts.serve"), cwd=ROOT, env=env, stdout=its, stderr=its
    )
    os.close(its)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours, "rb")
    )
    lines: list[str] = []
    try:
        async with asyncio.timeout(patience(60)):
            while not (lines and lines[-1] == "Ctrl-C to stop"):
                lines.append((await reader.readline()).decode().rstrip())
        yield lines
    finally:
        process.terminate()
        reading = asyncio.create_task(reader.read())
        await process.wait()
        reading.cancel()


async def test_at_a_terminal_the_last_of_three_lines_are_a_link_the_pages_and_how_to_stop(tmp_path):
    async with served(tmp_path) as lines:
        console, pages, _ = lines[-3:]
        [(address, code)] = re.findall(r"^Console: +(\S+)/#(sign-in_\S+)  \(.*\)$", console)
        assert pages == f"API pages: {address}/docs"
        async with httpx.AsyncClient(base_url=address) as client:
            key = (await sign_in(client, code)).json()
            assert (key["principal"], key["role"]) == ("operator", "supervisor")
            assert (await client.get("/tickets", headers=bearer(key["key"]))).status_code == 200
    kept = [path for path in (tmp_path / "data").iterdir() if path.is_file()]
    assert {path.name for path in kept} >= {"admin-key", "master-key"}
    assert all(code not in path.read_text(errors="replace") for path in kept)


@pytest.mark.parametrize(
    "settings",
    [
        {"CASEBOOK_LOG_FORMAT": "json"},
        {"CASEBOOK_HOST": "0.0.0.0", "CASEBOOK_BEYOND_LOOPBACK": "yes"},  # noqa: S104 said to be meant
    ],
    ids=["logs are shipped", "others reach it"],
)
async def test_there_is_no_link_where_others_may_read_it(tmp_path, settings):
    async with served(tmp_path, **settings) as lines:
        assert "sign-in" not in "".join(lines)


async def test_there_is_no_link_where_no_terminal_is(tmp_path):
    process = await script("scripts.serve", env=environment(tmp_path))
    said = b""
    async with asyncio.timeout(patience(60)):
        while b"Ctrl-C to stop" not in said:
            said += await process.stdout.readline()
    process.terminate()
    out, err = await process.communicate()
    assert b"sign-in" not in said + out + err
    assert b"casebook_" not in said + out + err


async def test_a_link_is_made_at_the_command_line(tmp_path):
    env = environment(tmp_path, 8123)

    async def link(*words, **settings):
        ran = await script("scripts.keys", "link", *words, env={**env, **settings})
        out, err = await ran.communicate()
        return ran.returncode, out.decode(), err.decode()

    code, out, err = await link("timekeeper", "agent")
    assert (code, out) == (1, "")
    assert "the server's own" in err
    code, out, _ = await link("sam", "auditor")
    assert code == 0
    assert re.fullmatch(r"http://127\.0\.0\.1:8123/#sign-in_[\w-]+\n", out)
    code, out, err = await link("sam", "auditor", CASEBOOK_HOST="desk.test")
    assert (code, out) == (1, "")
    assert "for the server's own machine alone" in err
