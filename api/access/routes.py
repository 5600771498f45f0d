"""The routes of API keys and of the access log."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from fastapi import Path as PathParameter
from fastapi import Request, Response
from pydantic import Field

from api.access.access_log import AccessRecord, Outcome
from api.access.authentication import Access
from api.access.keys import Key, KeyOrder
from api.access.scopes import Scope
from api.access.sign_in_links import SignInLinks
from api.cursors import Cursors
from api.http.answers import fields_of, json_response, next_link, with_headers
from api.http.caller import CurrentPrincipal
from api.http.problems import problems
from api.http.routing import InQuery, Router
from api.model import ApiModel
from domain.actors import PrincipalRole
from domain.errors import Forbidden
from domain.values import JsonObject, Name
from eventstore.database import Database
from eventstore.documents import named


class KeyAnswer(ApiModel):
    """What is kept of a key: not the key."""

    id: str
    principal: str
    role: PrincipalRole
    scopes: list[Scope]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    made_by_key: str | None
    """The id of the key that it was made with."""


class KeyMade(KeyAnswer):
    """A new key."""

    key: str
    """Shown this once: for `Authorization: Bearer`."""


class KeysAnswer(ApiModel):
    """All keys, the last made first."""

    keys: list[KeyAnswer]
    unreadable: list[str] = Field(default=[])
    """Ids of keys that another version has stored: good for nothing in this one."""


class Revoking(ApiModel):
    """What else to revoke."""

    with_made: bool = False
    """Also all keys that were made with it, with those, and so on."""


class AccessPage(ApiModel):
    """Records, the last first."""

    records: list[AccessRecord]
    next: str | None
    """The cursor of the next page; null on the last."""


class AccessQuery(ApiModel):
    """Which records."""

    principal: Name | None = None
    outcome: Outcome | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Annotated[str | None, Field(max_length=2_000)] = None


KeyId = Annotated[str, PathParameter(pattern="^[0-9a-f]{24}$")]


def keys_router(access: Access, database: Database) -> Router:
    """Return the routes of keys and of the access log."""
    routes = Router("keys")
    keys, cursors = access.keys, Cursors(database, "access_log", UUID)

    @routes.post(
        "/keys",
        status_code=201,
        response_model=KeyMade,
        responses={201: with_headers("Location"), **problems(409)},
    )
    async def make_key(order: KeyOrder, who: CurrentPrincipal) -> Response:
        """Make a key. It cannot do more, or last longer, than the key or token it is made with.

        Without `expires_at` it expires when that does, as the answer says.
        """
        beyond = set(order.scopes) - who.scopes
        if beyond:
            raise Forbidden(f"this key is not good for {', '.join(sorted(beyond))} itself")
        key, text = await keys.make(order, who.id, who)
        content = {**_shown(key), "key": text}
        return json_response(content, {"Location": f"/keys/{key.id}"}, HTTPStatus.CREATED)

    @routes.get("/keys", response_model=KeysAnswer, responses=problems(422))
    async def list_keys() -> JsonObject:
        """List all keys, expired and revoked ones included."""
        found, unreadable = await keys.all_apart()
        return {"keys": [_shown(key) for key in found], **named(unreadable)}

    @routes.delete("/keys/{key_id}", status_code=204, responses=problems(404))
    async def revoke_key(key_id: KeyId, asked: InQuery[Revoking]) -> None:
        """Revoke a key. Every process refuses it within five seconds."""
        if asked.with_made:
            await keys.revoke_with_made(key_id)
        else:
            await keys.revoke(key_id)

    @routes.get(
        "/access_log",
        response_model=AccessPage,
        responses={200: with_headers("Link")},
    )
    async def show_access_log(request: Request, asked: InQuery[AccessQuery]) -> Response:
        """List recorded accesses, the last first.

        `granted`: uses of the routes whose uses are put on record. `denied`: the caller's role or
        scope does not allow it. `unseen`: a ticket that the caller may not see. `unknown`: without
        a key or token, or with one that is not valid. Of refused ones at most five a second are
        recorded for one principal, or one address.
        """
        before = await cursors.read(asked.cursor)
        page, last = await access.log.page(asked.principal, asked.outcome, before, asked.limit)
        following = None if last is None else await cursors.write(last)
        content = {"records": page, "next": following}
        return json_response(content, next_link(request, cursor=following))

    return routes


def sign_in_router(links: SignInLinks) -> Router:
    """Return the route of sign-in links."""
    routes = Router("access")

    @routes.post("/sign_in", status_code=201, response_model=KeyMade, responses=problems(409))
    async def sign_in(who: CurrentPrincipal) -> JsonObject:
        """Exchange a sign-in link's code for a key.

        The code is sent as a key is. It works once, within 15 minutes of being made, and the key
        ends after twelve hours. `casebook keys link` makes a link.
        """
        key, text = await links.exchange(who)
        return {**_shown(key), "key": text}

    return routes


def _shown(key: Key) -> JsonObject:
    return fields_of(KeyAnswer, key, scopes=sorted(key.scopes))
