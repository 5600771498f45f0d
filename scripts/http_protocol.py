"""HTTP/1.1 by httptools, a parser in C, with what uvicorn's use of it leaves open mended.

uvicorn's `HttpToolsProtocol` takes heads and trailers of any length, requests of other versions of
HTTP and such without a host; adds trailers to a request's headers; answers rubbish behind a request
before that request; loses the body of a request that would like to change protocols; and answers
clients of HTTP/1.0 by `100 Continue` and in chunks, which HTTP/1.0 does not have.
`tests/scripts/test_http_protocol.py` drives each over a socket, so that an upgrade that changes
what this relies on fails a test.
"""

from httptools import HttpParserError, HttpParserUpgrade
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

_MOST_BYTES = 64 * 1024
"""How much may come without completing a head, a part of a body, or a request."""
_VERSIONS = ("1.0", "1.1")


class HttpProtocol(HttpToolsProtocol):
    """A connection."""

    _incomplete_bytes = 0
    _body_bytes = 0  # that are still to come behind a request which asks for another protocol
    _is_ending = False  # nothing more is read
    _refusal = ""  # of what came behind requests that are still to be answered

    def data_received(self, data: bytes) -> None:
        """Read what has come."""
        self._unset_keepalive_if_required()
        if self._is_ending:
            self._take_body(data)
            return
        self._incomplete_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except HttpParserError:
            self._refuse("Invalid HTTP request received.")
        else:
            if self._incomplete_bytes > _MOST_BYTES:
                self._refuse("The head of the request is too large.")

    def on_headers_complete(self) -> None:
        """Begin to serve a request. What is raised here is answered with 400."""
        self._incomplete_bytes = 0
        version = self.parser.get_http_version()
        hosts, head_bytes, is_chunked = 0, len(self.url), False
        for name, value in self.headers:
            hosts += name == b"host"
            is_chunked |= name == b"transfer-encoding"
            head_bytes += len(name) + len(value)
        is_whole = hosts == 1 or (version == "1.0" and not hosts)
        if version not in _VERSIONS or not is_whole or head_bytes > _MOST_BYTES:
            raise ValueError
        if is_chunked and self.parser.should_upgrade():  # it would not read the chunks
            raise ValueError
        super().on_headers_complete()
        self.headers = [*self.headers]  # a trailer is none of the request's headers
        if version == "1.0":
            self.cycle.__class__ = _WithoutChunks
            self.cycle.waiting_for_100_continue = False  # which HTTP/1.0 does not know

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._incomplete_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that a request has come whole."""
        self._incomplete_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on to the next request, or end."""
        super().on_response_complete()
        if self._refusal and self.cycle.response_complete and not self.transport.is_closing():
            self.send_400_response(self._refusal)

    def _refuse(self, why: str) -> None:
        """Refuse what has come, once what came before it is answered."""
        self._is_ending = True
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            self.send_400_response(why)
        elif not cycle.more_body:
            self._refusal = why
        elif cycle.response_started or self.pipeline:
            self.transport.close()
        else:
            self.send_400_response(why)

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Serve a request that asks for another protocol by this one, and end.

        The parser takes what follows its head, its body too, for the other protocol's.
        """
        self._is_ending = True
        self.cycle.keep_alive = False
        self._body_bytes = int(dict(self.headers).get(b"content-length", b"0"))
        self.cycle.more_body = self._body_bytes > 0
        self._take_body(rest)

    def _take_body(self, data: bytes) -> None:
        if self._body_bytes:
            self.on_body(data[: self._body_bytes])
            self._body_bytes = max(0, self._body_bytes - len(data))
            if not self._body_bytes:
                self.on_message_complete()


class _WithoutChunks(RequestResponseCycle):
    """A request of HTTP/1.0 and its answer, whose end its length tells, or the connection's end."""

    _has_length = True

    async def send(self, message: ASGISendEvent) -> None:
        """Send the head of an answer, or a part of its body."""
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", ())}
            if b"content-length" not in names:
                self._has_length = self.chunked_encoding = False
        elif message["type"] == "http.response.body" and not self._has_length:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)
