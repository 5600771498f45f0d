"""Webhooks: each event once it has happened, at least once, in order, signed."""

import asyncio
import hashlib
import hmac
import json
import logging
import socket
import ssl
from collections import defaultdict
from collections.abc import Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from api.webhooks import enqueuer as enqueuing
from api.webhooks.deliveries import Deliveries
from api.webhooks.enqueuer import Enqueuer
from api.webhooks.posting import asked_pause, signature
from api.webhooks.sender import Patience, Sender, WebhookWorker
from api.webhooks.store import Backfill, WebhookLease, Webhooks
from eventstore.failures import HistoryLost, StoreUnavailable
from eventstore.log import EventStore
from eventstore.reading import read_events
from eventstore.subscription import LateEventCheck
from projections.projector.parked import ParkedTickets
from projections.views.saved_views import TicketFilter
from scripts.testbed.patience import patience as seconds_here
from tests.api.test_api import is_problem, refusing, serving
from tests.callers import REQUESTER, SUPERVISOR
from tests.projecting import add, caught_up, open_some, rebuilt, running, until
from tests.streams import leaving_out

__all__ = ["refusing"]

HASTY = Patience(first_seconds=0.02, longest_seconds=0.1, total_seconds=1.0)


class Receiver:
    """An HTTP server that notes what it gets; `answers` gives the status, None to hang up."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.port = 0
        self.answers: Callable[[dict[str, object]], int | None] = lambda _event: 200
        self.asks = ""  # more headers of its answers
        self.requests = 0
        self.lets_go = asyncio.Event()  # no answer before
        self.lets_go.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def told(self) -> list[tuple[UUID, int]]:
        """What has come, in order, doubles left out."""
        events = (json.loads(body) for _, body in self.got)
        return list(dict.fromkeys((UUID(e["ticket_id"]), e["version"]) for e in events))

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = dict(line.split(": ", 1) for line in head[1:] if line)
                named = {name.lower(): value for name, value in headers.items()}
                body = await reader.readexactly(int(named["content-length"]))
                self.requests += 1
                await self.lets_go.wait()
                status = self.answers(json.loads(body))
                if status is None:
                    return
                if status == 200:
                    self.got.append((named, body))
                asks = "" if status == 200 else self.asks
                writer.write(f"HTTP/1.1 {status} x\r\n{asks}content-length: 0\r\n\r\n".encode())
        except (OSError, EOFError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def receiving(**options):
    receiver = Receiver()
    server = await asyncio.start_server(receiver.take, "127.0.0.1", 0, **options)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def dispatching(database, patience=HASTY, store=None, **options):
    made = WebhookWorker(database, store or EventStore(database), patience, **options)
    running = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
async def receiver():
    async with receiving() as one:
        yield one


@pytest.fixture
async def client(database, store):
    async with serving(database, project=False) as one:
        yield one


async def hooked(client, receiver, **more):
    """Have the receiver be told."""
    order = {"url": receiver.url, **more}
    made = await client.post("/webhooks", json=order, headers=SUPERVISOR)
    assert made.status_code == 201, made.text
    return made.json()


async def arrived(receiver, expected, *, in_order=True):
    async def all_there():
        return len(receiver.told) >= len(expected)

    await until(all_there)
    assert sorted(receiver.told) == sorted(expected)
    by_ticket = defaultdict(list)
    for ticket_id, version in receiver.told:
        by_ticket[ticket_id].append(version)
    assert not in_order or all(each == sorted(each) for each in by_ticket.values())


def versions(ids, *numbers):
    return [(ticket_id, version) for ticket_id in ids for version in numbers]


async def test_every_event_arrives_signed_and_in_order(database, store, client, receiver):
    """L8: what was before is not told; each event is as the feed tells it."""
    await open_some(store, 1)
    hook = await hooked(client, receiver)
    async with dispatching(database):
        ids = await open_some(store, 4)
        await arrived(receiver, versions(ids, 1, 2, 3))
    for headers, body in receiver.got:
        signed = headers["casebook-timestamp"].encode() + b"." + body
        expected = hmac.new(hook["secret"].encode(), signed, hashlib.sha256).hexdigest()
        assert headers["casebook-signature"] == f"v1={expected}"
        assert headers["casebook-event"] == json.loads(body)["type"]
    event = json.loads(receiver.got[0][1])
    stored = await store.stored(UUID(event["ticket_id"]))
    assert event["hash"] == stored[event["version"] - 1]["hash"].hex()
    assert {"id", "data", "actor", "occurred_at", "correlation_id"} <= event.keys()


async def test_a_ticket_waits_for_its_first_event_and_others_do_not(
    database, store, client, receiver
):
    """At least once, in order: also where answers get lost."""
    hook = await hooked(client, receiver)
    first_answers = [500, None, 301]
    failures = iter([*first_answers, *[500] * 1000])
    is_mended = False
    stuck, *others = made = await open_some(store, 3)
    receiver.answers = lambda event: (
        next(failures)
        if (event["ticket_id"], event["version"]) == (str(stuck), 1) and not is_mended
        else 200
    )
    async with dispatching(database):
        await arrived_of(receiver, others)

        async def parked():
            return (await client.get(f"/webhooks/{hook['id']}")).json()["parked"] == 3

        await until(parked)
        assert not [each for each in receiver.told if each[0] == stuck]
        shown = (await client.get(f"/webhooks/{hook['id']}/deliveries?status=parked")).json()
        first = shown["deliveries"][-1]
        expected = [*first_answers, *[500] * 20]
        assert all(a["status"] == e for a, e in zip(first["attempts"], expected, strict=False))
        assert all(a["error"] for a in first["attempts"])
        is_mended = True
        resumed = await client.post(f"/webhooks/{hook['id']}/resume")
        assert (resumed.status_code, resumed.json()) == (202, {"resumed": 3})
        await arrived(receiver, versions(made, 1, 2, 3))


async def arrived_of(receiver, tickets):
    async def there():
        return sum(ticket in tickets for ticket, _ in receiver.told) == 3 * len(tickets)

    await until(there)


async def test_only_what_is_asked_for_is_told(database, store, client, receiver):
    """By type, and by the ticket as it is after the event."""
    async with receiving() as notes:
        await hooked(client, receiver, filter={"group": "print"})
        await hooked(client, notes, types=["NoteAdded"])
        async with dispatching(database):
            [printing] = await open_some(store, 1, group="print")
            [other] = await open_some(store, 1)
            await add(store, other, "TicketMovedToGroup", group="print")
            await add(store, printing, "TicketMovedToGroup", group=None)
            await arrived(receiver, [*versions([printing], 1, 2, 3), (other, 4)])
            await arrived(notes, versions([printing, other], 2, 3))


async def test_one_that_comes_later_takes_nothing_from_others(database, store, client, receiver):
    """L8: made while much goes on, it is told of all that was written since."""
    await hooked(client, receiver)
    async with receiving() as later, dispatching(database):
        ids, since = [], []
        for n in range(12):
            if n == 4:
                await hooked(client, later)
            made = await open_some(store, 1)
            ids += made
            since += made if n >= 4 else []
        await arrived(receiver, versions(ids, 1, 2, 3))
        await arrived(later, versions(since, 1, 2, 3))


async def test_the_past_is_told_before_what_is_new(database, store, client, receiver):
    ids = await open_some(store, 3)
    await hooked(client, receiver, since="2000-01-01T00:00:00Z")
    for ticket_id in ids:
        await add(store, ticket_id, "NoteAdded", body="new")
    async with dispatching(database):
        await arrived(receiver, versions(ids, 1, 2, 3, 4))


async def test_what_has_arrived_can_be_sent_again(database, store, client, receiver):
    hook = await hooked(client, receiver)
    path = f"/webhooks/{hook['id']}"
    async with dispatching(database):
        ids = await open_some(store, 2)
        await arrived(receiver, versions(ids, 1, 2, 3))

        async def done():
            return (await client.get(path)).json()["pending"] == 0

        await until(done)
        pages = (await client.get(f"{path}/deliveries?limit=4")).json()
        rest = (await client.get(f"{path}/deliveries?cursor={pages['next']}")).json()
        shown = [*pages["deliveries"], *rest["deliveries"]]
        assert len({d["id"] for d in shown}) == 6
        assert {d["status"] for d in shown} == {"delivered"}
        asked = {"delivery": shown[0]["id"]}
        assert (await client.post(f"{path}/redeliver", json=asked)).status_code == 202
        await until(lambda: count(receiver, 7))
        everything = {"since": "2000-01-01T00:00:00Z"}
        assert (await client.post(f"{path}/redeliver", json=everything)).status_code == 202
        await until(lambda: count(receiver, 13))
        assert len({headers["casebook-delivery"] for headers, _ in receiver.got}) == 6


async def count(receiver, n):
    return len(receiver.got) >= n


async def test_one_that_dies_is_followed_by_another(database, store, client, receiver, caplog):
    """L3, L8: nothing is lost, and two at once keep the order; who has no lease says nothing."""
    await hooked(client, receiver)
    ids = []
    async with dispatching(database, lease_seconds=1.0), dispatching(database, lease_seconds=1.0):
        for _ in range(3):
            ids += await open_some(store, 2)
        await arrived(receiver, versions(ids, 1, 2, 3))
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
    ids += await open_some(store, 2)  # nobody is there
    dead = WebhookLease(database)
    assert await dead.take("dead")
    async with dispatching(database, lease_seconds=1.0):
        await arrived(receiver, versions(ids, 1, 2, 3))


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("left_out", [1, 3])
async def test_what_the_stream_leaves_out_is_told(
    database, store, client, receiver, left_out, down
):
    """L8: it is not trusted alone, whatever else of a ticket it brings, and after a pause."""
    late = LateEventCheck(0.1, timedelta(seconds=0.2), timedelta(seconds=0.3))
    await hooked(client, receiver)
    ids = []
    if down:
        async with dispatching(database):
            ids += await open_some(store, 1)
            await arrived(receiver, versions(ids, 1, 2, 3))
        ids += await open_some(store, 1)
        await asyncio.sleep(1.0)
    leaky = leaving_out(database, lambda event: event["version"] == left_out)
    async with dispatching(database, store=leaky, late=late):
        ids += await open_some(store, 2)
        await arrived(receiver, versions(ids, 1, 2, 3), in_order=left_out == 3)


async def test_wishes_for_the_past_are_kept_until_they_are_met(database, store, client, receiver):
    """What is wished while something is being fed is fed as well."""
    id_ = UUID((await hooked(client, receiver))["id"])
    hooks = Webhooks(database)
    january, march = (datetime(2026, month, 1, tzinfo=UTC) for month in (1, 3))
    await hooks.backfill(id_, Backfill(january, again=False))
    await hooks.backfill(id_, Backfill(march, again=True))
    both = Backfill(january, again=True)
    assert (await hooks.find(id_)).backfill == both
    assert not await hooks.backfilled(id_, Backfill(january, again=False))
    assert await hooks.backfilled(id_, both)
    assert (await hooks.find(id_)).backfill is None
    await hooks.backfill(id_, both)
    await hooks.delete(id_)
    assert not await hooks.backfilled(id_, both)


async def test_a_stream_that_has_forgotten_loses_nothing(
    database, store, client, receiver, monkeypatch
):
    """L8: the log is read again from some time before."""
    await hooked(client, receiver)
    async with dispatching(database):
        ids = await open_some(store, 1)
        await arrived(receiver, versions(ids, 1, 2, 3))

        async def fed():
            return (await database.collection("webhook_dispatch").find_one({}))["token"]

        await until(fed)
    ids += await open_some(store, 2)
    watch = EventStore.watch
    lost: list[object] = []

    def forgetful(self, after, *args):
        if after is not None and not lost:
            lost.append(after)
            raise HistoryLost("gone")
        return watch(self, after, *args)

    monkeypatch.setattr(EventStore, "watch", forgetful)
    async with dispatching(database):
        await arrived(receiver, versions(ids, 1, 2, 3))
    assert lost


async def test_a_receiver_that_never_answers_keeps_nobody_waiting(
    database, store, client, receiver
):
    silent = await asyncio.start_server(lambda *_: asyncio.sleep(3600), "127.0.0.1", 0)
    async with silent:
        port = silent.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}/"
        made = await client.post("/webhooks", json={"url": url}, headers=SUPERVISOR)
        await hooked(client, receiver)
        async with dispatching(database, replace(HASTY, answer_seconds=seconds_here(0.3))):
            ids = []
            for _ in range(4):  # while the other one is waited for
                ids += await open_some(store, 5)
                await arrived(receiver, versions(ids, 1, 2, 3))
            path = f"/webhooks/{made.json()['id']}/deliveries"

            async def given_up():
                shown = (await client.get(path, params={"limit": 200})).json()["deliveries"]
                return [a["error"] for d in shown for a in d["attempts"]]

            assert (await until(given_up))[0].startswith("no answer within")
            await client.delete(f"/webhooks/{made.json()['id']}")
        silent.close()


async def test_a_receiver_that_redirects_sends_nothing_of_mine_elsewhere(
    database, store, client, receiver
):
    hook = await hooked(client, receiver)
    receiver.answers = lambda _event: 307
    async with receiving() as elsewhere, dispatching(database):
        receiver.asks = f"location: {elsewhere.url}\r\n"
        await open_some(store, 1)
        await until(lambda: shows(client, f"/webhooks/{hook['id']}", lambda hook: hook["parked"]))
        assert (elsewhere.requests, receiver.requests > 1) == (0, True)


async def test_nobody_is_told_twice_when_i_build_my_views_anew(database, store, client, receiver):
    """L8: nor when a ticket is folded again; what is new is told next."""
    await hooked(client, receiver)
    async with running(database), dispatching(database):
        ids = await open_some(store, 2)
        await arrived(receiver, versions(ids, 1, 2, 3))
        await rebuilt(database)
        await caught_up(database, store)
        parked = ParkedTickets(database)
        await parked.ask(ids[0])

        async def folded_again():
            return not await parked.asked()

        await until(folded_again)
        await add(store, ids[0], "NoteAdded", body="new")
        await arrived(receiver, [*versions(ids, 1, 2, 3), (ids[0], 4)])
        assert receiver.requests == 7


async def test_webhooks_are_made_shown_changed_and_forgotten(client, receiver, database):
    hook = await hooked(client, receiver, types=["NoteAdded"], filter={"group": "print"})
    path = f"/webhooks/{hook['id']}"
    shown = (await client.get(path)).json()
    assert shown == {name: value for name, value in hook.items() if name != "secret"}
    assert (await client.get("/webhooks")).json() == {"webhooks": [shown]}
    changed = await client.put(path, json={"url": receiver.url}, headers=SUPERVISOR)
    assert (changed.json()["url"], changed.json()["types"]) == (receiver.url, [])
    assert await secret_of(database, hook) == hook["secret"]
    assert (await client.delete(path)).status_code == 204
    for answer in (
        await client.get(path),
        await client.delete(path),
        await client.put(path, json={"url": receiver.url}),
        await client.get(f"{path}/deliveries"),
        await client.post(f"{path}/resume"),
        await client.post(f"{path}/redeliver", json={"delivery": "x"}),
    ):
        is_problem(answer, 404, "webhook_not_found")
    assert await Webhooks(database).all() == []


async def test_requesters_have_no_business_with_webhooks(client, receiver):
    hook = await hooked(client, receiver)
    path = f"/webhooks/{hook['id']}"
    for answer in (
        await client.get("/webhooks", headers=REQUESTER),
        await client.post("/webhooks", json={"url": receiver.url}, headers=REQUESTER),
        await client.get(path, headers=REQUESTER),
        await client.delete(path, headers=REQUESTER),
        await client.get(f"{path}/deliveries", headers=REQUESTER),
    ):
        is_problem(answer, 403, "forbidden")


@pytest.mark.parametrize(
    "order",
    [
        {"url": "ftp://example.org/"},
        {"url": "https://"},
        {"url": "https://bob:secret@example.org/"},
        {"url": "http://169.254.169.254/latest"},
        {"url": "http://[fe80::1]/"},
        {"url": "http://0.0.0.0:80/"},
        {"url": "http://[::ffff:169.254.169.254]/"},
        {"url": "http://example.org:99999/"},
        {"url": "http://example.org/a b"},
        {"url": "http://example.org/", "types": ["Nothing"]},
        {"url": "http://example.org/", "filter": {"$where": "1"}},
        {"url": "http://example.org/", "secret": "short"},
        {},
    ],
)
async def test_a_webhook_that_makes_no_sense_is_refused(refusing, order):
    """L12"""
    is_problem(await refusing.post("/webhooks", json=order), 422, "invalid_request")


async def test_what_makes_no_sense_of_a_webhook_is_refused(client, receiver, monkeypatch):
    """L12"""
    hook, other = await hooked(client, receiver), await hooked(client, receiver)
    path = f"/webhooks/{hook['id']}"
    for wrong in ({}, {"delivery": "x", "since": "2026-01-01T00:00:00Z"}):
        is_problem(await client.post(f"{path}/redeliver", json=wrong), 422, "invalid_request")
    unknown = await client.post(f"{path}/redeliver", json={"delivery": "x"})
    is_problem(unknown, 404, "delivery_not_found")
    is_problem(await client.get(f"{path}/deliveries?cursor=x"), 422, "bad_cursor")
    monkeypatch.setattr("api.webhooks.store.MOST_WEBHOOKS", 2)
    full = await client.post("/webhooks", json={"url": receiver.url})
    is_problem(full, 409, "too_many_webhooks")
    assert other["secret"] != hook["secret"]


async def secret_of(database, hook):
    return (await Webhooks(database).find(UUID(hook["id"]))).secret


async def test_a_secret_ends_with_its_address(client, receiver, database):
    """Who was told of events there knows it: it must not vouch for what is sent elsewhere."""
    hook = await hooked(client, receiver)
    path, elsewhere = f"/webhooks/{hook['id']}", f"{receiver.url}/other"
    moved = (await client.put(path, json={"url": elsewhere})).json()
    assert moved["secret"] == await secret_of(database, hook) != hook["secret"]
    assert "secret" not in (await client.put(path, json={"url": elsewhere})).json()
    assert await secret_of(database, hook) == moved["secret"]
    chosen = {"url": receiver.url, "secret": "another-secret-of-ours"}
    assert "secret" not in (await client.put(path, json=chosen)).json()
    assert await secret_of(database, hook) == chosen["secret"]
    assert "secret" not in (await client.get(path)).json()


async def test_a_secret_is_not_lost_with_an_answer_that_fails(
    client, receiver, database, monkeypatch
):
    """L12: what is answered with 503 has not been done; and what is done is answered."""
    hook = await hooked(client, receiver)

    async def fail(*_):
        raise StoreUnavailable

    monkeypatch.setattr(Deliveries, "counts", fail)
    change = {"url": f"{receiver.url}/other"}
    is_problem(await client.put(f"/webhooks/{hook['id']}", json=change), 503, "store_unavailable")
    assert await secret_of(database, hook) == hook["secret"]
    another = await hooked(client, receiver)
    assert another["secret"] == await secret_of(database, another)


async def test_of_the_past_nothing_more_is_found_for_one_that_has_ended(database, client, receiver):
    """It goes on from now on, as one does that was changed after its end."""
    hook = await hooked(client, receiver, since="2000-01-01T00:00:00Z")
    hooks = Webhooks(database)
    await hooks.end(await hooks.find(UUID(hook["id"])), await database.server_time())
    changed = await client.put(f"/webhooks/{hook['id']}", json={"url": receiver.url})
    assert (changed.json()["ended_at"], changed.json()["backfilling"]) == (None, False)


async def test_a_receiver_that_is_gone_ends_its_webhook(database, store, client, receiver):
    """410: nothing more is sent or kept for it, until it is changed; and then from then on."""
    hook = await hooked(client, receiver)
    path = f"/webhooks/{hook['id']}"
    receiver.answers = lambda _event: 410
    async with receiving() as other, dispatching(database):
        await hooked(client, other)
        ids = await open_some(store, 3)
        await arrived(other, versions(ids, 1, 2, 3))
        await until(lambda: shows(client, path, lambda hook: hook["ended_at"]))
        later = await open_some(store, 2)
        await arrived(other, versions([*ids, *later], 1, 2, 3))
        await until(
            lambda: shows(client, path, lambda hook: hook["pending"] == hook["parked"] == 0)
        )
        kept = (await client.get(f"{path}/deliveries?limit=200")).json()["deliveries"]
        assert {d["status"] for d in kept} == {"ended"}
        seen = receiver.requests
        since = {"since": "2000-01-01T00:00:00Z"}
        is_problem(await client.post(f"{path}/resume"), 409, "webhook_ended")
        is_problem(await client.post(f"{path}/redeliver", json=since), 409, "webhook_ended")
        receiver.answers = lambda _event: 200
        changed = await client.put(path, json={"url": receiver.url})
        assert changed.json()["ended_at"] is None
        new = await open_some(store, 1)
        await arrived(receiver, versions(new, 1, 2, 3))
        assert receiver.requests == seen + 3
        assert (await client.post(f"{path}/redeliver", json=since)).status_code == 202
        await arrived(receiver, versions([*ids, *later, *new], 1, 2, 3), in_order=False)


async def test_what_waits_for_one_that_has_ended_ends_at_the_start(
    database, store, client, receiver
):
    """L8: the process that noted the one died before it noted the other."""
    hook = await hooked(client, receiver)
    id_, path = UUID(hook["id"]), f"/webhooks/{hook['id']}"
    [ticket] = await open_some(store, 1)
    await Deliveries(database).make(id_, (await store.stored(ticket))[:2])
    hooks = Webhooks(database)
    assert await hooks.end(await hooks.find(id_), await database.server_time())
    assert (await client.get(path)).json()["pending"] == 2
    async with dispatching(database):
        await until(lambda: shows(client, path, lambda hook: hook["pending"] == 0))
    kept = (await client.get(f"{path}/deliveries")).json()["deliveries"]
    assert {delivery["status"] for delivery in kept} == {"ended"}
    assert receiver.requests == 0


async def shows(client, path, wanted):
    return wanted((await client.get(path)).json())


async def test_an_answer_of_the_former_address_ends_no_webhook(database, client, receiver):
    made = await hooked(client, receiver)
    hooks = Webhooks(database)
    before = await hooks.find(UUID(made["id"]))
    await client.put(f"/webhooks/{made['id']}", json={"url": f"{receiver.url}/other"})
    now = await database.server_time()
    assert not await hooks.end(before, now)
    await hooks.rest(before, now + timedelta(hours=1))
    shown = (await client.get(f"/webhooks/{made['id']}")).json()
    assert (shown["ended_at"], shown["rests_until"]) == (None, None)


async def test_the_former_address_ends_nothing_that_waits_for_the_new_one(
    database, store, client, receiver
):
    """L8: it answers 410 to what was sent before the webhook got another URL."""
    path = f"/webhooks/{(await hooked(client, receiver))['id']}"
    receiver.answers = lambda _event: 410
    receiver.lets_go.clear()
    async with receiving() as other, dispatching(database, replace(HASTY, total_seconds=60.0)):
        ids = await open_some(store, 1)
        await until(lambda: several(receiver, 1))
        assert (await client.put(path, json={"url": other.url})).status_code == 200
        receiver.lets_go.set()
        await arrived(other, versions(ids, 1, 2, 3))
        assert receiver.requests == 1


@pytest.mark.parametrize("becomes", ["another", "deleted"])
async def test_nothing_more_is_sent_to_an_address_that_was_taken_away(
    database, store, client, receiver, becomes
):
    """Not even what was to be sent with what is being sent."""
    path = f"/webhooks/{(await hooked(client, receiver))['id']}"
    receiver.lets_go.clear()
    [ticket] = await open_some(store, 1)
    async with receiving() as other, dispatching(database):
        await until(lambda: several(receiver, 1))
        await until(lambda: shows(client, path, lambda hook: hook["pending"] == 3))
        if becomes == "another":
            assert (await client.put(path, json={"url": other.url})).status_code == 200
            expected = versions([ticket], 2, 3)
        else:
            assert (await client.delete(path)).status_code == 204
            await hooked(client, other)
            expected = versions(await open_some(store, 1), 1, 2, 3)
        receiver.lets_go.set()
        await arrived(other, expected)
    assert receiver.told == [(ticket, 1)]


async def test_one_that_ends_while_it_is_changed_goes_on_from_the_change(
    database, client, receiver, monkeypatch
):
    """L8: not from when it was made, wherever between the look and the change the 410 comes."""
    id_ = UUID((await hooked(client, receiver))["id"])
    hooks, others = Webhooks(database), Webhooks(database)
    before, now = await hooks.find(id_), await database.server_time()
    find_one, ended = hooks._hooks.find_one, []

    async def overtaken(*args):
        found = await find_one(*args)
        ended.append(await others.end(before, now))
        return found

    monkeypatch.setattr(hooks._hooks, "find_one", overtaken)
    since = {"_data": "8F"}
    wanted = {"url": before.url, "types": [], "filter": {}}
    changed, _ = await hooks.change(id_, wanted, since, now)
    assert ended == [True, False]
    assert (changed.ended_at, changed.since, changed.sent_since) == (None, since, now)


async def looked_through(database, upto):
    """Whether it is kept that the log has been looked through to a time."""
    kept = await database.collection("webhook_dispatch").find_one({})
    return kept and kept.get("looked_at") and kept["looked_at"] > upto


async def test_the_only_one_goes_on_from_now_on_after_its_end(database, store, client, receiver):
    """What was recorded meanwhile is not taken for what the stream has left out."""
    late = LateEventCheck(0.1, timedelta(seconds=0.2))
    path = f"/webhooks/{(await hooked(client, receiver))['id']}"
    receiver.answers = lambda _event: 410
    async with dispatching(database, late=late):
        await open_some(store, 1)
        await until(lambda: shows(client, path, lambda hook: hook["ended_at"]))
        await until(lambda: shows(client, path, lambda hook: hook["pending"] == 0))
        await open_some(store, 2)
    seen = receiver.requests
    receiver.answers = lambda _event: 200
    async with dispatching(database, late=late):
        assert (await client.put(path, json={"url": receiver.url})).status_code == 200
        new = await open_some(store, 1)
        now = await database.server_time()
        await until(lambda: looked_through(database, now))
        await arrived(receiver, versions(new, 1, 2, 3))
        await until(lambda: shows(client, path, lambda hook: hook["pending"] == 0))
    assert receiver.requests == seen + 3


async def test_while_nobody_wants_anything_it_is_noted_up_to_when(database):
    """So that nobody who comes later has all of that time looked through."""
    async with dispatching(database):
        now = await database.server_time()
        await until(lambda: looked_through(database, now))


async def test_a_receiver_is_left_alone_for_as_long_as_it_asks(database, store, client, receiver):
    """Also by events that are new, and by another process; until somebody resumes it."""
    hook = await hooked(client, receiver)
    path = f"/webhooks/{hook['id']}"
    receiver.answers, receiver.asks = lambda _event: 503, "retry-after: 3600\r\n"
    async with receiving() as other:
        await hooked(client, other)
        async with dispatching(database):
            ids = await open_some(store, 1)
            await until(lambda: shows(client, path, lambda hook: hook["rests_until"]))
        assert receiver.requests == 1
        async with dispatching(database):
            ids += await open_some(store, 2)
            await arrived(other, versions(ids, 1, 2, 3))
            until_then = datetime.fromisoformat((await client.get(path)).json()["rests_until"])
            left = until_then - await database.server_time()
            assert timedelta(minutes=55) < left <= timedelta(hours=1)
            assert receiver.requests == 1
            receiver.answers = lambda _event: 200
            assert (await client.post(f"{path}/resume")).status_code == 202
            await arrived(receiver, versions(ids, 1, 2, 3))


async def test_what_waits_for_hours_is_sent_when_its_receiver_is_back(
    database, store, client, receiver
):
    await hooked(client, receiver)
    receiver.answers = lambda _event: 500
    async with dispatching(database):
        [waiting] = await open_some(store, 1)
        await until(lambda: several(receiver, 1))
    deliveries = database.collection("webhook_deliveries")
    at = await database.server_time() + timedelta(hours=4)
    await deliveries.update_many({}, {"$set": {"status": "pending", "next_at": at}})
    seen = receiver.requests
    receiver.answers = lambda _event: 500 if receiver.requests < seen + 4 else 200
    async with dispatching(database, replace(HASTY, total_seconds=60.0)):
        [new] = await open_some(store, 1)
        await arrived(receiver, versions([waiting, new], 1, 2, 3))


async def several(receiver, n):
    return receiver.requests >= n


async def test_what_was_stored_before_goes_on(database, store, client, receiver):
    """Webhooks and deliveries of a version that knew neither ends nor rests."""
    await hooked(client, receiver)
    receiver.answers = lambda _event: 500
    async with dispatching(database):
        ids = await open_some(store, 2)
        await until(lambda: several(receiver, 2))
    await database.collection("webhooks").update_many(
        {}, {"$unset": {"ended_at": "", "rests_until": ""}}
    )
    await database.collection("webhook_deliveries").update_many(
        {}, {"$unset": {"failing_since": ""}, "$set": {"status": "pending"}}
    )
    seen = receiver.requests
    receiver.answers = lambda _event: 500 if receiver.requests < seen + 2 else 200
    async with dispatching(database, replace(HASTY, total_seconds=60.0)):
        await arrived(receiver, versions(ids, 1, 2, 3))
    assert all(
        hook["ended_at"] is None for hook in (await client.get("/webhooks")).json()["webhooks"]
    )


async def test_the_address_that_was_checked_is_the_one_that_is_connected_to(
    database, store, client, receiver
):
    """A name that means something else the second time (DNS rebinding) gets nowhere."""
    looked_up = []

    async def resolve(host, port):
        looked_up.append((host, port))
        if len(looked_up) % 2:
            return ["127.0.0.3", "127.0.0.1"]  # nobody listens at the first
        return ["169.254.169.254"]

    url = f"http://receiver.test:{receiver.port}/hook"
    made = await client.post("/webhooks", json={"url": url}, headers=SUPERVISOR)
    async with dispatching(database, resolve=resolve):
        ids = await open_some(store, 1)
        await arrived(receiver, versions(ids, 1, 2, 3))
    assert {headers["host"] for headers, _ in receiver.got} == {f"receiver.test:{receiver.port}"}
    assert set(looked_up) == {("receiver.test", receiver.port)}
    path = f"/webhooks/{made.json()['id']}/deliveries"
    shown = (await client.get(path)).json()["deliveries"]
    errors = {a["error"] for d in shown for a in d["attempts"]}
    assert errors == {None, "AddressRefused: 169.254.169.254 is not sent to"}
    assert receiver.requests == 3


def certified(tmp_path, name):
    """Contexts of a server that can show that it is `name`, and of who believes it."""
    key = ec.generate_private_key(ec.SECP256R1())
    itself = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(itself)
        .issuer_name(itself)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    both = tmp_path / "both.pem"
    pem = certificate.public_bytes(Encoding.PEM)
    both.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(both)
    return server, ssl.create_default_context(cadata=pem.decode())


async def test_a_receivers_certificate_is_held_against_its_name(database, store, client, tmp_path):
    """Not against the address that it is connected at, and for each name anew."""
    server, believes = certified(tmp_path, "receiver.test")
    names = []
    server.sni_callback = lambda _socket, name, _context: names.append(name)

    async def resolve(host, port):
        return ["127.0.0.1"]

    async with receiving(ssl=server) as receiver:
        made = {}
        for name in ("receiver.test", "other.test"):
            order = {"url": f"https://{name}:{receiver.port}/hook"}
            made[name] = (await client.post("/webhooks", json=order, headers=SUPERVISOR)).json()
        # One ticket and long pauses: a handshake that is cut off would leave its socket open.
        async with dispatching(database, Patience(), resolve=resolve, tls=believes):
            ids = await open_some(store, 1)
            await arrived(receiver, versions(ids, 1, 2, 3))

            async def refused():
                path = f"/webhooks/{made['other.test']['id']}/deliveries"
                shown = (await client.get(path, headers=SUPERVISOR)).json()["deliveries"]
                return any(delivery["attempts"] for delivery in shown)

            await until(refused)
        assert set(names) == {"receiver.test", "other.test"}
        assert {h["host"] for h, _ in receiver.got} == {f"receiver.test:{receiver.port}"}


async def test_an_address_that_stays_silent_leaves_time_for_the_next(
    database, store, client, tmp_path
):
    """As one of a network that leads nowhere does."""
    server, believes = certified(tmp_path, "receiver.test")

    async def resolve(host, port):
        return ["127.0.0.3", "127.0.0.1"]

    async with receiving(ssl=server) as receiver:
        with socket.create_server(("127.0.0.3", receiver.port)):  # never says a word
            url = f"https://receiver.test:{receiver.port}/hook"
            await client.post("/webhooks", json={"url": url}, headers=SUPERVISOR)
            patience = replace(HASTY, total_seconds=600.0, answer_seconds=3.0)
            async with dispatching(database, patience, resolve=resolve, tls=believes):
                ids = await open_some(store, 1)
                await arrived(receiver, versions(ids, 1, 2, 3))


async def test_what_is_read_while_a_person_is_erased_is_not_kept(database, store, monkeypatch):
    """Else their words would come back from memory, opened before."""
    [ticket] = await open_some(store, 1)
    enqueuer = Enqueuer(database, store, asyncio.Event(), LateEventCheck())
    read = read_events

    async def erasing(*args, **options):
        async with aclosing(read(*args, **options)) as events:
            async for each in events:
                enqueuer.invalidate()
                yield each

    event = (await store.stored(ticket))[-1]
    wanted = TicketFilter(requester="nobody")
    assert not await enqueuer._matches(wanted, event)
    assert ticket in enqueuer._reads
    enqueuer.invalidate()
    monkeypatch.setattr(enqueuing, "read_events", erasing)
    assert not await enqueuer._matches(wanted, event)
    assert ticket not in enqueuer._reads


async def test_a_failure_in_the_moment_in_which_sending_begins_ends_no_webhook(
    database, store, client, receiver, monkeypatch
):
    """L8: what had not begun when it was cancelled is begun again."""
    await hooked(client, receiver)
    start_due = Sender._start_due
    failed: list[int] = []

    async def fail_once(sender, sending):
        await start_due(sender, sending)
        if sending and not failed:
            failed.append(1)
            raise StoreUnavailable

    monkeypatch.setattr(Sender, "_start_due", fail_once)
    async with dispatching(database):
        ids = await open_some(store, 2)
        await arrived(receiver, versions(ids, 1, 2, 3))
    assert failed


def test_a_failure_is_tried_again_for_three_days():
    """More and more seldom, but every four hours at least; the last time at the end."""
    patience = Patience()
    failing, pauses = timedelta(), list[timedelta]()
    while (pause := patience.pause(len(pauses) + 1, failing)) is not None:
        pauses.append(pause)
        failing += pause
    assert timedelta(days=3) <= failing < timedelta(days=3, seconds=5)
    assert pauses[0] <= timedelta(seconds=2)
    assert timedelta(hours=2) <= max(pauses) <= timedelta(hours=4)
    assert 25 < len(pauses) < 60
    for n, pause in enumerate(pauses[:10]):
        assert timedelta(seconds=2**n) <= pause <= timedelta(seconds=2 ** (n + 1))


NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("0", 0),
        (" 120 ", 120),
        ("86401", 86400),
        ("9" * 400, 86400),
        ("-5", 0),
        ("1.5", 0),
        ("soon", 0),
        ("Sun, 01 Mar 2026 12:02:00 GMT", 120),
        ("Sunday, 01-Mar-26 12:02:00 GMT", 120),
        ("Sun Mar  1 12:02:00 2026", 120),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0),
        ("Sun, 01 Mar 2099 11:00:00 GMT", 86400),
        ("Sun, 99 Mar 2026 11:00:00 GMT", 0),
        ("\u0663", 0),
    ],
)
def test_a_receiver_asks_by_seconds_or_by_a_date(retry_after, seconds):
    assert asked_pause(retry_after, NOON) == timedelta(seconds=seconds)


def test_a_signature_is_of_its_time():
    assert signature("k" * 16, "1", b"{}") != signature("k" * 16, "2", b"{}")
