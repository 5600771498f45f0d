"""The log as a feed: exported up to now, or followed for as long as one likes.

Both give every event as it is stored, in version order per ticket, and cursors to go on from
without loss; either takes the other's. `feeds.py` counts and ends them, `follower.py` follows the
log for one client, and `hub.py` reads its end once for all of them.

An event may come twice after going on from a cursor; consumers compare versions.
"""

import asyncio
import logging
from functools import partial
from typing import Annotated, Literal

from fastapi import Header, Request, Response
from pydantic import AfterValidator, Field
from starlette.types import Send

from api.access.authentication import Access
from api.access.principals import Principal
from api.feed.client import Client, Limits
from api.feed.feeds import Feeds
from api.feed.format import ALIVE
from api.http.answers import NdjsonResponse
from api.http.caller import CurrentPrincipal
from api.http.routing import InQuery, Router
from api.model import ApiModel
from domain.tickets import EVENT_TYPES
from domain.values import at_most

_log = logging.getLogger(__name__)


def _known(type_: str) -> str:
    if type_ not in EVENT_TYPES:
        raise ValueError("there are no such events")
    return type_


EventType = Annotated[
    str, AfterValidator(_known), Field(json_schema_extra={"enum": sorted(EVENT_TYPES)})
]


class FeedQuery(ApiModel):
    """Which events are wanted, and from where on."""

    cursor: str | None = None
    """Continue after this cursor."""
    type: Annotated[list[EventType], *at_most(100)] = Field(default=[])
    """Only events of this type; repeatable."""


class ExportQuery(FeedQuery):
    limit: Annotated[int | None, Field(ge=1, lt=2**31)] = None
    """End after about so many events."""


class StreamQuery(FeedQuery):
    from_: Annotated[Literal["now", "beginning"], Field(alias="from")] = "now"
    """Where to start without a cursor."""


class ExportResponse(NdjsonResponse):
    """Sends what is put into a client's buffer, until its end."""

    alive = b""
    """Sent in silence."""

    def __init__(self, client: Client, filling: asyncio.Task[None], limits: Limits) -> None:
        super().__init__((), filling.cancel)
        self.headers.update({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._client, self._limits = client, limits

    async def stream_response(self, send: Send) -> None:
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        silence, stalled = self._limits.silence_seconds, self._limits.stalled_seconds
        while (piece := await self._client.buffer.take(silence)) is not None:
            if body := piece or self.alive:
                try:
                    async with asyncio.timeout(stalled):
                        await send({"type": "http.response.body", "body": body, "more_body": True})
                except TimeoutError:
                    _log.info("a client has read nothing for %s s", stalled)
                    return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class EventStreamResponse(ExportResponse):
    media_type = "text/event-stream"
    alive = ALIVE


def router(feeds: Feeds, access: Access) -> Router:
    """Make the routes over one log."""
    routes = Router("events")

    def client_of(request: Request, who: Principal, asked: FeedQuery) -> Client:
        known = partial(access.identify, request.headers.get("authorization"))
        return Client(who.share, frozenset(asked.type), known)

    @routes.get(
        "/events",
        status_code=200,
        response_class=ExportResponse,
        responses={
            200: {
                "description": "A JSON document a line: an event like `TimelineEvent`, with its "
                "`ticket_id` and without `changes`; or a `cursor`; or an `error`."
            },
        },
    )
    async def export_events(
        request: Request, who: CurrentPrincipal, asked: InQuery[ExportQuery]
    ) -> Response:
        """Export the log up to now: every event as it is stored, a line each.

        Without a cursor the export begins with the first event. A line `{"cursor": ...}` comes now
        and then and at the end; ask again with the last one for what has happened since. If a line
        `{"error": {"code", "detail"}}` comes, or the end is missing, continue from the last cursor.

        Each ticket's events come in the order of their versions. An event may come twice: after
        continuing from a cursor (if it is older than a minute, all events of the minute before it
        come again), and where events are added during the export.
        """
        client = client_of(request, who, asked)
        filling = await feeds.export(client, asked.cursor, asked.limit)
        return ExportResponse(client, filling, feeds.limits)

    @routes.get(
        "/events/stream",
        status_code=200,
        response_class=EventStreamResponse,
        responses={
            200: {"description": "Server-sent events; `id` is a cursor, `data` as in `/events`."},
        },
    )
    async def stream_events(
        request: Request,
        who: CurrentPrincipal,
        asked: InQuery[StreamQuery],
        last_event_id: Annotated[
            str | None,
            Header(
                alias="last-event-id", description="As browsers send it; used instead of `cursor`."
            ),
        ] = None,
    ) -> Response:
        """Follow the log: every event as a server-sent event, until the client or the server stops.

        The stream continues after `Last-Event-ID` or `cursor`, which `/events` gives as well, and
        loses nothing; without one it starts from now, or from the beginning. A client that reads
        too slowly is disconnected, and continues with its last id. Each ticket's events come in the
        order of their versions.
        """
        client = client_of(request, who, asked)
        cursor, from_beginning = last_event_id or asked.cursor, asked.from_ == "beginning"
        filling = await feeds.stream(client, cursor, from_beginning=from_beginning)
        return EventStreamResponse(client, filling, feeds.limits)

    return routes
