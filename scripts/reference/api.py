"""api.md: every route of the API, from its OpenAPI document and the table of rights."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from http import HTTPStatus

from pydantic import BaseModel, Field

from api.access.rights import RIGHTS
from api.http.problems import title_of
from scripts.openapi import document
from scripts.reference.markdown import first_paragraph, listed, page, slug, table
from scripts.reference.schema import Schema, Schemas

_INTRODUCTION = """
A running server has the same as an OpenAPI document, at `/openapi.json`, and as pages that
ask it, at `/docs`; `casebook openapi` prints the document.

- *Who*: the roles that may ask, and the scope that their key needs. A ticket that a caller may not
  see is answered with 404. What is put on record is in `GET /access_log`.
- *Problems*: those that are the route's own, beside those that any request may get:
  401, 403, 422, 429 and 503, and with a body 400, 408, 413 and 415.
  [Problems](problems.md) has their codes.
- `HEAD` is answered wherever `GET` is: the same head, and no body.
- Text is UTF-8, a time is like `2026-03-01T12:00:00Z`, a day like `2026-03-01`.
- Every request may have two headers, and every answer has the first:
"""
_ANY = {401, 403, 422, 429, 503}
_WITH_BODY = {400, 408, 413, 415}
_BULK = "/bulk/"
_SAYING_NOTHING = ("Successful Response", "OK")
_MANY = 2
"""So many routes of a section have the same answers, and each says them nevertheless."""


class Parameter(BaseModel):
    """A path parameter, a query parameter or a header."""

    ref: str = Field("", alias="$ref")
    name: str = ""
    place: str = Field("", alias="in")
    description: str = ""
    shape: Schema = Field(default_factory=Schema, alias="schema")

    def told(self) -> str:
        """Return what it is, in words; empty if nothing says so."""
        return self.description or self.shape.told()


class Media(BaseModel):
    """What a body is."""

    shape: Schema = Field(default_factory=Schema, alias="schema")


class Body(BaseModel):
    """A body of a request or an answer, by its media type; and an answer's headers."""

    description: str = ""
    content: dict[str, Media] = {}
    headers: dict[str, Parameter] = {}


class Operation(BaseModel):
    """A route."""

    tags: list[str]
    description: str
    parameters: list[Parameter]
    body: Body = Field(default_factory=Body, alias="requestBody")
    responses: dict[int, Body]


class Components(BaseModel):
    """What is referred to."""

    schemas: dict[str, Schema]
    parameters: dict[str, Parameter]


class Document(BaseModel):
    """The OpenAPI document."""

    paths: dict[str, dict[str, Operation]]
    components: Components


def made() -> str:
    """Return the page."""
    api = Document.model_validate_json(document())
    routes = [
        (f"{method.upper()} {path}", operation)
        for path, methods in api.paths.items()
        for method, operation in methods.items()
    ]
    parts = [
        _parameters(api.components.parameters.values()),
        table(
            ["route", "what it does"],
            (
                [f"[`{name}`](#{slug(name)})", first_paragraph(route.description)]
                for name, route in routes
                if _BULK not in name
            ),
        ),
    ]
    for tag in dict.fromkeys(tag for _, operation in routes for tag in operation.tags):
        parts += _section(tag, [r for r in routes if tag in r[1].tags], api.components.schemas)
    parts += ["## Values", "What answers, and lists in requests, are made of, by name."]
    for name, schema in _used(routes, api.components.schemas):
        parts += [f"### {name}", schema.description, schema.fields()]
    return page("API", _INTRODUCTION, *parts)


Routes = Sequence[tuple[str, Operation]]


def _section(tag: str, routes: Routes, schemas: Schemas) -> Iterator[str]:
    yield f"## {tag.capitalize()}"
    if all(_BULK in name for name, _ in routes):  # one for each command, and all alike
        yield (
            "`POST /bulk/<verb>` for every [command](#commands) but `open`. The body names 1 to 100"
            " `tickets` by their ids, and has the `command` as its own route takes it. Each ticket"
            " is decided by itself: the answer says what became of each."
        )
        [(_, one), *_] = routes
        yield _parameters(one.parameters)
        yield _answers(one)
        return
    often = Counter(_key(each) for _, route in routes for each in route.parameters)
    shared = {_key(p): p for _, route in routes for p in route.parameters if often[_key(p)] > 1}
    if table := _parameters(shared.values()):
        yield "Several of these take:"
        yield table
    [(usual, n)] = Counter(_answers(route) for _, route in routes).most_common(1)
    if n > _MANY:
        yield f"Unless a route says otherwise:\n\n{usual}"
    for name, route in routes:
        yield f"### `{name}`"
        yield route.description
        own = [p for p in route.parameters if _key(p) not in shared]
        takes = [p.name for p in route.parameters if _key(p) in shared and _key(p)[-1]]
        tables = [schemas[media.shape.name].fields() for media in route.body.content.values()]
        taken = "\n\n".join(filter(None, [_parameters(own), *tables]))
        answers = "" if n > _MANY and _answers(route) == usual else _answers(route)
        facts = "\n".join(_facts(name, takes))
        yield f"{facts}\n\n{taken}\n\n{answers}" if taken else f"{facts}\n{answers}"


def _key(parameter: Parameter) -> tuple[str, ...]:
    return parameter.place, parameter.name, parameter.shape.kind(), parameter.description


def _facts(name: str, takes: Sequence[str]) -> Iterator[str]:
    right = RIGHTS.get(name)
    if right is None:
        yield "- *Who*: anybody, without a key"
    else:
        scope = "" if right.scope is None else f"; scope `{right.scope}`"
        recorded = "; each use is put on record" if right.recorded else ""
        yield f"- *Who*: {', '.join(sorted(f'{role}s' for role in right.roles))}{scope}{recorded}"
    if takes:
        yield f"- *Takes*: {listed(takes)}"


def _parameters(parameters: Iterable[Parameter]) -> str:
    return table(
        ["parameter", "in", "value", "what it is"],
        (
            [
                f"`{each.name}`",
                each.place,
                each.shape.given() + each.shape.unless_given(),
                each.told(),
            ]
            for each in parameters
            if each.name and (each.place != "path" or each.told())
        ),
    )


def _answers(route: Operation) -> str:
    lines = []
    for status, answer in route.responses.items():
        if status < HTTPStatus.BAD_REQUEST:
            kinds = (m.shape.kind() if m.shape.name else kind for kind, m in answer.content.items())
            what = " or ".join(kinds) or "nothing"
            headers = [name for name in answer.headers if name != "Correlation-Id"]
            of_it = f", with {listed(headers)}" if headers else ""
            said = f" ({answer.description})" if answer.description not in _SAYING_NOTHING else ""
            lines.append(
                f"- *Answers* {status} {title_of(HTTPStatus(status))}: {what}{of_it}{said}"
            )
    usual = _ANY | (_WITH_BODY if route.body.content else set())
    own = [HTTPStatus(s) for s in route.responses if s >= HTTPStatus.BAD_REQUEST and s not in usual]
    if own:
        names = {status.value: slug(f"{status.value} {title_of(status)}") for status in own}
        links = (f"[{status}](problems.md#{name})" for status, name in names.items())
        lines.append(f"- *Problems*: {', '.join(links)}")
    return "\n".join(lines)


def _used(routes: Routes, schemas: Schemas) -> Iterator[tuple[str, Schema]]:
    """Yield the schemas that answers and bodies are made of, but for the bodies themselves."""
    found: set[str] = set()
    answers = [m.shape for _, r in routes for a in r.responses.values() for m in a.content.values()]
    bodies = [m.shape.name for n, r in routes for m in r.body.content.values() if _BULK not in n]
    waiting = [*answers, *(schemas[name] for name in bodies)]
    while waiting:
        for name in waiting.pop().names():
            if name not in found and name in schemas:
                found.add(name)
                waiting.append(schemas[name])
    yield from ((name, schemas[name]) for name in sorted(found))
