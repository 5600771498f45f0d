"""The log as a feed: what is exported, what is followed, and who is cut off."""

import asyncio
import json
import logging
import socket
from collections import Counter, defaultdict
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from uuid import UUID, uuid4

import httpx
import pytest
import pytest_asyncio
import uvicorn
from pymongo.errors import ConnectionFailure

from api.app import create_app
from api.cursors import Cursors
from api.feed.client import LIMITS, Limits
from api.feed.feeds import Feeds
from api.feed.format import Writer
from domain.codec import EventData
from domain.errors import Unacceptable
from domain.tickets.opening import TicketOpened
from eventstore.database import Database
from eventstore.event_document import CommandRef, Head, Metadata, chained, to_document, utc_now
from eventstore.log import EventStore
from eventstore.subscription import LateEventCheck, Position
from scripts.http_protocol import HttpProtocol
from scripts.testbed.patience import patience
from tests.api.test_api import asking, is_problem, refusing, serving
from tests.callers import SOMEBODY, access
from tests.projecting import add, open_some, until
from tests.spec import ALICE, NOW
from tests.streams import leaving_out

__all__ = ["refusing"]


@pytest_asyncio.fixture
async def client(database):
    """The API without a projector."""
    async with serving(database, project=False) as one:
        yield one


@asynccontextmanager
async def listening(database, store=None, limits=LIMITS):
    """The API on a real socket: only there do responses stream. Gives its address and feeds."""
    store = store or EventStore(database)
    feeds = Feeds(database, store, limits)
    config = uvicorn.Config(
        create_app(database, store, (), feeds, access(database)),
        http=HttpProtocol,
        log_config=None,
        ws="none",
    )
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    served = asyncio.create_task(server._serve([listener]))
    async with httpx.AsyncClient(
        base_url=address, timeout=patience(30), headers=SOMEBODY
    ) as client:
        try:
            yield client, feeds, server
        finally:
            feeds.end()
            server.should_exit = True
            async with asyncio.timeout(patience(20)):
                await served


class Following:
    """A consumer as browsers are: it dispatches on an empty line, and remembers the last id."""

    def __init__(self):
        self.events = []
        self.ids = []
        self.last_id = None
        self.blocks = 0

    def feed(self, line):
        if line:
            self.block = [*getattr(self, "block", []), line]
            return
        fields = dict(part.split(": ", 1) for part in self.block)
        self.block = []
        self.blocks += 1
        if "id" in fields:
            self.last_id = fields["id"]
        if "data" in fields:
            event = json.loads(fields["data"])
            assert fields["event"] == event["type"]
            self.events.append(event)
            self.ids.append(self.last_id)

    @property
    def told(self):
        return [(UUID(e["ticket_id"]), e["version"]) for e in self.events]


@asynccontextmanager
async def following(client, query="", **headers):
    """Follow the stream; it has been joined when the block is entered."""
    seen = Following()
    if headers.get("last_event_id"):
        headers = {"Last-Event-ID": headers["last_event_id"]}
    async with client.stream("GET", f"/events/stream{query}", headers=headers) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")

        async def read():
            async for line in answer.aiter_lines():
                seen.feed(line)

        reading = asyncio.create_task(read())
        try:
            yield seen
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def exported(client, query="", **headers):
    answer = await client.get(f"/events{query}", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    cursors = [line["cursor"] for line in lines if "cursor" in line]
    return [line for line in lines if "version" in line], cursors


def versions(events):
    found = defaultdict(list)
    for event in events:
        found[UUID(event["ticket_id"])].append(event["version"])
    return found


def in_order(found):
    """Pass over what came twice; nothing new may come before its time."""
    once = {ticket: sorted(set(all_)) for ticket, all_ in found.items()}
    assert {ticket: list(dict.fromkeys(all_)) for ticket, all_ in found.items()} == once
    return once


# --- exports ------------------------------------------------------------------------------------


async def test_an_export_gives_every_event_as_it_is_stored(client, store):
    """L8: each ticket's in the order of versions, and a cursor in the end."""
    tickets = await open_some(store, 5)
    events, [cursor] = await exported(client)
    assert versions(events) == {ticket: [1, 2, 3] for ticket in tickets}
    stored = to_document((await store.load(tickets[0]))[0])
    [told] = [e for e in events if e["id"] == str(stored["_id"])]
    assert told == {
        "id": str(stored["_id"]),
        "ticket_id": str(tickets[0]),
        "version": 1,
        "type": "TicketOpened",
        "schema": TicketOpened.schema,
        "data": stored["data"],
        "occurred_at": stored["occurred_at"].isoformat(),
        "recorded_at": stored["recorded_at"].isoformat(),
        "actor": stored["actor"],
        "command": stored["command"],
        "correlation_id": None,
        "causation_id": None,
        "previous": None,
        "hash": stored["hash"].hex(),
        "sealed": [],
        "hidden": [],
    }
    events, [_] = await exported(client, f"?cursor={cursor}")
    assert events == []


async def test_an_export_goes_on_from_its_cursor(client, store):
    """L8: what came since, and nothing else."""
    [old] = await open_some(store, 1)
    _, [cursor] = await exported(client)
    [new] = await open_some(store, 1, versions=2)
    await add(store, old, "NoteAdded", body="later")
    events, [cursor] = await exported(client, f"?cursor={cursor}")
    assert versions(events) == {new: [1, 2], old: [4]}
    assert (await exported(client, f"?cursor={cursor}"))[0] == []


@pytest.mark.parametrize("limit", [1, 4, 1000])
async def test_an_export_in_pieces_is_the_whole(client, store, limit, monkeypatch):
    """L8: also in the middle of a ticket, and while the log is written to."""
    monkeypatch.setattr("eventstore.subscription._RANGE_EVENTS", 5)
    tickets = await open_some(store, 6)
    events, cursors = await exported(client, f"?limit={limit}")
    await add(store, min(tickets), "NoteAdded", body="behind the scan")
    tickets += await open_some(store, 1, versions=1)
    while True:
        more, cursors = await exported(client, f"?limit={limit}&cursor={cursors[-1]}")
        events += more
        if not more:
            break
        assert limit == 1000 or len(more) <= limit
    assert in_order(versions(events)) == {
        ticket: [e.version for e in await store.load(ticket)] for ticket in tickets
    }


async def test_what_is_written_during_the_scan_is_told_once(database, store):
    """L8: the scan and the stream overlap; versions tell."""
    tickets = await open_some(store, 4)

    class Busy(EventStore):
        async def of_range(self, of):
            for ticket in tickets:
                await add(store, ticket, "NoteAdded", body="meanwhile")
            return await super().of_range(of)

    async with serving_with(database, Busy(database)) as client:
        events, _ = await exported(client)
    assert versions(events) == {ticket: [1, 2, 3, 4] for ticket in tickets}


@asynccontextmanager
async def serving_with(database, store, limits=LIMITS):
    app = create_app(database, store, (), Feeds(database, store, limits), access(database))
    async with app.router.lifespan_context(app), asking(app) as client:
        yield client


def versions_in(*these):
    return lambda event: event["version"] in these


async def test_what_the_stream_leaves_out_is_read_from_the_log(database, store):
    """L8: the stream alone is not trusted; in an export, and while catching up."""
    tickets = await open_some(store, 2, versions=2)
    async with serving_with(database, leaving_out(database, versions_in(4, 5))) as client:
        _, [cursor] = await exported(client)
        for ticket in tickets:
            for n in range(4):
                await add(store, ticket, "NoteAdded", body=f"{n}")
        events, _ = await exported(client, f"?cursor={cursor}")
    assert versions(events) == {ticket: [3, 4, 5, 6] for ticket in tickets}


async def test_cursors_come_now_and_then(database, store):
    await open_some(store, 5)
    async with serving_with(database, store, Limits(cursor_every_events=4)) as client:
        events, cursors = await exported(client)
        assert len(events) == 15
        assert len(cursors) == 4
        rest, _ = await exported(client, f"?cursor={cursors[0]}")
        assert rest == events[4:]


async def test_only_some_types_are_given(client, store):
    await open_some(store, 3)
    events, [cursor] = await exported(client, "?type=TicketOpened")
    assert Counter(e["type"] for e in events) == {"TicketOpened": 3}
    await open_some(store, 1)
    events, _ = await exported(client, f"?type=TicketOpened&type=NoteAdded&cursor={cursor}")
    assert Counter(e["type"] for e in events) == {"TicketOpened": 1, "NoteAdded": 2}


async def test_what_is_no_event_is_passed_over_and_what_is_odd_is_given(client, store, database):
    """L11: an export tells what is stored, readable or not."""
    [ticket] = await open_some(store, 1)
    collection = database.collection("ticket_events")
    await collection.update_one({"version": 2}, {"$set": {"type": "Odd\nness", "data": b"\0"}})
    _, [cursor] = await exported(client)
    await collection.insert_one({"ticket_id": "nobody"})
    await add(store, ticket, "NoteAdded", body="x")
    assert versions((await exported(client))[0]) == {ticket: [1, 2, 3, 4]}
    assert versions((await exported(client, f"?cursor={cursor}"))[0]) == {ticket: [4]}


@pytest.mark.parametrize("path", ["/events", "/events/stream"])
@pytest.mark.parametrize(
    "query",
    [
        "?cursor=rubbish",
        "?cursor=",
        "?cursor=%C3%A9",
        "?type=Nothing",
        "?type=",
        "?types=TicketOpened",
        "?limit=0",
        "?limit=x",
        "?from=then",
    ],
)
async def test_what_cannot_be_asked_for_is_refused(refusing, path, query):
    """L12"""
    answer = await refusing.get(f"{path}{query}")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("kind", ["tickets", "events"])
async def test_cursors_of_other_lists_and_of_other_versions_are_refused(client, database, kind):
    """L12"""
    cursor = await Cursors(database, kind, object).write(["00", None])
    is_problem(await client.get(f"/events?cursor={cursor}"), 422, "bad_cursor")
    header = {"Last-Event-ID": cursor}
    is_problem(await client.get("/events/stream", headers=header), 422, "bad_cursor")
    is_problem(await client.get(f"/tickets?cursor={cursor}"), 422, "bad_cursor")


async def cursor_at(database, *, token=None, ago=timedelta(0), behind=False):
    """A cursor of ours; unless given, the token is one that no server knows."""
    position = Position(token or {"_data": "00" * 20}, utc_now() - ago, None, behind)
    return await Writer(database, EventStore(database)).cursor(position)


@pytest.mark.parametrize("kind", ["tickets", "events", "deliveries", "access_log"])
async def test_a_cursor_that_is_altered_anywhere_is_none(database, kind):
    """L12: byte by byte, and cut off at any place."""
    cursors = Cursors(database, kind, object)
    cursor = await cursors.write({"at": "2026-03-01", "n": 7})
    assert await cursors.read(cursor) == {"at": "2026-03-01", "n": 7}
    for n, letter in enumerate(cursor):
        for other in "AZaz09-_=.":
            if other != letter:
                with pytest.raises(Unacceptable):
                    await cursors.read(cursor[:n] + other + cursor[n + 1 :])
        with pytest.raises(Unacceptable):
            await cursors.read(cursor[:n])


async def test_who_comes_with_a_forgotten_cursor_is_told_from_the_log(client, database, store):
    """L8: never a silent start from now."""
    ids = await open_some(store, 2)
    expected = {ticket_id: [1, 2, 3] for ticket_id in ids}
    events, cursors = await exported(client, f"?cursor={await cursor_at(database)}")
    assert in_order(versions(events)) == expected
    more = await open_some(store, 1)
    events, _ = await exported(client, f"?cursor={cursors[-1]}")
    assert in_order(versions(events)) == {more[0]: [1, 2, 3]}
    async with listening(database, store) as (there, *_):
        async with following(there, f"?cursor={await cursor_at(database)}") as seen:
            await until(lambda: reached(seen, 9))
        assert in_order(versions(seen.events)) == {t: [1, 2, 3] for t in [*ids, *more]}


async def test_no_stream_is_trusted_with_what_was_long_ago(database, store, monkeypatch):
    """L8: a server that has not all of it any more may leave some out without a word."""
    monkeypatch.setattr("eventstore.subscription._PAGE_EVENTS", 4)
    ids = await open_some(store, 3)
    token = await store.position()  # what came before is left out
    cursor = await cursor_at(database, token=token, ago=timedelta(hours=2))
    async with listening(database, store) as (client, _, _):
        events, cursors = await exported(client, f"?cursor={cursor}&limit=5")
        first = versions(events)
        events, _ = await exported(client, f"?cursor={cursors[-1]}")
        both = {i: sorted({*first[i], *versions(events)[i]}) for i in ids}
        assert both == {ticket_id: [1, 2, 3] for ticket_id in ids}
        async with following(client, f"?cursor={cursor}") as seen:
            ids += await open_some(store, 1)
            await until(partial(_all_told, seen, ids))
            assert in_order(versions(seen.events)) == {i: [1, 2, 3] for i in ids}
            async with following(client, f"?cursor={seen.ids[4]}") as again:
                await until(partial(_all_told, again, ids[-1:]))


async def _all_told(seen, ids):
    return {(ticket_id, n) for ticket_id in ids for n in (1, 2, 3)} <= set(seen.told)


async def test_more_exports_than_are_served_are_turned_away(database, store):
    """L12"""
    async with serving_with(database, store, Limits(exports=0, streams=0)) as client:
        for path in ("/events", "/events/stream"):
            answer = await client.get(path)
            is_problem(answer, 503, "too_many_streams")
            assert answer.headers["retry-after"]


async def test_without_a_database_the_feed_says_so(monkeypatch):
    """L12: 503 before the first byte."""
    monkeypatch.setattr("eventstore.mongo.driver._SERVER_SELECTION_SECONDS", 0.1)
    nobody = Database("mongodb://127.0.0.1:9/")
    app = create_app(nobody, EventStore(nobody), access=access(nobody))
    async with asking(app) as client:
        for path in ("/events", "/events?cursor=AAAA", "/events/stream"):
            is_problem(await client.get(path), 503, "store_unavailable")
        unknown = f"/tickets/{uuid4()}"
        for path in ("?version=1", "?as_of=2026-03-01T12:00:00Z", "/diff"):
            is_problem(await client.get(f"{unknown}{path}"), 503, "store_unavailable")
    await nobody.close()


# --- streams ------------------------------------------------------------------------------------


async def test_a_stream_tells_what_happens_from_now_on(database, store):
    """L8: from when it is answered on, in the order of versions."""
    await open_some(store, 1)
    async with listening(database) as (client, *_), following(client) as seen:
        [ticket] = await open_some(store, 1)
        await add(store, ticket, "TicketAssigned", assignee="alice")
        await until(lambda: reached(seen, 4))
        assert seen.told == [(ticket, n) for n in (1, 2, 3, 4)]
        events, _ = await exported(client)
        assert seen.events == [e for e in events if e["ticket_id"] == str(ticket)]


async def reached(seen, events):
    return len(seen.events) >= events


async def test_a_stream_goes_on_behind_any_of_its_ids(database, store):
    """L8: after a reconnect, and after a restart of the server; and behind an export's cursor."""
    async with listening(database) as (client, *_):
        _, [cursor] = await exported(client)
        async with following(client) as first:
            tickets = await open_some(store, 4)
            await until(lambda: reached(first, 12))
        for place in (0, 5, 11):
            async with following(client, last_event_id=first.ids[place]) as again:
                await until(lambda: reached(again, 11 - place))  # noqa: B023
                assert again.told == first.told[place + 1 :]
    async with listening(database) as (client, *_):
        async with following(client, f"?cursor={cursor}") as again:
            await until(lambda: reached(again, 12))
            assert again.told == first.told
            await add(store, tickets[0], "NoteAdded", body="live")
            await until(lambda: reached(again, 13))
            assert again.told[12:] == [(tickets[0], 4)]
        query = f"?cursor={cursor}&from=beginning"  # what came first loses to what is known
        async with following(client, query, last_event_id=first.ids[-1]) as again:
            await until(lambda: reached(again, 1))
            assert again.told == [(tickets[0], 4)]


async def test_who_was_cut_off_before_the_first_event_has_an_id_too(database, store):
    async with listening(database) as (client, *_):
        async with following(client) as seen:
            await until(lambda: opened_block(seen))
        [ticket] = await open_some(store, 1, versions=1)
        async with following(client, last_event_id=seen.last_id) as seen:
            await until(lambda: reached(seen, 1))
            assert seen.told == [(ticket, 1)]


async def opened_block(seen):
    return seen.last_id


async def test_a_stream_from_the_beginning_tells_all_and_then_what_comes(database, store):
    """L8"""
    tickets = await open_some(store, 4)
    async with listening(database) as (client, *_):
        async with following(client, "?from=beginning") as seen:
            await until(lambda: reached(seen, 12))
            await add(store, tickets[1], "NoteAdded", body="live")
            await until(lambda: reached(seen, 13))
        assert versions(seen.events)[tickets[1]] == [1, 2, 3, 4]
        async with following(client, last_event_id=seen.ids[5]) as again:  # in the scan
            await until(lambda: reached(again, 7))
        told = set(again.told)
        assert told >= set(seen.told[6:])


async def test_all_who_listen_share_one_stream(database, store):
    """What waits at the database does not grow with the clients; and nothing waits without any."""
    opened = []

    class Counting(EventStore):
        @asynccontextmanager
        async def watch(self, *args, **options):
            opened.append(1)
            try:
                async with super().watch(*args, **options) as one:
                    yield one
            finally:
                opened.pop()

    async def none_open():
        return not opened

    async with listening(database, Counting(database)) as (client, *_):
        async with (
            following(client) as a,
            following(client, "?type=NoteAdded") as b,
            following(client) as c,
        ):
            assert len(opened) == 1
            await open_some(store, 2)
            for seen, count in ((a, 6), (b, 4), (c, 6)):
                await until(lambda: reached(seen, count))  # noqa: B023
            assert a.told == c.told
            assert a.ids == c.ids
            assert b.told == [told for told in a.told if told[1] > 1]
            async with following(client, last_event_id=a.ids[1]) as late:
                await until(lambda: reached(late, 4))
            assert late.told == a.told[2:]
            assert len(opened) == 1
        await until(none_open)


async def test_what_the_shared_stream_leaves_out_is_read_from_the_log(database, store):
    """L8: once for all clients, so that one that goes on from before has it too."""
    async with (
        listening(database, leaving_out(database, versions_in(3, 4))) as (
            client,
            *_,
        ),
        following(client) as seen,
    ):
        [ticket] = await open_some(store, 1, versions=6)
        await until(lambda: reached(seen, 6))
        assert seen.told == [(ticket, n) for n in range(1, 7)]
        async with following(client, last_event_id=seen.ids[1]) as again:
            await until(lambda: reached(again, 4))
            assert again.told == [(ticket, n) for n in (3, 4, 5, 6)]


async def test_what_the_shared_stream_leaves_out_at_the_end_comes_late(database, store):
    """L8: nothing comes behind it that would show the gap; and once is enough."""
    soon = Limits(late=LateEventCheck(0.05, timedelta(seconds=0.1), timedelta(seconds=5)))
    async with (
        listening(database, leaving_out(database, versions_in(2, 3)), soon) as (client, *_),
        following(client) as seen,
    ):
        [ticket] = await open_some(store, 1)
        await until(lambda: reached(seen, 3))
        await asyncio.sleep(0.3)
        assert seen.told == [(ticket, n) for n in (1, 2, 3)]


async def test_silence_is_broken_and_moves_the_cursor_on(database, store):
    """A client that wants nothing of what happens must not come back with an id that is too old."""
    async with listening(database, limits=Limits(silence_seconds=0.05)) as (client, *_):
        async with following(client, "?type=TicketRated") as seen:
            await until(lambda: opened_block(seen))
            first = seen.last_id
            await open_some(store, 3)

            async def moved():
                return seen.last_id != first

            await until(moved)
        assert not seen.events


LONG = "x" * 40_000


@asynccontextmanager
async def narrow(client):
    """A client into whose connection little fits."""
    small = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)]
    transport = httpx.AsyncHTTPTransport(socket_options=small)
    async with httpx.AsyncClient(
        base_url=client.base_url, transport=transport, timeout=patience(30), headers=SOMEBODY
    ) as one:
        yield one


async def write_more(store, ticket, events, count=20):
    """Write long events to a ticket that `events` are of so far."""
    last = events[-1]
    more = [EventData("NoteAdded", 1, {"body": LONG}) for _ in range(count)]
    about = Metadata(ALICE, CommandRef(uuid4().hex, "f"))
    sealed = chained(ticket, Head(last.version, last.hash), more, about, NOW, utc_now())
    await store.append(sealed)
    events += sealed


async def test_a_reader_that_is_too_slow_is_cut_off_and_loses_nothing(database, store):
    """L8: what all share is bounded; who falls out of it comes back with the last id."""
    [ticket] = await open_some(store, 1, versions=1)
    events = await store.load(ticket)
    async with listening(database, limits=Limits(row_bytes=100_000)) as (client, *_):
        seen = Following()
        async with narrow(client) as slow, slow.stream("GET", "/events/stream") as answer:
            lines = answer.aiter_lines()
            await write_more(store, ticket, events, 1)
            while not seen.events:  # or it might be cut off before anything has come
                seen.feed(await anext(lines))
            while len(events) < 300:
                await write_more(store, ticket, events)
            async for line in lines:  # and ends
                seen.feed(line)
        assert len(seen.events) < len(events) - 1
        async with following(client, last_event_id=seen.last_id) as rest:
            await until(lambda: reached(rest, len(events) - 1 - len(seen.events)))
        assert seen.told + rest.told == [(ticket, event.version) for event in events[1:]]


async def test_a_client_that_never_reads_is_given_up_and_costs_little(database, store):
    """The server's flow control stops the response, that stops the maker; then it is given up."""
    [ticket] = await open_some(store, 1, versions=1)
    events = await store.load(ticket)
    soon = Limits(stalled_seconds=0.5)
    async with listening(database, limits=soon) as (client, feeds, server):
        with socket.socket() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(raw, ("127.0.0.1", client.base_url.port))
            shown = f"Authorization: {SOMEBODY['Authorization']}\r\n".encode()
            asked = b"GET /events/stream HTTP/1.1\r\nHost: x\r\n" + shown + b"\r\n"
            await loop.sock_sendall(raw, asked)

            async def joined():
                return feeds._streams.taken

            await until(joined)

            async def given_up():
                if len(events) < 400:
                    await write_more(store, ticket, events)
                for connection in server.server_state.connections:
                    assert connection.transport.get_write_buffer_size() < 300_000
                return not feeds._streams.taken

            await until(given_up)
            assert not feeds._filling


async def test_a_server_that_stops_ends_its_streams(database, store):
    """A server waits for its responses to end before it stops: none may last."""
    await open_some(store, 1)
    async with listening(database) as (client, feeds, _):
        async with client.stream("GET", "/events/stream?from=beginning") as answer:
            lines = answer.aiter_lines()
            assert (await anext(lines)).startswith("id: ")
            feeds.end()
            async for _ in lines:
                pass
        is_problem(await client.get("/events/stream"), 503, "too_many_streams")


async def test_more_who_follow_than_are_served_are_turned_away(database, store):
    """And served again once another has gone."""
    async with listening(database, limits=Limits(streams=1)) as (client, feeds, _):
        async with following(client):
            is_problem(await client.get("/events/stream"), 503, "too_many_streams")

        async def left():
            return not feeds._streams.taken

        await until(left)
        async with following(client) as seen:
            await open_some(store, 1)
            await until(lambda: reached(seen, 3))


async def test_an_export_that_is_stopped_says_so(database, store):
    """It must not look like all there is."""
    await open_some(store, 1)

    class Slow(EventStore):
        async def of_range(self, of):
            feeds.end()
            await asyncio.sleep(60)
            return []

    async with listening(database, Slow(database)) as (client, feeds, _):
        [line] = (await client.get("/events")).text.splitlines()
        assert json.loads(line)["error"]["code"] == "stopped"


async def test_an_export_that_fails_says_so_and_one_whose_client_left_is_no_news(
    database, store, caplog
):
    """What nobody foresaw is logged, and not called the server's end."""
    caplog.set_level(logging.INFO)
    await open_some(store, 1)

    class Broken(EventStore):
        async def of_range(self, of):
            raise LookupError

    async with listening(database, Broken(database)) as (client, _, _):
        [line] = (await client.get("/events")).text.splitlines()
        assert json.loads(line)["error"]["code"] == "feed_failed"
    assert "a feed has failed" in caplog.text
    caplog.clear()
    async with listening(database, store) as (client, feeds, _):
        async with following(client):
            pass

        async def left():
            return not feeds._filling

        await until(left)
    assert "a feed ends" not in caplog.text


def failing(fails):
    """Make a log whose streams break off when `fails(how many events this one has given)`."""

    class Failing(EventStore):
        @asynccontextmanager
        async def watch(self, *args, **options):
            async with super().watch(*args, **options) as one:
                given = 0

                class Feed:
                    is_merged = one.is_merged

                    @property
                    def token(_):  # noqa: N805
                        return one.token

                    async def next(_):  # noqa: N805
                        nonlocal given
                        if fails(given):
                            raise ConnectionFailure("gone")
                        change = await one.next()
                        given += change is not None
                        return change

                yield Feed()

    return Failing


SOON_AGAIN = Limits(retry_seconds=0.01)


async def test_a_stream_outlives_a_database_that_does_not_answer(database, store):
    """Listeners notice nothing but silence."""
    failing_log = failing(lambda given: given > 1)(database)
    async with (
        listening(database, failing_log, SOON_AGAIN) as (client, *_),
        following(client) as seen,
    ):
        for _ in range(3):
            await open_some(store, 1)
        await until(lambda: reached(seen, 9))
        assert len(set(seen.told)) == len(seen.told) == 9


async def test_catching_up_outlives_it_too(database, store):
    """L8: what had been read when the database fell silent is told all the same."""
    async with listening(database) as (client, *_):
        _, [cursor] = await exported(client)
    tickets = await open_some(store, 3)
    failing_log = failing(lambda given: given == 2)(database)
    async with (
        listening(database, failing_log, SOON_AGAIN) as (client, *_),
        following(client, f"?cursor={cursor}") as seen,
    ):
        await until(lambda: reached(seen, 9))
        assert seen.told == [(ticket, n) for ticket in tickets for n in (1, 2, 3)]
