"""Nobody takes all there is: what is bounded is shared, and nothing is read for who is unknown."""

import asyncio
import json
from contextlib import AsyncExitStack

import httpx
import pytest

from api.access import authentication as gate
from api.access.access_log import RequestInfo
from api.access.principals import Principal, TooManyRequests
from api.access.quotas import QuotaExceeded, Quotas, network_of
from api.bulk import routes as bulk
from api.feed.client import Limits
from api.http import bodies
from api.people import routes as persons
from eventstore.failures import StoreBusy
from scripts import server
from tests.api.test_api import NOBODY, OPEN, client, is_problem, serving
from tests.api.test_bad_input import said
from tests.api.test_feed import following, listening, serving_with
from tests.api.test_operations import Slow, run_by
from tests.callers import ADMIN, AUDITOR, REQUESTER, SUPERVISOR, access
from tests.projecting import until

__all__ = ["client"]
JSON = b"Content-Type: application/json\r\n"
OPENING = json.dumps(OPEN).encode()


def test_a_share_is_taken_and_given_back():
    quotas = Quotas("things", 5, 3, StoreBusy)
    quotas.take("sam", 3)
    with pytest.raises(QuotaExceeded, match="things"):
        quotas.take("sam", 1)
    quotas.take("audrey", 2)
    with pytest.raises(StoreBusy):
        quotas.take("ada", 1)
    quotas.give_back("sam", 1)
    with quotas.hold("ada"):
        assert quotas.taken == 5
    for whose, amount in (("sam", 2), ("audrey", 2)):
        quotas.give_back(whose, amount)
    assert quotas.taken == 0
    assert not quotas._by  # nobody is remembered


# --- who shows no key -----------------------------------------------------------------------------


def announcing(method, path, authorization=b""):
    head = method + b" " + path + b" HTTP/1.1\r\nHost: x\r\n" + JSON + authorization
    return head + b"Content-Length: 400000\r\n\r\n"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        (b"GET", b"/healthz", b"200"),
        (b"GET", b"/openapi.json", b"200"),
        (b"GET", b"/", b"200"),
        (b"POST", b"/healthz", b"405"),
        (b"PUT", b"/docs", b"405"),
        (b"POST", b"/console/no.js", b"405"),
        (b"POST", b"/tickets", b"401"),
        (b"POST", b"/nothing", b"401"),
        (b"PUT", b"/desk", b"401"),
    ],
)
async def test_nothing_without_a_key_has_its_body_read(database, store, method, path, status):
    """The answer is there before the body is, and the connection ends with it."""
    async with listening(database, store) as (client, *_):
        answer = await said(client.base_url, announcing(method, path))
        assert answer.startswith(b"HTTP/1.1 " + status), answer[:200]
        assert b"connection: close" in answer.partition(b"\r\n\r\n")[0].lower()
        chunked = announcing(method, path).replace(
            b"Content-Length: 400000", b"Transfer-Encoding: chunked"
        )
        answer = await said(client.base_url, chunked + b"10\r\n")
        assert answer.startswith(b"HTTP/1.1 " + status), answer[:200]


async def test_bodies_that_strangers_send_are_not_parsed(database, store, monkeypatch):
    def never(_):
        raise AssertionError

    monkeypatch.setattr(bodies, "read_json", never)
    async with listening(database, store) as (client, *_):
        for path in ("/healthz", "/docs", "/tickets"):
            sent = {"headers": {"Authorization": "", "Content-Type": "application/json"}}
            answer = await client.post(path, content=OPENING, **sent)
            assert answer.status_code in (401, 405)


async def test_strangers_with_half_sent_bodies_keep_nobody_from_commands(database, store):
    """L12: a hundred of them, on every kind of path."""
    async with listening(database, store) as (client, *_), AsyncExitStack() as open_:
        for n in range(100):
            path = (b"/healthz", b"/tickets", b"/nothing")[n % 3]
            _, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
            open_.callback(writer.close)
            writer.write(announcing(b"POST", path) + b"x" * 65_000)
        answer = await client.post("/tickets", json=OPEN)
        assert answer.status_code == 201


# --- who shows one --------------------------------------------------------------------------------


async def test_one_principals_bodies_leave_room_for_another(database, store, monkeypatch):
    """Half-sent ones that fill their share; with however many keys or connections."""
    monkeypatch.setattr(bodies, "_PRINCIPALS_BYTES", 100_000)
    sam = b"Authorization: " + SUPERVISOR["Authorization"].encode() + b"\r\n"
    async with listening(database, store) as (client, *_), AsyncExitStack() as open_:
        answers = []
        for _ in range(3):
            reader, writer = await asyncio.open_connection(
                client.base_url.host, client.base_url.port
            )
            open_.callback(writer.close)
            writer.write(announcing(b"POST", b"/tickets", sam) + b" " * 45_000)
            answers.append(asyncio.create_task(reader.read()))
        async with asyncio.timeout(20):
            [done], waiting = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
        assert (await done).startswith(b"HTTP/1.1 429")
        assert b"share_taken" in await done
        assert len(waiting) == 2
        answer = await client.post("/tickets", json=OPEN, headers=REQUESTER)
        assert answer.status_code == 201
        for task in waiting:
            task.cancel()


async def test_one_supervisors_streams_do_not_shut_the_auditor_out(database, store):
    async with listening(database, store, Limits(streams_each=3)) as (client, feeds, _):
        async with AsyncExitStack() as open_:
            for _ in range(3):
                await open_.enter_async_context(following(client, **SUPERVISOR))
            answer = await client.get("/events/stream", headers=SUPERVISOR)
            is_problem(answer, 429, "share_taken")
            assert int(answer.headers["retry-after"]) > 0
            await open_.enter_async_context(following(client, **AUDITOR))
        await until(lambda: asyncio.sleep(0, feeds._streams.taken == 0))
        async with following(client, **SUPERVISOR):
            pass


async def test_one_principals_exports_leave_room_for_another(database, store):
    async with serving_with(database, store, Limits(exports_each=0)) as client:
        is_problem(await client.get("/events", headers=SUPERVISOR), 429, "share_taken")
    async with serving_with(database, store, Limits(exports_each=1)) as client:
        for _ in range(2):  # it is given back
            assert (await client.get("/events", headers=SUPERVISOR)).status_code == 200


async def test_one_administrators_exports_of_persons_leave_room_for_another(database, monkeypatch):
    monkeypatch.setattr(persons, "_EXPORTS_EACH", 0)
    async with serving(database) as client:
        await client.post("/tickets", json=OPEN)
        found = await client.post("/persons/find", json={"name": "bob"}, headers=ADMIN)
        path = f"/persons/{found.json()['id']}/data"
        is_problem(await client.get(path, headers=ADMIN), 429, "share_taken")
    monkeypatch.setattr(persons, "_EXPORTS_EACH", 1)
    async with serving(database) as client:
        for _ in range(2):  # it is given back, by those that end and by those that fail
            assert (await client.get(path, headers=ADMIN)).status_code == 200
            assert (await client.get(f"/persons/{NOBODY}/data", headers=ADMIN)).status_code == 404


async def test_one_principals_bulk_commands_leave_room_for_another(database, monkeypatch):
    """A hundred tickets are a hundred commands, of a process' ten thousand."""
    monkeypatch.setattr(bulk, "_PRINCIPALS_COMMANDS", 2)
    async with serving(database) as client:
        tickets = [(await client.post("/tickets", json=OPEN)).json()["ticket_id"] for _ in range(3)]
        content = {"tickets": tickets, "command": {"body": "x"}}
        is_problem(await client.post("/bulk/add_note", json=content), 429, "share_taken")
        content["tickets"] = tickets[:2]
        for _ in range(2):
            assert (await client.post("/bulk/add_note", json=content)).json()["done"] == 2


async def test_all_keys_of_a_principal_have_one_share_of_what_is_under_way(database, monkeypatch):
    monkeypatch.setattr(gate, "AT_ONCE", 2)
    by = access(database)
    first, second = (Principal("sam", "supervisor", key=key) for key in ("a" * 24, "b" * 24))
    by.begin(first)
    by.begin(second)
    with pytest.raises(TooManyRequests):
        by.begin(first)
    by.begin(Principal("audrey", "auditor"))
    by.end(second)
    by.begin(first)


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("odd:name", "odd:name", True),
    ],
)
def test_who_has_a_network_of_addresses_is_one(one, other, is_same):
    """By wrong keys, and by connections."""
    assert (network_of(one) == network_of(other)) == is_same

    def place(address):
        return gate._from(RequestInfo("GET", None, "/", address, None))

    assert (place(one) == place(other)) == is_same


# --- connections ----------------------------------------------------------------------------------


async def silent_connections(port, count, open_):
    readers = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        open_.callback(writer.close)
        readers.append(asyncio.create_task(reader.read()))
    return readers


async def test_one_address_keeps_no_more_than_its_share_of_connections(monkeypatch):
    """Those that ask nothing; whoever works is not cut off."""
    monkeypatch.setattr(server, "_ADDRESSES_CONNECTIONS", 3)
    slow = Slow()
    async with run_by(slow, lambda _: False) as (_, port), AsyncExitStack() as open_:
        base = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=base, timeout=30) as working:
            asked = asyncio.create_task(working.get("/tickets"))
            await until(lambda: asyncio.sleep(0, slow.served == 1))
            silent = await silent_connections(port, 8, open_)
            await until(lambda: asyncio.sleep(0.05, sum(task.done() for task in silent) == 5))
            slow.go.set()
            assert (await asked).status_code == 204
        for task in silent:
            task.cancel()


async def test_all_addresses_of_a_network_share_its_connections(monkeypatch):
    """One client has all addresses of an IPv6 network of 64 bits."""
    async with run_by(Slow(), lambda _: False) as (serving, port), AsyncExitStack() as open_:
        silent = await silent_connections(port, 8, open_)
        connections = serving.server_state.connections
        await until(lambda: asyncio.sleep(0.01, len(connections) == 8))
        for number, connection in enumerate(connections):
            connection.client = (f"2001:db8:1:2::{number}", number)
        monkeypatch.setattr(server, "_ADDRESSES_CONNECTIONS", 3)
        await until(lambda: asyncio.sleep(0.05, sum(task.done() for task in silent) == 5))
        for task in silent:
            task.cancel()


async def test_who_stands_for_many_may_keep_more(monkeypatch):
    """A proxy, and this machine."""
    monkeypatch.setattr(server, "_ADDRESSES_CONNECTIONS", 1)
    slow = Slow()
    async with run_by(slow) as (serving, port), AsyncExitStack() as open_:
        silent = await silent_connections(port, 4, open_)
        await until(lambda: asyncio.sleep(0.05, len(serving._waiting) == 4))
        looked = serving._waiting
        await until(lambda: asyncio.sleep(0.05, serving._waiting is not looked))
        assert not any(task.done() for task in silent)
        for task in silent:
            task.cancel()


@pytest.mark.parametrize(
    ("address", "trusted", "is_one"),
    [
        ("127.0.0.1", None, True),
        ("192.0.2.7", None, False),
        ("192.0.2.7", "192.0.2.7, 198.51.100.0/24", True),
        ("198.51.100.9", "192.0.2.7, 198.51.100.0/24", True),
        ("198.51.101.9", "192.0.2.7, 198.51.100.0/24", False),
        ("192.0.2.7", "*", True),
        ("odd", "192.0.2.7", False),
    ],
)
def test_a_trusted_proxy_stands_for_many(address, trusted, is_one):
    assert server._standing_for_many(trusted)(address) == is_one
