"""metrics.md: the metrics of Casebook's processes, found where they are made."""

import ast
from collections.abc import Iterator
from pathlib import Path

from scripts.reference.markdown import listed, page, table

_ROOT = Path(__file__).parents[2]
_ROOMS = ("eventstore", "projections", "api")
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
    imported = (node for node in module.body if isinstance(node, ast.ImportFrom))
    client = (node for node in imported if node.module == "prometheus_client")
    kinds = {alias.asname or alias.name: alias.name for node in client for alias in node.names}
    for node in ast.walk(module):
        match node:
            case ast.Call(
                func=ast.Name(id=called),
                args=[ast.Constant(value=str(name)), ast.Constant(value=str(told)), *rest],
            ) if called in kinds:
                inner = (each for part in rest for each in ast.walk(part))
                labels = (str(each.value) for each in inner if isinstance(each, ast.Constant))
                kind = kinds[called]
                shown = f"{name}_total" if kind == "Counter" else name
                yield [f"`{shown}`", kind.lower(), listed(labels), told]
