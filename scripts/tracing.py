"""Traces, where OTEL_EXPORTER_OTLP_ENDPOINT says where to send them; no others are made.

Needs the packages of requirements/tracing.txt. What OpenTelemetry lets one set by environment
variables holds for requests (OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, ...); a projector's spans are
made of all events that name a trace.
"""

import os

from opentelemetry import trace
from opentelemetry.context import Context

from api.access.path_masking import mask_path
from scripts.cli import UsageError


def trace_if_asked() -> None:
    """Begin to trace. Raises UsageError if the packages are not there."""
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if not any(os.environ.get(name) for name in endpoints):
        return
    os.environ.setdefault("OTEL_SERVICE_NAME", "casebook")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(
            "to trace, install more: .venv/bin/pip install -r requirements/tracing.txt"
        ) from error

    class WithoutQueries(SpanProcessor):
        """Takes what is searched for, cursors, and what is typed into paths out of spans."""

        def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002
            if span.attributes and "url.query" in span.attributes:
                span.set_attribute("url.query", "...")
            if span.attributes and "url.path" in span.attributes:
                span.set_attribute("url.path", mask_path(str(span.attributes["url.path"])))

    provider = TracerProvider()
    provider.add_span_processor(WithoutQueries())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
