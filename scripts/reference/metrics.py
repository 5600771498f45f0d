"""metrics.md: the metrics of Casebook's processes, as its modules have registered them."""

from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

import api.app  # noqa: F401 with it all metrics are known
from scripts.reference.markdown import listed, page, table

_INTRODUCTION = """
`GET /metrics` shows a server's metrics in Prometheus's text format to a key with the scope
`operate`. With `CASEBOOK_METRICS_PORT` a process shows them on a port of its own, without a key. A
histogram has a series `_bucket`, `_sum` and `_count`. Python's and the process's own metrics are
there as well.
"""


def made() -> str:
    """Return the page."""
    registered = {*REGISTRY._names_to_collectors.values()}  # noqa: SLF001 there is no other way to labels
    own = sorted(
        _row(each)
        for each in registered
        if isinstance(each, MetricWrapperBase) and each._name.startswith("casebook_")  # noqa: SLF001
    )
    return page("Metrics", _INTRODUCTION, table(["metric", "kind", "labels", "what it says"], own))


def _row(metric: MetricWrapperBase) -> list[str]:
    [said] = metric.describe()
    shown = f"{said.name}_total" if said.type == "counter" else said.name
    return [f"`{shown}`", said.type, listed(metric._labelnames), said.documentation]  # noqa: SLF001
