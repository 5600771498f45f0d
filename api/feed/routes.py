"""The log as a feed: exported up to now, or followed for as long as one likes.

Both give every event as it is stored, in version order per ticket, and cursors to go on from
without loss; either takes the other's. `log_reader.py` reads the log from a cursor on,
`follower.py` follows it for one client, `log_tail.py` shares its end among all of them, and with
`outbox.py` clients that do not read cost a bounded piece of memory, for a minute.

An event may come twice after going on from a cursor; consumers compare versions.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing
from functools import partial
from typing import Annotated, Literal

from fastapi import Header, Query, Request, Response
from prometheus_client import Gauge
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from api.access.authentication import Access
from api.access.rights import CurrentPrincipal, Unauthenticated
from api.access.shares import Shares
from api.feed.follower import Follower, Shown
from api.feed.format import ALIVE, Writer, error_line, no_word
from api.feed.log_reader import LogReader, Position, Told, Versions
from api.feed.log_tail import Tails
from api.feed.send_buffer import Outbox, Streamed, TooManyStreams
from api.http.problems import problem_responses
from api.http.routing import Router
from domain.errors import CasebookError
from domain.events import EVENT_TYPES
from domain.values import at_most
from eventstore.failures import answering, translating
from eventstore.log import EventStore, stream_order
from eventstore.mongo.driver import Database
from eventstore.mongo.ending import end

STREAMS_AT_ONCE = 100
_STREAMS_EACH = 20
STILL_SECONDS = 5.0
EXPORTS_AT_ONCE = 8
_EXPORTS_EACH = 2
_CATCHING_UP_AT_ONCE = 3
_CURSOR_EVERY_EVENTS = 100
_QUIET_MOMENTS = 5

_OPEN = Gauge("casebook_feeds_open", "Exports and streams that are under way.", ["kind"])

_log = logging.getLogger(__name__)


def _known(type_: str) -> str:
    if type_ not in EVENT_TYPES:
        raise ValueError("there are no such events")
    return type_


EventType = Annotated[
    str, AfterValidator(_known), Field(json_schema_extra={"enum": sorted(EVENT_TYPES)})
]


Still = Callable[[], Awaitable[object]]
"""Raises Unauthenticated once who asked is not known any more."""


class Asked(BaseModel):
    """Which events are wanted, and from where on."""

    model_config = ConfigDict(extra="forbid")

    cursor: str | None = Field(default=None, description="Go on behind what gave this cursor.")
    type: Annotated[list[EventType], Field(max_length=100), at_most(100)] = Field(
        default=[], description="Only events of this type; repeatable."
    )


class ExportAsked(Asked):
    limit: Annotated[
        int | None, Field(ge=1, lt=2**31, description="End after about so many events.")
    ] = None


class StreamAsked(Asked):
    from_: Annotated[
        Literal["now", "beginning"],
        Field(alias="from", description="Where to start without a cursor."),
    ] = "now"


class NdjsonResponse(Streamed):
    media_type = "application/x-ndjson"


class EventStreamResponse(Streamed):
    media_type = "text/event-stream"


class Feeds:
    """All who are told of one log: a bounded number of exports, and of streams."""

    def __init__(self, database: Database, store: EventStore) -> None:
        self._store = store
        self._reader = LogReader(store)
        self._writer = Writer(database, store)
        self._tails = Tails(store, self._writer.block)
        store.vault.on_erasure(self._tails)
        self._turns = asyncio.Semaphore(_CATCHING_UP_AT_ONCE)
        self._open = {kind: Shares(kind) for kind in ("exports", "streams")}
        self._makers: set[asyncio.Task[None]] = set()
        self._has_ended = False

    async def position(self, cursor: str | None) -> Position | None:
        """Read a cursor. Raises Unacceptable, StoreUnavailable."""
        if cursor is None:
            return None
        position = await self._writer.position(cursor)
        async with answering():
            return await self._reader.checked(position)

    async def export(
        self, cursor: str | None, shown: Shown, limit: int | None, still: Still, whose: str
    ) -> Streamed:
        """Return all there is behind a cursor, as lines, for as long as who asks is known.

        `whose`: whose share of all exports it is of. Raises TooManyStreams, ShareTaken, and what
        `position` does.
        """
        leave = self._enter("exports", whose, EXPORTS_AT_ONCE, _EXPORTS_EACH)
        try:
            position = await self.position(cursor)
            if position is None:
                async with answering():
                    position = await self._reader.beginning()
        except BaseException:
            leave()
            raise
        outbox = Outbox()
        return self._streamed(
            NdjsonResponse,
            outbox,
            partial(self._export, outbox, position, shown, limit),
            leave,
            still,
        )

    async def stream(
        self, cursor: str | None, shown: Shown, *, beginning: bool, still: Still, whose: str
    ) -> Streamed:
        """Return what comes behind a cursor as server-sent events; without one, from now on.

        For as long as who asks is known. `whose`: whose share of all streams it is of.

        Raises TooManyStreams, ShareTaken, and what `position` does.
        """
        leave = self._enter("streams", whose, STREAMS_AT_ONCE, _STREAMS_EACH)
        try:
            position = await self.position(cursor)
            async with answering():
                if position is None and beginning:
                    position = await self._reader.beginning()
                tail = await self._tails.join()
        except BaseException:
            leave()
            raise
        position = position or Position(tail.token, tail.at)

        def close() -> None:
            self._tails.leave(tail)
            leave()

        outbox = Outbox()
        follower = Follower(self._reader, self._writer, self._turns, outbox, shown)
        return self._streamed(
            EventStreamResponse, outbox, partial(follower.follow, position, tail), close, still
        )

    def end(self) -> None:
        """End all streams, and begin no other: the server is about to stop."""
        self._has_ended = True
        for maker in self._makers:
            maker.cancel()

    async def closed(self) -> None:
        """Wait until all streams are closed, after `end`."""
        await end(*self._makers)
        await self._tails.closed()

    def _enter(self, kind: str, whose: str, most: int, each: int) -> Callable[[], None]:
        shares = self._open[kind]
        if self._has_ended or not shares.take(whose, 1, most=most, each=each):
            raise TooManyStreams
        _OPEN.labels(kind).set(shares.taken)

        def leave() -> None:
            shares.give_back(whose, 1)
            _OPEN.labels(kind).set(shares.taken)

        return leave

    def _streamed(
        self,
        response: type[Streamed],
        outbox: Outbox,
        work: Callable[[], Coroutine[None, None, None]],
        leave: Callable[[], None],
        still: Still,
    ) -> Streamed:
        """Start filling an outbox, and give the response that empties it."""
        tell = error_line if response is NdjsonResponse else no_word
        maker = asyncio.create_task(_make(outbox, work, tell))
        self._makers.add(maker)
        watching = asyncio.create_task(_while_known(still, maker, outbox, tell))

        def made(maker: asyncio.Task[None]) -> None:
            self._makers.discard(maker)
            watching.cancel()
            # Whatever has ended it; it may have been cancelled before it began.
            outbox.end(tell("stopped", "the server has stopped; go on from the last cursor"))
            if not maker.cancelled() and (error := maker.exception()) is not None:
                _log.error("a stream has failed", exc_info=error)

        maker.add_done_callback(made)

        def close() -> None:
            maker.cancel()
            leave()

        return response(outbox, close, ALIVE if response is EventStreamResponse else b"")

    # --- exports -------------------------------------------------------------------------------

    async def _export(
        self, outbox: Outbox, position: Position, shown: Shown, limit: int | None
    ) -> None:
        """Put out the scan, then what the stream has brought by now, and the cursor behind it."""
        told_events = read_events = 0
        async with aclosing(self._up_to_now(position)) as steps:
            async for told in steps:
                for event in filter(shown, told.events):
                    await outbox.put(await self._writer.line(event))
                    told_events += 1
                position = told.position
                read_events += len(told.events)
                if limit is not None and told_events >= limit:
                    break
                if read_events >= _CURSOR_EVERY_EVENTS:
                    read_events = 0
                    await outbox.put(await self._writer.cursor_line(position))
        await outbox.put(await self._writer.cursor_line(position))

    async def _up_to_now(self, position: Position) -> AsyncGenerator[Told, None]:
        """Give what comes behind a position, up to the stream's end when the scan has ended.

        Not to when it falls silent: under load it never does.
        """
        versions = Versions()
        async with aclosing(self._reader.to_the_stream(position, versions)) as steps:
            async for told in steps:
                position = told.position
                yield told
        with translating():
            end = stream_order(await self._store.position())
        at, quiet = "", 0
        async with (
            self._reader.open(position) as feed,
            aclosing(self._reader.follow(feed, position, versions)) as steps,
        ):
            async for told in steps:
                yield told
                before, at = at, stream_order(told.position.token)
                quiet = quiet + 1 if told.quiet and at == before else 0
                # Some servers let a silent stream's token stand for seconds.
                if at >= end or quiet == _QUIET_MOMENTS:
                    return


def router(feeds: Feeds, access: Access) -> Router:
    """Make the routes over one log."""
    routes = Router("events")

    @routes.get(
        "/events",
        status_code=200,
        response_class=NdjsonResponse,
        responses={
            200: {
                "description": "A JSON document a line: an event like `TimelineEvent`, with its "
                "`ticket_id` and without `changes`; or a `cursor`; or an `error`."
            },
            **problem_responses(422, 503),
        },
    )
    async def export_events(
        request: Request, who: CurrentPrincipal, asked: Annotated[ExportAsked, Query()]
    ) -> Response:
        """Export the log up to now: every event as it is stored, a line each.

        Without a cursor it begins with the first event. A line `{"cursor": ...}` comes now and then
        and in the end; ask again with the last one for what has happened since. If a line
        `{"error": {"code", "detail"}}` comes, or the end is missing, go on from the last cursor.

        Each ticket's events come in the order of their versions. After going on from a cursor, and
        where the log was written to meanwhile, an event may come twice; from one that is older than
        a minute, those of the minute before it.
        """
        still = partial(access.identify, request.headers.get("authorization"))
        return await feeds.export(asked.cursor, _wanted(asked), asked.limit, still, who.share)

    @routes.get(
        "/events/stream",
        status_code=200,
        response_class=EventStreamResponse,
        responses={
            200: {"description": "Server-sent events; `id` is a cursor, `data` as in `/events`."},
            **problem_responses(422, 503),
        },
    )
    async def stream_events(
        request: Request,
        who: CurrentPrincipal,
        asked: Annotated[StreamAsked, Query()],
        last_event_id: Annotated[
            str | None,
            Header(alias="last-event-id", description="As browsers send it; goes before `cursor`."),
        ] = None,
    ) -> Response:
        """Follow the log: every event as a server-sent event, until one of both sides ends it.

        It goes on behind `Last-Event-ID` or `cursor`, of this or of `/events`, without loss;
        without one it starts from now, or from the beginning. A client that reads too slowly is cut
        off, and comes back with its last id. Each ticket's events come in the order of their
        versions.
        """
        return await feeds.stream(
            last_event_id or asked.cursor,
            _wanted(asked),
            beginning=asked.from_ == "beginning",
            still=partial(access.identify, request.headers.get("authorization")),
            whose=who.share,
        )

    return routes


def _wanted(asked: Asked) -> Shown:
    types = frozenset(asked.type)

    def wanted(event: Mapping[str, object]) -> bool:
        return not types or str(event.get("type")) in types

    return wanted


async def _while_known(
    still: Still,
    maker: asyncio.Task[None],
    outbox: Outbox,
    tell: Callable[[str, str], bytes],
) -> None:
    """End a stream when who asked for it is known no more: a key is revoked, a token expires."""
    while True:
        await asyncio.sleep(STILL_SECONDS)
        try:
            await still()
        except Unauthenticated as error:
            outbox.end(tell(error.code, error.detail))
            maker.cancel()
            return
        except CasebookError:  # the database is silent: the stream waits for it as well
            continue


async def _make(
    outbox: Outbox,
    work: Callable[[], Coroutine[None, None, None]],
    tell: Callable[[str, str], bytes],
) -> None:
    """Fill an outbox, and say in the end if that is not all."""
    try:
        await work()
        outbox.end()
    except CasebookError as error:
        _log.info("a stream ends: %s", error.detail)
        outbox.end(tell(error.code, error.detail))
