import subprocess
import sys

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from nigaoe.serve.watching.tracing import NoTracing, OtelTracing, make_tracing


def test_a_replicas_span_hangs_under_that_of_the_request() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    ingress, engine = OtelTracing(provider), OtelTracing(provider)
    with ingress.span("request", **{"url.path": "/v1/generate"}):
        parent = ingress.traceparent()
    assert parent is not None
    assert engine.traceparent() is None
    with engine.span("draw", parent, rows=2):
        # A generator's span is nobody else's surroundings.
        assert engine.traceparent() is None
    request, draw = exporter.get_finished_spans()
    assert draw.parent is not None
    assert draw.parent.span_id == request.context.span_id
    assert draw.context.trace_id == request.context.trace_id
    assert dict(draw.attributes or {}) == {"rows": 2}


def test_without_an_endpoint_nothing_is_imported() -> None:
    tracing = make_tracing(None, "ingress")
    assert isinstance(tracing, NoTracing)
    with tracing.span("request", "parent", rows=1):
        assert tracing.traceparent() is None
    check = (
        "import sys, nigaoe.serve.watching.tracing as t; t.make_tracing(None, 'x');"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", check], timeout=60).returncode == 0
