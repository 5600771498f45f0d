"""What an operator sees: metrics, lines of log, traces; and load shed before memory grows."""

import asyncio
import json
import socket
import sys
from collections import Counter
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn
from fastapi import Request
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from api.access.keys import KeyOrder, Keys
from api.access.principals import Principal
from api.app import create_app
from api.feed.client import Limits
from api.http import bodies
from api.http.bodies import Bodies
from api.http.caller import read_headers
from api.http.pipeline import Pipeline
from api.http.problems import ServerBusy, to_response
from api.settings import Settings
from eventstore.database import Database
from eventstore.log import EventStore
from scripts import server
from scripts.http_protocol import HttpProtocol
from scripts.server import Server
from scripts.testbed.patience import patience
from tests.api.test_api import OPEN, client, is_problem
from tests.api.test_feed import listening
from tests.callers import AGENT, REQUESTER, SUPERVISOR, access
from tests.processes import ROOT, environment, script
from tests.projecting import until

__all__ = ["client"]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


async def metrics(client):
    """All samples by name and labels."""
    answer = await client.get("/metrics", headers=SUPERVISOR)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return Counter(
        {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }
    )


async def test_what_is_done_is_counted(client):
    before = await metrics(client)
    order = await client.post("/tickets", json=OPEN, headers={**REQUESTER, "Prefer": "wait=10"})
    path = order.headers["location"]
    for key in ("one", "one", "two"):
        headers = {**AGENT, "Idempotency-Key": key}
        await client.post(f"{path}/assign", json={"assignee": "alice"}, headers=headers)
    is_problem(await client.post(f"{path}/reopen", headers=AGENT), 409, "transition_refused")
    await client.get("/tickets", headers={"Authorization": ""})
    await client.get("/tickets", headers={**AGENT, "Authorization": "x"})
    counted = await metrics(client)
    counted.subtract(before)
    assert counted["casebook_requests_total", "/tickets", "201", "POST"] == 1
    assert counted["casebook_requests_total", "/tickets/{ticket_id}/assign", "200", "POST"] == 3
    assert counted["casebook_requests_total", "401", "GET", "none"] == 2
    assert counted["casebook_request_seconds_count", "/tickets", "POST"] == 1
    for outcome in ("done", "repeated", "unchanged"):
        assert counted["casebook_commands_total", *sorted((outcome, "assign"))] == 1, outcome
    assert counted["casebook_commands_total", "reopen", "transition_refused"] == 1
    assert counted["casebook_commit_group_documents_sum",] == 2
    assert counted["casebook_ticket_cache_total", "hit"] >= 4
    assert counted["casebook_ticket_cache_total", "miss"] == 1
    assert counted["casebook_projection_folded_events_total",] >= 1
    assert counted["casebook_projection_batch_events_count",] >= 1
    assert counted["casebook_accesses_failed_total", "unknown"] == 2
    await until(lambda: _current(client))


async def _current(client):
    now = await metrics(client)
    return (
        now["casebook_projection_missing_events",] == 0
        and now["casebook_projection_parked_tickets",] == 0
        and 0 <= now["casebook_projection_age_seconds",] < 60
    )


async def test_a_strangers_path_and_method_make_no_series(client):
    for n in range(5):
        await client.request(f"ODD{n}", f"/made/up/{n}")
    names = {labels for name, *labels in map(tuple, await metrics(client)) for labels in labels}
    assert not any("made" in label or "ODD" in label for label in names)


# --- a server as it is run ------------------------------------------------------------------------


@asynccontextmanager
async def collector():
    """Takes traces as OTLP over HTTP: the port, and the spans that have come."""
    spans = []

    async def take(reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                request = ExportTraceServiceRequest.FromString(body)
                for of_resource in request.resource_spans:
                    for of_scope in of_resource.scope_spans:
                        spans.extend(of_scope.spans)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        except (EOFError, OSError):
            writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], spans


async def listens_at(served):
    """Wait until a server says where it listens."""
    async with asyncio.timeout(patience(60)):
        while True:
            line = (await served.stdout.readline()).decode()
            if line.startswith("Console: "):
                return line.split()[1]


async def test_a_request_is_found_in_log_and_traces_up_to_the_projector(tmp_path):
    """By its correlation id: in its answer, its line of log, and the spans of both."""
    async with collector() as (otlp, spans):
        env = {
            **environment(tmp_path),
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{otlp}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "CASEBOOK_CHECKPOINT_SECONDS": "0",
        }
        env = {name: value for name, value in env.items() if not name.endswith("_proxy")}
        served = await script("scripts.serve", env=env)
        address = await listens_at(served)
        key = await script("scripts.keys", "make", "sam", "supervisor", env=env)
        bearer = f"Bearer {(await key.communicate())[0].decode().strip()}"
        async with httpx.AsyncClient(
            headers={"Authorization": bearer}, timeout=patience(30)
        ) as sam:
            traced = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "Prefer": "wait=20"}
            made = await sam.post(f"{address}/tickets", json=OPEN, headers=traced)
            own = await sam.post(f"{address}/tickets", json=OPEN, headers={"Prefer": "wait=20"})
            bad = await sam.post(f"{address}/tickets", json={}, headers={"Correlation-Id": "mine"})
            key = await script("scripts.keys", "make", "canary", "requester", env=env)
            hers = (await key.communicate())[0].decode().strip()
            as_her = {"Authorization": f"Bearer {hers}", "Correlation-Id": "hers"}
            await sam.get(f"{address}/tickets", headers=as_her)
        assert made.headers["correlation-id"] == TRACE
        assert bad.headers["correlation-id"] == "mine"

        def named():
            return {(span.trace_id.hex(), span.name) for span in spans}

        async def all_there():
            return {
                (trace, name)
                for trace in (TRACE, own.headers["correlation-id"])
                for name in ("POST /tickets", "fold TicketOpened")
            } <= named()

        await until(all_there)
        served.terminate()
        _, err = await served.communicate()
    lines = [json.loads(line) for line in err.decode().splitlines()]
    told = [line for line in lines if line["event"] == "request"]
    assert [(t["status"], t["correlation_id"]) for t in told] == [
        (201, TRACE),
        (201, own.headers["correlation-id"]),
        (422, "mine"),
        (200, "hers"),
    ]
    *others, last = [t["principal"] for t in told]
    assert set(others) == {"supervisor:sam"}
    assert last == f"requester:{hers.split('_')[1]}"
    assert b"canary" not in err  # a log cannot be made to forget
    assert all({"level", "timestamp", "logger"} <= line.keys() for line in lines)


@pytest.mark.parametrize("form", ["text", "json"])
async def test_lines_are_for_people_or_for_machines(tmp_path, form):
    env = {**environment(tmp_path), "CASEBOOK_LOG_FORMAT": form}
    shown = await script("scripts.keys", "list", env={**env, "CASEBOOK_PORT": "0"})
    _, err = await shown.communicate()
    assert shown.returncode == 0
    assert Settings.from_environment(env).log_format == form
    assert err == b""  # nothing to say
    env["CASEBOOK_DATA_DIR"] = str(tmp_path)
    served = await script("scripts.serve", env={**env, "CASEBOOK_CHECKPOINT_SECONDS": "0"})
    async with httpx.AsyncClient(base_url=await listens_at(served)) as client:
        await client.get("/healthz")
    served.terminate()
    _, err = await served.communicate()
    assert b"/healthz" in err
    for line in err.decode().splitlines():
        assert line.startswith("{") == (form == "json")


@pytest.mark.parametrize("form", ["text", "json"])
async def test_a_traceback_tells_no_secrets(tmp_path, form):
    """Local variables hold keys, secrets, and what people have written."""
    failing = (
        "import logging, asyncio\n"
        "from scripts.cli import run\n"
        "async def main(_):\n"
        "    secret = 'CANARY'\n"
        "    try:\n"
        "        raise ValueError('it happens')\n"
        "    except ValueError:\n"
        "        logging.getLogger('x').exception('failed')\n"
        "    return len(secret) - 6\n"
        "run(main, None)\n"
    )
    env = {**environment(tmp_path), "CASEBOOK_LOG_FORMAT": form}
    ran = await asyncio.create_subprocess_exec(
        sys.executable, "-c", failing, env=env, cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    _, err = await ran.communicate()
    assert ran.returncode == 0
    assert b"it happens" in err
    assert b"CANARY" not in err.replace(b"secret = 'CANARY'", b"")


# --- load is shed ---------------------------------------------------------------------------------


class Slow:
    """An application that answers when it is told to."""

    def __init__(self):
        self.served, self.go = 0, asyncio.Event()

    async def __call__(self, scope, receive, send):
        self.served += 1
        await self.go.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def asking(app):
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://casebook")


async def test_who_comes_when_too_much_is_under_way_is_told_to_come_again(database):
    """L12: a 503 with Retry-After, and nothing begun."""
    slow = Slow()
    by = access(database)
    async with asking(Pipeline(slow, (), by, database.identity, most=3)) as one:
        one.headers.update(SUPERVISOR)
        under_way = [asyncio.create_task(one.get("/tickets")) for _ in range(3)]
        await until(lambda: asyncio.sleep(0, slow.served == 3))
        late = await one.get("/tickets")
        is_problem(late, 503, "server_busy")
        assert int(late.headers["retry-after"]) > 0
        alive = asyncio.create_task(one.get("/healthz"))
        await until(lambda: asyncio.sleep(0, slow.served == 4))
        slow.go.set()
        assert [(await task).status_code for task in [*under_way, alive]] == [204] * 4
        assert (await one.get("/tickets")).status_code == 204


async def test_what_bodies_hold_in_all_is_bounded(monkeypatch):
    """L12"""
    monkeypatch.setattr(bodies, "_MOST_HELD_BYTES", 250)
    held = Bodies()

    def reading(content):
        async def receive():
            return {"type": "http.request", "body": content}

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "headers": headers, "state": {"principal": who}}
        read_headers(scope)
        return held.read(Request(scope, receive), 1_000)

    who, content = Principal("sam", "supervisor"), json.dumps({"body": "x" * 88}).encode()
    async with reading(content) as read, reading(content):
        assert read.value == {"body": "x" * 88}
        with pytest.raises(ServerBusy):
            await reading(content).__aenter__()
    for _ in range(3):
        async with reading(content):
            pass
    assert held._held.taken == 0
    answer = to_response(ServerBusy())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


# --- the server itself ----------------------------------------------------------------------------


@asynccontextmanager
async def run_by(app, *about):
    """An application on a server like that of `scripts.serve`: the server, and where it listens."""
    config = uvicorn.Config(
        app,
        http=HttpProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=10,
    )
    server = Server(config, *about)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(server.serve([listening]))
        try:
            yield server, listening.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


async def test_who_sends_a_head_byte_by_byte_is_cut_off_and_who_works_is_not(monkeypatch):
    """L12"""
    monkeypatch.setattr(server, "HEAD_SECONDS", 1.0)
    slow = Slow()
    slow.go.set()
    async with run_by(slow) as (_, port):
        silent = await asyncio.open_connection("127.0.0.1", port)
        dripping = await asyncio.open_connection("127.0.0.1", port)
        busy = await asyncio.open_connection("127.0.0.1", port)
        cut = [asyncio.create_task(reader.read()) for reader, _ in (silent, dripping)]
        async with asyncio.timeout(patience(20)):
            while not all(task.done() for task in cut):
                dripping[1].write(b"G")
                busy[1].write(b"GET /tickets HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await busy[0].readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
                await asyncio.sleep(0.1)
        for _, writer in (silent, dripping, busy):
            writer.close()


async def test_what_is_under_way_is_answered_when_the_server_is_told_to_stop(tmp_path):
    """A command that waits for the views, which nobody keeps: it is acknowledged all the same."""
    env = {**environment(tmp_path), "CASEBOOK_PROJECTING": "no"}
    served = await script("scripts.serve", env=env)
    address = await listens_at(served)
    key = await script("scripts.keys", "make", "bob", "requester", env=env)
    bearer = f"Bearer {(await key.communicate())[0].decode().strip()}"
    async with httpx.AsyncClient(headers={"Authorization": bearer}, timeout=patience(30)) as bob:
        post = bob.post(f"{address}/tickets", json=OPEN, headers={"Prefer": "wait=2"})
        asked = asyncio.create_task(post)
        log = Database((tmp_path / "data" / "database.url").read_text())
        await until(EventStore(log).count)
        await log.close()
        served.terminate()
        answer = await asked
        with pytest.raises(httpx.TransportError):
            await bob.get(f"{address}/tickets")
    assert answer.status_code == 201
    _, err = await served.communicate()
    assert served.returncode == 0
    assert b"Traceback" not in err


async def test_a_process_ends_though_a_thread_of_a_driver_waits_for_an_answer(tmp_path):
    """Found by a soak: what a killed process has left open kept the next from stopping."""
    waiting = (
        "import asyncio, time\n"
        "from scripts.cli import run\n"
        "async def main(_):\n"
        "    asyncio.get_running_loop().run_in_executor(pool, time.sleep, 3600)\n"
        "    print('done')\n"
        "    return 3\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "pool = ThreadPoolExecutor()\n"
        "run(main, None)\n"
    )
    ran = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", waiting),
        env=environment(tmp_path),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(patience(30)):
            out, _ = await ran.communicate()
    finally:
        if ran.returncode is None:
            ran.kill()
            await ran.wait()
    assert (ran.returncode, out) == (3, b"done\n")


async def test_a_stream_ends_when_its_key_is_revoked(database, store, monkeypatch):
    monkeypatch.setattr("api.access.keys.KEPT_SECONDS", 0.1)
    key, text = await Keys(database).make(KeyOrder(principal="sam", role="supervisor"), "x")
    soon = Limits(still_known_seconds=0.1)
    async with listening(database, store, soon) as (client, *_):
        shown = {"Authorization": f"Bearer {text}"}
        async with client.stream("GET", "/events/stream", headers=shown) as stream:
            lines = stream.aiter_lines()
            await anext(lines)
            await asyncio.sleep(0.5)
            await Keys(database).revoke(key.id)
            async with asyncio.timeout(patience(10)):
                async for _ in lines:
                    pass


async def test_metrics_are_there_while_the_database_is_silent(database, monkeypatch):
    """When they are wanted most; with a key that was known before."""
    monkeypatch.setattr("api.access.keys.KEPT_SECONDS", 0.0)
    _, text = await Keys(database).make(KeyOrder(principal="sam", role="supervisor"), "x")
    by = access(database)
    await by.keys.principal(text)
    monkeypatch.setattr("eventstore.failures.PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr("api.operations.metrics._LOOK_SECONDS", 0.2)
    shown = {"Authorization": f"Bearer {text}"}
    nobody = Database("mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=100")
    app = create_app(nobody, EventStore(nobody), access=by)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://casebook") as client:
        by.keys._documents = nobody.collection("api_keys")
        answer = await client.get("/metrics", headers=shown)
        assert answer.status_code == 200
        assert "casebook_projection_missing_events NaN" in answer.text
        assert (await client.get("/tickets", headers=shown)).status_code == 503
    await nobody.close()
