"""Print docs/problems.md: every problem that an answer can hold, found in the code that raises it.

The statuses come from `api/http/problems.py`, the words from where an error is raised, the example
of its cause from its class.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from inspect import cleandoc
from pathlib import Path
from typing import NamedTuple

import api.app  # noqa: F401 with it all errors are known
from api.http.problems import HTTP_PROBLEMS, status_of, title_of
from domain.errors import REMEDIES, CasebookError, HistoryError

_ROOT = Path(__file__).parent.parent
_ROOMS = ("domain", "eventstore", "projections", "api")
_INTRODUCTION = """
# Problems

Made by `python -m scripts.problems`. Every error is answered with an RFC 9457 problem document:

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
damaged](deployment.md#when-the-log-is-damaged) has the commands.
""".strip()


class Raised(NamedTuple):
    """A problem as it is raised: its error's class, its code, its words (… for what varies)."""

    error: str
    code: str
    words: str


def page() -> str:
    """Return the page."""
    classes = {cls.__name__: cls for cls in _descendants(CasebookError)}
    by_status: dict[HTTPStatus, dict[str, str]] = defaultdict(dict)
    for code, (status, words) in HTTP_PROBLEMS.items():
        by_status[status][code] = words
    for raised in _all_raised(classes):
        status = status_of(classes[raised.error])
        if raised.error == HistoryError.__name__:
            by_status[status].setdefault(raised.code, f"{raised.words}; {REMEDIES[raised.code]}")
        elif status != HTTPStatus.INTERNAL_SERVER_ERROR:
            told = raised.words
            example = cleandoc(classes[raised.error].__doc__ or "").partition("\n\n")[0]
            own = raised.error not in _COMMON
            by_status[status].setdefault(raised.code, f"{told}. {example}" if own else told)
    lines = [_INTRODUCTION.strip()]
    for status in sorted(by_status):
        lines += ["", f"## {status.value} {title_of(status)}", ""]
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            lines += [_DAMAGE, ""]
        lines += ["| code | |", "| --- | --- |"]
        for code, words in sorted(by_status[status].items()):
            lines.append(f"| `{code}` | {_line(words)} |")
    return "\n".join(lines) + "\n"


_COMMON = {"Refusal", "NotFound", "Unacceptable", "StateConflict"}
"""Raised for many reasons: their class says nothing of a single one."""


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _descendants(cls: type[CasebookError]) -> Iterator[type[CasebookError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from _descendants(child)


def _all_raised(classes: Mapping[str, type[CasebookError]]) -> Iterator[Raised]:
    for room in _ROOMS:
        for path in sorted((_ROOT / room).rglob("*.py")):
            yield from _raised(ast.parse(path.read_text()), classes, None)


def _raised(
    node: ast.AST, classes: Mapping[str, type[CasebookError]], inside: str | None
) -> Iterator[Raised]:
    """Find `Unacceptable("code", "words")`, and `super().__init__("code", "words")` in a class."""
    if isinstance(node, ast.ClassDef):
        inside = node.name
    if isinstance(node, ast.Call) and len(node.args) > 1:
        code = node.args[0]
        match node.func:
            case ast.Name(id=name) if name in classes and _takes_a_code(classes[name]):
                error: str | None = name
            case ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr="__init__"):
                error = inside if inside in classes else None
            case _:
                error = None
        if error is not None and isinstance(code, ast.Constant) and isinstance(code.value, str):
            yield Raised(error, code.value, _words(node.args[1]))
    for child in ast.iter_child_nodes(node):
        yield from _raised(child, classes, inside)


def _takes_a_code(cls: type[CasebookError]) -> bool:
    return "__init__" not in vars(cls) or cls in (CasebookError, HistoryError)


def _words(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(map(_words, parts))
        case _:
            return "…"


if __name__ == "__main__":
    print(page(), end="")
