"""problems.md: each problem that an answer can hold, found where it is raised.

The statuses come from `api/http/problems.py`, the words from where an error is raised, the example
of its cause from its class.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path

import api.app  # noqa: F401 with it all errors are known
from api.http.problems import HTTP_PROBLEMS, status_of, title_of
from domain.errors import REMEDIES, CasebookError, HistoryError
from scripts.reference.markdown import first_paragraph, page, table

_ROOT = Path(__file__).parents[2]
_ROOMS = ("domain", "eventstore", "projections", "api")
_INTRODUCTION = """
Every error is answered with an RFC 9457 problem document:

```json
{
  "type": "urn:casebook:problem:version_mismatch",
  "title": "Precondition Failed",
  "status": 412,
  "detail": "the ticket is at version 4",
  "code": "version_mismatch"
}
```

`code` is for programs: it never changes its meaning. `detail` is for people. Where parts of a
request were at fault, `errors` has an entry for each, with a `pointer`: a JSON pointer into the
body, or the parameter's name. They are twenty at most; `more_errors` says how many more there are.
429, 503, and 412 of `views_behind`, come with `Retry-After`. A command
that was answered with a problem of 4xx has changed nothing; after a 503, or no answer at all, send
it again with its `Idempotency-Key`.
"""


_DAMAGE = """
The server's own fault, or the log's. All but `internal_error` say that something stored cannot be
so, in which event of which ticket where that is known, and what an operator does about it; other
tickets are served as before. A command line says the same in one line. [When the log is
damaged](../guides/operate.md#when-the-log-is-damaged) has the commands.
""".strip()


_COMMON = {"Refusal", "NotFound", "Unacceptable", "StateConflict"}
"""Raised for many reasons: their class says nothing of a single one."""


def made() -> str:
    """Return the page."""
    found: dict[HTTPStatus, dict[str, tuple[str, str]]] = defaultdict(dict)
    for code, (status, words) in HTTP_PROBLEMS.items():
        found[status][code] = words, ""
    for error, code, words in _all_raised():
        status = status_of(error)
        if error is HistoryError:
            found[status].setdefault(code, (words, f"To do: {REMEDIES[code]}"))
        elif status != HTTPStatus.INTERNAL_SERVER_ERROR:
            when = "" if error.__name__ in _COMMON else first_paragraph(error.__doc__)
            found[status].setdefault(code, (words, when))
    parts = []
    for status, problems in sorted(found.items()):
        parts.append(f"## {status.value} {title_of(status)}")
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            parts.append(_DAMAGE)
        rows = ([f"`{code}`", *told] for code, told in sorted(problems.items()))
        parts.append(table(["code", "`detail`", "more of it"], rows))
    return page("Problems", _INTRODUCTION, *parts)


def _all_raised() -> Iterator[tuple[type[CasebookError], str, str]]:
    """Yield each problem as it is raised: its error, its code, its words (… for what varies)."""
    classes = {error.__name__: error for error in _descendants(CasebookError)}
    for room in _ROOMS:
        for path in sorted((_ROOT / room).rglob("*.py")):
            yield from _raised(ast.parse(path.read_text()), classes, None)


def _descendants(error: type[CasebookError]) -> Iterator[type[CasebookError]]:
    yield error
    for child in error.__subclasses__():
        yield from _descendants(child)


def _raised(
    node: ast.AST, classes: Mapping[str, type[CasebookError]], inside: type[CasebookError] | None
) -> Iterator[tuple[type[CasebookError], str, str]]:
    """Find `Unacceptable("code", "words")`, and `super().__init__("code", "words")` in a class."""
    match node:
        case ast.ClassDef(name=name):
            inside = classes.get(name)
        case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=str(code)), words, *_]) if (
            name in classes and _takes_a_code(classes[name])
        ):
            yield classes[name], code, _words(words)
        case ast.Call(
            func=ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr="__init__"),
            args=[ast.Constant(value=str(code)), words, *_],
        ) if inside is not None:
            yield inside, code, _words(words)
    for child in ast.iter_child_nodes(node):
        yield from _raised(child, classes, inside)


def _takes_a_code(error: type[CasebookError]) -> bool:
    return "__init__" not in vars(error) or error in (CasebookError, HistoryError)


def _words(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(map(_words, parts))
        case ast.IfExp(body=one, orelse=other):
            return f"{_words(one)}; or: {_words(other)}"
        case _:
            return "…"
