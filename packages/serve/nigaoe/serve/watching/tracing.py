"""OpenTelemetry spans of a request through ingress and replica. Nothing of it is imported unless configured."""

import logging
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from nigaoe.core.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

log = logging.getLogger(__name__)


class Tracing(Protocol):
    """Spans around work."""

    def span(self, name: str, parent: str | None = None, **attributes: str | int | float) -> "_Span":
        """Time a block.

        With `parent`, what `traceparent` said elsewhere, it is for generators: whoever runs meanwhile is not in it.
        """
        ...

    def traceparent(self) -> str | None:
        """Of the span that one is in, for those in other processes (W3C trace context)."""
        ...


class _Span(Protocol):
    def __enter__(self) -> object: ...

    def __exit__(self, *error: Any) -> bool | None: ...


class NoTracing:
    """Nobody looks."""

    @contextmanager
    def span(self, name: str, parent: str | None = None, **attributes: str | int | float) -> Iterator[None]:
        yield

    def traceparent(self) -> str | None:
        return None


class OtelTracing:
    """Spans to whom a provider gives them."""

    def __init__(self, provider: "TracerProvider") -> None:
        self._tracer = provider.get_tracer("nigaoe.serve")

    @contextmanager
    def span(self, name: str, parent: str | None = None, **attributes: str | int | float) -> Iterator["Span"]:
        if parent is None:
            with self._tracer.start_as_current_span(name, attributes=attributes) as span:
                yield span
            return
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator().extract({"traceparent": parent})
        span = self._tracer.start_span(name, context, attributes=attributes)
        try:
            yield span
        finally:
            span.end()

    def traceparent(self) -> str | None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier: MutableMapping[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
        return carrier.get("traceparent")


def make_tracing(otlp_endpoint: str | None, service: str) -> Tracing:
    """Spans to a collector, sent by a thread of their own; none without an endpoint.

    Raises:
        ConfigError: The OpenTelemetry SDK is not installed.
    """
    if otlp_endpoint is None:
        return NoTracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"watching.otlp_endpoint needs the package {error.name!r}; install opentelemetry-sdk and "
            "opentelemetry-exporter-otlp-proto-http, or leave it out"
        ) from None
    provider = TracerProvider(resource=Resource.create({"service.name": f"nigaoe-{service}"}))
    exporter = OTLPSpanExporter(endpoint=f"{otlp_endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return OtelTracing(provider)
