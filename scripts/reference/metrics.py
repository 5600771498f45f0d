"""metrics.md: the metrics of Casebook's processes, found where they are made."""

import ast
from collections.abc import Iterator
from pathlib import Path

from scripts.reference.markdown import listed, page, table

_ROOT = Path(__file__).parents[2]
_ROOMS = ("eventstore", "projections", "api")
_SUFFIX = {"Counter": "_total", "Gauge": "", "Histogram": ""}
_INTRODUCTION = """
`GET /metrics` shows a server's metrics in Prometheus's text format to a key with the scope
`operate`. With `CASEBOOK_METRICS_PORT` a process shows them on a port of its own, without a key. A
histogram has a series `_bucket`, `_sum` and `_count`. Python's and the process's own metrics are
there as well.
"""


def made() -> str:
    """Return the page."""
    found = sorted(
        row
        for room in _ROOMS
        for path in (_ROOT / room).rglob("*.py")
        for row in _metrics(ast.parse(path.read_text()))
    )
    return page(
        "Metrics", _INTRODUCTION, table(["metric", "kind", "labels", "what it says"], found)
    )


def _metrics(module: ast.Module) -> Iterator[list[str]]:
    for node in ast.walk(module):
        match node:
            case ast.Call(
                func=ast.Name(id=kind),
                args=[ast.Constant(value=str(name)), ast.Constant(value=str(told)), *rest],
            ) if kind in _SUFFIX:
                labels = [
                    c.value for each in rest for c in ast.walk(each) if isinstance(c, ast.Constant)
                ]
                yield [f"`{name}{_SUFFIX[kind]}`", kind.lower(), listed(map(str, labels)), told]
