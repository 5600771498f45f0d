"""The embedded database: one owner, a clean end, a clear word when it cannot start."""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from eventstore import embedded
from eventstore.driver import connect
from scripts.soak.kill import database_processes
from scripts.soak.patience import patience

HOLD = """
import asyncio, pathlib, sys
from eventstore import embedded
async def main():
    async with embedded.run(pathlib.Path(sys.argv[1]), durable=False) as url:
        print(url, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


async def holder(folder: Path) -> tuple[asyncio.subprocess.Process, str]:
    """Another process that runs a database on the folder, and its URL."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, str(folder), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    return process, (await process.stdout.readline()).decode().strip()


async def ping(url: str) -> None:
    database = connect(url)
    await database.client.admin.command("ping")
    await database.close()


async def test_it_keeps_what_was_written_and_leaves_nothing_running(tmp_path):
    for n in range(2):
        async with embedded.run(tmp_path) as url:
            database = connect(url)
            await database.collection("things").insert_one({"n": n})
            assert await database.collection("things").count_documents({}) == n + 1
            await database.close()
        assert not (tmp_path / "database.url").exists()
    assert b"listening" in (tmp_path / "database.log").read_bytes()


async def test_a_folder_has_one_owner_and_others_are_told_who(tmp_path):
    process, url = await holder(tmp_path)
    try:
        with pytest.raises(embedded.InUse, match=f"in use by process {process.pid}") as caught:
            await embedded.run(tmp_path, durable=False).__aenter__()
        assert caught.value.url == url
        await ping(url)
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()


async def test_it_ends_with_its_owner_even_one_that_was_killed(tmp_path):
    """And the next start waits until the folder is free."""
    process, _ = await holder(tmp_path)
    process.kill()
    await process.wait()
    async with embedded.run(tmp_path, durable=False) as url:
        await ping(url)


async def test_a_server_that_dies_is_started_again_on_the_same_port(tmp_path):
    async with embedded.run(tmp_path, durable=False) as url:
        await ping(url)
        for pid in database_processes(tmp_path):
            os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(patience(30)):
            while True:
                with suppress(Exception):
                    await ping(url)
                    break


async def test_a_server_that_cannot_start_says_why(tmp_path, monkeypatch):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'the disk is on fire'\nexit 3\n")
    broken.chmod(0o700)
    monkeypatch.setattr(embedded, "_program", lambda: str(broken))
    with pytest.raises(embedded.EmbeddedError, match=r"(?s)stopped with code 3.*disk is on fire"):
        await embedded.run(tmp_path / "data").__aenter__()


async def test_a_server_that_never_listens_is_given_up(tmp_path, monkeypatch):
    mute = tmp_path / "mute"
    mute.write_text("#!/bin/sh\nexec sleep 60\n")
    mute.chmod(0o700)
    monkeypatch.setattr(embedded, "_program", lambda: str(mute))
    monkeypatch.setattr(embedded, "START_SECONDS", 0.3)
    with pytest.raises(embedded.EmbeddedError, match="did not listen"):
        await embedded.run(tmp_path / "data").__aenter__()


async def test_a_missing_server_is_named_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(embedded.EmbeddedError, match="CASEBOOK_MONGODB_URL"):
        await embedded.run(tmp_path / "data").__aenter__()
