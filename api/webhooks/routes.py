"""The routes of webhooks: where to send which events, and what has become of them."""

from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Self
from urllib.parse import urlsplit
from uuid import UUID

from fastapi import Request, Response
from pydantic import AfterValidator, Field, model_validator
from uuid_utils.compat import uuid7

from api.cursors import Cursors
from api.feed.routes import EventType
from api.http.answers import fields_of, json_response, next_link, with_headers
from api.http.caller import CurrentPrincipal
from api.http.problems import problems
from api.http.routing import InQuery, Router
from api.model import ApiModel
from api.webhooks.addresses import is_refused
from api.webhooks.deliveries import MOST_COUNTED, Deliveries, Delivery, DeliveryStatus
from api.webhooks.store import Backfill, Webhook, WebhookEnded, Webhooks, new_secret
from domain.errors import NotFound, Unacceptable
from domain.values import JsonObject, Moment, at_most
from eventstore.database import Database
from eventstore.documents import named
from eventstore.log import EventStore
from eventstore.mongo.errors import time_limit
from projections.views.saved_views import TicketFilter


class NoSuchDelivery(NotFound):
    """There is no delivery of that id: for example since it arrived more than a week ago."""

    def __init__(self) -> None:
        super().__init__("delivery_not_found", "there is no such delivery")


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError("this is no URL") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError("a webhook's URL is like https://example.org/casebook")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("a webhook's URL has no user, password or fragment")
    if is_refused(parts.hostname):
        raise ValueError("this address is not sent to")
    if not text.isascii() or any(c.isspace() or not c.isprintable() for c in text):
        raise ValueError("a webhook's URL is of printable ASCII characters")
    return text


Url = Annotated[
    str, Field(max_length=2_000, examples=["http://127.0.0.1:9000/casebook"]), AfterValidator(_url)
]


class WebhookChange(ApiModel):
    """Where to send, and what, and signed with what."""

    url: Url
    types: Annotated[list[EventType], *at_most(100)] = Field(default=[])
    """Only events of these types; empty: all."""
    filter: TicketFilter = Field(default_factory=TicketFilter)
    """Only events of tickets that match it after the event."""
    secret: Annotated[str | None, Field(min_length=16, max_length=200, pattern="^[!-~]+$")] = None
    """The key of signatures from now on. Unless given, one is made for a new webhook, and for
    another URL, since the receiver there knows the former secret.
    """


class WebhookOrder(WebhookChange):
    """Where to send, and what, and from when on."""

    since: Moment | None = None
    """Also events that were recorded from then on; unless given, from now."""


class Redelivery(ApiModel):
    """What to send again: one delivery, or all that was recorded from a time on."""

    delivery: Annotated[str, Field(max_length=100)] | None = None
    since: Moment | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.delivery is None) == (self.since is None):
            raise ValueError("name a delivery, or the time since which to send again")
        return self


class WebhookAnswer(ApiModel):
    """A webhook."""

    id: UUID
    url: str
    types: list[str]
    filter: TicketFilter
    created_at: datetime
    created_by: str
    backfilling: bool
    """Whether events of the past are still being found."""
    pending: int = Field(description=f"How many wait, counted up to {MOST_COUNTED}.")
    parked: int
    ended_at: datetime | None
    """When its address answered 410 Gone: nothing is sent since, until it is changed. Else null."""
    rests_until: datetime | None
    """Until when its address has asked by Retry-After to be left alone; null if it has not."""


class WebhookMade(WebhookAnswer):
    """A new webhook."""

    secret: str
    """Shown this once."""


class WebhookChanged(WebhookAnswer):
    """A webhook as it has become."""

    secret: str | None = None
    """The new one, if one was made. Shown this once."""


class WebhooksAnswer(ApiModel):
    """All webhooks, the first made first."""

    webhooks: list[WebhookAnswer]
    unreadable: list[str] = Field(default=[])
    """Ids of webhooks that another version has stored and this one cannot read; they are sent
    nothing.
    """


class Attempt(ApiModel):
    """One try to send it."""

    at: datetime
    status: int | None
    """Null if there was no answer."""
    error: str | None
    """Null if it has arrived."""


class DeliveryAnswer(ApiModel):
    """An event for a webhook, and what has become of it."""

    id: str
    ticket_id: UUID
    version: int
    type: str
    event: UUID
    status: DeliveryStatus
    made_at: datetime
    next_at: datetime | None
    """When it is sent next; null if it is not."""
    attempts: list[Attempt]
    """The last ones."""


class DeliveryPage(ApiModel):
    """Deliveries, the last events first."""

    deliveries: list[DeliveryAnswer]
    next: str | None


class Resumed(ApiModel):
    """How many deliveries are tried again."""

    resumed: int


class DeliveryQuery(ApiModel):
    """Which deliveries."""

    status: DeliveryStatus | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Annotated[str | None, Field(max_length=2_000)] = None


def router(database: Database, store: EventStore) -> Router:
    """Make the routes over one database."""
    hooks, deliveries = Webhooks(database), Deliveries(database)
    cursors = Cursors(database, "deliveries", str)
    routes = Router("webhooks", prefix="/webhooks")

    async def check(filter_: TicketFilter) -> None:
        if filter_.requester is not None:
            await database.vault.check_name(filter_.requester)

    def shown(hook: Webhook, counts: Mapping[str, int]) -> JsonObject:
        return fields_of(
            WebhookAnswer,
            hook,
            types=sorted(hook.types),
            filter=hook.filter.model_dump(exclude_none=True),
            backfilling=hook.backfill is not None,
            **counts,
        )

    async def counted(hook: Webhook) -> JsonObject:
        return shown(hook, await deliveries.counts(hook.id))

    @routes.post(
        "",
        status_code=201,
        response_model=WebhookMade,
        responses={201: with_headers("Location"), **problems(409)},
    )
    async def add_webhook(order: WebhookOrder, who: CurrentPrincipal) -> Response:
        """Add a webhook: events are sent to its address as they happen, as signed POSTs.

        Each event is sent at least once, and those of a ticket in the order of their versions. An
        answer of 2xx means that it has arrived. After any other it is sent again, for three days,
        and not sooner than `Retry-After` asks. 410 ends the webhook. `Casebook-Signature` is `v1=`
        and the HMAC-SHA-256 of `<Casebook-Timestamp>.<body>` with the secret as its key, in
        hexadecimal.
        """
        async with time_limit():
            await check(order.filter)
            since = await store.position()
            hook = Webhook(
                id=uuid7(),
                url=order.url,
                types=frozenset(order.types),
                filter=order.filter,
                secret=order.secret or new_secret(),
                since=since,
                created_at=await database.server_time(),
                created_by=who.id,
                backfill=None if order.since is None else Backfill(order.since, again=False),
            )
            await hooks.add(hook)
        # Nothing is asked of the database any more: the secret would be lost with a failure.
        content = {**shown(hook, {"pending": 0, "parked": 0}), "secret": hook.secret}
        return json_response(content, {"Location": f"/webhooks/{hook.id}"}, HTTPStatus.CREATED)

    @routes.get("", response_model=WebhooksAnswer, responses=problems(422))
    async def list_webhooks() -> JsonObject:
        """List all webhooks, with what waits to be sent to each."""
        async with time_limit():
            found, unreadable = await hooks.all_apart()
            return {"webhooks": [await counted(hook) for hook in found], **named(unreadable)}

    @routes.get("/{webhook_id}", response_model=WebhookAnswer, responses=problems(404, 409))
    async def show_webhook(webhook_id: UUID) -> JsonObject:
        """Show one webhook."""
        async with time_limit():
            return await counted(await hooks.find(webhook_id))

    @routes.put("/{webhook_id}", response_model=WebhookChanged, responses=problems(404, 409))
    async def change_webhook(webhook_id: UUID, change: WebhookChange) -> JsonObject:
        """Change where events are sent, which events, or the secret, from now on.

        Events that are waiting already are sent too. Another URL gets another secret, which is in
        the answer. A webhook that had ended sends again, what happens from now on.
        """
        async with time_limit():
            await check(change.filter)
            counts = await deliveries.counts(webhook_id)
            wanted = change.model_dump(exclude_none=True)
            hook, secret = await hooks.change(
                webhook_id, wanted, await store.position(), await database.server_time()
            )
        made = {} if secret is None else {"secret": secret}
        return {**shown(hook, counts), **made}

    @routes.delete("/{webhook_id}", status_code=204, responses=problems(404))
    async def delete_webhook(webhook_id: UUID) -> None:
        """Delete a webhook, and its deliveries."""
        async with time_limit():
            await hooks.delete(webhook_id)

    @routes.get(
        "/{webhook_id}/deliveries",
        response_model=DeliveryPage,
        responses={200: with_headers("Link"), **problems(404, 409)},
    )
    async def list_deliveries(
        request: Request, webhook_id: UUID, asked: InQuery[DeliveryQuery]
    ) -> Response:
        """List what was sent and what waits to be sent, the last events first.

        What has arrived is kept for a week.
        """
        async with time_limit():
            await hooks.find(webhook_id)
            before = await cursors.read(asked.cursor)
            if before is not None and not before.startswith(webhook_id.hex):
                raise Unacceptable("bad_cursor", "cursor is of another webhook")
            page, last = await deliveries.page(webhook_id, asked.status, before, asked.limit)
            following = None if last is None else await cursors.write(last)
        content = {"deliveries": [_delivery(d) for d in page], "next": following}
        return json_response(content, next_link(request, cursor=following))

    @routes.post(
        "/{webhook_id}/resume",
        status_code=202,
        response_model=Resumed,
        responses=problems(404, 409),
    )
    async def resume_webhook(webhook_id: UUID) -> JsonObject:
        """Try parked deliveries again now, and those that wait after a failure."""
        async with time_limit():
            await hooks.wake(webhook_id)
            return {"resumed": await deliveries.resume(webhook_id)}

    @routes.post(
        "/{webhook_id}/redeliver",
        status_code=202,
        response_model=WebhookAnswer,
        responses=problems(404, 409),
    )
    async def redeliver(webhook_id: UUID, asked: Redelivery) -> JsonObject:
        """Send again: one delivery, or everything that was recorded from a time on."""
        async with time_limit():
            if (await hooks.find(webhook_id)).ended_at is not None:
                raise WebhookEnded
            if asked.delivery is not None:
                if not await deliveries.redeliver(webhook_id, asked.delivery):
                    raise NoSuchDelivery
            elif asked.since is not None:
                await hooks.backfill(webhook_id, Backfill(asked.since, again=True))
            return await counted(await hooks.find(webhook_id))

    return routes


def _delivery(delivery: Delivery) -> JsonObject:
    next_at = delivery.next_at if delivery.status == "pending" else None
    return fields_of(DeliveryAnswer, delivery, next_at=next_at)
