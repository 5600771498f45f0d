"""What becomes of an event, in the trace of the request that it came of.

An event keeps its request's correlation id, which is the trace's id where requests are traced (W3C
Trace Context). So a span of the projector's joins that trace, minutes later and in another process.
Nothing is done here unless the process has been told where to send traces.
"""

import re
from collections.abc import Iterable, Mapping

from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, ProxyTracerProvider, SpanContext, TraceFlags

_TRACE_ID = re.compile("(?!0{32})[0-9a-f]{32}")
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


def trace_folding(events: Iterable[Mapping[str, object]], began_ns: int) -> None:
    """Put a span into the trace of each stored event that has been folded since `began_ns`."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, ProxyTracerProvider):
        return
    tracer = provider.get_tracer("casebook")
    for event in events:
        found = event.get("correlation_id")
        if not isinstance(found, str) or not _TRACE_ID.fullmatch(found):
            continue
        # The request's own span is not known any more: half of its trace's id stands for it.
        parent = SpanContext(int(found, 16), int(found[16:], 16) or 1, True, _SAMPLED)
        span = tracer.start_span(
            f"fold {event.get('type')}",
            trace.set_span_in_context(NonRecordingSpan(parent)),
            start_time=began_ns,
            attributes={
                "casebook.ticket_id": str(event.get("ticket_id")),
                "casebook.version": str(event.get("version")),
            },
        )
        span.end()
