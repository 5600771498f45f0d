"""Routes: how a request is read, held to what its caller may, and found.

An endpoint declares what it takes as FastAPI has it: path parameters by their types, query and body
as models, headers with `Header(alias=...)`, and with `Depends` what is known of the request by now.
FastAPI makes the API's document of that, if that is asked for, and solves nothing per request:
`Route` makes one model of all that an endpoint takes, and validates it at once. What does not fit
is raised as FastAPI raises it.

FastAPI's own constructor runs in `declare` alone. Until then a route has what Starlette needs to
find it: the tests of wrong methods fail if an upgrade needs more.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import MISSING, field, make_dataclass
from functools import cache, cached_property, partial
from http import HTTPStatus
from inspect import Parameter, Signature, signature
from itertools import chain
from typing import Annotated, Any, TypeVar, get_args, get_origin

from fastapi import APIRouter, Query, Request, Response, params
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute, request_response
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, compile_path, get_name
from starlette.types import Scope

from api.access.authentication import Access
from api.access.rights import OPEN_PATHS, RIGHTS
from api.http.answers import json_response
from api.http.bodies import Bodies, Content, most_bytes
from api.http.caller import asking_of, header
from domain.values import JsonObject

Endpoint = Callable[..., Awaitable[Response | JsonObject | None]]
"""What answers a request: with a response, with what is sent as JSON, or with nothing."""
_T = TypeVar("_T")
InQuery = Annotated[_T, Query()]
"""A model of all that may be asked in a request's query."""
_MOST_PARAMETERS = 200  # a list takes some 120
_DECLARATIONS = (params.Param, params.Depends)


class Route(APIRoute):
    """A route that answers once its caller is known to have the right, and has read the request."""

    answer: Callable[[Request], Coroutine[None, None, Response]]

    def __init__(self, path: str, endpoint: Endpoint, **declared: Any) -> None:
        """`declared`: what FastAPI's own routes take; most of it is for the API's document."""
        self.path, self.endpoint = path, endpoint
        self.name = declared["name"] or get_name(endpoint)
        self.methods = set(declared["methods"])
        self.status_code = declared["status_code"]
        self.path_regex, self.path_format, self.param_convertors = compile_path(path)
        self.app = request_response(self.get_route_handler())
        self.declare = partial(super().__init__, path, endpoint, **declared)
        """Have FastAPI find what the document says of the route: it takes longer than all else that
        a process needs to make its routes.
        """

    @cached_property
    def reader(self) -> "Reader":
        """What reads the route's requests: made for the first one, as a process serves few routes
        and the models of all take a third of the time that it needs to start.
        """
        return _reader(signature(self.endpoint), frozenset(self.param_convertors))

    def get_route_handler(self) -> Callable[[Request], Coroutine[None, None, Response]]:
        """Return what answers a request. It raises Forbidden, RequestValidationError."""
        endpoint: Endpoint = self.endpoint
        is_open = self.path in OPEN_PATHS
        status = self.status_code or HTTPStatus.OK
        right = RIGHTS.get(f"{''.join(self.methods or ())} {self.path}")  # each has one method

        async def respond(request: Request) -> Response:
            if not is_open:
                access: Access = request.state.access
                await access.authorise(asking_of(request.scope), request.state.principal, right)
            reader = self.reader
            if reader.body_bytes:
                bodies: Bodies = request.state.bodies
                async with bodies.read(request, reader.body_bytes) as content:
                    answer = await endpoint(**reader.read(request, content))
            else:
                answer = await endpoint(**reader.read(request))
            if isinstance(answer, Response):
                return answer
            return Response(None, status) if answer is None else json_response(answer, None, status)

        self.answer = respond
        return respond


class Router(APIRouter):
    """The routes of a feature."""

    def __init__(self, *tags: str, prefix: str = "") -> None:
        """`tags`: under which the API's document lists them."""
        super().__init__(
            prefix=prefix,
            tags=[*tags],
            route_class=Route,
            generate_unique_id_function=lambda route: route.name,
        )


class Reader:
    """Reads from a request what an endpoint takes."""

    def __init__(self, endpoint: Signature, path: Collection[str]) -> None:
        """`path`: the names of the path's parameters."""
        self.body_bytes = 0
        """How large a body may be; 0: none is taken."""
        self._known: dict[str, Callable[[Request], object]] = {}
        self._headers: dict[bytes, str] = {}
        self._query = self._body = ""
        self._lists: Collection[str] = ()
        self._places: dict[str | int, tuple[str, ...]] = {}
        found = defaultdict[str, list[tuple[str, object, object]]](list)
        for name, parameter in endpoint.parameters.items():
            kind, key = "body", name
            match _declared(parameter.annotation):
                case params.Depends(dependency=known):
                    if known is not None:
                        self._known[name] = known
                    continue
                case params.Header(alias=str(alias)):
                    kind, key = "header", alias
                    self._headers[alias.lower().encode()] = alias
                case params.Query():
                    kind, self._query = "query", name
                    self._lists = _lists(get_args(parameter.annotation)[0])
                case _ if name in path:
                    kind = "path"
                case _:
                    self._body, self.body_bytes = name, most_bytes(parameter.annotation)
            self._places[key] = (kind,) if kind in ("query", "body") else (kind, key)
            default = MISSING if parameter.default is Parameter.empty else parameter.default
            found[kind].append((name, parameter.annotation, field(default=default)))
        # Faults are listed in FastAPI's order.
        fields = chain(*(found[kind] for kind in ("path", "query", "header", "body")))
        self._all: TypeAdapter[object] = TypeAdapter(
            make_dataclass("Request", fields, kw_only=True)
        )

    def read(self, request: Request, content: Content | None = None) -> Mapping[str, object]:
        """Return the arguments of the endpoint. Raises RequestValidationError."""
        given: dict[str, object] = {**request.path_params}
        for name, alias in self._headers.items():
            if (value := header(request.scope, name)) is not None:
                given[alias] = value
        if self._query:
            if request.scope["query_string"].count(b"&") >= _MOST_PARAMETERS:
                detail = f"a request has at most {_MOST_PARAMETERS} parameters"
                raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, detail)
            query = request.query_params
            given[self._query] = {
                name: query.getlist(name) if name in self._lists else query[name] for name in query
            }
        if content is not None:
            given[self._body] = content.value
        try:
            read = self._all.validate_python(given)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            raise RequestValidationError(
                [{**e, "loc": (*self._places[e["loc"][0]], *e["loc"][1:])} for e in found]
            ) from None
        return {**vars(read), **{name: known(request) for name, known in self._known.items()}}


@cache
def _reader(endpoint: Signature, path: frozenset[str]) -> Reader:
    return Reader(endpoint, path)  # one for all routes that take the same


def _declared(annotation: object) -> params.Param | params.Depends | None:
    """Return how a parameter is declared to FastAPI, if it is."""
    if annotation is Request:
        return params.Depends(lambda request: request)
    declared = (each for each in get_args(annotation) if isinstance(each, _DECLARATIONS))
    return next(declared, None)


def _lists(model: type[BaseModel]) -> frozenset[str]:
    """Return the names of a query's parameters that may be repeated."""
    return frozenset(
        about.alias or name
        for name, about in model.model_fields.items()
        if get_origin(about.annotation) is list
    )


class Table:
    """Finds a route by a request's method and the shape of its path: no route is tried in vain."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._routes: dict[tuple[str, int, str, str], Route] = {}
        for route in routes:
            if isinstance(route, Route):
                parts = route.path.split("/")
                last = "" if parts[-1].startswith("{") else parts[-1]
                for method in route.methods or ():
                    self._routes[method, len(parts), parts[1], last] = route

    def find(self, scope: Scope) -> Route | None:
        """Return the route, with what it finds in the path in `scope`; None if search must."""
        method, parts = scope["method"], scope["path"].split("/")
        if len(parts) > 1:
            for last in (parts[-1], ""):
                route = self._routes.get((method, len(parts), parts[1], last))
                if route is not None:
                    match, found = route.matches(scope)
                    if match is Match.FULL:
                        scope.update(found)
                        return route
        return None
