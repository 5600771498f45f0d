"""The commands of the README and of the tour work as they stand."""

import asyncio
import json
import re
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from api.settings import Settings
from scripts.testbed.patience import patience
from scripts.testbed.promises import free_port
from tests.processes import environment, script

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
TOUR = (ROOT / "docs" / "tutorial.md").read_text()


def blocks(text):
    return re.findall(r"```sh\n(.*?)```", text, re.DOTALL)


def section(title):
    return README.partition(f"## {title}\n")[2].partition("\n## ")[0]


@asynccontextmanager
async def server(tmp_path):
    """A server as `make run` starts it, and ready: its port."""
    port = free_port()
    served = await script("scripts.serve", env=environment(tmp_path, port))
    try:
        async with httpx.AsyncClient() as client, asyncio.timeout(patience(60)):
            while True:
                try:
                    if (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200:
                        break
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
        yield port
    finally:
        served.terminate()
        await served.communicate()


async def typed(commands, tmp_path, port):
    """Type commands into a shell; return what each printed that printed anything."""
    commands = commands.replace("cat data/", f"cat {tmp_path}/data/")
    shell = await asyncio.create_subprocess_exec(
        "bash",
        "-e",
        "-c",
        commands.replace(":8000", f":{port}").replace("\ncurl ", "\necho; curl "),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=environment(tmp_path, port),
    )
    out, _ = await shell.communicate()
    assert shell.returncode == 0
    return [line for line in out.decode().splitlines() if line.strip()]


async def test_the_readme_can_be_typed_as_it_stands(tmp_path):
    [tour] = blocks(section("Try it"))
    [set_up] = blocks(section("Set up the desk"))
    [repair] = blocks(section("Operate"))
    # A list follows the log within a moment; people type slowly, this does not.
    tour = tour.replace("\nTICKET=", "\nsleep 1\nTICKET=") + "sleep 1\n" + set_up + repair
    async with server(tmp_path) as port:
        answers = [json.loads(line) for line in await typed(tour, tmp_path, port)]
    opened, assigned, replied, refused, ticket, timeline, dashboard, *rest = answers
    view, listed, series, desk, repaired = rest
    assert [a["version"] for a in (opened, assigned, replied)] == [1, 2, 3]
    assert refused["code"] == "cannot_close_by_status"
    assert (ticket["status"], ticket["version"]) == ("open", 3)
    assert timeline["chain"] == "whole"
    assert dashboard["until_date"]["created"] == 1
    assert (view["name"], view["count"]) == ("alices", None)
    assert listed["tickets"][0]["assignee"] == "alice"
    assert [day["value"] for day in series["days"][-2:]] == [0, 1]
    assert repaired["ticket_id"] == ticket["id"]
    assert desk["desk"]["groups"]["print"] == ["alice", "carol"]


async def test_the_tour_can_be_typed_as_it_stands(tmp_path):
    async with server(tmp_path) as port:
        lines = await typed("\n".join(blocks(TOUR)), tmp_path, port)
    stranger, opened, again, assigned, replied, noted, ticket, *rest = map(json.loads, lines)
    assert stranger["code"] == "unauthenticated"
    by_status, faults, stale, changed, many, *rest = rest
    listed, searched, misspelt, after, *rest = rest
    timeline, diff, early, before, told_bob, *rest = rest
    noted_again, exported, streamed, resolved, deliveries, resumed, accesses = rest
    assert opened == again
    assert [a["version"] for a in (opened, assigned, replied, noted)] == [1, 2, 3, 4]
    assert replied["ticket"]["agent_replies"] == 1
    assert (ticket["version"], ticket["has_note"]) == (4, True)
    assert by_status["code"] == "cannot_close_by_status"
    assert {fault["pointer"] for fault in faults["errors"]} == {"/subject", "/priority"}
    assert (stale["code"], changed["version"]) == ("version_mismatch", 5)
    assert (many["done"], many["refused"]) == (1, 1)
    assert (listed["total"], listed["next"]) == (1, None)
    for page in (listed, searched, after):
        assert [t["id"] for t in page["tickets"]] == [ticket["id"]]
    assert misspelt["code"] == "bad_query"
    assert [e["type"] for e in timeline["events"]] == ["TicketOpened", "TicketAssigned"]
    assert {c["field"] for c in timeline["events"][1]["changes"]} == {"assignee", "status"}
    assert {"field": "priority", "before": "normal", "after": "high"} in diff["changes"]
    assert (early["version"], before["code"]) == (2, "ticket_not_found")
    assert "NoteAdded" not in {e["type"] for e in told_bob["events"]}
    assert noted_again["version"] == 7
    assert (exported["version"], exported["type"]) == (7, "NoteAdded")
    assert streamed == exported
    assert resolved["version"] == 8
    assert {d["status"] for d in deliveries["deliveries"]} <= {"pending"}
    assert resumed["resumed"] in {0, 1}  # what has failed by now waits, and is tried again
    routes = [record["route"] for record in accesses["records"]]
    assert routes == [
        "/webhooks/{webhook_id}/resume",
        "/webhooks",
        "/events/stream",
        "/events",
        "/events",
    ]


def test_the_readme_names_every_setting():
    for field in Settings.model_fields:
        assert f"`CASEBOOK_{field.upper()}`" in README


def test_every_script_in_the_readme_is_there():
    for name in re.findall(r"`python -m (scripts\.\w+)", README):
        path = ROOT / name.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name
