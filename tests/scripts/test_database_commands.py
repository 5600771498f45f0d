"""All that Casebook asks of its database, held to what MongoDB allows (L1).

`python -m tests.scripts.test_database_commands` writes `docs/reference/database-commands.md` anew.
"""

import asyncio
import json
import os
import re
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest

from api.access.keys import KeyOrder, Keys
from api.access.rights import RIGHTS
from api.access.sign_in_links import SignInLinks
from domain.actors import PrincipalRole
from eventstore.database import Database
from eventstore.personal.master_keys import new_master_key
from scripts.commands import groups
from scripts.mongo_users import API, AUDITOR, PROJECTOR
from scripts.testbed.harness import scratch
from scripts.testbed.patience import patience
from scripts.testbed.wire import through
from tests.api.test_api import OPEN
from tests.api.test_visibility import BODIES
from tests.api.test_webhooks import receiving
from tests.conftest import DRIVER
from tests.excused import ANY, EXCUSED, RACES, SHARD_KEYS, SMALL
from tests.mongodb_rules import Recorder
from tests.processes import ROOT, Process, script
from tests.projecting import until
from tests.scripts.test_soak import scratch_url

__all__ = ["scratch_url"]
PAGE = ROOT / "docs" / "reference" / "database-commands.md"
SAMPLE = ROOT / "scripts" / "sample" / "servicenow.csv"
INTRODUCTION = """# What Casebook asks of its database

Every kind of command that a process or a command line sends to MongoDB, as it was recorded on the
wire. `python -m tests.scripts.test_database_commands` writes this page anew, and a test holds each
command to MongoDB's rules ([decision 68](../decisions/0068-recorded-commands.md)).

*Filter, order*: `=`, `in`, `range` and so on say how a field is compared, `by` the order, `-` a
falling one, `limited` that so many are read and no more. *Index*: what bounds the reading or gives
the order; none: all documents are read. *Shards*: of a sharded collection, how many are asked.
*Privileges*: what a role must grant. Drivers send a few commands of their own as well, such as
`hello`, and those that end transactions, cursors and sessions.
"""
HEAD = """
| command | filter, order | index | shards | privileges | asked by |
| --- | --- | --- | --- | --- | --- |"""
ROLES: tuple[PrincipalRole, ...] = ("supervisor", "admin", "auditor")
DESK = {"groups": {"print": ["alice"]}, "close_resolved_after_days": 1}


RETIRING = {
    "groups": {"network": ["carol"]},
    "close_resolved_after_days": 1,
    "retired": {"groups": {"print": "network"}, "agents": {"alice": "carol"}},
}


class Recording:
    """Runs processes of an installation of its own, each over a wire on which it is heard."""

    def __init__(self, url: str, recorder: Recorder, folder: Path, stack: AsyncExitStack):
        self._url, self._recorder, self._stack = url, recorder, stack
        clean = {k: v for k, v in os.environ.items() if not k.startswith("CASEBOOK_")}
        self._env = clean | {
            "CASEBOOK_DATA_DIR": str(folder),
            "CASEBOOK_MASTER_KEY": os.environ["CASEBOOK_MASTER_KEY"],
            "CASEBOOK_MONGO_DRIVER": DRIVER,
            "CASEBOOK_SIGNING_KEY": str(folder / "key.pem"),
        }

    async def url(self, process: str, user: str | None, database: str = "") -> str:
        heard = self._recorder.listening(process, user)
        url, _ = await self._stack.enter_async_context(through(self._url, heard))
        return url.replace("?", f"{database}?", 1)

    async def start(self, user: str | None, *words: str, **env: str) -> Process:
        name = words[0].removeprefix("scripts.")
        if "CASEBOOK_MONGODB_URL" not in env:
            env["CASEBOOK_MONGODB_URL"] = await self.url(name, user)
        started = await script(*words, env=self._env | env)
        self._stack.push_async_callback(self._end, started)
        return started

    async def _end(self, process: Process) -> None:
        if process.returncode is None:  # the test has failed
            process.kill()
            await process.communicate()

    async def run(self, user: str | None, *words: str, **env: str) -> None:
        process = await self.start(user, *words, **env)
        out, err = await process.communicate()
        assert process.returncode == 0, (words, out, err)


class RecordingClient:
    """A client of the API that keeps which routes were asked."""

    def __init__(self, client: httpx.AsyncClient, keys: Mapping[str, str]):
        self._client, self._keys = client, keys
        self.left = {route: re.sub(r"{\w+}", "[^/]+", route) for route in RIGHTS}

    async def __call__(self, role, method, path, *, may_fail=False, **about):
        answer = await self._client.request(
            method, path, headers={**self._by(role), **about.pop("headers", {})}, **about
        )
        assert may_fail or answer.is_success, (method, path, answer.text)
        self._asked(method, path)
        return answer

    async def first_line(self, role, path):
        async with self._client.stream("GET", path, headers=self._by(role)) as stream:
            self._asked("GET", path)
            return await anext(stream.aiter_lines())

    def _by(self, role):
        return {"Authorization": f"Bearer {self._keys[role]}"}

    def _asked(self, method, path):
        here = f"{method} {path.partition('?')[0]}"
        self.left = {r: known for r, known in self.left.items() if not re.fullmatch(known, here)}


async def record(url: str, name: str, folder: Path) -> Recorder:
    """Run all processes and command lines once, and ask each route of the API."""
    recorder = Recorder(name)
    async with AsyncExitStack() as stack:
        here = Recording(url, recorder, folder, stack)
        admin = {"CASEBOOK_ADMIN_URL": await here.url("mongo_users", None)}
        await here.run(None, "scripts.mongo_users", "make", **admin)
        projector = await here.start(PROJECTOR, "scripts.project", CASEBOOK_CHECKPOINT_SECONDS="1")
        served = {"CASEBOOK_PROJECTING": "no", "CASEBOOK_PORT": "0"}
        api = await here.start(API, "scripts.serve", **served)
        address = ""
        while not address:
            line = (await api.stdout.readline()).decode()
            assert line, await api.communicate()
            address = line.split()[1] if line.startswith("Console: ") else ""
        keeping = Database(url)
        keys: dict[str, str] = {
            r: (await Keys(keeping).make(KeyOrder(principal="x", role=r), "x"))[1] for r in ROLES
        }
        keys["link"] = await SignInLinks(keeping, Keys(keeping)).make("x", "agent")
        await keeping.close()
        receiver = await stack.enter_async_context(receiving())
        client = httpx.AsyncClient(base_url=address, timeout=patience(60))
        ask = RecordingClient(await stack.enter_async_context(client), keys)
        timekeeper = await here.start(API, "scripts.timekeeper")
        tickets, person = await _use(ask, receiver)

        async def forgotten():
            return any(row[:2] == ("saved_view_counts", "delete") for row in recorder.rows())

        await until(forgotten)  # a replay that comes first makes views that never counted it
        await _run_all(here, tickets[0], folder)

        async def erased():
            shown = (await ask("admin", "GET", person)).json()
            return shown["erasure"][-1]["step"] == "ErasureCompleted"

        await until(erased)
        assert ask.left == {}
        for process in (timekeeper, api, projector):
            process.terminate()
            out, err = await process.communicate()
            assert process.returncode == 0, (out, err)
    return recorder


async def _use(ask, receiver):
    """Use the API as its users do; return tickets, and the path of a person who is erased."""
    await ask("link", "POST", "/sign_in")
    await ask("admin", "PUT", "/desk", json={})
    await ask("admin", "PUT", "/desk", json=DESK)
    since = {"since": "2020-01-01T00:00:00Z"}
    hook = (
        await ask("supervisor", "POST", "/webhooks", json={"url": receiver.url, **since})
    ).json()
    hook = f"/webhooks/{hook['id']}"
    await ask("supervisor", "PUT", hook, json={"url": receiver.url})

    async def open_one(n=0, **more):
        order = {**OPEN, "requester": f"bob{n % 3}", "group": "print", **more}
        wait = {"Prefer": "wait=20", "Idempotency-Key": f"order-{n}"}
        answer = await ask("supervisor", "POST", "/tickets", json=order, headers=wait)
        return answer.json()["ticket_id"]

    other = await open_one(99)
    tickets = await asyncio.gather(*map(open_one, range(len(BODIES))))
    for id_, verb in zip(tickets, BODIES, strict=True):
        body = json.loads(json.dumps(BODIES[verb]).replace("{other}", other))
        one = f"/tickets/{id_}"
        await ask("supervisor", "POST", f"{one}/assign", json={"assignee": "alice"})
        if verb in ("reopen", "rate"):
            await ask("supervisor", "POST", f"{one}/resolve", json={"resolution": "done"})
        if verb == "unlink":
            await ask("supervisor", "POST", f"{one}/link", json=body)
        await ask("supervisor", "POST", f"{one}/{verb}", may_fail=True, json=body)
        bulk = {"tickets": [id_, other], "command": body}
        await ask("supervisor", "POST", f"/bulk/{verb}", may_fail=True, json=bulk)
    for path in (f"/tickets/{tickets[1]}", f"/tickets/{other}"):
        for end in (
            "",
            "?version=1",
            "/timeline",
            "/diff",
            "/sla",
            "/commands",
            "?as_of=2100-01-01T00:00:00Z",
        ):
            await ask("supervisor", "GET", f"{path}{end}")

    await ask("supervisor", "PUT", "/views/all", json={"requester": "bob1"})

    async def counted():
        return (await ask("supervisor", "GET", "/views")).json()["views"][0]["count"] is not None

    await until(counted)
    for path in (
        *("/me", "/agents", "/agents/series?agent=alice", "/dashboard", "/views/all"),
        *("/dashboard/series?metric=backlog", "/desk", "/events", "/projections", "/metrics"),
        *("/tickets?count=true&limit=1", "/tickets?q=jam&view=all", "/tickets?status=open"),
        *("/tickets?status=open&sort=-updated_at", "/tickets?sort=due_at"),
        *("/tickets?status=open&sort=-priority", "/tickets?requester=bob0&solved=false"),
        *("/tickets?due_before=2100-01-01", "/webhooks", hook, "/readyz", "/healthz"),
    ):
        await ask("supervisor", "GET", path)
    await ask("admin", "PUT", "/desk", json=RETIRING)

    async def changed():
        return (await ask("admin", "GET", "/desk?count=true")).json()["left"] == 0

    await until(changed)
    page = (await ask("supervisor", "GET", "/tickets?limit=1")).json()
    await ask("supervisor", "GET", f"/tickets?limit=200&cursor={page['next']}")
    lines = (await ask("supervisor", "GET", "/events")).text.splitlines()
    cursor = json.loads(lines[-1])["cursor"]
    await ask("supervisor", "GET", f"/events?cursor={cursor}")
    await ask.first_line("supervisor", f"/events/stream?cursor={cursor}")
    await ask("supervisor", "GET", f"/events?ticket={other}", may_fail=True)

    await ask("admin", "POST", "/projections/repairs", json={"ticket_id": other})
    made = await ask("admin", "POST", "/keys", json={"principal": "x", "role": "agent"})
    await ask("admin", "GET", "/keys")
    await ask("admin", "DELETE", f"/keys/{made.json()['id']}")
    await ask("auditor", "GET", "/access_log")
    await ask("auditor", "GET", "/access_log?principal=x", may_fail=True)

    async def answered(status):
        log = (await ask("supervisor", "GET", f"{hook}/deliveries?limit=200")).json()
        attempts = [each for delivery in log["deliveries"] for each in delivery["attempts"]]
        return any(each["status"] == status for each in attempts)

    await until(partial(answered, 200))
    await ask("supervisor", "GET", f"{hook}/deliveries?status=parked&limit=1")
    receiver.answers = lambda _: 500
    await ask("supervisor", "POST", f"{hook}/redeliver", json=since)
    await until(partial(answered, 500))
    receiver.answers = lambda _: 200
    await ask("supervisor", "POST", f"{hook}/resume")
    await open_one(200, requester="carla", group="network")
    await ask("admin", "GET", "/persons")
    found = await ask("admin", "POST", "/persons/find", json={"name": "carla"})
    person = f"/persons/{found.json()['id']}"
    await ask("admin", "GET", f"{person}/data")
    await ask("admin", "POST", f"{person}/erase", json={"reason": "asked for it"})
    await ask("supervisor", "DELETE", hook)
    await ask("supervisor", "DELETE", "/views/all")
    return [other, *tickets], person


async def _run_all(here, ticket, folder):
    """Run every command line that asks the database something."""
    public, kept = str(folder / "key.pub"), str(folder / "checkpoint")
    for words in (
        *((), ("--verify",), ("--ticket", ticket), ("--keep-old",), ("--rollback",)),
        *(("--until", "2026-01-01", "--name", "x"), ("--list",), ("--drop", "x")),
    ):
        await here.run(PROJECTOR, "scripts.replay", *words)
    await here.run(PROJECTOR, "scripts.checkpoint", "--export", kept)
    await here.run(AUDITOR, "scripts.verify", "--key", public, "--checkpoint", kept)
    await here.run(API, "scripts.export", str(folder / "log.ndjson"))
    await here.run(API, "scripts.documents")
    await here.run(None, "scripts.migrate")
    await here.run(API, "scripts.number_tickets")
    await here.run(API, "scripts.keys", "make", "ops", "admin")
    await here.run(API, "scripts.keys", "list")
    for words in (("show", "bob1"), ("data", "bob1"), ("erase", "bob2", "--reason", "asked")):
        await here.run(API, "scripts.persons", *words)
    await here.run(API, "scripts.persons", "rewrap")
    backup, because = str(folder / "backup"), ("--why", "the disk was lost")
    await here.run(None, "scripts.backup", backup)
    again = {"CASEBOOK_MONGODB_URL": await here.url("restore", None, "_b")}
    await here.run(None, "scripts.restore", backup, *because, **again)
    await here.run(None, "scripts.restore", "--by-database-tools", *because, **again)
    into = {"CASEBOOK_MONGODB_URL": await here.url("import_log", None, "_c")}
    await here.run(None, "scripts.import_log", "servicenow", str(SAMPLE), **into)


@pytest.mark.slow
@pytest.mark.skipif("CASEBOOK_TEST_MONGODB_URL" in os.environ, reason="speaks to one host")
async def test_no_process_sends_what_mongodb_would_refuse(scratch_url, database, tmp_path):
    """L1: of the log the API finds and inserts, the projector and the auditor find."""
    recorder = await record(scratch_url, database.name, tmp_path)
    excused = {each: each.excuse() for each in recorder.broken()}
    assert {each for each, why in excused.items() if why is None} == set()
    assert set(EXCUSED) - set(excused.values()) == set()  # what nobody asks needs no excuse
    heard = {name for row in recorder.rows() for name in row.processes.split(", ")}
    silent = ("Try", "Use", "Develop")
    lines = {
        name for wish, each in groups().items() if not wish.startswith(silent) for name in each
    }
    assert {name.replace("-", "_") for name in lines} <= heard
    assert kinds(page(recorder)) == kinds(PAGE.read_text())


def kinds(page: str) -> set[str]:
    """The lines of a page, without who was the first to do what several do."""
    return {line.rsplit("|", 2)[0] for line in page.splitlines()}


def page(recorder: Recorder) -> str:
    """All that is asked, as an administrator of the database wants to know it."""
    lines = [INTRODUCTION]
    told = [row for row in recorder.rows() if (row.collection, row.shape) not in RACES]
    for collection, rows in groupby(told, lambda row: row.collection):
        about = []
        if key := SHARD_KEYS.get(collection):
            about.append(f"Sharded by the hash of `{key}`.")
        if small := SMALL.get(collection):
            about.append(f"Small: {small}.")
        if made := recorder.made(collection):
            about.append(f"Indexes: {', '.join(f'`{each}`' for each in made)}.")
        lines += [f"## {collection or 'Of the server'}", *about, HEAD]
        lines += ["".join(f"| {word} " for word in row[1:]) + "|" for row in rows]
        lines.append("")
        for (what, name, shape), why in EXCUSED.items():
            if name == collection:
                which = "any" if shape == ANY else f"`{shape.strip()}`" if shape else "all"
                lines.append(f"- {what}, {which}: {why}")
        lines.append("")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).replace("|  ", "| ")


async def write_page() -> None:
    """Record on a database of its own, and write the page."""
    os.environ["CASEBOOK_MASTER_KEY"] = new_master_key()
    with TemporaryDirectory() as folder:
        async with scratch(durable=False) as url:
            name = Database(url).name
            recorder = await record(url, name, Path(folder))
    PAGE.write_text(page(recorder))


if __name__ == "__main__":
    asyncio.run(write_page())
