"""Traces, where OTEL_EXPORTER_OTLP_ENDPOINT says where to send them; no others are made.

Needs the packages of requirements/tracing.txt. Whatever else OpenTelemetry lets one set by
environment variables holds (OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, ...).
"""

import os

from opentelemetry import trace

from scripts.console import UsageError


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
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(
            "to trace, install more: .venv/bin/pip install -r requirements/tracing.txt"
        ) from error
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
