"""The console: a page that shows the desk, a ticket's life and the system, served at `/`; and the
API's own pages, at `/docs`, which show the OpenAPI document and let one try what is in it.

They are made of files, in `static/`, and ask this API for everything else, with the key that their
user enters. Anybody may have the files; they hold nothing. Nothing is loaded from anywhere else,
and nothing that is in a ticket can become part of a page: see the content security policy.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fastapi import Request, Response
from pydantic import BaseModel

from api.access.rights import CONSOLE
from api.access.scopes import Scope, SignIn
from api.http.answers import as_json, if_changed
from api.http.caller import CurrentPrincipal
from api.http.routing import Router
from domain.actors import PrincipalRole
from domain.errors import NotFound
from domain.values import JsonObject

_STATIC = Path(__file__).parent / "static"
_DOCUMENT = "/openapi.json"
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'; base-uri 'none'; connect-src 'self'; form-action 'none'; "
    "frame-ancestors 'none'; img-src 'self'; script-src 'self'; style-src 'self'; "
    "require-trusted-types-for 'script'"
)
_HEADERS = {
    "Cache-Control": "no-cache",  # asked for each time, and sent if it has changed
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class NoSuchFile(NotFound):
    """The console has no file of that name: for example one of a former version."""

    def __init__(self) -> None:
        super().__init__("no_such_file", "the console has no such file; load the page again")


class Me(BaseModel, extra="forbid"):
    """Who asks."""

    id: str
    role: PrincipalRole
    scopes: list[Scope | SignIn]


class _File(NamedTuple):
    content: bytes
    headers: Mapping[str, str]


def router(openapi: Callable[[], Mapping[str, object]]) -> Router:
    """Make the routes of the console's files and of the OpenAPI document, and the one that says who
    asks.
    """
    files = _files()
    routes = Router()
    making = asyncio.Lock()

    @cache
    def document() -> _File:
        return _kept(as_json(openapi()), "application/json")

    def sent(name: str, request: Request) -> Response:
        found = document() if name == _DOCUMENT else files.get(name)
        if found is None:
            raise NoSuchFile
        return if_changed(found.content, found.headers, request.headers.get("if-none-match"))

    @routes.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return sent("index.html", request)

    @routes.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return sent("docs.html", request)

    @routes.get(_DOCUMENT, include_in_schema=False)
    async def show_document(request: Request) -> Response:
        async with making:
            await asyncio.to_thread(document)  # which takes long the first time: others go on
        return sent(_DOCUMENT, request)

    @routes.get(f"{CONSOLE}{{name:path}}", include_in_schema=False)
    async def file(name: str, request: Request) -> Response:
        return sent(name, request)

    @routes.get("/me", tags=["access"], response_model=Me)
    async def me(who: CurrentPrincipal) -> JsonObject:
        """Show whose key or token is used, and what it allows."""
        return {"id": who.id, "role": who.role, "scopes": sorted(who.scopes)}

    return routes


@cache
def _files() -> Mapping[str, _File]:
    return {
        path.relative_to(_STATIC).as_posix(): _kept(path.read_bytes(), _MEDIA_TYPES[path.suffix])
        for path in sorted(_STATIC.rglob("*"))
        if path.suffix in _MEDIA_TYPES
    }


def _kept(content: bytes, media_type: str) -> _File:
    etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    return _File(content, {**_HEADERS, "Content-Type": media_type, "ETag": etag})
