"""What a connection takes and answers, byte by byte (L12)."""

import asyncio
import socket
from contextlib import suppress

import pytest
import pytest_asyncio
import uvicorn

from scripts.http_protocol import HttpProtocol
from scripts.testbed.patience import patience

GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
CLOSE = b"Connection: close\r\n"


async def echo(scope, receive, send):
    """Answer with the body that has come: at once, or in parts of unknown number for `/parts`; for
    `/headers` with the names of the request's headers.
    """
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more = message["more_body"]
    if scope["path"] == "/headers":
        body = b"".join(name + b" " for name, _ in scope["headers"])
    headers = [] if scope["path"] == "/parts" else [(b"content-length", b"%d" % (len(body) + 3))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"it:", "more_body": True})
    await send({"type": "http.response.body", "body": body})


@pytest_asyncio.fixture
async def port():
    config = uvicorn.Config(
        echo, http=HttpProtocol, ws="none", lifespan="off", log_config=None, log_level="critical"
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        served = asyncio.create_task(server._serve([listening]))
        yield listening.getsockname()[1]
        server.should_exit = True
        await served


async def said(port, *parts):
    """Send some bytes, in pieces that come by themselves; return all that is said until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    heard = b""
    try:
        async with asyncio.timeout(patience(20)):
            with suppress(ConnectionError):  # cut off while we still sent
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)
            with suppress(ConnectionError):
                while some := await reader.read(2**16):
                    heard += some
    finally:
        writer.close()
    return heard


def answers(heard):
    """The status of each answer, and what follows the first head."""
    statuses = [int(part[1:4]) for part in heard.split(b"HTTP/1.1")[1:]]
    return statuses, heard.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("path", [b"/", b"/parts"])
async def test_a_head_alone_is_followed_by_the_next_answer(port, path):
    head = b"HEAD " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    statuses, body = answers(await said(port, head + GET + CLOSE + b"\r\n"))
    assert statuses == [200, 200]
    assert body.count(b"it:") == 1


@pytest.mark.parametrize("path", [b"/", b"/parts"])
async def test_a_client_of_http_1_0_gets_no_chunks(port, path):
    statuses, body = answers(await said(port, b"GET " + path + b" HTTP/1.0\r\n\r\n"))
    assert (statuses, body) == ([200], b"it:")


async def test_a_client_of_http_1_0_is_not_told_to_continue(port):
    """RFC 9110, 10.1.1."""
    head = b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    assert answers(await said(port, head, b"hi")) == ([200], b"it:hi")


async def test_a_trailer_is_none_of_the_headers(port):
    """RFC 9110, 6.5.1: or a client could set what a proxy sets, the address it asks from."""
    head = b"POST /headers HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" + CLOSE + b"\r\n"
    heard = await said(port, head + b"1\r\nx\r\n0\r\nX-Forwarded-For: 10.0.0.1\r\nA: b\r\n\r\n")
    assert answers(heard) == ([200], b"it:host transfer-encoding connection ")


async def test_a_client_of_http_1_1_gets_chunks_where_the_length_is_not_known(port):
    _, body = answers(await said(port, b"GET /parts HTTP/1.1\r\nHost: x\r\n" + CLOSE + b"\r\n"))
    assert body == b"3\r\nit:\r\n0\r\n\r\n"


async def test_rubbish_behind_a_request_is_refused_behind_its_answer(port):
    heard = await said(port, POST + b"Content-Length: 2\r\n\r\nhirubbish\r\n\r\n")
    assert answers(heard)[0] == [200, 400]
    assert b"it:hi" in heard.partition(b"HTTP/1.1 400")[0]


async def test_requests_that_come_at_once_are_answered_in_their_order(port):
    both = POST + b"Content-Length: 1\r\n\r\n1" + POST + b"Content-Length: 1\r\n\r\n2rubbish\r\n"
    heard = await said(port, both)
    assert answers(heard)[0] == [200, 200, 400]
    assert heard.index(b"it:1") < heard.index(b"it:2") < heard.index(b"400")


async def test_chunks_that_are_for_another_protocol_are_refused_behind_the_answer(port):
    chunked = POST + UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert answers(await said(port, GET + b"\r\n" + chunked))[0] == [200, 400]


@pytest.mark.parametrize("between", [(), (b"",)], ids=["one piece", "pieces"])
async def test_a_request_that_asks_for_another_protocol_keeps_its_body(port, between):
    """As `curl --http2` sends it."""
    head = POST + UPGRADE + b"Content-Length: 4\r\n\r\n"
    parts = [head, b"bo", b"dy"] if between else [head + b"body"]
    statuses, body = answers(await said(port, *parts))
    assert (statuses, body) == ([200], b"it:body")


async def test_a_request_without_a_body_that_asks_for_another_protocol_is_served(port):
    assert answers(await said(port, GET + UPGRADE + b"\r\n")) == ([200], b"it:")


@pytest.mark.parametrize(
    "bad",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
        POST + UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        GET + b"A : b\r\n\r\n",
        GET + b"A: b\r\n c\r\n\r\n",
        b"rubbish\r\n\r\n",
    ],
)
async def test_what_is_no_request_is_refused(port, bad):
    assert answers(await said(port, bad))[0] == [400]


@pytest.mark.parametrize(
    ("begun", "endless"),
    [
        (b"GET /", b"x" * 1000),
        (GET + b"X: ", b"x" * 1000),
        (GET, b"X: y\r\n" * 200),
        (b"", b"\r\n" * 500),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n3;", b"x" * 1000),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 200),
    ],
    ids=["path", "header", "headers", "lines", "extension of a chunk", "trailers"],
)
async def test_what_has_no_end_is_refused(port, begun, endless):
    heard = await said(port, begun, *([endless] * 1000))
    assert heard[:12] in (b"HTTP/1.1 400", b"")  # what is still sent may cut the answer off


async def test_a_long_body_is_taken(port):
    body = b"x" * 10**6
    heard = await said(port, POST + CLOSE + b"Content-Length: 1000000\r\n\r\n", body)
    assert heard.endswith(b"it:" + body)
