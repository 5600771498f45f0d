"""`scripts.serve --workers N`: several processes answer on one socket, and end together."""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from scripts.testbed.harness import free_port
from scripts.testbed.patience import patience
from tests.api.test_api import OPEN
from tests.api.test_operations import listens_at
from tests.processes import environment, script
from tests.projecting import until

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks /proc")


def answering(served):
    """The ids of the processes that answer beside a server."""
    found = []
    for child in Path(f"/proc/{served.pid}/task/{served.pid}/children").read_text().split():
        with suppress(OSError):
            if b"--listening" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


def is_running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def requests_of(port):
    """How many requests a process has answered, by its own metrics; None if it shows none yet."""
    async with httpx.AsyncClient() as client:
        with suppress(httpx.TransportError):
            shown = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
            lines = [x for x in shown.splitlines() if x.startswith("casebook_requests_total{")]
            return sum(float(line.rpartition(" ")[2]) for line in lines)
    return None


async def test_several_processes_answer_and_end_together(tmp_path):
    """L9: what one has acknowledged, the other shows. One that is killed is replaced."""
    port = free_port()
    env = {
        **environment(tmp_path),
        "CASEBOOK_METRICS_PORT": str(port),
        "CASEBOOK_CHECKPOINT_SECONDS": "0",
    }
    served = await script("scripts.serve", "--workers", "2", env=env)
    address = await listens_at(served)
    made = await script("scripts.keys", "make", "sue", "supervisor", env=env)
    bearer = {"Authorization": f"Bearer {(await made.communicate())[0].decode().strip()}"}

    async def ask():
        """Each time by another connection, which either may take."""
        async with httpx.AsyncClient(
            base_url=address, headers=bearer, timeout=patience(30)
        ) as client:
            opened = await client.post("/tickets", json=OPEN)
            assert opened.status_code == 201
        async with httpx.AsyncClient(
            base_url=address, headers=bearer, timeout=patience(30)
        ) as client:
            shown = await client.get(opened.headers["location"])
            assert shown.status_code == 200

    async def both():
        await asyncio.gather(*(ask() for _ in range(8)))
        counts = [await requests_of(port), await requests_of(port + 1)]
        return all(counts)

    await until(both)
    [first] = answering(served)
    os.kill(first, signal.SIGKILL)

    async def gone():  # with what it had taken, to which nobody answers
        return not is_running(first)

    async def another():
        await ask()
        return [process for process in answering(served) if process != first]

    async def is_failing():
        """As the first process says; either may be asked."""
        async with httpx.AsyncClient(base_url=address, timeout=patience(30)) as client:
            return "HTTP worker 1" in (await client.get("/readyz")).json().get("failing", [])

    await until(gone)
    [second] = await until(another)
    await until(is_failing)
    await until(both)
    served.terminate()
    _, err = await served.communicate()
    assert b"Traceback" not in err
    assert not is_running(second)


async def test_they_end_with_a_parent_that_is_killed(tmp_path):
    env = {**environment(tmp_path), "CASEBOOK_CHECKPOINT_SECONDS": "0"}
    served = await script("scripts.serve", "--workers", "3", env=env)
    await listens_at(served)

    async def there():
        found = answering(served)
        return found if len(found) == 2 else None

    processes = await until(there)
    served.kill()
    await served.communicate()

    async def gone():
        return not any(is_running(process) for process in processes)

    await until(gone)


async def test_as_many_as_make_no_sense_are_refused_in_a_line(tmp_path):
    served = await script("scripts.serve", "--workers", "0", env=environment(tmp_path))
    out, err = await served.communicate()
    assert (served.returncode, out) == (2, b"")
    assert err.startswith(b"error: argument --workers: '0' is no number from 1 to 64")
