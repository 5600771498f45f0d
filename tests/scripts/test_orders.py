"""Any order in which the processes of one data folder start and end, at the command line."""

import asyncio
import os
import signal
from itertools import permutations
from pathlib import Path

import httpx
import pytest

from scripts.testbed.harness import database_processes, free_port
from tests.processes import Process, environment, script
from tests.projecting import until

pytestmark = pytest.mark.soak

LONG = ("scripts.serve", "scripts.project", "scripts.timekeeper")


async def started(module: str, folder: Path, port: int) -> Process:
    """Start a process, and wait until it has said that it is at work."""
    process = await script(module, env=environment(folder, port))
    assert process.stdout is not None
    async with asyncio.timeout(120):
        while line := (await process.stdout.readline()).decode():
            if "Ctrl-C to stop" in line:
                return process
    pytest.fail(f"{module}: {(await process.communicate())[1].decode()}")


async def once(folder: Path, *words: str) -> str:
    """Run a command to its end, and return what it has printed."""
    process = await script(*words, env=environment(folder))
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def opened(port: int, key: str) -> None:
    """Open a ticket, once the server takes it."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

        async def taken():
            headers = {"Authorization": f"Bearer {key}"}
            answer = await client.post(
                "/tickets", json={"subject": "x", "requester": "bob"}, headers=headers
            )
            assert answer.status_code in (201, 503), answer.text
            return answer.status_code == 201

        await until(taken, 120)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the database's process in /proc")
async def test_any_order_of_starts_and_ends_on_one_folder_works(tmp_path):
    """Every order of starts with an order of ends, each of which comes once; half are killed.

    As long as the server runs it takes commands, whoever else has come or gone; short commands
    work at any time; at the end nothing runs.
    """
    port = free_port()
    key = (await once(tmp_path, "scripts.keys", "make", "sam", "supervisor")).strip()
    orders = list(permutations(LONG))
    for number, (starts, ends) in enumerate(zip(orders, orders[2:] + orders[:2], strict=True)):
        running = {module: await started(module, tmp_path, port) for module in starts}
        assert len(database_processes(tmp_path / "data")) == 1
        for turn, module in enumerate(ends):
            if "scripts.serve" in running:
                await opened(port, key)
            process = running.pop(module)
            process.send_signal(signal.SIGKILL if (number + turn) % 2 else signal.SIGTERM)
            await process.communicate()
            assert {p.returncode for p in running.values()} <= {None}
            if turn == number % 3 and number % 2:
                await once(tmp_path, "scripts.replay", "--workers", "0")

        async def none():
            return not database_processes(tmp_path / "data")

        await until(none, 90)
    assert "all equal" in await once(tmp_path, "scripts.replay", "--verify")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the database's process in /proc")
async def test_a_database_that_dies_while_its_starter_is_gone_serves_again(tmp_path):
    """A short command starts it, serve goes on with it, and nobody is left who has started it."""
    port = free_port()
    key = (await once(tmp_path, "scripts.keys", "make", "sam", "supervisor")).strip()
    projector = await started("scripts.project", tmp_path, port)
    server = await started("scripts.serve", tmp_path, port)
    projector.kill()
    await projector.communicate()
    for pid in database_processes(tmp_path / "data"):
        os.kill(pid, signal.SIGKILL)
    await opened(port, key)
    server.terminate()
    await server.communicate()


@pytest.mark.parametrize(
    "words",
    [
        ("scripts.serve",),
        ("scripts.project",),
        ("scripts.timekeeper",),
        ("scripts.keys", "list"),
        ("scripts.keys", "make", "sam", "admin"),
        ("scripts.replay",),
        ("scripts.replay", "--verify"),
        ("scripts.export", "export.ndjson"),
        ("scripts.restore", __file__),
        ("scripts.persons", "rewrap"),
        ("scripts.checkpoint",),
        ("scripts.verify",),
        ("scripts.demo",),
    ],
    ids=" ".join,
)
async def test_an_impossible_data_folder_gives_one_line(tmp_path, words):
    (tmp_path / "file").touch()
    names = ("file", "n" * 300) if words == ("scripts.serve",) else ("file/under",)
    for name in names:
        env = {**environment(tmp_path), "CASEBOOK_DATA_DIR": str(tmp_path / name)}
        process = await script(*words, env=env)
        out, err = await process.communicate()
        assert process.returncode, (name, out)
        assert err.decode().count("\n") == 1, err.decode()
        assert (out, err[:7]) == (b"", b"error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


async def test_a_data_folder_that_holds_no_files_stops_no_server_with_a_database_of_its_own(
    tmp_path, database
):
    """It says in one line that no key is made, and how to make one."""
    (tmp_path / "file").touch()
    env = {**environment(tmp_path), "CASEBOOK_MONGODB_URL": database.url}
    env |= {"CASEBOOK_DATA_DIR": str(tmp_path / "file")}
    env |= {"CASEBOOK_MASTER_KEY": os.environ["CASEBOOK_MASTER_KEY"]}
    served = await script("scripts.serve", env=env)
    assert served.stdout is not None
    said = b""
    async with asyncio.timeout(120):
        while b"Ctrl-C to stop" not in said:
            said += await served.stdout.readline()
    served.terminate()
    await served.communicate()
    assert b"No administrator's key is made, for it cannot be kept" in said
    assert b"casebook keys make" in said
