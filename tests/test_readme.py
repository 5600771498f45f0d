"""The README's commands work as they stand."""

import asyncio
import json
import re
import socket
from pathlib import Path

import httpx

from api.settings import Settings
from domain.commands import COMMANDS
from tests.test_import import environment, script

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(title):
    section = README.partition(f"## {title}\n")[2].partition("\n## ")[0]
    return re.findall(r"```sh\n(.*?)```", section, re.DOTALL)


async def test_the_tour_can_be_typed_as_it_stands(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = environment(tmp_path, port)
    server = await script("scripts.serve", env=env)
    try:
        async with httpx.AsyncClient() as client, asyncio.timeout(60):
            while True:
                try:
                    if (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200:
                        break
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
        [tour] = blocks("Try it")
        [set_up] = blocks("Set up the desk")
        [repair] = blocks("Operate")
        tour += "sleep 1\n" + repair + set_up
        # A list follows the log within a moment; people type slowly, this does not.
        typed = tour.replace("\nTICKET=", "\nsleep 1\nTICKET=").replace(":8000", f":{port}")
        shell = await asyncio.create_subprocess_exec(
            "bash",
            "-e",
            "-c",
            typed.replace("\ncurl -s", "\necho; curl -s"),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await shell.communicate()
        assert shell.returncode == 0
        answers = [json.loads(line) for line in out.decode().splitlines() if line.strip()]
        opened, assigned, replied, refused, ticket, timeline, dashboard, *rest = answers
        view, listed, series, repaired, desk = rest
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
    finally:
        server.terminate()
        await server.communicate()


def test_the_readme_names_every_command_and_setting():
    for verb in COMMANDS:
        assert f"`{verb}`" in README or verb == "open"
    for field in Settings.model_fields:
        assert f"`CASEBOOK_{field.upper()}`" in README


def test_every_script_in_the_readme_is_there():
    for name in re.findall(r"`python -m (scripts\.\w+)", README):
        path = Path(__file__).parent.parent / name.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name
